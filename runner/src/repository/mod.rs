//! The repository: cloned through the gateway, looked at with distrust after the agent, pushed from a clean place.

mod checkout;
mod git;
mod large_files;
mod leftovers;
mod locks;
mod persistence;
mod preflight;
mod progress;
mod push;
mod rejoin;
mod signed;
mod submodules;
mod template;
mod working_directory;

pub(crate) use checkout::{Checkout, Remotely, clone, meet};
pub(crate) use git::{Git, args, git_failed, identify};
pub(crate) use large_files::{Filter, SKIP_SMUDGE, Uploader, bring, configure};
pub(crate) use leftovers::{Work, commit_leftovers, has_changes, inspect};
pub(crate) use locks::break_locks;
pub(crate) use persistence::persistently;
pub(crate) use preflight::{preflight, refused};
pub(crate) use push::{Pusher, shallow};
pub(crate) use rejoin::{Conflict, Rejoined, rejoin};
pub(crate) use signed::tell_unsigned;
pub(crate) use submodules::{Dangling, Submodules, check_out};
pub(crate) use template::{template, template_path};
pub(crate) use working_directory::{still_there, working_directory};
