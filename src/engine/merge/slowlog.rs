//! SLOWLOG GET and LEN: one log of all servers and of what the proxy answered itself.
//!
//! ```text
//! SLOWLOG GET | LEN -> every shard's whole log -> how many entries the home shard keeps -> one log
//! ```
//!
//! Times are whole seconds, so the order within one is found by what went to every shard: such a command
//! stands in each log and is one entry of the one log, with the same commands before and behind it.

use std::collections::VecDeque;

use super::value::{Leaf, pairs};
use super::{Finish, Kind, Merge, Need};
use crate::command::{self, Every, Route};
use crate::resp::{Args, Proto, Reply, elements, integer, request};
use crate::topology::Topology;

/// SLOWLOG GET without a number.
const GET_DEFAULT: usize = 10;
/// What a server keeps unless it is told otherwise.
const KEPT_DEFAULT: usize = 128;
/// How far down another log the same command is looked for.
const DEPTH_MAX: usize = 64;

/// A SLOWLOG GET or LEN on its way.
#[derive(Debug)]
pub(in crate::engine) struct Slowlog {
    /// None: their number.
    count: Option<usize>,
    /// The proxy's own entries, as a server would write them, the newest first.
    own: Vec<u8>,
    /// Every shard's log, once they were given.
    logs: Vec<Vec<u8>>,
}

#[derive(Clone, Copy)]
struct Entry<'a> {
    number: i64,
    time: i64,
    /// The request, as an array.
    words: &'a [u8],
    frame: &'a [u8],
    /// It went to every shard.
    everywhere: bool,
}

impl Slowlog {
    /// The question to every shard comes with it; None when the request is malformed and the servers say how.
    pub(in crate::engine) fn new(args: Args<'_>, own: Vec<u8>) -> Option<(Self, Vec<u8>)> {
        let count = match args.len() {
            _ if args.is(1, "len") => None,
            2 => Some(GET_DEFAULT),
            3 => match integer(args.at(2))? {
                -1 => Some(usize::MAX),
                count => Some(usize::try_from(count).ok()?),
            },
            _ => return None,
        };
        let mut frame = Vec::new();
        request(&mut frame, &["SLOWLOG", "GET", "-1"]);
        Some((Self { count, own, logs: Vec::new() }, frame))
    }

    /// The shards have given their logs.
    pub(super) fn is_heard(&self) -> bool {
        !self.logs.is_empty()
    }

    /// The parts of this step are there.
    pub(super) fn advance(mut self: Box<Self>, parts: &[Vec<u8>], proto: Proto, map: &Topology) -> Finish {
        if self.logs.is_empty() {
            self.logs = parts.to_vec();
            let mut frame = Vec::new();
            request(&mut frame, &["CONFIG", "GET", "slowlog-max-len"]);
            let merge = Box::new(Merge::new(Kind::Slowlog(self), 1, false));
            return Finish::Ask { questions: vec![(map.home(), frame)], need: Need::Each, merge };
        }
        // A user that may not ask for parameters reads the log all the same.
        let said = pairs(&parts[0], proto).pop().map(|(_, value)| Leaf::of(value, proto).into_bytes());
        let kept = said.and_then(|said| integer(&said)).and_then(|kept| usize::try_from(kept).ok());
        let mut out = Vec::new();
        self.write(&mut Reply::new(&mut out, proto), kept.unwrap_or(KEPT_DEFAULT), proto);
        Finish::Reply(out)
    }

    /// SLOWLOG GET of a transaction: what the shards have said already is all.
    pub(super) fn get(reply: &mut Reply<'_>, count: Option<&[u8]>, parts: &[Vec<u8>], proto: Proto) {
        let count = match count.map(integer) {
            None => GET_DEFAULT,
            Some(count) => count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX),
        };
        Self { count: Some(count), own: Vec::new(), logs: parts.to_vec() }.write(reply, usize::MAX, proto);
    }

    fn write(&self, reply: &mut Reply<'_>, kept: usize, proto: Proto) {
        let entries = self.merged(kept, proto);
        let Some(count) = self.count else {
            reply.integer(entries.len() as i64);
            return;
        };
        let entries = &entries[..count.min(entries.len())];
        reply.array(entries.len());
        for (number, entry) in entries {
            reply.array(elements(entry.frame).count()).integer(*number);
            for field in elements(entry.frame).skip(1) {
                reply.raw(field);
            }
        }
    }

    /// At most `kept` entries, the newest first, with their numbers: an entry's own, told from others' by its
    /// log's place.
    fn merged(&self, kept: usize, proto: Proto) -> Vec<(i64, Entry<'_>)> {
        let logs = self.logs.iter().map(|log| (log, proto)).chain([(&self.own, Proto::Resp2)]);
        let mut logs: Vec<VecDeque<Entry<'_>>> =
            logs.map(|(log, proto)| elements(log).filter_map(|frame| Entry::of(frame, proto)).collect()).collect();
        let count = logs.len() as i64;
        let mut all = Vec::new();
        while all.len() < kept
            && let Some(at) = next(&logs)
            && let Some(entry) = logs[at].pop_front()
        {
            all.push((entry.number.wrapping_mul(count).wrapping_add(at as i64), entry));
            if entry.everywhere {
                for log in logs.iter_mut().enumerate().filter(|(other, _)| *other != at).map(|(_, log)| log) {
                    if log.front().is_some_and(|front| front.is_same(&entry)) {
                        log.pop_front();
                    }
                }
            }
        }
        all
    }
}

impl<'a> Entry<'a> {
    fn of(frame: &'a [u8], proto: Proto) -> Option<Self> {
        let fields: Vec<&[u8]> = elements(frame).collect();
        let [number, time, _, words, ..] = fields[..] else { return None };
        let mut names = elements(words).map(|word| Leaf::of(word, proto).into_bytes());
        let everywhere = is_everywhere(&names.next()?, names.next().as_deref());
        let [number, time] = [number, time].map(|field| Leaf::of(field, proto).integer());
        Some(Self { number, time, words, frame, everywhere })
    }

    /// Both tell of one request that went to every shard.
    fn is_same(&self, other: &Self) -> bool {
        self.everywhere && self.words == other.words && (self.time - other.time).abs() <= 1
    }
}

/// The log whose first entry is the newest of all.
fn next(logs: &[VecDeque<Entry<'_>>]) -> Option<usize> {
    let newest = |everywhere: bool| {
        let heads = logs.iter().enumerate().filter_map(|(at, log)| Some((at, log.front()?)));
        heads.filter(|(_, head)| head.everywhere == everywhere).min_by_key(|(at, head)| (-head.time, *at))
    };
    let (alone, common) = (newest(false), newest(true));
    match (alone, common) {
        (Some((at, one)), Some((_, all))) if one.time >= all.time => Some(at),
        (_, Some((at, all))) => {
            // What stands above the same command elsewhere came behind it.
            let hides = |log: &VecDeque<Entry<'_>>| log.iter().take(DEPTH_MAX).skip(1).any(|entry| entry.is_same(all));
            let is_first = |log: &VecDeque<Entry<'_>>| log.front().is_some_and(|front| front.is_same(all));
            Some(logs.iter().position(|log| !is_first(log) && hides(log)).unwrap_or(at))
        }
        (alone, None) => alone.map(|(at, _)| at),
    }
}

fn is_everywhere(name: &[u8], sub: Option<&[u8]>) -> bool {
    let Some(id) = command::lookup(name) else { return false };
    let id = sub.and_then(|sub| command::child(id, sub)).unwrap_or(id);
    matches!(command::row(id).route, Route::Every(every) if every != Every::Scan)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log from lines such as `9 SET k v`: a time and a request.
    fn log(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, Proto::Resp2);
        reply.array(lines.len());
        for (at, line) in lines.iter().enumerate() {
            let (time, words) = line.split_once(' ').unwrap();
            let words: Vec<&str> = words.split(' ').collect();
            reply.array(4).integer((lines.len() - at) as i64).integer(time.parse().unwrap()).integer(5);
            reply.array(words.len());
            words.iter().for_each(|word| _ = reply.bulk(word));
        }
        out
    }

    fn check(logs: &[&[&str]], own: &[&str], kept: usize, expected: &[&str]) {
        let logs = logs.iter().map(|lines| log(lines)).collect();
        let slowlog = Slowlog { count: None, own: log(own), logs };
        let words = |entry: &Entry<'_>| {
            let words = elements(entry.words).map(|word| Leaf::of(word, Proto::Resp2).into_bytes());
            words.map(|word| String::from_utf8(word).unwrap()).collect::<Vec<_>>().join(" ")
        };
        let merged: Vec<String> = slowlog.merged(kept, Proto::Resp2).iter().map(|(_, entry)| words(entry)).collect();
        assert_eq!(merged, expected);
    }

    #[test]
    fn the_newest_come_first() {
        check(&[&["9 GET a", "7 GET b"], &["8 GET c", "6 GET d"]], &[], 9, &["GET a", "GET c", "GET b", "GET d"]);
    }

    #[test]
    fn what_went_to_every_shard_is_one_entry() {
        let reset = "9 SLOWLOG RESET";
        check(&[&[reset], &[reset], &["8 SLOWLOG RESET"]], &[], 9, &["SLOWLOG RESET"]);
        check(&[&[reset, reset], &[reset, reset]], &[], 9, &["SLOWLOG RESET"; 2]);
        check(&[&["9 DBSIZE"], &["4 DBSIZE"]], &[], 9, &["DBSIZE"; 2]);
    }

    #[test]
    fn it_parts_what_came_before_from_what_came_behind() {
        let reset = "9 SLOWLOG RESET";
        check(&[&[reset, "9 GET old"], &["9 GET new", reset]], &[], 9, &["GET new", "SLOWLOG RESET", "GET old"]);
        // One server's clock had struck, another's not.
        check(&[&["10 KEYS *"], &["9 GET new", "9 KEYS *"]], &[], 9, &["GET new", "KEYS *"]);
    }

    #[test]
    fn no_more_than_one_server_keeps() {
        check(&[&["9 GET a"], &["9 GET b"]], &["9 PING", "9 PING"], 3, &["GET a", "GET b", "PING"]);
    }
}
