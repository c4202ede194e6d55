//! The configuration: mirrors the TOML file, field by field, and is the only reader of it.
//!
//! A [`Config`] that exists has been checked as a whole: names are unique, addresses parse, what one
//! field names is there, passwords have been fetched. Each mistake is one line that names the file,
//! the line, the field, and what would be right. Unknown fields are mistakes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::topology::{self, Endpoint, Shard};

mod check;
mod error;
mod passwords;
mod presets;
mod source;
mod value;
mod warnings;

pub use error::ConfigError;
pub use value::{NoTls, Secret};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The file that this was read from.
    #[serde(skip)]
    pub file: PathBuf,
    /// `[proxy]`: where clients connect, and with how many threads they are served.
    pub proxy: Proxy,
    /// `[admin]`: the HTTP port for metrics, health and status.
    pub admin: Admin,
    /// `[[backend]]`: the Redis servers, at least one. Their order numbers the shards.
    pub backend: Vec<Backend>,
    /// `[placement]`: how keys are spread over the backends.
    pub placement: Placement,
    /// `[[colocate]]`: keys that stay together. The first rule that matches counts.
    pub colocate: Vec<Colocate>,
    /// `[commands]`: what commands may do that one shard alone cannot answer.
    pub commands: Commands,
    /// `[limits]`: bounds of everything that could grow.
    pub limits: Limits,
    /// `[timeouts]`: how long anything is waited for.
    pub timeouts: Timeouts,
    /// `[tls]`: refused until TLS is supported.
    pub tls: Option<NoTls>,
    /// `[[user]]`: who may connect. Without any, everybody may, and AUTH answers as a Redis without
    /// a password does.
    pub user: Vec<User>,
    /// `[log]`: what is written to standard error.
    pub log: Log,
}

/// `[proxy]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proxy {
    /// Addresses for clients: `host:port` (port 0: the kernel chooses) or `unix:/path`. Default
    /// `["127.0.0.1:7379"]`.
    #[serde(deserialize_with = "value::listen")]
    pub listen: Vec<Endpoint>,
    /// Worker threads, 0 to 256; 0 means one for each core. More workers cost 10 to 30 % more CPU
    /// for each request. Default 1.
    #[serde(deserialize_with = "value::number")]
    pub threads: u32,
    /// Connections that the kernel keeps until they are accepted, 1 to 65535. Default 1024.
    #[serde(deserialize_with = "value::number")]
    pub backlog: u32,
    /// Lets a second process listen on the same ports, so that a restart can overlap. Default true.
    pub reuse_port: bool,
}

/// `[admin]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// `host:port` of the HTTP port, never one of the clients'. Default: none, no HTTP at all.
    #[serde(deserialize_with = "value::listen_tcp")]
    pub listen: Option<Endpoint>,
    /// How many backends must be connected for `/readyz` to say yes: `"all"`, `"majority"`, or a
    /// number. With `"all"`, one lost backend takes every proxy out of its load balancer, the
    /// healthy shards with it. Default `"majority"` (more than half).
    pub ready_quorum: ReadyQuorum,
}

/// `[admin] ready_quorum`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadyQuorum {
    All,
    #[default]
    Majority,
    AtLeast(u32),
}

/// `[[backend]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Its identity on the ring: keys follow the name, not the address. Required; 1 to 64 visible
    /// ASCII characters, neither `home` nor `refuse`.
    pub name: String,
    /// `host:port` (looked up again at each connect) or `unix:/path`. Required.
    #[serde(deserialize_with = "value::address")]
    pub address: Endpoint,
    /// Its part of the keys in relation to the others, 1 to 1000. Default 1.
    #[serde(default = "one", deserialize_with = "value::number")]
    pub weight: u32,
    /// The ACL user to log in as. Default: none, Redis' `default` user.
    pub username: Option<String>,
    /// The password itself. After loading it is here, wherever it came from. Default: none.
    pub password: Option<Secret>,
    /// The environment variable that holds the password. Default: none.
    pub password_env: Option<String>,
    /// The file that holds the password in its first line; a relative path starts at the
    /// configuration's directory. Default: none.
    pub password_file: Option<PathBuf>,
    /// Refused until TLS is supported.
    pub tls: Option<NoTls>,
}

/// `[placement]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    /// The backend for what belongs to no key. Default: the first one.
    pub home: Option<String>,
    /// How a key's tag becomes a backend. Default `"slots"`.
    #[serde(deserialize_with = "value::word")]
    pub kind: PlacementKind,
    /// The hash of `ketama` and `modula`, by twemproxy's name. Default `"fnv1a_64"`.
    pub hash: Option<String>,
    /// The two characters around a hash tag of `ketama` and `modula`; `slots` always has `"{}"`.
    /// Default: none, as in twemproxy.
    pub hash_tag: Option<String>,
    /// The version of the rules that place slots. Default 1, the only one.
    #[serde(deserialize_with = "value::number")]
    pub version: u32,
    /// Colocate rules for well-known frameworks, by name, behind those of `[[colocate]]`:
    /// `"bee-queue"`, `"bullmq"`, `"celery"`, `"resque"`, `"rq"`, `"sidekiq"`, `"streaq"`. Default: none.
    pub presets: Vec<String>,
}

/// `[placement] kind`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlacementKind {
    /// Redis Cluster's 16,384 slots, spread by a consistent hash ring.
    #[default]
    Slots,
    /// As twemproxy's `distribution: ketama`.
    Ketama,
    /// As twemproxy's `distribution: modula`.
    Modula,
}

/// `[[colocate]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Colocate {
    /// Keys that stay together: `*` is any bytes, `{*}` the part that is hashed, `\` escapes.
    /// Required.
    pub pattern: String,
    /// `"home"` or a backend's name: puts all matching keys there. Default: none, they are hashed.
    pub shard: Option<String>,
}

/// `[commands]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Commands {
    /// One operation on keys of several backends: fetch the others' values to one of them, or
    /// refuse with CROSSSLOT. Default `"gather"`.
    #[serde(deserialize_with = "value::word")]
    pub cross_shard: CrossShard,
    /// MULTI/EXEC with keys of several backends: prepared on each of them, then carried out on all, or
    /// refused with CROSSSLOT. Default `"prepared"`.
    #[serde(deserialize_with = "value::word")]
    pub cross_shard_transactions: CrossShardTransactions,
    /// What a client gets when a backend that its request needs is away: an error of Ringway's own
    /// (SHARDDOWN, SHARDLOST, SHARDTIMEOUT), or its connection closed, as by a server that dies.
    /// Default `"reply"`.
    #[serde(deserialize_with = "value::word")]
    pub shard_errors: ShardErrors,
    /// Where unknown commands without keys go: `"home"`, `"refuse"`, or a backend's name for each
    /// command. Default: none, refused.
    pub keyless: BTreeMap<String, Keyless>,
    /// Where scripts and functions without keys go: `"home"`, `"refuse"`, or a backend's name.
    /// Default `"home"`.
    pub keyless_scripts: Keyless,
    /// Without any `[[user]]`: clients of loopback and unix addresses are admins. Default false.
    pub admin: bool,
    /// Commands that are refused to everybody, by name, such as `["KEYS"]`. Default: none.
    pub deny: Vec<String>,
}

/// `[commands] cross_shard`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrossShard {
    #[default]
    Gather,
    Refuse,
}

/// `[commands] cross_shard_transactions`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrossShardTransactions {
    #[default]
    Prepared,
    Refuse,
}

/// `[commands] shard_errors`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardErrors {
    #[default]
    Reply,
    Close,
}

/// Where something without a key goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Keyless {
    #[default]
    Home,
    Refuse,
    /// The backend called so.
    Shard(String),
}

/// `[limits]`; sizes are numbers of bytes or text such as `"4MiB"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Clients connected at once; more are answered as Redis does and closed. Default 10000.
    #[serde(deserialize_with = "value::number")]
    pub clients_max: u32,
    /// Requests of one client in flight before it is not read any more. Default 1024.
    #[serde(deserialize_with = "value::number")]
    pub client_inflight_max: u32,
    /// Bytes of replies that wait for one client before it is not read any more; it is read again
    /// at half of them. Default 1 MiB.
    #[serde(deserialize_with = "value::bytes")]
    pub client_output_bytes_max: u64,
    /// Bytes of replies that wait for one client before it is closed. Default 1 GiB.
    #[serde(deserialize_with = "value::bytes")]
    pub client_output_hard_bytes_max: u64,
    /// Bytes of messages that wait for one subscriber before it is closed. Default 32 MiB.
    #[serde(deserialize_with = "value::bytes")]
    pub subscriber_output_hard_bytes_max: u64,
    /// Bytes of messages that wait for one subscriber before it is closed when they do so for
    /// `timeouts.subscriber_output`. Default 8 MiB.
    #[serde(deserialize_with = "value::bytes")]
    pub subscriber_output_soft_bytes_max: u64,
    /// Bytes that wait to be sent on one backend connection before further requests stay with their
    /// clients. Default 4 MiB.
    #[serde(deserialize_with = "value::bytes")]
    pub backend_buffer_bytes_max: u64,
    /// Requests in flight on one backend connection before further ones stay with their clients.
    /// Default 16384.
    #[serde(deserialize_with = "value::number")]
    pub backend_inflight_max: u32,
    /// Bytes of one argument of a request, Redis' `proto-max-bulk-len`. Default 512 MiB.
    #[serde(deserialize_with = "value::bytes")]
    pub request_bytes_max: u64,
    /// Bytes of one request, or of a queued transaction, Redis' `client-query-buffer-limit`; the
    /// client is closed beyond it. Default 1 GiB.
    #[serde(deserialize_with = "value::bytes")]
    pub query_buffer_bytes_max: u64,
    /// Connections to one backend that each worker lends to single clients (WATCH, blocking
    /// commands). Default 256.
    #[serde(deserialize_with = "value::number")]
    pub leases_max: u32,
    /// Further ones that each worker keeps for transactions over several backends; one that finds none
    /// free waits for as long as for a request. Default 32.
    #[serde(deserialize_with = "value::number")]
    pub transaction_leases_max: u32,
    /// Bytes that `commands.cross_shard = "gather"` copies between backends for one command, as DUMP
    /// writes them; more is refused with CROSSSLOT. Default 8 MiB.
    #[serde(deserialize_with = "value::bytes")]
    pub cross_shard_max_bytes: u64,
}

/// `[timeouts]`; text such as `"500ms"`, `"5s"`, `"2m"`, `"1h"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// Until a backend has accepted a connection and its handshake. Default 1 s.
    #[serde(deserialize_with = "value::duration")]
    pub connect: Duration,
    /// The first pause before a lost backend is tried again; it doubles. Default 20 ms.
    #[serde(deserialize_with = "value::duration")]
    pub reconnect_min: Duration,
    /// The longest pause before a lost backend is tried again. Default 500 ms.
    #[serde(deserialize_with = "value::duration")]
    pub reconnect_max: Duration,
    /// Until a backend has answered a request; a large one, or its reply, has so long to move on. Default 5 s.
    #[serde(deserialize_with = "value::duration")]
    pub request: Duration,
    /// Until a backend has answered a script, a function, a transaction, or what goes to all backends
    /// (KEYS, FLUSHALL). Default 60 s.
    #[serde(deserialize_with = "value::duration")]
    pub script: Duration,
    /// Until a client that asks nothing is closed, at most a year; `"0"` is never. Default 0.
    #[serde(deserialize_with = "value::duration")]
    pub client_idle: Duration,
    /// How long a subscriber may be over its soft limit. Default 60 s.
    #[serde(deserialize_with = "value::duration")]
    pub subscriber_output: Duration,
    /// How long requests in flight may finish when the proxy shuts down. Default 10 s.
    #[serde(deserialize_with = "value::duration")]
    pub shutdown: Duration,
}

/// `[[user]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name in AUTH; `default` is the user of AUTH with a password alone. Required.
    pub name: String,
    /// The password itself. After loading it is here, wherever it came from. One of the three is
    /// required.
    pub password: Option<Secret>,
    /// The environment variable that holds the password.
    pub password_env: Option<String>,
    /// The file that holds the password in its first line; a relative path starts at the
    /// configuration's directory.
    pub password_file: Option<PathBuf>,
    /// Whether this user may reach one shard alone and change servers' settings. Default false.
    #[serde(default)]
    pub admin: bool,
}

/// `[log]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least that is written. Default `"info"`.
    #[serde(deserialize_with = "value::word")]
    pub level: LogLevel,
    /// Lines for people or for machines. Default `"text"`.
    #[serde(deserialize_with = "value::word")]
    pub format: LogFormat,
}

/// `[log] level`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// `[log] format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Config {
    /// Reads and checks a file, and fetches the passwords that it names.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong: the first mistake, in one line.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|error| ConfigError::unread(file, &error))?;
        Self::parse(file, &text)
    }

    /// As [`Config::load`], of a text; `file` is named in errors and starts relative paths.
    ///
    /// # Errors
    /// Something in the text is wrong: the first mistake, in one line.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let (source, syntax) = source::Source::new(text);
        if let Some(error) = syntax {
            return Err(ConfigError::syntax(file, &source, &error));
        }
        let mistaken = |mistake: check::Mistake| ConfigError::field(file, &source, &mistake.field, mistake.text);
        check::sections(&source).map_err(mistaken)?;
        let mut config: Self = toml::from_str(text).map_err(|error| ConfigError::toml(file, &source, &error))?;
        config.file = file.to_owned();
        check::check(&config, &source).and_then(|()| passwords::fetch(&mut config)).map_err(mistaken)?;
        Ok(config)
    }

    /// What the topology is built from; [`topology::Topology::build`] accepts it.
    #[must_use]
    pub fn topology_spec(&self) -> topology::Spec {
        topology::Spec {
            shards: self.backend.iter().map(Backend::shard).collect(),
            home: self.placement.home.clone(),
            kind: self.placement.kind(),
            colocate: self
                .colocate
                .iter()
                .cloned()
                .chain(self.placement.presets.iter().filter_map(|name| presets::rules(name)).flatten())
                .map(Colocate::rule)
                .collect(),
        }
    }

    /// The names and rules of all presets, whether this configuration uses them or not.
    #[must_use]
    pub fn presets() -> Vec<(&'static str, Vec<topology::Colocate>)> {
        let rules = |name| presets::rules(name).unwrap_or_default().into_iter().map(Colocate::rule).collect();
        presets::ALL.iter().map(|(name, _)| (*name, rules(name))).collect()
    }

    /// What is allowed but perhaps not meant; one line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        warnings::warnings(self)
    }
}

impl Backend {
    fn shard(&self) -> Shard {
        Shard { name: self.name.clone(), endpoint: self.address.clone(), weight: self.weight }
    }
}

impl Colocate {
    fn rule(self) -> topology::Colocate {
        topology::Colocate { pattern: self.pattern, shard: self.shard }
    }
}

impl Placement {
    /// The placement in the topology's terms. Names have been checked; defaults are twemproxy's.
    fn kind(&self) -> topology::Kind {
        let hash = self.hash.as_deref().and_then(topology::KeyHash::named);
        let hash = hash.unwrap_or(topology::KeyHash::Fnv1ax64);
        let hash_tag = self.hash_tag.as_deref().and_then(|tag| tag.as_bytes().try_into().ok());
        match self.kind {
            PlacementKind::Slots => topology::Kind::Slots,
            PlacementKind::Ketama => topology::Kind::Ketama { hash, hash_tag },
            PlacementKind::Modula => topology::Kind::Modula { hash, hash_tag },
        }
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            listen: vec![Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 7379 }],
            threads: 1,
            backlog: 1024,
            reuse_port: true,
        }
    }
}

impl Default for Placement {
    fn default() -> Self {
        Self { home: None, kind: PlacementKind::Slots, hash: None, hash_tag: None, version: 1, presets: Vec::new() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            clients_max: 10_000,
            client_inflight_max: 1024,
            client_output_bytes_max: MIB,
            client_output_hard_bytes_max: 1024 * MIB,
            subscriber_output_hard_bytes_max: 32 * MIB,
            subscriber_output_soft_bytes_max: 8 * MIB,
            backend_buffer_bytes_max: 4 * MIB,
            backend_inflight_max: 16_384,
            request_bytes_max: 512 * MIB,
            query_buffer_bytes_max: 1024 * MIB,
            leases_max: 256,
            transaction_leases_max: 32,
            cross_shard_max_bytes: 8 * MIB,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            reconnect_min: Duration::from_millis(20),
            reconnect_max: Duration::from_millis(500),
            request: Duration::from_secs(5),
            script: Duration::from_secs(60),
            client_idle: Duration::ZERO,
            subscriber_output: Duration::from_secs(60),
            shutdown: Duration::from_secs(10),
        }
    }
}

fn one() -> u32 {
    1
}
