//! One source of notices, many subscribers.

use fabrica_core::ports::store::Notice;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

/// How many notices a slow subscriber may lag behind before it is told that it missed some.
const CAPACITY: usize = 4096;

/// The sender that a store's background task feeds.
pub(crate) fn channel() -> broadcast::Sender<Notice> {
    broadcast::Sender::new(CAPACITY)
}

/// A subscriber's stream; it ends with the last sender.
pub(crate) fn stream(receiver: broadcast::Receiver<Notice>) -> BoxStream<'static, Notice> {
    BroadcastStream::new(receiver)
        .map(|notice| notice.unwrap_or(Notice::Missed))
        .boxed()
}
