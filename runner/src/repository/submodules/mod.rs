//! Submodules: those that the plan lists are checked out, from the gateway and from nowhere else.
//!
//! Git's own `git submodule` is not used: it takes names, addresses and commands out of files that the repository brings.
//! Here a submodule is a clone in its place, of what the gateway has under a number; of `.gitmodules` only paths and
//! addresses are read, and an address only ever selects one of the plan's.

mod address;
mod changes;
mod check_out;
mod listing;

use std::path::{Path, PathBuf};

use fabrica_core::failure::Failure;

use super::{Git, args};

pub(crate) use changes::Dangling;
pub(crate) use check_out::check_out;

/// The submodules of a clone.
#[derive(Debug, Default)]
pub(crate) struct Submodules {
    /// Those with files.
    checked_out: Vec<Submodule>,
    /// The directories of those that are left empty, relative to the clone.
    empty: Vec<String>,
}

/// One that is checked out.
#[derive(Debug)]
struct Submodule {
    /// Its path, relative to the clone.
    path: String,
    directory: PathBuf,
    /// Its number in the gateway.
    number: usize,
    /// Its address, for people.
    url: String,
    /// The commit that was checked out.
    commit: String,
    /// Whether it is one of the plan's repository itself.
    outermost: bool,
}

/// Whether a repository in the sandbox has a commit.
async fn has_commit(git: &Git, directory: &Path, commit: &str) -> Result<bool, Failure> {
    let name = format!("{commit}^{{commit}}");
    git.succeeds(args!(git.inside(directory), "cat-file", "-e", name))
        .await
}
