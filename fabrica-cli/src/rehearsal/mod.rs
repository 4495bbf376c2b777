//! A rehearsal: everything that Fabrica talks to, played by stand-ins on loopback.
//!
//! A scripted Messages API, a stub forge in two dialects (GitHub and Gitea/Forgejo) and a git server
//! over smart HTTP. `fabrica demo` and the end-to-end tests run on the very same stand-ins, so that what
//! the demonstration shows is what the tests have shown to hold. Nothing here reaches beyond
//! `127.0.0.1`, and every secret is the caller's, so that a test can pass canaries and look for them.
//!
//! ```
//! use fabrica_cli::rehearsal::{Rehearsal, RehearsalOptions, scripts};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let directory = tempfile::tempdir()?;
//! let options = RehearsalOptions::new(directory.path(), scripts::sample_job("/workspace"))
//!     .forge_token("the forge token")
//!     .model_key("the model key");
//! let rehearsal = Rehearsal::start(options).await?;
//! assert!(rehearsal.repository_url().ends_with("/acme/sample.git"));
//! rehearsal.shutdown().await;
//! # Ok(())
//! # })
//! # }
//! ```

mod code_host;
mod error;
mod forge;
mod git;
mod git_server;
mod ledger;
mod messages_api;
mod repository;
mod sample;
pub mod scripts;
mod server;
mod stage;

pub use code_host::{CodeHost, CodeHostOptions};
pub use error::RehearsalError;
pub use forge::{ForgeFault, ForgeFlavour, ForgeRequest, PullRequest, PullRequestState, StubForge};
pub use git_server::{Credential, GitOperation, GitRequest, GitServer};
pub use messages_api::{
    ApiOptions, Block, Case, Fault, RecordedRequest, Script, ScriptedMessagesApi, Turn, Usage,
};
pub use repository::{BareRepository, SourceFile, large_file_pointer};
pub use sample::SampleRepository;
pub use stage::{Rehearsal, RehearsalOptions};
