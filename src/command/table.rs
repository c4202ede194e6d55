//! The rows.

use super::Command;

pub(super) static TABLE: &[Command] = &[];
