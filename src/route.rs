//! Which shards a request concerns: the one decision between reading it and sending it.
//!
//! Pure: arguments and a topology in, a [`Plan`] out. Nothing behind a plan looks at the command's
//! name again.

use crate::command::{self, Command, CommandId, Every, Flags, Gather, Keys, Local, Route, Session, Split};
use crate::resp::Args;
use crate::topology::{ShardId, Topology, Why};

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Its bytes go to one shard, the shard's reply comes back.
    One(ShardId),
    /// The same for a script, whose body the shard may not know yet.
    Script(ShardId),
    /// One part per shard, by the keys whose positions were found.
    Split(Split),
    /// Its keys, whose positions were found, are on several shards and must be seen together.
    Gather(Gather),
    Every(Every),
    Local(Local),
    Session(Session),
    Refuse(Refusal),
    /// Its keys are on the only shard, and a second one would part them.
    Apart,
}

/// Why a request is not carried out. Its text is written in one place (`engine::failure`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No row has this name: a server may know it.
    Unknown,
    /// The parent has no such subcommand.
    UnknownSubcommand(CommandId),
    Arity(CommandId),
    /// Two keys, by their positions, are on two shards.
    CrossSlot {
        first: u32,
        second: u32,
    },
    /// The key at this position has a name that only the proxy's own copies have.
    Reserved(u32),
    /// SORT's pattern, by its position, names keys that may be on other shards than the sorted one.
    Pattern {
        key: u32,
        pattern: u32,
    },
    /// Not available through a proxy.
    NotHere(CommandId),
    /// A script without keys, and the configuration says no.
    KeylessScript,
}

/// Where requests go that name no key but have to run somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Scripts without keys; None refuses them.
    pub keyless_scripts: Option<ShardId>,
    /// Keys of several shards are brought together, not refused.
    pub gather: bool,
    /// With one shard, whether the requests are told whose keys a second one would part.
    pub apart: bool,
}

/// How the names of copies begin that exist on a shard while a command on keys of several runs there.
/// <https://redis.io/docs/latest/commands/sort/>: SORT replaces the first `*`, so none stands before it.
pub const RESERVED: &[u8] = b"__ringway:";

/// Whether only the proxy's own copies are called so. Nearly all keys begin with another byte.
#[inline(always)]
#[must_use]
pub fn is_reserved(key: &[u8]) -> bool {
    key.first() == Some(&b'_') && key.starts_with(RESERVED)
}

/// The row of the request's command or subcommand, once its arity is right.
///
/// # Errors
/// There is no such row, or the request has too few or too many arguments.
#[inline]
pub fn resolve(args: Args<'_>) -> Result<(CommandId, &'static Command), Refusal> {
    let mut id = command::lookup(args.at(0)).ok_or(Refusal::Unknown)?;
    let mut row = command::row(id);
    if !row.children.is_empty() && args.len() > 1 {
        match command::child(id, args.at(1)) {
            Some(child) => {
                id = child;
                row = command::row(child);
            }
            None if row.route == Route::Container => return Err(Refusal::UnknownSubcommand(id)),
            None => {}
        }
    }
    if row.takes(args.len()) { Ok((id, row)) } else { Err(Refusal::Arity(id)) }
}

/// Decides what happens with a request; `keys` then holds the positions of its keys, when there are
/// several to speak of.
#[inline(always)]
pub fn plan(id: CommandId, row: &Command, args: Args<'_>, map: &Topology, rules: Rules, keys: &mut Vec<u32>) -> Plan {
    // Most requests: one key, right behind the name.
    if let (Route::Keys, Keys::Range { first: 1, last: 1, .. }) = (row.route, row.keys) {
        let key = args.at(1);
        return if is_reserved(key) { Plan::Refuse(Refusal::Reserved(1)) } else { Plan::One(map.shard_of(key)) };
    }
    plan_by_route(id, row, args, map, rules, keys)
}

#[inline(never)]
fn plan_by_route(
    id: CommandId,
    row: &Command,
    args: Args<'_>,
    map: &Topology,
    rules: Rules,
    keys: &mut Vec<u32>,
) -> Plan {
    match row.route {
        Route::Keys | Route::Gather(_) => keyed(row, args, map, rules, keys),
        Route::Split(split) => split_by_shard(split, row, args, map, keys),
        Route::Every(every) => Plan::Every(every),
        // What speaks of functions waits until the shard has them, as their callers do.
        Route::Home if row.name.starts_with("function|") => Plan::Script(map.home()),
        Route::Home => Plan::One(map.home()),
        Route::Local(local) => Plan::Local(local),
        Route::Session(Session::Block) => match keyed(row, args, map, rules, keys) {
            // Any of the keys will do, but for the two of BLMOVE.
            Plan::Refuse(Refusal::CrossSlot { .. }) if !matches!(row.keys, Keys::Range { last: 2, .. }) => {
                Plan::Session(Session::Block)
            }
            Plan::Apart if matches!(row.keys, Keys::Range { last: 2, .. }) => Plan::Apart,
            Plan::Refuse(refusal) => Plan::Refuse(refusal),
            _ => Plan::Session(Session::Block),
        },
        Route::Session(session) => Plan::Session(session),
        Route::Container => Plan::Refuse(Refusal::Arity(id)),
        Route::Refused => Plan::Refuse(Refusal::NotHere(id)),
    }
}

/// The shard of the keys at `positions`, which must be one; the home shard when there is none.
///
/// # Errors
/// Two of the keys are on two shards.
pub fn one_shard(args: Args<'_>, positions: &[u32], map: &Topology) -> Result<ShardId, Refusal> {
    let Some((&first, others)) = positions.split_first() else { return Ok(map.home()) };
    let shard = map.shard_of(args.at(first as usize));
    match others.iter().find(|position| map.shard_of(args.at(**position as usize)) != shard) {
        None => Ok(shard),
        Some(&second) => Err(Refusal::CrossSlot { first, second }),
    }
}

fn keyed(row: &Command, args: Args<'_>, map: &Topology, rules: Rules, keys: &mut Vec<u32>) -> Plan {
    keys.clear();
    if row.keys.find(args, keys).is_err() {
        // The request's own words are wrong: any server says how.
        keys.clear();
        return Plan::One(map.home());
    }
    if keys.is_empty() && row.flags.has(Flags::NO_MANDATORY_KEYS) && matches!(row.keys, Keys::Counted { .. }) {
        return rules.keyless_scripts.map_or(Plan::Refuse(Refusal::KeylessScript), Plan::Script);
    }
    if let Some(reserved) = reserved(args, keys) {
        return Plan::Refuse(reserved);
    }
    match one_shard(args, keys, map) {
        Err(_)
            if rules.gather
                && let Route::Gather(how) = row.route =>
        {
            Plan::Gather(how)
        }
        Err(_) if row.keys == Keys::Streams => match row.keys.blocks(args) {
            true => Plan::Session(Session::Block),
            false => Plan::Split(Split::Streams),
        },
        Err(refusal) => Plan::Refuse(refusal),
        Ok(_) if rules.apart && map.is_alone() && row.keys != Keys::Streams && are_apart(args, keys, map) => {
            Plan::Apart
        }
        Ok(shard) if matches!(row.keys, Keys::Sort | Keys::SortReadOnly) => {
            match foreign_patterns(args, shard, map).next() {
                Some(_) if rules.gather => Plan::Gather(Gather::Sort),
                Some(pattern) => Plan::Refuse(Refusal::Pattern { key: 1, pattern }),
                None => Plan::One(shard),
            }
        }
        Ok(_) if row.keys.blocks(args) => Plan::Session(Session::Block),
        Ok(shard) if row.flags.has(Flags::NO_MANDATORY_KEYS) => Plan::Script(shard),
        Ok(shard) => Plan::One(shard),
    }
}

/// Whether other tags part some of the keys at `positions` from the first one.
fn are_apart(args: Args<'_>, positions: &[u32], map: &Topology) -> bool {
    let Some((&first, others)) = positions.split_first() else { return false };
    let first = args.at(first as usize);
    others.iter().any(|at| !map.together(first, args.at(*at as usize)))
}

/// The first of the keys at `positions` that has a name of the proxy's own.
#[must_use]
pub fn reserved(args: Args<'_>, positions: &[u32]) -> Option<Refusal> {
    let found = positions.iter().find(|at| is_reserved(args.at(**at as usize)));
    found.map(|at| Refusal::Reserved(*at))
}

/// The BY and GET patterns of a SORT, by their positions, whose keys are not all on `shard`.
pub fn foreign_patterns(args: Args<'_>, shard: ShardId, map: &Topology) -> impl Iterator<Item = u32> {
    let mut next = 2;
    std::iter::from_fn(move || {
        while next + 1 < args.len() {
            let at = next;
            let is_pattern = args.is(at, "by") || args.is(at, "get");
            next += match () {
                () if args.is(at, "limit") => 3,
                () if args.is(at, "store") || is_pattern => 2,
                () => 1,
            };
            if is_pattern && !stays(args.at(at + 1), shard, map) {
                return Some(at as u32 + 1);
            }
        }
        None
    })
}

/// Whether every key that the pattern can name is on `shard`: whatever stands for its `*`, the tag is
/// the same. Without a `*` no key is read.
fn stays(pattern: &[u8], shard: ShardId, map: &Topology) -> bool {
    let Some(star) = pattern.iter().position(|byte| *byte == b'*') else { return true };
    let field = pattern[star..].windows(2).position(|pair| pair == b"->").map_or(pattern.len(), |at| star + at);
    let named = |by: &[u8]| [&pattern[..star], by, &pattern[star + 1..field]].concat();
    let (one, other, braced) = (named(b"0"), named(b"1"), named(b"{0}"));
    let (one, other, braced) = (map.locate(&one), map.locate(&other), map.locate(&braced));
    // A tag behind the star gives way to one in what stands for it.
    let holds = !matches!(one.why, Why::HashTag) || braced.tag == one.tag;
    map.is_alone() || holds && one.tag == other.tag && one.shard == shard && other.shard == shard
}

fn split_by_shard(split: Split, row: &Command, args: Args<'_>, map: &Topology, keys: &mut Vec<u32>) -> Plan {
    keys.clear();
    if row.keys.find(args, keys).is_err() || split == Split::Pairs && args.len().is_multiple_of(2) {
        return Plan::One(map.home());
    }
    if let Some(reserved) = reserved(args, keys) {
        return Plan::Refuse(reserved);
    }
    match one_shard(args, keys, map) {
        Ok(shard) => Plan::One(shard),
        Err(_) => Plan::Split(split),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Limits, RequestScanner, request};
    use crate::topology::{Endpoint, Kind, Shard, Spec};

    fn map() -> Topology {
        let shard = |name: &str| Shard {
            name: name.to_owned(),
            endpoint: Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 1 },
            weight: 1,
        };
        let spec = Spec {
            shards: vec![shard("a"), shard("b"), shard("c")],
            home: None,
            kind: Kind::Slots,
            colocate: Vec::new(),
        };
        Topology::build(&spec, 1).expect("three shards")
    }

    fn check(line: &str, expected: &str) {
        let (map, mut frame, mut spans, mut keys) = (map(), Vec::new(), Vec::new(), Vec::new());
        request(&mut frame, &line.split(' ').collect::<Vec<_>>());
        RequestScanner::default().scan(&frame, &Limits::default(), true, &mut spans).expect("a request");
        let args = Args::new(&frame, &spans);
        let rules = Rules { keyless_scripts: Some(map.home()), gather: true, apart: true };
        let said = match resolve(args) {
            Err(refusal) => format!("{refusal:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
            Ok((id, row)) => match plan(id, row, args, &map, rules, &mut keys) {
                Plan::One(shard) | Plan::Script(shard) => map.shard(shard).name.clone(),
                Plan::Refuse(refusal) => format!("{refusal:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
                Plan::Split(split) => {
                    let at = |key: &u32| map.shard(map.shard_of(args.at(*key as usize))).name.clone();
                    format!("{split:?} {}", keys.iter().map(at).collect::<Vec<_>>().join(","))
                }
                other => format!("{other:?}"),
            },
        };
        assert_eq!(said, expected, "{line}");
    }

    #[test]
    fn requests_go_where_their_keys_are() {
        let shard = |key: &str| map().shard(map().shard_of(key.as_bytes())).name.clone();
        check("GET k1", &shard("k1"));
        check("get {k1}:x", &shard("k1"));
        check("MGET {k1}a {k1}b", &shard("k1"));
        check("MSET k1 v k1 w", &shard("k1"));
        check("EVAL x 1 k2", &shard("k2"));
        check("EVAL x 0", "a");
        check("EVAL x nonsense k2", "a");
        check("COMMAND COUNT", "a");
        check("XREAD COUNT 1 STREAMS k2 0", &shard("k2"));
        check("XREAD COUNT 1 BLOCK 0 STREAMS k2 0", "Session(Block)");
        check("XREAD COUNT 1 STREAMS block 0", &shard("block"));
        check("XREADGROUP GROUP streams c BLOCK 0 STREAMS k2 >", "Session(Block)");
        check("XREADGROUP GROUP g streams BLOCK 0 STREAMS k2 >", "Session(Block)");
        check("XREADGROUP GROUP block c STREAMS k2 >", &shard("k2"));
    }

    #[test]
    fn several_shards_are_split_or_refused() {
        let shard = |key: &str| map().shard(map().shard_of(key.as_bytes())).name.clone();
        let other = (2..).map(|n| format!("k{n}")).find(|key| shard(key) != shard("k1")).unwrap_or_default();
        let check = |line: &str, expected: &str| check(&line.replace("k2", &other), expected);
        check("MGET k1 k2", &format!("Values {},{}", shard("k1"), shard(&other)));
        check("MSET k1 v k2 w", &format!("Pairs {},{}", shard("k1"), shard(&other)));
        check("MSET k1 v k2", "a");
        check("DEL k1 k2 k1", &format!("Sum {},{},{}", shard("k1"), shard(&other), shard("k1")));
        check("SMOVE k1 k2 m", "CrossSlot");
        check("MSETNX k1 v k2 w", "CrossSlot");
        check("EVAL_RO x 2 k1 k2", "CrossSlot");
        check("SINTER k1 k2", "Gather(Read)");
        check("SORT k1 STORE k2", "Gather(Sort)");
        check("COPY k1 k2", "Gather(Copy)");
        check("BITOP AND {k1}d k1 k2", "Gather(StoreFirst)");
        check("GEORADIUS k1 1 1 1 km STORE k2", "Gather(StoreLast)");
        check("BLPOP k1 k2 0", "Session(Block)");
        check("BZMPOP 0 2 k1 k2 MIN", "Session(Block)");
        check("BLMOVE k1 k2 LEFT LEFT 0", "CrossSlot");
        check("BRPOPLPUSH k1 k2 0", "CrossSlot");
        check("LMPOP 2 k1 k2 LEFT", &format!("First {},{}", shard("k1"), shard(&other)));
        check("XREAD STREAMS k1 k2 0 0", &format!("Streams {},{}", shard("k1"), shard(&other)));
        check("XREADGROUP GROUP g c BLOCK 0 STREAMS k1 k2 > >", "Session(Block)");
        check("BLPOP k1 0", "Session(Block)");
        check("SORT k1 BY w_*", "Gather(Sort)");
        check("SORT_RO k1 LIMIT 0 1 GET # GET w_*->f", "Gather(Sort)");
        check("SORT k1 BY nosort GET # LIMIT 0 1 ALPHA", &shard("k1"));
        check("SORT k1 BY {k1}w_* GET {k1}h_*->f STORE {k1}d", &shard("k1"));
        check("SORT k1 GET *_{k1}", "Gather(Sort)");
        check("DBSIZE", "Every(Sum)");
    }

    #[test]
    fn what_is_wrong_is_said() {
        check("NOSUCH a", "Unknown");
        check("GET", "Arity");
        check("CLIENT", "Arity");
        check("CLIENT NOSUCH", "UnknownSubcommand");
        check("CLIENT SETNAME", "Arity");
        check("SHUTDOWN", "NotHere");
        check("GET __ringway:1:k", "Reserved");
        check("OBJECT ENCODING __ringway:1:k", "Reserved");
        check("DEL k __ringway:1:k", "Reserved");
        check("ZUNIONSTORE k 1 __ringway:1:k", "Reserved");
        check("BLPOP __ringway:1:k 0", "Reserved");
        check("GET __ringway", &map().shard(map().shard_of(b"__ringway")).name);
    }
}
