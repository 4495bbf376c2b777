//! How long a request may take, and whether its connection is waiting for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::Response;
use tokio::time::timeout;

use crate::problem::Problem;

/// How long any request may take. More than a body may take to arrive.
const REQUEST_PATIENCE: Duration = Duration::from_mins(1);

/// What the connection and the requests on it tell one another.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    handling: AtomicUsize,
    handled: AtomicUsize,
}

impl Pace {
    /// Whether a request is being handled, so that nothing has to come from the client.
    pub(crate) fn is_handling(&self) -> bool {
        self.0.handling.load(Ordering::Acquire) > 0
    }

    /// How many requests were handled.
    pub(crate) fn handled(&self) -> usize {
        self.0.handled.load(Ordering::Acquire)
    }

    pub(crate) fn begin(&self) -> Handling {
        self.0.handling.fetch_add(1, Ordering::AcqRel);
        Handling(self.clone())
    }
}

/// A request that is being handled.
#[derive(Debug)]
pub(crate) struct Handling(Pace);

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.0.handled.fetch_add(1, Ordering::AcqRel);
        self.0.0.handling.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Bounds the time of a request.
pub(crate) async fn bound(request: Request, next: Next) -> Result<Response, Problem> {
    let pace = request
        .extensions()
        .get::<ConnectInfo<Pace>>()
        .map(|ConnectInfo(pace)| pace.begin());
    let answer = timeout(REQUEST_PATIENCE, next.run(request)).await;
    drop(pace);
    answer.map_err(|_| Problem::new("server.timeout", "the request was not answered in time"))
}
