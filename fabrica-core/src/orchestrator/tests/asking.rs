//! Questions to people, and what the next attempt gets to know.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;

use super::super::asking::look_after;
use super::*;
use crate::clock::{Clock, SystemClock, SystemEntropy};
use crate::orchestrator::{MAX_NOTE_BYTES, NoteSubmission};
use crate::ports::store::{Answered, Said};
use crate::protocol::{Checkpoint, Escalation, Resume, Urgency};

pub(super) fn checkpoint(job: &Job, number: u32) -> Checkpoint {
    Checkpoint {
        reference: job.checkpoint_reference(),
        commit: format!("{number:040}"),
        head: "f".repeat(40),
        conversation: true,
        heard: 0,
    }
}

fn question() -> Escalation {
    Escalation {
        question: "Which of the two tables?".into(),
        options: vec!["orders".into(), "invoices".into()],
        context: "Both have the column.".into(),
        urgency: Urgency::High,
    }
}

fn asks(job: &Job) -> Script {
    Script {
        events: vec![
            RunnerEvent::Started {
                runner: "fake".into(),
            },
            RunnerEvent::Checkpoint(checkpoint(job, 1)),
            RunnerEvent::Escalation(question()),
        ],
        end: ScriptEnd::Exit(0),
    }
}

/// The machine's clock, put forward by as many seconds as the test says.
#[derive(Debug, Clone, Default)]
pub(super) struct Forward(pub(super) Arc<AtomicI64>);

impl Clock for Forward {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() + TimeDelta::seconds(self.0.load(Ordering::SeqCst))
    }
}

/// What each attempt was told.
type Told = Arc<Mutex<Vec<Option<Resume>>>>;

/// Asks in its first attempts, as often as that, then completes.
fn asks_first(times: u32) -> (Rig, Told) {
    let (rig, told, _) = asks_by(times);
    (rig, told)
}

/// The same, with a store whose clock can be put forward.
fn asks_by(times: u32) -> (Rig, Told, Forward) {
    let (told, clock) = (Told::default(), Forward::default());
    let seen = told.clone();
    let director = move |job: &Job| {
        seen.lock().unwrap().push(job.resume.clone());
        if job.attempt.get() <= times {
            asks(job)
        } else {
            Script::completes(job)
        }
    };
    let store = FakeStore::new(Arc::new(clock.clone()), Arc::new(SystemEntropy));
    (Rig::over(store, director, options(), None), told, clock)
}

pub(super) fn answer(session: SessionId, text: &str) -> AnswerSubmission {
    AnswerSubmission {
        session,
        question: None,
        text: text.into(),
        by: "Ada".into(),
        plan: None,
        directory: None,
    }
}

#[tokio::test]
async fn a_question_waits_without_a_sandbox_and_its_answer_goes_on_with_the_work() {
    let (rig, told) = asks_first(2);
    let waiting = rig.run(PLAN).await;
    assert_eq!(waiting.status(), SessionStatus::Escalated);
    assert_eq!(waiting.last().kind, MessageKind::Escalation);
    assert_eq!(waiting.last().content.message, "Which of the two tables?");
    assert_eq!(waiting.told("urgency"), "high");
    let id = waiting.session.id;
    let open = rig.store.questions(id).await.unwrap();
    assert_eq!(waiting.told("questionId"), open[0].id.to_string().as_str());

    for text in ["orders", "invoices"] {
        let answered = rig.orchestrator.answer(answer(id, text)).await.unwrap();
        assert!(matches!(answered, Answered::Accepted(_)), "{answered:?}");
        let again = rig
            .orchestrator
            .answer(answer(id, "something else"))
            .await
            .unwrap();
        assert!(matches!(again, Answered::Already(_)), "{again:?}");
        rig.finish(id).await;
    }
    let ended = rig.finish(id).await;
    assert_eq!(ended.status(), SessionStatus::Completed);
    // Two attempts are what a session has; those that follow an answer come on top.
    assert_eq!(ended.session.attempt.get(), 3);
    let told = told.lock().unwrap();
    assert_eq!(told[0], None);
    for (resume, text) in told[1..].iter().zip(["orders", "invoices"]) {
        let resume = resume.as_ref().unwrap();
        assert_eq!(resume.checkpoint.as_ref().unwrap().commit, format!("{:040}", 1));
        assert!(
            resume.prompt.contains("Ada answers:") && resume.prompt.contains(text),
            "{resume:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_may_bring_a_new_version_of_the_plan_for_the_same_repository() {
    let (rig, told) = asks_first(1);
    let id = rig.run(PLAN).await.session.id;
    let other = "---\nrepo: https://git.example.com/acme/other.git\n---\n# Say hello\n";
    let with = |plan: &str| AnswerSubmission {
        plan: Some(plan.into()),
        ..answer(id, "See the plan.")
    };
    let refused = rig.orchestrator.answer(with(other)).await.unwrap_err();
    assert_eq!(refused.code(), "answer.other_repository");
    let broken = rig.orchestrator.answer(with("---\nrepo: 7")).await.unwrap_err();
    assert!(broken.code().starts_with("plan."), "{broken}");
    let amended = PLAN.replace("In the log.", "On the console.");
    rig.orchestrator.answer(with(&amended)).await.unwrap();
    assert_eq!(rig.finish(id).await.status(), SessionStatus::Completed);
    let versions = rig.store.specs(id).await.unwrap();
    assert_eq!(
        versions
            .iter()
            .map(|spec| spec.content.as_str())
            .collect::<Vec<_>>(),
        [PLAN, amended.as_str()]
    );
    let prompt = told.lock().unwrap()[1].clone().unwrap().prompt;
    assert!(prompt.contains("On the console."), "{prompt}");
}

#[tokio::test]
async fn a_new_version_of_the_plan_names_the_same_local_repository_however_it_does() {
    let repositories = crate::plan::RepositoryPolicy {
        local_paths: true,
        ..Default::default()
    };
    let options = Options {
        repositories,
        ..options()
    };
    let director = |job: &Job| {
        if job.attempt.get() == 1 {
            asks(job)
        } else {
            Script::completes(job)
        }
    };
    let rig = Rig::with(director, options, None);
    let place = tempfile::tempdir().unwrap();
    for name in ["shop", "other"] {
        std::fs::create_dir_all(place.path().join(name).join(".git")).unwrap();
    }
    std::os::unix::fs::symlink("shop", place.path().join("link")).unwrap();
    let plan = |repository: &str| PLAN.replace("https://git.example.com/acme/app.git", repository);
    let submission = Submission {
        directory: Some(place.path().to_owned()),
        ..Submission::new(plan("./link"))
    };
    let id = rig.orchestrator.submit(submission).await.unwrap().session();
    assert_eq!(rig.finish(id).await.status(), SessionStatus::Escalated);
    let with = |repository: &str| AnswerSubmission {
        plan: Some(plan(repository)),
        directory: Some(place.path().to_owned()),
        ..answer(id, "See the plan.")
    };
    let whole = place.path().join("other").display().to_string();
    for other in ["./other", "./missing", &whole] {
        let refused = rig.orchestrator.answer(with(other)).await.unwrap_err();
        assert_eq!(refused.code(), "answer.other_repository", "{other}");
    }
    let answered = rig.orchestrator.answer(with("./link")).await.unwrap();
    assert!(matches!(answered, Answered::Accepted(_)), "{answered:?}");
}

#[tokio::test]
async fn what_is_no_answer_is_refused_and_the_question_stays_open() {
    let (rig, _) = asks_first(1);
    let id = rig.run(PLAN).await.session.id;
    for (submission, code) in [
        (answer(id, " \n"), "answer.empty"),
        (answer(id, &"x".repeat(MAX_ANSWER_BYTES + 1)), "answer.too_long"),
        (
            AnswerSubmission {
                by: "\u{1b}[2J".into(),
                ..answer(id, "orders")
            },
            "answer.name_invalid",
        ),
    ] {
        let refused = rig.orchestrator.answer(submission).await.unwrap_err();
        assert_eq!(refused.code(), code);
    }
    assert_eq!(rig.store.questions(id).await.unwrap()[0].answer, None);
}

#[tokio::test]
async fn a_lost_sandbox_is_followed_by_one_that_goes_on_from_its_checkpoint() {
    let told = Told::default();
    let seen = told.clone();
    let rig = Rig::new(move |job| {
        seen.lock().unwrap().push(job.resume.clone());
        if job.attempt.get() == 1 {
            Script {
                events: vec![
                    RunnerEvent::Checkpoint(checkpoint(job, 1)),
                    RunnerEvent::Checkpoint(checkpoint(job, 2)),
                ],
                end: ScriptEnd::Vanish,
            }
        } else {
            Script::completes(job)
        }
    });
    assert_eq!(rig.run(PLAN).await.status(), SessionStatus::Completed);
    let resume = told.lock().unwrap()[1].clone().unwrap();
    assert_eq!(resume.checkpoint.unwrap().commit, format!("{:040}", 2));
    assert!(
        resume.prompt.contains("You were interrupted"),
        "{}",
        resume.prompt
    );
}

/// The answer is told again only to an agent whose conversation does not hold it.
#[tokio::test]
async fn an_answer_is_not_told_twice() {
    let told = Told::default();
    let seen = told.clone();
    let rig = Rig::new(move |job| {
        seen.lock().unwrap().push(job.resume.clone());
        match job.attempt.get() {
            1 => asks(job),
            2 => Script {
                events: vec![RunnerEvent::Started {
                    runner: "fake".into(),
                }],
                end: ScriptEnd::Vanish,
            },
            3 => Script {
                events: vec![RunnerEvent::Checkpoint(checkpoint(job, 3))],
                end: ScriptEnd::Vanish,
            },
            _ => Script::completes(job),
        }
    });
    let plan = PLAN.replace("---\n#", "limits: { attempts: 4 }\n---\n#");
    let id = rig.run(&plan).await.session.id;
    rig.orchestrator.answer(answer(id, "orders")).await.unwrap();
    assert_eq!(rig.finish(id).await.status(), SessionStatus::Completed);
    let prompts: Vec<bool> = told
        .lock()
        .unwrap()
        .iter()
        .map(|resume| {
            resume
                .as_ref()
                .is_some_and(|resume| resume.prompt.contains("orders"))
        })
        .collect();
    assert_eq!(prompts, [false, true, true, false]);
}

#[tokio::test]
async fn nobody_answers_in_time() {
    for (then, expected) in [
        ("fail", SessionStatus::Failed),
        ("proceed", SessionStatus::Completed),
    ] {
        let (rig, told, clock) = asks_by(1);
        let plan = PLAN.replace(
            "---\n#",
            &format!("escalation: {{ deadline: 1m, then: {then} }}\n---\n#"),
        );
        let id = rig.run(&plan).await.session.id;
        let question = rig.store.questions(id).await.unwrap().remove(0);
        let waits = question.deadline.unwrap() - question.asked_at;
        assert_eq!(waits.num_seconds(), 60);
        clock.0.store(61, Ordering::SeqCst);
        look_after(&rig.orchestrator.inner).await;
        let ended = rig.finish(id).await;
        assert_eq!(ended.status(), expected, "{:?}", ended.last());
        if then == "fail" {
            ended.assert_failed("question.unanswered");
        } else {
            let prompt = told.lock().unwrap()[1].clone().unwrap().prompt;
            assert!(prompt.contains("Nobody answered in time"), "{prompt}");
        }
    }
}

#[tokio::test]
async fn whoever_waits_is_reminded_once() {
    let (rig, _, clock) = asks_by(1);
    let plan = PLAN.replace("---\n#", "escalation: { deadline: 1m }\n---\n#");
    let id = rig.run(&plan).await.session.id;
    look_after(&rig.orchestrator.inner).await;
    let reminders = async || {
        let messages = rig.store.messages(id, 0, 100).await.unwrap();
        messages
            .iter()
            .filter(|message| message.content.metadata.get("step") == Some(&"reminder".into()))
            .count()
    };
    assert_eq!(reminders().await, 0);
    clock.0.store(31, Ordering::SeqCst);
    for _ in 0..2 {
        look_after(&rig.orchestrator.inner).await;
    }
    assert_eq!(reminders().await, 1);
}

#[tokio::test]
async fn a_session_that_waits_can_be_cancelled_and_answered_no_more() {
    let (rig, _) = asks_first(1);
    let id = rig.run(PLAN).await.session.id;
    rig.orchestrator.cancel(id).await.unwrap();
    let refused = rig.orchestrator.answer(answer(id, "orders")).await.unwrap_err();
    assert_eq!(refused.code(), "question.not_open");
    assert_eq!(
        rig.store.session(id).await.unwrap().unwrap().status,
        SessionStatus::Cancelled
    );
}

#[tokio::test]
async fn a_worker_goes_on_as_soon_as_there_is_an_answer() {
    let (rig, _) = asks_first(1);
    let id = rig.submit(PLAN).await;
    let shutdown = Shutdown::default();
    let (worker, stop) = (rig.orchestrator.clone(), shutdown.clone());
    let work = tokio::spawn(async move { worker.run(stop).await });
    let status = async || rig.store.session(id).await.unwrap().unwrap().status;
    while status().await != SessionStatus::Escalated {
        sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(rig.sandbox.containers(), 0, "a waiting session has a container");
    rig.orchestrator.answer(answer(id, "orders")).await.unwrap();
    while status().await != SessionStatus::Completed {
        sleep(Duration::from_millis(2)).await;
    }
    shutdown.drain.cancel();
    work.await.unwrap().unwrap();
}

pub(super) fn note(session: SessionId, text: &str) -> NoteSubmission {
    NoteSubmission {
        session,
        text: text.into(),
        by: "Ada".into(),
    }
}

/// What the branch has is all there is, and the agent has heard that many notes.
fn done(job: &Job) -> Checkpoint {
    Checkpoint {
        reference: format!("refs/heads/{}", job.branch),
        head: "f".repeat(40),
        commit: "f".repeat(40),
        heard: job.heard,
        ..checkpoint(job, 1)
    }
}

#[tokio::test]
async fn a_finished_session_goes_on_with_what_is_said_in_its_conversation() {
    let told = Told::default();
    let seen = told.clone();
    let director = move |job: &Job| {
        seen.lock().unwrap().push(job.resume.clone());
        let mut script = Script::completes(job);
        let end = script.events.pop().unwrap();
        script.events.push(RunnerEvent::Checkpoint(done(job)));
        script.events.push(match end {
            RunnerEvent::Completed(result) => RunnerEvent::Completed(JobResult {
                heard: job.heard,
                ..result
            }),
            other => other,
        });
        script
    };
    let rig = Rig::with(director, options(), None);
    let first = rig.run(PLAN).await;
    let id = first.session.id;
    for (number, text) in (2..).zip(["Rename it.", "And test it."]) {
        let said = rig.orchestrator.say(note(id, text)).await.unwrap();
        assert!(matches!(said, Said::Continued(_)), "{said:?}");
        let ended = rig.finish(id).await;
        assert_eq!(ended.status(), SessionStatus::Completed);
        assert_eq!(ended.session.attempt.get(), number);
    }
    let told = told.lock().unwrap();
    let [None, Some(second), Some(third)] = &told[..] else {
        panic!("{told:?}");
    };
    assert!(
        second.prompt.starts_with("Ada says:\n\nRename it."),
        "{}",
        second.prompt
    );
    assert!(
        third.prompt.starts_with("Ada says:\n\nAnd test it."),
        "what it knows is not repeated: {}",
        third.prompt
    );
    assert!(third.checkpoint.as_ref().unwrap().is_of_branch());
}

#[tokio::test]
async fn what_is_said_before_the_first_attempt_stands_below_the_task() {
    let told = Told::default();
    let seen = told.clone();
    let rig = Rig::with(
        move |job: &Job| {
            seen.lock().unwrap().push(job.resume.clone());
            let mut script = Script::completes(job);
            if let Some(RunnerEvent::Completed(result)) = script.events.last_mut() {
                result.heard = job.heard;
            }
            script
        },
        options(),
        None,
    );
    let id = rig.submit(PLAN).await;
    let said = rig.orchestrator.say(note(id, "Be quick.")).await.unwrap();
    assert!(matches!(said, Said::Queued(_)), "{said:?}");
    assert_eq!(rig.finish(id).await.status(), SessionStatus::Completed);
    let told = told.lock().unwrap();
    let resume = told[0].as_ref().unwrap();
    assert_eq!(resume.checkpoint, None);
    assert!(resume.prompt.contains("Be quick."));
}

#[tokio::test]
async fn a_note_that_is_none_is_refused() {
    let rig = Rig::with(|job: &Job| Script::completes(job), options(), None);
    let id = rig.submit(PLAN).await;
    for (text, by, code) in [
        (" \n", "Ada", "note.empty"),
        (&*"x".repeat(MAX_NOTE_BYTES + 1), "Ada", "note.too_long"),
        ("Hello", " ", "note.name_invalid"),
        ("Hello", "A\nda", "note.name_invalid"),
    ] {
        let mut note = note(id, text);
        note.by = by.into();
        assert_eq!(rig.orchestrator.say(note).await.unwrap_err().code(), code);
    }
    assert_eq!(rig.store.notes(id, 0).await.unwrap(), []);
}

const LIMITED: &str =
    "---\nrepo: https://git.example.com/acme/app.git\nlimits: { cost_usd: 10, turns: 100 }\n---\n# Do it\n";

/// Uses so much in each attempt and ends with that failure, until it may use more than `enough`.
fn spends(cost_usd: f64, enough: f64) -> (Rig, Arc<Mutex<Vec<Job>>>) {
    let jobs = Arc::new(Mutex::new(Vec::new()));
    let seen = jobs.clone();
    let director = move |job: &Job| {
        seen.lock().unwrap().push(job.clone());
        let usage = RunnerEvent::Usage(crate::protocol::Usage {
            cost_usd,
            turns: 10,
            ..Default::default()
        });
        if job.finish || job.cost_usd.is_none_or(|left| left > enough) {
            let mut script = Script::completes(job);
            if let Some(RunnerEvent::Completed(result)) = script.events.last_mut() {
                result.unfinished = job.finish;
            }
            return script;
        }
        let failure = crate::failure::Failure::new("agent.max_budget", "it is used up", "raise it");
        Script {
            events: vec![
                usage,
                RunnerEvent::Checkpoint(checkpoint(job, job.attempt.get())),
                RunnerEvent::Failed {
                    failure,
                    pushed: None,
                },
            ],
            end: ScriptEnd::Exit(0),
        }
    };
    (Rig::with(director, options(), None), jobs)
}

#[tokio::test]
async fn a_budget_that_is_used_up_is_a_question_and_its_answer_raises_it() {
    let (rig, jobs) = spends(10.5, 10.0);
    let waiting = rig.run(LIMITED).await;
    assert_eq!(waiting.status(), SessionStatus::Escalated);
    assert!(
        waiting
            .last()
            .content
            .message
            .contains("$10.00 (it has used $10.50)")
    );
    let id = waiting.session.id;
    rig.orchestrator.answer(answer(id, "raise to 15")).await.unwrap();
    let again = rig.finish(id).await;
    assert_eq!(
        again.status(),
        SessionStatus::Escalated,
        "15 is not enough: {:?}",
        again.last()
    );
    rig.orchestrator.answer(answer(id, "raise to 50")).await.unwrap();
    assert_eq!(rig.finish(id).await.status(), SessionStatus::Completed);
    let jobs = jobs.lock().unwrap();
    let left: Vec<_> = jobs
        .iter()
        .map(|job| (job.cost_usd.unwrap(), job.turns.unwrap()))
        .collect();
    assert_eq!(left, [(10.0, 100), (4.5, 90), (29.0, 80)], "over all attempts");
    assert!(jobs[1].resume.as_ref().unwrap().prompt.contains("It was raised"));
}

#[tokio::test]
async fn nothing_is_started_for_a_budget_that_is_used_up_already() {
    let (rig, jobs) = spends(12.0, 10.0);
    let id = rig.run(LIMITED).await.session.id;
    // Not more than it has used.
    rig.orchestrator.answer(answer(id, "raise to 11")).await.unwrap();
    assert_eq!(rig.finish(id).await.status(), SessionStatus::Escalated);
    assert_eq!(jobs.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn whoever_is_asked_about_a_budget_may_stop_or_finish() {
    let (rig, jobs) = spends(11.0, 10.0);
    let id = rig.run(LIMITED).await.session.id;
    rig.orchestrator.answer(answer(id, "stop")).await.unwrap();
    rig.finish(id).await.assert_failed("budget.stopped");
    assert_eq!(jobs.lock().unwrap().len(), 1);
    // Whoever wants more of it is asked for the budget again.
    rig.orchestrator.say(note(id, "One thing more")).await.unwrap();
    assert_eq!(rig.finish(id).await.status(), SessionStatus::Escalated);

    let mut forge = MockForge::new();
    forge
        .expect_publish()
        .times(1)
        .withf(|request| request.options.draft)
        .returning(|_| Ok(Publication::Branch));
    let director = |job: &Job| {
        if job.finish {
            let mut script = Script::completes(job);
            if let Some(RunnerEvent::Completed(result)) = script.events.last_mut() {
                result.unfinished = true;
            }
            return script;
        }
        let failure = crate::failure::Failure::new("agent.max_turns", "it is used up", "raise it");
        Script {
            events: vec![RunnerEvent::Failed {
                failure,
                pushed: None,
            }],
            end: ScriptEnd::Exit(0),
        }
    };
    let rig = Rig::with(director, options(), Some(forge));
    let id = rig.run(LIMITED).await.session.id;
    rig.orchestrator
        .answer(answer(id, "Finish with what there is"))
        .await
        .unwrap();
    assert_eq!(rig.finish(id).await.status(), SessionStatus::Completed);
}
