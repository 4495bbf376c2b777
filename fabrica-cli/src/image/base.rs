//! The base image: what the engine has, else what a registry has, else one made from Debian's packages.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use fabrica_cli::assembly::command;
use fabrica_core::ports::ContainerRuntime;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempPath;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use super::agent::{missing, written};
use super::context::{PACKAGES, hash};
use super::{DEFAULT_BASE, ImageRequest, Narrator};
use crate::exit::Exit;
use crate::problem::Problem;

/// How long a registry may be silent.
const SILENCE: Duration = Duration::from_secs(20);
/// The release that `DEFAULT_BASE` is.
const RELEASE: &str = "bookworm";

/// The reference of a base image that the engine has in the end.
pub(super) async fn ensure(
    request: &ImageRequest,
    runtime: &Arc<dyn ContainerRuntime>,
    cache: &Path,
    narrator: &Narrator,
) -> Result<String, Problem> {
    if runtime.image(&request.base).await?.is_some() {
        narrator.step(&format!("base image {} is there", request.base));
        return Ok(request.base.clone());
    }
    let own = format!("fabrica/base:{RELEASE}-{}", &hash([PACKAGES.as_bytes()])[..12]);
    let replaceable = request.base == DEFAULT_BASE;
    if replaceable && runtime.image(&own).await?.is_some() {
        narrator.step(&format!("base image {own} is there"));
        return Ok(own);
    }
    narrator.step(&format!("pulling {}", request.base));
    match pull(&request.base, runtime, narrator).await {
        Ok(()) => Ok(request.base.clone()),
        Err(reason) if replaceable => {
            narrator.step(&format!(
                "no registry gives it ({reason}); making it from Debian's packages"
            ));
            let archive = bootstrap(cache, narrator).await?;
            narrator.step("importing the base image");
            runtime
                .import(&archive, &own, narrator.sink())
                .await
                .map_err(super::build_problem)?;
            Ok(own)
        }
        Err(reason) => Err(Problem::new(
            Exit::Failure,
            "image.base_missing",
            format!(
                "base image {} is not there and cannot be pulled: {reason}",
                request.base
            ),
        )
        .hint("pull or load it yourself, or leave out --base")),
    }
}

/// Pulls, unless nothing is heard for too long: where no registry can be reached, an engine may wait for minutes.
async fn pull(
    reference: &str,
    runtime: &Arc<dyn ContainerRuntime>,
    narrator: &Narrator,
) -> Result<(), String> {
    let pulling = runtime.pull(reference, narrator.sink());
    let silence = async {
        let mut heard = (narrator.heard(), Instant::now());
        while heard.1.elapsed() < SILENCE {
            sleep(Duration::from_millis(500)).await;
            if narrator.heard() != heard.0 {
                heard = (narrator.heard(), Instant::now());
            }
        }
    };
    tokio::select! {
        pulled = pulling => pulled.map(|_| ()).map_err(|error| error.to_string()),
        () = silence => Err(format!("nothing was heard for {} s", SILENCE.as_secs())),
    }
}

/// Asks the program to end if nobody waits for it any more: killed, it would leave its mounts behind.
struct Bootstrapping(Child);

impl Drop for Bootstrapping {
    fn drop(&mut self) {
        // There is none once it has ended and was waited for.
        if let Some(id) = self
            .0
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
        {
            let _ = kill_process(id, Signal::TERM);
        }
    }
}

/// Makes the file system of a Debian with the image's packages, without documentation and without device nodes, which a
/// rootless engine could not make.
async fn bootstrap(cache: &Path, narrator: &Narrator) -> Result<TempPath, Problem> {
    // It goes with its path, whatever happens.
    let archive = tempfile::Builder::new()
        .prefix("base-")
        .suffix(".tar")
        .tempfile_in(cache);
    let archive = archive.map_err(|error| written(cache, &error))?.into_temp_path();
    let include = PACKAGES.split_whitespace().collect::<Vec<_>>().join(",");
    let child = command("mmdebstrap")
        .args(["--variant=minbase", "--format=tar", "--skip=output/dev"])
        .arg(format!("--include={include}"))
        .args(
            ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"]
                .map(|path| format!("--dpkgopt=path-exclude={path}")),
        )
        .arg("--dpkgopt=path-include=/usr/share/doc/*/copyright")
        .arg(RELEASE)
        .arg(archive.as_os_str())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.map_err(|error| missing("mmdebstrap", &error, "mmdebstrap"))?;
    let mut bootstrapping = Bootstrapping(child);
    let last = match bootstrapping.0.stderr.take() {
        Some(stderr) => narrator.follow(stderr).await,
        None => Vec::new(),
    };
    let status = bootstrapping
        .0
        .wait()
        .await
        .map_err(|error| written(&archive, &error))?;
    if status.success() {
        return Ok(archive);
    }
    Err(Problem::new(
        Exit::Failure,
        "image.base_failed",
        format!("mmdebstrap ended with {status}"),
    )
    .diagnosis(last)
    .hint("check that a Debian mirror can be reached and that there are 2 GB of free space"))
}
