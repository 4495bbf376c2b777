//! The gateway itself: which attempts have access, and their servers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fabrica_core::ids::{Fence, SessionId};
use fabrica_core::ports::{Gateway, GatewayAccess, GatewayEndpoint, GatewayError};
use tokio::net::UnixListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::access::{Services, Session};
use crate::client::{check_address, http_client};
use crate::directory::Sockets;
use crate::error::SetupError;
use crate::listener::CuttableListener;
use crate::memory::BodyMemory;
use crate::options::{GatewayLimits, GatewayOptions};
use crate::routes;

/// How long `close` waits for the connections that it cut.
const CLOSING: Duration = Duration::from_secs(2);

/// The gateway on Unix sockets: one socket, in a directory of its own, for each attempt.
///
/// Dropping it releases all access: connections are cut, no token is called invalid, and the directories stay, so that
/// another process can put its sockets in place for sandboxes that still run. [`close`](Gateway::close) removes them.
#[derive(Debug)]
pub struct UnixGateway {
    sockets: Sockets,
    limits: GatewayLimits,
    services: Arc<Services>,
    open: Mutex<HashMap<SessionId, Open>>,
    /// Every attempt's token is a child of it.
    ended: CancellationToken,
    _end: DropGuard,
}

#[derive(Debug)]
struct Open {
    session: Arc<Session>,
    directory: PathBuf,
    server: JoinHandle<()>,
}

impl UnixGateway {
    /// A gateway that lets nobody in yet. Nothing is made on disk before the first attempt.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the model API's address cannot be used, or the HTTP client cannot be made.
    pub fn new(options: GatewayOptions) -> Result<Self, SetupError> {
        check_address("model API's address", &options.model.base_url)?;
        let exceptions = (options.large_file_hosts.iter())
            .map(|host| host.to_ascii_lowercase())
            .collect();
        let client = http_client(&options.limits, Arc::new(exceptions))?;
        let ended = CancellationToken::new();
        Ok(Self {
            sockets: Sockets {
                parent: options.directory,
                owner: options.owner,
            },
            limits: options.limits,
            services: Arc::new(Services {
                client,
                model: options.model,
                git: options.git,
                signing_key: options.signing_key,
                bodies: BodyMemory::new(options.limits.body_memory),
            }),
            open: Mutex::default(),
            _end: ended.clone().drop_guard(),
            ended,
        })
    }

    async fn listen(&self, directory: &Path) -> Result<UnixListener, GatewayError> {
        let failed = |source| GatewayError {
            action: "listen in",
            directory: directory.to_owned(),
            source,
        };
        let (sockets, leaf) = (self.sockets.clone(), directory.to_owned());
        let listener = tokio::task::spawn_blocking(move || sockets.listen(&leaf))
            .await
            .map_err(|error| failed(std::io::Error::other(error)))??;
        UnixListener::from_std(listener).map_err(failed)
    }

    fn serve(&self, session: Arc<Session>, listener: UnixListener) -> JoinHandle<()> {
        let ended = session.ended.clone();
        let listener = CuttableListener::new(listener, self.limits.connections, ended.clone());
        tokio::spawn(async move {
            let fence = session.fence;
            let server = axum::serve(listener, routes::router(session));
            if let Err(error) = server.with_graceful_shutdown(ended.cancelled_owned()).await {
                tracing::error!(session = %fence, %error, "the gateway's server failed");
            }
        })
    }
}

impl Open {
    /// Refuses the tokens for good and cuts the connections.
    async fn revoke(self) {
        self.session.revoke();
        self.wait().await;
    }

    /// Cuts the connections; the sandbox goes on with whoever listens in the directory next.
    async fn release(self) {
        self.session.release();
        self.wait().await;
    }

    /// Waits for what was cut, and until it is counted what answers under way have used, but not for long.
    async fn wait(self) {
        let Self { session, server, .. } = self;
        let abort = server.abort_handle();
        let over = async {
            let ended = server.await;
            session.counting.close();
            session.counting.wait().await;
            ended
        };
        match tokio::time::timeout(CLOSING, over).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(session = %session.fence, %error, "the gateway's server ended badly");
            }
            Err(_) => abort.abort(),
        }
    }
}

async fn remove(directory: PathBuf) -> Result<(), GatewayError> {
    let named = directory.clone();
    match tokio::task::spawn_blocking(move || Sockets::remove(&directory)).await {
        Ok(removed) => removed,
        Err(error) => Err(GatewayError {
            action: "remove",
            directory: named,
            source: std::io::Error::other(error),
        }),
    }
}

#[async_trait]
impl Gateway for UnixGateway {
    #[tracing::instrument(name = "gateway.access.open", skip_all, fields(session = %access.fence))]
    async fn open(&self, access: GatewayAccess) -> Result<GatewayEndpoint, GatewayError> {
        let mut open = self.open.lock().await;
        let fence = access.fence;
        let directory = self.sockets.leaf(fence);
        if let Some(known) = open.get(&fence.session) {
            if known.session.is_later_than(fence) {
                let source = std::io::Error::other("a later attempt or lease of the session has access");
                return Err(GatewayError {
                    action: "listen in",
                    directory,
                    source,
                });
            }
            if known.session.answers(&access) && !known.server.is_finished() {
                return Ok(GatewayEndpoint { directory });
            }
        }
        let earlier = open.remove(&fence.session);
        let same = match earlier {
            Some(earlier) if earlier.directory != directory => {
                let old = earlier.directory.clone();
                earlier.revoke().await;
                if let Err(error) = remove(old).await {
                    tracing::warn!(%error, "an earlier attempt's directory is left over");
                }
                None
            }
            same => same,
        };
        let listened = self.listen(&directory).await;
        // Only now, so that the sandbox finds the new socket as soon as its connections to the old one are cut.
        if let Some(same) = same {
            same.release().await;
        }
        let listener = listened?;
        let session = Arc::new(Session::new(
            access,
            Arc::clone(&self.services),
            self.ended.child_token(),
            BodyMemory::new(self.limits.session_body_memory),
        ));
        let server = self.serve(Arc::clone(&session), listener);
        open.insert(
            fence.session,
            Open {
                session,
                directory: directory.clone(),
                server,
            },
        );
        Ok(GatewayEndpoint { directory })
    }

    #[tracing::instrument(name = "gateway.access.close", skip_all, fields(session = %fence))]
    async fn close(&self, fence: Fence) -> Result<(), GatewayError> {
        let mut open = self.open.lock().await;
        if let Some(known) = open.remove(&fence.session) {
            let (directory, same) = (
                known.directory.clone(),
                known.session.fence.attempt == fence.attempt,
            );
            if known.session.is_later_than(fence) {
                open.insert(fence.session, known);
                if same {
                    // The directory is the later lease's, too.
                    return Ok(());
                }
            } else {
                known.revoke().await;
                if !same {
                    // An attempt that never had access is closed after an earlier one that still has: both are over.
                    remove(directory).await?;
                }
            }
        }
        remove(self.sockets.leaf(fence)).await
    }

    #[tracing::instrument(name = "gateway.access.release", skip_all, fields(session = %fence))]
    async fn release(&self, fence: Fence) {
        let known = {
            let mut open = self.open.lock().await;
            match open.get(&fence.session) {
                Some(known) if !known.session.is_later_than(fence) => open.remove(&fence.session),
                _ => None,
            }
        };
        // Others need not wait for it: many sessions are released at once when a process hands over.
        if let Some(known) = known {
            known.release().await;
        }
    }
}
