//! Who is subscribed in the whole process: a server counts a worker once, whatever number of clients
//! it stands for, so PUBLISH and PUBSUB need every worker's numbers.
//!
//! The one thing that workers share, beside their metrics: written when somebody subscribes, read when
//! somebody publishes, and only there when there are several workers. Nobody holds it for longer than a
//! look-up takes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock};

use super::glob;
use super::hub::{Kind, Name};

/// The subscriptions of all workers, by kind and name: each worker's number of clients.
#[derive(Debug, Default)]
pub struct Board(RwLock<Topics>);

type Topics = [HashMap<Name, Vec<(u16, usize)>>; 3];

impl Board {
    /// So many of the worker's clients are subscribed to the name now.
    pub(super) fn set(&self, worker: u16, kind: Kind, name: &Name, count: usize) {
        // A panic elsewhere left the numbers as they are: nothing here is half done.
        let mut topics = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let topics = &mut topics[kind as usize];
        let workers = topics.entry(name.clone()).or_default();
        workers.retain(|known| known.0 != worker);
        if count > 0 {
            workers.push((worker, count));
        } else if workers.is_empty() {
            topics.remove(name);
        }
    }

    /// What other workers' subscribers to this very name count beyond one each.
    pub(super) fn others(&self, worker: u16, kind: Kind, name: &[u8]) -> i64 {
        let topics = self.0.read().unwrap_or_else(PoisonError::into_inner);
        topics[kind as usize].get(name).map_or(0, |workers| more(worker, workers))
    }

    /// The same for their patterns that a channel matches.
    pub(super) fn others_matching(&self, worker: u16, channel: &[u8]) -> i64 {
        let topics = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let patterns = topics[Kind::Pattern as usize].iter();
        patterns.filter(|(name, _)| glob::matches(name, channel)).map(|(_, workers)| more(worker, workers)).sum()
    }

    /// Every name of this kind, each once.
    pub(super) fn names(&self, kind: Kind) -> BTreeSet<Name> {
        let topics = self.0.read().unwrap_or_else(PoisonError::into_inner);
        topics[kind as usize].keys().cloned().collect()
    }
}

fn more(worker: u16, workers: &[(u16, usize)]) -> i64 {
    workers.iter().filter(|known| known.0 != worker).map(|(_, count)| *count as i64 - 1).sum()
}
