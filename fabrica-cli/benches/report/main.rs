//! Measures Fabrica against the limit that the machine itself sets, in the same run, and writes the ratios to
//! `target/bench/report.json`. Called by `make bench`, which brings engines, images and programs.
//!
//! Absolute times on a shared machine say little; each figure is a ratio of medians of alternating runs.

#![expect(clippy::print_stdout, reason = "a benchmark reports to the terminal")]

mod bare;
mod control_plane;
mod stage;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use bare::BareEngine;
use stage::Stage;

/// How many runs of each kind are counted; one more goes before them and is not.
const RUNS: usize = 7;

#[tokio::main]
async fn main() -> Result<()> {
    // Cargo passes `--bench` and filters; there is one report only.
    let mut engines = serde_json::Map::new();
    for (name, variable) in [
        ("docker", "FABRICA_TEST_DOCKER_SOCKET"),
        ("podman_rootless", "FABRICA_TEST_PODMAN_ROOTLESS_SOCKET"),
    ] {
        let socket =
            std::env::var(variable).with_context(|| format!("{variable} is not set: run `make bench`"))?;
        engines.insert(
            name.to_owned(),
            measure(name, &socket)
                .await
                .with_context(|| format!("on {name}"))?,
        );
    }
    let docker = std::env::var("FABRICA_TEST_DOCKER_SOCKET")?;
    let report = json!({
        "engines": engines,
        "control_plane_rss_mb": control_plane::resident_memory(&docker).await?,
    });
    println!("{}", serde_json::to_string_pretty(&report)?);
    save(&report)
}

/// What other benchmarks wrote into the file stays.
fn save(report: &Value) -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&directory)?;
    let path = directory.join("report.json");
    let mut whole: Value = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).context("target/bench/report.json is no report")?,
        Err(_) => json!({}),
    };
    for (name, value) in report.as_object().into_iter().flatten() {
        whole[name] = value.clone();
    }
    std::fs::write(&path, serde_json::to_string_pretty(&whole)?)?;
    Ok(())
}

async fn measure(engine: &str, socket: &str) -> Result<Value> {
    let stage = Stage::new(engine, socket).await?;
    let bare = BareEngine::connect(socket, &stage).await?;
    let (mut start, mut bare_start, mut whole, mut bare_whole) = (vec![], vec![], vec![], vec![]);
    let mut container = vec![];
    for run in 0..=RUNS {
        // In turn, so that a machine that slows down slows both.
        let bare_started = bare.start_to_output().await?;
        let started = stage.start().await?;
        let samples = [
            bare_started,
            started.queued_to_event,
            bare.agent().await?,
            stage.whole_run().await?,
        ];
        if run == 0 {
            continue;
        }
        container.push(started.claim_to_container);
        for (list, sample) in [&mut bare_start, &mut start, &mut bare_whole, &mut whole]
            .into_iter()
            .zip(samples)
        {
            list.push(sample);
        }
    }
    stage.end().await;
    let [start, bare_start, whole, bare_whole] = [start, bare_start, whole, bare_whole].map(median);
    Ok(json!({
        "start_overhead_ratio": ratio(start, bare_start),
        "plan_to_pull_request_ratio": ratio(whole, bare_whole),
        "claim_to_container_ms": milliseconds(median(container)),
        "medians_ms": {
            "queued_to_first_event": milliseconds(start),
            "engine_create_start_output": milliseconds(bare_start),
            "fabrica_run": milliseconds(whole),
            "sealed_agent": milliseconds(bare_whole),
        },
        "runs": RUNS,
    }))
}

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn ratio(measured: Duration, limit: Duration) -> f64 {
    (measured.as_secs_f64() / limit.as_secs_f64() * 100.0).round() / 100.0
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}
