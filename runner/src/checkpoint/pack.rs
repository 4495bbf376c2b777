//! The objects of a checkpoint that the remote does not have, in a file without a name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use fabrica_core::clock::{Entropy as _, SystemEntropy};
use fabrica_core::failure::Failure;

use crate::repository::{Git, args};

/// How large a pack may be.
pub(super) const MAX_PACK: u64 = 256 * 1024 * 1024;

/// Packs a commit and all that leads to it, but not what leads to the commits in `without`.
pub(super) async fn pack(
    git: &Git,
    directory: &Path,
    scratch: &Path,
    (commit, without): (&str, &[&str]),
    limit: u64,
) -> Result<Arc<File>, Failure> {
    let mut file = nameless(scratch).map_err(|error| {
        Failure::new(
            "sandbox.workspace",
            format!("the checkpoint cannot be written to the workspace: {error}"),
            "The sandbox's volume must be writable for its user and have free space.",
        )
    })?;
    let mut revisions = format!("{commit}\n");
    for known in without {
        revisions.push_str(&format!("^{known}\n"));
    }
    let command = args!(
        git.inside(directory),
        "pack-objects",
        "--revs",
        "--thin",
        "--stdout",
        "-q"
    );
    if git
        .save(command, revisions.into_bytes(), &mut file, limit)
        .await?
    {
        return Ok(Arc::new(file));
    }
    Err(Failure::new(
        "checkpoint.too_large",
        format!(
            "what the agent changed comes to more than {} MiB",
            limit / (1024 * 1024)
        ),
        "Let the repository's `.gitignore` name what is generated, or let the plan commit less at once.",
    ))
}

fn nameless(directory: &Path) -> io::Result<File> {
    let mut name = [0; 8];
    SystemEntropy.fill(&mut name);
    let path = directory.join(format!(".pack-{:016x}", u64::from_ne_bytes(name)));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use crate::process::Processes;

    use super::*;

    #[tokio::test]
    async fn a_pack_has_a_limit_and_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let repository = directory.path().join("repository");
        std::fs::create_dir(&repository).unwrap();
        let path = std::env::var_os("PATH").unwrap();
        let git = Git::find(&path, Processes::default(), "http://127.0.0.1:9".into()).unwrap();
        let init = args!(git.command(&repository), "init", "--quiet", "--template=");
        git.answer(init).await.unwrap();
        let mut content = vec![0; 100_000];
        SystemEntropy.fill(&mut content);
        std::fs::write(repository.join("noise"), content).unwrap();
        git.answer(args!(git.inside(&repository), "add", "."))
            .await
            .unwrap();
        let tree = git
            .answer(args!(git.inside(&repository), "write-tree"))
            .await
            .unwrap();
        let failure = pack(&git, &repository, directory.path(), (&tree, &[]), 50_000)
            .await
            .unwrap_err();
        assert_eq!(failure.code, "checkpoint.too_large");
        let file = pack(&git, &repository, directory.path(), (&tree, &[]), 200_000)
            .await
            .unwrap();
        assert!(file.metadata().unwrap().len() > 100_000);
        let names = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 1, "only the repository is there");
        let failure = pack(&git, &repository, directory.path(), (&"1".repeat(40), &[]), 1_000)
            .await
            .unwrap_err();
        assert_eq!(failure.code, "repository.git_failed");
    }
}
