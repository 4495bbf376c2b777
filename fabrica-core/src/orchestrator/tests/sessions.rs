//! Whole sessions.

use futures::StreamExt as _;

use super::*;
use crate::protocol::Usage;

#[tokio::test]
async fn a_plan_becomes_a_branch_and_its_messages_in_order() {
    let rig = Rig::new(Script::completes);
    let ended = rig.run(PLAN).await;
    assert_eq!(ended.status(), SessionStatus::Completed);
    assert_eq!(ended.kinds(), ["progress", "progress", "completion"]);
    let sequence: Vec<u64> = ended.messages.iter().map(|message| message.sequence).collect();
    assert_eq!(sequence, [1, 2, 3]);
    let branch = format!("fabrica/{}", ended.session.id.short());
    assert_eq!(ended.session.branch_name.as_deref(), Some(branch.as_str()));
    assert_eq!(ended.session.title.as_deref(), Some("Say hello"));
    assert_eq!(ended.told("branch"), branch.as_str());
    let spec = &rig.store.specs(ended.session.id).await.unwrap()[0];
    assert_eq!((spec.version, spec.content.as_str()), (1, PLAN));
}

#[tokio::test]
async fn the_runner_is_told_where_to_work_and_what_it_may_fetch() {
    let script = |job: &Job| {
        assert_eq!(job.path.as_deref(), Some("services/billing"));
        assert_eq!(
            job.repository.as_deref(),
            Some("https://git.example.com/acme/app.git")
        );
        assert_eq!(
            job.submodules,
            [
                "https://git.example.com/acme/one.git",
                "https://git.example.com/acme/two.git"
            ],
            "in the plan's order, by which the gateway numbers them"
        );
        Script::completes(job)
    };
    let rig = Rig::new(script);
    let ended = rig
        .run(
            "---\nrepo: git@git.example.com:acme/app.git\npath: services/billing/\n\
             submodules: [\"https://git.example.com/acme/one.git\", \"git@git.example.com:acme/two.git\"]\n---\n# Say hello\n",
        )
        .await;
    assert_eq!(ended.status(), SessionStatus::Completed);
}

#[tokio::test]
async fn the_pull_request_is_opened_and_stored_before_the_session_is_completed() {
    let mut forge = MockForge::new();
    forge.expect_publish().times(1).returning(|wanted| {
        assert_eq!(
            (wanted.base.as_str(), wanted.title.as_str()),
            ("main", "Say hello")
        );
        assert!(
            wanted.body.contains("Done.") && wanted.body.contains("- Say hello"),
            "{}",
            wanted.body
        );
        Ok(Publication::PullRequest(request(
            "https://git.example.com/acme/app/pull/7",
        )))
    });
    let rig = Rig::with(Script::completes, options(), Some(forge));
    let ended = rig.run(PLAN).await;
    assert_eq!(ended.status(), SessionStatus::Completed);
    assert_eq!(
        ended.session.pr_url.as_deref(),
        Some("https://git.example.com/acme/app/pull/7")
    );
    assert_eq!(ended.told("prUrl"), "https://git.example.com/acme/app/pull/7");
}

#[tokio::test]
async fn a_session_without_a_change_is_completed_without_a_pull_request() {
    let script = |_: &Job| {
        let result = JobResult {
            summary: "Nothing to do.".into(),
            pushed: None,
            verification: Vec::new(),
            rounds: 1,
            template: None,
            heard: 0,
            unfinished: false,
        };
        Script {
            events: vec![RunnerEvent::Completed(result)],
            end: ScriptEnd::Exit(0),
        }
    };
    // A mock without expectations: publishing would panic.
    let ended = Rig::with(script, options(), Some(MockForge::new()))
        .run(PLAN)
        .await;
    assert_eq!(ended.status(), SessionStatus::Completed);
    assert_eq!(ended.session.pr_url, None);
    assert!(ended.last().content.message.contains("without a change"));
}

#[tokio::test]
async fn what_the_runner_reports_as_failure_ends_the_session_with_its_reason() {
    let script = |job: &Job| {
        let failure = Failure::new("verification.failed", "`cargo test` failed", "Read its output.")
            .with_diagnosis(["test a ... FAILED"]);
        let pushed = Some(pushed(job));
        Script {
            events: vec![RunnerEvent::Failed { failure, pushed }],
            end: ScriptEnd::Exit(0),
        }
    };
    let ended = Rig::new(script).run(PLAN).await;
    ended.assert_failed("verification.failed");
    assert_eq!(ended.told("diagnosis")[0], "test a ... FAILED");
    assert_eq!(ended.told("head"), "abc");
    assert_eq!(
        ended.session.attempt.get(),
        1,
        "a failed verification is not tried again"
    );
}

#[tokio::test]
async fn a_lost_attempt_is_repeated_and_tells_why() {
    let script = |job: &Job| match job.attempt.get() {
        1 => Script {
            events: vec![RunnerEvent::Started {
                runner: "fake".into(),
            }],
            end: ScriptEnd::Exit(137),
        },
        _ => Script::completes(job),
    };
    let rig = Rig::new(script);
    let ended = rig.run(PLAN).await;
    assert_eq!(ended.status(), SessionStatus::Completed);
    assert_eq!(ended.session.attempt.get(), 2);
    let retry = ended
        .messages
        .iter()
        .find(|message| message.content.metadata.get("step") == Some(&"retry".into()));
    assert_eq!(retry.unwrap().content.metadata["code"], "sandbox.killed");
    assert_eq!(rig.sandbox.started().len(), 2);
}

#[tokio::test]
async fn a_session_whose_attempts_are_all_lost_fails_with_everything_known() {
    let rig = Rig::new(|_: &Job| Script {
        events: Vec::new(),
        end: ScriptEnd::Exit(1),
    });
    let ended = rig.run(PLAN).await;
    ended.assert_failed("sandbox.died");
    assert_eq!(ended.told("diagnosis")[0], "the last words of a fake");
    assert_eq!(ended.session.attempt.get(), 2);
}

#[tokio::test]
async fn a_container_that_vanishes_is_noticed() {
    let plan = PLAN.replace("---\n# Say", "limits: { attempts: 1 }\n---\n# Say");
    let ended = Rig::new(|_: &Job| Script {
        events: Vec::new(),
        end: ScriptEnd::Vanish,
    })
    .run(&plan)
    .await;
    ended.assert_failed("sandbox.lost");
}

#[tokio::test]
async fn an_image_that_cannot_run_the_runner_is_not_tried_again() {
    let ended = Rig::new(|_: &Job| Script {
        events: Vec::new(),
        end: ScriptEnd::Exit(127),
    })
    .run(PLAN)
    .await;
    ended.assert_failed("sandbox.start_failed");
    assert_eq!(ended.session.attempt.get(), 1);
}

#[tokio::test]
async fn a_waiting_session_is_cancelled_at_once() {
    let rig = Rig::new(Script::completes);
    let id = rig.submit(PLAN).await;
    rig.orchestrator.cancel(id).await.unwrap();
    let ended = rig.finish(id).await;
    assert_eq!(ended.status(), SessionStatus::Cancelled);
    assert_eq!(rig.sandbox.started(), []);
}

#[tokio::test]
async fn a_running_session_is_cancelled_and_its_commits_are_kept() {
    let rig = Rig::new(works_until_stopped);
    let id = rig.submit(PLAN).await;
    let orchestrator = rig.orchestrator.clone();
    let mut updates = orchestrator.watch(id).await.unwrap();
    let canceller = tokio::spawn(async move {
        while let Some(update) = updates.next().await {
            if let SessionUpdate::Message(message) = update.unwrap()
                && message.content.metadata.get("step") == Some(&"started".into())
            {
                orchestrator.cancel(id).await.unwrap();
            }
        }
    });
    let ended = rig.finish(id).await;
    canceller.await.unwrap();
    assert_eq!(ended.status(), SessionStatus::Cancelled);
    assert_eq!(ended.told("code"), "session.cancelled");
    assert_eq!(ended.told("head"), "abc");
}

#[tokio::test(start_paused = true)]
async fn the_wall_limit_ends_a_session_and_keeps_its_commits() {
    let plan = PLAN.replace("---\n# Say", "limits: { wall: 90s }\n---\n# Say");
    let rig = Rig::new(works_until_stopped);
    let ended = rig.run(&plan).await;
    ended.assert_failed("limit.wall_time");
    assert_eq!(
        ended.told("branch"),
        ended.session.branch_name.as_deref().unwrap()
    );
    assert!(ended.last().content.message.contains("1m 30s"));
}

#[tokio::test]
async fn usage_and_transcript_are_kept_and_watched() {
    let script = |job: &Job| {
        let entry = crate::protocol::TranscriptEntry {
            kind: "text".into(),
            parent: None,
            summary: "Reading".into(),
            detail: serde_json::Map::new(),
        };
        let usage = Usage {
            input_tokens: 10,
            cost_usd: 0.5,
            ..Usage::default()
        };
        let mut script = Script::completes(job);
        script.events.splice(
            1..1,
            [
                RunnerEvent::Agent(entry),
                RunnerEvent::Usage(usage),
                RunnerEvent::Usage(usage),
            ],
        );
        script
    };
    let rig = Rig::new(script);
    let id = rig.submit(PLAN).await;
    let updates = rig.orchestrator.watch(id).await.unwrap();
    let (ended, updates) = tokio::join!(rig.finish(id), updates.collect::<Vec<_>>());
    assert_eq!(ended.session.usage.input_tokens, 20);
    assert!((ended.session.usage.cost_usd - 1.0).abs() < 1e-9);
    let mut seen = (0, 0);
    let mut last = None;
    for update in updates {
        match update.unwrap() {
            SessionUpdate::Message(message) => {
                seen.0 += 1;
                assert_eq!(message.sequence, seen.0);
            }
            SessionUpdate::Transcript(entry) => {
                seen.1 += 1;
                assert_eq!(entry.entry.summary, "Reading");
            }
            SessionUpdate::Session(session) => last = Some(session),
        }
    }
    assert_eq!(seen, (3, 1));
    assert_eq!(last.unwrap().status, SessionStatus::Completed);
}
