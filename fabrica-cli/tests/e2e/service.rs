//! The service: a plan is posted, and a pull request comes out.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrica_cli::rehearsal::scripts;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use crate::rig::{CLONE, Database, Engine, World, on_each_engine};

on_each_engine!(a_posted_plan_becomes_a_pull_request, what_waits_holds_nothing);

const TOKEN: &str = "a-token-for-the-end-to-end-test";

/// A server that listens, and somebody who asks it.
struct Service {
    server: Child,
    address: String,
    client: reqwest::Client,
}

impl Service {
    async fn start(world: &World) -> Result<Self> {
        let program = Path::new(env!("CARGO_BIN_EXE_fabrica")).with_file_name("fabrica-server");
        ensure!(
            program.exists(),
            "{} is not there: run `make test`",
            program.display()
        );
        let mut server = world
            .program(&program)?
            .env("FABRICA_API_TOKEN", TOKEN)
            .env("FABRICA_LISTEN", "127.0.0.1:0")
            .stderr(Stdio::inherit())
            .spawn()?;
        let address = listening(&mut server).await?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            server,
            address,
            client: reqwest::Client::new(),
        })
    }

    /// Hands a plan in, and hears the session's id.
    async fn submit(&self, plan: String) -> Result<String> {
        let request = self.client.post(format!("{}/run", self.address)).body(plan);
        let answer = request.bearer_auth(TOKEN).send().await?;
        assert_eq!(answer.status(), 202);
        let answer: Value = answer.json().await?;
        Ok(answer["sessionId"].as_str().context("a session id")?.to_owned())
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let request = self.client.get(format!("{}/{path}", self.address));
        Ok(request.bearer_auth(TOKEN).send().await?.json().await?)
    }

    /// Waits until a session has one of those statuses.
    async fn until(&self, id: &str, statuses: &[&str]) -> Result<Value> {
        let waiting = async {
            loop {
                let session = self.get(&format!("sessions/{id}")).await?;
                if statuses.contains(&session["status"].as_str().unwrap_or_default()) {
                    return Ok(session);
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_mins(3), waiting).await?
    }

    fn pid(&self) -> Result<Pid> {
        let id = self.server.id().and_then(|id| i32::try_from(id).ok());
        id.and_then(Pid::from_raw).context("it runs")
    }

    async fn stop(mut self) -> Result<()> {
        kill_process(self.pid()?, Signal::TERM)?;
        let status = self.server.wait().await?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

async fn a_posted_plan_becomes_a_pull_request(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Postgres, scripts::sample_job(CLONE)).await?;
    let service = Service::start(&world).await?;
    let plan = scripts::sample_plan(&world.rehearsal.repository_url());
    let id = service.submit(plan).await?;
    let session = service.until(&id, &["completed", "failed", "cancelled"]).await?;
    let messages = service.get(&format!("sessions/{id}/messages")).await?;
    assert_eq!(session["status"], "completed", "{messages:#}");
    assert_eq!(session["repoUrl"], world.rehearsal.repository_url());
    let last = messages
        .as_array()
        .and_then(|list| list.last())
        .context("there are messages")?;
    assert_eq!(
        (&last["type"], &last["sessionId"]),
        (&"completion".into(), &session["id"])
    );
    assert_eq!(last["content"]["metadata"]["prUrl"], session["prUrl"]);
    assert_eq!(world.rehearsal.pull_requests().len(), 1);
    service.stop().await?;
    world.end().await
}

/// Sessions that wait for people cost a running service nothing but their rows. Their memory is counted where it can be, by
/// the tests of the orchestration.
async fn what_waits_holds_nothing(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Postgres, scripts::sample_job(CLONE)).await?;
    let service = Service::start(&world).await?;
    let plan = world.command_plan("fabrica-escalate 'Which one?' && exit 85", "");
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(service.submit(plan.clone()).await?);
    }
    let pid = service.pid()?;
    let mut seen = BTreeSet::new();
    let watching = async {
        loop {
            match held(&world, pid, &ids).await {
                Ok(held) => seen.extend(held.into_iter().map(|(kind, _)| kind)),
                Err(error) => break error,
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let waiting = async {
        for id in &ids {
            service.until(id, &["escalated"]).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::select! {
        waited = waiting => waited?,
        error = watching => return Err(error),
    }
    for kind in ["container", "file", "socket"] {
        assert!(seen.contains(kind), "running sessions held no {kind}: {seen:?}");
    }
    let gone = async {
        loop {
            let held = held(&world, pid, &ids).await?;
            if held.is_empty() {
                return Ok::<_, anyhow::Error>(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    if timeout(Duration::from_mins(1), gone).await.is_err() {
        anyhow::bail!("held while it waits: {:#?}", held(&world, pid, &ids).await?);
    }
    service.stop().await?;
    world.end().await
}

/// What there is of sessions outside the database: what kind of thing, and its name.
async fn held(world: &World, server: Pid, ids: &[String]) -> Result<Vec<(&'static str, String)>> {
    let mut held = Vec::new();
    let listings = [
        ("container", &["ps", "--all", "--format", "{{.Names}}"][..]),
        ("volume", &["volume", "ls", "--quiet"]),
    ];
    for (kind, arguments) in listings {
        let listing = world.engine.client(arguments).await?;
        held.extend(listing.lines().map(|name| (kind, name.to_owned())));
    }
    let sockets = std::fs::read_to_string("/proc/net/unix")?;
    held.extend(sockets.lines().map(|line| ("socket", line.to_owned())));
    let descriptors = format!("/proc/{}/fd", server.as_raw_nonzero());
    for descriptor in std::fs::read_dir(descriptors)?.flatten() {
        // It may be closed by now.
        if let Ok(opened) = std::fs::read_link(descriptor.path()) {
            held.push(("open file", opened.display().to_string()));
        }
    }
    let mut directories = vec![world.path("data")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            held.push(("file", entry.path().display().to_string()));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            }
        }
    }
    // The directory of a session's socket has the first and the last eight digits for a name.
    let is_of =
        |name: &str, id: &str| name.contains(id) || name.contains(&format!("{}{}-", &id[..8], &id[28..]));
    held.retain(|(_, name)| ids.iter().any(|id| is_of(name, id)));
    let parent = format!("PPid:\t{}", server.as_raw_nonzero());
    for process in std::fs::read_dir("/proc")?.flatten() {
        let status = std::fs::read_to_string(process.path().join("status")).unwrap_or_default();
        if status.lines().any(|line| line == parent) {
            held.push(("process", status));
        }
    }
    Ok(held)
}

/// Reads the address that the server tells, and keeps its pipe empty.
async fn listening(server: &mut Child) -> Result<String> {
    let mut lines = BufReader::new(server.stdout.take().context("stdout is piped")?).lines();
    let mut seen = Vec::new();
    while let Some(line) = lines.next_line().await? {
        if let Some(at) = line.find("http://127.0.0.1:") {
            let address = line[at..].split_whitespace().next().unwrap_or_default();
            let address = address.trim_end_matches(|c: char| !c.is_ascii_digit()).to_owned();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(address);
        }
        seen.push(line);
    }
    anyhow::bail!("the server told no address: {seen:#?}")
}
