//! CONFIG: one answer for all servers' parameters, and changes that all of them make or none.
//!
//! ```text
//! CONFIG SET:  former values of all -> set -> (maxmemory: set last) -> OK
//!               |                       '-- one refuses --> set back elsewhere -> the refusal
//!               '-- not the servers' to change: fine if it is so already, else refused
//! ```

use std::mem;

use super::super::proxy::Proxy;
use super::value::{Leaf, pairs};
use super::{Finish, Kind, Merge, Need, text};
use crate::resp::{Args, Proto, Reply, integer, request};
use crate::topology::{ShardId, Topology};

/// Who one server is and what it lets in: one value for all of them makes no sense. A `*` at the
/// end stands for any rest.
const IDENTITY: &[&str] = &[
    "requirepass",
    "masterauth",
    "masteruser",
    "aclfile",
    "port",
    "bind",
    "bind-source-addr",
    "protected-mode",
    "unixsocket",
    "unixsocketperm",
    "socket-mark-id",
    "dir",
    "dbfilename",
    "appendfilename",
    "appenddirname",
    "logfile",
    "pidfile",
    "replicaof",
    "slaveof",
    "replica-announce-*",
    "slave-announce-*",
    "tls-*",
    "cluster-*",
];

/// What concerns clients, and clients are the proxy's.
const CLIENT_SIDE: &[&str] = &[
    "maxclients",
    "maxmemory-clients",
    "timeout",
    "tcp-keepalive",
    "client-output-buffer-limit",
    "client-query-buffer-limit",
    "proto-max-bulk-len",
];

/// Passwords, of servers and of clients.
const SECRET: &[&str] = &["requirepass", "masterauth", "masteruser", "tls-key-file-pass", "tls-client-key-file-pass"];

/// Setting these may throw data away, which setting them back does not undo.
const LATE: &[&str] = &["maxmemory", "maxmemory-policy"];

/// A CONFIG SET on its way.
#[derive(Debug)]
pub(in crate::engine) struct Change {
    /// Names and values; from `late` on, those that are set last.
    wanted: Vec<(Vec<u8>, Vec<u8>)>,
    late: usize,
    /// Former values, by shard.
    before: Vec<Vec<(Vec<u8>, Vec<u8>)>>,
    step: Step,
}

/// What the parts at hand answer.
#[derive(Debug)]
enum Step {
    Before,
    Early,
    Late,
    /// Former values were set again on these shards, because of this error.
    Back {
        shards: Vec<ShardId>,
        error: Vec<u8>,
    },
}

fn is_in(list: &[&str], name: &[u8]) -> bool {
    list.iter().any(|known| match known.strip_suffix('*') {
        Some(start) => name.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes())),
        None => name.eq_ignore_ascii_case(known.as_bytes()),
    })
}

/// Why a CONFIG SET is not for the servers.
pub(super) fn refusal(args: Args<'_>) -> Option<String> {
    (2..args.len()).step_by(2).find_map(|at| not_ours(args.at(at), args.at(at + 1)))
}

/// Why one parameter is not.
fn not_ours(name: &[u8], value: &[u8]) -> Option<String> {
    let percent = value.strip_suffix(b"%").and_then(integer);
    let why = if is_in(IDENTITY, name) {
        "it belongs to each server: set it there, not through Ringway"
    } else if name.eq_ignore_ascii_case(b"maxmemory-clients") && percent.is_some_and(|percent| percent > 100) {
        "percentage argument must be less or equal to 100"
    } else if is_in(CLIENT_SIDE, name) {
        "it concerns Ringway's own clients: set it in Ringway's configuration"
    } else {
        return None;
    };
    let name = String::from_utf8_lossy(name);
    Some(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"))
}

/// The home shard's parameters, the proxy's own in their places. Other parameters on which the
/// shards do not agree are news.
pub(super) fn get(
    reply: &mut Reply<'_>,
    parts: &[Vec<u8>],
    proto: Proto,
    map: &Topology,
    proxy: &Proxy,
    news: &mut Vec<String>,
) {
    let said: Vec<_> = parts.iter().map(|part| pairs(part, proto)).collect();
    // The home shard's, or of the first one that was there to be asked.
    let asked = |shard: &usize| parts.get(*shard).is_some_and(|part| !part.is_empty());
    let first = (0..parts.len()).find(asked).unwrap_or(0);
    let speaker = Some(map.home().0 as usize).filter(asked).unwrap_or(first);
    let Some(ours) = said.get(speaker) else { return };
    reply.map(ours.len());
    for (name, value) in ours {
        reply.bulk(name);
        if let Some((_, own)) = proxy.parameters.iter().find(|(own, _)| name.eq_ignore_ascii_case(own.as_bytes())) {
            reply.bulk(own);
            continue;
        }
        reply.raw(value);
        if is_in(IDENTITY, name) {
            continue;
        }
        let differs =
            |theirs: &Vec<(Vec<u8>, &[u8])>| theirs.iter().any(|(other, theirs)| other == name && theirs != value);
        let others: Vec<&str> = said
            .iter()
            .zip(map.shards())
            .filter(|(theirs, _)| differs(theirs))
            .map(|(_, shard)| shard.name.as_str())
            .collect();
        if !others.is_empty() {
            let name = String::from_utf8_lossy(name);
            let speaker = &map.shards()[speaker].name;
            news.push(format!("the parameter {name} of {} differs from that of {speaker}", others.join(", ")));
        }
    }
}

impl Change {
    /// The change, and the question for the former values that comes before it; None when the
    /// request is malformed and the servers say how.
    pub(super) fn new(args: Args<'_>) -> Option<(Self, Vec<u8>)> {
        if args.len() < 4 || !args.len().is_multiple_of(2) {
            return None;
        }
        let mut wanted: Vec<(Vec<u8>, Vec<u8>)> =
            (2..args.len()).step_by(2).map(|at| (args.at(at).to_vec(), args.at(at + 1).to_vec())).collect();
        wanted.sort_by_key(|(name, _)| is_in(LATE, name));
        let late = wanted.iter().position(|(name, _)| is_in(LATE, name)).unwrap_or(wanted.len());
        let mut frame = Vec::new();
        let names = wanted.iter().map(|(name, _)| name.as_slice());
        request(&mut frame, &[&b"CONFIG"[..], b"GET"].into_iter().chain(names).collect::<Vec<_>>());
        Some((Self { wanted, late, before: Vec::new(), step: Step::Before }, frame))
    }

    /// The parts of this step are there.
    pub(super) fn advance(
        mut self: Box<Self>,
        parts: &[Vec<u8>],
        proto: Proto,
        map: &Topology,
        proxy: &Proxy,
    ) -> Finish {
        let refused = parts.iter().find(|part| part.first() == Some(&b'-'));
        let all = || (0..map.shards().len() as u16).map(ShardId);
        match (mem::replace(&mut self.step, Step::Before), refused) {
            // Nothing was changed yet.
            (Step::Before, Some(error)) => Finish::Reply(error.clone()),
            // Before -> Early | Late
            (Step::Before, None) => {
                let former = |part: &Vec<u8>| {
                    pairs(part, proto)
                        .into_iter()
                        .map(|(name, value)| (name, Leaf::of(value, proto).into_bytes()))
                        .collect()
                };
                self.before = parts.iter().map(former).collect();
                if let Some(refused) = self.wanted.iter().find_map(|pair| self.refused(pair, proxy)) {
                    let mut out = Vec::new();
                    Reply::new(&mut out, proto).error(&refused);
                    return Finish::Reply(out);
                }
                self.wanted.retain(|(name, value)| not_ours(name, value).is_none());
                self.late = self.wanted.iter().position(|(name, _)| is_in(LATE, name)).unwrap_or(self.wanted.len());
                if self.wanted.is_empty() {
                    return Finish::Reply(b"+OK\r\n".to_vec());
                }
                let both = self.late > 0 && self.late < self.wanted.len();
                let end = if both { self.late } else { self.wanted.len() };
                let frame = set(&self.wanted[..end]);
                let step = if both { Step::Early } else { Step::Late };
                self.ask(step, all().map(|shard| (shard, frame.clone())).collect(), Need::All)
            }
            // Early -> Late
            (Step::Early, None) => {
                let frame = set(&self.wanted[self.late..]);
                self.ask(Step::Late, all().map(|shard| (shard, frame.clone())).collect(), Need::All)
            }
            (Step::Late, None) => Finish::Reply(b"+OK\r\n".to_vec()),
            // Early | Late -> Back
            (step @ (Step::Early | Step::Late), Some(error)) => {
                let whole = if matches!(step, Step::Early) { self.late } else { self.wanted.len() };
                let both = self.late > 0 && self.late < self.wanted.len();
                let earlier = if both && matches!(step, Step::Late) { self.late } else { 0 };
                let done = |part: &Vec<u8>| {
                    // A shard that did not answer may have made the change.
                    let made = [&b"-SHARDLOST"[..], b"-SHARDTIMEOUT"].iter().any(|lost| part.starts_with(lost));
                    if made || part.first() != Some(&b'-') { whole } else { earlier }
                };
                let back = parts.iter().zip(all()).map(|(part, shard)| (shard, self.former(shard, done(part))));
                let back: Vec<_> = back
                    .filter_map(|(shard, pairs)| Some((shard, (!pairs.is_empty()).then(|| set(&pairs))?)))
                    .collect();
                if back.is_empty() {
                    return Finish::Reply(error.clone());
                }
                let shards = back.iter().map(|(shard, _)| *shard).collect();
                self.ask(Step::Back { shards, error: error.clone() }, back, Need::Each)
            }
            (Step::Back { error, .. }, None) => Finish::Reply(error),
            (Step::Back { shards, error }, Some(_)) => {
                let left = parts.iter().zip(shards).filter(|(part, _)| part.first() == Some(&b'-'));
                let names: Vec<&str> = left.map(|(_, shard)| map.shard(shard).name.as_str()).collect();
                let said = format!(
                    "SHARDPARTIAL the former values could not be set again on {}, after: {}",
                    names.join(", "),
                    text(&error)
                );
                let mut out = Vec::new();
                Reply::new(&mut out, proto).error(&said);
                Finish::Reply(out)
            }
        }
    }

    /// Why a parameter cannot be set, unless it has this value already.
    fn refused(&self, (name, value): &(Vec<u8>, Vec<u8>), proxy: &Proxy) -> Option<String> {
        let text = not_ours(name, value)?;
        let is = |known: &[u8]| known.eq_ignore_ascii_case(name);
        // What the proxy says of passwords is not so.
        let own = proxy.parameters.iter().find(|(own, _)| is(own.as_bytes()) && !is_in(SECRET, name));
        let same = match own {
            Some((_, own)) => own.as_bytes() == value,
            None if is_in(&["requirepass"], name) => false,
            None => self.before.iter().all(|shard| shard.iter().any(|(known, former)| is(known) && former == value)),
        };
        if same { None } else { Some(text) }
    }

    /// The former values of the first `count` parameters, as far as the shard has them.
    fn former(&self, shard: ShardId, count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let Some(before) = self.before.get(shard.0 as usize) else { return Vec::new() };
        let known = |name: &Vec<u8>| before.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).cloned();
        self.wanted[..count].iter().filter_map(|(name, _)| known(name)).collect()
    }

    fn ask(mut self: Box<Self>, step: Step, questions: Vec<(ShardId, Vec<u8>)>, need: Need) -> Finish {
        self.step = step;
        let merge = Box::new(Merge::new(Kind::Change(self), questions.len(), false));
        Finish::Ask { questions, need, merge }
    }
}

fn set(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut frame = Vec::new();
    let words = pairs.iter().flat_map(|(name, value)| [name.as_slice(), value]);
    request(&mut frame, &[&b"CONFIG"[..], b"SET"].into_iter().chain(words).collect::<Vec<_>>());
    frame
}
