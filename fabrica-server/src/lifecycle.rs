//! A server from its start to its graceful end.

use std::pin::pin;
use std::time::Duration;

use fabrica_core::orchestrator::Shutdown;
use fabrica_core::ports::store::StoreError;
use futures::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::connection::BoundedListener;
use crate::error::ServerError;
use crate::pace::Pace;
use crate::router::router;
use crate::state::AppState;

/// How long requests under way may take once the worker has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How long an aborted worker may take beyond the grace of its sandboxes.
const CLEAN_UP: Duration = Duration::from_secs(15);

/// A server that is ready to start.
#[derive(Debug)]
pub struct Service {
    /// Where requests come in.
    pub listener: TcpListener,
    /// What answers them; its orchestrator also works.
    pub state: AppState,
    /// How long running sessions may go on after the first request to stop.
    pub drain_timeout: Duration,
}

/// Serves requests and works on sessions until `stop` yields. The first item asks for a graceful end: no more
/// connections and sessions are taken, and what runs may end by itself within the drain timeout. After that, or at the
/// second item, running sessions are given back to the queue.
///
/// # Errors
///
/// [`ServerError`] if the worker or the HTTP side ends without being asked to.
pub async fn serve(service: Service, stop: impl Stream<Item = ()> + Send) -> Result<(), ServerError> {
    let Service {
        listener,
        state,
        drain_timeout,
    } = service;
    let orchestrator = state.orchestrator.clone();
    let patience = orchestrator.options().stop_grace + CLEAN_UP;
    let shutdown = Shutdown::default();
    let closing = CancellationToken::new();
    // Whatever way this function is left, what it started is told to end.
    let _abort = shutdown.abort.clone().drop_guard();
    let _close = closing.clone().drop_guard();

    let worker = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { orchestrator.run(shutdown).await }
    });
    let api = router(state).into_make_service_with_connect_info::<Pace>();
    let api = axum::serve(BoundedListener::new(listener), api)
        .with_graceful_shutdown(closing.clone().cancelled_owned());
    let mut parts = Parts {
        worker,
        http: tokio::spawn(api.into_future()),
    };

    let mut stop = pin!(stop.fuse());
    tokio::select! {
        Some(()) = stop.next() => {}
        ended = &mut parts.worker => return Err(worker_ended(ended)),
        ended = &mut parts.http => {
            shutdown.abort.cancel();
            // The sessions go back to the queue first; the error that matters is the one of the HTTP side.
            let _ = timeout(patience, &mut parts.worker).await;
            return Err(http_ended(ended));
        }
    }
    tracing::info!("stopping: no more sessions are taken; those that run may end by themselves");
    closing.cancel();
    shutdown.drain.cancel();
    tokio::select! {
        ended = &mut parts.worker => return parts.finish(ended).await,
        Some(()) = stop.next() => tracing::warn!("asked again: running sessions go back to the queue"),
        () = tokio::time::sleep(drain_timeout) => tracing::warn!("running sessions go back to the queue"),
    }
    shutdown.abort.cancel();
    if let Ok(ended) = timeout(patience, &mut parts.worker).await {
        return parts.finish(ended).await;
    }
    parts.worker.abort();
    let reason = "it did not end in time; its sessions are taken up when their leases run out";
    Err(ServerError::Worker(reason.into()))
}

/// What runs beside the one who waits for a signal.
struct Parts {
    worker: JoinHandle<Result<(), StoreError>>,
    http: JoinHandle<std::io::Result<()>>,
}

impl Parts {
    /// Lets the last answers out after the worker ended.
    async fn finish(mut self, worker: Result<Result<(), StoreError>, JoinError>) -> Result<(), ServerError> {
        let http = timeout(LAST_ANSWERS, &mut self.http).await;
        if http.is_err() {
            tracing::warn!("connections are still open; they are cut");
            self.http.abort();
        }
        match worker {
            Ok(Ok(())) => Ok(()),
            failed => Err(worker_ended(failed)),
        }
    }
}

fn worker_ended(ended: Result<Result<(), StoreError>, JoinError>) -> ServerError {
    match ended {
        Ok(Ok(())) => ServerError::Worker("nobody asked it to".into()),
        Ok(Err(error)) => ServerError::Store(error),
        Err(error) => ServerError::Worker(error.to_string()),
    }
}

fn http_ended(ended: Result<std::io::Result<()>, JoinError>) -> ServerError {
    let reason = match ended {
        Ok(Ok(())) => "nobody asked it to".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    ServerError::Http(reason)
}
