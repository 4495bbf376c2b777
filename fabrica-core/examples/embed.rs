//! Embeds Fabrica: a plan goes in, its messages come out.
//!
//! This example brings no engine and no database: the fakes of the feature `testing` stand in for the ports. In a real
//! program, `fabrica_store::connect`, `fabrica_runtime::detect::connect` and `fabrica_gateway::UnixGateway` take their
//! places, and nothing else changes.

use std::sync::Arc;

use fabrica_core::ids::WorkerId;
use fabrica_core::orchestrator::{Options, Orchestrator, SessionUpdate, Shutdown, Submission};
use fabrica_core::testing::{FakeSandbox, FakeStore};
use futures::StreamExt as _;

const PLAN: &str =
    "---\nrepo: https://git.example.com/acme/app.git\n---\n# Log every request\n\nOne line each.\n";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let (store, sandbox) = (
        Arc::new(FakeStore::default()),
        Arc::new(FakeSandbox::that_completes()),
    );
    let options = Options::new(WorkerId::new("embedded"), "/usr/lib/fabrica/fabrica-runner");
    let fabrica = Orchestrator::builder(store, sandbox.clone(), sandbox, options).build();

    let session = fabrica.submit(Submission::new(PLAN)).await?.session();
    let mut updates = fabrica.watch(session).await?;
    let worker = fabrica.clone();
    let work = tokio::spawn(async move { worker.run_session(session, Shutdown::default()).await });
    while let Some(update) = updates.next().await {
        if let SessionUpdate::Message(message) = update? {
            anyhow::Context::context(write(&message.content.message), "standard output")?;
        }
    }
    let status = work.await??;
    anyhow::ensure!(status.as_str() == "completed", "the session ended {status}");
    Ok(())
}

fn write(line: &str) -> std::io::Result<()> {
    std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes())
}
