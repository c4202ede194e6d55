//! What may become of an element while its key is renamed under it: a checker of histories.
//!
//! A family is two names on two shards. Moves between them are made one at a time, writes to both at
//! any time; all of it carries its begin and end. For each element the checker follows every place
//! that the element may be in, move by move; none left means that the history is impossible.

use std::collections::{BTreeMap, BTreeSet};

/// Which of the two names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Source,
    Target,
}

/// An element that was appended to the list at `name` between `begin` and `end`.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) element: String,
    pub(crate) name: Name,
    pub(crate) begin: u128,
    /// When it was acknowledged; None: it may have been written or not, at any time after `begin`.
    pub(crate) end: Option<u128>,
}

/// What was done to both names, somewhere between `begin` and `end`.
#[derive(Clone, Debug)]
pub(crate) struct Move {
    pub(crate) begin: u128,
    pub(crate) end: u128,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// RENAME did it.
    Renamed,
    /// RENAMENX did it: there was no target.
    RenamedNew,
    /// RENAMENX found a target.
    Refused,
    /// There was no source.
    Missing,
    /// RENAME, or RENAMENX when `new`, may have done it. `halfway`: the source may be left as well.
    Unknown { new: bool, halfway: bool },
    /// The target was read and removed in one step.
    Taken(Vec<String>),
}

/// Where an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Unwritten,
    At(Name),
    Both,
    /// Overwritten with its list, or taken.
    Gone,
}

/// Whether the history of one family, which ended with these two lists, is possible; else why not.
pub(crate) fn judge(writes: &[Write], moves: &[Move], source: &[String], target: &[String]) -> Result<(), String> {
    let taken: Vec<&String> = moves
        .iter()
        .filter_map(|step| if let Kind::Taken(list) = &step.kind { Some(list) } else { None })
        .flatten()
        .collect();
    let written: BTreeSet<&str> = writes.iter().map(|write| write.element.as_str()).collect();
    let everywhere = taken.iter().copied().chain(source).chain(target);
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    everywhere.for_each(|element| *times.entry(element).or_default() += 1);
    if let Some(foreign) = times.keys().find(|element| !written.contains(*element)) {
        return Err(format!("{foreign} is there and was never written"));
    }
    for write in writes {
        let count = |list: &[String]| list.iter().filter(|element| **element == write.element).count();
        let ends: &[Place] = match (count(source), count(target)) {
            (0, 0) => &[Place::Unwritten, Place::Gone],
            (1, 0) => &[Place::At(Name::Source)],
            (0, 1) => &[Place::At(Name::Target)],
            (1, 1) => &[Place::Both],
            (here, there) => return Err(format!("{} is there {} times", write.element, here + there)),
        };
        let may_be = follow(write, moves);
        if !ends.iter().any(|place| may_be.contains(place)) {
            return Err(format!("{write:?} ended as {ends:?} and may only be {may_be:?}"));
        }
    }
    Ok(())
}

/// Every place in which the element may be once all moves are made.
fn follow(write: &Write, moves: &[Move]) -> BTreeSet<Place> {
    let mut places = BTreeSet::from([Place::Unwritten]);
    for step in moves {
        if places.contains(&Place::Unwritten) {
            if write.begin < step.end {
                places.insert(Place::At(write.name));
            }
            if write.end.is_some_and(|end| end < step.begin) {
                places.remove(&Place::Unwritten);
            }
        }
        places = places.iter().flat_map(|place| after(*place, &step.kind, &write.element)).collect();
    }
    if places.contains(&Place::Unwritten) {
        places.insert(Place::At(write.name));
        if write.end.is_some() {
            places.remove(&Place::Unwritten);
        }
    }
    places
}

/// Where an element may be after a move; nowhere when the move contradicts its place.
fn after(place: Place, kind: &Kind, element: &String) -> Vec<Place> {
    let renamed = |new: bool| match place {
        Place::At(Name::Source) => vec![Place::At(Name::Target)],
        Place::At(Name::Target) | Place::Both if new => vec![],
        Place::At(Name::Target) => vec![Place::Gone],
        Place::Both => vec![Place::At(Name::Target)],
        Place::Unwritten | Place::Gone => vec![place],
    };
    match kind {
        Kind::Renamed => renamed(false),
        Kind::RenamedNew => renamed(true),
        Kind::Refused => vec![place],
        Kind::Missing if matches!(place, Place::At(Name::Source) | Place::Both) => vec![],
        Kind::Missing => vec![place],
        Kind::Unknown { new, halfway } => {
            let mut places = renamed(*new);
            places.push(place);
            if *halfway && matches!(place, Place::At(Name::Source) | Place::Both) {
                places.push(Place::Both);
            }
            places
        }
        Kind::Taken(list) => match (place, list.contains(element)) {
            (Place::At(Name::Target), true) => vec![Place::Gone],
            (Place::Both, true) => vec![Place::At(Name::Source)],
            (Place::At(Name::Target) | Place::Both, false) => vec![],
            (_, true) => vec![],
            (_, false) => vec![place],
        },
    }
}

/// A history of every kind of move, and what it left.
fn sample() -> (Vec<Write>, Vec<Move>, Vec<String>, Vec<String>) {
    let write = |element: &str, name, begin, end| Write { element: element.to_owned(), name, begin, end };
    let writes = vec![
        write("a", Name::Source, 0, Some(5)),
        write("b", Name::Target, 1, Some(6)),
        write("c", Name::Source, 12, Some(18)),
        write("d", Name::Target, 22, Some(25)),
        write("e", Name::Source, 41, None),
        write("f", Name::Source, 70, Some(75)),
    ];
    let step = |begin, end, kind| Move { begin, end, kind };
    let moves = vec![
        step(10, 20, Kind::Renamed),
        step(30, 40, Kind::Taken(vec!["a".to_owned(), "d".to_owned()])),
        step(50, 60, Kind::RenamedNew),
    ];
    (writes, moves, vec!["f".to_owned()], vec!["c".to_owned(), "e".to_owned()])
}

#[test]
fn the_ledger_notices_planted_faults() {
    let (writes, moves, source, target) = sample();
    judge(&writes, &moves, &source, &target).unwrap();
    let check = |moves: &[Move], source: &[&str], target: &[&str], says: &str| {
        let owned = |list: &[&str]| list.iter().map(|&element| element.to_owned()).collect::<Vec<_>>();
        let error = judge(&writes, moves, &owned(source), &owned(target)).unwrap_err();
        assert!(error.contains(says), "{error}");
    };
    check(&moves, &[], &["c", "e"], "\"f\"");
    check(&moves, &["f"], &["e"], "\"c\"");
    check(&moves, &["f", "f"], &["c", "e"], "f is there 2 times");
    check(&moves, &["f", "c"], &["c", "e"], "\"c\"");
    check(&moves, &["f"], &["c", "e", "a"], "\"a\"");
    check(&moves, &["f"], &["c", "e", "b"], "\"b\"");
    check(&moves, &["f"], &["c", "e", "x"], "x is there and was never written");
    check(&moves, &["c"], &["f", "e"], "\"c\"");
    let mut lost = moves.clone();
    lost[1].kind = Kind::Taken(vec!["d".to_owned()]);
    check(&lost, &["f"], &["c", "e"], "\"a\"");
    let mut missing = moves;
    missing[2].kind = Kind::Missing;
    check(&missing, &["f"], &["c", "e"], "\"c\"");
}

#[test]
fn what_nobody_knows_may_be_either() {
    let (writes, mut moves, source, target) = sample();
    moves[2] = Move { begin: 50, end: u128::MAX, kind: Kind::Unknown { new: true, halfway: false } };
    judge(&writes, &moves, &source, &target).unwrap();
    let all = ["c".to_owned(), "e".to_owned(), "f".to_owned()];
    judge(&writes, &moves, &all, &[]).unwrap();
    let some = ["f".to_owned(), "c".to_owned()];
    assert!(judge(&writes, &moves, &some, &target).is_err());
    moves[2].kind = Kind::Unknown { new: true, halfway: true };
    judge(&writes, &moves, &some, &target).unwrap();
}
