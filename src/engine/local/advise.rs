//! Requests whose keys are on several shards, or would be, are counted; ADVISE tells what to do about it.

use super::super::Engine;
use super::super::request::Request;
use crate::advice::{Outcome, Report, Tally};
use crate::command::Route;
use crate::resp::Args;
use crate::route::{self, Rules};

/// Keys of one request that are looked at; more would say the same.
const KEYS_MAX: usize = 16;
/// Microseconds between two looks of the others at what this worker has counted.
const PUBLISH_EVERY: u64 = 1_000_000;

/// What this worker has counted, and when it last told the others.
#[derive(Debug, Default)]
pub(in crate::engine) struct Advice {
    tally: Tally,
    published: u64,
}

impl Engine {
    /// Counts a request whose keys are on several shards.
    #[cold]
    pub(in crate::engine) fn advise(&mut self, keys: &[&[u8]], command: &[u8], outcome: Outcome) {
        self.advice.tally.count(keys, command, outcome);
    }

    /// The same for the keys that a request names; SORT may name only one.
    pub(in crate::engine) fn advise_of(&mut self, args: Args<'_>, outcome: Outcome) {
        let keys = self.parted(args);
        if keys.len() > 1 {
            self.advise(&keys, args.at(0), outcome);
        }
    }

    /// What to do about keys that are on several shards, for an error.
    pub(in crate::engine) fn remedy(&self, keys: &[&[u8]]) -> String {
        let hint = self.options.tallies.hint(keys, &self.topology);
        hint.map_or_else(
            || "give them one hash tag such as {tag}".to_owned(),
            |hint| format!("give them one hash tag such as {{tag}}, or {hint}"),
        )
    }

    /// The first key of a request, and those that another tag parts from it.
    pub(in crate::engine) fn parted<'a>(&self, args: Args<'a>) -> Vec<&'a [u8]> {
        let mut positions = Vec::new();
        if let Ok((_, row)) = route::resolve(args) {
            // Its words were right when it was planned.
            let _ = row.keys.find(args, &mut positions);
        }
        let mut keys = positions.iter().map(|at| args.at(*at as usize));
        keys.next().map_or_else(Vec::new, |first| self.parted_from(first, keys))
    }

    /// `first`, and those of `others` that another tag parts from it.
    pub(in crate::engine) fn parted_from<'a>(
        &self,
        first: &'a [u8],
        others: impl Iterator<Item = &'a [u8]>,
    ) -> Vec<&'a [u8]> {
        let mut keys = vec![first];
        for key in others {
            if keys.len() < KEYS_MAX && !self.topology.together(first, key) && !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// A request that the only shard can do, and several could not, or not without a gather.
    #[cold]
    pub(in crate::engine) fn advise_ahead(&mut self, request: &Request<'_>, rules: Rules) {
        let gathered = rules.gather && matches!(request.row.route, Route::Gather(_));
        self.advise_of(request.args, if gathered { Outcome::Gathered } else { Outcome::Refused });
    }

    /// Some time has passed: others may see what was counted.
    pub(in crate::engine) fn advice_tick(&mut self) {
        self.advice.tally.rest();
        if self.now >= self.advice.published + PUBLISH_EVERY {
            self.publish_advice();
        }
    }

    /// What all workers come to.
    pub(super) fn advice_report(&mut self) -> Report {
        self.publish_advice();
        self.options.tallies.report(&self.topology)
    }

    fn publish_advice(&mut self) {
        self.advice.published = self.now;
        self.options.tallies.publish(self.options.worker as usize, &mut self.advice.tally);
    }
}
