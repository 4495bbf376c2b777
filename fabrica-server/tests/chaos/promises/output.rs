//! Agents write faster than anybody can read, lines without an end, and bytes that are no text.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::making;
use crate::agent::Agent;
use crate::database::SessionRow;
use crate::dice::Dice;
use crate::oracle;
use crate::process::peak_memory;
use crate::report::Tally;
use crate::world::{Suite, World};

/// How much more memory a server may hold at its peak than before, in MiB: far less than what the agents write.
const MEMORY: u64 = 256;
/// How long `/health` may take meanwhile.
const HEALTH: Duration = Duration::from_secs(5);

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    for engine in suite.engines() {
        let name = format!("output-{}", engine.kind.name());
        let settings = [("FABRICA_CONCURRENCY", "2")];
        let world = World::begin(suite, making(suite, &name, engine, 1, &settings)).await?;
        let mut dice = Dice::new(suite.seed, &name);
        let before = memory(&world).await;
        for _ in 0..suite.of(1, 3) {
            let done = CancellationToken::new();
            let watching = watch(suite, tally, &world, &done);
            let flooding = async {
                let floods = floods(suite, &mut dice);
                let each = floods
                    .iter()
                    .map(|(kind, agent)| flood(tally, &world, kind, agent));
                let ended = futures::future::try_join_all(each).await;
                done.cancel();
                ended
            };
            tokio::join!(watching, flooding).1?;
        }
        let peak = memory(&world).await;
        tally.number(&format!("{name}: peak memory of the server in MiB"), peak);
        tally.check(peak < before + MEMORY, || {
            format!("the server held {peak} MiB, and {before} MiB before the floods")
        });
        oracle::audit(&world, tally).await?;
        world.end().await?;
    }
    Ok(())
}

fn floods(suite: &Suite, dice: &mut Dice) -> Vec<(&'static str, Agent)> {
    // Ten thousand lines, a second's rest if it took less, and again.
    let seconds = suite.of(3, 60);
    let rate = format!(
        "s=0; while [ $s -lt {seconds} ]; do sleep 1 & seq -f 'flood %.0f' 1 10000; wait; s=$((s+1)); done"
    );
    let megabytes = suite.of(20, 100);
    let line = format!("head -c {megabytes}000000 /dev/zero | tr '\\0' x; echo");
    let bytes = "printf 'nul \\000 in a line\\n'; printf '\\377\\376 no text \\200\\n'; printf '\\303'; \
                 head -c 40000 /dev/urandom; echo; printf '\\000%.0s' 1 2 3 4; echo"
        .to_owned();
    // Exactly as long as the pieces that engines split lines into, and around it.
    let pieces = "for n in 16383 16384 16385 32767 32768 32769 65536; do head -c $n /dev/zero | tr '\\0' y; echo; done"
        .to_owned();
    [
        ("10,000 lines a second", rate),
        ("one endless line", line),
        ("NUL bytes and invalid UTF-8", bytes),
        ("lines around 16 KiB", pieces),
    ]
    .map(|(kind, script)| (kind, Agent::new(dice, 20, "").before(script)))
    .to_vec()
}

async fn flood(tally: &Tally, world: &World, kind: &str, agent: &Agent) -> Result<()> {
    let id = world.submit(agent, "limits: { wall: 10m }").await?;
    tally.fault(kind);
    let (row, ended) = world
        .until(id, Duration::from_mins(8), SessionRow::is_terminal)
        .await?;
    let unhurt = ended
        && row
            .as_ref()
            .is_some_and(|row| row.status == "completed" && row.attempt == 1);
    tally.check(unhurt, || format!("{kind} hurt the session: {row:?}"));
    if kind.contains("endless") {
        told_of_the_cut(tally, world, id).await?;
    }
    Ok(())
}

async fn told_of_the_cut(tally: &Tally, world: &World, id: Uuid) -> Result<()> {
    let lines = world.database.output(id).await?;
    let marked = lines
        .iter()
        .any(|line| line.text.contains("cut") && line.text.starts_with("xxx"));
    tally.check(marked, || format!("{id}: a line was cut, and nobody can see it"));
    let longest = lines.iter().map(|line| line.text.len()).max().unwrap_or(0);
    tally.check(longest < 256 * 1_024, || {
        format!("{id}: a line of {longest} bytes is stored")
    });
    Ok(())
}

/// Asks for `/health` all the time.
async fn watch(suite: &Suite, tally: &Tally, world: &World, done: &CancellationToken) {
    while !done.is_cancelled() {
        match world.health(0).await {
            Ok(took) => {
                tally.took("/health during floods", took);
                tally.check(took < suite.promised(HEALTH), || format!("/health took {took:?}"));
            }
            Err(error) => tally.broken(format!("/health during floods: {error:#}")),
        }
        sleep(Duration::from_millis(250)).await;
    }
}

async fn memory(world: &World) -> u64 {
    let id = world.replica(0).await.id();
    id.and_then(peak_memory).context("it runs").unwrap_or(0)
}
