//! Which keys of requests belong together, and the rules that would keep them on one shard. Pure.
//!
//! A worker counts pairs of keys in a [`Tally`]: of requests that were refused or gathered because
//! their keys are on several shards, or would be if there were more than one. Keys are remembered by
//! shape, with numbers and ids folded, so that a few entries speak for all of them and none shows a
//! whole id. The tallies of all workers meet in [`Tallies`]; a [`Report`] says what they come to:
//!
//! ```text
//! request --> Tally::count --> Tallies::publish --\
//! another worker's ----------> Tallies::publish ---+--> Tallies::report: rules, ready to paste
//! ```

mod shape;
mod solve;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::topology::{Colocate, Pattern, Topology, Why};
use solve::{Group, Remedy};

/// Pairs of shapes that are remembered; what comes later is only counted.
const PAIRS_MAX: usize = 256;
/// Pairs of keys that are kept of each, to try the rules on.
const SAMPLES_MAX: usize = 3;
/// Longer keys are only counted.
const KEY_BYTES_MAX: usize = 256;
/// Commands that are told apart for one pair.
const COMMANDS_MAX: usize = 4;
/// Requests that are looked at closely between two calls of [`Tally::rest`]; more are only counted, so
/// that counting costs little whatever the clients do.
const LOOKS_MAX: u32 = 200;

/// What became of a request whose keys belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Refused,
    Gathered,
}

/// What one worker has counted, or all together.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pairs: HashMap<(String, String), Pair>,
    counts: Counts,
    /// Of `counts`, those of which no pair was remembered.
    others: u64,
    looks: u32,
    /// Something was counted since it was published.
    changed: bool,
}

/// Requests, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub refused: u64,
    pub gathered: u64,
}

/// Two shapes of keys that were in one request.
#[derive(Clone, Debug)]
struct Pair {
    shapes: (String, String),
    counts: Counts,
    commands: BTreeMap<String, u64>,
    /// In the order of the shapes; at least one.
    samples: Vec<(Vec<u8>, Vec<u8>)>,
    /// Parts, by their places, that were the same in both keys whenever they came.
    equal: Vec<(usize, usize)>,
}

/// Rules for a well-known framework, which advice calls by their name.
#[derive(Clone, Debug)]
pub struct Preset {
    name: &'static str,
    rules: Vec<(Pattern, Colocate)>,
}

/// Where the workers leave their tallies for each other and for the admin port.
#[derive(Debug, Default)]
pub struct Tallies {
    tallies: Vec<ArcSwap<Tally>>,
    presets: Vec<Preset>,
}

/// What the tallies come to.
#[derive(Debug)]
pub struct Report {
    pub counts: Counts,
    /// Rules in the order in which they must stand, before those of the topology.
    pub rules: Vec<Colocate>,
    /// The same as a piece of the configuration; what is no rule is a comment.
    pub text: String,
}

impl Preset {
    /// None when one of the patterns is none.
    #[must_use]
    pub fn new(name: &'static str, rules: Vec<Colocate>) -> Option<Self> {
        let parsed = |rule: Colocate| Some((Pattern::parse(&rule.pattern).ok()?, rule));
        Some(Self { name, rules: rules.into_iter().map(parsed).collect::<Option<_>>()? })
    }
}

impl Tallies {
    /// A place for each worker.
    #[must_use]
    pub fn new(workers: usize, presets: Vec<Preset>) -> Self {
        Self { tallies: (0..workers).map(|_| ArcSwap::default()).collect(), presets }
    }

    /// Shows what `worker` has counted, if that has changed.
    pub fn publish(&self, worker: usize, tally: &mut Tally) {
        if let Some(place) = self.tallies.get(worker).filter(|_| tally.changed) {
            tally.changed = false;
            place.store(Arc::new(tally.clone()));
        }
    }

    /// What all workers have published.
    #[must_use]
    pub fn report(&self, map: &Topology) -> Report {
        let mut sum = Tally::default();
        self.tallies.iter().for_each(|tally| sum.add(&tally.load()));
        sum.report(map, &self.presets)
    }

    /// What to do about the keys of one request, in a few words for an error; None: only a hash tag helps.
    #[must_use]
    pub fn hint(&self, keys: &[&[u8]], map: &Topology) -> Option<String> {
        let (first, others) = keys.split_first()?;
        let pairs: Vec<Pair> = others.iter().map(|other| Pair::new(first, other)).collect();
        let groups = solve::solve(&pairs, map, &self.presets);
        let rule = |rule: &Colocate| match &rule.shard {
            Some(shard) => format!("pattern = {}, shard = {}", quoted(&rule.pattern), quoted(shard)),
            None => format!("pattern = {}", quoted(&rule.pattern)),
        };
        match groups.first().map(|group| &group.remedy)? {
            Remedy::Rules(rules) if rules.len() == 1 => Some(format!("add [[colocate]] {}", rule(&rules[0]))),
            Remedy::Rules(rules) => {
                Some(format!("add [[colocate]] rules: {}", rules.iter().map(rule).collect::<Vec<_>>().join("; ")))
            }
            Remedy::Preset(preset) => {
                Some(format!("add [placement] presets = [{}]", quoted(self.presets[*preset].name)))
            }
            Remedy::HashTags | Remedy::Nothing => None,
        }
    }
}

impl Tally {
    /// Counts a request of which these keys belong together.
    pub fn count(&mut self, keys: &[&[u8]], command: &[u8], outcome: Outcome) {
        self.changed = true;
        self.counts.inc(outcome);
        let Some((first, others)) = keys.split_first().filter(|_| self.looks < LOOKS_MAX) else {
            self.others += 1;
            return;
        };
        self.looks += 1;
        let mut remembered = false;
        for second in others {
            remembered |= self.count_pair(first, second, command, outcome);
        }
        self.others += u64::from(!remembered);
    }

    /// Whether the pair is remembered.
    fn count_pair(&mut self, first: &[u8], second: &[u8], command: &[u8], outcome: Outcome) -> bool {
        if first.len().max(second.len()) > KEY_BYTES_MAX {
            return false;
        }
        let pair = Pair::new(first, second);
        let full = self.pairs.len() >= PAIRS_MAX;
        let pair = match self.pairs.get_mut(&pair.shapes) {
            Some(known) => {
                known.meet(&pair);
                known
            }
            None if full => return false,
            None => self.pairs.entry(pair.shapes.clone()).or_insert(pair),
        };
        pair.counts.inc(outcome);
        pair.ran(&String::from_utf8_lossy(command).to_uppercase(), 1);
        true
    }

    /// Time has passed: so many requests are looked at again.
    pub fn rest(&mut self) {
        self.looks = 0;
    }

    fn add(&mut self, other: &Self) {
        self.counts.add(other.counts);
        self.others += other.others;
        for (shapes, theirs) in &other.pairs {
            if let Some(pair) = self.pairs.get_mut(shapes) {
                pair.meet(theirs);
                pair.counts.add(theirs.counts);
                theirs.commands.iter().for_each(|(name, count)| pair.ran(name, *count));
            } else if self.pairs.len() < PAIRS_MAX {
                self.pairs.insert(shapes.clone(), theirs.clone());
            } else {
                self.others += theirs.counts.sum();
            }
        }
    }

    fn report(&self, map: &Topology, presets: &[Preset]) -> Report {
        let mut pairs: Vec<Pair> = self.pairs.values().cloned().collect();
        pairs.sort_by(|a, b| b.counts.sum().cmp(&a.counts.sum()).then_with(|| a.shapes.cmp(&b.shapes)));
        let groups = solve::solve(&pairs, map, presets);
        let mut rules: Vec<Colocate> = Vec::new();
        for group in &groups {
            for (_, rule) in solve::rules(&group.remedy, presets) {
                if rules.iter().all(|other| other.pattern != rule.pattern) {
                    rules.push(rule.clone());
                }
            }
        }
        let text = self.text(&pairs, &groups, map, presets);
        Report { counts: self.counts, rules, text }
    }

    fn text(&self, pairs: &[Pair], groups: &[Group], map: &Topology, presets: &[Preset]) -> String {
        let Counts { refused, gathered } = self.counts;
        // Writing to a String cannot fail.
        let mut text = match (self.counts.sum(), map.shards().len()) {
            (0, 1) => return "# So far no request has keys that several shards would part.\n".to_owned(),
            (0, _) => {
                return "# No request was refused or gathered because its keys are on several shards.\n".to_owned();
            }
            (_, 1) => format!(
                "# Requests whose keys several shards would part: {refused} to be refused, {gathered} gathered.\n"
            ),
            _ => format!("# Requests whose keys are on several shards: {refused} refused, {gathered} gathered.\n"),
        };
        let ruled = pairs.iter().flat_map(|pair| &pair.samples).any(|(first, second)| {
            [first, second].iter().any(|key| matches!(map.locate(key).why, Why::Rule(_) | Why::Pinned(_)))
        });
        text.push_str(
            "# A rule moves keys to other shards, and no key that is there already is moved with it: change\n\
             # rules only before a second shard holds data. The first rule that matches counts: keep the order",
        );
        text.push_str(if ruled { ",\n# and put these before the rules that are there.\n" } else { ".\n" });
        let mut written: Vec<&str> = Vec::new();
        for group in groups {
            text.push('\n');
            for pair in group.pairs.iter().map(|at| &pairs[*at]) {
                let commands: Vec<String> =
                    pair.commands.iter().map(|(name, count)| format!("{name} {count}")).collect();
                let (first, second) = &pair.shapes;
                let _ = writeln!(text, "# {} x {first} with {second} ({})", pair.counts.sum(), commands.join(", "));
            }
            match &group.remedy {
                Remedy::HashTags => {
                    text.push_str("# Their own hash tags differ, and those win over any rule: use one tag for both.\n");
                }
                Remedy::Nothing => text
                    .push_str("# A rule for them would match most other keys: give both one hash tag, as in {tag}.\n"),
                Remedy::Preset(preset) => {
                    let name = quoted(presets[*preset].name);
                    let _ = writeln!(text, "# [placement] presets = [{name}] stands for these rules.");
                }
                Remedy::Rules(_) => {}
            }
            for (_, rule) in solve::rules(&group.remedy, presets) {
                if written.contains(&rule.pattern.as_str()) {
                    let _ = writeln!(text, "# (the rule for {} stands above)", quoted(&rule.pattern));
                    continue;
                }
                written.push(&rule.pattern);
                let _ = writeln!(text, "[[colocate]]\npattern = {}", quoted(&rule.pattern));
                if let Some(shard) = &rule.shard {
                    let _ = writeln!(text, "shard = {}", quoted(shard));
                }
            }
        }
        if self.others > 0 {
            let _ = writeln!(text, "\n# {} more were only counted: other keys, or too many at once.", self.others);
        }
        text
    }
}

impl Counts {
    fn inc(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Refused => self.refused += 1,
            Outcome::Gathered => self.gathered += 1,
        }
    }

    fn add(&mut self, other: Self) {
        self.refused += other.refused;
        self.gathered += other.gathered;
    }

    fn sum(self) -> u64 {
        self.refused + self.gathered
    }
}

impl Pair {
    fn new(first: &[u8], second: &[u8]) -> Self {
        let (mut first, mut second) = (first, second);
        let (mut ours, mut theirs) = (shape::parts(first), shape::parts(second));
        let mut shapes = (shape::shape(&ours), shape::shape(&theirs));
        if shapes.1 < shapes.0 {
            std::mem::swap(&mut first, &mut second);
            std::mem::swap(&mut ours, &mut theirs);
            shapes = (shapes.1, shapes.0);
        }
        let places = (0..ours.len()).flat_map(|one| (0..theirs.len()).map(move |other| (one, other)));
        let equal = places.filter(|(one, other)| ours[*one].1 == theirs[*other].1).collect();
        let samples = vec![(first.to_vec(), second.to_vec())];
        Self { shapes, counts: Counts::default(), commands: BTreeMap::new(), samples, equal }
    }

    /// Takes in other keys of the same shapes.
    fn meet(&mut self, other: &Self) {
        self.equal.retain(|places| other.equal.contains(places));
        for sample in &other.samples {
            if self.samples.len() < SAMPLES_MAX && !self.samples.contains(sample) {
                self.samples.push(sample.clone());
            }
        }
    }

    fn ran(&mut self, command: &str, count: u64) {
        if let Some(known) = self.commands.get_mut(command) {
            *known += count;
        } else if self.commands.len() < COMMANDS_MAX {
            self.commands.insert(command.to_owned(), count);
        }
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests;
