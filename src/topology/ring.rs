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

/// Points of all shards together: building a ring is quadratic in them, and this many take about a second.
pub const POINTS_MAX: u64 = 64_000;

/// No shard owns more than this many hundredths of its fair share of slots (rounded up to a slot).
const LOAD_PERCENT_MAX: u64 = 105;

/// Places of a slot on the ring: XXH3-64 of its number with the seeds 0, 1 and 2. With a single one
/// the lengths of the arcs, which are chance, would decide the shares; more of them even these out,
/// and less has to move between old shards when one is added.
const PLACES: u64 = 3;

/// XXH3-64 behind std's trait. Each value below is hashed in one write; a second write would be
/// seeded by the first. Integers, which the ring hashes to draw a shard's next point, are written big-endian on every machine.
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

/// Gives away all slots in ascending order. A slot belongs to the shard whose point is next behind
/// one of its places while that shard is below its most; else to the next shard around the ring that
/// has room. Walking around the ring, instead of drawing another place on it, hands what a new shard
/// has no room for back to its former owner.
///
/// The caller has checked that there are shards, all of them with a weight and a name of their own,
/// and that their points are not too many.
pub(super) fn place(shards: &[Shard]) -> Box<[ShardId; SLOTS]> {
    let arcs = arcs(shards);
    let weights: u64 = shards.iter().map(|shard| u64::from(shard.weight)).sum();
    let most = |shard: &Shard| (SLOTS as u64 * u64::from(shard.weight) * LOAD_PERCENT_MAX).div_ceil(weights * 100);
    let mut room: Vec<u64> = shards.iter().map(most).collect();

    let mut table = Box::new([ShardId(0); SLOTS]);
    for (slot, owner) in (0..).map(Slot).zip(table.iter_mut()) {
        let arc = (0..PLACES).map(|place| arc_behind(&arcs, slot, place)).min().map_or(0, |(_, arc)| arc);
        let mut around = arcs[arc..].iter().chain(&arcs[..arc]).map(|(_, shard)| *shard);
        // The bounds add up to more than all slots, so one shard always has room.
        *owner = around.find(|shard| room[shard.0 as usize] > 0).unwrap_or(arcs[arc].1);
        let room = &mut room[owner.0 as usize];
        *room = room.saturating_sub(1);
    }
    table
}

/// How far the next point behind one of the slot's places is, and the arc that ends there.
fn arc_behind(arcs: &[(u64, ShardId)], slot: Slot, place: u64) -> (u64, usize) {
    let mut hash = Xxh3(place);
    Place(slot).hash(&mut hash);
    let arc = arcs.partition_point(|(end, _)| *end < hash.finish());
    (arcs[arc].0 - hash.finish(), arc)
}

/// The ring cut at its points: the last hash of each arc in ascending order, and the arc's shard.
/// The arcs cover every hash.
fn arcs(shards: &[Shard]) -> Vec<(u64, ShardId)> {
    let nodes: Vec<(ShardId, &str)> = (0..).map(ShardId).zip(shards.iter().map(|shard| shard.name.as_str())).collect();
    let points = |shard: &Shard| shard.weight as usize * POINTS_PER_WEIGHT as usize;
    RingBuilder::new(BuildHasherDefault::<Xxh3>::default())
        .weighted_nodes_iter(nodes.iter().map(Node).zip(shards.iter().map(points)))
        .build()
        .resident_ranges()
        .map(|arc| (*arc.keys().end(), arc.node().0.0))
        .collect()
}
