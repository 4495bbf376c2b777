//! No secret enters a sandbox.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use fabrica_cli::rehearsal::scripts;

use crate::rig::{Database, Engine, FORGE_TOKEN, MODEL_KEY, World, on_each_engine};

on_each_engine!(no_secret_reaches_the_sandbox);

/// Everything that the agent can get hold of: its environment, that of every process, and every file. The pattern is
/// written so that it does not find itself.
const LOOT: &str = "{ env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'; \
     grep -rhaoE '.{0,40}can[a]ry.{0,60}' / --exclude-dir=proc --exclude-dir=sys 2>/dev/null; \
     cat /proc/1/maps /proc/1/mem 2>&1 | head -c 4096; git config --list; \
     } > loot.txt; git add -A; git commit -qm Loot; cat loot.txt; echo agent-is-ready; sleep 5";

/// A secret in the shapes in which it could leak.
fn shapes(secret: &str) -> Vec<String> {
    let hex = secret.bytes().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let base64 = base64::engine::general_purpose::STANDARD;
    // With a user name before it, as in an HTTP header; the first and last characters depend on what stands beside it.
    let basic = base64.encode(format!("x-access-token:{secret}"));
    vec![
        secret.to_owned(),
        secret.chars().rev().collect(),
        hex,
        base64.encode(secret).trim_end_matches('=').to_owned(),
        basic.trim_end_matches('=').to_owned(),
    ]
}

fn assert_clean(what: &str, text: &str, secrets: &[&str]) {
    for secret in secrets {
        for shape in shapes(secret) {
            assert!(!text.contains(&shape), "{what} contains {shape}");
        }
    }
}

async fn no_secret_reaches_the_sandbox(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Postgres, scripts::runs_bash([LOOT])).await?;
    let password = world
        .database_url
        .split(['@', ':'])
        .nth(2)
        .map(|part| part.trim_start_matches('/').to_owned());
    let password = password.filter(|password| password.len() > 6);
    let mut secrets = vec![MODEL_KEY, FORGE_TOKEN, world.database_url.as_str()];
    secrets.extend(password.as_deref());

    let child = world.start(&world.plan(""), &[])?;
    let waiting = async {
        loop {
            let names = engine
                .client(&[
                    "ps",
                    "--format",
                    "{{.Names}}",
                    "--filter",
                    "label=fabrica.session",
                ])
                .await?;
            let logs = world.store().await?;
            let sessions = logs
                .sessions(&fabrica_core::ports::store::SessionFilter::default(), 1)
                .await?;
            let Some(session) = sessions.first() else { continue };
            if let Some(name) = names.lines().find(|name| name.contains(&session.id.to_string())) {
                return Ok::<_, anyhow::Error>(name.to_owned());
            }
        }
    };
    let name = tokio::time::timeout(std::time::Duration::from_mins(2), waiting)
        .await
        .context("no container")??;
    let inspected = engine.client(&["inspect", &name]).await?;
    let logs = engine.client(&["logs", &name]).await?;

    let run = world.finish(child).await?;
    run.assert_status("completed", 0);
    let loot = world
        .rehearsal
        .sample()
        .file(&run.branch(), "loot.txt")
        .await?
        .context("the loot is pushed")?;
    assert!(
        loot.contains("ANTHROPIC_BASE_URL"),
        "the agent saw its environment: {loot}"
    );
    assert!(
        !loot.contains("fabrica-runner-"),
        "the agent has the runner's token: {loot}"
    );
    let transcript = format!("{:?}", run.transcript);
    assert!(
        transcript.contains("agent-is-ready"),
        "the agent did its work: {transcript}"
    );
    let diff = world.rehearsal.sample().diff(&run.branch()).await?;
    for (what, text) in [
        ("inspect", &inspected),
        ("the container's log", &logs),
        ("the loot", &loot),
        ("the pushed branch", &diff),
        ("the transcript", &transcript),
        ("the messages", &format!("{:?}", run.messages)),
        ("stdout", &run.stdout),
        ("stderr", &run.stderr),
    ] {
        assert_clean(what, text, &secrets);
    }
    // They were used, outside: the model and git answered.
    assert!(
        world
            .rehearsal
            .model_requests()
            .iter()
            .any(|request| request.header("x-api-key") == Some(MODEL_KEY))
    );
    world.end().await
}
