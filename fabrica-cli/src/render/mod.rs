//! From what is known to lines for people. Nothing here writes; what agents and repositories said is made harmless.

pub(crate) mod diff;
pub(crate) mod report;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod session;
pub(crate) mod transcript;
