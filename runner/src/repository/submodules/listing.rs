//! What a commit says about its submodules.

use std::path::Path;

use fabrica_core::failure::Failure;

use crate::repository::{Git, args};

/// How much of `.gitmodules` is read.
const MAX_LISTING: usize = 1024 * 1024;
/// How many submodules of one repository are looked at.
const MAX_ENTRIES: usize = 200;

/// A submodule as a commit records it. Its name is of no use here, and so can do no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where it belongs, relative to the repository's root.
    pub(super) path: String,
    /// Its address, as it is written in `.gitmodules`.
    pub(super) address: String,
    /// The commit that belongs there.
    pub(super) commit: String,
}

/// The submodules of `HEAD` in the order of their paths. What is in the working directory plays no part.
pub(super) async fn recorded(git: &Git, clone: &Path) -> Result<Vec<Entry>, Failure> {
    let inside = || git.inside(clone);
    let present = args!(inside(), "cat-file", "-e", "HEAD:.gitmodules");
    if !git.succeeds(present).await? {
        return Ok(Vec::new());
    }
    let mut listing = args!(inside(), "config", "--blob", "HEAD:.gitmodules", "-z");
    listing.args(["--get-regexp", r"^submodule\..*\.(path|url)$"]);
    // A file that git cannot read names no submodules.
    let Ok(listing) = git.exchange(listing, Vec::new(), MAX_LISTING).await else {
        return Ok(Vec::new());
    };
    let mut named = parse(&listing);
    named.truncate(MAX_ENTRIES);
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let mut tree = args!(inside(), "ls-tree", "-z", "--full-tree", "HEAD", "--");
    tree.env("GIT_LITERAL_PATHSPECS", "1")
        .args(named.iter().map(|(path, _)| path));
    let tree = git.exchange(tree, Vec::new(), MAX_LISTING).await?;
    let commits = commits(&tree);
    let entries = named.into_iter().filter_map(|(path, address)| {
        let (_, commit) = commits.iter().find(|(other, _)| *other == path)?;
        let commit = commit.clone();
        Some(Entry {
            path,
            address,
            commit,
        })
    });
    Ok(entries.collect())
}

/// The paths with their addresses in what git makes of `.gitmodules`: `submodule.<name>.<key>`, a line end, the value and a
/// zero byte.
fn parse(listing: &[u8]) -> Vec<(String, String)> {
    let mut sections: Vec<(&str, Option<&str>, Option<&str>)> = Vec::new();
    for item in listing.split(|byte| *byte == 0) {
        let Ok(item) = std::str::from_utf8(item) else {
            continue;
        };
        let Some((key, value)) = item.split_once('\n') else {
            continue;
        };
        let Some((name, key)) = key
            .strip_prefix("submodule.")
            .and_then(|key| key.rsplit_once('.'))
        else {
            continue;
        };
        let index = sections.iter().position(|section| section.0 == name);
        let index = index.unwrap_or_else(|| {
            sections.push((name, None, None));
            sections.len() - 1
        });
        match key {
            "path" => sections[index].1 = Some(value),
            _ => sections[index].2 = Some(value),
        }
    }
    let complete = sections
        .into_iter()
        .filter_map(|(_, path, address)| Some((path?, address?)));
    let mut named: Vec<_> = complete
        .filter(|(path, _)| harmless(path))
        .map(|(path, address)| (path.to_owned(), address.to_owned()))
        .collect();
    named.sort();
    named.dedup_by(|later, earlier| later.0 == earlier.0);
    named
}

/// Whether a path leads to a place below the root that git itself would put a file at.
fn harmless(path: &str) -> bool {
    let plain =
        |name: &str| !name.is_empty() && !matches!(name, "." | "..") && !name.eq_ignore_ascii_case(".git");
    path.len() <= 1_024 && !path.contains(char::is_control) && path.split('/').all(plain)
}

/// The paths in a listing of a tree that are other repositories' commits.
fn commits(listing: &[u8]) -> Vec<(String, String)> {
    let lines = listing.split(|byte| *byte == 0).filter_map(|line| {
        let (what, path) = std::str::from_utf8(line).ok()?.split_once('\t')?;
        let commit = what.strip_prefix("160000 commit ")?;
        Some((path.to_owned(), commit.to_owned()))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_addresses_are_read_whatever_the_names_are() {
        let listing = b"submodule.../../x.path\nlibs/a\0submodule.../../x.url\n../a.git\0\
            submodule.b.c.url\nhttps://h/b\0submodule.b.c.path\nb\0submodule.half.path\nc\0";
        let expected = [("b", "https://h/b"), ("libs/a", "../a.git")];
        assert_eq!(
            parse(listing),
            expected.map(|(path, url)| (path.to_owned(), url.to_owned()))
        );
    }

    #[test]
    fn a_path_that_git_would_not_write_to_is_none() {
        for path in [
            "../x",
            "a/../b",
            "/etc",
            ".git/hooks",
            "a/.GIT/hooks",
            "a\r",
            "a\tb",
            "",
            "a//b",
            "./a",
        ] {
            assert!(!harmless(path), "{path:?}");
        }
        assert!(harmless("libs/a b") && harmless("-x") && harmless(".github"));
    }

    #[test]
    fn only_commits_of_other_repositories_are_submodules() {
        let listing = b"160000 commit 1234\tlibs/a\x00100644 blob 5678\tb\x00040000 tree 9abc\tc\0";
        assert_eq!(commits(listing), [("libs/a".to_owned(), "1234".to_owned())]);
    }
}
