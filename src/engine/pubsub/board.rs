//! Who is subscribed in the whole process: a server counts a worker once, whatever number of clients
//! it stands for, so PUBLISH and PUBSUB need every worker's numbers.
//!
//! The one thing that workers share, beside their metrics: written when somebody subscribes or a shard
//! comes or goes, read when somebody publishes, and only there when there are several workers. Nobody holds it for longer than a
//! look-up takes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::glob;
use super::hub::{Kind, Name};
use crate::topology::ShardId;

#[derive(Debug, Default)]
pub struct Board(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The subscriptions of all workers, by kind and name: each worker's number of clients.
    topics: [HashMap<Name, Vec<(u16, usize)>>; 3],
    /// Workers with subscriptions that this shard has not confirmed since it was last connected.
    deaf: HashSet<(u16, ShardId)>,
}

impl Board {
    /// So many of the worker's clients are subscribed to the name now.
    pub(super) fn set(&self, worker: u16, kind: Kind, name: &Name, count: usize) {
        let topics = &mut self.write().topics[kind as usize];
        let workers = topics.entry(name.clone()).or_default();
        workers.retain(|known| known.0 != worker);
        if count > 0 {
            workers.push((worker, count));
        } else if workers.is_empty() {
            topics.remove(name);
        }
    }

    /// Whether the worker's subscribers hear the shard now.
    pub(super) fn hears(&self, worker: u16, shard: ShardId, hears: bool) {
        let deaf = &mut self.write().deaf;
        if hears {
            deaf.remove(&(worker, shard));
        } else {
            deaf.insert((worker, shard));
        }
    }

    /// What other workers' subscribers to this very name count on a shard beyond one each.
    pub(super) fn others(&self, worker: u16, shard: ShardId, kind: Kind, name: &[u8]) -> i64 {
        let known = self.read();
        known.topics[kind as usize].get(name).map_or(0, |workers| known.more(worker, shard, workers))
    }

    /// The same for their patterns that a channel matches.
    pub(super) fn others_matching(&self, worker: u16, shard: ShardId, channel: &[u8]) -> i64 {
        let known = self.read();
        let patterns = known.topics[Kind::Pattern as usize].iter();
        let matching = patterns.filter(|(name, _)| glob::matches(name, channel));
        matching.map(|(_, workers)| known.more(worker, shard, workers)).sum()
    }

    /// Every name of this kind, each once.
    pub(super) fn names(&self, kind: Kind) -> BTreeSet<Name> {
        self.read().topics[kind as usize].keys().cloned().collect()
    }

    // A panic elsewhere left the numbers as they are: nothing here is half done.

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn more(&self, worker: u16, shard: ShardId, workers: &[(u16, usize)]) -> i64 {
        let others = workers.iter().filter(|known| known.0 != worker && !self.deaf.contains(&(known.0, shard)));
        others.map(|(_, count)| *count as i64 - 1).sum()
    }
}
