//! What a session needs of the machine beside the engine.

use std::path::Path;

use fabrica_cli::assembly::{
    DatabaseArgs, FORGE_TOKEN, GITHUB_TOKEN, Settings, command, find_runner, host_token_variable, open_store,
    shown_database, stage_runner,
};
use fabrica_core::ports::store::SessionFilter;
use fabrica_gateway::ModelCredential;

use super::check::Check;

/// What a few sessions and an image take.
const ENOUGH: u64 = 5_000_000_000;
/// Below this not even one will run.
const TOO_LITTLE: u64 = 500_000_000;

pub(super) fn runner(settings: &Settings, host_user: Option<u32>) -> Check {
    let staged = find_runner(settings.sandbox.runner.as_deref())
        .and_then(|runner| stage_runner(&runner, &settings.directories, host_user).map(|_| runner));
    match staged {
        Ok(runner) => Check::ok("runner", runner.display().to_string()),
        Err(error) => Check::fail("runner", error.to_string(), error.hint()),
    }
}

pub(super) fn sockets(settings: &Settings, host_user: Option<u32>) -> Check {
    match settings.directories.sockets(host_user) {
        Ok(directory) => Check::ok("sockets", directory.display().to_string()),
        Err(error) => Check::fail("sockets", error.to_string(), error.hint()),
    }
}

pub(super) async fn git() -> Check {
    let hint = "install git; repositories in local directories and `fabrica demo` need it";
    match command("git").arg("--version").output().await {
        Ok(output) if output.status.success() => {
            Check::ok("git", String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => Check::warn("git", format!("git --version ended with {}", output.status), hint),
        Err(error) => Check::warn("git", format!("cannot start git: {error}"), hint),
    }
}

pub(super) fn model(settings: &Settings) -> Check {
    let place = settings.model.base_url.as_str();
    match settings.model.credential {
        ModelCredential::ApiKey(_) => Check::ok("model", format!("an API key for {place}")),
        ModelCredential::Bearer(_) => Check::ok("model", format!("a bearer token for {place}")),
        ModelCredential::None => Check::warn(
            "model",
            format!("no key for {place}"),
            "set ANTHROPIC_API_KEY (or ANTHROPIC_AUTH_TOKEN), or name a file with --model-key-file",
        ),
    }
}

pub(super) fn forges(settings: &Settings) -> Vec<Check> {
    settings
        .forges
        .iter()
        .map(|forge| {
            let host = &forge.forge.host;
            if forge.token.is_some() {
                return Check::ok("forge", format!("a token for {host}"));
            }
            let variable =
                if host == "github.com" { GITHUB_TOKEN.to_owned() } else { host_token_variable(host) };
            let hint = format!("set {variable} (or {FORGE_TOKEN}, or --forge-token-file) to push and to open pull requests there");
            Check::warn("forge", format!("no token for {host}"), hint)
        })
        .collect()
}

/// Only where commits are to be signed: most are not.
pub(super) fn signing(settings: &Settings) -> Option<Check> {
    let key = settings.signing_key.as_ref()?;
    let committer = &settings.worker.committer;
    let detail = format!("{} for commits by {}", key.fingerprint(), committer.email);
    Some(if committer.email.ends_with("@localhost") {
        let hint = "name with --committer an address of the account that has the key: forges show no other signature as verified";
        Check::warn("signing", detail, hint)
    } else {
        Check::ok("signing", detail)
    })
}

pub(super) async fn database(settings: &Settings) -> Check {
    let shown = shown_database(settings.database.as_ref(), &settings.directories);
    let arguments = DatabaseArgs {
        database: settings.database.clone(),
    };
    let store = match open_store(&arguments, &settings.directories).await {
        Ok(store) => store,
        Err(error) => return Check::fail("database", error.to_string(), error.hint()),
    };
    match store.sessions(&SessionFilter::default(), 1).await {
        Ok(_) => Check::ok("database", shown),
        Err(error) => Check::fail("database", error.to_string(), "check the database and its rights"),
    }
}

pub(super) fn data_directory(settings: &Settings) -> Check {
    let tried = settings
        .directories
        .cache()
        .map(|cache| tempfile::NamedTempFile::new_in(cache).map(|_| ()));
    let shown = settings.directories.data.display().to_string();
    match tried {
        Ok(Ok(())) => Check::ok("data", shown),
        Ok(Err(error)) => Check::fail(
            "data",
            format!("{shown} cannot be written: {error}"),
            "choose another one with --data-directory",
        ),
        Err(error) => Check::fail("data", error.to_string(), error.hint()),
    }
}

pub(super) fn free_space(settings: &Settings) -> Check {
    let Some(free) = settings.directories.data.ancestors().find_map(free_at) else {
        return Check::warn("disk", "the free space is not known", "see that there are 5 GB");
    };
    let detail = format!("{:.1} GB free", gigabytes(free));
    let hint =
        "an image and a few sessions take 5 GB: make room, or choose another place with --data-directory";
    match free {
        ENOUGH.. => Check::ok("disk", detail),
        TOO_LITTLE..ENOUGH => Check::warn("disk", detail, hint),
        0..TOO_LITTLE => Check::fail("disk", detail, hint),
    }
}

#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

fn free_at(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
