//! What sandboxes send and the gateway must read as a whole: how much of it is in memory at once.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use fabrica_core::ports::store::MAX_ARTIFACT_BYTES;
use futures::StreamExt as _;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::Session;
use crate::refusal::{Refusal, TRY_AGAIN};

/// Memory is counted in pieces of this size.
const PIECE: usize = 1024;
/// How long a sandbox may be silent in the middle of a body: one that is frozen gives its memory back to others.
const PATIENCE: Duration = Duration::from_secs(30);

/// A budget of memory. Who wants some waits for it, in order.
#[derive(Debug, Clone)]
pub(crate) struct BodyMemory(Arc<Semaphore>);

/// A body, and the memory that it is given.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) content: Vec<u8>,
    _reserved: [OwnedSemaphorePermit; 2],
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It is too long, or broke off.
    Unfit,
    /// Nothing came for too long.
    Stalled,
}

impl BodyMemory {
    /// A budget that has room at least for one of whatever may come.
    pub(crate) fn new(bytes: usize) -> Self {
        let pieces = bytes.max(4 * MAX_ARTIFACT_BYTES) / PIECE;
        Self(Arc::new(Semaphore::new(pieces)))
    }

    async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Unread> {
        let pieces = u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.0).acquire_many_owned(pieces).await;
        // The semaphore is never closed.
        permit.map_err(|_| Unread::Unfit)
    }
}

/// Reads a body of at most `limit` bytes, once there is memory for `times` its size. All of it is reserved before the
/// first byte is read, so that bodies never wait for one another half read.
pub(crate) async fn hold(
    session: &Session,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    times: usize,
) -> Result<Held, Unread> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok())
        .map_or(limit, |length| length.min(limit));
    // First the sandbox's own: while it waits for that, it takes nothing from the others.
    let own = session.bodies.reserve(announced * times).await?;
    let shared = session.services.bodies.reserve(announced * times).await?;
    let mut content = Vec::new();
    let mut pieces = body.into_data_stream();
    loop {
        match tokio::time::timeout(PATIENCE, pieces.next()).await {
            Err(_) => return Err(Unread::Stalled),
            Ok(None) => break,
            Ok(Some(Ok(piece))) if content.len() + piece.len() <= limit => {
                if content.capacity() == 0 {
                    // Once, so that it does not grow beyond what was reserved.
                    content.reserve_exact(announced.max(piece.len()));
                }
                content.extend_from_slice(&piece);
            }
            Ok(Some(_)) => return Err(Unread::Unfit),
        }
    }
    Ok(Held {
        content,
        _reserved: [own, shared],
    })
}

/// The answer to a sandbox that was silent for too long.
pub(crate) fn stalled() -> Refusal {
    Refusal {
        retry_after: Some(TRY_AGAIN),
        ..Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "session.body_stalled",
            "the body did not arrive in time; send it again",
        )
    }
}
