//! What came of a call, without what may differ: times, and the ids that a store makes itself.

use std::fmt::Debug;
use std::fmt::Write as _;
use std::time::Duration;

use chrono::DateTime;
use fabrica_core::ids::{Fence, MessageId, SessionId};
use fabrica_core::message::{Message, MessageKind};
use fabrica_core::ports::Store;
use fabrica_core::ports::store::{
    Answer, Answered, Claimed, Note, Question, Said, SessionFilter, SessionState, StoreError,
};
use fabrica_core::session::{Session, SessionStatus, Spec};
use sqlx::types::Uuid;

use super::call::Call;

/// What a caller is told, and what the next calls can be about.
pub(super) struct Outcome {
    pub(super) told: String,
    pub(super) succeeded: bool,
    pub(super) fences: Vec<Fence>,
    pub(super) acknowledged: Option<(Fence, u64)>,
}

fn told<T: Debug>(answer: Result<T, StoreError>) -> Outcome {
    let succeeded = answer.is_ok();
    let told = match answer {
        Ok(answer) => format!("{answer:#?}"),
        Err(error) => format!("{}: {error}", error.code()),
    };
    Outcome {
        told,
        succeeded,
        fences: vec![],
        acknowledged: None,
    }
}

/// Makes the call.
pub(super) async fn of(store: &dyn Store, call: &Call) -> Outcome {
    match call.clone() {
        Call::Create(new) => told(store.create_session(new).await),
        Call::Claim(request) => claimed(store.claim(&request).await),
        Call::Renew(worker, fences) => {
            let held = store
                .renew_leases(&worker, &fences, Duration::from_hours(1))
                .await;
            told(held.map(|mut held| {
                held.sort_unstable_by_key(|fence| fence.session);
                held
            }))
        }
        Call::Release(worker, only) => told(store.release_leases(&worker, only).await),
        Call::Start(fence, start) => told(store.start_attempt(fence, start).await),
        Call::Record(fence, events) => {
            let recorded = store.record(fence, events).await;
            let acknowledged = recorded
                .as_ref()
                .ok()
                .map(|recorded| (fence, recorded.acknowledged));
            Outcome {
                acknowledged,
                ..told(recorded)
            }
        }
        Call::AddMessages(fence, messages) => told(store.add_messages(fence, messages).await),
        Call::StoreArtifact(fence, artifact) => told(store.store_artifact(fence, artifact).await),
        Call::SetPullRequest(fence, url) => told(store.set_pull_request(fence, &url).await),
        Call::Finish(fence, end, messages) => told(store.finish_attempt(fence, end, messages).await),
        Call::Cancel(id, message) => told(store.request_cancel(id, message).await),
        Call::Answer(new) => told(store.answer(new).await.map(|answered| match answered {
            Answered::Accepted(asked) => Answered::Accepted(question(asked)),
            Answered::Already(asked) => Answered::Already(question(asked)),
        })),
        Call::Say(new) => {
            let session = new.session;
            let said = store.say(new).await.map(|said| match said {
                Said::Queued(said) => Said::Queued(note(said)),
                Said::Continued(said) => Said::Continued(note(said)),
            });
            let all = store
                .notes(session, 1)
                .await
                .map(|all| all.into_iter().map(note).collect::<Vec<_>>());
            Outcome {
                succeeded: said.is_ok(),
                ..told(Ok((told(said).told, told(all).told)))
            }
        }
        Call::Remind(id, message) => told(store.remind(id, message).await),
        Call::GiveUp(id, message) => told(store.give_up(id, message).await),
        Call::Due(limit) => {
            let due = store.due_questions(limit).await;
            told(due.map(|due| {
                due.into_iter()
                    .map(|(asked, due)| (question(asked), due))
                    .collect::<Vec<_>>()
            }))
        }
        Call::MarkRead(id) => told(store.mark_read(id).await),
        Call::Reap(retention, limit) => told(store.reap(&retention, limit).await),
        Call::Messages(id, after, limit) => {
            let messages = store.messages(id, after, limit).await;
            told(messages.map(|messages| messages.into_iter().map(message).collect::<Vec<_>>()))
        }
        Call::End => told(Ok(())),
    }
}

fn claimed(answer: Result<Vec<Claimed>, StoreError>) -> Outcome {
    let claimed = match answer {
        Ok(claimed) => claimed,
        Err(error) => return told::<()>(Err(error)),
    };
    let fences = claimed.iter().map(Claimed::fence).collect();
    let mut text = String::new();
    for one in claimed {
        if let Some(start) = one.resumed.as_ref().and_then(|resumed| resumed.start.as_ref()) {
            // A hash does not show itself.
            let (runner, agent) = (start.runner_token.as_bytes(), start.agent_token.as_bytes());
            writeln!(text, "{runner:?} {agent:?}").expect("a text takes any text");
        }
        let shown = Claimed {
            session: session(one.session),
            spec: spec(one.spec),
            resumed: one.resumed.map(|resumed| fabrica_core::ports::store::Resumed {
                age: Duration::ZERO,
                ..resumed
            }),
            answered: one.answered.map(question),
            ..one
        };
        writeln!(text, "{shown:#?}").expect("a text takes any text");
    }
    Outcome {
        told: text,
        succeeded: true,
        fences,
        acknowledged: None,
    }
}

fn session(session: Session) -> Session {
    Session {
        created_at: DateTime::UNIX_EPOCH,
        completed_at: session.completed_at.map(|_| DateTime::UNIX_EPOCH),
        ..session
    }
}

fn spec(spec: Spec) -> Spec {
    Spec {
        created_at: DateTime::UNIX_EPOCH,
        ..spec
    }
}

fn question(question: Question) -> Question {
    Question {
        asked_at: DateTime::UNIX_EPOCH,
        deadline: question.deadline.map(|_| DateTime::UNIX_EPOCH),
        answer: question.answer.map(|answer| Answer {
            at: DateTime::UNIX_EPOCH,
            ..answer
        }),
        ..question
    }
}

fn note(note: Note) -> Note {
    Note {
        at: DateTime::UNIX_EPOCH,
        ..note
    }
}

fn message(message: Message) -> Message {
    // Only a store writes an error here.
    let own = message.kind == MessageKind::Error;
    Message {
        id: if own {
            MessageId::from_uuid(Uuid::nil())
        } else {
            message.id
        },
        created_at: DateTime::UNIX_EPOCH,
        read_at: message.read_at.map(|_| DateTime::UNIX_EPOCH),
        ..message
    }
}

async fn all(store: &dyn Store) -> Vec<Session> {
    let mut sessions = store
        .sessions(&SessionFilter::default(), 1000)
        .await
        .expect("the store answers");
    sessions.sort_unstable_by_key(|session| session.id);
    sessions
}

/// All sessions; thoroughly, with everything that belongs to them.
pub(super) async fn state(store: &dyn Store, thoroughly: bool) -> String {
    let mut text = String::new();
    let sessions = all(store).await;
    if thoroughly {
        for one in &sessions {
            belongings(store, one.id, &mut text)
                .await
                .expect("the store answers");
        }
    }
    for one in sessions {
        writeln!(text, "{:#?}", session(one)).expect("a text takes any text");
    }
    text
}

async fn belongings(store: &dyn Store, id: SessionId, text: &mut String) -> Result<(), StoreError> {
    let messages: Vec<_> = store
        .messages(id, 0, 1000)
        .await?
        .into_iter()
        .map(message)
        .collect();
    let specs: Vec<_> = store.specs(id).await?.into_iter().map(spec).collect();
    let questions: Vec<_> = store.questions(id).await?.into_iter().map(question).collect();
    let states = store
        .session_states(&[id])
        .await?
        .into_iter()
        .map(|state| SessionState {
            ended: state.ended.map(|_| Duration::ZERO),
            ..state
        });
    let transcript = store.transcript(id, 0, 1000).await?;
    let artifacts = [
        store.artifact(id, "artifact 0").await?,
        store.artifact(id, "artifact 1").await?,
    ];
    let states: Vec<_> = states.collect();
    writeln!(
        text,
        "{questions:#?} {messages:#?} {specs:#?} {states:#?} {transcript:#?} {artifacts:?}"
    )
    .expect("a text takes any text");
    Ok(())
}

/// Those that the next claim ends.
pub(super) async fn waiting_for_their_end(store: &dyn Store) -> Vec<SessionId> {
    all(store)
        .await
        .into_iter()
        .filter(|session| session.cancel_requested && session.status == SessionStatus::Pending)
        .map(|session| session.id)
        .collect()
}
