//! Subscriptions, and questions about them, between MULTI and EXEC: like everything there they are
//! carried out at EXEC, and what Redis then says of each stands among the transaction's replies.

use super::super::Engine;
use super::hub::{Joined, Kind, Waiting};
use super::publish::is_wrong_use;
use crate::command::Session as Verb;
use crate::resp::{Args, Reply};
use crate::topology::ShardId;

impl Engine {
    /// What is to be added to the number of receivers, or of subscribers, that the shard reports.
    pub(in crate::engine) fn receivers(&self, verb: Verb, shard: ShardId, channel: &[u8]) -> i64 {
        let kind = match verb {
            Verb::ShardPublish | Verb::PubsubShardNumSub => Kind::Shard,
            _ => Kind::Channel,
        };
        match verb {
            Verb::PubsubNumSub | Verb::PubsubShardNumSub => self.subscribers(shard, kind, channel),
            _ => self.correction(shard, kind, channel),
        }
    }

    /// Carries the command out for the client and returns its reply; what it subscribes to is added to
    /// `joined`, which is there from then on.
    pub(in crate::engine) fn subscribed_inside(
        &mut self,
        id: u32,
        verb: Verb,
        args: Args<'_>,
        joined: &mut Option<Joined>,
    ) -> Vec<u8> {
        let mut reply = Vec::new();
        let (kind, joins) = match verb {
            Verb::Subscribe => (Kind::Channel, true),
            Verb::PatternSubscribe => (Kind::Pattern, true),
            Verb::ShardSubscribe => (Kind::Shard, true),
            Verb::Unsubscribe => (Kind::Channel, false),
            Verb::PatternUnsubscribe => (Kind::Pattern, false),
            Verb::ShardUnsubscribe => (Kind::Shard, false),
            _ => {
                self.told_of_subscriptions(id, verb, args, &mut reply);
                return reply;
            }
        };
        let added = joined.get_or_insert_default();
        if joins {
            self.open_lines();
            self.join(id, kind, args, &mut reply, added);
        } else {
            self.part(id, kind, args, &mut reply);
        }
        reply
    }

    /// Gives the transaction's reply to the client once all that it subscribed to is so everywhere.
    pub(in crate::engine) fn confirm_executed(&mut self, id: u32, seq: u32, reply: Vec<u8>, added: Joined) {
        let targets = self.targets();
        let ready = targets.iter().zip(&self.hub.lines).all(|(target, line)| line.heard() >= *target);
        let client = &mut self.clients[id as usize];
        let waiting = Waiting {
            client: id,
            generation: client.generation,
            seq,
            at: self.now,
            reply,
            targets,
            added,
            refused: None,
            early: Vec::new(),
        };
        client.exclusive = true;
        client.session_mut().subscriptions.pending.clone_from(&waiting.added);
        if ready { self.confirmed(&waiting) } else { self.hub.queue.push_back(waiting) }
    }

    fn told_of_subscriptions(&self, id: u32, verb: Verb, args: Args<'_>, out: &mut Vec<u8>) {
        let mut reply = Reply::new(out, self.clients[id as usize].proto);
        match verb {
            Verb::PubsubChannels | Verb::PubsubShardChannels => match is_wrong_use(args) {
                Some(text) => _ = reply.error(&text),
                None => {
                    let kind = if verb == Verb::PubsubChannels { Kind::Channel } else { Kind::Shard };
                    let names = self.names(kind, args);
                    reply.array(names.len());
                    names.iter().for_each(|name| _ = reply.bulk(name));
                }
            },
            _ => _ = reply.integer(self.patterns()),
        }
    }
}
