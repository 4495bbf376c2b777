//! From a port on loopback to the gateway's socket: what the agent and git speak to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::socket::{Connection, Socket};

/// How long a connection waits for a gateway that is being restarted.
const PATIENCE: Duration = Duration::from_mins(1);
/// How many connections there are at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;

/// Forwards every connection to the gateway.
#[derive(Debug)]
pub(crate) struct Forwarder {
    listener: TcpListener,
    socket: Socket,
}

impl Forwarder {
    /// Takes the port.
    pub(crate) async fn bind(address: &str, socket: Socket) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            socket,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Forwards until it is dropped.
    pub(crate) async fn run(self) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            match self.listener.accept().await {
                Ok((client, _)) => {
                    let socket = self.socket.clone();
                    tokio::spawn(async move {
                        if let Err(error) = forward(client, &socket).await {
                            debug!(%error, "a forwarded connection ended");
                        }
                        drop(slot);
                    });
                }
                // Out of file descriptors, say: it passes.
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

async fn forward(mut client: TcpStream, socket: &Socket) -> io::Result<()> {
    let Connection {
        mut stream,
        mut replaced,
    } = connect(socket).await?;
    client.set_nodelay(true)?;
    tokio::select! {
        copied = copy_bidirectional(&mut client, &mut stream) => copied.map(drop),
        // Nobody may answer on the other side any more: the client comes again, through the new socket.
        () = replaced.wait() => Err(io::Error::new(io::ErrorKind::ConnectionReset, "the gateway was replaced")),
    }
}

/// Connects anew for each connection, so that a new socket in the directory is found.
async fn connect(socket: &Socket) -> io::Result<Connection> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        match socket.connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) if started.elapsed() > PATIENCE => return Err(error),
            Err(_) => sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    async fn echo_once(listener: &UnixListener) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    }

    async fn ask(address: SocketAddr) -> Vec<u8> {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_new_socket_in_the_same_place_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("gateway.sock");
        let forwarder = Forwarder::bind("127.0.0.1:0", Socket::new(socket.clone()))
            .await
            .unwrap();
        let address = forwarder.address().unwrap();
        let running = tokio::spawn(forwarder.run());
        for _ in 0..2 {
            // The client comes first and waits for the gateway.
            let client = tokio::spawn(ask(address));
            sleep(Duration::from_millis(60)).await;
            let listener = UnixListener::bind(&socket).unwrap();
            echo_once(&listener).await;
            assert_eq!(client.await.unwrap(), b"ping");
            drop(listener);
            std::fs::remove_file(&socket).unwrap();
        }
        running.abort();
    }

    #[tokio::test]
    async fn a_connection_to_a_frozen_gateway_is_cut_when_another_takes_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.sock");
        // It accepts, as the kernel does for a frozen process, and never answers.
        let _frozen = UnixListener::bind(&path).unwrap();
        let socket = Socket::new(path.clone());
        let forwarder = Forwarder::bind("127.0.0.1:0", socket.clone()).await.unwrap();
        let address = forwarder.address().unwrap();
        let tasks = [tokio::spawn(forwarder.run()), tokio::spawn(socket.watch())];
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        sleep(Duration::from_millis(60)).await;
        let unfinished = directory.path().join("new");
        let listener = UnixListener::bind(&unfinished).unwrap();
        std::fs::rename(&unfinished, &path).unwrap();
        let mut answer = Vec::new();
        let cut = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut answer)).await;
        assert!(cut.unwrap().is_err() || answer.is_empty());
        let client = tokio::spawn(ask(address));
        echo_once(&listener).await;
        assert_eq!(client.await.unwrap(), b"ping");
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
