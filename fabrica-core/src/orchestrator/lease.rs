//! What a worker knows of its leases without asking.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::inner::Inner;
use crate::ids::Fence;

/// One lease, as its worker knows it: held until a moment that lies before the one in the database, since it is counted
/// from before the question. The clock also runs while the process is frozen.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) fence: Fence,
    until: Mutex<Instant>,
    /// The lease is lost: another worker may own the session.
    pub(super) lost: CancellationToken,
}

impl Lease {
    pub(super) fn new(fence: Fence, until: Instant) -> Self {
        Self {
            fence,
            until: Mutex::new(until),
            lost: CancellationToken::new(),
        }
    }

    /// Whether it is held for certain at this moment.
    pub(super) fn is_held(&self) -> bool {
        !self.lost.is_cancelled()
            && Instant::now() < *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn extend(&self, until: Instant) {
        let mut known = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *known = (*known).max(until);
    }
}

impl Inner {
    /// Makes sure in the database that the lease is held, and renews it, before something is done that cannot be taken
    /// back: a push, a kill, a pull request. While the database is away nobody can take the session over, so this waits
    /// for it.
    pub(super) async fn confirm(&self, lease: &Lease) -> bool {
        const LONGEST: Duration = Duration::from_secs(2);
        let mut pause = Duration::from_millis(100);
        while !lease.lost.is_cancelled() {
            let asked = Instant::now();
            let options = &self.options;
            match self
                .store
                .renew_leases(&options.worker, &[lease.fence], options.lease)
                .await
            {
                Ok(held) if held.contains(&lease.fence) => {
                    lease.extend(asked + options.lease);
                    return true;
                }
                Ok(_) => lease.lost.cancel(),
                Err(error) => {
                    tracing::warn!(%error, fence = %lease.fence, "the lease cannot be confirmed yet");
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = lease.lost.cancelled() => {}
                    }
                    pause = (pause * 2).min(LONGEST);
                }
            }
        }
        false
    }
}
