//! What a world is made of: the variables of its replicas, the hook of its code host, and the strangers beside it.

use std::path::Path;

use anyhow::{Context as _, Result};
use fabrica_cli::rehearsal::CodeHost;

use crate::dice::some_id;
use crate::engine::{Engine, IMAGE};

/// The token of every server's API.
pub(crate) const TOKEN: &str = "chaos-api-token-of-thirty-two-characters";
/// The token of every code host.
pub(crate) const FORGE_TOKEN: &str = "chaos-forge-token";

/// A container that is none of Fabrica's business.
#[derive(Debug)]
pub(crate) struct Stranger {
    pub(crate) name: String,
    pub(crate) since: String,
}

/// A ref that was pushed.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    /// Seconds since 1970.
    pub(crate) at: f64,
    pub(crate) reference: String,
    /// The first characters of the container that made the commit.
    pub(crate) container: Option<String>,
}

impl Push {
    pub(crate) fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        Some(Self {
            at: words.next()?.parse().ok()?,
            reference: words.next()?.to_owned(),
            container: words.next().filter(|word| !word.is_empty()).map(str::to_owned),
        })
    }
}

/// Writes down every push, beside the stub's own record.
pub(crate) fn hook(ledger: &Path) -> String {
    format!(
        "#!/bin/sh\nwhile read -r old new ref; do\n    \
         by=$(git cat-file blob \"$new:made-by\" 2>/dev/null)\n    \
         echo \"$(date +%s.%N) $ref $by\" >>'{}'\ndone\n",
        ledger.display()
    )
}

pub(crate) fn surroundings(
    engine: &Engine,
    host: &CodeHost,
    directory: &Path,
    sockets: &Path,
) -> Result<Vec<(String, String)>> {
    let base = host.base_url();
    let authority = base.trim_start_matches("http://");
    Ok([
        ("PATH", std::env::var("PATH")?),
        ("HOME", directory.display().to_string()),
        ("LANG", "C.UTF-8".to_owned()),
        (
            "RUST_LOG",
            std::env::var("FABRICA_CHAOS_LOG").unwrap_or_else(|_| "info,sqlx=warn".to_owned()),
        ),
        (engine.kind.variable(), engine.address()),
        ("FABRICA_RUNTIME", engine.kind.name().to_owned()),
        ("FABRICA_IMAGE", IMAGE.to_owned()),
        ("FABRICA_RUNNER", runner()?),
        (
            "FABRICA_DATA_DIRECTORY",
            directory.join("data").display().to_string(),
        ),
        ("FABRICA_SOCKET_DIRECTORY", sockets.display().to_string()),
        ("FABRICA_API_TOKEN", TOKEN.to_owned()),
        ("FABRICA_FORGE_TOKEN", FORGE_TOKEN.to_owned()),
        (
            "FABRICA_FORGES",
            format!("github={authority},{}", host.forge_api_url()),
        ),
        ("FABRICA_PLAIN_HTTP_HOSTS", authority.to_owned()),
        ("FABRICA_MODEL_URL", base.clone()),
        ("FABRICA_MEMORY", "512MiB".to_owned()),
        // Rootless Podman on cgroup v1 enforces no limits; the tests of the limits are the runtime's.
        ("FABRICA_ALLOW_UNENFORCED_LIMITS", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec())
}

/// The static runner that `make runner` built.
fn runner() -> Result<String> {
    if let Ok(named) = std::env::var("FABRICA_RUNNER") {
        return Ok(named);
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/runner");
    let built = std::fs::read_dir(&target)?
        .flatten()
        .map(|entry| entry.path().join("release/fabrica-runner"))
        .find(|path| path.is_file())
        .context("the runner is missing: run `make runner`")?;
    Ok(built.canonicalize()?.display().to_string())
}

/// One container without any label, and one with the labels of another installation.
pub(crate) async fn strangers(engine: &Engine, world: &str) -> Result<Vec<Stranger>> {
    let session = some_id();
    let foreign = [
        "fabrica.owner=fabrica-0123456789ab".to_owned(),
        format!("fabrica.session={session}"),
        "fabrica.attempt=1".to_owned(),
    ];
    let foreign: Vec<&str> = foreign.iter().map(String::as_str).collect();
    let names = [format!("chaos-stranger-{world}"), format!("fabrica-{session}-1")];
    let mut strangers = Vec::new();
    for (name, labels) in names.into_iter().zip([&[][..], &foreign]) {
        let _ = engine.client(&["rm", "--force", &name]).await;
        engine.stranger(&name, labels).await?;
        let since = engine.running_since(&name).await.context("it runs")?;
        strangers.push(Stranger { name, since });
    }
    Ok(strangers)
}
