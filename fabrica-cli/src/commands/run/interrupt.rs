//! Ctrl-C and the polite signals: the first one cancels, the second one ends at once.

use crate::exit::Exit;
use crate::problem::Problem;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a command ends with that was interrupted before it had begun anything that could be cancelled.
pub(crate) fn interrupted() -> Problem {
    Problem::new(Exit::Cancelled, "interrupted", "interrupted")
}

/// The requests to stop that come in. From its making on they no longer end the process by themselves.
#[derive(Debug)]
pub(crate) struct Interrupts {
    signals: Vec<Signal>,
}

impl Interrupts {
    pub(crate) fn new() -> Self {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        // A signal that cannot be listened to keeps its usual effect.
        Self {
            signals: kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect(),
        }
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        if self.signals.is_empty() {
            std::future::pending::<()>().await;
        }
        let waiting = self.signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures::future::select_all(waiting).await;
    }
}
