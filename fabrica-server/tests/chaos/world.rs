//! Everything around a few replicas: a database, an engine, a code host, and strangers' containers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use fabrica_cli::rehearsal::{BareRepository, CodeHost, CodeHostOptions, SourceFile};
use serde_json::Value;
use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::agent::Agent;
use crate::cluster::Cluster;
use crate::database::{Database, Numbered, SessionRow};
use crate::engine::Engine;
use crate::noise::Noise;
use crate::replica::{Replica, Surroundings};
use crate::surroundings::{FORGE_TOKEN, Push, Stranger, TOKEN, hook, strangers, surroundings};

const REPOSITORY: &str = "acme/sample";

/// What all promises share.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) seed: u64,
    /// The form that `make test` runs.
    pub(crate) short: bool,
    /// Sockets.
    pub(crate) state: PathBuf,
    /// Databases, and what sandboxes execute: where the state is, that may be forbidden.
    pub(crate) cache: PathBuf,
    /// What stays for whoever looks for a cause.
    pub(crate) logs: PathBuf,
    /// The program.
    pub(crate) server: PathBuf,
    pub(crate) docker: Arc<Engine>,
    pub(crate) podman: Arc<Engine>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) noise: Noise,
    /// The installations that there were, so that nothing of them stays.
    pub(crate) installations: Mutex<Vec<(Arc<Engine>, String)>>,
}

impl Suite {
    /// One number for the short form and one for the long one.
    pub(crate) const fn of<T: Copy>(&self, short: T, long: T) -> T {
        if self.short { short } else { long }
    }

    /// A promised time, as it can be held against a machine that is as busy as this one.
    pub(crate) fn promised(&self, time: Duration) -> Duration {
        time.mul_f64(self.noise.now())
    }

    /// Notes an installation whose containers on that engine have to be removed in the end.
    pub(crate) fn note_installation(&self, engine: &Arc<Engine>, owner: &str) {
        let mut installations = self.installations.lock().unwrap_or_else(PoisonError::into_inner);
        let known = installations
            .iter()
            .any(|(other, known)| Arc::ptr_eq(other, engine) && known == owner);
        if !known {
            installations.push((engine.clone(), owner.to_owned()));
        }
    }

    /// Removes what worlds that were given up in the middle left behind.
    pub(crate) async fn clean_up(&self) -> Result<()> {
        let installations =
            std::mem::take(&mut *self.installations.lock().unwrap_or_else(PoisonError::into_inner));
        for (engine, owner) in installations {
            engine.remove_strangers().await?;
            for container in engine.containers(&owner).await?.into_keys() {
                engine.client(&["rm", "--force", "--volumes", &container]).await?;
                engine.client(&["volume", "rm", "--force", &container]).await?;
            }
        }
        Ok(())
    }

    /// Both engines, beginning with one or the other.
    pub(crate) fn engines(&self) -> [Arc<Engine>; 2] {
        [self.docker.clone(), self.podman.clone()]
    }
}

/// How a world is made.
pub(crate) struct Making<'a> {
    pub(crate) name: &'a str,
    pub(crate) engine: Arc<Engine>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) replicas: usize,
    /// Options of the server, by their variables.
    pub(crate) settings: &'a [(&'a str, &'a str)],
    /// The port by which the replicas reach the database, if it is not the cluster's own.
    pub(crate) database_port: Option<u16>,
}

/// What has to be true of a session in the end.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) agent: Agent,
}

/// A few replicas and all that they need.
#[derive(Debug)]
pub(crate) struct World {
    /// Of its database.
    pub(crate) name: String,
    pub(crate) engine: Arc<Engine>,
    pub(crate) database: Database,
    pub(crate) host: CodeHost,
    pub(crate) repository: BareRepository,
    pub(crate) directory: PathBuf,
    pub(crate) sockets: PathBuf,
    pub(crate) client: reqwest::Client,
    replicas: Vec<tokio::sync::Mutex<Replica>>,
    urls: Vec<String>,
    expected: Mutex<HashMap<Uuid, Expected>>,
    submitted: AtomicU64,
    /// Sessions whose rows were deleted, by their branches, and when.
    pub(crate) deleted: Mutex<Vec<(String, SystemTime)>>,
    pub(crate) strangers: Vec<Stranger>,
    owner: tokio::sync::OnceCell<String>,
}

impl World {
    /// Makes one. No replica runs yet.
    pub(crate) async fn make(suite: &Suite, making: Making<'_>) -> Result<Self> {
        let directory = suite.cache.join("w").join(making.name);
        let sockets = suite.state.join("s").join(making.name);
        for directory in [&directory, &sockets] {
            let _ = std::fs::remove_dir_all(directory);
            std::fs::create_dir_all(directory)?;
            // The rootless engine's user must get through to what is mounted.
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o711))?;
        }
        let logs = suite.logs.join(making.name);
        let _ = std::fs::remove_dir_all(&logs);
        std::fs::create_dir_all(&logs)?;
        let host = CodeHost::start(CodeHostOptions::new(
            directory.join("host"),
            FORGE_TOKEN.to_owned(),
        ))
        .await?;
        let files = [SourceFile::new("README.md", "A sample.\n")];
        let repository = BareRepository::create(host.root(), REPOSITORY, &files).await?;
        repository.install_hook("post-receive", &hook(&directory.join("pushes")))?;
        let database = making.name.replace('-', "_");
        making.cluster.create(&database).await?;
        let pool = making.cluster.pool(&database).await?;
        let port = making.database_port.unwrap_or_else(|| making.cluster.port());
        let mut environment = surroundings(&making.engine, &host, &directory, &sockets)?;
        environment.push(("DATABASE_URL".into(), Cluster::url(&database, port)));
        environment.extend(
            making
                .settings
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into())),
        );
        let surroundings = Surroundings {
            program: suite.server.clone(),
            environment,
            logs,
        };
        let replicas = (1..=making.replicas)
            .map(|place| Replica::new(place, &surroundings))
            .collect::<Result<Vec<_>>>()?;
        let urls = replicas.iter().map(Replica::base_url).collect();
        let replicas = replicas.into_iter().map(tokio::sync::Mutex::new).collect();
        let strangers = strangers(&making.engine, making.name).await?;
        Ok(Self {
            name: database,
            engine: making.engine,
            database: Database(pool),
            host,
            repository,
            directory,
            sockets,
            client: reqwest::Client::builder().pool_max_idle_per_host(0).build()?,
            replicas,
            urls,
            expected: Mutex::default(),
            submitted: AtomicU64::default(),
            deleted: Mutex::default(),
            strangers,
            owner: tokio::sync::OnceCell::new(),
        })
    }

    /// Makes one and starts its replicas.
    pub(crate) async fn begin(suite: &Suite, making: Making<'_>) -> Result<Self> {
        let world = Self::make(suite, making).await?;
        for place in 0..world.replicas.len() {
            world.start(place).await?;
        }
        world.register(suite).await?;
        Ok(world)
    }

    /// Notes what has to be removed in the end. A replica runs.
    pub(crate) async fn register(&self, suite: &Suite) -> Result<&str> {
        let owner = self.owner().await?;
        suite.note_installation(&self.engine, owner);
        Ok(owner)
    }

    pub(crate) const fn size(&self) -> usize {
        self.replicas.len()
    }

    pub(crate) async fn replica(&self, place: usize) -> MutexGuard<'_, Replica> {
        self.replicas[place].lock().await
    }

    /// Starts a replica and waits until it answers.
    pub(crate) async fn start(&self, place: usize) -> Result<()> {
        let mut replica = self.replica(place).await;
        replica.spawn()?;
        replica.ready(&self.client).await
    }

    pub(crate) async fn kill(&self, place: usize) -> Result<()> {
        self.replica(place).await.kill().await
    }

    /// `kill -9` of the replica with that process id, and its restart after a while; false if it is gone already.
    pub(crate) async fn restart(&self, id: Option<i32>, pause: Duration) -> Result<bool> {
        let Some(place) = self.place_of(id) else {
            return Ok(false);
        };
        let mut replica = self.replica(place).await;
        if replica.id() != id {
            return Ok(false);
        }
        replica.kill().await?;
        sleep(pause).await;
        replica.spawn()?;
        replica.ready(&self.client).await?;
        Ok(true)
    }

    /// The place of the replica with that process id, if it can work.
    pub(crate) fn place_of(&self, id: Option<i32>) -> Option<usize> {
        for place in 0..self.size() {
            // One that is being restarted at this moment does not work.
            let Ok(replica) = self.replicas[place].try_lock() else {
                continue;
            };
            if id.is_some() && replica.id() == id && replica.works() {
                return Some(place);
            }
        }
        None
    }

    /// What the installation's containers are labelled with.
    pub(crate) async fn owner(&self) -> Result<&str> {
        let owner = self.owner.get_or_try_init(|| self.database.owner()).await?;
        Ok(owner)
    }

    pub(crate) fn repository_url(&self) -> String {
        self.host.repository_url(REPOSITORY)
    }

    /// Submits an agent's plan, again and again with the same key until a replica acknowledges it.
    pub(crate) async fn submit(&self, agent: &Agent, frontmatter: &str) -> Result<Uuid> {
        let number = self.submitted.fetch_add(1, Ordering::Relaxed);
        let key = format!("plan-{number}");
        let plan = agent.plan(&self.repository_url(), &key, frontmatter);
        let deadline = Instant::now() + Duration::from_mins(1);
        for turn in 0.. {
            match self.post(turn % self.size(), &plan, &key).await {
                Ok(id) => {
                    self.expect(id, agent.clone());
                    return Ok(id);
                }
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
        bail!("nobody takes the plan")
    }

    pub(crate) fn expect(&self, id: Uuid, agent: Agent) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.insert(id, Expected { agent });
    }

    pub(crate) fn expected(&self, id: Uuid) -> Option<Expected> {
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.get(&id).cloned()
    }

    /// One `POST /run`. An error is an answer that is no acknowledgement, or none at all.
    pub(crate) async fn post(&self, place: usize, plan: &str, key: &str) -> Result<Uuid> {
        let answer = self
            .client
            .post(format!("{}/run", self.urls[place]))
            .bearer_auth(TOKEN)
            .header("idempotency-key", key)
            .header("content-type", "text/markdown")
            .timeout(Duration::from_secs(10))
            .body(plan.to_owned())
            .send()
            .await?;
        let status = answer.status();
        let body: Value = answer.json().await?;
        ensure!(status == 202, "{status}: {body}");
        Ok(body["sessionId"].as_str().context("an id")?.parse()?)
    }

    /// Asks for a session's end; what the server answers with.
    pub(crate) async fn cancel(&self, place: usize, id: Uuid) -> Result<u16> {
        let answer = self
            .client
            .post(format!("{}/sessions/{id}/cancel", self.urls[place]))
            .bearer_auth(TOKEN)
            .timeout(Duration::from_secs(10))
            .send()
            .await?;
        Ok(answer.status().as_u16())
    }

    /// Answers a session's question in somebody's name; what the server answers with.
    pub(crate) async fn answer(&self, place: usize, id: Uuid, name: &str) -> Result<u16> {
        let answer = self
            .client
            .post(format!("{}/sessions/{id}/answer", self.urls[place]))
            .bearer_auth(TOKEN)
            .timeout(Duration::from_secs(10))
            .json(&serde_json::json!({"answer": format!("{name} says yes"), "answeredBy": name}))
            .send()
            .await?;
        Ok(answer.status().as_u16())
    }

    /// Where a replica listens.
    pub(crate) fn address(&self, place: usize) -> Result<SocketAddr> {
        let url = &self.urls[place];
        Ok(url.strip_prefix("http://").context("it speaks HTTP")?.parse()?)
    }

    /// The sequence numbers on a page of a session, after a number.
    pub(crate) async fn page(
        &self,
        place: usize,
        id: Uuid,
        kind: Numbered,
        (after, limit): (i64, u32),
    ) -> Result<Vec<i64>> {
        let url = format!("{}/sessions/{id}/{}", self.urls[place], kind.as_str());
        let answer = self
            .client
            .get(format!("{url}?after={after}&limit={limit}"))
            .bearer_auth(TOKEN)
            .timeout(Duration::from_secs(10))
            .send()
            .await?
            .error_for_status()?;
        let page: Vec<Value> = answer.json().await?;
        let numbers = page.iter().map(|entry| entry["sequence"].as_i64());
        numbers.collect::<Option<_>>().context("each has a number")
    }

    /// How long `/health` takes to say that all is well; an error if it does not.
    pub(crate) async fn health(&self, place: usize) -> Result<Duration> {
        let asked = Instant::now();
        let answer = self
            .client
            .get(format!("{}/health", self.urls[place]))
            .timeout(Duration::from_secs(10))
            .send()
            .await?;
        ensure!(
            answer.status().is_success(),
            "/health answers {}",
            answer.status()
        );
        Ok(asked.elapsed())
    }

    /// Waits until a session is so; says how it is, and whether that is as it was waited for.
    pub(crate) async fn until(
        &self,
        id: Uuid,
        patience: Duration,
        wanted: impl Fn(&SessionRow) -> bool,
    ) -> Result<(Option<SessionRow>, bool)> {
        let deadline = Instant::now() + patience;
        loop {
            let row = self.database.session(id).await?;
            if row.as_ref().is_some_and(&wanted) {
                return Ok((row, true));
            }
            if Instant::now() > deadline {
                return Ok((row, false));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a session's agent has written so many entries, or the session has ended.
    pub(crate) async fn wrote(&self, id: Uuid, entries: i64, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        while self.database.entries(id).await? < entries {
            let ended = self
                .database
                .session(id)
                .await?
                .is_none_or(|row| row.is_terminal());
            if ended || Instant::now() > deadline {
                return Ok(false);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(true)
    }

    /// Whether a session has ended, or a replica that works holds its lease and its container runs.
    pub(crate) async fn is_settled_or_owned(&self, row: &SessionRow) -> bool {
        if row.is_terminal() {
            return true;
        }
        row.status == "running"
            && row.leased
            && self.place_of(row.owner()).is_some()
            && self.engine.running_since(&row.container()).await.is_some()
    }

    /// Waits until a session has ended or is owned again: how long that took, or how it is instead.
    pub(crate) async fn recovered(&self, id: Uuid, patience: Duration) -> Result<Result<Duration, String>> {
        self.recovered_after(id, 0, patience).await
    }

    /// The same for a session that has lost an attempt: that one does not count, however it looks.
    pub(crate) async fn recovered_after(
        &self,
        id: Uuid,
        lost: i32,
        patience: Duration,
    ) -> Result<Result<Duration, String>> {
        let asked = Instant::now();
        loop {
            let Some(row) = self.database.session(id).await? else {
                return Ok(Err("its row is gone".into()));
            };
            if (row.attempt > lost || row.is_terminal()) && self.is_settled_or_owned(&row).await {
                return Ok(Ok(asked.elapsed()));
            }
            if asked.elapsed() > patience {
                return Ok(Err(format!("{row:?}")));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Removes a session's rows behind Fabrica's back.
    pub(crate) async fn delete(&self, id: Uuid) -> Result<()> {
        let row = self.database.session(id).await?.context("it is there")?;
        self.database.delete(id).await?;
        let branch = row.branch_name.unwrap_or_default();
        let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.push((branch, SystemTime::now()));
        Ok(())
    }

    /// What the code host received: one line for every ref that was pushed.
    pub(crate) fn pushes(&self) -> Vec<Push> {
        let text = std::fs::read_to_string(self.directory.join("pushes")).unwrap_or_default();
        text.lines().filter_map(Push::read).collect()
    }

    /// Ends what was started for it.
    pub(crate) async fn end(self) -> Result<()> {
        for place in 0..self.size() {
            self.kill(place).await?;
        }
        for stranger in &self.strangers {
            self.engine.client(&["rm", "--force", &stranger.name]).await?;
        }
        self.database.0.close().await;
        self.host.shutdown().await;
        for directory in [&self.directory, &self.sockets] {
            let _ = std::fs::remove_dir_all(directory);
        }
        Ok(())
    }
}
