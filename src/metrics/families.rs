//! The families of `/metrics`: names, help texts, and the sums over all workers.
//!
//! [`FAMILIES`] is the one list of names; dashboards and alerts use nothing else. A command's
//! series appears with its first request, since the table has some four hundred rows; all other
//! series are there from the start, so that a first error is an increase and not a new series.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Error, proto};

use super::{BackendError, BackendMetrics, Cells, Counter, Gauge, Histogram, Refusal, Reload, WorkerMetrics};

/// The collector that sums the cells.
pub(super) struct Families {
    cells: Arc<Cells>,
    descs: Vec<Desc>,
}

/// One family: the name without its prefix, labels, type, and help.
struct Family {
    name: &'static str,
    labels: &'static [&'static str],
    kind: MetricType,
    help: &'static str,
    samples: fn(&Cells, &mut Samples),
}

/// The series of one family, as they are collected.
struct Samples {
    labels: &'static [&'static str],
    series: Vec<Metric>,
}

const PREFIX: &str = "ringway_";

const FAMILIES: &[Family] = &[
    Family {
        name: "requests_total",
        labels: &["command"],
        kind: MetricType::COUNTER,
        help: "Requests received from clients, by command; a command shows after its first request.",
        samples: |cells, out| {
            for (row, name) in cells.labels.commands.iter().enumerate() {
                let count = cells.sum(|worker| &worker.requests[row]);
                if count > 0 {
                    out.counter(&[name], count);
                }
            }
        },
    },
    Family {
        name: "request_duration_seconds",
        labels: &["class"],
        kind: MetricType::HISTOGRAM,
        help: "Seconds from the last byte of a request in to its reply complete, by class of command.",
        samples: |cells, out| {
            for (class, name) in cells.labels.classes.iter().enumerate() {
                out.histogram(&[name], cells.workers.iter().map(|worker| &worker.durations[class]));
            }
        },
    },
    Family {
        name: "backend_request_duration_seconds",
        labels: &["backend"],
        kind: MetricType::HISTOGRAM,
        help: "Seconds from a request queued for a backend to its reply complete.",
        samples: |cells, out| {
            for (index, name) in cells.labels.backends.iter().enumerate() {
                out.histogram(&[name], cells.workers.iter().map(|worker| &worker.backends[index].duration));
            }
        },
    },
    Family {
        name: "backend_requests_total",
        labels: &["backend"],
        kind: MetricType::COUNTER,
        help: "Requests sent to a backend; each part of a split request counts once.",
        samples: |cells, out| cells.backend_counter(out, |backend| &backend.requests),
    },
    Family {
        name: "backend_errors_total",
        labels: &["backend", "kind"],
        kind: MetricType::COUNTER,
        help: "Failures of a backend's connections and requests, by kind; error replies of a healthy backend do not count.",
        samples: |cells, out| {
            for (index, name) in cells.labels.backends.iter().enumerate() {
                for kind in BackendError::ALL {
                    let count = cells.sum(|worker| &worker.backends[index].errors[kind as usize]);
                    out.counter(&[name, kind.label()], count);
                }
            }
        },
    },
    Family {
        name: "backend_up",
        labels: &["backend"],
        kind: MetricType::GAUGE,
        help: "1 while every worker can use the backend, else 0.",
        samples: |cells, out| {
            for (index, name) in cells.labels.backends.iter().enumerate() {
                out.gauge(&[name], f64::from(u8::from(cells.backend(index).up)));
            }
        },
    },
    Family {
        name: "backend_connections",
        labels: &["backend"],
        kind: MetricType::GAUGE,
        help: "Connections to a backend that are open now, of all workers.",
        samples: |cells, out| cells.backend_gauge(out, |backend| &backend.connections),
    },
    Family {
        name: "backend_inflight",
        labels: &["backend"],
        kind: MetricType::GAUGE,
        help: "Requests sent or queued to a backend that it has not answered yet.",
        samples: |cells, out| cells.backend_gauge(out, |backend| &backend.inflight),
    },
    Family {
        name: "backend_reconnects_total",
        labels: &["backend"],
        kind: MetricType::COUNTER,
        help: "Connections to a backend that were made again after one was lost.",
        samples: |cells, out| cells.backend_counter(out, |backend| &backend.reconnects),
    },
    Family {
        name: "slots",
        labels: &["backend"],
        kind: MetricType::GAUGE,
        help: "Hash slots of 16384 that a backend owns.",
        samples: |cells, out| {
            for (name, slots) in cells.labels.backends.iter().zip(&cells.control.slots) {
                out.gauge(&[name], slots.value() as f64);
            }
        },
    },
    Family {
        name: "client_connections",
        labels: &[],
        kind: MetricType::GAUGE,
        help: "Clients connected now.",
        samples: |cells, out| out.gauge(&[], cells.level(|worker| &worker.clients)),
    },
    Family {
        name: "clients_blocked",
        labels: &[],
        kind: MetricType::GAUGE,
        help: "Clients whose blocking command waits now.",
        samples: |cells, out| out.gauge(&[], cells.level(|worker| &worker.clients_blocked)),
    },
    Family {
        name: "clients_tracking",
        labels: &[],
        kind: MetricType::GAUGE,
        help: "Clients that track what they read (CLIENT TRACKING), each on connections of its own.",
        samples: |cells, out| out.gauge(&[], cells.level(|worker| &worker.clients_tracking)),
    },
    Family {
        name: "client_connections_max",
        labels: &[],
        kind: MetricType::GAUGE,
        help: "Clients that may be connected at once; absent when there is no limit.",
        samples: |cells, out| {
            let max = cells.control.clients_max.value();
            if max > 0 {
                out.gauge(&[], max as f64);
            }
        },
    },
    Family {
        name: "client_connections_total",
        labels: &[],
        kind: MetricType::COUNTER,
        help: "Clients accepted since the start.",
        samples: |cells, out| out.counter(&[], cells.sum(|worker| &worker.clients_total)),
    },
    Family {
        name: "clients_refused_total",
        labels: &["reason"],
        kind: MetricType::COUNTER,
        help: "Clients turned away at connect, by reason.",
        samples: |cells, out| {
            for reason in Refusal::ALL {
                let count = cells.sum(|worker| &worker.clients_refused[reason as usize])
                    + cells.control.clients_refused[reason as usize].value();
                out.counter(&[reason.label()], count);
            }
        },
    },
    Family {
        name: "client_bytes_total",
        labels: &["direction"],
        kind: MetricType::COUNTER,
        help: "Bytes read from clients (in) and written to them (out).",
        samples: |cells, out| {
            out.counter(&["in"], cells.sum(|worker| &worker.bytes_in));
            out.counter(&["out"], cells.sum(|worker| &worker.bytes_out));
        },
    },
    Family {
        name: "replies_error_total",
        labels: &["kind"],
        kind: MetricType::COUNTER,
        help: "Error replies to clients, by kind, whether given or the reason to close one (commands.shard_errors).",
        samples: |cells, out| {
            for (kind, name) in cells.labels.error_kinds.iter().enumerate() {
                out.counter(&[name], cells.sum(|worker| &worker.errors[kind]));
            }
        },
    },
    Family {
        name: "cross_shard_total",
        labels: &["kind"],
        kind: MetricType::COUNTER,
        help: "Requests whose keys are on several shards, by what became of them.",
        samples: |cells, out| {
            for (kind, name) in cells.labels.cross_kinds.iter().enumerate() {
                out.counter(&[name], cells.sum(|worker| &worker.cross_shard[kind]));
            }
        },
    },
    Family {
        name: "buffered_bytes",
        labels: &[],
        kind: MetricType::GAUGE,
        help: "Bytes held now in the buffers of clients and backends.",
        samples: |cells, out| out.gauge(&[], cells.level(|worker| &worker.buffered_bytes)),
    },
    Family {
        name: "topology_version",
        labels: &[],
        kind: MetricType::GAUGE,
        help: "Number of the topology in use; it grows by one with each change since the start.",
        samples: |cells, out| out.gauge(&[], cells.control.topology_version.value() as f64),
    },
    Family {
        name: "config_reloads_total",
        labels: &["result"],
        kind: MetricType::COUNTER,
        help: "Reloads of the configuration, by result; a failed one changes nothing.",
        samples: |cells, out| {
            for result in Reload::ALL {
                out.counter(&[result.label()], cells.control.config_reloads[result as usize].value());
            }
        },
    },
    Family {
        name: "build_info",
        labels: &["version"],
        kind: MetricType::GAUGE,
        help: "Always 1; the label says which version runs.",
        samples: |_, out| out.gauge(&[env!("CARGO_PKG_VERSION")], 1.0),
    },
];

impl Families {
    pub(super) fn new(cells: Arc<Cells>) -> Result<Self, Error> {
        let descs = FAMILIES.iter().map(Family::desc).collect::<Result<_, _>>()?;
        Ok(Self { cells, descs })
    }
}

impl Collector for Families {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        FAMILIES.iter().map(|family| family.collect(&self.cells)).collect()
    }
}

impl Family {
    fn desc(&self) -> Result<Desc, Error> {
        let labels = self.labels.iter().map(ToString::to_string).collect();
        Desc::new(format!("{PREFIX}{}", self.name), self.help.to_owned(), labels, HashMap::new())
    }

    fn collect(&self, cells: &Cells) -> MetricFamily {
        let mut samples = Samples { labels: self.labels, series: Vec::new() };
        (self.samples)(cells, &mut samples);
        family(format!("{PREFIX}{}", self.name), self.help, self.kind, samples.series)
    }
}

impl Samples {
    fn counter(&mut self, values: &[&str], count: u64) {
        self.series.push(counter(self.pairs(values), count as f64));
    }

    fn gauge(&mut self, values: &[&str], value: f64) {
        self.series.push(gauge(self.pairs(values), value));
    }

    fn histogram<'a>(&mut self, values: &[&str], parts: impl Iterator<Item = &'a Histogram>) {
        let mut counts = [0; Histogram::BUCKETS + 1];
        let mut sum_us = 0;
        for part in parts {
            sum_us += part.sum_us();
            for (total, count) in counts.iter_mut().zip(part.counts()) {
                *total += count;
            }
        }
        let mut cumulative = 0;
        let mut buckets = Vec::with_capacity(Histogram::BUCKETS);
        for (index, count) in counts.iter().enumerate().take(Histogram::BUCKETS) {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(Histogram::bound(index) as f64 / 1e6);
            bucket.set_cumulative_count(cumulative);
            buckets.push(bucket);
        }
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        // The count is the buckets' own sum: a scrape between two stores stays consistent.
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(sum_us as f64 / 1e6);
        let mut metric = Metric::from_label(self.pairs(values));
        metric.set_histogram(histogram);
        self.series.push(metric);
    }

    fn pairs(&self, values: &[&str]) -> Vec<LabelPair> {
        self.labels.iter().zip(values).map(|(name, value)| pair(name, value)).collect()
    }
}

impl Cells {
    fn sum(&self, cell: impl Fn(&WorkerMetrics) -> &Counter) -> u64 {
        self.workers.iter().map(|worker| cell(worker).value()).sum()
    }

    fn level(&self, cell: impl Fn(&WorkerMetrics) -> &Gauge) -> f64 {
        self.workers.iter().map(|worker| cell(worker).value()).sum::<i64>() as f64
    }

    fn backend_counter(&self, out: &mut Samples, cell: impl Fn(&BackendMetrics) -> &Counter) {
        for (index, name) in self.labels.backends.iter().enumerate() {
            out.counter(&[name], self.sum(|worker| cell(&worker.backends[index])));
        }
    }

    fn backend_gauge(&self, out: &mut Samples, cell: impl Fn(&BackendMetrics) -> &Gauge) {
        for (index, name) in self.labels.backends.iter().enumerate() {
            out.gauge(&[name], self.level(|worker| cell(&worker.backends[index])));
        }
    }
}

/// A family as the encoder wants it.
pub(super) fn family(name: String, help: &str, kind: MetricType, series: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name);
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(series);
    family
}

pub(super) fn counter(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

pub(super) fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
