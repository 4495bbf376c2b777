//! The endpoints, one a file.

pub(crate) mod answer;
pub(crate) mod cancel;
pub(crate) mod fallback;
pub(crate) mod health;
pub(crate) mod messages;
pub(crate) mod run;
pub(crate) mod say;
pub(crate) mod session;
pub(crate) mod sessions;
pub(crate) mod transcript;
