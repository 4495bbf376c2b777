//! How much memory the service takes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use super::stage::Stage;

const TOKEN: &str = "a-token-for-the-benchmark";
const SESSIONS: usize = 10;

/// Resident memory of the server in megabytes: idle, and with ten running sessions.
pub(crate) async fn resident_memory(docker: &str) -> Result<Value> {
    let stage = Stage::new("docker", docker).await?;
    let mut server = stage
        .command(&server_binary()?, &stage.path("server.db"))?
        .env("FABRICA_API_TOKEN", TOKEN)
        .env("FABRICA_LISTEN", "127.0.0.1:0")
        .env("FABRICA_CONCURRENCY", SESSIONS.to_string())
        .stderr(Stdio::inherit())
        .spawn()?;
    let address = listening(&mut server).await?;
    // An error says that a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::new();
    client
        .get(format!("{address}/health"))
        .send()
        .await?
        .error_for_status()?;
    let idle = resident(&server)?;

    let agent = "agent: { command: [\"sh\", \"-c\", \"while :; do echo working; sleep 1; done\"] }";
    let plan = format!(
        "---\nrepo: {}\n{agent}\n---\n# Work\n\nOn and on.\n",
        stage.rehearsal.repository_url()
    );
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let answer = client
            .post(format!("{address}/run"))
            .bearer_auth(TOKEN)
            .body(plan.clone())
            .send()
            .await?;
        let answer: Value = answer.error_for_status()?.json().await?;
        sessions.push(answer["sessionId"].as_str().context("a session id")?.to_owned());
    }
    for session in &sessions {
        until(&client, &address, session, "its agent works", |messages| {
            messages
                .iter()
                .any(|message| message["content"]["metadata"]["step"] == "agent")
        })
        .await?;
    }
    let busy = resident(&server)?;
    for session in &sessions {
        client
            .post(format!("{address}/sessions/{session}/cancel"))
            .bearer_auth(TOKEN)
            .send()
            .await?;
    }
    for session in &sessions {
        until(&client, &address, session, "it is cancelled", |messages| {
            messages
                .iter()
                .any(|message| message["content"]["metadata"]["code"] == "session.cancelled")
        })
        .await?;
    }
    let id = server
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(id.context("it runs")?, rustix::process::Signal::TERM)?;
    let status = server.wait().await?;
    ensure!(status.success(), "the server ended with {status}");
    stage.end().await;
    Ok(json!({ "idle": idle, "with_10_running_sessions": busy }))
}

fn server_binary() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_fabrica")).with_file_name("fabrica-server");
    ensure!(path.exists(), "{} is not there: run `make bench`", path.display());
    Ok(path)
}

/// Reads the address that the server tells, and keeps its pipes empty.
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

async fn until(
    client: &reqwest::Client,
    address: &str,
    session: &str,
    what: &str,
    holds: impl Fn(&[Value]) -> bool,
) -> Result<()> {
    let mut messages: Vec<Value> = Vec::new();
    for _ in 0..600 {
        let answer = client
            .get(format!("{address}/sessions/{session}/messages"))
            .bearer_auth(TOKEN)
            .send()
            .await?;
        messages = answer.error_for_status()?.json().await?;
        if holds(&messages) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    anyhow::bail!("never: {what}; {messages:#?}")
}

/// Resident memory in megabytes.
fn resident(server: &Child) -> Result<f64> {
    let id = server.id().context("it runs")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok((kib / 102.4).round() / 10.0)
}
