//! Staggered starts: many sandboxes that start in the same moment slow one another down.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Lets one start after another through, with a pause in between.
#[derive(Debug, Default)]
pub(super) struct Pace {
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// Waits for the caller's turn. The first one does not wait.
    pub(super) async fn turn(&self, pause: Duration) {
        let mut next = self.next.lock().await;
        let now = Instant::now();
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + pause);
        drop(next);
        sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn starts_that_come_together_are_spread() {
        let (pace, begin) = (Pace::default(), Instant::now());
        let pause = Duration::from_millis(100);
        let turns = (0..4).map(|_| async {
            pace.turn(pause).await;
            begin.elapsed()
        });
        let waited = futures::future::join_all(turns).await;
        assert_eq!(waited, [0, 100, 200, 300].map(Duration::from_millis));
        tokio::time::advance(Duration::from_secs(1)).await;
        let later = Instant::now();
        pace.turn(pause).await;
        assert_eq!(later.elapsed(), Duration::ZERO);
    }
}
