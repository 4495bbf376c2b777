//! The engine goes away in the middle of a session.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use fabrica_cli::rehearsal::scripts;
use fabrica_core::ports::store::SessionFilter;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::rig::{CLONE, Database, Engine, World, on_each_engine};

on_each_engine!(
    an_engine_that_comes_back_costs_nothing,
    an_engine_that_stays_away_fails_the_session
);

/// A socket that leads to the engine, for as long as it is told to.
struct Line {
    path: PathBuf,
    engine: String,
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Line {
    fn new(world: &World) -> Result<Self> {
        let mut line = Self {
            path: world.path("engine.sock"),
            engine: world.engine.socket()?,
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        line.mend()?;
        Ok(line)
    }

    /// Connects (again).
    fn mend(&mut self) -> Result<()> {
        let listener = UnixListener::bind(&self.path)?;
        // A rootless engine is known by its socket's owner.
        let owner = std::fs::metadata(&self.engine)?.uid();
        std::os::unix::fs::chown(&self.path, Some(owner), None)?;
        self.cut = CancellationToken::new();
        self.tasks = TaskTracker::new();
        let (engine, cut, tasks) = (self.engine.clone(), self.cut.clone(), self.tasks.clone());
        self.tasks.spawn(async move {
            while let Some(Ok((mut inside, _))) = cut.run_until_cancelled(listener.accept()).await {
                let (engine, cut) = (engine.clone(), cut.clone());
                tasks.spawn(async move {
                    if let Ok(mut outside) = UnixStream::connect(engine).await {
                        // Either side may end it, and so may the test.
                        let _ = cut
                            .run_until_cancelled(tokio::io::copy_bidirectional(&mut inside, &mut outside))
                            .await;
                    }
                });
            }
        });
        Ok(())
    }

    /// Cuts all connections, and lets nobody in any more.
    async fn cut(&self) -> Result<()> {
        self.cut.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        Ok(std::fs::remove_file(&self.path)?)
    }
}

/// Waits until the agent works.
async fn working(world: &World) -> Result<()> {
    let store = world.store().await?;
    let waiting = async {
        loop {
            if let Some(session) = store.sessions(&SessionFilter::default(), 1).await?.first() {
                let transcript = store.transcript(session.id, 0, 1_000).await?;
                if transcript
                    .iter()
                    .any(|entry| entry.entry.summary.contains("agent-is-ready"))
                {
                    return Ok::<(), anyhow::Error>(());
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), waiting).await?
}

fn start(world: &World, socket: &Path, agent: &str, frontmatter: &str) -> Result<tokio::process::Child> {
    let plan = world.write_plan(&world.command_plan(agent, frontmatter))?;
    let variable = world.engine.variable();
    Ok(world
        .command(&["run", &plan.display().to_string()])?
        .env(variable, format!("unix://{}", socket.display()))
        .spawn()?)
}

/// Works for longer than the outage lasts.
const WAITS: &str = "echo agent-is-ready; \
     for i in 1 2 3 4 5 6 7 8; do sleep 1; done; \
     echo work > work.txt && git add -A && git commit -qm Work";

async fn an_engine_that_comes_back_costs_nothing(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Sqlite, scripts::no_change(CLONE)).await?;
    let mut line = Line::new(&world)?;
    let child = start(&world, &line.path, WAITS, "")?;
    working(&world).await?;
    line.cut().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    line.mend()?;
    let run = world.finish(child).await?;
    run.assert_status("completed", 0);
    assert_eq!(run.session().attempt.get(), 1, "the attempt was not lost");
    line.cut().await?;
    world.end().await
}

async fn an_engine_that_stays_away_fails_the_session(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Sqlite, scripts::no_change(CLONE)).await?;
    let line = Line::new(&world)?;
    let agent = "echo agent-is-ready; while :; do sleep 1; done";
    let child = start(&world, &line.path, agent, "limits: { attempts: 1 }")?;
    working(&world).await?;
    line.cut().await?;
    let output = child.wait_with_output().await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("engine.unavailable"), "{stderr}");
    let store = world.store().await?;
    let session = store.sessions(&SessionFilter::default(), 1).await?.remove(0);
    assert_eq!(session.status.as_str(), "failed");
    // Nobody could remove the container while the engine was away; its name says whose it is.
    let name = format!("fabrica-{}-1", session.id);
    engine.client(&["rm", "--force", &name]).await?;
    engine.client(&["volume", "rm", "--force", &name]).await?;
    world.end().await
}
