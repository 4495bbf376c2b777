//! Making the sandbox's image, with or without a registry.
//!
//! The Dockerfile and the list of packages are part of this program, so an installed one can build, too.

mod agent;
mod base;
mod context;
mod progress;

use std::path::PathBuf;
use std::sync::Arc;

use fabrica_cli::assembly::Directories;
use fabrica_core::ports::runtime::{BuildRequest, ImageInfo};
use fabrica_core::ports::{ContainerRuntime, RuntimeError};

use self::agent::Agent;
use self::context::Recipe;
pub(crate) use self::progress::Narrator;
use crate::problem::Problem;

/// The base unless another one is named.
pub(crate) const DEFAULT_BASE: &str = "docker.io/library/debian:bookworm-slim";
/// The label with the hash of everything that an image was made of.
const LABEL: &str = "fabrica.recipe";

/// An image to make.
#[derive(Debug, Clone)]
pub(crate) struct ImageRequest {
    pub(crate) base: String,
    pub(crate) tag: String,
    /// A Claude Code binary, instead of the pinned one.
    pub(crate) claude: Option<PathBuf>,
    /// Certificate authorities, PEM.
    pub(crate) certificates: Vec<PathBuf>,
    /// Do nothing if the image is there and is made of the same things.
    pub(crate) if_missing: bool,
}

/// What became of it.
#[derive(Debug, Clone)]
pub(crate) enum Made {
    /// It was there.
    Present(ImageInfo),
    /// It was built.
    Built(ImageInfo),
}

impl Made {
    pub(crate) const fn info(&self) -> &ImageInfo {
        match self {
            Self::Present(info) | Self::Built(info) => info,
        }
    }
}

/// Makes the image, telling each step.
pub(crate) async fn make(
    request: &ImageRequest,
    runtime: &Arc<dyn ContainerRuntime>,
    directories: &Directories,
    narrator: &Narrator,
) -> Result<Made, Problem> {
    let agent = Agent::choose(request.claude.as_deref())?;
    let recipe = Recipe::new(request, &agent)?;
    if request.if_missing
        && let Some(found) = runtime.image(&request.tag).await?
        && found.labels.get(LABEL) == Some(&recipe.hash)
    {
        return Ok(Made::Present(found));
    }
    let cache = directories.cache()?;
    let base = base::ensure(request, runtime, &cache, narrator).await?;
    let binary = agent.fetch(&cache, narrator).await?;
    narrator.step("preparing the build context");
    let context = recipe.write(&cache, &binary).await?;
    narrator.step(&format!("building {}", request.tag));
    let order = BuildRequest {
        context: context.path().to_owned(),
        reference: request.tag.clone(),
        arguments: [("BASE".to_owned(), base)].into(),
    };
    let built = runtime
        .build(&order, narrator.sink())
        .await
        .map_err(build_problem)?;
    Ok(Made::Built(built))
}

fn build_problem(error: RuntimeError) -> Problem {
    match error {
        RuntimeError::BuildFailed { reference, reason } => {
            let mut lines: Vec<String> = reason.lines().map(str::to_owned).collect();
            lines.drain(..lines.len().saturating_sub(20));
            let message = format!("image {reference} could not be made");
            Problem::new(crate::exit::Exit::Failure, "image.build_failed", message)
                .diagnosis(lines)
                .hint("behind a proxy with its own certificate authority, name its certificate with --certificate")
        }
        other => other.into(),
    }
}
