//! `ringway locate`: where keys live, and why.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use crate::topology::Topology;

/// Prints one line a key.
pub(super) fn report(topology: &Topology, keys: &[OsString]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for key in keys {
        let key = key.as_bytes();
        let found = topology.locate(key);
        let shard = topology.shard(found.shard);
        let slot = found.slot.map_or_else(|| "-".to_owned(), |slot| slot.0.to_string());
        writeln!(
            out,
            "key={:?} tag={:?} slot={slot} shard={} address={} why={:?}",
            String::from_utf8_lossy(key),
            String::from_utf8_lossy(found.tag),
            shard.name,
            shard.endpoint,
            found.why.to_string(),
        )?;
    }
    out.flush()
}
