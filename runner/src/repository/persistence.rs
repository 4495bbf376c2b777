//! Changing something on the git host, for as long as there is hope.

use std::time::Duration;

use fabrica_core::failure::Failure;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::preflight::preflight;
use crate::gateway::{Gateway, Service};

/// How long it is tried while nothing presses, counted from when the gateway was away last.
pub(super) const PATIENCE: Duration = Duration::from_mins(10);
/// The pause after the first try; it doubles.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between two tries.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The same if it was the gateway that was away.
pub(super) const AWAY_PAUSE: Duration = Duration::from_millis(200);

/// Tries until it succeeds, or until what went wrong would go wrong again. A gateway that is away is waited for.
pub(crate) async fn persistently<T>(
    gateway: &Gateway,
    attempt: impl AsyncFn() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut started = Instant::now();
    let mut pause = PAUSE;
    loop {
        let disturbances = gateway.disturbances();
        let failure = match attempt().await {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        let away = gateway.disturbances() > disturbances;
        if !failure.retryable && !away {
            return Err(failure);
        }
        warn!(%failure, "it is tried again");
        preflight(gateway, Service::ReceivePack).await?;
        if away {
            started = Instant::now();
            sleep(AWAY_PAUSE).await;
            continue;
        }
        if started.elapsed() > PATIENCE {
            return Err(failure);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
