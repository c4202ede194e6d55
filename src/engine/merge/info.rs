//! INFO: the servers' sections merged field by field, the proxy's own fields in their places.
//!
//! ```text
//! # Memory            # Memory
//! used_memory:10   +  used_memory:20   ->   used_memory:30     by the rule of the field,
//! maxmemory:0         maxmemory:0           maxmemory:0        else the home shard's value
//! ```

use super::super::proxy::Proxy;

/// What becomes of one field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The home shard speaks for all.
    Home,
    Sum,
    Max,
    Min,
    /// `ok` unless any says otherwise.
    Worst,
    /// Sums, but 0 is no limit.
    Limit,
    /// The lowest version.
    Lowest,
}

/// Rules of single fields; all others have their section's.
const RULES: &[(&str, Rule)] = &[
    ("redis_version", Rule::Lowest),
    ("total_system_memory", Rule::Home),
    ("maxmemory", Rule::Limit),
    ("number_of_cached_scripts", Rule::Max),
    ("number_of_functions", Rule::Max),
    ("number_of_libraries", Rule::Max),
    ("active_defrag_running", Rule::Max),
    // A prefix is told to every shard.
    ("tracking_total_prefixes", Rule::Max),
    ("current_save_keys_processed", Rule::Sum),
    ("current_save_keys_total", Rule::Sum),
    ("rdb_changes_since_last_save", Rule::Sum),
    ("rdb_last_save_time", Rule::Min),
    ("rdb_last_bgsave_status", Rule::Worst),
    ("rdb_saves", Rule::Sum),
    ("rdb_last_load_keys_expired", Rule::Sum),
    ("rdb_last_load_keys_loaded", Rule::Sum),
    ("aof_enabled", Rule::Home),
    ("aof_last_bgrewrite_status", Rule::Worst),
    ("aof_last_write_status", Rule::Worst),
    ("aof_rewrites", Rule::Sum),
    ("aof_current_size", Rule::Sum),
    ("aof_base_size", Rule::Sum),
    ("aof_buffer_length", Rule::Sum),
    ("aof_pending_bio_fsync", Rule::Sum),
    ("aof_delayed_fsync", Rule::Sum),
    ("loading_start_time", Rule::Min),
    ("loading_total_bytes", Rule::Sum),
    ("loading_loaded_bytes", Rule::Sum),
    ("expired_stale_perc", Rule::Max),
    ("current_eviction_exceeded_time", Rule::Max),
    ("current_active_defrag_time", Rule::Max),
    ("latest_fork_usec", Rule::Max),
    ("connected_slaves", Rule::Sum),
];

/// Fields that follow from merged ones: numerator, denominator, each a sum of signed fields.
const QUOTIENTS: &[(&str, &[&str], &[&str], Style)] = &[
    ("used_memory_peak_perc", &["used_memory"], &["used_memory_peak"], Style::Percent),
    ("used_memory_dataset_perc", &["used_memory_dataset"], &["used_memory", "-used_memory_startup"], Style::Percent),
    ("allocator_frag_ratio", &["allocator_active"], &["allocator_allocated"], Style::Ratio),
    ("allocator_rss_ratio", &["allocator_resident"], &["allocator_active"], Style::Ratio),
    ("rss_overhead_ratio", &["used_memory_rss"], &["allocator_resident"], Style::Ratio),
    ("mem_fragmentation_ratio", &["used_memory_rss"], &["used_memory_rss", "-mem_fragmentation_bytes"], Style::Ratio),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Ratio,
    Percent,
}

#[derive(Debug, Default)]
struct Section {
    name: String,
    lines: Vec<(String, String)>,
}

/// The text of INFO. `sections` are the words that the client asked for.
pub(super) fn merged(texts: &[String], home: usize, sections: &[Vec<u8>], proxy: &Proxy) -> String {
    let mut parts: Vec<Vec<Section>> = texts.iter().map(|text| parse(text)).collect();
    if texts.iter().any(|text| text.contains("# Commandstats")) && !proxy.calls.is_empty() {
        parts.push(vec![own_commands(proxy)]);
    }
    let mut all: Vec<Section> = Vec::new();
    for section in parts.get(home).into_iter().chain(&parts).flatten() {
        if !all.iter().any(|known| known.name == section.name) {
            let each: Vec<&Section> =
                parts.iter().filter_map(|part| part.iter().find(|s| s.name == section.name)).collect();
            all.push(merge(section, &each, proxy));
        }
    }
    if wants_own(sections) {
        all.push(own_section(proxy));
    }
    write(&all)
}

/// The client wants nothing that a server knows.
pub(super) fn is_own(sections: &[Vec<u8>]) -> bool {
    !sections.is_empty() && sections.iter().all(|word| word.eq_ignore_ascii_case(b"ringway"))
}

/// The section `# Ringway` alone.
pub(super) fn own(proxy: &Proxy) -> String {
    write(&[own_section(proxy)])
}

fn own_section(proxy: &Proxy) -> Section {
    Section { name: "Ringway".to_owned(), lines: proxy.section.clone() }
}

/// Commands that the proxy answered itself, as one more server's section.
fn own_commands(proxy: &Proxy) -> Section {
    let line = |(name, calls): &(&'static str, u64)| {
        (format!("cmdstat_{name}"), format!("calls={calls},usec=0,usec_per_call=0.00,rejected_calls=0,failed_calls=0"))
    };
    Section { name: "Commandstats".to_owned(), lines: proxy.calls.iter().map(line).collect() }
}

fn wants_own(sections: &[Vec<u8>]) -> bool {
    let wide = |word: &Vec<u8>| {
        [&b"default"[..], b"all", b"everything", b"ringway"].iter().any(|wide| word.eq_ignore_ascii_case(wide))
    };
    sections.is_empty() || sections.iter().any(wide)
}

fn parse(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("# ") {
            sections.push(Section { name: name.to_owned(), lines: Vec::new() });
        } else if let (Some(section), Some((key, value))) = (sections.last_mut(), line.split_once(':')) {
            section.lines.push((key.to_owned(), value.to_owned()));
        }
    }
    sections
}

/// As Redis writes it: a blank line between sections.
fn write(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        text.push_str(&format!("# {}\r\n", section.name));
        for (key, value) in &section.lines {
            text.push_str(&format!("{key}:{value}\r\n"));
        }
    }
    text
}

/// One section: `lead` gives the order, `each` is the same section of every server that has it.
fn merge(lead: &Section, each: &[&Section], proxy: &Proxy) -> Section {
    let mut section = match lead.name.as_str() {
        _ if each.len() == 1 => Section { name: lead.name.clone(), lines: each[0].lines.clone() },
        "Keyspace" | "Commandstats" | "Errorstats" | "Latencystats" => by_parts(lead, each),
        _ => by_rules(lead, each),
    };
    if section.name == "Memory" && each.len() > 1 {
        derive(&mut section);
    }
    for (key, value) in &mut section.lines {
        if let Some((_, own)) = proxy.fields.iter().find(|(own, _)| own == key) {
            value.clone_from(own);
        }
    }
    section
}

fn by_rules(lead: &Section, each: &[&Section]) -> Section {
    let of_section = match lead.name.as_str() {
        "Memory" | "Stats" | "CPU" => Rule::Sum,
        "Persistence" => Rule::Max,
        _ => Rule::Home,
    };
    let mut section = Section { name: lead.name.clone(), lines: Vec::new() };
    for (key, home) in &lead.lines {
        if is_replica(key) {
            continue;
        }
        let rule = RULES.iter().find(|(name, _)| name == key).map_or(of_section, |(_, rule)| *rule);
        let values: Vec<&str> = each.iter().filter_map(|section| section.value(key)).collect();
        section.lines.push((key.clone(), rule.apply(home, &values)));
        if key == "connected_slaves" {
            let replicas = each.iter().flat_map(|section| &section.lines).filter(|(key, _)| is_replica(key));
            let numbered = replicas.enumerate().map(|(at, (_, value))| (format!("slave{at}"), value.clone()));
            section.lines.extend(numbered);
        }
    }
    section
}

/// `slave0` and the like: every server counts its own from 0.
fn is_replica(key: &str) -> bool {
    key.strip_prefix("slave").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

impl Section {
    fn value(&self, key: &str) -> Option<&str> {
        self.lines.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// The sum of fields, those with a `-` subtracted.
    fn total(&self, keys: &[&str]) -> Option<f64> {
        keys.iter().try_fold(0.0, |total, key| {
            let (sign, key) = key.strip_prefix('-').map_or((1.0, *key), |key| (-1.0, key));
            Some(total + sign * self.value(key)?.parse::<f64>().ok()?)
        })
    }
}

impl Rule {
    fn apply(self, home: &str, values: &[&str]) -> String {
        let integers = || values.iter().map(|value| value.parse::<i128>().ok()).collect::<Option<Vec<_>>>();
        match self {
            Self::Home => home.to_owned(),
            Self::Worst => values.iter().find(|value| **value != "ok").unwrap_or(&home).to_string(),
            Self::Lowest => values.iter().min_by_key(|value| version(value)).unwrap_or(&home).to_string(),
            Self::Limit if values.contains(&"0") => "0".to_owned(),
            _ => match (self, integers(), sum_of_fractions(home, values)) {
                (Self::Min, Some(all), _) => all.iter().min().map_or_else(|| home.to_owned(), i128::to_string),
                (Self::Max, Some(all), _) => all.iter().max().map_or_else(|| home.to_owned(), i128::to_string),
                (Self::Max, None, _) => largest(home, values),
                (Self::Sum | Self::Limit, Some(all), _) => all.iter().sum::<i128>().to_string(),
                (Self::Sum, None, Some(sum)) => sum,
                _ => home.to_owned(),
            },
        }
    }
}

fn version(text: &str) -> Vec<u64> {
    text.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// With as many decimals as the home shard's.
fn sum_of_fractions(home: &str, values: &[&str]) -> Option<String> {
    let decimals = home.split_once('.')?.1.len();
    let sum = values.iter().try_fold(0.0, |sum, value| Some(sum + value.parse::<f64>().ok()?))?;
    Some(format!("{sum:.decimals$}"))
}

fn largest(home: &str, values: &[&str]) -> String {
    let number = |text: &&&str| text.parse::<f64>().unwrap_or(f64::MIN);
    values.iter().max_by(|a, b| number(a).total_cmp(&number(b))).unwrap_or(&home).to_string()
}

/// Texts for people and quotients follow from the merged numbers.
fn derive(section: &mut Section) {
    for at in 0..section.lines.len() {
        let key = section.lines[at].0.as_str();
        let value = if let Some(base) = key.strip_suffix("_human") {
            section.value(base).and_then(|bytes| bytes.parse().ok()).map(human)
        } else {
            QUOTIENTS.iter().find(|(name, ..)| *name == key).and_then(|(_, over, under, style)| {
                let quotient = section.total(over)? / section.total(under).filter(|under| *under != 0.0)?;
                Some(match style {
                    Style::Ratio => format!("{quotient:.2}"),
                    Style::Percent => format!("{:.2}%", quotient * 100.0),
                })
            })
        };
        if let Some(value) = value {
            section.lines[at].1 = value;
        }
    }
}

/// Bytes as Redis writes them for people.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "K", "M", "G", "T", "P"];
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{size:.2}{}", UNITS[unit]) }
}

/// Sections whose values are lists `field=value,...`: every server has lines of its own.
fn by_parts(lead: &Section, each: &[&Section]) -> Section {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for (key, value) in each.iter().flat_map(|section| &section.lines) {
        match lines.iter_mut().find(|(known, _)| known == key) {
            Some((_, values)) => values.push(value),
            None => lines.push((key.clone(), vec![value])),
        }
    }
    if lead.name == "Keyspace" {
        lines.sort_by_key(|(key, _)| key.trim_start_matches("db").parse().unwrap_or(u64::MAX));
    }
    let lines = lines.into_iter().map(|(key, values)| {
        let value = list(&values);
        (key, value)
    });
    Section { name: lead.name.clone(), lines: lines.collect() }
}

fn list(values: &[&str]) -> String {
    let Some((first, [_, ..])) = values.split_first() else { return values.concat() };
    let field = |list: &&str, name: &str| -> Option<f64> {
        list.split(',').filter_map(|field| field.split_once('=')).find(|(key, _)| *key == name)?.1.parse().ok()
    };
    let total = |name: &str| values.iter().filter_map(|list| field(list, name)).sum::<f64>();
    let merged = first.split(',').map(|one| {
        let Some((name, value)) = one.split_once('=') else { return one.to_owned() };
        let value = match name {
            "usec_per_call" if total("calls") > 0.0 => format!("{:.2}", total("usec") / total("calls")),
            "usec_per_call" => value.to_owned(),
            // Redis' average is over the keys that expire.
            "avg_ttl" if total("expires") > 0.0 => {
                let weighted = |list: &&str| Some(field(list, "avg_ttl")? * field(list, "expires")?);
                format!("{:.0}", values.iter().filter_map(weighted).sum::<f64>() / total("expires"))
            }
            "avg_ttl" => value.to_owned(),
            // A percentile of all cannot be told from those of the parts; none is above their largest.
            _ if name.starts_with('p') => {
                let largest = values.iter().filter_map(|list| field(list, name)).fold(0.0, f64::max);
                format!("{largest:.3}")
            }
            _ if value.parse::<f64>().is_ok() => format!("{:.0}", total(name)),
            _ => value.to_owned(),
        };
        format!("{name}={value}")
    });
    merged.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy() -> Proxy {
        Proxy {
            fields: vec![("connected_clients", "7".to_owned()), ("role", "master".to_owned())],
            section: vec![("shards".to_owned(), "2".to_owned())],
            ..Proxy::default()
        }
    }

    /// `a` and `b` are the two servers' texts; `|` ends a line.
    fn check(a: &str, b: &str, expected: &str) {
        let lines = |text: &str| format!("{}\r\n", text.replace('|', "\r\n"));
        let asked = [b"memory".to_vec()];
        assert_eq!(merged(&[lines(a), lines(b)], 0, &asked, &proxy()), lines(expected), "{a} and {b}");
    }

    #[test]
    fn fields_follow_their_rules() {
        check(
            "# Memory|used_memory:1024|used_memory_human:1.00K",
            "# Memory|used_memory:1024|used_memory_human:x",
            "# Memory|used_memory:2048|used_memory_human:2.00K",
        );
        check(
            "# Memory|maxmemory:10|maxmemory_policy:x",
            "# Memory|maxmemory:0|maxmemory_policy:y",
            "# Memory|maxmemory:0|maxmemory_policy:x",
        );
        check("# Memory|maxmemory:10", "# Memory|maxmemory:5", "# Memory|maxmemory:15");
        check(
            "# Memory|used_memory_rss:30|mem_fragmentation_ratio:3.00|mem_fragmentation_bytes:20",
            "# Memory|used_memory_rss:10|mem_fragmentation_ratio:1.00|mem_fragmentation_bytes:0",
            "# Memory|used_memory_rss:40|mem_fragmentation_ratio:2.00|mem_fragmentation_bytes:20",
        );
        check(
            "# Stats|keyspace_hits:3|instantaneous_input_kbps:0.50",
            "# Stats|keyspace_hits:4|instantaneous_input_kbps:1.25",
            "# Stats|keyspace_hits:7|instantaneous_input_kbps:1.75",
        );
        check("# CPU|used_cpu_sys:0.000001", "# CPU|used_cpu_sys:1.500000", "# CPU|used_cpu_sys:1.500001");
        check(
            "# Persistence|loading:0|rdb_last_save_time:9|rdb_last_bgsave_status:ok",
            "# Persistence|loading:1|rdb_last_save_time:8|rdb_last_bgsave_status:err",
            "# Persistence|loading:1|rdb_last_save_time:8|rdb_last_bgsave_status:err",
        );
        check(
            "# Server|redis_version:7.0.15|os:x",
            "# Server|redis_version:6.2.9|os:y",
            "# Server|redis_version:6.2.9|os:x",
        );
        check("# Clients|connected_clients:90", "# Clients|connected_clients:91", "# Clients|connected_clients:7");
        check(
            "# Replication|role:slave|connected_slaves:1|slave0:ip=a",
            "# Replication|role:master|connected_slaves:1|slave0:ip=b",
            "# Replication|role:master|connected_slaves:2|slave0:ip=a|slave1:ip=b",
        );
    }

    #[test]
    fn lists_are_merged_line_by_line() {
        check(
            "# Keyspace|db0:keys=1,expires=1,avg_ttl=100|db3:keys=1,expires=0,avg_ttl=0",
            "# Keyspace|db0:keys=5,expires=3,avg_ttl=200|db1:keys=2,expires=0,avg_ttl=0",
            "# Keyspace|db0:keys=6,expires=4,avg_ttl=175|db1:keys=2,expires=0,avg_ttl=0|db3:keys=1,expires=0,avg_ttl=0",
        );
        check(
            "# Commandstats|cmdstat_get:calls=1,usec=2,usec_per_call=2.00,rejected_calls=0,failed_calls=1",
            "# Commandstats|cmdstat_get:calls=3,usec=4,usec_per_call=1.33,rejected_calls=1,failed_calls=1",
            "# Commandstats|cmdstat_get:calls=4,usec=6,usec_per_call=1.50,rejected_calls=1,failed_calls=2",
        );
        check(
            "# Errorstats|errorstat_ERR:count=2",
            "# Errorstats|errorstat_OOM:count=1",
            "# Errorstats|errorstat_ERR:count=2|errorstat_OOM:count=1",
        );
        check(
            "# Latencystats|latency_percentiles_usec_set:p50=2.007,p99.9=7.007",
            "# Latencystats|latency_percentiles_usec_set:p50=1.003,p99.9=9.087",
            "# Latencystats|latency_percentiles_usec_set:p50=2.007,p99.9=9.087",
        );
    }

    #[test]
    fn sections_are_those_asked_for() {
        let check = |asked: &[&str], text: &str, expected: &str| {
            let asked: Vec<Vec<u8>> = asked.iter().map(|word| word.as_bytes().to_vec()).collect();
            let texts = [text.to_owned(), text.to_owned()];
            assert_eq!(merged(&texts, 1, &asked, &proxy()), expected, "{asked:?}");
            is_own(&asked)
        };
        let own = "# Ringway\r\nshards:2\r\n";
        assert!(!check(&[], "", own));
        assert!(!check(&["ALL"], "# A\r\nx:1\r\n", &format!("# A\r\nx:1\r\n\r\n{own}")));
        assert!(!check(&["memory"], "# A\r\n", "# A\r\n"));
        assert!(!check(&["nope"], "", ""));
        assert!(check(&["RingWay"], "", own));
        assert_eq!(super::own(&proxy()), own);
    }

    #[test]
    fn one_server_is_repeated_but_for_the_proxys_fields() {
        let text = "# Clients\r\nconnected_clients:1\r\n\r\n# Memory\r\nused_memory_human:odd\r\n\r\n# Modules\r\n";
        let expected = text.replace("connected_clients:1", "connected_clients:7");
        assert_eq!(merged(&[text.to_owned()], 0, &[b"x".to_vec()], &proxy()), expected);
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in
            [(0, "0B"), (1023, "1023B"), (1024, "1.00K"), (966_864, "944.20K"), (25_276_514_304, "23.54G")]
        {
            assert_eq!(human(bytes), text);
        }
    }
}
