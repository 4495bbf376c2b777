//! The forge as GitHub's REST API shows it.

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

const DOCUMENTATION: &str = "https://docs.github.com/rest";

#[derive(Debug, Clone)]
struct GitHub {
    forge: StubForge,
    /// The web pages' base URL.
    web: String,
}

#[derive(Debug, Default, serde::Deserialize)]
struct Filter {
    head: Option<String>,
    base: Option<String>,
    state: Option<String>,
}

pub(super) fn router(forge: &StubForge, base_url: &str) -> Router {
    Router::new()
        .route("/user", get(|| async { Json(user("rehearsal-bot")) }))
        .route("/repos/{owner}/{repo}", get(repository))
        .route("/repos/{owner}/{repo}/pulls", get(list).post(open))
        .route("/repos/{owner}/{repo}/pulls/{number}", get(show).patch(edit))
        .route(
            "/repos/{owner}/{repo}/pulls/{number}/requested_reviewers",
            post(request_reviewers),
        )
        .route("/repos/{owner}/{repo}/issues/{number}/labels", post(add_labels))
        .fallback(|| async { not_found() })
        .with_state(GitHub {
            forge: forge.clone(),
            web: base_url.to_owned(),
        })
}

pub(super) fn unauthorised(with_credential: bool) -> Response {
    let message = if with_credential {
        "Bad credentials"
    } else {
        "Requires authentication"
    };
    error(StatusCode::UNAUTHORIZED, message, None)
}

async fn repository(State(github): State<GitHub>, Path(path): Path<RepositoryPath>) -> Response {
    match github.forge.repository(&path.owner, &path.repo) {
        Some(_) => Json(github.repository_json(&path.owner, &path.repo)).into_response(),
        None => not_found(),
    }
}

async fn list(
    State(github): State<GitHub>,
    Path(path): Path<RepositoryPath>,
    Query(filter): Query<Filter>,
) -> Response {
    if github.forge.repository(&path.owner, &path.repo).is_none() {
        return not_found();
    }
    // As at GitHub, a head without its owner filters nothing.
    let head = filter.head.as_deref().filter(|head| head.contains(':'));
    let pulls: Vec<Value> = github
        .forge
        .pulls_of(&path, filter.state.as_deref())
        .iter()
        .filter(|pull| head.is_none_or(|head| head == format!("{}:{}", pull.owner, pull.head)))
        .filter(|pull| filter.base.as_deref().is_none_or(|base| base == pull.base))
        .map(|pull| github.pull_json(pull))
        .collect();
    Json(pulls).into_response()
}

async fn open(
    State(github): State<GitHub>,
    Path(path): Path<RepositoryPath>,
    Json(body): Json<Value>,
) -> Response {
    let Some(repository) = github.forge.repository(&path.owner, &path.repo) else {
        return not_found();
    };
    let proposal = Proposal {
        flavour: ForgeFlavour::GitHub,
        title: text(&body, "title"),
        body: text(&body, "body"),
        head: text(&body, "head"),
        base: text(&body, "base"),
        draft: body["draft"] == true,
    };
    let between = format!("No commits between {} and {}", proposal.base, proposal.head);
    let problem = match github.forge.open(&repository, path, proposal).await {
        Ok(pull) => return (StatusCode::CREATED, Json(github.pull_json(&pull))).into_response(),
        Err(Refusal::Git(problem)) => {
            return error(StatusCode::INTERNAL_SERVER_ERROR, &problem.to_string(), None);
        }
        Err(Refusal::Missing(field)) => {
            json!({"resource": "PullRequest", "code": "missing_field", "field": field})
        }
        Err(Refusal::Invalid(field)) => json!({"resource": "PullRequest", "field": field, "code": "invalid"}),
        Err(Refusal::NoCommits) => json!({"resource": "PullRequest", "code": "custom", "message": between}),
        Err(Refusal::Exists(pull)) => {
            let message = format!("A pull request already exists for {}:{}.", pull.owner, pull.head);
            json!({"resource": "PullRequest", "code": "custom", "message": message})
        }
    };
    error(
        StatusCode::UNPROCESSABLE_ENTITY,
        "Validation Failed",
        Some(&json!([problem])),
    )
}

async fn show(State(github): State<GitHub>, Path(path): Path<PullPath>) -> Response {
    github.changed(StatusCode::OK, &path, |_| {})
}

async fn edit(State(github): State<GitHub>, Path(path): Path<PullPath>, Json(body): Json<Value>) -> Response {
    github.changed(StatusCode::OK, &path, |pull| pull.edit(&body))
}

async fn request_reviewers(
    State(github): State<GitHub>,
    Path(path): Path<PullPath>,
    Json(body): Json<Value>,
) -> Response {
    let names = [strings(&body["reviewers"]), strings(&body["team_reviewers"])].concat();
    if names.iter().any(|name| !github.forge.may_review(name)) {
        let message = format!(
            "Reviews may only be requested from collaborators. One or more of the users or teams you \
             specified is not a collaborator of the {}/{} repository.",
            path.owner, path.repo
        );
        return error(StatusCode::UNPROCESSABLE_ENTITY, &message, None);
    }
    github.changed(StatusCode::CREATED, &path, |pull| pull.add_reviewers(&body))
}

/// GitHub makes the labels that are missing.
async fn add_labels(
    State(github): State<GitHub>,
    Path(path): Path<PullPath>,
    Json(body): Json<Value>,
) -> Response {
    let labels = strings(if body.is_array() { &body } else { &body["labels"] });
    for label in &labels {
        github.forge.add_label(label);
    }
    match github.forge.change(&path, |pull| pull.add_labels(labels)) {
        Some(pull) => Json(github.labels_json(&pull)).into_response(),
        None => not_found(),
    }
}

impl GitHub {
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
            "node_id": "R_1",
            "name": name,
            "full_name": full_name,
            "private": true,
            "owner": user(owner),
            "html_url": format!("{web}/{full_name}"),
            "url": format!("{web}/api/v3/repos/{full_name}"),
            "clone_url": format!("{web}/{full_name}.git"),
            "fork": false,
            "archived": false,
            "disabled": false,
            "visibility": "private",
            "default_branch": "main",
            "permissions": {"admin": false, "maintain": false, "push": true, "triage": true, "pull": true},
        })
    }

    fn pull_json(&self, pull: &PullRequest) -> Value {
        let api = format!("{}/api/v3/repos/{}/{}", self.web, pull.owner, pull.repository);
        let page = format!(
            "{}/{}/{}/pull/{}",
            self.web, pull.owner, pull.repository, pull.number
        );
        let closed = pull.state == super::PullRequestState::Closed;
        let team = |name: &String| json!({"id": 1, "name": name, "slug": name});
        json!({
            "id": pull.number,
            "node_id": format!("PR_{}", pull.number),
            "number": pull.number,
            "url": format!("{api}/pulls/{}", pull.number),
            "html_url": page,
            "diff_url": format!("{page}.diff"),
            "patch_url": format!("{page}.patch"),
            "issue_url": format!("{api}/issues/{}", pull.number),
            "state": pull.state.name(),
            "locked": false,
            "title": pull.title,
            "user": user("rehearsal-bot"),
            "body": pull.body,
            "labels": self.labels_json(pull),
            "milestone": null,
            "assignee": null,
            "assignees": [],
            "requested_reviewers": pull.reviewers.iter().map(|name| user(name)).collect::<Vec<_>>(),
            "requested_teams": pull.team_reviewers.iter().map(team).collect::<Vec<_>>(),
            "head": self.branch_json(pull, &pull.head, &pull.head_sha),
            "base": self.branch_json(pull, &pull.base, &pull.base_sha),
            "draft": pull.draft,
            "merged": false,
            "mergeable": null,
            "merge_commit_sha": null,
            "created_at": WHEN,
            "updated_at": WHEN,
            "closed_at": closed.then_some(WHEN),
            "merged_at": null,
        })
    }

    fn branch_json(&self, pull: &PullRequest, branch: &str, sha: &str) -> Value {
        json!({
            "label": format!("{}:{branch}", pull.owner),
            "ref": branch,
            "sha": sha,
            "user": user(&pull.owner),
            "repo": self.repository_json(&pull.owner, &pull.repository),
        })
    }

    fn labels_json(&self, pull: &PullRequest) -> Vec<Value> {
        let label = |name: &String| {
            json!({
                "id": self.forge.label_id(name),
                "name": name,
                "color": "ededed",
                "default": false,
                "description": null,
            })
        };
        pull.labels.iter().map(label).collect()
    }
}

fn user(login: &str) -> Value {
    json!({"login": login, "id": 1, "node_id": "U_1", "type": "User", "site_admin": false})
}

fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "Not Found", None)
}

fn error(status: StatusCode, message: &str, errors: Option<&Value>) -> Response {
    let mut body = json!({
        "message": message,
        "documentation_url": DOCUMENTATION,
        "status": status.as_u16().to_string(),
    });
    if let Some(errors) = errors {
        body["errors"] = errors.clone();
    }
    (status, Json(body)).into_response()
}
