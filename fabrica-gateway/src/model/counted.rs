//! Tells the session's sink what an answer used, once, whatever becomes of the answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, Fuse, Peekable};
use futures::{Stream, StreamExt as _};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::reader::Reader;
use crate::access::Session;

/// The same answer, whose use is told to the session's sink: before its end is passed on, so that the sandbox does not
/// ask again before this answer is counted, or else when it breaks off or nobody reads it any longer.
pub(crate) fn counted(
    session: Arc<Session>,
    asked: String,
    headers: &HeaderMap,
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let reader = Reader::of(headers);
    let counted = Counted {
        body: body.boxed().fuse().peekable(),
        // A client that knows the answer's length does not wait for more than that.
        look_ahead: reader.needs_the_end() || headers.contains_key(CONTENT_LENGTH),
        tally: Tally {
            reader: Some(reader),
            asked,
            session,
            runtime: Handle::current(),
        },
    };
    stream::unfold(counted, |mut counted| async move {
        let piece = counted.next().await?;
        Some((piece, counted))
    })
}

struct Counted {
    body: Peekable<Fuse<BoxStream<'static, io::Result<Bytes>>>>,
    /// Whether a piece is passed on only once it is known whether it is the last one.
    look_ahead: bool,
    tally: Tally,
}

impl Counted {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let next = self.body.next().await;
        let over = match &next {
            Some(Ok(piece)) => self.tally.read(piece) || self.look_ahead && self.is_over().await,
            Some(Err(_)) | None => true,
        };
        if over {
            self.tally.settled().await;
        }
        next
    }

    async fn is_over(&mut self) -> bool {
        Pin::new(&mut self.body).peek().await.is_none()
    }
}

/// What is known of an answer, until it is told.
struct Tally {
    reader: Option<Reader>,
    asked: String,
    session: Arc<Session>,
    runtime: Handle,
}

impl Tally {
    /// Reads on; `true` says that the answer is over.
    fn read(&mut self, piece: &[u8]) -> bool {
        self.reader.as_mut().is_some_and(|reader| reader.read(piece))
    }

    /// Tells what was used, in a task of its own: it is told also if nobody waits for the answer any longer.
    fn settle(&mut self) -> Option<JoinHandle<()>> {
        let reader = self.reader.take()?;
        match reader.used(std::mem::take(&mut self.asked)) {
            Ok(used) => {
                let sink = Arc::clone(&self.session.sink);
                let telling = async move { sink.used(used).await };
                Some(self.session.counting.spawn_on(telling, &self.runtime))
            }
            Err(reason) => {
                let session = self.session.fence;
                tracing::warn!(%session, reason, "what an answer of the model used is not known");
                None
            }
        }
    }

    /// The same, and waits for it, unless the attempt's access ends: whoever ends it waits then.
    async fn settled(&mut self) {
        let Some(telling) = self.settle() else { return };
        tokio::select! {
            () = self.session.ended.cancelled() => {}
            told = telling => if let Err(error) = told {
                tracing::error!(session = %self.session.fence, %error, "what an answer of the model used was not counted");
            }
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.settle();
    }
}
