//! The gateway's process as a client sees it: it serves, it freezes, or it is dead.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// One process that serves the session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Process {
    frozen: Arc<AtomicBool>,
    dead: CancellationToken,
}

impl Process {
    /// From now on nothing is read, written or accepted; the kernel still lets clients connect.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    /// Every connection breaks, and nobody listens.
    pub(crate) fn kill(&self) {
        self.dead.cancel();
    }

    /// Listens in a new socket in the place of whatever is there.
    pub(crate) fn listen(&self, socket: &Path) -> MortalListener {
        let unfinished = socket.with_extension("new");
        let inner = UnixListener::bind(&unfinished).unwrap();
        // The runner may be another user.
        std::fs::set_permissions(&unfinished, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        std::fs::rename(&unfinished, socket).unwrap();
        MortalListener {
            inner,
            process: self.clone(),
        }
    }
}

/// A socket that shares the fate of its process.
pub(crate) struct MortalListener {
    inner: UnixListener,
    process: Process,
}

impl Listener for MortalListener {
    type Io = MortalStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (io, address) = self.inner.accept().await.unwrap();
        if self.process.frozen.load(Ordering::SeqCst) {
            // It holds the connection that came too late.
            std::future::pending::<()>().await;
        }
        let stream = MortalStream {
            io,
            frozen: Arc::clone(&self.process.frozen),
            dead: Box::pin(self.process.dead.clone().cancelled_owned()),
        };
        (stream, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

pub(crate) struct MortalStream {
    io: UnixStream,
    frozen: Arc<AtomicBool>,
    dead: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl MortalStream {
    fn alive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.dead.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.frozen.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for MortalStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.alive(context))?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for MortalStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.alive(context))?;
        Pin::new(&mut self.io).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.alive(context))?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.alive(context))?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
