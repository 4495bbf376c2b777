//! The wire between the runner in the sandbox and the orchestrator: one definition for both ends.
//!
//! The runner asks the gateway for its [`Job`] (`GET /session/job`), then posts [`Envelope`]s as newline-delimited
//! JSON (`POST /session/events`) and reads an [`Acknowledgement`]. It keeps every envelope until it is acknowledged.
//! Fields and events that a reader does not know are ignored, so either end may be newer.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::ids::{AttemptNumber, SessionId};
use crate::plan::Agent;

/// The version of this protocol.
pub const PROTOCOL_VERSION: u32 = 1;

/// Where the session's gateway directory is mounted in the sandbox.
pub const GATEWAY_DIRECTORY: &str = "/run/fabrica";
/// The name of the socket in that directory.
pub const GATEWAY_SOCKET: &str = "gateway.sock";
/// Where the runner forwards to that socket, inside the sandbox.
pub const FORWARDER_ADDRESS: &str = "127.0.0.1:4180";
/// Where the runner binary is mounted in the sandbox.
pub const RUNNER_PATH: &str = "/opt/fabrica/bin/fabrica-runner";
/// The volume that the agent works in; the clone is its `repository` directory.
pub const WORKSPACE: &str = "/workspace";
/// Environment variable with the token for `/session/…` and for pushing.
pub const RUNNER_TOKEN_VARIABLE: &str = "FABRICA_RUNNER_TOKEN";
/// Environment variable with the token for `/model/…`, for fetching and for signatures.
pub const AGENT_TOKEN_VARIABLE: &str = "FABRICA_AGENT_TOKEN";
/// Header that carries the stable code of a refusal by the gateway.
pub const CODE_HEADER: &str = "x-fabrica-code";

/// What the gateway says to the agent once the session's budget is used up: its words come back in the agent's failure.
pub const BUDGET_REACHED: &str = "the session has used up its budget";
/// The code under which the gateway refuses a model of unknown price to a session whose dollars are limited.
pub const PRICE_UNKNOWN: &str = "budget.price_unknown";
/// The words with which the gateway tells an agent that the model's provider answers nobody for long. After them stands
/// until when, as RFC 3339 in UTC with a `Z` at the end.
pub const USAGE_LIMIT: &str = "the model's usage limit is reached until ";

/// The name of the artifact that holds the agent's own conversation: what it resumes from.
pub const CONVERSATION_ARTIFACT: &str = "claude-transcript.jsonl";
/// The exit code by which a `command` agent says that it has asked a person with `fabrica-escalate` and waits for the
/// answer. Any other end after a recorded question means the same.
pub const AGENT_ASKED: i32 = 85;

/// The runner's exit codes. Its events are the truth; the code only helps where no event came through.
pub mod exit {
    /// The job ended and its result was acknowledged, whatever the result was.
    pub const REPORTED: i32 = 0;
    /// The result could not be delivered to the gateway.
    pub const UNREPORTED: i32 = 70;
    /// The runner's own environment is unusable (no token, no socket directory).
    pub const ENVIRONMENT: i32 = 78;
    /// Stopped by a signal before the job ended; what the agent committed was pushed where that was possible.
    pub const STOPPED: i32 = 75;
}

/// What the runner has to do: everything about the attempt that it may know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The session.
    pub session: SessionId,
    /// The attempt.
    pub attempt: AttemptNumber,
    /// The plan's title.
    pub title: String,
    /// The task in markdown.
    pub task: String,
    /// The URL of the plan's repository, which relative addresses of submodules start from; `None` if it is a directory.
    #[serde(default)]
    pub repository: Option<String>,
    /// The URLs of the repositories that may be fetched as submodules. The gateway has the first of them as
    /// `/git/submodules/1.git`, and so on.
    #[serde(default)]
    pub submodules: Vec<String>,
    /// Whether files that the repository and its submodules keep in Git LFS are fetched, and those of the work uploaded.
    #[serde(default = "yes")]
    pub large_files: bool,
    /// The branch to start from; `None` is the remote's default branch.
    pub base: Option<String>,
    /// The branch to work on and to push.
    pub branch: String,
    /// The directory of the repository in which agent, setup and verification start; `None` is the repository itself.
    #[serde(default)]
    pub path: Option<String>,
    /// Who does the work.
    pub agent: Agent,
    /// The model that the agent uses.
    pub model: Option<String>,
    /// Shell commands that run once before the agent.
    #[serde(default)]
    pub setup: Vec<String>,
    /// Shell commands that must pass before the result counts.
    #[serde(default)]
    pub verify: Vec<String>,
    /// How often the verification is run: after each failure but the last its output goes back to the agent.
    #[serde(default = "one")]
    pub rounds: u32,
    /// The agent's turns.
    pub turns: Option<u32>,
    /// US dollars.
    pub cost_usd: Option<f64>,
    /// Who the commits are by.
    pub committer: Identity,
    /// The public half of the key that the gateway signs commits by [`committer`](Self::committer) with, as in
    /// `authorized_keys`; `None` leaves commits unsigned. The key itself never enters a sandbox.
    #[serde(default)]
    pub signing_key: Option<String>,
    /// How many commits of history are cloned; `None` is all of it.
    pub depth: Option<u32>,
    /// How often what the agent did is made safe outside of the sandbox, in seconds; `None` is only before it asks or is
    /// stopped.
    #[serde(default)]
    pub checkpoint_seconds: Option<u64>,
    /// How many seconds the runner waits before it lets the agent ask a model again that is overloaded or limits the rate, at
    /// least one. It doubles every time, up to two minutes.
    #[serde(default = "model_pause_seconds")]
    pub model_pause_seconds: u64,
    /// What the attempt goes on with; `None` begins from the base.
    #[serde(default)]
    pub resume: Option<Resume>,
    /// Whether the agent works no more: what there is is committed, verified and pushed.
    #[serde(default)]
    pub finish: bool,
    /// The number of the last note to the agent that it knows, or that stands in [`Resume::prompt`]; 0 is none.
    #[serde(default)]
    pub heard: u32,
}

const fn yes() -> bool {
    true
}

const fn one() -> u32 {
    1
}

const fn model_pause_seconds() -> u64 {
    30
}

impl Job {
    /// The ref on the git host that the session's checkpoints are pushed to.
    pub fn checkpoint_reference(&self) -> String {
        format!("refs/fabrica/{}/checkpoint", self.session)
    }
}

/// What an attempt goes on with, after an answer or the loss of an earlier sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// What an earlier attempt left, if it came that far.
    #[serde(default)]
    pub checkpoint: Option<Checkpoint>,
    /// What the agent is told now, for example the answer to its question. Follows on the conversation, if the checkpoint
    /// has it; otherwise it stands below the task.
    pub prompt: String,
}

/// Everything that the agent did, made safe outside of its sandbox.
///
/// The commit's tree is that of the working directory, with untracked files and without ignored ones. Its parents are, in
/// this order: the commit that the agent's `HEAD` was at, a commit of the index, and the checkpoint before it, if there was
/// one; so the ref only ever moves forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The ref on the git host.
    pub reference: String,
    /// The commit that it is at.
    pub commit: String,
    /// The commit that the agent's `HEAD` was at.
    pub head: String,
    /// Whether the agent's conversation at that time is stored as [`CONVERSATION_ARTIFACT`].
    #[serde(default)]
    pub conversation: bool,
    /// The number of the last note that the agent had heard then; 0 is none.
    #[serde(default)]
    pub heard: u32,
}

impl Checkpoint {
    /// Whether it has nothing that the session's branch does not have: it names the branch, its commit is that of the agent's
    /// `HEAD`, and the attempt goes on where the branch is now, even if others have pushed to it.
    pub fn is_of_branch(&self) -> bool {
        self.commit == self.head && self.reference.starts_with("refs/heads/")
    }
}

/// Something that a person says to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Its number among the session's notes, from 1.
    pub number: u32,
    /// Who says it.
    pub by: String,
    /// What is said.
    pub text: String,
}

/// How soon a question wants an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// Whenever somebody has time.
    Low,
    /// As usual.
    #[default]
    Normal,
    /// Before anything else.
    High,
}

impl Urgency {
    /// The name in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// A name and an address for commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The name.
    pub name: String,
    /// The e-mail address.
    pub email: String,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            name: "Fabrica".into(),
            email: "fabrica@localhost".into(),
        }
    }
}

/// One numbered event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// The version of the protocol.
    pub v: u32,
    /// The event's number: from 1, without gaps within an attempt.
    pub seq: u64,
    /// When it happened, by the sandbox's clock.
    pub at: DateTime<Utc>,
    /// The event itself.
    #[serde(flatten)]
    pub event: RunnerEvent,
}

/// What the runner reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunnerEvent {
    /// The runner is up and has its job.
    Started {
        /// The runner's version.
        runner: String,
    },
    /// A step of the runner's own work, for people: it becomes a message.
    Progress {
        /// The step, for programs: `clone`, `setup`, `agent`, `verify`, `push`.
        step: String,
        /// A sentence for people.
        message: String,
    },
    /// One entry of the agent's transcript.
    Agent(TranscriptEntry),
    /// What was used since the last `usage` event.
    Usage(Usage),
    /// What the agent did so far is safe outside of the sandbox.
    Checkpoint(Checkpoint),
    /// The runner has all notes up to this number, and tells the agent at its next turn. Repeated whenever one comes again.
    Received {
        /// The number.
        number: u32,
    },
    /// The agent asks a person, and its work is safe. The last event of its attempt.
    Escalation(Escalation),
    /// The job ended with success. The last event of its attempt.
    Completed(JobResult),
    /// The job ended without success. The last event of its attempt.
    Failed {
        /// Why.
        failure: Failure,
        /// The branch, if commits were pushed all the same.
        #[serde(default)]
        pushed: Option<Pushed>,
    },
    /// An event of a newer runner.
    #[serde(other)]
    Unknown,
}

/// A question to a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escalation {
    /// The question.
    pub question: String,
    /// Answers to choose from; may be empty.
    #[serde(default)]
    pub options: Vec<String>,
    /// What the person should know.
    #[serde(default)]
    pub context: String,
    /// How soon it wants an answer.
    #[serde(default)]
    pub urgency: Urgency,
}

/// What came out of a job that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The agent's closing words.
    #[serde(default)]
    pub summary: String,
    /// What was pushed; `None` if the agent changed nothing.
    #[serde(default)]
    pub pushed: Option<Pushed>,
    /// The verification, in the plan's order; empty if the plan names none.
    #[serde(default)]
    pub verification: Vec<Verification>,
    /// In which round of the verification all passed, from 1; 0 if the runner did not say.
    #[serde(default)]
    pub rounds: u32,
    /// The repository's template for the text of a pull request, as it is in the commit that was pushed.
    #[serde(default)]
    pub template: Option<String>,
    /// The number of the last note that the agent has heard; 0 is none.
    #[serde(default)]
    pub heard: u32,
    /// Whether the agent was not done, and the verification may have failed: it is published as a draft.
    #[serde(default)]
    pub unfinished: bool,
}

/// A branch that was pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// The branch.
    pub branch: String,
    /// The branch that it started from.
    pub base: String,
    /// The commit at its head.
    pub head: String,
    /// How many commits it has beyond the base.
    pub commits: u32,
    /// Their subject lines, oldest first, at most 50.
    #[serde(default)]
    pub subjects: Vec<String>,
}

/// One command of the verification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// The command.
    pub command: String,
    /// Whether it passed.
    pub passed: bool,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The last lines of its output.
    #[serde(default)]
    pub output: Vec<String>,
}

/// One entry of the agent's transcript.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TranscriptEntry {
    /// What it is: `text`, `thinking`, `tool_use`, `tool_result`, `output`, `notice`, `result`.
    pub kind: String,
    /// Who says it: the agent, or the subagent's tool use id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// One line for people.
    pub summary: String,
    /// The whole of it, bounded by the runner.
    #[serde(default)]
    pub detail: Map<String, Value>,
}

/// Tokens and money. As an event: since the last one. On a session: over all attempts.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read, without those from a cache.
    #[serde(default)]
    pub input_tokens: u64,
    /// Tokens written.
    #[serde(default)]
    pub output_tokens: u64,
    /// Tokens read from the provider's cache.
    #[serde(default)]
    pub cache_read_tokens: u64,
    /// Tokens written to the provider's cache.
    #[serde(default)]
    pub cache_write_tokens: u64,
    /// US dollars.
    #[serde(default)]
    pub cost_usd: f64,
    /// The agent's turns.
    #[serde(default)]
    pub turns: u32,
}

impl Usage {
    /// All tokens together, those of the cache included.
    pub const fn tokens(self) -> u64 {
        self.input_tokens
            .saturating_add(self.output_tokens)
            .saturating_add(self.cache_read_tokens)
            .saturating_add(self.cache_write_tokens)
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            cache_read_tokens: self.cache_read_tokens.saturating_add(other.cache_read_tokens),
            cache_write_tokens: self.cache_write_tokens.saturating_add(other.cache_write_tokens),
            cost_usd: self.cost_usd + other.cost_usd,
            turns: self.turns.saturating_add(other.turns),
        }
    }
}

/// What the runner is told in answer to a batch of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Acknowledgement {
    /// Every event up to this number is stored for good and may be forgotten.
    pub acknowledged: u64,
    /// What to do, in order.
    #[serde(default)]
    pub instructions: Vec<Instruction>,
}

/// What the orchestrator tells the runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "instruction", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Instruction {
    /// Stop the agent, push what it committed, report `failed` with the code `session.cancelled`, exit.
    Cancel,
    /// Tell the agent at its next turn. Repeated until [`RunnerEvent::Received`] says that it has come through.
    Say(Told),
    /// An instruction of a newer orchestrator.
    #[serde(other)]
    Unknown,
}

/// How often a runner that has nothing to report asks for instructions all the same, with an empty batch.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// How many events a batch holds at most.
pub const MAX_BATCH_EVENTS: usize = 500;
/// How many bytes a batch holds at most.
pub const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How many bytes one event holds at most; the runner cuts what is longer and says so.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;
/// How many bytes a commit has at most that is to be signed: its message, and what it names.
pub const MAX_SIGNED_BYTES: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_one_flat_object() {
        let line = r#"{"v":1,"seq":7,"at":"2026-11-22T10:00:00Z","event":"progress","step":"clone","message":"Cloned","new":1}"#;
        let envelope: Envelope = serde_json::from_str(line).unwrap();
        assert_eq!(
            envelope.event,
            RunnerEvent::Progress {
                step: "clone".into(),
                message: "Cloned".into()
            }
        );
        let again = serde_json::to_value(&envelope).unwrap();
        assert_eq!(again["event"], "progress");
        assert_eq!(again["seq"], 7);
    }

    #[test]
    fn events_and_instructions_of_a_newer_peer_are_kept_as_unknown() {
        let line = r#"{"v":2,"seq":1,"at":"2026-11-22T10:00:00Z","event":"teleported","where":"x"}"#;
        assert_eq!(
            serde_json::from_str::<Envelope>(line).unwrap().event,
            RunnerEvent::Unknown
        );
        let answer = r#"{"acknowledged":3,"instructions":[{"instruction":"dance"}]}"#;
        let answer: Acknowledgement = serde_json::from_str(answer).unwrap();
        assert_eq!(answer.instructions, [Instruction::Unknown]);
    }

    #[test]
    fn every_event_survives_the_wire() {
        let events = [
            RunnerEvent::Started { runner: "1".into() },
            RunnerEvent::Agent(TranscriptEntry {
                kind: "text".into(),
                parent: None,
                summary: "hello".into(),
                detail: Map::new(),
            }),
            RunnerEvent::Usage(Usage {
                cost_usd: 0.25,
                turns: 2,
                ..Usage::default()
            }),
            RunnerEvent::Completed(JobResult {
                summary: "done".into(),
                pushed: None,
                verification: vec![],
                rounds: 1,
                template: Some("## Why".into()),
                heard: 2,
                unfinished: true,
            }),
            RunnerEvent::Failed {
                failure: Failure::new("agent.failed", "it failed", "look"),
                pushed: None,
            },
        ];
        for event in events {
            let envelope = Envelope {
                v: 1,
                seq: 1,
                at: DateTime::UNIX_EPOCH,
                event,
            };
            let text = serde_json::to_string(&envelope).unwrap();
            assert_eq!(
                serde_json::from_str::<Envelope>(&text).unwrap(),
                envelope,
                "{text}"
            );
        }
    }
}
