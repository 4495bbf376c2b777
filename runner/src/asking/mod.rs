//! How the agent asks a person. Whatever way it takes, the question ends in a file of the sandbox's scratch directory,
//! and the file is the truth, however the agent ends:
//!
//! - Claude Code calls the tool `escalate` of the server in [`mcp`], and the hooks in [`hook`] stop its turn;
//! - any other program runs `fabrica-escalate`, which is [`shell`], and ends with the exit code 85.
//!
//! All of them are this crate's one program under other names and arguments, so nothing is added to the image. They are
//! the agent's processes: they have nothing that the agent does not have.

mod hook;
mod mcp;
mod program;
mod question;
mod record;
mod setup;
mod shell;

pub use program::helper;
pub(crate) use setup::{QUESTIONS_VARIABLE, Setup};

/// The tool's name, as the agent's hooks see it.
const TOOL: &str = "mcp__fabrica__escalate";
