//! Reports of all servers as one: LATENCY, MEMORY STATS, and texts for people.

use super::value::{Leaf, is_aggregate, pairs, text};
use crate::command::{self, Every, Route};
use crate::resp::{Proto, Reply, elements};
use crate::topology::Topology;

/// Events of all shards: the latest spike, the largest of all.
pub(super) fn latency_latest(reply: &mut Reply<'_>, parts: &[Vec<u8>], proto: Proto) {
    let mut events: Vec<(&[u8], i64, i64, &[u8])> = Vec::new();
    for entry in parts.iter().flat_map(|part| elements(part)) {
        let fields: Vec<&[u8]> = elements(entry).collect();
        let [name, time, _, most, ..] = fields[..] else { continue };
        let (time, most) = (Leaf::of(time, proto).integer(), Leaf::of(most, proto).integer());
        match events.iter_mut().find(|(known, ..)| *known == name) {
            None => events.push((name, time, most, entry)),
            Some(event) => {
                event.2 = event.2.max(most);
                if time > event.1 {
                    (event.1, event.3) = (time, entry);
                }
            }
        }
    }
    reply.array(events.len());
    for (_, _, most, entry) in events {
        reply.array(elements(entry).count());
        for (at, field) in elements(entry).enumerate() {
            if at == 3 { _ = reply.integer(most) } else { _ = reply.raw(field) }
        }
    }
}

/// Samples `[time, milliseconds]` of all shards, the oldest first.
pub(super) fn latency_history(reply: &mut Reply<'_>, parts: &[Vec<u8>], proto: Proto) {
    let time = |entry: &&[u8]| elements(entry).next().map_or(0, |time| Leaf::of(time, proto).integer());
    let mut samples: Vec<&[u8]> = parts.iter().flat_map(|part| elements(part)).collect();
    samples.sort_by_key(time);
    reply.array(samples.len());
    for sample in samples {
        reply.raw(sample);
    }
}

/// A command's calls and, for bounds in microseconds, how many of them took no longer.
#[derive(Debug, Default)]
struct Durations {
    calls: i64,
    by_shard: Vec<Vec<(i64, i64)>>,
}

/// Calls are summed, but for those of commands that go to every shard: each of them was one call. The
/// counts are cumulative, and a shard names only the bounds where its count grows: at any other it has
/// as many as at the one before. `calls` are those of commands that the proxy answered itself, at once;
/// `names` are the commands that were asked for.
pub(super) fn latency_histogram(
    reply: &mut Reply<'_>,
    names: &[Vec<u8>],
    calls: &[(&'static str, u64)],
    parts: &[Vec<u8>],
    proto: Proto,
) {
    let mut commands: Vec<(Vec<u8>, Durations)> = Vec::new();
    for (name, fields) in parts.iter().flat_map(|part| pairs(part, proto)) {
        let durations = Durations::read(fields, proto);
        match commands.iter_mut().find(|(known, _)| *known == name) {
            None => commands.push((name, durations)),
            Some((name, known)) if is_everywhere(name) => {
                if durations.calls > known.calls {
                    *known = durations;
                }
            }
            Some((_, known)) => known.add(durations),
        }
    }
    for (name, calls) in calls {
        let wants = |asked: &Vec<u8>| {
            let asked = asked.to_ascii_lowercase();
            name.as_bytes().strip_prefix(asked.as_slice()).is_some_and(|rest| rest.is_empty() || rest[0] == b'|')
        };
        if names.is_empty() || names.iter().any(wants) {
            let calls = *calls as i64;
            let own = Durations { calls, by_shard: vec![vec![(1, calls)]] };
            match commands.iter_mut().find(|(known, _)| known == name.as_bytes()) {
                None => commands.push((name.as_bytes().to_vec(), own)),
                Some((_, known)) => known.add(own),
            }
        }
    }
    reply.map(commands.len());
    for (name, durations) in commands {
        let mut bounds: Vec<i64> = durations.by_shard.iter().flatten().map(|(bound, _)| *bound).collect();
        bounds.sort_unstable();
        bounds.dedup();
        reply.bulk(name).map(2).bulk("calls").integer(durations.calls).bulk("histogram_usec").map(bounds.len());
        for bound in bounds {
            let below = |counts: &Vec<(i64, i64)>| {
                counts.iter().take_while(|(known, _)| *known <= bound).last().map_or(0, |(_, count)| *count)
            };
            reply.integer(bound).integer(durations.by_shard.iter().map(below).sum());
        }
    }
}

impl Durations {
    fn read(fields: &[u8], proto: Proto) -> Self {
        let mut durations = Self::default();
        for (field, value) in pairs(fields, proto) {
            if field == b"calls" {
                durations.calls = Leaf::of(value, proto).integer();
            } else {
                let mut numbers = elements(value).map(|number| Leaf::of(number, proto).integer());
                let mut counts = Vec::new();
                while let (Some(bound), Some(count)) = (numbers.next(), numbers.next()) {
                    counts.push((bound, count));
                }
                durations.by_shard.push(counts);
            }
        }
        durations
    }

    fn add(&mut self, mut other: Self) {
        self.calls += other.calls;
        self.by_shard.append(&mut other.by_shard);
    }
}

/// Every use of the command concerns all shards: `config|set`.
fn is_everywhere(name: &[u8]) -> bool {
    let mut rows = command::all().iter().filter(|row| row.name.as_bytes() == name);
    rows.any(|row| matches!(row.route, Route::Every(every) if every != Every::Scan))
}

/// Texts for people, one headed section a shard. A shard that has nothing to say says so.
pub(super) fn reports(reply: &mut Reply<'_>, parts: &[Vec<u8>], proto: Proto, map: &Topology) {
    let mut report = String::new();
    for (part, shard) in parts.iter().zip(map.shards()) {
        let said = match part.first() {
            Some(b'-') => super::text(part),
            _ => text(part, proto),
        };
        if !report.is_empty() {
            report.push('\n');
        }
        report.push_str(&format!("# shard {} ({})\n{}\n", shard.name, shard.endpoint, said.trim_end_matches('\n')));
    }
    reply.verbatim(&report);
}

/// A shard without samples is no failure of the report.
pub(super) fn says_nothing(part: &[u8]) -> bool {
    part.starts_with(b"-ERR No samples available")
}

/// MEMORY STATS: numbers are summed, quotients follow from the sums, the rest is the home shard's.
pub(super) fn memory_stats(reply: &mut Reply<'_>, parts: &[Vec<u8>], home: usize, proto: Proto) {
    let tables: Vec<Vec<(Vec<u8>, &[u8])>> = parts.iter().map(|part| pairs(part, proto)).collect();
    let mut fields: Vec<(&[u8], Vec<&[u8]>)> = Vec::new();
    for (name, value) in tables.get(home).into_iter().chain(&tables).flatten() {
        if !fields.iter().any(|(known, _)| known == name) {
            let each = tables.iter().flatten().filter(|(other, _)| other == name).map(|(_, value)| *value);
            let mut each: Vec<&[u8]> = each.collect();
            // The home shard's value stands first.
            if let Some(at) = each.iter().position(|other| other.as_ptr() == value.as_ptr()) {
                each.swap(0, at);
            }
            // A database that the home shard does not have stands among the others.
            let end = fields.iter().position(|(known, _)| *known == b"overhead.total");
            let at = if name.starts_with(b"db.") { end.unwrap_or(fields.len()) } else { fields.len() };
            fields.insert(at, (name, each));
        }
    }
    let sum = |name: &str| -> f64 {
        let each = fields.iter().find(|(known, _)| *known == name.as_bytes()).map(|(_, each)| each);
        each.into_iter().flatten().map(|value| Leaf::of(value, proto).integer() as f64).sum()
    };
    let quotient = |over: f64, under: f64| if under == 0.0 { 0.0 } else { over / under };
    reply.map(fields.len());
    for (name, each) in &fields {
        reply.bulk(name);
        let value = match *name {
            b"keys.bytes-per-key" => {
                let bytes = quotient(sum("total.allocated") - sum("startup.allocated"), sum("keys.count"));
                reply.integer(bytes as i64);
                continue;
            }
            b"peak.percentage" => quotient(sum("total.allocated"), sum("peak.allocated")) * 100.0,
            b"dataset.percentage" => {
                quotient(sum("dataset.bytes"), sum("total.allocated") - sum("startup.allocated")) * 100.0
            }
            b"allocator-fragmentation.ratio" => quotient(sum("allocator.active"), sum("allocator.allocated")),
            b"allocator-rss.ratio" => quotient(sum("allocator.resident"), sum("allocator.active")),
            b"rss-overhead.ratio" => {
                quotient(sum("allocator.resident") + sum("rss-overhead.bytes"), sum("allocator.resident"))
            }
            b"fragmentation" => quotient(sum("total.allocated") + sum("fragmentation.bytes"), sum("total.allocated")),
            _ if is_aggregate(each[0]) => {
                databases(reply, each, proto);
                continue;
            }
            _ if each[0].first() == Some(&b':') => {
                reply.integer(each.iter().map(|value| Leaf::of(value, proto).integer()).sum());
                continue;
            }
            _ => {
                reply.raw(each[0]);
                continue;
            }
        };
        match proto {
            Proto::Resp2 => _ = reply.bulk(value.to_string()),
            Proto::Resp3 => _ = reply.raw(format!(",{value}\r\n").as_bytes()),
        }
    }
}

/// One database's figures on all shards that have it.
fn databases(reply: &mut Reply<'_>, each: &[&[u8]], proto: Proto) {
    let mut sums: Vec<(Vec<u8>, i64)> = Vec::new();
    for (name, value) in each.iter().flat_map(|table| pairs(table, proto)) {
        let value = Leaf::of(value, proto).integer();
        match sums.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += value,
            None => sums.push((name, value)),
        }
    }
    reply.map(sums.len());
    for (name, sum) in sums {
        reply.bulk(name).integer(sum);
    }
}
