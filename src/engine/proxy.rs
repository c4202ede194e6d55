//! What the proxy says of itself where a server would speak of itself: INFO's fields, the
//! parameters of CONFIG that concern clients, and the section `# Ringway`.

use super::Engine;
use super::conn::Link;
use crate::command::{self, Route};

/// Facts of the proxy, as texts. Empty where an answer does not need them.
#[derive(Debug, Default)]
pub(super) struct Proxy {
    /// INFO's fields that are not the servers'.
    pub(super) fields: Vec<(&'static str, String)>,
    /// CONFIG's parameters that are not the servers'.
    pub(super) parameters: Vec<(&'static str, String)>,
    /// Calls of commands that the proxy answers itself, since CONFIG RESETSTAT; those of one at least.
    pub(super) calls: Vec<(&'static str, u64)>,
    /// The lines of `# Ringway`.
    pub(super) section: Vec<(String, String)>,
}

impl Engine {
    #[cold]
    pub(super) fn proxy(&self) -> Proxy {
        Proxy {
            fields: self.info_fields(),
            parameters: self.parameters(),
            calls: self.own_calls(),
            section: self.ringway_section(),
        }
    }

    /// Calls by row, of all workers.
    fn calls(&self) -> Vec<u64> {
        let facts = &self.options.facts;
        let workers = || facts.workers.iter().chain(facts.workers.is_empty().then_some(&self.metrics));
        let of = |row: usize| workers().filter_map(|worker| worker.requests.get(row)).map(|cell| cell.value()).sum();
        (0..command::all().len()).map(of).collect()
    }

    /// CONFIG RESETSTAT, here or on another worker.
    pub(super) fn reset_calls(&mut self) {
        self.tally.settle(&self.metrics);
        self.calls_before = self.calls();
    }

    fn own_calls(&self) -> Vec<(&'static str, u64)> {
        let before = |row: usize| self.calls_before.get(row).copied().unwrap_or(0);
        let own = |row: usize| matches!(command::all()[row].route, Route::Local(_));
        let calls = self.calls().into_iter().enumerate().filter(|(row, calls)| own(*row) && *calls > before(*row));
        calls.map(|(row, calls)| (command::all()[row].name, calls - before(row))).collect()
    }

    fn info_fields(&self) -> Vec<(&'static str, String)> {
        let facts = &self.options.facts;
        let workers = || facts.workers.iter().chain(facts.workers.is_empty().then_some(&self.metrics));
        let clients: i64 = workers().map(|worker| worker.clients.value()).sum();
        let accepted: u64 = workers().map(|worker| worker.clients_total.value()).sum();
        let refused: u64 = workers().flat_map(|worker| &worker.clients_refused).map(|refused| refused.value()).sum();
        // Of the other workers' what they said last.
        let others = workers().filter(|worker| !std::sync::Arc::ptr_eq(worker, &self.metrics));
        let blocked = self.blocked_clients() + others.map(|worker| worker.clients_blocked.value()).sum::<i64>();
        let tracking: i64 = workers().map(|worker| worker.clients_tracking.value()).sum();
        let seconds = self.now / 1_000_000;
        vec![
            ("redis_mode", "standalone".to_owned()),
            ("process_id", facts.pid.to_string()),
            ("run_id", facts.run_id.clone()),
            ("tcp_port", facts.port.to_string()),
            ("server_time_usec", (self.options.epoch + self.now).to_string()),
            ("uptime_in_seconds", seconds.to_string()),
            ("uptime_in_days", (seconds / 86_400).to_string()),
            ("connected_clients", clients.to_string()),
            ("cluster_connections", "0".to_owned()),
            ("maxclients", facts.clients_max.to_string()),
            ("blocked_clients", blocked.to_string()),
            ("tracking_clients", tracking.to_string()),
            ("clients_in_timeout_table", "0".to_owned()),
            ("total_connections_received", accepted.to_string()),
            ("rejected_connections", refused.to_string()),
            ("role", "master".to_owned()),
            ("cluster_enabled", "0".to_owned()),
        ]
    }

    /// What the configuration says comes first; the rest follows from the options.
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let facts = &self.options.facts;
        let mut parameters = facts.parameters.clone();
        parameters.extend([
            ("port", facts.port.to_string()),
            ("bind", String::new()),
            ("unixsocket", String::new()),
            ("maxclients", facts.clients_max.to_string()),
            ("timeout", "0".to_owned()),
            ("tcp-keepalive", "300".to_owned()),
            ("client-query-buffer-limit", self.options.query_bytes_max.to_string()),
            ("proto-max-bulk-len", self.options.limits.bulk_bytes_max.to_string()),
            ("client-output-buffer-limit", "normal 0 0 0 slave 0 0 0 pubsub 33554432 8388608 60".to_owned()),
            ("maxmemory-clients", "0".to_owned()),
            ("databases", self.options.databases.to_string()),
            ("cluster-enabled", "no".to_owned()),
            // Passwords of servers and clients are told to nobody.
            ("requirepass", String::new()),
            ("masterauth", String::new()),
            ("masteruser", String::new()),
            ("tls-key-file-pass", String::new()),
            ("tls-client-key-file-pass", String::new()),
        ]);
        parameters
    }

    fn ringway_section(&self) -> Vec<(String, String)> {
        let map = &self.topology;
        let mut lines = vec![
            ("ringway_version".to_owned(), self.options.facts.version.to_owned()),
            ("threads".to_owned(), self.options.facts.threads.to_string()),
            ("shards".to_owned(), map.shards().len().to_string()),
            ("home".to_owned(), map.shard(map.home()).name.clone()),
            ("topology_version".to_owned(), map.version().to_string()),
        ];
        for (index, (shard, state)) in map.shards().iter().zip(&self.shards).enumerate() {
            let link = self.conns.get(state.shared[0] as usize).map(|conn| conn.link);
            let up = if link.is_some_and(Link::is_up) { "up" } else { "down" };
            let slots = map.slots_of(crate::topology::ShardId(index as u16));
            let version = state.version.as_deref().unwrap_or("");
            let text = format!("address={},state={up},version={version},slots={slots}", shard.endpoint);
            lines.push((format!("shard_{}", shard.name), text));
        }
        lines
    }
}
