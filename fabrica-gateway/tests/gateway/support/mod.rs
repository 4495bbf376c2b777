//! A gateway with one open session, and what stands on its two sides.

pub(crate) mod code_host;
pub(crate) mod git;
pub(crate) mod large_files;
pub(crate) mod upstream;

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use fabrica_core::ids::{AttemptNumber, Fence, LeaseNumber, SessionId};
use fabrica_core::plan::{Agent, Repository, RepositoryPolicy};
use fabrica_core::ports::gateway::{ModelRefusal, ModelUse};
use fabrica_core::ports::{Gateway as _, GatewayAccess, SessionSink, SinkError};
use fabrica_core::protocol::{Acknowledgement, Envelope, GATEWAY_SOCKET, Identity, Instruction, Job};
use fabrica_core::secrets::TokenHash;
use fabrica_gateway::{
    GatewayLimits, GatewayOptions, GitCredential, GitCredentials, ModelCredential, ModelUpstream, SigningKey,
    UnixGateway,
};
use secrecy::SecretString;
use tempfile::TempDir;
use url::Url;

pub(crate) const SESSION: &str = "018f4e1c-7a52-4cc3-9d51-0a6f3ad1c2b4";
pub(crate) const RUNNER: &str = "fabrica-runner-0000000000000000";
pub(crate) const AGENT: &str = "fabrica-agent-1111111111111111";
pub(crate) const BRANCH: &str = "fabrica/018f4e1c";
pub(crate) const MODEL_KEY: &str = "canary-model-key";
pub(crate) const GIT_SECRET: &str = "canary-git-secret";

/// Keeps what it is given.
#[derive(Debug, Default)]
pub(crate) struct RecordingSink {
    pub(crate) events: Mutex<Vec<Envelope>>,
    pub(crate) artifacts: Mutex<Vec<(String, Vec<u8>)>>,
    /// What the next report meets instead.
    pub(crate) failure: Mutex<Option<SinkError>>,
    /// How long a report takes, also of what an answer used.
    pub(crate) delay: Mutex<Option<std::time::Duration>>,
    /// Whether the lease is unknown.
    pub(crate) lease_unknown: AtomicBool,
    /// What whoever asks whether the attempt is current still hears, one after another; then that it is.
    pub(crate) authorizations: Mutex<VecDeque<Result<(), SinkError>>>,
    /// Whether it keeps nothing after all.
    pub(crate) forgetful: AtomicBool,
    /// How often that was asked.
    pub(crate) asked: AtomicUsize,
    /// Which models it was asked for.
    pub(crate) models: Mutex<Vec<String>>,
    /// Why no model may be asked.
    pub(crate) model_refusal: Mutex<Option<ModelRefusal>>,
    /// What it was told of what answers used, once that has taken its time.
    pub(crate) used: Mutex<Vec<ModelUse>>,
    /// How often it was told so, or begun to.
    pub(crate) counting: AtomicUsize,
}

impl RecordingSink {
    fn fails(&self) -> Result<(), SinkError> {
        self.failure.lock().unwrap().take().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl SessionSink for RecordingSink {
    fn may_ask(&self, model: &str) -> Result<(), ModelRefusal> {
        self.models.lock().unwrap().push(model.to_owned());
        self.model_refusal.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    async fn used(&self, used: ModelUse) {
        self.counting.fetch_add(1, Ordering::SeqCst);
        let delay = *self.delay.lock().unwrap();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        self.used.lock().unwrap().push(used);
    }

    fn holds_lease(&self) -> bool {
        !self.lease_unknown.load(Ordering::SeqCst)
    }

    async fn authorize(&self) -> Result<(), SinkError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.authorizations.lock().unwrap().pop_front().unwrap_or(Ok(()))
    }

    async fn deliver(&self, events: Vec<Envelope>) -> Result<Acknowledgement, SinkError> {
        let delay = *self.delay.lock().unwrap();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        self.fails()?;
        let acknowledged = events.last().map_or(0, |event| event.seq);
        if !self.forgetful.load(Ordering::SeqCst) {
            self.events.lock().unwrap().extend(events);
        }
        Ok(Acknowledgement {
            acknowledged,
            instructions: vec![Instruction::Cancel],
        })
    }

    async fn store_artifact(&self, name: String, content: Vec<u8>) -> Result<(), SinkError> {
        let delay = *self.delay.lock().unwrap();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        self.fails()?;
        if !self.forgetful.load(Ordering::SeqCst) {
            self.artifacts.lock().unwrap().push((name, content));
        }
        Ok(())
    }

    async fn artifact(&self, name: &str) -> Result<Option<Vec<u8>>, SinkError> {
        self.fails()?;
        let artifacts = self.artifacts.lock().unwrap();
        let newest = artifacts.iter().rfind(|(known, _)| known == name);
        Ok(newest.map(|(_, content)| content.clone()))
    }
}

/// A gateway, its directory, and one session.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) gateway: UnixGateway,
    pub(crate) sink: Arc<RecordingSink>,
    pub(crate) directory: PathBuf,
    pub(crate) parent: TempDir,
    pub(crate) repository: Repository,
}

/// What differs between rigs.
#[derive(Debug)]
pub(crate) struct RigOptions {
    pub(crate) model: String,
    pub(crate) credential: ModelCredential,
    pub(crate) repository: Repository,
    pub(crate) large_file_hosts: BTreeSet<String>,
    pub(crate) signing_key: Option<SigningKey>,
}

impl Default for RigOptions {
    fn default() -> Self {
        Self {
            // A port that nobody listens on.
            model: "http://127.0.0.1:9/base".into(),
            credential: ModelCredential::ApiKey(SecretString::from(MODEL_KEY)),
            repository: Repository::Local("/nowhere".into()),
            large_file_hosts: BTreeSet::new(),
            signing_key: None,
        }
    }
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(RigOptions::default()).await
    }

    pub(crate) async fn with(options: RigOptions) -> Self {
        let closed = std::fs::Permissions::from_mode(0o700);
        let parent = tempfile::Builder::new().permissions(closed).tempdir().unwrap();
        let mut git = GitCredentials::new();
        if let Some(authority) = options.repository.authority() {
            git = git.with(authority, GitCredential::token(SecretString::from(GIT_SECRET)));
        }
        let gateway = UnixGateway::new(GatewayOptions {
            directory: parent.path().to_owned(),
            owner: None,
            model: ModelUpstream {
                base_url: Url::parse(&options.model).unwrap(),
                credential: options.credential,
            },
            git,
            large_file_hosts: options.large_file_hosts,
            signing_key: options.signing_key,
            limits: GatewayLimits::default(),
        })
        .unwrap();
        let sink = Arc::new(RecordingSink::default());
        let repository = options.repository;
        let endpoint = gateway.open(access(1, &repository, &sink)).await.unwrap();
        Self {
            gateway,
            sink,
            directory: endpoint.directory,
            parent,
            repository,
        }
    }

    pub(crate) fn access(&self, attempt: u32) -> GatewayAccess {
        access(attempt, &self.repository, &self.sink)
    }

    /// Lets another attempt in.
    pub(crate) async fn reopen(&mut self, access: GatewayAccess) {
        self.directory = self.gateway.open(access).await.unwrap().directory;
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join(GATEWAY_SOCKET)
    }

    pub(crate) fn client(&self) -> reqwest::Client {
        client(&self.socket())
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> reqwest::Response {
        self.client()
            .get(format!("http://gateway{path}"))
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        token: &str,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Response {
        let request = self
            .client()
            .post(format!("http://gateway{path}"))
            .bearer_auth(token)
            .body(body);
        request.send().await.unwrap()
    }
}

/// An HTTP client that reaches a socket whatever the address says.
pub(crate) fn client(socket: &Path) -> reqwest::Client {
    // reqwest needs a provider for TLS even where there is none; the gateway has installed it.
    reqwest::Client::builder().unix_socket(socket).build().unwrap()
}

pub(crate) fn fence(attempt: u32) -> Fence {
    Fence {
        session: SESSION.parse::<SessionId>().unwrap(),
        attempt: AttemptNumber::new(attempt),
        lease: LeaseNumber::new(u64::from(attempt)),
    }
}

/// The first attempt's tokens are [`RUNNER`] and [`AGENT`]; later ones have their number behind them.
pub(crate) fn token(base: &str, attempt: u32) -> String {
    if attempt == 1 {
        base.to_owned()
    } else {
        format!("{base}-{attempt}")
    }
}

pub(crate) fn access(attempt: u32, repository: &Repository, sink: &Arc<RecordingSink>) -> GatewayAccess {
    let fence = fence(attempt);
    GatewayAccess {
        fence,
        runner_token: TokenHash::of(&token(RUNNER, attempt)),
        agent_token: TokenHash::of(&token(AGENT, attempt)),
        job: Job {
            session: fence.session,
            attempt: fence.attempt,
            title: "Add idempotency keys".into(),
            task: "The task.".into(),
            repository: None,
            submodules: vec![],
            large_files: true,
            base: Some("main".into()),
            branch: BRANCH.into(),
            path: None,
            agent: Agent::Claude,
            model: None,
            setup: vec![],
            verify: vec![],
            rounds: 1,
            turns: None,
            cost_usd: None,
            committer: Identity::default(),
            signing_key: None,
            depth: None,
            checkpoint_seconds: None,
            model_pause_seconds: 30,
            resume: None,
            heard: 0,
            finish: false,
        },
        repository: repository.clone(),
        submodules: vec![],
        sink: sink.clone(),
    }
}

pub(crate) fn http_repository(url: &str) -> Repository {
    let authority = url.split('/').nth(2).unwrap_or_default().to_owned();
    let policy = RepositoryPolicy {
        plain_http: vec![authority],
        ..RepositoryPolicy::default()
    };
    Repository::parse(url, &policy).unwrap()
}

pub(crate) fn header<'a>(response: &'a reqwest::Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

pub(crate) fn code(response: &reqwest::Response) -> &str {
    header(response, fabrica_core::protocol::CODE_HEADER).unwrap_or_default()
}
