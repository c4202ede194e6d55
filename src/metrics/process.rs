//! The `process_*` family, read from `/proc/self` when somebody scrapes.
//!
//! The `prometheus` crate's own collector counts whole seconds of processor time, too coarse for
//! "processor time per request". On a system without `/proc` the family is absent.

use std::collections::HashMap;
use std::fs;

use prometheus::Error;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::families::{counter, family, gauge};

/// The collector of the process' own figures.
pub(super) struct Process {
    descs: Vec<Desc>,
    units: Units,
}

/// What the kernel's numbers are counted in; fixed for the life of the process.
struct Units {
    ticks_per_second: f64,
    page_bytes: f64,
    /// Boot of the system, seconds since 1970.
    boot_seconds: Option<f64>,
}

/// Fields of `/proc/self/stat` (proc(5)).
struct Stat {
    cpu_ticks: f64,
    threads: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

const FAMILIES: &[(&str, MetricType, &str)] = &[
    ("process_cpu_seconds_total", MetricType::COUNTER, "User and system processor time spent, in seconds."),
    ("process_resident_memory_bytes", MetricType::GAUGE, "Resident memory in bytes."),
    ("process_virtual_memory_bytes", MetricType::GAUGE, "Virtual memory in bytes."),
    ("process_start_time_seconds", MetricType::GAUGE, "Start of the process, in seconds since 1970 (UTC)."),
    ("process_threads", MetricType::GAUGE, "Threads of the process."),
    ("process_open_fds", MetricType::GAUGE, "Open file descriptors."),
    ("process_max_fds", MetricType::GAUGE, "Limit on open file descriptors."),
];

impl Process {
    pub(super) fn new() -> Result<Self, Error> {
        let descs = FAMILIES
            .iter()
            .map(|(name, _, help)| Desc::new((*name).to_owned(), (*help).to_owned(), Vec::new(), HashMap::new()))
            .collect::<Result<_, _>>()?;
        Ok(Self { descs, units: Units::read() })
    }

    /// The value of each of [`FAMILIES`], in order; none where the system does not tell.
    fn values(&self) -> [Option<f64>; FAMILIES.len()] {
        let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
        let stat = stat.as_ref();
        let units = &self.units;
        [
            stat.map(|stat| stat.cpu_ticks / units.ticks_per_second),
            stat.map(|stat| stat.resident_pages * units.page_bytes),
            stat.map(|stat| stat.virtual_bytes),
            stat.zip(units.boot_seconds).map(|(stat, boot)| boot + stat.start_ticks / units.ticks_per_second),
            stat.map(|stat| stat.threads),
            open_fds(),
            fs::read_to_string("/proc/self/limits").ok().and_then(|text| max_fds(&text)),
        ]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let sample = |kind, value| match kind {
            MetricType::COUNTER => counter(Vec::new(), value),
            _ => gauge(Vec::new(), value),
        };
        FAMILIES
            .iter()
            .zip(self.values())
            .filter_map(|(&(name, kind, help), value)| {
                Some(family(name.to_owned(), help, kind, vec![sample(kind, value?)]))
            })
            .collect()
    }
}

impl Units {
    fn read() -> Self {
        // getauxval(3): the kernel hands every process its page size and clock tick.
        let auxv = fs::read("/proc/self/auxv").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").ok();
        Self {
            ticks_per_second: aux(&auxv, 17).unwrap_or(100.0),
            page_bytes: aux(&auxv, 6).unwrap_or(4096.0),
            boot_seconds: boot
                .and_then(|text| text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()),
        }
    }
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in parentheses and may hold anything.
        let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
        // proc(5) counts from 1, the name being 2: what follows it starts at 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// Entry `kind` of an auxiliary vector: pairs of native words.
fn aux(auxv: &[u8], kind: usize) -> Option<f64> {
    const WORD: usize = size_of::<usize>();
    let (words, _) = auxv.as_chunks::<WORD>();
    let (pairs, _) = words.as_chunks::<2>();
    let pair = pairs.iter().find(|pair| usize::from_ne_bytes(pair[0]) == kind)?;
    Some(usize::from_ne_bytes(pair[1]) as f64)
}

fn open_fds() -> Option<f64> {
    // Reading the directory opens one descriptor more.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn max_fds(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        soft => soft.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_skipped() {
        let text = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 4 18 9000 4096000 250 20";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.cpu_ticks, 200.0);
        assert_eq!((stat.threads, stat.start_ticks), (4.0, 9000.0));
        assert_eq!((stat.virtual_bytes, stat.resident_pages), (4_096_000.0, 250.0));
    }

    #[test]
    fn a_short_line_is_no_answer() {
        assert!(Stat::parse("7 (a) S 1").is_none());
        assert!(Stat::parse("").is_none());
    }

    #[test]
    fn limits_may_be_unlimited() {
        assert_eq!(max_fds("Max open files            1024                 4096                 files"), Some(1024.0));
        assert_eq!(
            max_fds("Max open files            unlimited            unlimited            files"),
            Some(f64::INFINITY)
        );
        assert_eq!(max_fds("Max cpu time unlimited"), None);
    }

    #[test]
    fn this_process_has_all_figures() {
        let process = Process::new().unwrap();
        let values = process.values().map(Option::unwrap);
        let [_, resident, virt, start, threads, open, max] = values;
        assert!(resident > 100_000.0 && virt > resident, "{values:?}");
        assert!(start > 1.6e9 && threads >= 1.0 && open >= 3.0 && max >= open, "{values:?}");
        assert_eq!(process.units.ticks_per_second, 100.0);
    }
}
