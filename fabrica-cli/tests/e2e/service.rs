//! The service: a plan is posted, and a pull request comes out.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrica_cli::rehearsal::scripts;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use crate::rig::{CLONE, Database, Engine, World, on_each_engine};

on_each_engine!(a_posted_plan_becomes_a_pull_request);

const TOKEN: &str = "a-token-for-the-end-to-end-test";

async fn a_posted_plan_becomes_a_pull_request(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Postgres, scripts::sample_job(CLONE)).await?;
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
    let client = reqwest::Client::new();
    let plan = scripts::sample_plan(&world.rehearsal.repository_url());
    let answer = client
        .post(format!("{address}/run"))
        .bearer_auth(TOKEN)
        .body(plan)
        .send()
        .await?;
    assert_eq!(answer.status(), 202);
    let answer: Value = answer.json().await?;
    let id = answer["sessionId"].as_str().context("a session id")?.to_owned();

    let waiting = async {
        loop {
            let session: Value = client
                .get(format!("{address}/sessions/{id}"))
                .bearer_auth(TOKEN)
                .send()
                .await?
                .json()
                .await?;
            if ["completed", "failed", "cancelled"].contains(&session["status"].as_str().unwrap_or_default())
            {
                return Ok::<Value, anyhow::Error>(session);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let session = tokio::time::timeout(Duration::from_mins(3), waiting).await??;
    let messages: Value = client
        .get(format!("{address}/sessions/{id}/messages"))
        .bearer_auth(TOKEN)
        .send()
        .await?
        .json()
        .await?;
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

    let process = server
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(process.context("it runs")?, rustix::process::Signal::TERM)?;
    let status = server.wait().await?;
    assert!(status.success(), "the server ended with {status}");
    world.end().await
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
