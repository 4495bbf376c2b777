//! From a step to a call with its ids, of which every store gets the same.

use std::collections::HashMap;
use std::time::Duration;

use chrono::DateTime;
use fabrica_core::failure::Failure;
use fabrica_core::ids::{AttemptNumber, Fence, LeaseNumber, MessageId, QuestionId, SessionId, WorkerId};
use fabrica_core::message::{MessageContent, MessageKind, NewMessage};
use fabrica_core::ports::store::{
    AttemptEnd, AttemptStart, ClaimLimits, ClaimRequest, Deadline, EventRecord, NewAnswer, NewArtifact,
    NewNote, NewQuestion, NewSession, OnDeadline, Retention,
};
use fabrica_core::protocol::{Checkpoint, Escalation, TranscriptEntry, Urgency, Usage};
use fabrica_core::secrets::TokenHash;
use serde_json::json;

use super::outcome::Outcome;
use super::step::{
    AnswerChoice, Back, ClaimChoice, CreateChoice, End, EventChoice, FenceChoice, Skew, Step, Wait,
};
use crate::support::{ids, new_session};

/// No lease runs out and no delay passes while a sequence is tried.
const LONG: Duration = Duration::from_hours(1);

#[derive(Debug, Clone)]
pub(super) enum Call {
    Create(NewSession),
    Claim(ClaimRequest),
    Renew(WorkerId, Vec<Fence>),
    Release(WorkerId, Option<Vec<Fence>>),
    Start(Fence, AttemptStart),
    Record(Fence, Vec<EventRecord>),
    AddMessages(Fence, Vec<NewMessage>),
    StoreArtifact(Fence, NewArtifact),
    SetPullRequest(Fence, String),
    Finish(Fence, AttemptEnd, Vec<NewMessage>),
    Cancel(SessionId, NewMessage),
    Answer(NewAnswer),
    Say(NewNote),
    Remind(QuestionId, NewMessage),
    GiveUp(QuestionId, NewMessage),
    Due(u32),
    MarkRead(MessageId),
    Reap(Retention, u32),
    Messages(SessionId, u64, u32),
    End,
}

impl Call {
    /// Ends one session that is not to be run again, and claims nothing.
    pub(super) fn retire(request: &ClaimRequest, id: SessionId) -> Self {
        Self::Claim(ClaimRequest {
            limit: 0,
            takeovers: 0,
            only: Some(id),
            ..request.clone()
        })
    }
}

/// What was handed out so far.
#[derive(Default)]
pub(super) struct World {
    sessions: Vec<SessionId>,
    fences: Vec<Fence>,
    /// Those of them that may still write.
    live: Vec<Fence>,
    messages: Vec<MessageId>,
    /// Those that were asked, or nearly.
    questions: Vec<QuestionId>,
    /// The last event of each attempt that is stored.
    acknowledged: HashMap<(SessionId, AttemptNumber), u64>,
    /// For numbering what has to differ.
    made: u32,
}

/// One that is there, counted from the newest.
fn one<T: Copy>(of: &[T], back: Back) -> Option<T> {
    let last = of.len().checked_sub(1)?;
    of.get(last - back % of.len()).copied()
}

fn worker(number: u8) -> WorkerId {
    WorkerId::new(format!("worker {number}"))
}

impl World {
    pub(super) fn learn(&mut self, call: &Call, outcome: Outcome) {
        for fence in outcome.fences {
            self.live.retain(|other| other.session != fence.session);
            self.live.push(fence);
            self.fences.push(fence);
        }
        if let Call::Finish(fence, ..) = call
            && outcome.succeeded
        {
            self.live.retain(|other| other != fence);
        }
        if let Some((fence, number)) = outcome.acknowledged {
            self.acknowledged.insert((fence.session, fence.attempt), number);
        }
    }

    /// None if there is not yet what the step is about.
    pub(super) fn call(&mut self, step: &Step) -> Option<Call> {
        self.made += 1;
        Some(match step {
            Step::Create(choice) => Call::Create(self.new_session(choice)),
            Step::Claim(choice) => Call::Claim(self.request(choice)),
            Step::Renew(number, fences) => Call::Renew(worker(*number), self.fences(fences)),
            Step::Release(number, only) => {
                let only = only.as_ref().map(|fences| self.fences(fences));
                Call::Release(worker(*number), only)
            }
            Step::Start(fence) => Call::Start(self.fence(fence)?, self.start()),
            Step::Record(fence, first, events) => {
                let fence = self.fence(fence)?;
                Call::Record(fence, self.events(fence, *first, events))
            }
            Step::AddMessages(fence, number) => {
                let fence = self.fence(fence)?;
                Call::AddMessages(fence, self.messages("added", *number))
            }
            Step::StoreArtifact(fence, name) => Call::StoreArtifact(self.fence(fence)?, self.artifact(*name)),
            Step::SetPullRequest(fence) => {
                Call::SetPullRequest(self.fence(fence)?, format!("https://forge/{}", self.made))
            }
            Step::Finish(fence, end, messages) => {
                let fence = self.fence(fence)?;
                let end = self.attempt_end(*end);
                Call::Finish(fence, end, self.messages("ended", *messages))
            }
            Step::Cancel(back) => Call::Cancel(one(&self.sessions, *back)?, self.message("cancelled")),
            Step::Answer(choice) => Call::Answer(self.answer(choice)?),
            Step::Say(back, attempts) => Call::Say(NewNote {
                id: ids().note(),
                session: one(&self.sessions, *back)?,
                text: format!("note {}", self.made),
                by: "ada".to_owned(),
                attempts: *attempts,
                message: self.message("said"),
            }),
            Step::Remind(back) => Call::Remind(one(&self.questions, *back)?, self.message("remember")),
            Step::GiveUp(back) => Call::GiveUp(one(&self.questions, *back)?, self.message("given up")),
            Step::Due(limit) => Call::Due(*limit),
            Step::MarkRead(back) => Call::MarkRead(one(&self.messages, *back)?),
            Step::Reap(ages, limit) => reap(*ages, *limit),
            Step::Messages(back, after, limit) => Call::Messages(one(&self.sessions, *back)?, *after, *limit),
        })
    }

    fn new_session(&mut self, choice: &CreateChoice) -> NewSession {
        let new = new_session();
        let id = choice
            .again
            .and_then(|back| one(&self.sessions, back))
            .unwrap_or(new.id);
        if !self.sessions.contains(&id) {
            self.sessions.push(id);
        }
        NewSession {
            id,
            content: format!("# Plan {}", choice.content),
            repo_url: format!("https://host/{}.git", choice.repository),
            title: format!("Plan {}", choice.content),
            max_attempts: choice.max_attempts,
            priority: choice.priority,
            submitter: choice.submitter.map(|number| format!("submitter {number}")),
            idempotency_key: choice.key.map(|number| format!("key {number}")),
            held: if choice.held { LONG } else { Duration::ZERO },
            message: self.message("accepted"),
            ..new
        }
    }

    fn request(&self, choice: &ClaimChoice) -> ClaimRequest {
        let [global, per_repository, per_submitter] = choice.limits;
        ClaimRequest {
            worker: worker(choice.worker),
            lease: LONG,
            limit: choice.limit,
            takeovers: choice.takeovers,
            only: choice.only.and_then(|back| one(&self.sessions, back)),
            limits: ClaimLimits {
                global,
                per_repository,
                per_submitter,
            },
        }
    }

    fn fence(&self, choice: &FenceChoice) -> Option<Fence> {
        let live = one(&self.live, choice.back).filter(|_| choice.live);
        let fence = live.or_else(|| one(&self.fences, choice.back))?;
        Some(match choice.skew {
            Skew::None => fence,
            Skew::Attempt(by) => Fence {
                attempt: AttemptNumber::new(fence.attempt.get().saturating_add_signed(by.into())),
                ..fence
            },
            Skew::Lease(by) => Fence {
                lease: LeaseNumber::new(fence.lease.get().saturating_add_signed(by.into())),
                ..fence
            },
            Skew::Nobody => Fence {
                session: ids().session(),
                ..fence
            },
        })
    }

    /// Each once.
    fn fences(&self, choices: &[FenceChoice]) -> Vec<Fence> {
        let mut fences = Vec::new();
        for fence in choices.iter().filter_map(|choice| self.fence(choice)) {
            if !fences.contains(&fence) {
                fences.push(fence);
            }
        }
        fences
    }

    fn start(&self) -> AttemptStart {
        AttemptStart {
            container: format!("container {}", self.made),
            branch: format!("branch {}", self.made),
            title: "Another title".into(),
            runner_token: TokenHash::of(&format!("runner {}", self.made)),
            agent_token: TokenHash::of(&format!("agent {}", self.made)),
        }
    }

    fn message(&mut self, text: &str) -> NewMessage {
        let id = ids().message();
        self.messages.push(id);
        NewMessage {
            id,
            kind: MessageKind::Progress,
            content: MessageContent::text(format!("{text} {}", self.made)),
        }
    }

    fn messages(&mut self, text: &str, number: usize) -> Vec<NewMessage> {
        (0..number).map(|_| self.message(text)).collect()
    }

    fn artifact(&self, name: u8) -> NewArtifact {
        NewArtifact {
            id: ids().artifact(),
            name: format!("artifact {name}"),
            content: self.made.to_be_bytes().to_vec(),
        }
    }

    fn events(&mut self, fence: Fence, first: i8, choices: &[EventChoice]) -> Vec<EventRecord> {
        let last = self.acknowledged.get(&(fence.session, fence.attempt)).copied();
        let first = last.unwrap_or(0).saturating_add_signed(first.into()).max(1);
        (first..)
            .zip(choices)
            .map(|(number, choice)| EventRecord {
                event: number,
                messages: self.messages("event", choice.messages),
                transcript: choice.transcript.then(|| (DateTime::UNIX_EPOCH, self.entry())),
                usage: choice.usage.then_some(Usage {
                    input_tokens: 3,
                    cost_usd: 0.25,
                    turns: 1,
                    ..Usage::default()
                }),
                result: choice
                    .result
                    .then(|| json!({"summary": self.made, "event": number})),
                checkpoint: choice.checkpoint.map(|with| self.checkpoint(number, with)),
            })
            .collect()
    }

    fn checkpoint(&self, number: u64, conversation: bool) -> Checkpoint {
        Checkpoint {
            reference: format!("refs/{}", self.made),
            commit: format!("commit {number}"),
            head: format!("head {number}"),
            conversation,
            heard: 0,
        }
    }

    fn question(&mut self, wait: Wait) -> NewQuestion {
        let id = ids().question();
        self.questions.push(id);
        let after = match wait {
            Wait::ForEver => None,
            Wait::Long => Some(LONG),
            Wait::NotAtAll => Some(Duration::ZERO),
        };
        NewQuestion {
            id,
            escalation: Escalation {
                question: format!("question {}", self.made),
                options: vec!["yes".into(), "no".into()],
                context: String::new(),
                urgency: Urgency::Low,
            },
            deadline: after.map(|after| Deadline {
                after,
                then: OnDeadline::Proceed,
            }),
        }
    }

    fn answer(&mut self, choice: &AnswerChoice) -> Option<NewAnswer> {
        Some(NewAnswer {
            session: one(&self.sessions, choice.session)?,
            question: choice.question.and_then(|back| one(&self.questions, back)),
            text: format!("answer {}", self.made),
            by: choice.by_name.then(|| "ada".to_owned()),
            plan: choice
                .plan
                .then(|| (ids().spec(), format!("# Amended plan {}", self.made))),
            message: self.message("answered"),
        })
    }

    fn attempt_end(&mut self, end: End) -> AttemptEnd {
        let failure = || Failure::new("runtime.lost", "the container is gone", "Wait.");
        match end {
            End::Completed { heard } => AttemptEnd::Completed { heard },
            End::Failed => AttemptEnd::Failed(failure()),
            End::Cancelled => AttemptEnd::Cancelled,
            End::Escalated(wait) => AttemptEnd::Escalated(self.question(wait)),
            End::Lost { waits, counts } => AttemptEnd::Lost {
                failure: failure(),
                delay: if waits { LONG } else { Duration::ZERO },
                counts,
            },
        }
    }

    fn entry(&self) -> TranscriptEntry {
        TranscriptEntry {
            kind: "text".into(),
            parent: None,
            summary: format!("line {}", self.made),
            detail: serde_json::Map::new(),
        }
    }
}

/// Which artifacts go first is nobody's promise, so all of them go.
fn reap(ages: [Option<bool>; 3], limit: u32) -> Call {
    let [sessions, transcripts, artifacts] =
        ages.map(|age| age.map(|long| if long { LONG } else { Duration::ZERO }));
    let artifacts = artifacts.filter(|_| limit >= 100);
    let retention = Retention {
        sessions,
        transcripts,
        artifacts,
    };
    Call::Reap(retention, limit)
}
