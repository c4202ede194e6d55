//! Ringway: a transparent sharding proxy for Redis.
//!
//! One request's path, top to bottom; a module names only modules on lines beneath its own:
//!
//! ```text
//! cli -> config -> server            edge and control: what runs, with which options
//!        socket -> worker            data: reads bytes, writes bytes, owns tasks and timers
//!                    -> engine       pure: slots in order, parts merged, errors in their places
//!                       -> route     pure: which shards, one `Plan`
//!                          -> topology, command, resp
//! ```

pub mod cli;
pub mod config;

pub mod demo;

pub mod server;
pub mod admin;

pub mod worker;
pub mod socket;

pub mod engine;
pub mod route;
pub mod topology;
pub mod command;
pub mod resp;

pub mod metrics;
