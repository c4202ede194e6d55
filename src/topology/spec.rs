//! What a topology is built from, and why it may be refused.

use super::{KeyHash, POINTS_MAX, POINTS_PER_WEIGHT, Pattern, PatternError, Shard};

/// The number of shards that one topology may have.
pub const SHARDS_MAX: usize = 400;

/// What a topology is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub shards: Vec<Shard>,
    /// The name of the shard for what belongs to no key; the first one when it is not given.
    pub home: Option<String>,
    pub kind: Kind,
    pub colocate: Vec<Colocate>,
}

/// How a tag becomes a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By Redis Cluster's slots, placed on the ring.
    Slots,
    /// As twemproxy's `distribution: ketama`. The two bytes enclose a hash tag, if there are any.
    Ketama { hash: KeyHash, hash_tag: Option<[u8; 2]> },
    /// As twemproxy's `distribution: modula`.
    Modula { hash: KeyHash, hash_tag: Option<[u8; 2]> },
}

/// One `[[colocate]]` rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Colocate {
    pub pattern: String,
    /// `home`, or a shard's name: all matching keys live there, whatever their tag.
    pub shard: Option<String>,
}

/// Why a [`Colocate`] rule decides nothing, whatever the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Every key that it matches has a hash tag, which counts before all rules.
    Tagged,
    /// This earlier rule matches every key that it matches.
    Behind(usize),
}

/// Why a [`Spec`] makes no topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    #[error("there is no shard: at least one is needed")]
    NoShard,
    #[error("there are {count} shards: {SHARDS_MAX} are the most")]
    TooManyShards { count: usize },
    #[error("shard {index} ({name:?}) has the weight 0: at least 1 is needed")]
    NoWeight { index: usize, name: String },
    #[error("shard {index} has the name of an earlier one: {name:?}")]
    DuplicateName { index: usize, name: String },
    #[error("the home shard is called {name:?}, but no shard is")]
    UnknownHome { name: String },
    #[error(
        "the weights add up to {points} points on the ring ({POINTS_PER_WEIGHT} for each unit): \
         {POINTS_MAX} are the most"
    )]
    TooManyPoints { points: u64 },
    #[error("colocate rule {index} names the shard {name:?}, but no shard is called so")]
    UnknownShard { index: usize, name: String },
    #[error("colocate rule {index}: the pattern {reason}")]
    BadPattern { index: usize, reason: PatternError },
}

impl Spec {
    /// The rules that decide nothing, by their places in [`Self::colocate`].
    pub fn idle(&self) -> impl Iterator<Item = (usize, Idle)> {
        let pair = match self.kind {
            Kind::Slots => Some(*b"{}"),
            Kind::Ketama { hash_tag, .. } | Kind::Modula { hash_tag, .. } => hash_tag,
        };
        let patterns: Vec<_> = self.colocate.iter().map(|rule| Pattern::parse(&rule.pattern).ok()).collect();
        (0..patterns.len()).filter_map(move |index| {
            let pattern = patterns[index].as_ref()?;
            if pair.is_some_and(|pair| pattern.is_tagged(pair)) {
                return Some((index, Idle::Tagged));
            }
            let covers = |earlier: &Option<Pattern>| earlier.as_ref().is_some_and(|earlier| earlier.covers(pattern));
            patterns[..index].iter().position(covers).map(|earlier| (index, Idle::Behind(earlier)))
        })
    }

    /// That the shards can be told apart and counted.
    pub(super) fn check(&self) -> Result<(), TopologyError> {
        let shards = &self.shards;
        if shards.is_empty() {
            return Err(TopologyError::NoShard);
        }
        if shards.len() > SHARDS_MAX {
            return Err(TopologyError::TooManyShards { count: shards.len() });
        }
        for (index, shard) in shards.iter().enumerate() {
            let name = || shard.name.clone();
            if shard.weight == 0 {
                return Err(TopologyError::NoWeight { index, name: name() });
            }
            if shards[..index].iter().any(|earlier| earlier.name == shard.name) {
                return Err(TopologyError::DuplicateName { index, name: name() });
            }
        }
        Ok(())
    }
}
