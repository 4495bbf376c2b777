//! What the parts of the orchestration share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::broadcast;

use super::options::Options;
use super::pace::Pace;
use crate::clock::{Clock, Entropy, IdSource};
use crate::message::{MessageContent, MessageKind, NewMessage};
use crate::ports::forge::Forge;
use crate::ports::gateway::Gateway;
use crate::ports::presence::Presence;
use crate::ports::runtime::{ContainerChange, ContainerRuntime};
use crate::ports::store::{Claimed, Store};
use crate::protocol::Usage;

/// What the parts of the orchestration share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) store: Arc<dyn Store>,
    pub(super) runtime: Arc<dyn ContainerRuntime>,
    pub(super) gateway: Arc<dyn Gateway>,
    pub(super) forge: Arc<dyn Forge>,
    pub(super) presence: Arc<dyn Presence>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) options: Options,
    /// What the engine reports, for the attempts that run here.
    pub(super) changes: broadcast::Sender<ContainerChange>,
    /// When the next sandbox may start.
    pub(super) pace: Pace,
    /// Whether the engine did not answer when it was asked last: nothing is claimed then.
    pub(super) engine_away: AtomicBool,
}

impl Inner {
    pub(super) fn ids(&self) -> IdSource<'_> {
        IdSource::new(&*self.clock, &*self.entropy)
    }

    /// What all attempts of a session used, the present one included.
    pub(super) async fn used(&self, claimed: &Claimed) -> Usage {
        match self.store.session(claimed.session.id).await {
            Ok(Some(session)) => session.usage,
            // What is told is less exact then.
            Ok(None) | Err(_) => claimed.session.usage,
        }
    }

    pub(super) fn message(&self, kind: MessageKind, content: MessageContent) -> NewMessage {
        NewMessage {
            id: self.ids().message(),
            kind,
            content,
        }
    }
}
