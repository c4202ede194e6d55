use crate::engine::Engine;
use crate::engine::request::{Flow, Request};

#[derive(Debug, Default)]
pub(in crate::engine) struct Renames {}

impl Engine {
    pub(super) fn rename(&mut self, id: u32, _overwrites: bool, _request: &Request<'_>) -> Flow {
        self.answer_error(id, "ERR not yet")
    }
}
