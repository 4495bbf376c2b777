//! Why everything should end, told to all parts at once.

use fabrica_core::failure::Failure;
use tokio::sync::watch;

/// Why the work ends before it is done, by rising weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// A signal from the engine or the orchestrator.
    Signal,
    /// A person cancelled the session.
    Cancelled,
    /// The gateway no longer accepts this attempt: nothing that it does counts.
    Fenced,
}

impl Reason {
    /// What is reported.
    pub(crate) fn failure(self) -> Failure {
        match self {
            Self::Signal => Failure::new(
                "session.stopped",
                "the sandbox was stopped before the work was done",
                "Nothing is wrong with the plan. What the agent had committed is on the branch; run the session again.",
            )
            .retryable(),
            Self::Cancelled => Failure::new(
                "session.cancelled",
                "the session was cancelled",
                "What the agent had committed is on the branch. Submit the plan again to start over.",
            ),
            Self::Fenced => Failure::new(
                "session.fenced",
                "another attempt has taken the session over",
                "Nothing to do: the later attempt reports for the session.",
            ),
        }
    }
}

/// A request to stop: made once or several times, the heaviest reason stands.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Sender<Option<Reason>>);

impl Stop {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Asks everything to end.
    pub(crate) fn request(&self, reason: Reason) {
        self.0.send_if_modified(|current| {
            let heavier = *current < Some(reason);
            if heavier {
                *current = Some(reason);
            }
            heavier
        });
    }

    /// The reason, if a stop was requested.
    pub(crate) fn reason(&self) -> Option<Reason> {
        *self.0.borrow()
    }

    /// Waits for a request.
    pub(crate) async fn requested(&self) -> Reason {
        self.at_least(Reason::Signal).await
    }

    /// Waits until the gateway has refused this attempt.
    pub(crate) async fn fenced(&self) {
        self.at_least(Reason::Fenced).await;
    }

    async fn at_least(&self, least: Reason) -> Reason {
        let mut receiver = self.0.subscribe();
        // The channel is never closed: `self` holds the sender.
        receiver
            .wait_for(|reason| *reason >= Some(least))
            .await
            .ok()
            .and_then(|reason| *reason)
            .unwrap_or(least)
    }

    /// The result of the work, or the failure of a stop that came first.
    pub(crate) async fn or<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            reason = self.requested() => Err(reason.failure()),
            result = work => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_heaviest_reason_stands_and_interrupts_work() {
        let stop = Stop::new();
        assert_eq!(stop.or(async { Ok(1) }).await, Ok(1));
        stop.request(Reason::Cancelled);
        stop.request(Reason::Signal);
        assert_eq!(stop.requested().await, Reason::Cancelled);
        let result: Result<(), Failure> = stop.or(std::future::pending()).await;
        assert_eq!(result.unwrap_err().code, "session.cancelled");
        stop.request(Reason::Fenced);
        stop.fenced().await;
    }
}
