//! What the engine is told once: limits, timeouts, who may do what, and how the proxy names itself.

use std::collections::HashMap;
use std::sync::Arc;

use super::pubsub::{Board, OutputLimits};
use crate::advice::Tallies;
use crate::command;
use crate::metrics::WorkerMetrics;
use crate::resp::Limits;
use crate::topology::ShardId;

/// Limits, timeouts and permissions. Times are microseconds of the driver's clock.
#[derive(Clone, Debug)]
pub struct Options {
    pub limits: Limits,
    /// Bytes that one client may have sent and not seen used.
    pub query_bytes_max: usize,
    /// Requests of one client in flight; at the limit its socket is not read.
    pub client_inflight_max: usize,
    /// Bytes of replies that one client has not read; at the limit its socket is not read.
    pub client_output_bytes_max: usize,
    /// When a subscriber that does not read is closed.
    pub subscribers: OutputLimits,
    /// Bytes of replies that one client has not read before it is closed.
    pub client_output_hard_bytes_max: usize,
    /// How long a client may ask nothing before it is closed; 0: for ever.
    pub client_idle: u64,
    /// Bytes that wait to be written to one connection of a backend.
    pub backend_buffer_bytes_max: usize,
    /// Requests of one connection of a backend in flight.
    pub backend_inflight_max: usize,
    /// Connections of one backend that single clients hold (transactions, blocking commands).
    pub leases_max: usize,
    /// Further ones that only transactions over several shards use.
    pub transaction_leases_max: usize,
    /// Transactions over several shards are prepared on each; else they are refused.
    pub prepared: bool,
    /// A client whose request a shard that is not there cannot answer is closed, not told.
    pub close_on_shard_errors: bool,
    /// Values of keys on several shards are brought together where a command needs them so; else it is
    /// refused.
    pub gather: bool,
    /// What may be brought together for one command, in DUMP's bytes.
    pub gather_bytes_max: usize,
    /// How long a server may take to answer the greeting.
    pub connect_timeout: u64,
    pub request_timeout: u64,
    pub script_timeout: u64,
    /// Who may use the proxy; with nobody listed, everybody may.
    pub users: Vec<User>,
    /// Local clients are admins when nobody is listed.
    pub admin: bool,
    pub keyless_scripts: Option<ShardId>,
    /// Who answers commands that name no key and that only the servers know (modules'), by lower-case
    /// name: `ft.search`, or `ft.config|get`.
    pub keyless: HashMap<String, ShardId>,
    /// Rows of the command table that nobody may use.
    pub deny: Vec<command::CommandId>,
    /// How each shard wants to be greeted, by [`ShardId`].
    pub credentials: Vec<Credentials>,
    /// Databases that `SELECT` knows.
    pub databases: u32,
    /// The process' start in Unix microseconds, the clock's zero.
    pub epoch: u64,
    /// This worker's number, of `facts.threads`.
    pub worker: u16,
    /// Where the workers leave what they have counted of keys on several shards.
    pub tallies: Arc<Tallies>,
    /// What the clients of all workers are subscribed to; none when there is one worker.
    pub board: Option<Arc<Board>>,
    /// How the proxy names itself in INFO.
    pub facts: Facts,
}

impl Default for Options {
    /// What the configuration file's defaults are, for one shard without credentials.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            query_bytes_max: 1024 * 1024 * 1024,
            client_inflight_max: 1024,
            client_output_bytes_max: 1024 * 1024,
            client_output_hard_bytes_max: 1024 * 1024 * 1024,
            client_idle: 0,
            subscribers: OutputLimits::default(),
            backend_buffer_bytes_max: 4 * 1024 * 1024,
            backend_inflight_max: 16_384,
            leases_max: 256,
            transaction_leases_max: 32,
            prepared: true,
            close_on_shard_errors: false,
            gather: true,
            gather_bytes_max: 8 * 1024 * 1024,
            connect_timeout: 1_000_000,
            request_timeout: 5_000_000,
            script_timeout: 60_000_000,
            users: Vec::new(),
            admin: false,
            keyless_scripts: Some(ShardId(0)),
            keyless: HashMap::new(),
            deny: Vec::new(),
            credentials: vec![Credentials::default()],
            databases: 16,
            epoch: 0,
            worker: 0,
            tallies: Arc::new(Tallies::new(1, Vec::new())),
            board: None,
            facts: Facts::default(),
        }
    }
}

/// What INFO and HELLO say of the process.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub version: &'static str,
    pub port: u16,
    pub pid: u32,
    pub run_id: String,
    pub threads: usize,
    pub clients_max: usize,
    /// What CONFIG GET says of parameters that concern clients (`bind`, `timeout`, ...); those that
    /// follow from other options need not be here.
    pub parameters: Vec<(&'static str, String)>,
    /// The cells of all workers: INFO speaks of every client of the process. Empty: of this
    /// worker's alone.
    pub workers: Vec<Arc<WorkerMetrics>>,
}

#[derive(Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub password: String,
    pub admin: bool,
}

#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub username: Option<String>,
    pub password: Option<String>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("admin", &self.admin).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}
