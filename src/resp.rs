//! RESP framing: where a frame ends, where its arguments lie, and how our own frames are built.
//!
//! The scanners are resumable and allocate nothing: they look at every byte of a header once, skip
//! bodies by their length, and never recurse. Nothing here knows commands, shards or sockets.

mod args;

pub use args::{Args, Span};
