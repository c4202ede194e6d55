//! Unit tests of the page: cells are written, the text is read.

use super::*;

fn metrics(workers: usize) -> Metrics {
    let labels = Labels {
        commands: vec!["get", "set", "client|list"],
        classes: &["read", "write"],
        error_kinds: &["crossslot", "server"],
        cross_kinds: &["split"],
        backends: vec!["a".to_owned(), "b \"x\"".to_owned()],
    };
    Metrics::new(labels, workers).unwrap()
}

/// The value of the series whose line starts with `series` and a space; none when it is absent.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let page = metrics.render().unwrap();
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn workers_are_summed() {
    let metrics = metrics(3);
    for index in 0..3 {
        let worker = metrics.worker(index);
        worker.requests[0].add(index as u64 + 1);
        worker.clients.inc();
        worker.bytes_in.add(10);
        worker.backends[1].fail(BackendError::Timeout);
        worker.backends[0].requests.inc();
        worker.backends[0].inflight.add(2);
        worker.errors[1].inc();
        worker.cross_shard[0].inc();
    }
    let check = |series: &str, expected: f64| {
        assert_eq!(value(&metrics, series), Some(expected), "{series}");
    };
    check("ringway_requests_total{command=\"get\"}", 6.0);
    check("ringway_client_connections", 3.0);
    check("ringway_client_bytes_total{direction=\"in\"}", 30.0);
    check("ringway_client_bytes_total{direction=\"out\"}", 0.0);
    check("ringway_backend_errors_total{backend=\"b \\\"x\\\"\",kind=\"timeout\"}", 3.0);
    check("ringway_backend_errors_total{backend=\"a\",kind=\"timeout\"}", 0.0);
    check("ringway_backend_requests_total{backend=\"a\"}", 3.0);
    check("ringway_backend_inflight{backend=\"a\"}", 6.0);
    check("ringway_replies_error_total{kind=\"server\"}", 3.0);
    check("ringway_cross_shard_total{kind=\"split\"}", 3.0);
    assert_eq!(metrics.backend(0), BackendTotals { requests: 3, inflight: 6, ..BackendTotals::default() });
    assert_eq!((metrics.clients(), metrics.requests()), (3, 6));
}

#[test]
fn a_command_shows_after_its_first_request() {
    let metrics = metrics(1);
    assert_eq!(value(&metrics, "ringway_requests_total{command=\"client|list\"}"), None);
    metrics.worker(0).requests[2].inc();
    assert_eq!(value(&metrics, "ringway_requests_total{command=\"client|list\"}"), Some(1.0));
    assert_eq!(value(&metrics, "ringway_requests_total{command=\"get\"}"), None);
}

#[test]
fn a_backend_is_up_when_every_worker_can_use_it() {
    let metrics = metrics(2);
    let up = || (value(&metrics, "ringway_backend_up{backend=\"a\"}"), metrics.backends_up());
    assert_eq!(up(), (Some(0.0), 0));
    metrics.worker(0).backends[0].up.set(1);
    assert_eq!(up(), (Some(0.0), 0));
    metrics.worker(1).backends[0].up.set(1);
    assert_eq!(up(), (Some(1.0), 1));
}

#[test]
fn histograms_are_cumulative_seconds() {
    let metrics = metrics(2);
    metrics.worker(0).durations[0].observe_us(16);
    metrics.worker(1).durations[0].observe_us(17);
    metrics.worker(1).durations[0].observe(Duration::from_secs(60));
    let name = "ringway_request_duration_seconds";
    let check = |suffix: &str, expected: f64| {
        assert_eq!(value(&metrics, &format!("{name}{suffix}")), Some(expected), "{suffix}");
    };
    check("_bucket{class=\"read\",le=\"0.000016\"}", 1.0);
    check("_bucket{class=\"read\",le=\"0.000032\"}", 2.0);
    check("_bucket{class=\"read\",le=\"16.777216\"}", 2.0);
    check("_bucket{class=\"read\",le=\"+Inf\"}", 3.0);
    check("_count{class=\"read\"}", 3.0);
    check("_sum{class=\"read\"}", 60.000_033);
    check("_count{class=\"write\"}", 0.0);
}

#[test]
fn control_figures_and_refusals() {
    let metrics = metrics(1);
    let control = metrics.control();
    control.topology_version.set(7);
    control.slots[0].set(16384);
    control.reload(Reload::Failure);
    control.refuse(Refusal::MaxClients);
    metrics.worker(0).refuse(Refusal::MaxClients);
    assert_eq!(value(&metrics, "ringway_client_connections_max"), None);
    control.clients_max.set(10_000);
    let check = |series: &str, expected: f64| {
        assert_eq!(value(&metrics, series), Some(expected), "{series}");
    };
    check("ringway_topology_version", 7.0);
    check("ringway_slots{backend=\"a\"}", 16384.0);
    check("ringway_config_reloads_total{result=\"failure\"}", 1.0);
    check("ringway_config_reloads_total{result=\"success\"}", 0.0);
    check("ringway_clients_refused_total{reason=\"max_clients\"}", 2.0);
    check("ringway_client_connections_max", 10_000.0);
    check(concat!("ringway_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0);
}

#[test]
fn every_family_of_the_contract_is_on_the_page() {
    let metrics = metrics(1);
    metrics.worker(0).requests[0].inc();
    let page = metrics.render().unwrap();
    for name in [
        "ringway_requests_total",
        "ringway_request_duration_seconds",
        "ringway_backend_request_duration_seconds",
        "ringway_backend_requests_total",
        "ringway_backend_errors_total",
        "ringway_backend_up",
        "ringway_backend_connections",
        "ringway_backend_inflight",
        "ringway_backend_reconnects_total",
        "ringway_slots",
        "ringway_client_connections",
        "ringway_clients_blocked",
        "ringway_client_connections_total",
        "ringway_clients_refused_total",
        "ringway_client_bytes_total",
        "ringway_replies_error_total",
        "ringway_cross_shard_total",
        "ringway_buffered_bytes",
        "ringway_topology_version",
        "ringway_config_reloads_total",
        "ringway_build_info",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
        "process_threads",
    ] {
        assert!(page.contains(&format!("\n# TYPE {name} ")) || page.starts_with(&format!("# TYPE {name} ")), "{name}");
        assert!(page.contains(&format!("# HELP {name} ")), "{name}");
    }
}

#[test]
fn labels_are_numbered_as_the_cells_are() {
    assert!(BackendError::ALL.iter().enumerate().all(|(index, kind)| *kind as usize == index));
    assert!(Refusal::ALL.iter().enumerate().all(|(index, reason)| *reason as usize == index));
    assert!(Reload::ALL.iter().enumerate().all(|(index, result)| *result as usize == index));
}
