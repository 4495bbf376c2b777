//! Files that the repository keeps in Git LFS: a commit has pointers, and their content is fetched and uploaded beside it.
//!
//! The image's git-lfs makes content out of pointers and pointers out of content, and fetches, with the agent's token. It
//! uploads nothing: the runner's token would be in reach of whatever the agent configured. The runner does that itself.

mod fetch;
mod pointer;
mod upload;

use std::ffi::OsStr;
use std::path::Path;

use fabrica_core::failure::Failure;

use super::checkout::Remotely;
use super::git::{Git, args};
use crate::gateway::Service;

pub(crate) use upload::Uploader;

/// The variable that keeps git-lfs from fetching by itself, in the middle of a checkout: what is not there stays a pointer.
pub(crate) const SKIP_SMUDGE: (&str, &str) = ("GIT_LFS_SKIP_SMUDGE", "1");

/// The git-lfs of the image, as a word of a shell.
#[derive(Debug, Clone)]
pub(crate) struct Filter(String);

impl Filter {
    /// Finds it in a search path.
    pub(crate) fn find(path: &OsStr) -> Option<Self> {
        let program = std::env::split_paths(path)
            .map(|directory| directory.join("git-lfs"))
            .find(|candidate| candidate.is_absolute() && candidate.is_file())?;
        Some(Self(format!("'{}'", program.to_str()?.replace('\'', r"'\''"))))
    }

    /// What git has to know to use it; or to use none, whatever the image's own settings say: what is written in the place of
    /// a pointer would become one that leads nowhere.
    pub(super) fn settings(filter: Option<&Self>) -> [(&'static str, String); 4] {
        let program = |arguments: &str| match filter {
            Some(Self(program)) => format!("{program} {arguments}"),
            None => String::new(),
        };
        [
            ("filter.lfs.clean", program("clean -- %f")),
            ("filter.lfs.smudge", program("smudge -- %f")),
            ("filter.lfs.process", program("filter-process")),
            ("filter.lfs.required", filter.is_some().to_string()),
        ]
    }
}

/// Lets every git in a clone keep files in Git LFS, the agent's too, and leads it to the gateway for them; or lets none.
pub(crate) async fn configure(git: &Git, clone: &Path, service: Service) -> Result<(), Failure> {
    let place = [
        ("lfs.url", address(git, service)),
        // Nobody here knows of locks.
        ("lfs.locksVerify", "false".to_owned()),
    ];
    for (key, value) in Filter::settings(git.large_files()).into_iter().chain(place) {
        git.answer(args!(git.inside(clone), "config", "--local", key, value))
            .await?;
    }
    Ok(())
}

/// Where git-lfs asks.
fn address(git: &Git, service: Service) -> String {
    let repository = match service {
        Service::Submodule(number) => git.submodule_url(number),
        Service::UploadPack | Service::ReceivePack => git.url(),
    };
    format!("{repository}/info/lfs")
}

/// Whether a commit keeps anything in Git LFS. Without an answer the work goes on as if it did not.
async fn kept(git: &Git, clone: &Path, commit: &str) -> bool {
    let mut search = args!(git.inside(clone), "grep", "--quiet", "--fixed-strings");
    search.args(["-e", "filter=lfs"]).arg(commit);
    search.args(["--", ":(top,glob)**/.gitattributes"]);
    git.succeeds(search).await.is_ok_and(|found| found)
}

/// Puts the content of what `HEAD` keeps in Git LFS into its place, in the plan's repository or in a submodule; or tells that
/// pointers stand there.
pub(crate) async fn bring(remotely: Remotely<'_>, clone: &Path, service: Service) -> Result<(), Failure> {
    let Remotely {
        git, job, reporter, ..
    } = remotely;
    if !kept(git, clone, "HEAD").await {
        return Ok(());
    }
    if git.large_files().is_some() {
        return remotely.pull(clone, service).await;
    }
    let why = if job.large_files {
        "the image has no git-lfs"
    } else {
        "the plan says `lfs: false`"
    };
    let what = match service {
        Service::Submodule(number) => &format!("submodule {number} of the plan"),
        Service::UploadPack | Service::ReceivePack => "repository",
    };
    let message = format!(
        "The {what} keeps files in Git LFS: in the sandbox they are pointers only, since {why}. What the agent writes in their \
         place does not get into LFS, so have a look at such files in its branch"
    );
    reporter.progress("clone", message).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_program_is_one_word_of_a_shell_wherever_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let odd = directory.path().join("it's here");
        std::fs::create_dir(&odd).unwrap();
        symlink("/bin/true", odd.join("git-lfs")).unwrap();
        let path = std::env::join_paths([Path::new("relative"), directory.path(), &odd]).unwrap();
        let settings = Filter::settings(Filter::find(&path).as_ref());
        let status = std::process::Command::new("sh")
            .arg("-c")
            .arg(&settings[0].1)
            .status();
        assert!(status.unwrap().success(), "{settings:?}");
        assert!(Filter::find(directory.path().as_os_str()).is_none());
    }
}
