//! The running proxy: worker threads and the control thread, from start to shutdown.

use crate::config::Config;

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// It could not start.
pub fn run(_config: Config) -> anyhow::Result<()> {
    Ok(())
}
