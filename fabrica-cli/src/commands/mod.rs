//! The commands, one a file.

pub(crate) mod answer;
pub(crate) mod cancel;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod image;
pub(crate) mod resume;
pub(crate) mod run;
pub(crate) mod say;
pub(crate) mod sessions;
pub(crate) mod show;
pub(crate) mod transcript;
