//! A page for each pull request, so that the URL that Fabrica prints can be opened.

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{StubForge, pulls::PullPath};

pub(super) fn router(forge: &StubForge) -> Router {
    Router::new()
        .route("/{owner}/{repo}/pull/{number}", get(show))
        .route("/{owner}/{repo}/pulls/{number}", get(show))
        .with_state(forge.clone())
}

async fn show(State(forge): State<StubForge>, Path(path): Path<PullPath>) -> Response {
    let repository = forge.repository(&path.owner, &path.repo);
    let (Some(repository), Some(pull)) = (repository, forge.change(&path, |_| {})) else {
        return (StatusCode::NOT_FOUND, "there is no such pull request\n").into_response();
    };
    let diff = match repository.diff(&pull.head).await {
        Ok(diff) => diff,
        Err(error) => format!("{error}\n"),
    };
    let draft = if pull.draft { ", draft" } else { "" };
    format!(
        "{} (#{}, {}{draft})\n{} into {}\nlabels: {}\n\n{}\n\n{diff}",
        pull.title,
        pull.number,
        pull.state.name(),
        pull.head,
        pull.base,
        pull.labels.join(", "),
        pull.body,
    )
    .into_response()
}
