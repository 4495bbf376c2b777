//! The forge, in both of its dialects.

use fabrica_cli::rehearsal::{ForgeFault, PullRequestState};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::client;
use crate::{TOKEN, code_host, pushed_branch};

async fn call(host_url: &str, method: Method, path: &str, body: &Value) -> Response {
    let request = client()
        .request(method, format!("{host_url}{path}"))
        .bearer_auth(TOKEN);
    let request = if body.is_null() {
        request
    } else {
        request.json(body)
    };
    request.send().await.unwrap()
}

#[tokio::test]
async fn github_opens_a_pull_request_once() {
    let (directory, host, _sample) = code_host().await;
    let api = host.forge_api_url();
    let proposal =
        json!({"title": "News", "head": "fabrica/news", "base": "main", "body": "why", "draft": true});
    let missing = call(&api, Method::POST, "/repos/acme/sample/pulls", &proposal).await;
    assert_eq!(missing.status(), 422);
    let missing: Value = missing.json().await.unwrap();
    assert_eq!(
        missing["errors"][0],
        json!({"resource": "PullRequest", "field": "head", "code": "invalid"})
    );

    pushed_branch(directory.path(), &host, "fabrica/news").await;
    let opened = call(&api, Method::POST, "/repos/acme/sample/pulls", &proposal).await;
    assert_eq!(opened.status(), 201);
    let opened: Value = opened.json().await.unwrap();
    assert_eq!((&opened["number"], &opened["draft"]), (&json!(1), &json!(true)));
    let page = client()
        .get(opened["html_url"].as_str().unwrap())
        .send()
        .await
        .unwrap();
    assert!(page.text().await.unwrap().contains("+something new"));

    let again = call(&api, Method::POST, "/repos/acme/sample/pulls", &proposal).await;
    assert_eq!(again.status(), 422);
    let again: Value = again.json().await.unwrap();
    assert_eq!(
        again["errors"][0]["message"],
        "A pull request already exists for acme:fabrica/news."
    );

    let found = "/repos/acme/sample/pulls?head=acme:fabrica/news&base=main&state=open";
    let found: Value = call(&api, Method::GET, found, &Value::Null)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(found[0]["number"], 1);
    let other = "/repos/acme/sample/pulls?head=acme:other";
    let other: Value = call(&api, Method::GET, other, &Value::Null)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(other, json!([]));
}

#[tokio::test]
async fn github_labels_reviews_and_closes() {
    let (directory, host, _sample) = code_host().await;
    let api = host.forge_api_url();
    pushed_branch(directory.path(), &host, "news").await;
    let proposal = json!({"title": "News", "head": "acme:news", "base": "main"});
    assert_eq!(
        call(&api, Method::POST, "/repos/acme/sample/pulls", &proposal)
            .await
            .status(),
        201
    );
    let labels = json!({"labels": ["agent", "brand new"]});
    assert_eq!(
        call(&api, Method::POST, "/repos/acme/sample/issues/1/labels", &labels)
            .await
            .status(),
        200
    );
    let reviewers = json!({"reviewers": ["mona"], "team_reviewers": ["platform"]});
    let path = "/repos/acme/sample/pulls/1/requested_reviewers";
    assert_eq!(call(&api, Method::POST, path, &reviewers).await.status(), 201);
    let closing = json!({"state": "closed", "title": "Old news"});
    assert_eq!(
        call(&api, Method::PATCH, "/repos/acme/sample/pulls/1", &closing)
            .await
            .status(),
        200
    );

    let pulls = host.forge().pull_requests();
    assert_eq!(pulls[0].labels, ["agent", "brand new"]);
    assert_eq!(
        (&pulls[0].reviewers[0], &pulls[0].team_reviewers[0]),
        (&"mona".to_owned(), &"platform".to_owned())
    );
    assert_eq!(
        (pulls[0].state, pulls[0].title.as_str()),
        (PullRequestState::Closed, "Old news")
    );
}

#[tokio::test]
async fn gitea_speaks_its_own_dialect() {
    let (directory, host, _sample) = code_host().await;
    let api = host.gitea_api_url();
    let version: Value = client()
        .get(format!("{api}/version"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert!(version["version"].is_string());
    pushed_branch(directory.path(), &host, "news").await;
    let proposal = json!({"title": "WIP: News", "head": "news", "base": "main"});
    let opened = call(&api, Method::POST, "/repos/acme/sample/pulls", &proposal).await;
    assert_eq!(opened.status(), 201);
    assert_eq!(opened.json::<Value>().await.unwrap()["draft"], true);
    assert_eq!(
        call(&api, Method::POST, "/repos/acme/sample/pulls", &proposal)
            .await
            .status(),
        409
    );

    let labels = call(&api, Method::GET, "/repos/acme/sample/labels", &Value::Null).await;
    let labels: Value = labels.json().await.unwrap();
    assert_eq!(
        (&labels[1]["id"], &labels[1]["name"]),
        (&json!(2), &json!("agent"))
    );
    let chosen = json!({"labels": [2]});
    assert_eq!(
        call(&api, Method::POST, "/repos/acme/sample/issues/1/labels", &chosen)
            .await
            .status(),
        200
    );
    let reviewers = json!({"reviewers": ["mona"]});
    let path = "/repos/acme/sample/pulls/1/requested_reviewers";
    assert_eq!(call(&api, Method::POST, path, &reviewers).await.status(), 201);
    assert_eq!(host.forge().pull_requests()[0].labels, ["agent"]);
}

#[tokio::test]
async fn the_forge_refuses_other_tokens_and_records_them() {
    let (_directory, host, _sample) = code_host().await;
    let client = client();
    for (api, message) in [
        (host.forge_api_url(), "Bad credentials"),
        (host.gitea_api_url(), "invalid username, password or token"),
    ] {
        let response = client
            .get(format!("{api}/user"))
            .header("authorization", "token other")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(response.json::<Value>().await.unwrap()["message"], message);
        let accepted = client
            .get(format!("{api}/user"))
            .header("authorization", format!("token {TOKEN}"));
        assert_eq!(accepted.send().await.unwrap().status(), 200);
    }
    let requests = host.forge().requests();
    assert_eq!(requests[0].path, "/api/v3/user");
    assert_eq!(requests[0].authorization.as_deref(), Some("token other"));
    assert_eq!(requests[3].status, Some(200));
}

#[tokio::test]
async fn an_outage_can_lose_the_answer_of_a_request_that_took_effect() {
    let (directory, host, _sample) = code_host().await;
    pushed_branch(directory.path(), &host, "news").await;
    host.forge().inject(ForgeFault {
        status: 502,
        headers: Vec::new(),
        takes_effect: true,
    });
    let proposal = json!({"title": "News", "head": "news", "base": "main"});
    let lost = call(
        &host.forge_api_url(),
        Method::POST,
        "/repos/acme/sample/pulls",
        &proposal,
    )
    .await;
    assert_eq!(lost.status(), 502);
    assert_eq!(host.forge().pull_requests().len(), 1);
    let again = call(
        &host.forge_api_url(),
        Method::POST,
        "/repos/acme/sample/pulls",
        &proposal,
    )
    .await;
    assert_eq!(again.status(), 422);
}
