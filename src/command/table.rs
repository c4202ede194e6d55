//! The table: its rows in one numbering, and the short forms in which they are written down.
//!
//! The rows themselves are data: `data.rs` holds the commands on keys and scripts, `server.rs` the
//! ones about connections, channels and the server. Everything here runs while the crate is
//! compiled; a request only ever reads the finished array.

use super::{Command, Every, Flags, Gather, Keys, Local, Route, Session, Split};

mod data;
mod server;

/// All rows. A parent is directly followed by its subcommands.
pub(super) static TABLE: [Command; COUNT] = link();

/// Every number of a row, in order: what the parents' `children` are slices of.
static IDS: [u16; COUNT] = numbers();

const COUNT: usize = data::ROWS.len() + server::ROWS.len();

const fn numbers() -> [u16; COUNT] {
    let mut ids = [0; COUNT];
    let mut id = 0;
    while id < COUNT {
        ids[id] = id as u16;
        id += 1;
    }
    ids
}

/// Joins the rows of both files and gives each parent the rows that follow it and bear its name.
const fn link() -> [Command; COUNT] {
    let mut rows = [data::ROWS[0]; COUNT];
    let mut id = 0;
    while id < COUNT {
        rows[id] = authored(id);
        let mut end = id + 1;
        while end < COUNT && is_child(rows[id].name, authored(end).name) {
            end += 1;
        }
        rows[id].children = IDS.split_at(end).0.split_at(id + 1).1;
        id += 1;
    }
    rows
}

const fn authored(id: usize) -> Command {
    match id.checked_sub(data::ROWS.len()) {
        Some(id) => server::ROWS[id],
        None => data::ROWS[id],
    }
}

/// Whether `name` is `parent|` and something more.
const fn is_child(parent: &str, name: &str) -> bool {
    let (parent, name) = (parent.as_bytes(), name.as_bytes());
    if name.len() <= parent.len() || name[parent.len()] != b'|' {
        return false;
    }
    let mut at = 0;
    while at < parent.len() {
        if parent[at] != name[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Flags under short names, to be joined with `|`.
const WRITE: u32 = Flags::WRITE.0;
const READ: u32 = Flags::READONLY.0;
const OOM: u32 = Flags::DENYOOM.0;
const ADMIN: u32 = Flags::ADMIN.0;
const PUBSUB: u32 = Flags::PUBSUB.0;
const NOSCRIPT: u32 = Flags::NOSCRIPT.0;
const BLOCKING: u32 = Flags::BLOCKING.0;
const STALE: u32 = Flags::STALE.0;
const SKIP_SLOWLOG: u32 = Flags::SKIP_SLOWLOG.0;
const ASKING: u32 = Flags::ASKING.0;
const FAST: u32 = Flags::FAST.0;
const NO_AUTH: u32 = Flags::NO_AUTH.0;
const MOVABLE: u32 = Flags::MOVABLEKEYS.0;
const BUSY: u32 = Flags::ALLOW_BUSY.0;
const SYNCED: u32 = Flags::NO_ASYNC_LOADING.0;
const NO_MULTI: u32 = Flags::NO_MULTI.0;
const MAY_REPLICATE: u32 = Flags::MAY_REPLICATE.0;
/// Served whatever state the data is in.
const ANYTIME: u32 = Flags::LOADING.0 | STALE;
/// Speaks of the connection or the server, which a script has no business with.
const CONN: u32 = ANYTIME | NOSCRIPT;
/// What EVAL and its family have in common.
const SCRIPT: u32 = NOSCRIPT | STALE | Flags::SKIP_MONITOR.0 | Flags::NO_MANDATORY_KEYS.0;

/// Key positions under short names.
const ONE: Keys = Keys::Range { first: 1, last: 1, step: 1 };
const TWO: Keys = Keys::Range { first: 1, last: 2, step: 1 };
const SECOND: Keys = Keys::Range { first: 2, last: 2, step: 1 };
const ALL: Keys = Keys::Range { first: 1, last: -1, step: 1 };
const ALL_BUT_LAST: Keys = Keys::Range { first: 1, last: -2, step: 1 };
const FROM_SECOND: Keys = Keys::Range { first: 2, last: -1, step: 1 };
const PAIRS: Keys = Keys::Range { first: 1, last: -1, step: 2 };
const COUNT_1: Keys = Keys::Counted { target: 0, count: 1 };
const COUNT_2: Keys = Keys::Counted { target: 0, count: 2 };
const TO_COUNT_2: Keys = Keys::Counted { target: 1, count: 2 };

const fn row(name: &'static str, arity: i16, flags: u32, keys: Keys, route: Route) -> Command {
    let movable = match keys {
        Keys::None | Keys::Range { .. } => 0,
        _ => MOVABLE,
    };
    Command { name, arity, flags: Flags(flags | movable), keys, route, children: &[] }
}

/// Whatever only reads several keys can read copies of them; a script could tell the difference.
const fn read(name: &'static str, arity: i16, flags: u32, keys: Keys) -> Command {
    let route = match keys {
        Keys::Range { first, last, .. } if last == first as i8 => Route::Keys,
        Keys::Range { .. } | Keys::Counted { .. } if flags & Flags::NO_MANDATORY_KEYS.0 == 0 => {
            Route::Gather(Gather::Read)
        }
        Keys::SortReadOnly => Route::Gather(Gather::Sort),
        _ => Route::Keys,
    };
    row(name, arity, READ | flags, keys, route)
}

const fn write(name: &'static str, arity: i16, flags: u32, keys: Keys) -> Command {
    row(name, arity, WRITE | flags, keys, Route::Keys)
}

const fn gather(name: &'static str, arity: i16, flags: u32, keys: Keys, how: Gather) -> Command {
    row(name, arity, WRITE | flags, keys, Route::Gather(how))
}

/// A body may write or not, so Redis calls it neither.
const fn script(name: &'static str) -> Command {
    row(name, -3, SCRIPT | MAY_REPLICATE, COUNT_2, Route::Keys)
}

const fn blocking(name: &'static str, arity: i16, flags: u32, keys: Keys) -> Command {
    row(name, arity, WRITE | BLOCKING | flags, keys, Route::Session(Session::Block))
}

const fn split(name: &'static str, arity: i16, flags: u32, keys: Keys, how: Split) -> Command {
    row(name, arity, flags, keys, Route::Split(how))
}

const fn every(name: &'static str, arity: i16, flags: u32, how: Every) -> Command {
    row(name, arity, flags, Keys::None, Route::Every(how))
}

const fn home(name: &'static str, arity: i16, flags: u32) -> Command {
    row(name, arity, flags, Keys::None, Route::Home)
}

/// The text is the servers' own.
const fn help(name: &'static str) -> Command {
    home(name, 2, ANYTIME)
}

const fn local(name: &'static str, arity: i16, flags: u32, what: Local) -> Command {
    row(name, arity, flags, Keys::None, Route::Local(what))
}

const fn session(name: &'static str, arity: i16, flags: u32, what: Session) -> Command {
    row(name, arity, flags, Keys::None, Route::Session(what))
}

/// A session command whose arguments COMMAND lists as keys.
const fn named(name: &'static str, arity: i16, flags: u32, keys: Keys, what: Session) -> Command {
    row(name, arity, flags, keys, Route::Session(what))
}

const fn container(name: &'static str) -> Command {
    row(name, -2, 0, Keys::None, Route::Container)
}

const fn refused(name: &'static str, arity: i16, flags: u32) -> Command {
    row(name, arity, flags, Keys::None, Route::Refused)
}
