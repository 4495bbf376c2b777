//! The calls of tools, by which results and subagents are known.

use std::collections::VecDeque;

/// How many calls are remembered.
const MOST: usize = 512;

/// The latest calls.
#[derive(Debug, Default)]
pub(super) struct Calls {
    calls: VecDeque<Call>,
    /// Whether nothing was told since the latest one.
    fresh: bool,
}

#[derive(Debug)]
struct Call {
    id: String,
    depth: usize,
    label: String,
}

impl Calls {
    pub(super) fn add(&mut self, id: &str, depth: usize, label: &str) {
        if self.calls.len() == MOST {
            self.calls.pop_front();
        }
        self.calls.push_back(Call {
            id: id.to_owned(),
            depth,
            label: label.to_owned(),
        });
        self.fresh = true;
    }

    /// Something else was told.
    pub(super) fn told(&mut self) {
        self.fresh = false;
    }

    /// The call that was told just now.
    pub(super) fn latest(&self) -> Option<&str> {
        let latest = self.calls.back().filter(|_| self.fresh);
        latest.map(|call| call.id.as_str())
    }

    /// How deep the agent is that called; of an unknown call, the main one.
    pub(super) fn depth(&self, id: &str) -> usize {
        self.find(id).map_or(0, |call| call.depth)
    }

    pub(super) fn label(&self, id: &str) -> Option<&str> {
        self.find(id).map(|call| call.label.as_str())
    }

    fn find(&self, id: &str) -> Option<&Call> {
        self.calls.iter().rev().find(|call| call.id == id)
    }
}
