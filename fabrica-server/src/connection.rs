//! Connections: bounded in number, and none is held open by a client that sends or takes nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use crate::pace::Pace;

/// How many connections are served at once; more wait to be accepted.
const CONNECTIONS: usize = 512;
/// How long a client may take to send the head of a request, from the connection's beginning or the last answer on; and how
/// long it may take nothing of an answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How much of an answer the kernel keeps for a client that is slow to take it; of itself it would keep megabytes. It takes
/// more once about a third of that is free again: a client that is slower takes nothing, as far as can be seen here.
const SEND_BUFFER: usize = 128 * 1024;
/// How long a client that was answered before it had sent everything is listened to, so that it reads the answer
/// instead of a broken connection.
const LINGER: Duration = Duration::from_secs(1);
/// How long to wait after a failed accept, most likely for a free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A TCP listener whose connections are bounded in number and in idleness.
#[derive(Debug)]
pub struct BoundedListener {
    inner: TcpListener,
    permits: Arc<Semaphore>,
    patience: Duration,
}

impl BoundedListener {
    /// Bounds a listener.
    pub fn new(inner: TcpListener) -> Self {
        Self::bounded_by(inner, CONNECTIONS, PATIENCE)
    }

    fn bounded_by(inner: TcpListener, connections: usize, patience: Duration) -> Self {
        // Its connections inherit it. Otherwise the kernel may keep megabytes for each.
        if let Err(error) = SockRef::from(&inner).set_send_buffer_size(SEND_BUFFER) {
            tracing::debug!(%error, "SO_SNDBUF cannot be set");
        }
        Self {
            inner,
            permits: Arc::new(Semaphore::new(connections)),
            patience,
        }
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let Ok(permit) = self.permits.clone().acquire_owned().await else {
                // The semaphore is never closed.
                std::future::pending::<()>().await;
                continue;
            };
            match self.inner.accept().await {
                Ok((io, address)) => return (Connection::new(io, permit, self.patience), address),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

impl Connected<IncomingStream<'_, BoundedListener>> for Pace {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        stream.io().pace.clone()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    io: TcpStream,
    pace: Pace,
    patience: Duration,
    /// When the next head has to be there, and after how many requests that was set.
    head: (Pin<Box<Sleep>>, usize),
    /// When something of the answer has to be taken.
    write: Option<Pin<Box<Sleep>>>,
    /// When to stop listening to a client that was answered.
    linger: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(io: TcpStream, permit: OwnedSemaphorePermit, patience: Duration) -> Self {
        // Answers are small: without this each could wait for an acknowledgement.
        if let Err(error) = io.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
        let head = (Box::pin(sleep(patience)), 0);
        Self {
            io,
            pace: Pace::default(),
            patience,
            head,
            write: None,
            linger: None,
            _permit: permit,
        }
    }

    /// Fails once the head of a request is overdue.
    fn check_head(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.pace.is_handling() {
            return Ok(());
        }
        let (deadline, set_after) = &mut self.head;
        let handled = self.pace.handled();
        if handled != *set_after {
            *set_after = handled;
            deadline.as_mut().reset(Instant::now() + self.patience);
        }
        overdue(deadline.as_mut().poll(context))
    }

    fn check_write<T>(
        &mut self,
        context: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.write = None;
            // A long answer is still being taken: the next request is not due yet.
            self.head.0.as_mut().reset(Instant::now() + self.patience);
            return progress;
        }
        let patience = self.patience;
        let deadline = self.write.get_or_insert_with(|| Box::pin(sleep(patience)));
        overdue(deadline.as_mut().poll(context))?;
        Poll::Pending
    }
}

fn overdue(deadline: Poll<()>) -> io::Result<()> {
    match deadline {
        Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
        Poll::Pending => Ok(()),
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_head(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.io).poll_write(context, data);
        self.check_write(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.io).poll_write_vectored(context, data);
        self.check_write(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // After an answer nobody has to read again until something comes in, so the deadline is armed here too.
        self.check_head(context)?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(context))?;
        }
        let this = &mut *self;
        let deadline = this.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut scrap = [0_u8; 8 * 1024];
        loop {
            // Closing with unread data would reset the connection, and the client would lose the answer.
            if deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut scrap);
            match ready!(Pin::new(&mut this.io).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use bytes::Bytes;
    use futures::{StreamExt as _, stream};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpSocket;
    use tokio::sync::oneshot;

    use super::*;
    use crate::pace;

    const PATIENCE: Duration = Duration::from_millis(300);

    async fn start(connections: usize) -> SocketAddr {
        let slow = get(|| async {
            sleep(2 * PATIENCE).await;
            "slow"
        });
        let router = Router::new().route("/slow", slow).layer(from_fn(pace::bound));
        serve(router, connections).await
    }

    async fn serve(router: Router, connections: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = BoundedListener::bounded_by(listener, connections, PATIENCE);
        let service = router.into_make_service_with_connect_info::<Pace>();
        tokio::spawn(axum::serve(listener, service).into_future());
        address
    }

    #[tokio::test]
    async fn a_head_that_comes_byte_by_byte_is_given_up() {
        let mut client = TcpStream::connect(start(8).await).await.unwrap();
        let dribble = async {
            for byte in b"GET /slow HTTP/1.1\r\nHost: localhost\r\nX-Long: 12345678901234567890"
                .iter()
                .cycle()
            {
                if client.write_all(&[*byte]).await.is_err() {
                    return;
                }
                sleep(PATIENCE / 10).await;
            }
        };
        tokio::time::timeout(10 * PATIENCE, dribble)
            .await
            .expect("the server hangs up");
    }

    #[tokio::test]
    async fn handling_a_request_may_take_longer_than_sending_it() {
        let mut client = TcpStream::connect(start(8).await).await.unwrap();
        client
            .write_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        // The idle connection is closed after the answer, which ends the reading.
        let read = tokio::time::timeout(20 * PATIENCE, client.read_to_string(&mut answer)).await;
        read.expect("the server hangs up").unwrap();
        assert!(answer.ends_with("slow"), "{answer}");
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_wait_for_their_turn() {
        let address = start(1).await;
        let _idle = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second
            .write_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        second.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("slow"), "{answer}");
    }

    const LENGTH: usize = 1024 * 1024;

    /// A client that has asked for an answer of that length and keeps so much of it at most, and what hears that the server
    /// gives it up.
    async fn asks_for_much(length: usize, buffer: u32) -> (TcpStream, oneshot::Receiver<()>) {
        let (held, given_up) = oneshot::channel();
        let held = Arc::new(Mutex::new(Some(held)));
        let long = get(move || {
            let held = held.lock().unwrap().take();
            let chunks = stream::repeat(Bytes::from_static(&[b'x'; 1024])).take(length / 1024);
            let body = chunks.map(move |chunk| {
                let _ = &held;
                Ok::<_, Infallible>(chunk)
            });
            std::future::ready(Body::from_stream(body))
        });
        let address = serve(Router::new().route("/long", long), 8).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(buffer).unwrap();
        let mut client = socket.connect(address).await.unwrap();
        client
            .write_all(b"GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        (client, given_up)
    }

    /// Takes so much of an answer ten times in the server's patience, until the server ends it.
    async fn take(client: &mut TcpStream, each: usize) -> usize {
        let mut taken = 0;
        let mut scrap = vec![0; each];
        while let Ok(more) = client.read(&mut scrap).await
            && more > 0
        {
            taken += more;
            sleep(PATIENCE / 10).await;
        }
        taken
    }

    #[tokio::test]
    async fn an_answer_that_is_taken_byte_by_byte_is_given_up() {
        // Little by little: it is never idle.
        let (mut client, given_up) = asks_for_much(usize::MAX, 4 * 1024).await;
        tokio::select! {
            taken = take(&mut client, 512) => panic!("only what the kernel holds is to come, not {taken} bytes"),
            ended = tokio::time::timeout(30 * PATIENCE, given_up) => ended.expect("the answer is given up").unwrap_err(),
        };
    }

    #[tokio::test]
    async fn an_answer_that_is_taken_slowly_comes_whole() {
        let (mut client, _given_up) = asks_for_much(LENGTH, 32 * 1024).await;
        let taken = take(&mut client, 64 * 1024).await;
        assert!(taken > LENGTH, "{taken}");
    }
}
