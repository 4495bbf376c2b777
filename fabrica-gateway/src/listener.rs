//! Connections that can be cut: the access of an attempt ends at once, whatever its requests are waiting for.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, future, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream, unix::SocketAddr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long to wait after a failed accept, most likely for a free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket whose connections end with a token, and are bounded in number.
#[derive(Debug)]
pub(crate) struct CuttableListener {
    inner: UnixListener,
    permits: Arc<Semaphore>,
    ended: CancellationToken,
}

impl CuttableListener {
    pub(crate) fn new(inner: UnixListener, connections: usize, ended: CancellationToken) -> Self {
        Self {
            inner,
            permits: Arc::new(Semaphore::new(connections.max(1))),
            ended,
        }
    }
}

impl Listener for CuttableListener {
    type Io = CuttableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                // The semaphore is never closed.
                future::pending::<()>().await;
                continue;
            };
            match self.inner.accept().await {
                Ok((io, address)) => {
                    let ended = Box::pin(self.ended.clone().cancelled_owned());
                    return (
                        CuttableStream {
                            io,
                            ended,
                            _permit: permit,
                        },
                        address,
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "the gateway cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A connection that fails to read and to write once its token is cancelled.
pub(crate) struct CuttableStream {
    io: UnixStream,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

impl CuttableStream {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(context) {
            Poll::Ready(()) => Err(cut()),
            Poll::Pending => Ok(()),
        }
    }
}

impl fmt::Debug for CuttableStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CuttableStream")
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for CuttableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for CuttableStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// The same stream, which fails once the token is cancelled, so that a cut answer never looks complete.
pub(crate) fn until_ended<S, E>(
    stream: S,
    ended: &CancellationToken,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let last = ended.clone();
    stream
        .map_err(io::Error::other)
        .take_until(ended.clone().cancelled_owned())
        .chain(
            stream::once(future::ready(()))
                .filter_map(move |()| future::ready(last.is_cancelled().then(|| Err(cut())))),
        )
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the attempt's access has ended")
}
