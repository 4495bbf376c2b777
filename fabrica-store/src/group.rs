//! Group commit: what many callers want to write meanwhile is written by one task, in one transaction, and each caller is
//! answered once that is committed. Commits, not rows, are what a database does few of.

use std::collections::{HashSet, VecDeque};
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use fabrica_core::ports::StoreError;
use sqlx::types::Uuid;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::error::{database, is_transient, is_yielding};

/// How many bytes may wait in one lane, together with those that are being written.
const ROOM: usize = 16 * 1024 * 1024;
/// What even an empty item takes of that room, so that the number of those that wait is bounded too: by 8,192.
const SMALLEST: usize = 2 * 1024;
/// How many bytes are written in one transaction. One item may be larger, and is then written on its own.
const GROUP_BYTES: usize = 1024 * 1024;
/// How many items are written in one transaction.
const GROUP_ITEMS: usize = 512;
/// How many turns of the runtime those have who were just answered, to come with their next item.
const TURNS: usize = 32;
/// How many items are looked at to find those of a group, should all be of one key.
const LOOK_AHEAD: usize = 4 * GROUP_ITEMS;

/// What is written.
pub(crate) trait Item: Send + Sync + 'static {
    /// Whom it is about: no two of the same key go into one transaction, and those of one key are written in order.
    fn key(&self) -> Uuid;
    /// How much memory it takes, roughly.
    fn bytes(&self) -> usize;
}

/// What became of one item of a group: `None` if it has to be written alone.
pub(crate) type Settled<A> = Option<Result<A, StoreError>>;

/// Who writes.
pub(crate) trait Writer: Send + 'static {
    type Item: Item;
    type Answer: Send + 'static;

    /// Whether many come at the same moment, woken by the same thing: the first of them alone would keep the others
    /// waiting. Whoever comes alone pays for it with a turn of the runtime.
    const TOGETHER: bool = false;

    /// Writes items of different keys in one transaction. On an error nothing of them is written, or nobody knows.
    fn write(
        &mut self,
        items: &[&Self::Item],
    ) -> impl Future<Output = Result<Vec<Settled<Self::Answer>>, sqlx::Error>> + Send;

    /// Writes one item that cannot be written in a group, however long others keep it waiting.
    fn alone(
        &self,
        item: Self::Item,
    ) -> impl Future<Output = Result<Self::Answer, StoreError>> + Send + 'static;
}

/// The way to one writer. Its task starts with the first item and ends with the lane.
pub(crate) struct Lane<W: Writer> {
    queue: Mutex<Option<mpsc::UnboundedSender<Waiting<W>>>>,
    /// What bounds the queue, and how much of it there is in all.
    room: Arc<Semaphore>,
    size: usize,
    writer: Box<dyn Fn() -> W + Send + Sync>,
}

struct Waiting<W: Writer> {
    item: W::Item,
    answer: oneshot::Sender<Result<W::Answer, StoreError>>,
    room: OwnedSemaphorePermit,
}

impl<W: Writer> Lane<W> {
    pub(crate) fn new(writer: impl Fn() -> W + Send + Sync + 'static) -> Self {
        Self::with_room(ROOM, writer)
    }

    fn with_room(room: usize, writer: impl Fn() -> W + Send + Sync + 'static) -> Self {
        Self {
            queue: Mutex::default(),
            size: room,
            room: Arc::new(Semaphore::new(room)),
            writer: Box::new(writer),
        }
    }

    /// Waits for room, and then until the item is committed. A caller that goes away does not undo it.
    pub(crate) async fn write(&self, item: W::Item) -> Result<W::Answer, StoreError> {
        let size = item.bytes().max(SMALLEST).min(self.size);
        let room = self
            .room
            .clone()
            .acquire_many_owned(u32::try_from(size).unwrap_or(u32::MAX))
            .await
            .map_err(|_| database(sqlx::Error::PoolClosed))?;
        let (answer, answered) = oneshot::channel();
        self.send(Waiting { item, answer, room })?;
        answered
            .await
            .unwrap_or_else(|_| Err(database(sqlx::Error::WorkerCrashed)))
    }

    fn send(&self, mut waiting: Waiting<W>) -> Result<(), StoreError> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*queue {
            match sender.send(waiting) {
                Ok(()) => return Ok(()),
                // Its task ended: with the runtime that it was started in, or by a panic.
                Err(mpsc::error::SendError(back)) => waiting = back,
            }
        }
        if self.room.is_closed() {
            return Err(database(sqlx::Error::PoolClosed));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        // The receiver is at hand.
        let _ = sender.send(waiting);
        tokio::spawn(run((self.writer)(), receiver));
        *queue = Some(sender);
        Ok(())
    }

    /// Takes in nothing more; what waits is still written.
    pub(crate) fn close(&self) {
        self.room.close();
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

async fn run<W: Writer>(mut writer: W, mut queue: mpsc::UnboundedReceiver<Waiting<W>>) {
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            match queue.recv().await {
                Some(first) => waiting.push_back(first),
                None => return,
            }
            if W::TOGETHER {
                tokio::task::yield_now().await;
            }
        }
        while let Ok(next) = queue.try_recv() {
            waiting.push_back(next);
        }
        let group = gather(&mut waiting);
        let size = group.len();
        write(&mut writer, group).await;
        if size > 1 {
            reunite(size + waiting.len(), &waiting, &queue).await;
        }
    }
}

/// Lets those who were answered just now come with their next item: together, not the first of them alone. Else two halves of
/// them would take turns, with twice as many commits.
async fn reunite<W: Writer>(
    all: usize,
    waiting: &VecDeque<Waiting<W>>,
    queue: &mpsc::UnboundedReceiver<Waiting<W>>,
) {
    for _ in 0..TURNS {
        if waiting.len() + queue.len() >= all {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Takes the next group: in order, as much as fits, of each key one.
fn gather<W: Writer>(waiting: &mut VecDeque<Waiting<W>>) -> Vec<Waiting<W>> {
    let (mut group, mut later) = (Vec::new(), VecDeque::new());
    let (mut keys, mut bytes) = (HashSet::new(), 0_usize);
    for _ in 0..LOOK_AHEAD {
        let Some(next) = waiting.pop_front() else { break };
        if group.len() == GROUP_ITEMS || (bytes > 0 && bytes + next.item.bytes() > GROUP_BYTES) {
            later.push_back(next);
            break;
        }
        if keys.insert(next.item.key()) {
            bytes += next.item.bytes();
            group.push(next);
        } else {
            later.push_back(next);
        }
    }
    // Those that were passed over come first again.
    while let Some(passed) = later.pop_back() {
        waiting.push_front(passed);
    }
    group
}

/// Writes and answers. A group that the database refuses is halved until the item that it refuses is alone.
async fn write<W: Writer>(writer: &mut W, group: Vec<Waiting<W>>) {
    let mut groups = vec![group];
    while let Some(mut group) = groups.pop() {
        let items: Vec<_> = group.iter().map(|waiting| &waiting.item).collect();
        match writer.write(&items).await {
            Ok(settled) => {
                for (waiting, settled) in group.into_iter().zip(settled) {
                    match settled {
                        Some(outcome) => waiting.answer(outcome),
                        None => alone(writer, waiting),
                    }
                }
            }
            Err(error) if is_transient(&error) && !is_yielding(&error) => {
                tracing::warn!(%error, items = group.len(), "a group of writes was lost with its connection");
                let error = Arc::new(error);
                for waiting in group {
                    waiting.answer(Err(unavailable(&error)));
                }
            }
            Err(error) if group.len() > 1 => {
                tracing::debug!(%error, items = group.len(), "a group of writes was refused");
                let rest = group.split_off(group.len() / 2);
                groups.extend([rest, group]);
            }
            Err(_) => {
                for waiting in group {
                    alone(writer, waiting);
                }
            }
        }
    }
}

fn alone<W: Writer>(writer: &W, waiting: Waiting<W>) {
    let Waiting { item, answer, room } = waiting;
    let written = writer.alone(item);
    tokio::spawn(async move {
        // A caller that went away needs no answer.
        let _ = answer.send(written.await);
        drop(room);
    });
}

impl<W: Writer> Waiting<W> {
    fn answer(self, outcome: Result<W::Answer, StoreError>) {
        // A caller that went away needs no answer.
        let _ = self.answer.send(outcome);
    }
}

/// One cause, told to many.
#[derive(Debug)]
struct Shared(Arc<sqlx::Error>);

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Shared {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

fn unavailable(error: &Arc<sqlx::Error>) -> StoreError {
    StoreError::Unavailable {
        message: error.to_string(),
        source: Some(Box::new(Shared(error.clone()))),
    }
}

#[cfg(test)]
mod tests;
