//! The fault suite: real servers, PostgreSQL, Docker and rootless Podman, killed, frozen and cut off on purpose.
//!
//! `make chaos` runs all of it, `make test` a short form. Every promise has a module in [`promises`]; what always has to
//! hold stands in [`oracle`], which compares the database with what the engine, the code host and the agents say. The
//! seed is printed first: with `--seed` the same choices are made again, if not at the same instants.

#![expect(clippy::print_stdout, reason = "its report is its output")]

mod agent;
mod cluster;
mod database;
mod dice;
mod engine;
mod noise;
mod oracle;
mod process;
mod promises;
mod proxy;
mod replica;
mod report;
mod surroundings;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use cluster::Cluster;
use engine::{Engine, Kind};
use noise::Noise;
use promises::Promise;
use report::Tally;
use world::Suite;

/// Injects faults into Fabrica, and looks whether it keeps its promises.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Arguments {
    /// Seed of all choices [default: another one every time]
    #[arg(long, env = "FABRICA_CHAOS_SEED")]
    seed: Option<u64>,
    /// The form that `make test` runs
    #[arg(long)]
    short: bool,
    /// Only this promise, by its name in the report; repeatable
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Where the report goes
    #[arg(long, value_name = "PATH")]
    report: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every promise was kept.
async fn run(arguments: &Arguments) -> Result<bool> {
    let seed = arguments.seed.unwrap_or_else(some_seed);
    let form = if arguments.short { "short" } else { "long" };
    println!(
        "fault suite, {form} form, seed {seed} (the same again: --seed {seed} or FABRICA_CHAOS_SEED={seed})"
    );
    let chosen: Vec<&Promise> = promises::ALL
        .iter()
        .filter(|promise| arguments.only.is_empty() || arguments.only.iter().any(|name| name == promise.name))
        .collect();
    ensure!(!chosen.is_empty(), "there is no promise {:?}", arguments.only);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let suite = prepare(seed, arguments.short).await?;
    let mut tallies = Vec::new();
    for stage in promises::STAGES {
        let now = chosen.iter().filter(|promise| stage.contains(&promise.name));
        tallies.extend(futures::future::join_all(now.map(|promise| test(&suite, promise))).await);
    }
    let target = target();
    let path = arguments
        .report
        .clone()
        .unwrap_or_else(|| target.join("chaos/report.json"));
    report::write(&path, seed, form, suite.noise.worst(), &tallies)?;
    suite.clean_up().await?;
    suite.docker.end().await?;
    suite.podman.end().await?;
    suite.cluster.end().await;
    println!(
        "\nseed {seed}; at its busiest the machine was {:.1} times slower than idle",
        suite.noise.worst()
    );
    tallies.iter().for_each(Tally::print);
    let faults: u64 = tallies.iter().map(Tally::injected).sum();
    let broken = tallies.iter().filter(|tally| !tally.is_kept()).count();
    println!(
        "{faults} faults injected, {broken} of {} promises broken; {}",
        tallies.len(),
        path.display()
    );
    Ok(broken == 0)
}

async fn test(suite: &Suite, promise: &Promise) -> Tally {
    println!("{}: {} …", promise.name, promise.title);
    let tally = Tally::new(promise.name, promise.title);
    if let Err(error) = (promise.test)(suite, &tally).await {
        tally.broken(format!("the test itself failed: {error:#}"));
    }
    tally.end();
    tally.print();
    tally
}

/// Engines and a PostgreSQL of the suite's own.
async fn prepare(seed: u64, short: bool) -> Result<Suite> {
    let state =
        std::env::var("FABRICA_TEST_STATE").context("FABRICA_TEST_STATE is not set: run `make chaos`")?;
    let cache =
        std::env::var("FABRICA_TEST_CACHE").context("FABRICA_TEST_CACHE is not set: run `make chaos`")?;
    let (state, cache) = (Path::new(&state).join("chaos"), Path::new(&cache).join("chaos"));
    let logs = target().join("chaos/logs");
    for directory in [&state, &cache, &logs] {
        std::fs::create_dir_all(directory)?;
    }
    process::note_in(&state);
    // A copy, so that a build in the meantime does not change what is tested.
    let server = cache.join("fabrica-server");
    let _ = std::fs::remove_file(&server);
    let built =
        std::env::var("FABRICA_CHAOS_SERVER").unwrap_or_else(|_| env!("CARGO_BIN_EXE_fabrica-server").into());
    std::fs::copy(built, &server)?;
    for old in [
        cache.join("postgres"),
        cache.join("dying"),
        cache.join("w"),
        state.join("s"),
    ] {
        let _ = std::fs::remove_dir_all(old);
    }
    let docker = Engine::start(Kind::Docker, &state, &cache, &logs).await?;
    let podman = Engine::start(Kind::RootlessPodman, &state, &cache, &logs).await?;
    let cluster = Arc::new(Cluster::start(&cache.join("postgres"), false).await?);
    Ok(Suite {
        seed,
        short,
        state,
        cache,
        logs,
        server,
        docker,
        podman,
        cluster,
        noise: Noise::listen(),
        installations: std::sync::Mutex::default(),
    })
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

fn some_seed() -> u64 {
    // Short enough to be typed.
    dice::some_id().as_u64_pair().0 % 1_000_000_000
}
