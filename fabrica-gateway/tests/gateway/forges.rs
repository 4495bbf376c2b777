//! Pull requests: what the forges' APIs are asked, and what their answers become.

use std::sync::{Arc, Mutex};

use axum::response::Response;
use fabrica_core::plan::{PullRequestOptions, Repository};
use fabrica_core::ports::{Forge as _, ForgeError, Publication, PullRequest, PullRequestRequest};
use fabrica_gateway::forges::{ForgeConfig, ForgeKind, Forges, GitHubForge, GiteaForge};
use secrecy::SecretString;
use serde_json::{Value, json};
use url::Url;

use crate::support::upstream::{Ledger, Seen, Server, answer, recording};

const TOKEN: &str = "canary-forge-token";

fn request(options: PullRequestOptions) -> PullRequestRequest {
    PullRequestRequest {
        repository: Repository::Http(Url::parse("https://git.example.com/acme/billing.git").unwrap()),
        branch: "fabrica/1".into(),
        base: "main".into(),
        title: "Title".into(),
        body: "Body".into(),
        options,
    }
}

fn decorated() -> PullRequestOptions {
    PullRequestOptions {
        draft: true,
        labels: vec!["agent".into(), "unknown".into()],
        reviewers: vec!["alice".into(), "acme/platform".into()],
    }
}

fn pull(number: u64, title: &str, head: &str, base: &str) -> Value {
    json!({
        "number": number, "title": title, "html_url": format!("https://git.example.com/acme/billing/pulls/{number}"),
        "head": {"ref": head, "label": head}, "base": {"ref": base, "label": base},
    })
}

fn body(value: &Value) -> Response {
    answer(200, &[("content-type", "application/json")], value.to_string())
}

/// A forge that answers by method and path, and knows no pull request unless it is given one.
async fn forge<F>(special: F) -> (Server, Ledger)
where
    F: Fn(&Seen) -> Option<Response> + Clone + Send + Sync + 'static,
{
    recording(move |seen| {
        special(seen).unwrap_or_else(|| {
            let path = seen.path.split('?').next().unwrap();
            match (seen.method.as_str(), path.rsplit('/').next().unwrap()) {
                ("GET", "labels") if path.contains("/orgs/") => answer(404, &[], "{}"),
                ("GET", "labels") => body(&json!([{"id": 5, "name": "agent"}])),
                ("POST", "pulls") => body(&pull(7, "Title", "fabrica/1", "main")),
                ("PATCH", number) => body(&pull(number.parse().unwrap(), "Title", "fabrica/1", "main")),
                _ => body(&json!([])),
            }
        })
    })
    .await
}

fn github(server: &Server) -> GitHubForge {
    let url = Url::parse(&format!("{}/api/v3", server.url)).unwrap();
    GitHubForge::new(&url, Some(SecretString::from(TOKEN))).unwrap()
}

fn gitea(server: &Server) -> GiteaForge {
    let url = Url::parse(&format!("{}/api/v1/", server.url)).unwrap();
    GiteaForge::new(&url, Some(SecretString::from(TOKEN))).unwrap()
}

fn opened(publication: Publication) -> PullRequest {
    match publication {
        Publication::PullRequest(pull) => pull,
        Publication::Branch => panic!("a pull request was expected"),
    }
}

/// Method, path and body of everything that was asked.
fn asked(ledger: &Ledger) -> Vec<(String, Value)> {
    let seen = ledger.lock().unwrap();
    seen.iter()
        .map(|seen| {
            (
                format!("{} {}", seen.method, seen.path),
                serde_json::from_slice(&seen.body).unwrap_or(Value::Null),
            )
        })
        .collect()
}

#[tokio::test]
async fn github_opens_a_draft_with_labels_and_reviewers() {
    let (server, ledger) = forge(|_| None).await;
    let pull = opened(github(&server).publish(&request(decorated())).await.unwrap());
    assert_eq!((pull.number, pull.opened, pull.warnings.len()), (7, true, 0));
    assert_eq!(pull.url, "https://git.example.com/acme/billing/pulls/7");
    let repository = "/api/v3/repos/acme/billing";
    assert_eq!(
        asked(&ledger),
        [
            (
                format!("GET {repository}/pulls?state=open&head=acme%3Afabrica%2F1&base=main"),
                Value::Null
            ),
            (
                format!("POST {repository}/pulls"),
                json!({"title": "Title", "body": "Body", "head": "fabrica/1", "base": "main", "draft": true}),
            ),
            (
                format!("POST {repository}/issues/7/labels"),
                json!({"labels": ["agent", "unknown"]})
            ),
            (
                format!("POST {repository}/pulls/7/requested_reviewers"),
                json!({"reviewers": ["alice"]})
            ),
            (
                format!("POST {repository}/pulls/7/requested_reviewers"),
                json!({"team_reviewers": ["platform"]})
            ),
        ]
    );
    let first = ledger.lock().unwrap()[0].clone();
    assert_eq!(
        first.header("authorization"),
        Some(format!("Bearer {TOKEN}").as_str())
    );
    assert_eq!(first.header("accept"), Some("application/vnd.github+json"));
    assert_eq!(first.header("x-github-api-version"), Some("2022-11-28"));
    assert!(first.header("user-agent").unwrap().starts_with("fabrica/"));
}

#[tokio::test]
async fn gitea_opens_a_draft_by_its_title_and_names_labels_by_number() {
    let (server, ledger) = forge(|_| None).await;
    let pull = opened(gitea(&server).publish(&request(decorated())).await.unwrap());
    assert_eq!((pull.number, pull.opened), (7, true));
    assert_eq!(pull.warnings, ["the repository has no label \"unknown\""]);
    let asked = asked(&ledger);
    let repository = "/api/v1/repos/acme/billing";
    let find = |method_and_path: String| {
        let found: Vec<_> = asked
            .iter()
            .filter(|(path, _)| *path == method_and_path)
            .map(|(_, body)| body.clone())
            .collect();
        found
    };
    assert_eq!(
        find(format!("POST {repository}/pulls")),
        [json!({"title": "WIP: Title", "body": "Body", "head": "fabrica/1", "base": "main"})]
    );
    assert_eq!(
        find(format!("POST {repository}/issues/7/labels")),
        [json!({"labels": [5]})]
    );
    assert_eq!(
        find(format!("POST {repository}/pulls/7/requested_reviewers")),
        [
            json!({"reviewers": ["alice"]}),
            json!({"team_reviewers": ["platform"]})
        ]
    );
    assert_eq!(
        ledger.lock().unwrap()[0].header("authorization"),
        Some(format!("token {TOKEN}").as_str())
    );
}

/// Pull requests of other branches and of a fork, and ours.
fn others(seen: &Seen) -> Option<Response> {
    let listed = json!([
        pull(1, "x", "fabrica/1", "release"),
        pull(2, "x", "fabrica/12", "main"),
        {"number": 4, "title": "x", "html_url": "x", "base": {"ref": "main"},
            "head": {"ref": "fabrica/1", "label": "fork:fabrica/1"}},
        pull(3, "[WIP] Old", "fabrica/1", "main"),
    ]);
    (seen.method == "GET" && seen.path.contains("/pulls?")).then(|| body(&listed))
}

#[tokio::test]
async fn an_open_pull_request_of_the_branch_is_brought_up_to_date() {
    let (server, ledger) = forge(others).await;
    let pull = opened(
        github(&server)
            .publish(&request(PullRequestOptions::default()))
            .await
            .unwrap(),
    );
    assert_eq!((pull.number, pull.opened), (3, false));
    let last = asked(&ledger).pop().unwrap();
    assert_eq!(
        last,
        (
            "PATCH /api/v3/repos/acme/billing/pulls/3".into(),
            json!({"title": "Title", "body": "Body"})
        )
    );
    let (server, ledger) = forge(others).await;
    let pull = opened(
        gitea(&server)
            .publish(&request(PullRequestOptions::default()))
            .await
            .unwrap(),
    );
    assert_eq!((pull.number, pull.opened), (3, false));
    let last = asked(&ledger).pop().unwrap();
    // What people see as a draft stays one.
    assert_eq!(
        last,
        (
            "PATCH /api/v1/repos/acme/billing/pulls/3".into(),
            json!({"title": "WIP: Title", "body": "Body"})
        )
    );
}

#[tokio::test]
async fn a_pull_request_that_somebody_opened_in_between_is_found() {
    let refusals = [
        (
            422,
            json!({"message": "Validation Failed", "errors": [{"message": "A pull request already exists for acme:fabrica/1."}]}),
        ),
        (
            409,
            json!({"message": "pull request already exists for these targets"}),
        ),
    ];
    for (status, refusal) in refusals {
        let posted = Arc::new(Mutex::new(false));
        let (server, _ledger) = forge(move |seen| {
            if seen.method == "POST" && seen.path.ends_with("/pulls") {
                *posted.lock().unwrap() = true;
                return Some(answer(status, &[], refusal.to_string()));
            }
            if *posted.lock().unwrap() {
                others(seen)
            } else {
                None
            }
        })
        .await;
        let options = PullRequestOptions::default();
        let publication = match status {
            422 => github(&server).publish(&request(options)).await,
            _ => gitea(&server).publish(&request(options)).await,
        };
        let pull = opened(publication.unwrap());
        assert_eq!((pull.number, pull.opened), (3, false));
    }
}

#[tokio::test]
async fn labels_and_reviewers_that_are_refused_become_warnings() {
    let refuse = |seen: &Seen| {
        let beside = seen.method == "POST" && !seen.path.ends_with("/pulls");
        let words = json!({"message": "no such user"}).to_string();
        (beside && !seen.body.windows(5).any(|part| part == b"alice")).then(|| answer(422, &[], words))
    };
    let (server, _ledger) = forge(refuse).await;
    let pull = opened(github(&server).publish(&request(decorated())).await.unwrap());
    assert_eq!(pull.warnings.len(), 2, "{:?}", pull.warnings);
    assert!(
        pull.warnings[1].starts_with("platform was not asked"),
        "{:?}",
        pull.warnings
    );
    let (server, _ledger) = forge(refuse).await;
    let pull = opened(gitea(&server).publish(&request(decorated())).await.unwrap());
    assert_eq!(pull.warnings.len(), 3, "{:?}", pull.warnings);
}

#[tokio::test]
async fn answers_become_errors_in_the_forges_own_words_without_the_token() {
    type Case<'a> = (u16, &'a [(&'static str, &'static str)], &'static str);
    let cases: [Case; 9] = [
        (401, &[], "forge.denied"),
        (403, &[], "forge.denied"),
        (403, &[("x-ratelimit-remaining", "0")], "forge.unavailable"),
        (403, &[("retry-after", "60")], "forge.unavailable"),
        (404, &[], "forge.not_found"),
        (422, &[], "forge.refused"),
        (429, &[], "forge.unavailable"),
        (503, &[], "forge.unavailable"),
        (301, &[("location", "/elsewhere")], "forge.not_found"),
    ];
    for (status, headers, code) in cases {
        let headers = headers.to_vec();
        let (server, _ledger) = recording(move |_| {
            answer(
                status,
                &headers,
                json!({"message": format!("own words, {TOKEN}")}).to_string(),
            )
        })
        .await;
        for error in [
            github(&server)
                .publish(&request(PullRequestOptions::default()))
                .await
                .unwrap_err(),
            gitea(&server)
                .publish(&request(PullRequestOptions::default()))
                .await
                .unwrap_err(),
        ] {
            assert_eq!(error.code(), code, "{status}");
            let text = format!("{error} {error:?}");
            assert!(!text.contains(TOKEN), "{text}");
            assert!(status == 301 || text.contains("own words"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_forge_that_is_not_there_or_babbles_is_unavailable() {
    let nowhere = Url::parse("http://127.0.0.1:9").unwrap();
    let forge = GitHubForge::new(&nowhere, Some(SecretString::from(TOKEN))).unwrap();
    let error = forge
        .publish(&request(PullRequestOptions::default()))
        .await
        .unwrap_err();
    assert!(
        error.retryable() && error.to_string().contains("refused"),
        "{error}"
    );
    let (server, _ledger) = recording(|_| answer(200, &[], "<html>")).await;
    let error = gitea(&server)
        .publish(&request(PullRequestOptions::default()))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "forge.unavailable");
}

#[tokio::test]
async fn each_repository_goes_to_the_forge_of_its_host() {
    let (server, ledger) = forge(|_| None).await;
    let forges = Forges::new([ForgeConfig {
        authority: "Git.example.com".into(),
        kind: ForgeKind::Gitea,
        api_url: Some(Url::parse(&format!("{}/api/v1", server.url)).unwrap()),
        token: Some(SecretString::from(TOKEN)),
    }])
    .unwrap();
    let publish = async |repository| {
        let request = PullRequestRequest {
            repository,
            ..request(PullRequestOptions::default())
        };
        forges.publish(&request).await
    };
    let at = |url: &str| Repository::Http(Url::parse(url).unwrap());
    assert_eq!(
        opened(
            publish(at("https://git.example.com/acme/billing.git"))
                .await
                .unwrap()
        )
        .number,
        7
    );
    assert_eq!(
        publish(Repository::Local("/work".into())).await.unwrap(),
        Publication::Branch
    );
    let asked = ledger.lock().unwrap().len();
    let error = publish(at("https://evil.example/acme/billing.git"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ForgeError::NotConfigured(host) if host == "evil.example"),
        "{error:?}"
    );
    assert!(error.failure().advice.contains("--forge"));
    // github.com is known, but nobody gave a token for it.
    let error = publish(at("https://github.com/acme/billing.git"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ForgeError::Denied(words) if words.contains("no token")),
        "{error:?}"
    );
    assert_eq!(
        ledger.lock().unwrap().len(),
        asked,
        "no other host's repository reaches this forge"
    );
}
