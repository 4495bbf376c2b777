//! Files that the repository keeps in Git LFS: the gateway does not lead to them.

use super::checkout::{Checkout, Remotely};
use super::git::args;

/// The variable that keeps git-lfs, where an image has it, from fetching what it cannot reach: it fails the checkout then.
pub(crate) const SKIP_SMUDGE: (&str, &str) = ("GIT_LFS_SKIP_SMUDGE", "1");

/// Tells that such files are pointers only, if the repository has any.
pub(crate) async fn tell_large_files(remotely: Remotely<'_>, checkout: &Checkout) {
    let mut search = args!(
        remotely.git.inside(&checkout.directory),
        "grep",
        "--quiet",
        "--fixed-strings"
    );
    search.args(["-e", "filter=lfs", "HEAD", "--", ":(top,glob)**/.gitattributes"]);
    // Without an answer the work goes on.
    if remotely.git.succeeds(search).await.is_ok_and(|found| found) {
        let message = "The repository keeps files in Git LFS: in the sandbox they are pointers only. What the agent writes in \
                       their place does not get into LFS, so have a look at such files in its branch";
        remotely.reporter.progress("clone", message).await;
    }
}
