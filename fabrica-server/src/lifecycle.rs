//! A server from its start to its graceful end.

use std::pin::pin;
use std::time::Duration;

use fabrica_core::orchestrator::Shutdown;
use fabrica_core::ports::store::StoreError;
use futures::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::connection::BoundedListener;
use crate::error::ServerError;
use crate::pace::Pace;
use crate::router::router;
use crate::state::AppState;

/// How long the whole process may take to end once its sessions are to be handed over.
const LAST_ANSWERS: Duration = Duration::from_secs(8);

/// What the first request to stop does with the sessions that run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drain {
    /// Their sandboxes go on, and another process takes them over.
    #[default]
    Handover,
    /// They are waited for.
    Finish,
}

/// A server that is ready to start.
#[derive(Debug)]
pub struct Service {
    /// Where requests come in.
    pub listener: TcpListener,
    /// What answers them; its orchestrator also works.
    pub state: AppState,
    /// What the first request to stop does with running sessions.
    pub drain: Drain,
}

/// Serves requests and works on sessions until `stop` yields. The first item asks for a graceful end: no more connections
/// and sessions are taken; what runs is handed over, or waited for, as [`Service::drain`] says. A second item hands over.
/// Handing over takes less than ten seconds: sandboxes are left running, for the next process that works on the same
/// database and the same sockets' directory.
///
/// # Errors
///
/// [`ServerError`] if the worker or the HTTP side ends without being asked to.
pub async fn serve(service: Service, stop: impl Stream<Item = ()> + Send) -> Result<(), ServerError> {
    let Service {
        listener,
        state,
        drain,
    } = service;
    let orchestrator = state.orchestrator.clone();
    let shutdown = Shutdown::default();
    let closing = CancellationToken::new();
    // Whatever way this function is left, what it started is told to end.
    let _handover = shutdown.handover.clone().drop_guard();
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
            shutdown.handover.cancel();
            // The sessions are handed over first; the error that matters is the one of the HTTP side.
            let _ = timeout(LAST_ANSWERS, &mut parts.worker).await;
            return Err(http_ended(ended));
        }
    }
    closing.cancel();
    shutdown.drain.cancel();
    if drain == Drain::Finish {
        tracing::info!("stopping: no more sessions are taken; those that run are waited for");
        tokio::select! {
            ended = &mut parts.worker => return parts.finish(ended, Instant::now() + LAST_ANSWERS).await,
            Some(()) = stop.next() => tracing::warn!("asked again"),
        }
    }
    tracing::info!("stopping: sessions that run are handed over");
    let deadline = Instant::now() + LAST_ANSWERS;
    shutdown.handover.cancel();
    if let Ok(ended) = timeout_at(deadline, &mut parts.worker).await {
        return parts.finish(ended, deadline).await;
    }
    parts.worker.abort();
    let reason = "it did not end in time; its sessions are taken over when their leases run out";
    Err(ServerError::Worker(reason.into()))
}

/// What runs beside the one who waits for a signal.
struct Parts {
    worker: JoinHandle<Result<(), StoreError>>,
    http: JoinHandle<std::io::Result<()>>,
}

impl Parts {
    /// Lets the last answers out after the worker ended.
    async fn finish(
        mut self,
        worker: Result<Result<(), StoreError>, JoinError>,
        deadline: Instant,
    ) -> Result<(), ServerError> {
        let http = timeout_at(deadline, &mut self.http).await;
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
