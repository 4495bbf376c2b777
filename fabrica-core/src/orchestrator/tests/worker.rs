//! The worker: limits, leases, and how it ends.

use tokio_util::sync::CancellationToken;

use super::*;
use crate::message::MessageContent;
use crate::ports::store::Created;

/// Waits until a condition on the rig holds.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn no_more_sessions_run_at_once_than_the_operator_allows() {
    let rig = Rig::with(
        Script::completes,
        Options {
            concurrency: 3,
            ..options()
        },
        None,
    );
    let mut sessions = Vec::new();
    for _ in 0..12 {
        sessions.push(rig.submit(PLAN).await);
    }
    let shutdown = Shutdown::default();
    let worker = rig.orchestrator.clone();
    let stop = shutdown.clone();
    let work = tokio::spawn(async move { worker.run(stop).await });
    for id in sessions {
        until("completed", async || {
            rig.store.session(id).await.unwrap().unwrap().status.is_terminal()
        })
        .await;
    }
    shutdown.drain.cancel();
    work.await.unwrap().unwrap();
    assert_eq!(rig.sandbox.started().len(), 12, "each session ran once");
    assert!(
        rig.sandbox.most_running() <= 3,
        "{} ran at once",
        rig.sandbox.most_running()
    );
    assert_eq!((rig.sandbox.containers(), rig.sandbox.accesses()), (0, 0));
}

#[tokio::test]
async fn a_worker_wakes_up_for_a_new_session_without_polling() {
    let rig = Rig::with(
        Script::completes,
        Options {
            poll: Duration::from_hours(1),
            ..options()
        },
        None,
    );
    let shutdown = Shutdown::default();
    let (worker, stop) = (rig.orchestrator.clone(), shutdown.clone());
    let work = tokio::spawn(async move { worker.run(stop).await });
    let id = rig.submit(PLAN).await;
    until("completed", async || {
        rig.store.session(id).await.unwrap().unwrap().status.is_terminal()
    })
    .await;
    shutdown.drain.cancel();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn draining_waits_for_what_runs_and_claims_nothing_more() {
    let release = CancellationToken::new();
    let rig = Rig::with(
        works_until_stopped,
        Options {
            concurrency: 1,
            ..options()
        },
        None,
    );
    let first = rig.submit(PLAN).await;
    let second = rig.submit(PLAN).await;
    let shutdown = Shutdown {
        drain: release.clone(),
        ..Shutdown::default()
    };
    let (worker, stop) = (rig.orchestrator.clone(), shutdown.clone());
    let work = tokio::spawn(async move { worker.run(stop).await });
    until("one runs", async || rig.sandbox.containers() == 1).await;
    shutdown.drain.cancel();
    let running = if rig.sandbox.started()[0].session == first {
        first
    } else {
        second
    };
    rig.orchestrator.cancel(running).await.unwrap();
    work.await.unwrap().unwrap();
    assert_eq!(rig.sandbox.started().len(), 1);
    let other = if running == first { second } else { first };
    assert_eq!(
        rig.store.session(other).await.unwrap().unwrap().status,
        SessionStatus::Pending
    );
}

#[tokio::test]
async fn aborting_gives_sessions_back_to_the_queue() {
    let rig = Rig::new(works_until_stopped);
    let id = rig.submit(PLAN).await;
    let shutdown = Shutdown::default();
    let (worker, stop) = (rig.orchestrator.clone(), shutdown.clone());
    let work = tokio::spawn(async move { worker.run(stop).await });
    until("it runs", async || rig.sandbox.containers() == 1).await;
    shutdown.abort.cancel();
    work.await.unwrap().unwrap();
    let session = rig.store.session(id).await.unwrap().unwrap();
    assert_eq!(session.status, SessionStatus::Pending);
    assert_eq!((rig.sandbox.containers(), rig.sandbox.accesses()), (0, 0));
    let messages = rig.store.messages(id, 0, 100).await.unwrap();
    assert_eq!(
        messages.last().unwrap().content.metadata["code"],
        "worker.stopped"
    );
}

#[tokio::test]
async fn a_driver_that_panics_does_not_hold_its_session_for_ever() {
    let short = Options {
        lease: Duration::from_secs(1),
        ..options()
    };
    // A mock without expectations panics when it is asked to publish.
    let rig = Rig::with(
        |job: &Job| match job.title.as_str() {
            "Work on" => works_until_stopped(job),
            _ => Script::completes(job),
        },
        short,
        Some(MockForge::new()),
    );
    let working = rig.submit(&PLAN.replace("Say hello", "Work on")).await;
    let panicking = rig.submit(PLAN).await;
    let shutdown = Shutdown::default();
    let (worker, stop) = (rig.orchestrator.clone(), shutdown.clone());
    let work = tokio::spawn(async move { worker.run(stop).await });
    until("the panicking one is given up", async || {
        rig.store.session(panicking).await.unwrap().unwrap().status == SessionStatus::Failed
    })
    .await;
    let other = rig.store.session(working).await.unwrap().unwrap();
    assert_eq!((other.status, other.attempt.get()), (SessionStatus::Running, 1));
    rig.orchestrator.cancel(working).await.unwrap();
    shutdown.drain.cancel();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_session_that_another_program_inserted_runs_too() {
    let rig = Rig::new(Script::completes);
    let ids = crate::clock::IdSource::new(&crate::clock::SystemClock, &crate::clock::SystemEntropy);
    let message = crate::message::NewMessage {
        id: ids.message(),
        kind: MessageKind::Progress,
        content: MessageContent::text("foreign"),
    };
    let session = crate::ports::store::NewSession {
        id: ids.session(),
        spec: ids.spec(),
        content: "# Without any frontmatter\n\nDo it.".into(),
        repo_url: "https://git.example.com/acme/app.git".into(),
        title: String::new(),
        max_attempts: 1,
        priority: 0,
        submitter: None,
        idempotency_key: None,
        held: Duration::ZERO,
        message,
    };
    let Created::New(id) = rig.store.create_session(session).await.unwrap() else {
        panic!("it is new")
    };
    assert_eq!(rig.finish(id).await.status(), SessionStatus::Completed);
}

#[tokio::test]
async fn a_plan_that_wants_the_network_is_refused_before_it_is_stored() {
    let rig = Rig::new(Script::completes);
    let plan = PLAN.replace("---\n# Say", "network: { allow: [x.example.com] }\n---\n# Say");
    let error = rig.orchestrator.submit(Submission::new(plan)).await.unwrap_err();
    assert_eq!(error.code(), "network.not_permitted");
    let all = rig
        .store
        .sessions(&crate::ports::store::SessionFilter::default(), 10)
        .await
        .unwrap();
    assert_eq!(all, []);
}

#[tokio::test]
async fn a_local_repository_is_stored_with_its_absolute_path() {
    let repositories = crate::plan::RepositoryPolicy {
        local_paths: true,
        ..Default::default()
    };
    let rig = Rig::with(
        Script::completes,
        Options {
            repositories,
            ..options()
        },
        None,
    );
    let plan = PLAN.replace("https://git.example.com/acme/app.git", "./my app");
    let place = tempfile::tempdir().unwrap();
    let submission = |directory: &std::path::Path| Submission {
        directory: Some(directory.to_owned()),
        ..Submission::new(plan.clone())
    };
    let missing = rig.orchestrator.submit(submission(place.path())).await;
    assert_eq!(missing.unwrap_err().code(), "repository.not_found");
    std::fs::create_dir(place.path().join("my app")).unwrap();
    let bare = rig.orchestrator.submit(submission(place.path())).await;
    assert_eq!(bare.unwrap_err().code(), "repository.not_git");
    std::fs::create_dir(place.path().join("my app/.git")).unwrap();
    let id = rig
        .orchestrator
        .submit(submission(place.path()))
        .await
        .unwrap()
        .session();
    let expected = place.path().canonicalize().unwrap().join("my app");
    assert_eq!(
        rig.store.session(id).await.unwrap().unwrap().repo_url,
        expected.display().to_string()
    );
    assert_eq!(rig.finish(id).await.status(), SessionStatus::Completed);
}
