//! RENAME and RENAMENX between shards.

use crate::engine::Engine;
use crate::engine::request::{Flow, Request};
use crate::route::Refusal;

impl Engine {
    pub(super) fn rename(&mut self, id: u32, _overwrites: bool, request: &Request<'_>) -> Flow {
        self.refuse(id, Refusal::CrossSlot { first: 1, second: 2 }, request.args)
    }
}
