//! The gateway: the sandbox's only way out, and the forges.
//!
//! A sandbox has no network. Its attempt gets a directory with one Unix socket, [`UnixGateway`] listens there, and
//! whatever the sandbox wants from outside goes through it: its reports to the orchestrator, the model API, git. The
//! sandbox holds two tokens that are worth nothing elsewhere and end with the attempt; the gateway takes them away and
//! adds the real credentials on the way out. Requests and answers are streamed, never logged.
//!
//! ```
//! use std::collections::BTreeSet;
//!
//! use fabrica_core::ports::Gateway;
//! use fabrica_gateway::{
//!     GatewayLimits, GatewayOptions, GitCredential, GitCredentials, ModelCredential, ModelUpstream, UnixGateway,
//! };
//! use secrecy::SecretString;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let gateway = UnixGateway::new(GatewayOptions {
//!     directory: "/run/fabrica/gateway".into(),
//!     owner: None,
//!     model: ModelUpstream {
//!         base_url: "https://api.anthropic.com".parse()?,
//!         credential: ModelCredential::ApiKey(SecretString::from("the operator's key")),
//!     },
//!     git: GitCredentials::new()
//!         .with("github.com", GitCredential::token(SecretString::from("the operator's token"))),
//!     large_file_hosts: BTreeSet::new(),
//!     signing_key: None,
//!     limits: GatewayLimits::default(),
//! })?;
//! // The orchestrator opens it for each attempt, and closes it afterwards.
//! let _port: &dyn Gateway = &gateway;
//! # Ok(())
//! # }
//! ```
//!
//! # Routes
//!
//! | route | token | |
//! |---|---|---|
//! | `GET /session/job` | runner | the [`Job`](fabrica_core::protocol::Job) |
//! | `POST /session/events` | runner | newline-delimited [`Envelope`](fabrica_core::protocol::Envelope)s |
//! | `PUT`, `GET /session/artifacts/{name}` | runner | a file of the session's |
//! | `POST /model/v1/messages`, `…/count_tokens` | agent | the model API |
//! | `/git/repository.git`, fetching | either | the plan's repository |
//! | `/git/submodules/1.git` and so on, fetching | either | the plan's submodules; pushes are refused |
//! | `/git/….git/info/lfs`, fetching | either | what the plan's repository and its submodules keep in Git LFS |
//! | `/git/repository.git`, pushing | runner | the session's branch and `refs/fabrica/<session id>/…` |
//! | `/git/repository.git/info/lfs`, uploading | runner | what those commits keep in Git LFS |
//! | `POST /git/signature` | either | the signature of a commit by the session's committer |
//!
//! A token is shown as a bearer, as `x-api-key`, or as the password of Basic authentication. Every refusal names its
//! stable code in the header `x-fabrica-code`; `/session` and `/model` answer with a problem document, `/git` with text
//! that git prints.
//!
//! # Takeover
//!
//! Several processes may serve one sandbox, one after another: each puts its own socket into the attempt's directory. A
//! process answers only while its [`SessionSink`](fabrica_core::ports::SessionSink) knows that the lease is held, and
//! with status 503 otherwise, so that the sandbox comes again, most likely to another socket. Only the end of the
//! attempt itself is ever told in a way that makes the runner stop. Before a push leaves, the sink is asked whether the
//! attempt is still the session's current one, and once more before its last piece if the push takes long. It is asked
//! before every signature, too.
//!
//! # Pull requests
//!
//! [`forges`] opens them, outside of every sandbox.

mod access;
mod client;
mod directory;
mod error;
pub mod forges;
mod gateway;
mod git;
mod headers;
mod listener;
mod memory;
mod model;
mod options;
mod public;
mod refusal;
mod routes;
mod signing;

pub use error::SetupError;
pub use gateway::UnixGateway;
pub use options::{
    GatewayLimits, GatewayOptions, GitCredential, GitCredentials, ModelCredential, ModelUpstream,
};
pub use signing::{SigningKey, SigningKeyError};
