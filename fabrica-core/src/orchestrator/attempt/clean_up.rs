//! Leaving nothing behind.

use std::time::Duration;

use tokio::time::sleep;

use super::Attempt;
use crate::ids::{AttemptNumber, Fence};
use crate::ports::runtime::{ContainerName, RuntimeError};

use super::super::inner::Inner;

/// What stays of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing.
    Nothing,
    /// Its container, stopped, for somebody to look at.
    Container,
}

impl Attempt {
    /// An earlier attempt's container must not work beside this one.
    pub(super) async fn remove_earlier(&self) {
        let fence = self.fence();
        for number in 1..fence.attempt.get() {
            let earlier = Fence {
                attempt: AttemptNumber::new(number),
                ..fence
            };
            self.inner.clean_up(earlier, Rest::Nothing).await;
        }
    }

    /// Ends access, container and volume of this attempt, if it had some.
    pub(super) async fn clean_up(&self, worked: bool, rest: Rest) {
        if worked || self.claimed.resumed.is_some() {
            self.inner.clean_up(self.fence(), rest).await;
        } else {
            // The lost attempt that did the work may have left something.
            self.remove_earlier().await;
        }
    }
}

impl Inner {
    /// Removes container, volume, socket and tokens of an attempt. What an engine that does not answer keeps is removed by
    /// the reconciliation later.
    pub(super) async fn clean_up(&self, fence: Fence, rest: Rest) {
        if let Err(error) = self.gateway.close(fence).await {
            tracing::error!(%error, %fence, "the gateway's access could not be closed");
        }
        let name = ContainerName::of(fence);
        let mut delay = Duration::from_millis(200);
        for _ in 0..5 {
            match self.end_container(&name, rest).await {
                Ok(()) => return,
                Err(error) if error.retryable() => {
                    tracing::warn!(%error, container = %name, "the container is not removed yet");
                    sleep(delay).await;
                    delay *= 2;
                }
                Err(error) => {
                    tracing::error!(%error, container = %name, "the container could not be removed: remove it by hand");
                    return;
                }
            }
        }
        tracing::error!(container = %name, "the engine does not answer: the container is removed once it does");
    }

    async fn end_container(&self, name: &ContainerName, rest: Rest) -> Result<(), RuntimeError> {
        match rest {
            Rest::Nothing => self.runtime.remove(name).await,
            Rest::Container => self.runtime.stop(name, self.options.stop_grace).await,
        }
    }
}
