//! Where a key lives: an immutable, numbered snapshot of shards and the slots that they own.
//!
//! The only place that knows which shard holds a key. A change of the topology is a new snapshot,
//! swapped whole; nothing here ever changes once it is built.

use std::path::PathBuf;

/// A shard's place in [`Topology::shards`], the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// One of the 16,384 hash slots of Redis Cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u16);

/// One plain Redis behind the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its identity on the ring.
    pub name: String,
    pub endpoint: Endpoint,
    pub weight: u32,
}

/// How a shard is reached; names are resolved at every connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}
