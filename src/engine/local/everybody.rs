//! What concerns the clients of every worker: carried out here, and asked of the others.

use super::super::Engine;
use super::super::client::{Answer, End, State};
use super::super::conn::Tag;
use super::super::merge::{Kind, Merge};
use super::super::request::{Flow, Request};
use super::clients::wanted_ids;
use crate::command::{Class, Local};
use crate::resp::{Args, Proto, Reply};

/// The client that asks is another worker's.
const ELSEWHERE: u32 = super::NONE;

impl Engine {
    /// A client's command whose answer all workers make; one that is wrong is nobody's.
    pub(super) fn told_by_all(&mut self, id: u32, what: Local, request: &Request<'_>) -> Flow {
        let args = request.args;
        let own = match self.worker_part(id, what, args) {
            Ok(own) => own,
            Err(text) => return self.answer_error(id, text),
        };
        let kind = match what {
            Local::ClientList => Kind::Lines { wanted: wanted_ids(args).unwrap_or_default() },
            Local::ClientKill if args.len() == 3 => Kind::Killed { total: 0 },
            Local::ClientKill => Kind::Sum { total: 0 },
            _ => Kind::Pairs,
        };
        self.join_peers(id, kind, &own, request)
    }

    /// Opens the slot of an answer whose first part is `own`, and asks the other workers for theirs.
    pub(super) fn join_peers(&mut self, id: u32, kind: Kind, own: &[u8], request: &Request<'_>) -> Flow {
        let merge = Merge::new(kind, 1 + self.peers(), false);
        let client = &mut self.clients[id as usize];
        let generation = client.generation;
        let seq = client.open(State::Merge(Box::new(merge)), Class::Local, self.now);
        self.ask_peers(id, seq, 1, request.frame);
        let tag = Tag { client: id, generation, seq, part: 0, slow: false, at: self.now, offset: 0 };
        self.complete(tag, Answer::Copied(own));
        if self.clients.get(id as usize).is_some_and(|client| client.end == End::Closing) {
            self.close_if_finished(id);
        }
        Flow::Taken
    }

    /// The same on behalf of another worker's client.
    pub(in crate::engine) fn tell_peer(&mut self, what: Local, args: Args<'_>) -> Vec<u8> {
        self.worker_part(ELSEWHERE, what, args).unwrap_or_else(|text| {
            let mut out = Vec::new();
            Reply::new(&mut out, Proto::Resp2).error(&text);
            out
        })
    }

    /// This worker's part.
    fn worker_part(&mut self, id: u32, what: Local, args: Args<'_>) -> Result<Vec<u8>, Vec<u8>> {
        let mut out = Vec::new();
        match what {
            Local::ClientList => self.lines(id, args, &mut out)?,
            Local::ClientKill => {
                let killed = self.kill(id, args)?;
                Reply::new(&mut out, Proto::Resp2).integer(killed);
            }
            Local::ClientPause => self.client_pause(args, &mut out)?,
            _ => {
                self.end_pause();
                Reply::new(&mut out, Proto::Resp2).status("OK");
            }
        }
        Ok(out)
    }
}
