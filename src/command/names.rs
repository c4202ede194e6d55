//! From a name to its row: the first thing that happens to every request.
//!
//! A name is loaded as two words, its first and its last eight bytes, without a loop over bytes. Both
//! are hashed with their case dropped, and compared with the case dropped only where the row's name
//! has a letter, so that no other byte passes for one.
//!
//! ```text
//! "ZRANGEBYSCORE"   head = ZRANGEBY   tail = EBYSCORE   (they may overlap: the length is compared too)
//! "INCR"            head = INCRINCR   tail = head
//! "GET"             head = GEET       tail = head
//! ```

use super::table::TABLE;
use super::{Command, CommandId};

/// A command's name in the index; `len` 0 marks a free place.
#[derive(Clone, Copy)]
struct Name {
    head: u64,
    tail: u64,
    /// 0x20 where `head` has a letter, else 0.
    head_case: u64,
    tail_case: u64,
    len: u16,
    id: u16,
}

/// Open addressing, filled to less than one half, so that a search ends at a free place soon.
const PLACES: usize = 512;
/// Longer names have bytes that neither word covers; they are not in the index.
const COVERED: usize = 16;

static INDEX: [Name; PLACES] = index();

/// The row called `name`, in any case; subcommands are not found by it.
#[inline]
pub(super) fn lookup(name: &[u8]) -> Option<CommandId> {
    let (head, tail) = words(name)?;
    if name.len() > COVERED {
        return long(name);
    }
    let mut at = place(head, tail);
    loop {
        let entry = &INDEX[at];
        if entry.len as usize == name.len()
            && (head | entry.head_case) == entry.head
            && (tail | entry.tail_case) == entry.tail
        {
            return Some(CommandId(entry.id));
        }
        if entry.len == 0 {
            return None;
        }
        at = (at + 1) % PLACES;
    }
}

/// GEORADIUSBYMEMBER and its like, which are too rare to have a faster way.
#[cold]
fn long(name: &[u8]) -> Option<CommandId> {
    let is = |row: &Command| row.name.as_bytes().eq_ignore_ascii_case(name) && !is_subcommand(name);
    TABLE.iter().position(is).map(|id| CommandId(id as u16))
}

/// The row of the subcommand `name` of `parent`, in any case.
pub(super) fn child(parent: CommandId, name: &[u8]) -> Option<CommandId> {
    let parent = TABLE.get(parent.0 as usize)?;
    let ours = |id: &&u16| {
        let own = TABLE[**id as usize].name.as_bytes().get(parent.name.len() + 1..);
        own.is_some_and(|own| own.eq_ignore_ascii_case(name))
    };
    parent.children.iter().find(ours).map(|id| CommandId(*id))
}

/// The first and last bytes of a name; no command has fewer than two.
#[inline(always)]
const fn words(name: &[u8]) -> Option<(u64, u64)> {
    if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
        return Some((u64::from_le_bytes(*head), u64::from_le_bytes(*tail)));
    }
    let word = if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
        u32::from_le_bytes(*head) as u64 | (u32::from_le_bytes(*tail) as u64) << 32
    } else if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
        u16::from_le_bytes(*head) as u64 | (u16::from_le_bytes(*tail) as u64) << 16
    } else {
        return None;
    };
    Some((word, word))
}

/// Where the search for a name begins, whatever its case.
#[inline(always)]
const fn place(head: u64, tail: u64) -> usize {
    const CASE: u64 = 0x2020_2020_2020_2020;
    // Any odd number would do. Of some random ones this leaves the most used names at their places,
    // which a test counts; the upper bits of a product depend on all bits below.
    const SPREAD: u64 = 0x0069_0dc2_1685_41e3;
    // Turned by whole bytes, the tail's case lies over the head's, and both are dropped at once.
    let both = (head ^ tail.rotate_left(40)) | CASE;
    (both.wrapping_mul(SPREAD) >> (u64::BITS - PLACES.trailing_zeros())) as usize
}

const fn index() -> [Name; PLACES] {
    let free = Name { head: 0, tail: 0, head_case: 0, tail_case: 0, len: 0, id: 0 };
    let mut places = [free; PLACES];
    let mut id = 0;
    while id < TABLE.len() {
        let name = TABLE[id].name.as_bytes();
        let indexed = name.len() <= COVERED && !is_subcommand(name);
        if let (Some((head, tail)), true) = (words(name), indexed) {
            let mut at = place(head, tail);
            while places[at].len != 0 {
                at = (at + 1) % PLACES;
            }
            let (head_case, tail_case) = (letters(head), letters(tail));
            let len = name.len() as u16;
            places[at] = Name { head, tail, head_case, tail_case, len, id: id as u16 };
        }
        id += 1;
    }
    places
}

const fn is_subcommand(name: &[u8]) -> bool {
    let mut at = 0;
    while at < name.len() {
        if name[at] == b'|' {
            return true;
        }
        at += 1;
    }
    false
}

/// 0x20 in each byte of `word` that is a lower case letter.
const fn letters(word: u64) -> u64 {
    let mut bytes = word.to_le_bytes();
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = if bytes[at].is_ascii_lowercase() { 0x20 } else { 0 };
        at += 1;
    }
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{INDEX, PLACES, TABLE, child, is_subcommand, lookup, place, words};
    use crate::command::CommandId;

    /// Finds a command or, with `|`, a subcommand.
    fn find(name: &[u8]) -> Option<CommandId> {
        match name.iter().position(|byte| *byte == b'|') {
            Some(bar) => child(lookup(&name[..bar])?, &name[bar + 1..]),
            None => lookup(name),
        }
    }

    fn mixed(name: &str, odd: usize) -> Vec<u8> {
        let flip = |(at, byte): (usize, u8)| {
            if at % 2 == odd { byte.to_ascii_uppercase() } else { byte }
        };
        name.bytes().enumerate().map(flip).collect()
    }

    #[test]
    fn every_row_is_found_in_any_case() {
        for (id, row) in TABLE.iter().enumerate() {
            let spellings = [
                row.name.as_bytes().to_vec(),
                row.name.to_ascii_uppercase().into_bytes(),
                mixed(row.name, 0),
                mixed(row.name, 1),
            ];
            for spelling in spellings {
                let found = find(&spelling).map(|id| id.0 as usize);
                assert_eq!(found, Some(id), "{}", String::from_utf8_lossy(&spelling));
            }
        }
    }

    /// All rows by name, the plain way.
    fn names() -> HashMap<Vec<u8>, CommandId> {
        let ids = (0..TABLE.len()).map(|id| CommandId(id as u16));
        ids.map(|id| (TABLE[id.0 as usize].name.as_bytes().to_vec(), id)).collect()
    }

    #[test]
    fn no_other_byte_passes_for_the_right_one() {
        let names = names();
        for right in TABLE.iter().map(|row| row.name.as_bytes()) {
            for at in (0..right.len()).filter(|at| right[*at] != b'|') {
                // A bar would make another parent of it.
                for byte in (0..=u8::MAX).filter(|byte| *byte != b'|') {
                    let mut name = right.to_vec();
                    name[at] = byte;
                    let known = names.get(&name.to_ascii_lowercase()).copied();
                    assert_eq!(find(&name), known, "{}", name.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn a_byte_more_or_less_is_another_name() {
        let names = names();
        let check = |name: &[u8]| {
            let known = names.get(name).filter(|_| !is_subcommand(name));
            assert_eq!(lookup(name), known.copied(), "{}", name.escape_ascii());
        };
        for name in TABLE.iter().map(|row| row.name.as_bytes()).filter(|name| !is_subcommand(name)) {
            for at in 0..=name.len() {
                for extra in [b'e', b'_', b'|', b' ', 0] {
                    check(&[&name[..at], &[extra], &name[at..]].concat());
                }
                check(&[&name[..at], name.get(at + 1..).unwrap_or(&[])].concat());
            }
        }
    }

    #[test]
    fn strange_names_are_unknown() {
        for name in [&b""[..], b"g", b"getget", b"client|id", b"config|get", &[0; 3], &[0xff; 40]] {
            assert_eq!(lookup(name), None, "{}", name.escape_ascii());
        }
        let client = lookup(b"client").unwrap();
        for name in [&b""[..], b"|id", b"client|id", b"i", b"idd", b"get"] {
            assert_eq!(child(client, name), None, "{}", name.escape_ascii());
        }
        assert_eq!(child(lookup(b"get").unwrap(), b"id"), None);
        assert_eq!(child(CommandId(u16::MAX), b"id"), None);
    }

    #[test]
    fn a_configuration_names_rows() {
        let check = |name: &str, expected: &str| {
            let rows: Vec<&str> = super::super::named(name).map(|id| TABLE[id.0 as usize].name).collect();
            assert_eq!(rows.join(" "), expected, "{name}");
        };
        check("KEYS", "keys");
        check("FlushAll", "flushall");
        check("CONFIG SET", "config|set");
        check("config|get", "config|get");
        check("READONLYY", "");
        check(
            "LATENCY",
            "latency latency|doctor latency|graph latency|help latency|histogram latency|history latency|latest latency|reset",
        );
    }

    #[test]
    fn the_index_is_sparse_and_searches_are_short() {
        let taken: Vec<usize> = (0..PLACES).filter(|at| INDEX[*at].len != 0).collect();
        assert!(taken.len() * 2 < PLACES, "{} of {PLACES}", taken.len());
        let steps = |at: &usize| {
            let entry = &INDEX[*at];
            let (head, tail) = words(TABLE[entry.id as usize].name.as_bytes()).unwrap();
            (*at + PLACES - place(head, tail)) % PLACES
        };
        let all: Vec<usize> = taken.iter().map(steps).collect();
        assert!(all.iter().sum::<usize>() * 2 < taken.len(), "{all:?}");
        let displaced = |name: &&str| {
            let id = lookup(name.as_bytes()).unwrap().0;
            taken.iter().any(|at| INDEX[*at].id == id && steps(at) > 0)
        };
        let slow: Vec<&str> = POPULAR.split(' ').filter(displaced).collect();
        assert_eq!(slow, [""; 0], "popular names that are not at their places");
    }

    const POPULAR: &str = "get set mget mset del exists expire ttl incr decr incrby setex setnx getset getex getdel ping \
        hget hset hmget hgetall hdel hincrby lpush rpush lpop rpop lrange llen sadd srem smembers sismember scard \
        zadd zrem zrange zrangebyscore zscore zincrby zcard xadd xack eval evalsha publish unlink pexpire";
}
