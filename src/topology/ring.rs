//! Slots on shards: the consistent hash ring and the bounded load that evens it out.
//!
//! The result is a contract with the data on disk (placement version 1). Everything that it depends
//! on is spelled out here: the points per unit of weight, the hasher, the exact bytes that are
//! hashed, the order in which slots are given away, and the bound. A golden file pins the outcome.

use std::hash::{BuildHasherDefault, Hash, Hasher};

use consistent_hash_ring::RingBuilder;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{SLOTS, Shard, ShardId, Slot};

/// A shard's points on the ring for each unit of its weight.
pub const POINTS_PER_WEIGHT: u64 = 160;

/// Points of all shards together: building a ring is quadratic in them, and this many take seconds.
pub const POINTS_MAX: u64 = 64_000;

/// No shard owns more than this many hundredths of its fair share of slots (rounded up to a slot).
const LOAD_PERCENT_MAX: u64 = 105;

/// XXH3-64 behind std's trait. Each value below is hashed in one write; a second write would be
/// seeded by the first. Integers, which the ring hashes to draw a shard's next point and a slot's
/// next candidate, are written big-endian on every machine.
#[derive(Default)]
struct Xxh3(u64);

impl Hasher for Xxh3 {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u64(&mut self, number: u64) {
        self.write(&number.to_be_bytes());
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A shard on the ring. Hashes as its name's bytes alone: std's `str` would add a terminator.
#[derive(Clone, Copy)]
struct Node<'a>(&'a (ShardId, &'a str));

impl Hash for Node<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0.1.as_bytes());
    }
}

impl PartialEq for Node<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.1 == other.0.1
    }
}

impl Eq for Node<'_> {}

/// A slot on the ring: its two big-endian bytes.
struct Place(Slot);

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0.0.to_be_bytes());
    }
}

/// The points that `shards` put on the ring.
pub(super) fn points(shards: &[Shard]) -> u64 {
    shards.iter().map(|shard| u64::from(shard.weight) * POINTS_PER_WEIGHT).sum()
}

/// Gives each slot, in ascending order, to the first of the ring's candidates that is below its
/// bound. The caller has checked that there are shards, all of them with a weight and a name of
/// their own, and that their points are not too many.
pub(super) fn place(shards: &[Shard]) -> Box<[ShardId; SLOTS]> {
    let nodes: Vec<(ShardId, &str)> =
        (0..).zip(shards).map(|(index, shard)| (ShardId(index), shard.name.as_str())).collect();
    // The hasher is our own and has no state, so the ring is the same in every process.
    let hasher = BuildHasherDefault::<Xxh3>::default();
    let ring = RingBuilder::new(hasher)
        .weighted_nodes_iter(
            nodes.iter().map(Node).zip(shards.iter().map(|shard| shard.weight as usize * POINTS_PER_WEIGHT as usize)),
        )
        .build();

    let weights: u64 = shards.iter().map(|shard| u64::from(shard.weight)).sum();
    let mut room: Vec<u64> = shards
        .iter()
        .map(|shard| {
            let share = SLOTS as u64 * u64::from(shard.weight) * LOAD_PERCENT_MAX;
            share.div_ceil(weights * 100)
        })
        .collect();

    let mut table = Box::new([ShardId(0); SLOTS]);
    for (slot, owner) in (0..).zip(table.iter_mut()) {
        // The bounds add up to more than all slots, so one of the candidates always has room.
        for Node((shard, _)) in ring.replicas(Place(Slot(slot))) {
            let room = &mut room[shard.0 as usize];
            if *room > 0 {
                *room -= 1;
                *owner = *shard;
                break;
            }
        }
    }
    table
}
