//! A model that answers nobody: who is asked, and how long a session waits.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use chrono::{SecondsFormat, TimeDelta};
use tokio::time::sleep;

use super::asking::{Forward, answer, checkpoint, note};
use super::*;
use crate::clock::{Clock as _, SystemEntropy};
use crate::protocol::{Resume, USAGE_LIMIT};

type Told = Arc<Mutex<Vec<Option<Resume>>>>;

/// Meets this in its first attempts, as often as that, then completes.
fn meets(
    times: u32,
    failure: impl Fn() -> Failure + Send + Sync + 'static,
) -> (impl Fn(&Job) -> Script + Send + Sync + 'static, Told) {
    let told = Told::default();
    let seen = told.clone();
    let director = move |job: &Job| {
        seen.lock().unwrap().push(job.resume.clone());
        if job.attempt.get() > times {
            let mut script = Script::completes(job);
            if let Some(RunnerEvent::Completed(result)) = script.events.last_mut() {
                result.heard = job.heard;
            }
            return script;
        }
        Script {
            events: vec![
                RunnerEvent::Checkpoint(checkpoint(job, job.attempt.get())),
                RunnerEvent::Failed {
                    failure: failure(),
                    pushed: None,
                },
            ],
            end: ScriptEnd::Exit(0),
        }
    };
    (director, told)
}

fn revoked() -> Failure {
    Failure::new("model.unauthorized", "invalid x-api-key", "Set a valid one.")
}

#[tokio::test]
async fn a_key_that_is_refused_is_a_question_to_the_operator() {
    let (director, told) = meets(2, revoked);
    let rig = Rig::new(director);
    let waiting = rig.run(PLAN).await;
    assert_eq!(waiting.status(), SessionStatus::Escalated, "{:?}", waiting.last());
    assert_eq!(waiting.last().kind, MessageKind::Escalation);
    assert_eq!(
        (waiting.told("audience"), waiting.told("urgency")),
        (&"operator".into(), &"high".into())
    );
    let asked = &waiting.last().content.message;
    assert!(
        asked.contains("invalid x-api-key") && asked.contains("restart Fabrica"),
        "{asked}"
    );
    let id = waiting.session.id;
    for expected in [SessionStatus::Escalated, SessionStatus::Completed] {
        rig.orchestrator
            .answer(answer(id, "go on: it is mended"))
            .await
            .unwrap();
        assert_eq!(
            rig.finish(id).await.status(),
            expected,
            "it was not mended at first"
        );
    }
    let told = told.lock().unwrap();
    let resume = told[2].as_ref().unwrap();
    assert_eq!(resume.checkpoint.as_ref().unwrap().commit, format!("{:040}", 2));
    assert!(
        resume.prompt.contains("You were interrupted"),
        "{}",
        resume.prompt
    );
    assert!(!resume.prompt.contains("key"), "that is nothing to the agent");
}

#[tokio::test]
async fn the_operator_may_end_the_session_and_somebody_may_still_let_it_go_on() {
    let (director, told) = meets(1, revoked);
    let rig = Rig::new(director);
    let id = rig.run(PLAN).await.session.id;
    rig.orchestrator
        .answer(answer(id, "Stop the session"))
        .await
        .unwrap();
    rig.finish(id).await.assert_failed("model.stopped");
    assert_eq!(told.lock().unwrap().len(), 1, "nothing was started for it");
    rig.orchestrator
        .say(note(id, "There is a new key now"))
        .await
        .unwrap();
    assert_eq!(rig.finish(id).await.status(), SessionStatus::Completed);
}

/// Sets the test's clock forward once the session waits.
#[tokio::test]
async fn a_limit_of_usage_is_waited_for_without_a_sandbox_and_costs_no_attempt() {
    let clock = Forward::default();
    let now = clock.clone();
    let (director, told) = meets(2, move || {
        let until = (now.now() + TimeDelta::hours(3)).to_rfc3339_opts(SecondsFormat::Secs, true);
        let cause =
            format!("API Error: Request rejected (429) · fabrica: {USAGE_LIMIT}{until}: Weekly limit");
        Failure::new("model.usage_limit", cause, "It waits.").retryable()
    });
    let store = FakeStore::new(Arc::new(clock.clone()), Arc::new(SystemEntropy));
    let mut options = options();
    options.attempts = 1;
    let store = Arc::new(store);
    let sandbox = Arc::new(FakeSandbox::new(director));
    let orchestrator = Orchestrator::builder(store.clone(), sandbox.clone(), sandbox.clone(), options)
        .clock(Arc::new(clock.clone()))
        .build();
    let rig = Rig {
        store,
        sandbox,
        orchestrator,
    };
    let id = rig.submit(PLAN).await;
    let driving = rig.finish(id);
    let watching = async {
        for times in 1..=2 {
            let limited = || async {
                let messages = rig.store.messages(id, 0, 1_000).await.unwrap();
                let mut steps = messages.iter().map(|message| &message.content.metadata["step"]);
                steps.by_ref().filter(|step| *step == "limited").count()
            };
            while limited().await < times {
                sleep(Duration::from_millis(5)).await;
            }
            let session = rig.store.session(id).await.unwrap().unwrap();
            assert_eq!(session.status, SessionStatus::Pending);
            assert_eq!((rig.sandbox.containers(), rig.sandbox.accesses()), (0, 0));
            // An hour before its time nothing happens; after it the session goes on.
            clock.0.fetch_add(2 * 3_600, Ordering::SeqCst);
            sleep(Duration::from_millis(200)).await;
            assert_eq!(told.lock().unwrap().len(), times);
            clock.0.fetch_add(3_700, Ordering::SeqCst);
        }
    };
    let (ended, ()) = tokio::join!(driving, watching);
    assert_eq!(ended.status(), SessionStatus::Completed);
    assert_eq!(ended.session.attempt.get(), 3);
    let limited = ended
        .messages
        .iter()
        .find(|message| message.content.metadata["step"] == "limited")
        .unwrap();
    assert_eq!(limited.kind, MessageKind::Progress);
    assert!(
        limited.content.message.contains("goes on by itself"),
        "{limited:?}"
    );
    let resume = told.lock().unwrap()[2].clone().unwrap();
    assert!(resume.checkpoint.is_some() && resume.prompt.contains("You were interrupted"));
}
