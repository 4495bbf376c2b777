//! One HTTP server on loopback, owned by whoever holds it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::Router;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::error::RehearsalError;

/// How long answers that are under way may take after the stop; handlers that wait end at once.
const GRACE: Duration = Duration::from_secs(2);

/// A server that listens until it is shut down or dropped.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on a free port of 127.0.0.1; `build` makes the routes from its base URL and stop signal.
    pub(super) async fn start(
        build: impl FnOnce(&str, CancellationToken) -> Router,
    ) -> Result<Self, RehearsalError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(RehearsalError::Listen)?;
        let address = listener.local_addr().map_err(RehearsalError::Listen)?;
        let stop = CancellationToken::new();
        let router = build(&format!("http://{address}"), stop.clone());
        let signal = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(signal).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a rehearsal server ended"
                );
            }
        });
        Ok(Self {
            address,
            stop,
            task: Some(task),
        })
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub(super) fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops listening, closes idle connections and waits for the server's end.
    pub(super) async fn shutdown(mut self) {
        self.stop.cancel();
        let Some(mut task) = self.task.take() else { return };
        if tokio::time::timeout(GRACE, &mut task).await.is_err() {
            task.abort();
            // Only the abort itself can be reported here.
            let _ = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
