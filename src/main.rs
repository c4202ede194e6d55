//! The `ringway` command.

use std::process::ExitCode;

use tikv_jemalloc_ctl::{Access, AsName, background_thread};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long freed memory is kept for whoever wants some next. The allocator's own 10 s are long beside
/// a proxy's bursts; much less would be paid in page faults under load.
const KEEP_MS: isize = 1_000;

fn main() -> ExitCode {
    // A proxy that cannot be told this runs as well and is slower to give memory back.
    _ = give_back_soon();
    ringway::cli::main()
}

/// A thread of the allocator's own gives freed pages back, also when nobody allocates any more.
fn give_back_soon() -> tikv_jemalloc_ctl::Result<()> {
    for key in [&b"arena.0.dirty_decay_ms\0"[..], b"arenas.dirty_decay_ms\0"] {
        key.name().write(KEEP_MS)?;
    }
    background_thread::write(true)
}
