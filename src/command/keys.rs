//! Where the keys of one request are, told as the command itself will read them.
//!
//! `COMMAND GETKEYS` of the server is the yardstick; where the command reads its arguments
//! differently (a repeated STORE, a STORE that is another option's value), the command is right. A
//! request that the server would refuse anyway is [`BadKeys`]: any shard will say what is wrong.

use crate::resp::Args;

use super::{BadKeys, Keys};

impl Keys {
    /// Replaces `out` by the positions of all keys of the request, in the order of the request.
    ///
    /// # Errors
    /// The request's own words are wrong (a count that is no number, or too large): the server's
    /// answer to it is wanted, from any shard.
    pub fn find(self, args: Args<'_>, out: &mut Vec<u32>) -> Result<(), BadKeys> {
        out.clear();
        match self {
            Self::None => {}
            Self::Range { first, last, step } => range(args.len(), first, last, step, out)?,
            Self::Counted { target, count } => {
                let keys = counted(args, usize::from(count))?;
                if target != 0 {
                    out.push(u32::from(target));
                }
                out.extend(keys);
            }
            Self::Streams => out.extend(streams(args)?),
            Self::Sort => sort(args, out)?,
            Self::SortReadOnly => range(args.len(), 1, 1, 1, out)?,
            Self::GeoRadius => georadius(args, out)?,
            Self::Migrate => migrate(args, out)?,
        }
        Ok(())
    }

    /// Whether a request for streams is told to wait (XREAD, XREADGROUP).
    #[must_use]
    pub fn blocks(self, args: Args<'_>) -> bool {
        self == Self::Streams && options(args).any(|at| args.is(at, "block"))
    }

    /// The position of the only key, for commands that have exactly one whatever their arguments.
    #[must_use]
    pub const fn single(self) -> Option<usize> {
        match self {
            Self::Range { first, last, .. } if last as i32 == first as i32 => Some(first as usize),
            _ => None,
        }
    }
}

fn range(argc: usize, first: u8, last: i8, step: u8, out: &mut Vec<u32>) -> Result<(), BadKeys> {
    let (first, step) = (usize::from(first), usize::from(step).max(1));
    let after = match usize::try_from(last) {
        Ok(last) => last + 1,
        Err(_) => (argc + 1).saturating_sub(usize::from(last.unsigned_abs())),
    };
    // An odd MSET names a key without its value.
    if after > argc || (after > first && (after - first) % step != 0) {
        return Err(BadKeys);
    }
    out.extend((first..after).step_by(step).map(|at| at as u32));
    Ok(())
}

/// The keys behind argument `count`, which says how many they are.
fn counted(args: Args<'_>, count: usize) -> Result<std::ops::Range<u32>, BadKeys> {
    let first = count + 1;
    let many = number(args.at(count)).filter(|many| *many <= args.len().saturating_sub(first));
    let many = many.ok_or(BadKeys)?;
    Ok(first as u32..(first + many) as u32)
}

/// A count as Redis reads it: digits alone, no sign, no leading zero.
fn number(word: &[u8]) -> Option<usize> {
    let canonical = word == b"0" || matches!(word.first(), Some(b'1'..=b'9'));
    // No request has as many arguments as ten digits can say, so nothing overflows.
    if !canonical || word.len() > 9 {
        return None;
    }
    word.iter().try_fold(0, |value: usize, digit| match digit {
        b'0'..=b'9' => Some(value * 10 + usize::from(digit - b'0')),
        _ => None,
    })
}

fn streams(args: Args<'_>) -> Result<std::ops::Range<u32>, BadKeys> {
    let first = options(args).last().ok_or(BadKeys)? + 1;
    if !args.is(first - 1, "streams") {
        return Err(BadKeys);
    }
    let words = args.len().saturating_sub(first);
    if words == 0 || words % 2 != 0 {
        return Err(BadKeys);
    }
    Ok(first as u32..(first + words / 2) as u32)
}

/// Where the options of XREAD and XREADGROUP are, up to STREAMS or to what is none. They are skipped with
/// their values, since a group may be called STREAMS or BLOCK as well.
fn options(args: Args<'_>) -> impl Iterator<Item = usize> {
    let mut next = 1;
    std::iter::from_fn(move || {
        let at = (next < args.len()).then_some(next)?;
        next = match () {
            () if args.is(at, "block") || args.is(at, "count") => at + 2,
            () if args.is(at, "group") => at + 3,
            () if args.is(at, "noack") => at + 1,
            () => args.len(),
        };
        Some(at)
    })
}

fn sort(args: Args<'_>, out: &mut Vec<u32>) -> Result<(), BadKeys> {
    if args.len() < 2 {
        return Err(BadKeys);
    }
    out.push(1);
    let mut store = None;
    let mut at = 2;
    while at < args.len() {
        at += if args.is(at, "limit") {
            3
        } else if args.is(at, "get") || args.is(at, "by") {
            2
        } else if args.is(at, "store") && at + 1 < args.len() {
            store = Some((at + 1) as u32);
            2
        } else {
            1
        };
    }
    out.extend(store);
    Ok(())
}

fn georadius(args: Args<'_>, out: &mut Vec<u32>) -> Result<(), BadKeys> {
    if args.len() < 2 {
        return Err(BadKeys);
    }
    out.push(1);
    // The first option of GEORADIUSBYMEMBER is argument 5, of GEORADIUS 6, behind a unit.
    let mut store = None;
    let mut at = 5;
    while at + 1 < args.len() {
        if args.is(at, "store") || args.is(at, "storedist") {
            at += 1;
            store = Some(at as u32);
        }
        at += 1;
    }
    out.extend(store);
    Ok(())
}

fn migrate(args: Args<'_>, out: &mut Vec<u32>) -> Result<(), BadKeys> {
    if args.len() < 4 {
        return Err(BadKeys);
    }
    let mut at = 6;
    while at < args.len() && !args.is(at, "keys") {
        at += if args.is(at, "auth2") {
            3
        } else if args.is(at, "auth") {
            2
        } else {
            1
        };
    }
    if at < args.len() && args.at(3).is_empty() {
        out.extend(at as u32 + 1..args.len() as u32);
    } else {
        out.push(3);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::command::{all, child, lookup, row};
    use crate::resp::{Args, Span};

    /// The keys of a request written as words; `''` is the empty one, `bad` stands for an error.
    fn check(line: &str, expected: &str) {
        let mut buf = Vec::new();
        let mut spans = Vec::new();
        for word in line.split(' ') {
            let word = word.trim_matches('\'').as_bytes();
            spans.push(Span { start: buf.len() as u32, len: word.len() as u32 });
            buf.extend_from_slice(word);
        }
        let args = Args::new(&buf, &spans);
        let parent = lookup(args.at(0)).unwrap();
        let command = row(child(parent, args.at(1)).unwrap_or(parent));
        let mut out = vec![99];
        let found = match command.keys.find(args, &mut out) {
            Ok(()) => {
                let words = out.iter().map(|at| String::from_utf8_lossy(args.at(*at as usize)));
                words.collect::<Vec<_>>().join(" ")
            }
            Err(_) => "bad".to_owned(),
        };
        assert_eq!(found, expected, "{line}");
        if let (Some(at), false) = (command.keys.single(), found == "bad") {
            assert_eq!(out, [at as u32], "{line}");
        }
    }

    #[test]
    fn ranges() {
        check("GET a", "a");
        check("GET get", "get");
        check("set a v EX 10", "a");
        check("PING", "");
        check("PING a", "");
        check("DEL a b c", "a b c");
        check("COPY a b DB 2", "a b");
        check("RENAME a b", "a b");
        check("LCS a b LEN", "a b");
        check("BITOP AND d a b", "d a b");
        check("PFMERGE d a b", "d a b");
        check("SUNIONSTORE d", "d");
        check("BLPOP a b 0", "a b");
        check("BRPOPLPUSH a b 0", "a b");
        check("OBJECT ENCODING a", "a");
        check("MEMORY USAGE a SAMPLES 5", "a");
        check("XINFO STREAM a FULL", "a");
        check("XGROUP CREATE a g $", "a");
        check("OBJECT HELP", "");
        check("SORT_RO a BY w_* GET o_*", "a");
        check("GEORADIUS_RO a 1 2 3 km STORE", "a");
        check("SUNSUBSCRIBE", "");
    }

    #[test]
    fn pairs() {
        check("MSET a 1 b 2", "a b");
        check("MSETNX a 1", "a");
        check("MSET a 1 b", "bad");
        check("MSETNX a", "bad");
    }

    #[test]
    fn counted_keys() {
        check("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d a b");
        check("ZINTERSTORE d 1 a", "d a");
        check("ZDIFF 2 a b WITHSCORES", "a b");
        check("SINTERCARD 2 a b LIMIT 1", "a b");
        check("LMPOP 1 a LEFT", "a");
        check("BLMPOP 0 2 a b LEFT COUNT 3", "a b");
        check("BZMPOP 1.5 1 a MIN", "a");
        check("ZMPOP 2 a b MAX", "a b");
        check("ZUNION 0 a", "");
        check("ZUNION -1 a", "bad");
        check("ZUNION two a b", "bad");
        check("ZUNION 02 a b", "bad");
        check("ZUNION +2 a b", "bad");
        check("ZUNION 2x a b", "bad");
        check("ZUNION '' a b", "bad");
        check("ZUNION 3 a b", "bad");
        check("ZUNION 18446744073709551617 a b", "bad");
        check("ZUNIONSTORE d 0 a", "d");
        check("ZUNIONSTORE d", "bad");
        check("ZUNIONSTORE", "bad");
    }

    #[test]
    fn scripts_may_have_no_keys() {
        check("EVAL s 2 a b c", "a b");
        check("EVALSHA s 0", "");
        check("EVAL_RO s 0 x y", "");
        check("FCALL f 1 a", "a");
        check("FCALL_RO f 1", "bad");
        check("EVAL s -1 a", "bad");
        check("EVAL s x a", "bad");
    }

    #[test]
    fn streams_may_share_names_with_options() {
        check("XREAD STREAMS a b 0 0", "a b");
        check("XREAD COUNT 2 BLOCK 0 streams a $", "a");
        check("XREAD STREAMS streams $", "streams");
        check("XREADGROUP GROUP streams block STREAMS a >", "a");
        check("XREADGROUP GROUP g c NOACK COUNT 1 STREAMS a b > >", "a b");
        check("XREAD STREAMS a b 0", "bad");
        check("XREAD STREAMS", "bad");
        check("XREAD COUNT STREAMS a 0", "bad");
        check("XREAD COUNT 2 a 0", "bad");
        check("XREAD BLOCK", "bad");
    }

    #[test]
    fn the_last_store_counts() {
        check("SORT a", "a");
        check("SORT a LIMIT 0 5 DESC", "a");
        check("SORT a BY w_* GET # store d", "a d");
        check("SORT a STORE d STORE e", "a e");
        check("SORT a BY store GET store ALPHA", "a");
        check("SORT a LIMIT store 2", "a");
        check("SORT a STORE by STORE d", "a d");
        check("SORT a STORE", "a");
        check("SORT_RO a BY w_* STORE d", "a");
        check("SORT_RO", "bad");
        check("GEORADIUS a 1 2 3 km", "a");
        check("GEORADIUS a 1 2 3 km COUNT 3 STORE d", "a d");
        check("GEORADIUS a 1 2 3 km STORE d STOREDIST e", "a e");
        check("GEORADIUS a 1 2 3 km STORE store", "a store");
        check("GEORADIUSBYMEMBER a m 3 km storedist d", "a d");
        check("GEORADIUSBYMEMBER a store 3 km", "a");
        check("GEORADIUSBYMEMBER a m 3 km STORE", "a");
    }

    #[test]
    fn migrations_name_one_key_or_several() {
        check("MIGRATE h 1 a 0 9", "a");
        check("MIGRATE h 1 a 0 9 COPY REPLACE", "a");
        check("MIGRATE h 1 '' 0 9 KEYS a b", "a b");
        check("MIGRATE h 1 '' 0 9 AUTH keys KEYS a", "a");
        check("MIGRATE h 1 '' 0 9 AUTH2 keys keys REPLACE keys a b", "a b");
    }

    #[test]
    fn too_few_arguments_name_no_key_outside_the_request() {
        let mut out = Vec::new();
        for command in all() {
            for argc in 0..8_u32 {
                let spans: Vec<Span> = (0..argc).map(|at| Span { start: at, len: 1 }).collect();
                let _ = command.keys.find(Args::new(b"11111111", &spans), &mut out);
                assert!(out.iter().all(|at| *at < argc), "{} {out:?} of {argc}", command.name);
            }
        }
    }
}
