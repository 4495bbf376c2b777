//! The forge as the REST API of Gitea and Forgejo shows it.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

use super::{
    ForgeFlavour, StubForge,
    pulls::{Proposal, PullPath, PullRequest, Refusal, RepositoryPath, WHEN, strings, text},
};

#[derive(Debug, Clone)]
struct Gitea {
    forge: StubForge,
    /// The web pages' base URL.
    web: String,
}

/// Gitea does not filter by the head.
#[derive(Debug, Default, serde::Deserialize)]
struct Filter {
    base_branch: Option<String>,
    state: Option<String>,
}

pub(super) fn router(forge: &StubForge, base_url: &str) -> Router {
    Router::new()
        .route("/version", get(|| async { Json(json!({"version": "1.24.6"})) }))
        .route("/user", get(|| async { Json(user("rehearsal-bot")) }))
        .route("/repos/{owner}/{repo}", get(repository))
        .route("/repos/{owner}/{repo}/labels", get(list_labels).post(make_label))
        .route("/repos/{owner}/{repo}/pulls", get(list).post(open))
        .route("/repos/{owner}/{repo}/pulls/{number}", get(show).patch(edit))
        .route(
            "/repos/{owner}/{repo}/pulls/{number}/requested_reviewers",
            post(request_reviewers),
        )
        .route("/repos/{owner}/{repo}/issues/{number}/labels", post(add_labels))
        .fallback(|| async { not_found() })
        .with_state(Gitea {
            forge: forge.clone(),
            web: base_url.to_owned(),
        })
}

/// The version is public, the rest is not.
pub(super) fn unauthorised(with_credential: bool, path: &str) -> Option<Response> {
    let message = if with_credential {
        "invalid username, password or token"
    } else {
        "token is required"
    };
    (path != "/version").then(|| error(StatusCode::UNAUTHORIZED, message))
}

async fn repository(State(gitea): State<Gitea>, Path(path): Path<RepositoryPath>) -> Response {
    match gitea.forge.repository(&path.owner, &path.repo) {
        Some(_) => Json(gitea.repository_json(&path.owner, &path.repo)).into_response(),
        None => not_found(),
    }
}

async fn list(
    State(gitea): State<Gitea>,
    Path(path): Path<RepositoryPath>,
    Query(filter): Query<Filter>,
) -> Response {
    if gitea.forge.repository(&path.owner, &path.repo).is_none() {
        return not_found();
    }
    let pulls: Vec<Value> = gitea
        .forge
        .pulls_of(&path, filter.state.as_deref())
        .iter()
        .filter(|pull| filter.base_branch.as_deref().is_none_or(|base| base == pull.base))
        .map(|pull| gitea.pull_json(pull))
        .collect();
    Json(pulls).into_response()
}

async fn open(
    State(gitea): State<Gitea>,
    Path(path): Path<RepositoryPath>,
    Json(body): Json<Value>,
) -> Response {
    let Some(repository) = gitea.forge.repository(&path.owner, &path.repo) else {
        return not_found();
    };
    let title = text(&body, "title");
    let proposal = Proposal {
        flavour: ForgeFlavour::Gitea,
        body: text(&body, "body"),
        head: text(&body, "head"),
        base: text(&body, "base"),
        // A draft is one whose title says so.
        draft: ["WIP:", "[WIP]"]
            .iter()
            .any(|prefix| title.to_uppercase().starts_with(prefix)),
        title,
    };
    match gitea.forge.open(&repository, path, proposal).await {
        Ok(pull) => {
            let path = PullPath {
                owner: pull.owner,
                repo: pull.repository,
                number: pull.number,
            };
            let labels = gitea.labels_of(&body["labels"]);
            gitea.changed(StatusCode::CREATED, &path, |pull| {
                pull.add_labels(labels);
                pull.add_reviewers(&body);
            })
        }
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::Git(problem) => error(StatusCode::INTERNAL_SERVER_ERROR, &problem.to_string()),
        Refusal::Missing(field) => {
            let (first, rest) = field.split_at(1);
            let message = format!("[{}{rest}]: Required", first.to_uppercase());
            error(StatusCode::UNPROCESSABLE_ENTITY, &message)
        }
        Refusal::Invalid(_) => not_found(),
        Refusal::NoCommits => error(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid PullRequest: There are no changes between the head and the base",
        ),
        Refusal::Exists(pull) => {
            let message = format!(
                "pull request already exists for these targets [id: {0}, issue_id: {0}, head_repo_id: 1, \
                 base_repo_id: 1, head_branch: {1}, base_branch: {2}]",
                pull.number, pull.head, pull.base
            );
            error(StatusCode::CONFLICT, &message)
        }
    }
}

async fn show(State(gitea): State<Gitea>, Path(path): Path<PullPath>) -> Response {
    gitea.changed(StatusCode::OK, &path, |_| {})
}

/// Gitea answers a `PATCH` with 201.
async fn edit(State(gitea): State<Gitea>, Path(path): Path<PullPath>, Json(body): Json<Value>) -> Response {
    gitea.changed(StatusCode::CREATED, &path, |pull| pull.edit(&body))
}

async fn request_reviewers(
    State(gitea): State<Gitea>,
    Path(path): Path<PullPath>,
    Json(body): Json<Value>,
) -> Response {
    let (users, teams) = (strings(&body["reviewers"]), strings(&body["team_reviewers"]));
    if let Some(name) = users
        .iter()
        .chain(&teams)
        .find(|name| !gitea.forge.may_review(name))
    {
        let message = format!("user does not exist [uid: 0, name: {name}]");
        return error(StatusCode::NOT_FOUND, &message);
    }
    if gitea
        .forge
        .change(&path, |pull| pull.add_reviewers(&body))
        .is_none()
    {
        return not_found();
    }
    let review = |(index, name): (usize, &String)| json!({"id": index + 1, "user": user(name), "team": null, "state": "REQUEST_REVIEW", "body": ""});
    let reviews: Vec<Value> = users.iter().enumerate().map(review).collect();
    (StatusCode::CREATED, Json(reviews)).into_response()
}

async fn list_labels(State(gitea): State<Gitea>, Path(path): Path<RepositoryPath>) -> Response {
    if gitea.forge.repository(&path.owner, &path.repo).is_none() {
        return not_found();
    }
    let labels = gitea.forge.labels();
    Json(
        labels
            .iter()
            .map(|name| gitea.label_json(name))
            .collect::<Vec<_>>(),
    )
    .into_response()
}

async fn make_label(
    State(gitea): State<Gitea>,
    Path(path): Path<RepositoryPath>,
    Json(body): Json<Value>,
) -> Response {
    if gitea.forge.repository(&path.owner, &path.repo).is_none() {
        return not_found();
    }
    let name = text(&body, "name");
    if name.is_empty() {
        return error(StatusCode::UNPROCESSABLE_ENTITY, "[Name]: Required");
    }
    gitea.forge.add_label(&name);
    (StatusCode::CREATED, Json(gitea.label_json(&name))).into_response()
}

async fn add_labels(
    State(gitea): State<Gitea>,
    Path(path): Path<PullPath>,
    Json(body): Json<Value>,
) -> Response {
    let labels = gitea.labels_of(&body["labels"]);
    match gitea.forge.change(&path, |pull| pull.add_labels(labels)) {
        Some(pull) => Json(gitea.labels_json(&pull)).into_response(),
        None => not_found(),
    }
}

impl Gitea {
    /// The known labels among ids or names; the unknown are left out, as Gitea does.
    fn labels_of(&self, values: &Value) -> Vec<String> {
        let known = self.forge.labels();
        let values = values.as_array().map_or(&[][..], Vec::as_slice);
        let label = |value: &Value| {
            if let Some(name) = value.as_str() {
                return known.iter().find(|label| *label == name).cloned();
            }
            let id = usize::try_from(value.as_u64()?).ok()?;
            known.get(id.checked_sub(1)?).cloned()
        };
        values.iter().filter_map(label).collect()
    }

    fn changed(
        &self,
        status: StatusCode,
        path: &PullPath,
        change: impl FnOnce(&mut PullRequest),
    ) -> Response {
        match self.forge.change(path, change) {
            Some(pull) => (status, Json(self.pull_json(&pull))).into_response(),
            None => not_found(),
        }
    }

    fn repository_json(&self, owner: &str, name: &str) -> Value {
        let (web, full_name) = (&self.web, format!("{owner}/{name}"));
        json!({
            "id": 1,
            "owner": user(owner),
            "name": name,
            "full_name": full_name,
            "private": true,
            "fork": false,
            "archived": false,
            "empty": false,
            "html_url": format!("{web}/{full_name}"),
            "url": format!("{web}/api/v1/repos/{full_name}"),
            "clone_url": format!("{web}/{full_name}.git"),
            "default_branch": "main",
            "permissions": {"admin": false, "push": true, "pull": true},
        })
    }

    fn pull_json(&self, pull: &PullRequest) -> Value {
        let api = format!("{}/api/v1/repos/{}/{}", self.web, pull.owner, pull.repository);
        let page = format!(
            "{}/{}/{}/pulls/{}",
            self.web, pull.owner, pull.repository, pull.number
        );
        let closed = pull.state == super::PullRequestState::Closed;
        json!({
            "id": pull.number,
            "number": pull.number,
            "url": format!("{api}/pulls/{}", pull.number),
            "html_url": page,
            "diff_url": format!("{page}.diff"),
            "patch_url": format!("{page}.patch"),
            "user": user("rehearsal-bot"),
            "title": pull.title,
            "body": pull.body,
            "labels": self.labels_json(pull),
            "milestone": null,
            "assignee": null,
            "assignees": null,
            "requested_reviewers": pull.reviewers.iter().map(|name| user(name)).collect::<Vec<_>>(),
            "state": pull.state.name(),
            "draft": pull.draft,
            "is_locked": false,
            "comments": 0,
            "mergeable": true,
            "merged": false,
            "merged_at": null,
            "merge_commit_sha": null,
            "merged_by": null,
            "base": self.branch_json(pull, &pull.base, &pull.base_sha),
            "head": self.branch_json(pull, &pull.head, &pull.head_sha),
            "merge_base": pull.base_sha,
            "due_date": null,
            "created_at": WHEN,
            "updated_at": WHEN,
            "closed_at": closed.then_some(WHEN),
        })
    }

    fn branch_json(&self, pull: &PullRequest, branch: &str, sha: &str) -> Value {
        json!({
            "label": branch,
            "ref": branch,
            "sha": sha,
            "repo_id": 1,
            "repo": self.repository_json(&pull.owner, &pull.repository),
        })
    }

    fn labels_json(&self, pull: &PullRequest) -> Vec<Value> {
        pull.labels.iter().map(|name| self.label_json(name)).collect()
    }

    fn label_json(&self, name: &str) -> Value {
        json!({
            "id": self.forge.label_id(name),
            "name": name,
            "exclusive": false,
            "is_archived": false,
            "color": "ededed",
            "description": "",
        })
    }
}

fn user(login: &str) -> Value {
    json!({"id": 1, "login": login, "login_name": "", "full_name": "", "email": format!("{login}@noreply.example")})
}

fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "The target couldn't be found.")
}

fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"message": message, "url": "/api/swagger"}))).into_response()
}
