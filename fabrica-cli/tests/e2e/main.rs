//! The main job, end to end: the real program, the real Claude Code CLI in a real container, real git and a real
//! database; only the model and the forge are stand-ins.
//!
//! `make test` brings the engines, the database and the image.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test panics where a promise is broken"
)]

mod bad_input;
mod endings;
mod engine_dies;
mod escalation;
mod following;
mod large_files;
mod main_job;
mod postgres;
mod rig;
mod secrets;
mod service;
mod signing;
