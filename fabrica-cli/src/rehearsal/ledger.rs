//! An append-only record of what a stand-in received: the oracle of the tests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Entries in the order of their arrival, shared by a server and its handle.
#[derive(Debug)]
pub(super) struct Ledger<T> {
    entries: Arc<Mutex<Vec<T>>>,
    length: Arc<watch::Sender<usize>>,
}

impl<T> Clone for Ledger<T> {
    fn clone(&self) -> Self {
        Self {
            entries: Arc::clone(&self.entries),
            length: Arc::clone(&self.length),
        }
    }
}

impl<T> Default for Ledger<T> {
    fn default() -> Self {
        Self {
            entries: Arc::default(),
            length: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl<T: Clone> Ledger<T> {
    /// Appends an entry and returns its index.
    pub(super) fn push(&self, entry: T) -> usize {
        let mut entries = locked(&self.entries);
        entries.push(entry);
        self.length.send_replace(entries.len());
        entries.len() - 1
    }

    /// Completes an entry with what became known after its arrival.
    pub(super) fn amend(&self, index: usize, change: impl FnOnce(&mut T)) {
        if let Some(entry) = locked(&self.entries).get_mut(index) {
            change(entry);
        }
    }

    /// A copy of all entries.
    pub(super) fn entries(&self) -> Vec<T> {
        locked(&self.entries).clone()
    }

    /// Waits until at least `count` entries have been made.
    pub(super) async fn reaches(&self, count: usize) {
        let mut length = self.length.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = length.wait_for(|length| *length >= count).await;
    }
}

/// Locks, and goes on after a panic elsewhere: what is recorded stays true.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::Ledger;

    #[tokio::test]
    async fn waiting_ends_with_the_awaited_entry() {
        let ledger = Ledger::default();
        let reader = ledger.clone();
        let waiting = tokio::spawn(async move {
            reader.reaches(2).await;
            reader.entries()
        });
        assert_eq!(ledger.push("first"), 0);
        let second = ledger.push("second");
        ledger.amend(second, |entry| *entry = "amended");
        assert_eq!(waiting.await.unwrap().len(), 2);
        assert_eq!(ledger.entries(), ["first", "amended"]);
    }
}
