//! The orchestration against fakes (whole sessions) and against mocks (every step that can fail).

mod asking;
mod failures;
mod model_trouble;
mod recovery;
mod sessions;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::failure::Failure;
use crate::ids::{SessionId, WorkerId};
use crate::message::{Message, MessageKind};
use crate::ports::forge::{Forge, ForgeError, Publication, PullRequest};
use crate::ports::store::Store;
use crate::protocol::{Job, JobResult, Pushed, RunnerEvent};
use crate::session::{Session, SessionStatus};
use crate::testing::{FakeSandbox, FakeStore, MockForge, Script, ScriptEnd};

const PLAN: &str = "---\nrepo: https://git.example.com/acme/app.git\n---\n# Say hello\n\nIn the log.\n";

/// An orchestrator over fakes.
struct Rig {
    store: Arc<FakeStore>,
    sandbox: Arc<FakeSandbox>,
    orchestrator: Orchestrator,
}

fn options() -> Options {
    Options {
        retry_delay: Duration::from_millis(1),
        stop_grace: Duration::from_secs(5),
        poll: Duration::from_millis(50),
        ..Options::new(WorkerId::new("worker"), "/usr/lib/fabrica/fabrica-runner")
    }
}

impl Rig {
    fn new(director: impl Fn(&Job) -> Script + Send + Sync + 'static) -> Self {
        Self::with(director, options(), None)
    }

    fn with(
        director: impl Fn(&Job) -> Script + Send + Sync + 'static,
        options: Options,
        forge: Option<MockForge>,
    ) -> Self {
        Self::over(FakeStore::default(), director, options, forge)
    }

    fn over(
        store: FakeStore,
        director: impl Fn(&Job) -> Script + Send + Sync + 'static,
        options: Options,
        forge: Option<MockForge>,
    ) -> Self {
        let store = Arc::new(store);
        let sandbox = Arc::new(FakeSandbox::new(director));
        let mut builder = Orchestrator::builder(store.clone(), sandbox.clone(), sandbox.clone(), options);
        if let Some(forge) = forge {
            builder = builder.forge(Arc::new(forge) as Arc<dyn Forge>);
        }
        Self {
            store,
            sandbox,
            orchestrator: builder.build(),
        }
    }

    async fn submit(&self, plan: &str) -> SessionId {
        self.orchestrator
            .submit(Submission::new(plan))
            .await
            .unwrap()
            .session()
    }

    /// Submits a plan and works until it is settled.
    async fn run(&self, plan: &str) -> Ended {
        let id = self.submit(plan).await;
        self.finish(id).await
    }

    async fn finish(&self, id: SessionId) -> Ended {
        let status = self
            .orchestrator
            .run_session(id, Shutdown::default())
            .await
            .unwrap();
        assert_eq!(self.sandbox.containers(), 0, "a container is left over");
        assert_eq!(self.sandbox.accesses(), 0, "the gateway is still open");
        worker::until("nothing of the attempt is in memory", async || {
            self.sandbox.attempts_in_memory() == 0
        })
        .await;
        let session = self.store.session(id).await.unwrap().unwrap();
        assert_eq!(session.status, status);
        assert_eq!(session.completed_at.is_some(), status.is_terminal());
        Ended {
            session,
            messages: self.store.messages(id, 0, 1_000).await.unwrap(),
        }
    }
}

/// A session that is settled.
struct Ended {
    session: Session,
    messages: Vec<Message>,
}

impl Ended {
    fn status(&self) -> SessionStatus {
        self.session.status
    }

    fn last(&self) -> &Message {
        self.messages.last().unwrap()
    }

    /// A member of the last message's metadata.
    fn told(&self, key: &str) -> &Value {
        &self.last().content.metadata[key]
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.messages
            .iter()
            .map(|message| message.kind.as_str())
            .collect()
    }

    /// That it failed, with that code, and said what to do.
    fn assert_failed(&self, code: &str) {
        assert_eq!(self.status(), SessionStatus::Failed, "{:?}", self.last());
        assert_eq!(self.last().kind, MessageKind::Error);
        assert_eq!(self.told("code"), code);
        assert_ne!(self.told("advice"), "", "{code} does not say what to do");
    }
}

fn pushed(job: &Job) -> Pushed {
    Pushed {
        branch: job.branch.clone(),
        base: "main".into(),
        head: "abc".into(),
        commits: 2,
        subjects: vec!["One".into(), "Two".into()],
    }
}

fn request(url: &str) -> PullRequest {
    PullRequest {
        url: url.into(),
        number: 7,
        opened: true,
        warnings: Vec::new(),
    }
}

/// A runner that works until it is stopped, and pushed two commits by then.
fn works_until_stopped(job: &Job) -> Script {
    let failure = Failure::new("session.stopped", "stopped", "Run it again.");
    let last = RunnerEvent::Failed {
        failure,
        pushed: Some(pushed(job)),
    };
    Script {
        events: vec![RunnerEvent::Started {
            runner: "fake".into(),
        }],
        end: ScriptEnd::WaitForStop(vec![last]),
    }
}
