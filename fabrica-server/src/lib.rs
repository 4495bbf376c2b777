//! The Fabrica service: the HTTP API over an [`Orchestrator`](fabrica_core::orchestrator::Orchestrator).
//!
//! [`router`] is the API alone, for a test or for another program to embed; [`serve`] adds connections, the worker and
//! a graceful stop. Every route but `GET /health` wants a bearer token, and every request has to name a host that this
//! server answers for, so that a web page in the operator's browser cannot talk to it. TLS is the job of a proxy in
//! front: the server speaks plain HTTP, by default on loopback only.
//!
//! | Route | Answer |
//! |---|---|
//! | `GET /health` | `200`, or `503` if the database does not answer |
//! | `POST /run` | `202` with the session of the plan in the body |
//! | `GET /sessions` | the sessions, newest first |
//! | `GET /sessions/{id}` | one session |
//! | `GET /sessions/{id}/messages` | its messages after a sequence number |
//! | `POST /sessions/{id}/cancel` | `202` once its end is asked for |
//!
//! Errors are problem documents (RFC 9457) with a stable `code`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use fabrica_core::ids::WorkerId;
//! use fabrica_core::orchestrator::{Options, Orchestrator};
//! use fabrica_core::secrets::TokenHash;
//! use fabrica_core::testing::{FakeSandbox, FakeStore};
//! use fabrica_server::{AppState, HostPolicy, router};
//!
//! let sandbox = Arc::new(FakeSandbox::that_completes());
//! let options = Options::new(WorkerId::new("example"), "/usr/lib/fabrica/fabrica-runner");
//! let orchestrator =
//!     Orchestrator::builder(Arc::new(FakeStore::default()), sandbox.clone(), sandbox, options).build();
//! let state = AppState::new(orchestrator, TokenHash::of("a token of 16+ chars"), HostPolicy::loopback());
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//! tokio::spawn(axum::serve(listener, router(state)).into_future());
//!
//! # use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! let mut client = tokio::net::TcpStream::connect(address).await?;
//! client.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
//! let mut answer = String::new();
//! client.read_to_string(&mut answer).await?;
//! assert!(answer.contains(r#"{"status":"ok","#));
//! # Ok(()) }
//! ```

mod body;
mod connection;
mod error;
mod extract;
mod guard;
mod lifecycle;
mod pace;
mod page;
mod problem;
mod router;
mod routes;
mod state;
mod token;
mod trace;
mod view;

pub use connection::BoundedListener;
pub use error::ServerError;
pub use guard::HostPolicy;
pub use lifecycle::{Drain, Service, serve};
pub use problem::Problem;
pub use router::router;
pub use state::AppState;
pub use token::{ApiToken, api_token};
