//! The repository's template for the text of a pull request.

use super::checkout::Checkout;
use super::git::{Git, args};

/// How many bytes a template has at most; what is longer is no template.
const MAX_BYTES: usize = 20_000;
/// Where forges look for it, in this order; upper and lower case do not matter.
const PLACES: [&str; 4] = [
    ".github/pull_request_template.md",
    "pull_request_template.md",
    "docs/pull_request_template.md",
    ".gitlab/merge_request_templates/default.md",
];

/// The template as it is in the commit that the work is at; whatever is wrong with it, there is none.
pub(crate) async fn template(git: &Git, checkout: &Checkout) -> Option<String> {
    let path = template_path(git, checkout).await?;
    let show = args!(
        git.inside(&checkout.directory),
        "cat-file",
        "blob",
        format!("HEAD:{path}")
    );
    let text = git.answer(show).await.ok()?;
    (!text.trim().is_empty() && text.len() <= MAX_BYTES).then_some(text)
}

/// Where it is.
pub(crate) async fn template_path(git: &Git, checkout: &Checkout) -> Option<String> {
    let list = || args!(git.inside(&checkout.directory), "ls-tree", "--name-only", "HEAD");
    let mut listing = git.answer(list()).await.ok()?;
    let mut inside = list();
    inside.args([".github/", "docs/", ".gitlab/merge_request_templates/"]);
    listing.push('\n');
    listing.push_str(&git.answer(inside).await.ok()?);
    let names: Vec<_> = listing.lines().collect();
    PLACES.into_iter().find_map(|place| {
        let found = names.iter().find(|name| name.eq_ignore_ascii_case(place));
        found.map(|&name| name.to_owned())
    })
}
