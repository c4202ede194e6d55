//! The command table: every Redis command and subcommand as one row of data.
//!
//! A row says what Redis itself says (arity, flags, where the keys are) and what a sharding proxy
//! needs beside it: how the command is routed and how partial replies are merged. The rows stand in
//! `command/table/`; a test compares them with a live server's `COMMAND`. After [`lookup`] nobody
//! looks at a command's name again.

mod keys;
mod names;
mod straight;
mod table;

pub use straight::{OneKey, one_key};

/// Index of a row: commands and subcommands share one numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub u16);

/// One row. Names are lower case, a subcommand's is `parent|child`, as Redis writes them.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    pub name: &'static str,
    /// Redis' arity: the name counts; negative means "at least".
    pub arity: i16,
    pub flags: Flags,
    pub keys: Keys,
    pub route: Route,
    /// Subcommands' rows, as numbers of a [`CommandId`]; they directly follow the parent. Empty for
    /// most.
    pub children: &'static [u16],
}

/// Redis' command flags, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    pub const WRITE: Self = Self(1);
    pub const READONLY: Self = Self(1 << 1);
    pub const DENYOOM: Self = Self(1 << 2);
    pub const ADMIN: Self = Self(1 << 3);
    pub const PUBSUB: Self = Self(1 << 4);
    pub const NOSCRIPT: Self = Self(1 << 5);
    pub const BLOCKING: Self = Self(1 << 6);
    pub const LOADING: Self = Self(1 << 7);
    pub const STALE: Self = Self(1 << 8);
    pub const SKIP_MONITOR: Self = Self(1 << 9);
    pub const SKIP_SLOWLOG: Self = Self(1 << 10);
    pub const ASKING: Self = Self(1 << 11);
    pub const FAST: Self = Self(1 << 12);
    pub const NO_AUTH: Self = Self(1 << 13);
    pub const MOVABLEKEYS: Self = Self(1 << 14);
    pub const ALLOW_BUSY: Self = Self(1 << 15);
    pub const NO_ASYNC_LOADING: Self = Self(1 << 16);
    pub const NO_MANDATORY_KEYS: Self = Self(1 << 17);
    pub const NO_MULTI: Self = Self(1 << 18);
    /// Writes perhaps, though it is no write (EVAL, PUBLISH, PFCOUNT): CLIENT PAUSE WRITE holds it.
    /// Redis keeps this one out of COMMAND.
    pub const MAY_REPLICATE: Self = Self(1 << 19);

    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Where a command's keys are among its arguments (0 is the name).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    None,
    /// `first`, then every `step`th up to `last`; a negative `last` counts from the end, -1 being
    /// the last argument.
    Range {
        first: u8,
        last: i8,
        step: u8,
    },
    /// Argument `count` holds the number of keys, which follow it; `target` is one more key before
    /// it (0: none), as in `ZUNIONSTORE dst 2 a b`. The number may be 0 here: EVAL allows it, and
    /// where it is an error the server says so.
    Counted {
        target: u8,
        count: u8,
    },
    /// The keys are the first half of what follows the word `STREAMS` (XREAD, XREADGROUP).
    Streams,
    /// Argument 1, and what follows `STORE` (SORT); BY and GET patterns are not keys here.
    Sort,
    /// Argument 1 (SORT_RO); its BY and GET patterns are not keys here.
    SortReadOnly,
    /// Argument 1, and what follows `STORE` or `STOREDIST` (GEORADIUS, GEORADIUSBYMEMBER).
    GeoRadius,
    /// Argument 3, or all behind `KEYS` when it is empty (MIGRATE).
    Migrate,
}

/// What the proxy does with a command: the half of the row that Redis does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the one shard that holds all its keys; CROSSSLOT when they are on several.
    Keys,
    /// The same, but when they are on several shards the others' values are brought to one of them.
    Gather(Gather),
    /// Keys may be on several shards: one part per shard, merged.
    Split(Split),
    /// To every shard, merged.
    Every(Every),
    /// To the home shard as it is (COMMAND, LOLWUT, FUNCTION LIST, ...).
    Home,
    /// Answered by the proxy alone.
    Local(Local),
    /// Changes how the client's later requests travel.
    Session(Session),
    /// A parent whose every use names a subcommand.
    Container,
    /// Not available through the proxy, unless the client is an admin (`RINGWAY SHARD`).
    Refused,
}

/// What becomes of a command whose keys are on several shards and must be seen together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gather {
    /// It only reads: it runs where its first key is, on copies of the others.
    Read,
    /// It writes its first key, and runs there.
    StoreFirst,
    /// It writes its last key (what GEORADIUS stores), and runs there.
    StoreLast,
    /// The same, and the copy keeps its time to live (COPY).
    Copy,
    /// Reads, or writes its last key when it has two; its patterns may name more (SORT).
    Sort,
    /// The key itself moves (RENAME); it is not overwritten where `overwrites` is not set (RENAMENX).
    Rename { overwrites: bool },
}

/// How a split command's parts are cut and merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// MGET: arrays, put back in the order of the keys.
    Values,
    /// MSET: key and value pairs; one `+OK`.
    Pairs,
    /// DEL, UNLINK, EXISTS, TOUCH: integers, summed.
    Sum,
    /// XREAD, XREADGROUP: arrays or maps of streams, put back in the order of the keys.
    Streams,
    /// LMPOP, ZMPOP: one shard after the other in the order of the keys, until one has something.
    First,
}

/// How the replies of all shards become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// Integers, summed (DBSIZE, SLOWLOG LEN, LATENCY RESET).
    Sum,
    /// The smallest integer (LASTSAVE).
    Min,
    /// All must succeed; the first shard's reply is the answer (FLUSHALL, SCRIPT LOAD).
    Same,
    /// Arrays, one after the other (KEYS).
    Concat,
    /// Arrays of 0 and 1: one only where every shard says one (SCRIPT EXISTS).
    AllTrue,
    /// Status texts, each prefixed by its shard when they differ (BGSAVE, BGREWRITEAOF).
    Texts,
    /// Bulk reports, one headed section a shard (MEMORY DOCTOR, LATENCY DOCTOR, LATENCY GRAPH, MEMORY MALLOC-STATS).
    Reports,
    Scan,
    RandomKey,
    Info,
    ConfigGet,
    ConfigSet,
    SlowlogGet,
    SlowlogLen,
    LatencyLatest,
    LatencyHistory,
    LatencyHistogram,
    MemoryStats,
    Wait,
    /// SCRIPT KILL, FUNCTION KILL: out of band, on connections of their own.
    Kill,
}

/// Commands that the proxy answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    Ping,
    Echo,
    Quit,
    Reset,
    Time,
    Hello,
    Auth,
    Select,
    ReadOnly,
    ReadWrite,
    Asking,
    Role,
    ClientId,
    ClientInfo,
    ClientList,
    ClientKill,
    ClientPause,
    ClientUnpause,
    ClientUnblock,
    ClientReply,
    ClientSetName,
    ClientGetName,
    ClientSetInfo,
    ClientNoEvict,
    ClientNoTouch,
    ClientTracking,
    ClientCaching,
    ClientGetRedir,
    ClientTrackingInfo,
    AclWhoAmI,
    /// CLUSTER: what a server without cluster mode answers.
    Cluster,
    /// RINGWAY HELP, LOCATE, SHARDS, SHARD, ADVISE.
    Ringway,
    /// `X HELP` texts of containers are asked of the home shard; this is for the ones that speak of us.
    Help,
}

/// Commands that need a connection of the client's own, or change the client's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    /// Waits until there is something (BLPOP; WAIT excluded).
    Block,
    Subscribe,
    Unsubscribe,
    PatternSubscribe,
    PatternUnsubscribe,
    ShardSubscribe,
    ShardUnsubscribe,
    Publish,
    ShardPublish,
    PubsubChannels,
    PubsubNumSub,
    PubsubNumPat,
    PubsubShardChannels,
    PubsubShardNumSub,
    Monitor,
}

/// What a request's duration is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// One shard is asked, and nothing changes.
    Read,
    /// One shard is asked, and something may change.
    Write,
    Split,
    Every,
    Local,
    Session,
}

/// The key positions cannot be told from a malformed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadKeys;

/// The row called `name`, in any case; subcommands are found by [`child`].
#[must_use]
#[inline]
pub fn lookup(name: &[u8]) -> Option<CommandId> {
    names::lookup(name)
}

/// The row of the subcommand `name` of `parent`, in any case.
#[must_use]
pub fn child(parent: CommandId, name: &[u8]) -> Option<CommandId> {
    names::child(parent, name)
}

/// The rows that a configuration means by `name`, such as `KEYS`, `CONFIG SET` or `config|set`: a
/// container's with all its subcommands.
pub fn named(name: &str) -> impl Iterator<Item = CommandId> + use<> {
    let name = name.to_lowercase().replace(' ', "|");
    let means = move |row: &Command| {
        row.name.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('|'))
    };
    (0..).map(CommandId).zip(all()).filter(move |(_, row)| means(row)).map(|(id, _)| id)
}

/// The row itself.
#[must_use]
#[inline]
pub fn row(id: CommandId) -> &'static Command {
    &table::TABLE[id.0 as usize]
}

/// All rows; a [`CommandId`] is an index here.
#[must_use]
pub fn all() -> &'static [Command] {
    &table::TABLE
}

impl Command {
    /// Whether a request of `argc` arguments (the name counts) has as many as the command takes.
    #[must_use]
    #[inline]
    pub fn takes(&self, argc: usize) -> bool {
        let arity = i64::from(self.arity);
        if arity >= 0 { argc as i64 == arity } else { argc as i64 >= -arity }
    }

    #[must_use]
    pub const fn class(&self) -> Class {
        match self.route {
            Route::Home => Class::Read,
            Route::Keys | Route::Gather(_) if self.flags.has(Flags::READONLY) => Class::Read,
            // Scripts are neither reads nor writes by their flags, and may write.
            Route::Keys | Route::Gather(_) => Class::Write,
            Route::Split(_) => Class::Split,
            Route::Every(_) => Class::Every,
            Route::Local(_) | Route::Container | Route::Refused => Class::Local,
            Route::Session(_) => Class::Session,
        }
    }
}

impl Class {
    pub const ALL: [Self; 6] = [Self::Read, Self::Write, Self::Split, Self::Every, Self::Local, Self::Session];

    /// The metric labels, in the order of [`Self::ALL`].
    pub const NAMES: [&'static str; 6] = ["read", "write", "split", "every", "local", "session"];

    /// The metric label; a class's number is its place in [`Self::ALL`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Split => "split",
            Self::Every => "every",
            Self::Local => "local",
            Self::Session => "session",
        }
    }
}
