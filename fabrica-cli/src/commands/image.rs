//! `fabrica image build`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use fabrica_cli::assembly::{DEFAULT_IMAGE, DataArgs, Directories, Environment, RuntimeArgs, connect_engine};

use crate::exit::Exit;
use crate::image::{DEFAULT_BASE, ImageRequest, Made, Narrator, make};
use crate::problem::Problem;
use crate::ui::{Style, Ui};

/// Make the image that sandboxes run in
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ImageCommand {
    Build(ImageArgs),
}

/// Build the image; no container registry is needed where a Debian mirror can be reached
#[derive(Debug, Clone, Args)]
pub(crate) struct ImageArgs {
    /// Base image, a Debian or a relative; what the engine lacks is pulled, else made with mmdebstrap
    #[arg(long, value_name = "IMAGE", default_value = DEFAULT_BASE)]
    base: String,
    /// Name of the image
    #[arg(long, value_name = "IMAGE", env = "FABRICA_IMAGE", default_value = DEFAULT_IMAGE)]
    tag: String,
    /// A Claude Code binary to put into it, instead of the pinned one from npm's registry
    #[arg(long, value_name = "PATH")]
    claude_binary: Option<PathBuf>,
    /// Certificate authorities (PEM) to trust inside, for example a company proxy's; repeatable
    #[arg(long, value_name = "PATH")]
    certificate: Vec<PathBuf>,
    /// Do nothing if the image is there and is made of the same things
    #[arg(long)]
    if_missing: bool,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    data: DataArgs,
}

pub(crate) async fn run(args: &ImageArgs, ui: Ui) -> Result<Exit, Problem> {
    let directories = Directories::resolve(&args.data, &Environment::of_process());
    let request = ImageRequest {
        base: args.base.clone(),
        tag: args.tag.clone(),
        claude: args.claude_binary.clone(),
        certificates: args.certificate.clone(),
        if_missing: args.if_missing,
    };
    let engine = connect_engine(args.runtime.runtime).await?;
    let narrator = Narrator::new(ui);
    let made = make(&request, &engine.runtime, &directories, &narrator).await;
    drop(narrator);
    engine.shutdown().await;
    let made = made?;
    let word = match &made {
        Made::Present(_) => "is there already",
        Made::Built(_) => "is built",
    };
    let size = made.info().size / 1_000_000;
    ui.say(&ui.styled(Style::Green, &format!("image {} {word} ({size} MB)", request.tag)));
    ui.data(&made.info().id);
    Ok(Exit::Success)
}
