//! The commands that most requests name, found by their whole name as one word: those with one key,
//! right behind the name, whose request goes to the key's shard as it is.

use super::table::TABLE;
use super::{Class, Command, CommandId, Flags, Keys, Route, Split};

/// What a request of such a command needs to know of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneKey {
    /// Lower case, the first letter the lowest byte; 0 marks a free place.
    name: u64,
    /// 0x20 where the name has a letter.
    case: u64,
    pub id: CommandId,
    pub class: Class,
    /// Arguments, the name included.
    least: u8,
    most: u8,
}

/// Open addressing, filled to less than one third.
const PLACES: usize = 512;

static INDEX: [OneKey; PLACES] = index();

/// The command of this name, in any case, if a request of `count` arguments is one with a single key.
#[must_use]
#[inline(always)]
pub fn one_key(name: u64, count: usize) -> Option<&'static OneKey> {
    let mut at = place(name);
    loop {
        let found = &INDEX[at];
        if name | found.case == found.name {
            return (count >= found.least as usize && count <= found.most as usize).then_some(found);
        }
        if found.name == 0 {
            return None;
        }
        at = (at + 1) % PLACES;
    }
}

#[inline(always)]
const fn place(name: u64) -> usize {
    const CASE: u64 = 0x2020_2020_2020_2020;
    // Any odd number would do; of some random ones this leaves nearly all names at their places.
    const SPREAD: u64 = 0xbe4b_d4c1_09fe_3379;
    ((name | CASE).wrapping_mul(SPREAD) >> (u64::BITS - PLACES.trailing_zeros())) as usize
}

const fn index() -> [OneKey; PLACES] {
    let free = OneKey { name: 0, case: 0, id: CommandId(0), class: Class::Read, least: 0, most: 0 };
    let mut places = [free; PLACES];
    let mut id = 0;
    while id < TABLE.len() {
        let row = &TABLE[id];
        if let Some((least, most)) = counts(row) {
            let (name, case) = word(row.name.as_bytes());
            let mut at = place(name);
            while places[at].name != 0 {
                at = (at + 1) % PLACES;
            }
            places[at] = OneKey { name, case, id: CommandId(id as u16), class: row.class(), least, most };
        }
        id += 1;
    }
    places
}

/// With how many arguments the command's request has one key and goes to its shard as it is; None:
/// never, or it is not named by one word.
const fn counts(row: &Command) -> Option<(u8, u8)> {
    if row.name.len() > 8 || !row.children.is_empty() || row.flags.has(Flags::NO_MANDATORY_KEYS) {
        return None;
    }
    match (row.route, row.keys) {
        (Route::Keys, Keys::Range { first: 1, last: 1, .. }) => {
            let least = row.arity.unsigned_abs() as u8;
            Some((least, if row.arity < 0 { u8::MAX } else { least }))
        }
        // With one key there is nothing to split.
        (Route::Split(Split::Sum | Split::Values), Keys::Range { first: 1, last: -1, step: 1 }) => Some((2, 2)),
        _ => None,
    }
}

const fn word(name: &[u8]) -> (u64, u64) {
    let (mut bytes, mut case, mut at) = ([0; 8], [0; 8], 0);
    while at < name.len() {
        bytes[at] = name[at];
        case[at] = if name[at].is_ascii_lowercase() { 0x20 } else { 0 };
        at += 1;
    }
    (u64::from_le_bytes(bytes), u64::from_le_bytes(case))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;

    fn find(name: &[u8], count: usize) -> Option<CommandId> {
        one_key(word(name).0, count).map(|found| found.id)
    }

    /// What the table says.
    fn expected(name: &[u8], count: usize) -> Option<CommandId> {
        let id = command::lookup(name).filter(|_| name.len() <= 8)?;
        let row = command::row(id);
        let one = match row.route {
            Route::Keys => matches!(row.keys, Keys::Range { first: 1, last: 1, .. }),
            Route::Split(Split::Sum | Split::Values) => count == 2,
            _ => false,
        };
        (one && row.children.is_empty() && row.takes(count)).then_some(id)
    }

    #[test]
    fn all_that_the_table_says_and_nothing_else() {
        let mut found = 0;
        for row in command::all().iter().filter(|row| row.name.len() <= 8) {
            for count in 2..=9 {
                for name in [row.name.to_owned(), row.name.to_uppercase()] {
                    assert_eq!(find(name.as_bytes(), count), expected(name.as_bytes(), count), "{name} {count}");
                    found += usize::from(find(name.as_bytes(), count).is_some());
                }
                for at in 0..row.name.len() {
                    for byte in 1..=u8::MAX {
                        let mut name = row.name.as_bytes().to_vec();
                        name[at] = byte;
                        assert_eq!(find(&name, count), expected(&name, count), "{}", name.escape_ascii());
                    }
                }
            }
        }
        assert!(found > 300, "{found}");
        assert_eq!((find(b"get", 2).is_some(), find(b"del", 2).is_some(), find(b"del", 3)), (true, true, None));
    }

    #[test]
    fn searches_are_short() {
        let taken: Vec<usize> = (0..PLACES).filter(|at| INDEX[*at].name != 0).collect();
        assert!(taken.len() * 3 < PLACES, "{} of {PLACES}", taken.len());
        for name in
            "get set del incr decr expire ttl hget hset lpush rpush lpop sadd zadd exists setex hgetall".split(' ')
        {
            assert_eq!(INDEX[place(word(name.as_bytes()).0)].name, word(name.as_bytes()).0, "{name}");
        }
    }
}
