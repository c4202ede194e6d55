//! The state of the proxy as one value: what `/status` prints as JSON, `/readyz` judges, and the
//! page shows. Its fields are a contract with whoever parses them.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::{AdminState, ShardFacts};
use crate::advice::{Counts, Report};
use crate::metrics::{BackendTotals, Counter, Metrics, WorkerMetrics};

/// Everything, at one moment.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) version: &'static str,
    pub(super) uptime_seconds: u64,
    /// At least `quorum` shards are up and the proxy is not stopping.
    pub(super) ready: bool,
    pub(super) draining: bool,
    pub(super) quorum: usize,
    pub(super) topology_version: u64,
    pub(super) requests: u64,
    pub(super) error_replies: u64,
    pub(super) buffered_bytes: i64,
    pub(super) clients: Clients,
    pub(super) shards: Vec<Shard>,
    pub(super) workers: Vec<Worker>,
    /// About keys of one request on several shards; where nothing is counted, nothing.
    pub(super) advice: Option<Advice>,
}

/// What `ringway advise` prints, and the same for programs.
#[derive(Debug, Serialize)]
pub(super) struct Advice {
    pub(super) refused: u64,
    pub(super) gathered: u64,
    pub(super) rules: Vec<Rule>,
    pub(super) text: String,
}

/// A `[[colocate]]` rule.
#[derive(Debug, Serialize)]
pub(super) struct Rule {
    pub(super) pattern: String,
    pub(super) shard: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Clients {
    pub(super) connected: i64,
    pub(super) accepted: u64,
    pub(super) refused: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Shard {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) weight: u32,
    pub(super) slots: Option<u32>,
    pub(super) share: f64,
    pub(super) state: State,
    pub(super) inflight: i64,
    pub(super) connections: i64,
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) reconnects: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Worker {
    pub(super) clients: i64,
    pub(super) requests: u64,
    pub(super) buffered_bytes: i64,
}

/// Whether the workers can use a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Up,
    /// Some workers can, some cannot.
    Partial,
    Down,
}

impl Status {
    pub(super) fn of(state: &AdminState) -> Self {
        let metrics = &*state.metrics;
        let facts = state.facts.load();
        let shards: Vec<_> = facts.shards.iter().map(|facts| Shard::of(facts, metrics)).collect();
        let draining = state.draining.load(Ordering::Relaxed);
        let up = shards.iter().filter(|shard| shard.state == State::Up).count();
        let control = metrics.control();
        let workers = metrics.workers();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: state.started.elapsed().as_secs(),
            ready: up >= facts.quorum && !draining,
            draining,
            quorum: facts.quorum,
            topology_version: facts.topology_version,
            requests: metrics.requests(),
            error_replies: workers.iter().map(|worker| total(&worker.errors)).sum(),
            buffered_bytes: workers.iter().map(|worker| worker.buffered_bytes.value()).sum(),
            clients: Clients {
                connected: metrics.clients(),
                accepted: workers.iter().map(|worker| worker.clients_total.value()).sum(),
                refused: total(&control.clients_refused)
                    + workers.iter().map(|worker| total(&worker.clients_refused)).sum::<u64>(),
            },
            shards,
            workers: workers.iter().map(|worker| Worker::of(worker)).collect(),
            advice: None,
        }
    }

    /// With the advice, for which all that was counted is looked at.
    pub(super) fn advised(self, state: &AdminState) -> Self {
        Self { advice: state.report().map(Advice::of), ..self }
    }

    /// One line that says whether it is ready, then one for each shard that is not up.
    pub(super) fn readiness(&self) -> String {
        let up = self.shards.iter().filter(|shard| shard.state == State::Up).count();
        let word = match (self.ready, self.draining) {
            (true, _) => "ready",
            (false, true) => "not ready: stopping",
            (false, false) => "not ready",
        };
        let mut text = format!("{word}: {up} of {} shards up, {} needed\n", self.shards.len(), self.quorum);
        for shard in self.shards.iter().filter(|shard| shard.state != State::Up) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}: {} at {}", shard.state.label(), shard.name, shard.address);
        }
        text
    }
}

impl Shard {
    fn of(facts: &ShardFacts, metrics: &Metrics) -> Self {
        // By name: after a reload the configuration's order is not the cells' order.
        let index = metrics.backend_names().iter().position(|name| *name == facts.name);
        let totals = index.map_or_else(BackendTotals::default, |index| metrics.backend(index));
        Self {
            name: facts.name.clone(),
            address: facts.address.clone(),
            weight: facts.weight,
            slots: facts.slots,
            share: facts.share,
            state: match totals {
                BackendTotals { up: true, .. } => State::Up,
                BackendTotals { workers_up: 0, .. } => State::Down,
                _ => State::Partial,
            },
            inflight: totals.inflight,
            connections: totals.connections,
            requests: totals.requests,
            errors: totals.errors,
            reconnects: totals.reconnects,
        }
    }
}

impl Advice {
    fn of(report: Report) -> Self {
        let rules = report.rules.into_iter().map(|rule| Rule { pattern: rule.pattern, shard: rule.shard });
        let Counts { refused, gathered } = report.counts;
        Self { refused, gathered, rules: rules.collect(), text: report.text }
    }
}

impl Worker {
    fn of(worker: &WorkerMetrics) -> Self {
        Self {
            clients: worker.clients.value(),
            requests: total(&worker.requests),
            buffered_bytes: worker.buffered_bytes.value(),
        }
    }
}

impl State {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Partial => "partial",
            Self::Down => "down",
        }
    }
}

fn total(counters: &[Counter]) -> u64 {
    counters.iter().map(Counter::value).sum()
}
