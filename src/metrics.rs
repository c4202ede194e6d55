//! What the proxy counts, and the page that Prometheus reads.
//!
//! A leaf: it knows no other module. Each worker owns one [`WorkerMetrics`], a block of plain cells
//! that only it writes; the control thread owns [`ControlMetrics`]. Nothing is shared between
//! writers, so counting costs a load and a store. The cells are summed when somebody scrapes:
//!
//! ```text
//! worker 0: cells --+
//! worker 1: cells --+--> Families (a prometheus Collector) --> Registry --> text
//! control:  cells --+
//! /proc/self -------+--> Process
//! ```
//!
//! Labels are closed sets given at the start, never a key or a client's address.

mod cell;
mod families;
mod process;

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Registry, TextEncoder};

pub use cell::{Counter, Gauge, Histogram};

/// The values of every label, in the order in which the cells are indexed.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// One per row of the command table: `WorkerMetrics::requests[row]`.
    pub commands: Vec<&'static str>,
    /// Classes of commands that have a latency histogram of their own.
    pub classes: &'static [&'static str],
    /// Kinds of error replies that a client may see.
    pub error_kinds: &'static [&'static str],
    /// What happened to requests whose keys are on several shards.
    pub cross_kinds: &'static [&'static str],
    /// Names of the backends, in the order of the configuration.
    pub backends: Vec<String>,
}

/// All cells of the process and the registry that exposes them.
#[derive(Debug)]
pub struct Metrics {
    cells: Arc<Cells>,
    registry: Registry,
}

/// The cells of one worker. Written by that worker only, read by anybody.
#[derive(Debug)]
pub struct WorkerMetrics {
    /// Requests received, by row of the command table.
    pub requests: Box<[Counter]>,
    /// From the last byte of the request in to the reply complete, by class.
    pub durations: Box<[Histogram]>,
    /// Error replies given to clients, by kind.
    pub errors: Box<[Counter]>,
    /// Requests whose keys are on several shards, by kind.
    pub cross_shard: Box<[Counter]>,
    pub backends: Box<[BackendMetrics]>,
    /// Clients connected now.
    pub clients: Gauge,
    /// Clients whose blocking command waits, as of the latest tick.
    pub clients_blocked: Gauge,
    /// Clients that track what they read.
    pub clients_tracking: Gauge,
    /// Clients ever accepted.
    pub clients_total: Counter,
    /// By [`Refusal`].
    pub clients_refused: [Counter; Refusal::ALL.len()],
    /// Bytes read from clients.
    pub bytes_in: Counter,
    /// Bytes written to clients.
    pub bytes_out: Counter,
    /// Bytes held in the buffers of clients and backends now.
    pub buffered_bytes: Gauge,
}

/// What one worker counts about one backend.
#[derive(Debug, Default)]
pub struct BackendMetrics {
    /// Requests written to it (parts of split requests count one each).
    pub requests: Counter,
    /// By [`BackendError`].
    pub errors: [Counter; BackendError::ALL.len()],
    /// 1 while this worker can use it, else 0.
    pub up: Gauge,
    pub connections: Gauge,
    /// Requests sent or waiting to be sent, not answered yet.
    pub inflight: Gauge,
    /// Connections made again after one was lost.
    pub reconnects: Counter,
    /// From the request queued to its reply complete.
    pub duration: Histogram,
}

/// What happens once per process. Written by the control thread (and its acceptor) only.
#[derive(Debug)]
pub struct ControlMetrics {
    pub topology_version: Gauge,
    /// Slots owned, by backend.
    pub slots: Box<[Gauge]>,
    /// By [`Reload`].
    pub config_reloads: [Counter; Reload::ALL.len()],
    /// Clients that the acceptor turned away before a worker saw them, by [`Refusal`].
    pub clients_refused: [Counter; Refusal::ALL.len()],
    /// The limit on clients; 0 is no limit and shows no series.
    pub clients_max: Gauge,
}

/// One backend's figures, summed over the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendTotals {
    /// Every worker can use it.
    pub up: bool,
    /// How many workers can use it.
    pub workers_up: usize,
    pub requests: u64,
    pub errors: u64,
    pub connections: i64,
    pub inflight: i64,
    pub reconnects: u64,
}

/// Why a client was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The configured limit on clients is reached.
    MaxClients,
    /// The process or the system has no file descriptor or memory left for it.
    Resources,
    /// The proxy is stopping.
    Draining,
}

/// Why a request to a backend, or a connection to it, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendError {
    /// No connection could be made.
    Connect,
    /// An established connection broke.
    Lost,
    /// No reply in time.
    Timeout,
    /// It sent something that is not RESP, or a reply that nobody waited for.
    Protocol,
    /// It refused the user or password.
    Auth,
    /// A buffer or window was full and stayed so.
    Overflow,
}

/// How a reload of the configuration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    Success,
    Failure,
}

/// What the registry's collector reads.
#[derive(Debug)]
struct Cells {
    labels: Labels,
    workers: Vec<Arc<WorkerMetrics>>,
    control: Arc<ControlMetrics>,
}

impl Metrics {
    /// Cells for `workers` workers, all zero.
    ///
    /// # Errors
    /// The registry refused a family: two have one name, which a test of this module rules out.
    pub fn new(labels: Labels, workers: usize) -> Result<Self, prometheus::Error> {
        let workers = (0..workers).map(|_| Arc::new(WorkerMetrics::new(&labels))).collect();
        let control = Arc::new(ControlMetrics::new(labels.backends.len()));
        let cells = Arc::new(Cells { labels, workers, control });
        let registry = Registry::new();
        registry.register(Box::new(families::Families::new(Arc::clone(&cells))?))?;
        registry.register(Box::new(process::Process::new()?))?;
        Ok(Self { cells, registry })
    }

    /// The cells of worker `index`, for that worker alone to write.
    ///
    /// # Panics
    /// There is no such worker.
    #[must_use]
    pub fn worker(&self, index: usize) -> Arc<WorkerMetrics> {
        Arc::clone(&self.cells.workers[index])
    }

    /// The cells of the control thread, for it alone to write.
    #[must_use]
    pub fn control(&self) -> Arc<ControlMetrics> {
        Arc::clone(&self.cells.control)
    }

    /// The page in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// The encoder refused a family; it does so only for one without a name or samples.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// All workers, in order.
    #[must_use]
    pub fn workers(&self) -> &[Arc<WorkerMetrics>] {
        &self.cells.workers
    }

    /// Names of the backends, in the order of [`Self::backend`].
    #[must_use]
    pub fn backend_names(&self) -> &[String] {
        &self.cells.labels.backends
    }

    /// The figures of backend `index`; all zero when there is no such backend.
    #[must_use]
    pub fn backend(&self, index: usize) -> BackendTotals {
        self.cells.backend(index)
    }

    /// Backends that every worker can use.
    #[must_use]
    pub fn backends_up(&self) -> usize {
        (0..self.backend_names().len()).filter(|&index| self.backend(index).up).count()
    }

    /// Clients connected now.
    #[must_use]
    pub fn clients(&self) -> i64 {
        self.workers().iter().map(|worker| worker.clients.value()).sum()
    }

    /// Requests received since the start.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.workers().iter().flat_map(|worker| worker.requests.iter()).map(Counter::value).sum()
    }
}

impl WorkerMetrics {
    /// A block of its own, for tests; a worker's is [`Metrics::worker`].
    #[must_use]
    pub fn new(labels: &Labels) -> Self {
        Self {
            requests: cells(labels.commands.len()),
            durations: cells(labels.classes.len()),
            errors: cells(labels.error_kinds.len()),
            cross_shard: cells(labels.cross_kinds.len()),
            backends: cells(labels.backends.len()),
            clients: Gauge::default(),
            clients_blocked: Gauge::default(),
            clients_tracking: Gauge::default(),
            clients_total: Counter::default(),
            clients_refused: Default::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            buffered_bytes: Gauge::default(),
        }
    }

    pub fn refuse(&self, reason: Refusal) {
        self.clients_refused[reason as usize].inc();
    }
}

impl BackendMetrics {
    pub fn fail(&self, kind: BackendError) {
        self.errors[kind as usize].inc();
    }

    pub fn observe(&self, took: Duration) {
        self.duration.observe(took);
    }
}

impl ControlMetrics {
    fn new(backends: usize) -> Self {
        Self {
            topology_version: Gauge::default(),
            slots: cells(backends),
            config_reloads: Default::default(),
            clients_refused: Default::default(),
            clients_max: Gauge::default(),
        }
    }

    pub fn reload(&self, result: Reload) {
        self.config_reloads[result as usize].inc();
    }

    pub fn refuse(&self, reason: Refusal) {
        self.clients_refused[reason as usize].inc();
    }
}

impl Refusal {
    /// In the order of their numbers.
    pub const ALL: [Self; 3] = [Self::MaxClients, Self::Resources, Self::Draining];

    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::MaxClients => "max_clients",
            Self::Resources => "resources",
            Self::Draining => "draining",
        }
    }
}

impl BackendError {
    /// In the order of their numbers.
    pub const ALL: [Self; 6] = [Self::Connect, Self::Lost, Self::Timeout, Self::Protocol, Self::Auth, Self::Overflow];

    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Lost => "lost",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Auth => "auth",
            Self::Overflow => "overflow",
        }
    }
}

impl Reload {
    /// In the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Success, Self::Failure];

    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

impl Cells {
    fn backend(&self, index: usize) -> BackendTotals {
        let mut totals = BackendTotals::default();
        for worker in &self.workers {
            let Some(backend) = worker.backends.get(index) else {
                return BackendTotals::default();
            };
            totals.workers_up += usize::from(backend.up.value() > 0);
            totals.requests += backend.requests.value();
            totals.errors += backend.errors.iter().map(Counter::value).sum::<u64>();
            totals.connections += backend.connections.value();
            totals.inflight += backend.inflight.value();
            totals.reconnects += backend.reconnects.value();
        }
        totals.up = totals.workers_up > 0 && totals.workers_up == self.workers.len();
        totals
    }
}

fn cells<T: Default>(count: usize) -> Box<[T]> {
    std::iter::repeat_with(T::default).take(count).collect()
}

#[cfg(test)]
mod tests;
