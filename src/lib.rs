//! Ringway: a transparent sharding proxy for Redis.
//!
//! One request's path, top to bottom; a module names only modules on lines beneath its own, which
//! `tests/layers.rs` checks:
//!
//! ```text
//! cli -> demo, server -> config      edge and control: what runs, with which options
//!           |       \-> admin        control: pages over what the metrics' cells hold
//!           worker -> socket         data: reads bytes, writes bytes, owns tasks and timers
//!             -> engine              pure: slots in order, parts merged, errors in their places
//!                -> route, advice    pure: which shards, one `Plan`; which keys belong together
//!                   -> topology, command, resp
//! metrics                            leaf: cells that their owners write and the control thread reads
//! ```

pub mod cli;

pub mod demo;
pub mod server;

pub mod config;

pub mod admin;

pub mod worker;
pub mod socket;

pub mod engine;
pub mod route;
pub mod advice;
pub mod topology;
pub mod command;
pub mod resp;

pub mod metrics;
