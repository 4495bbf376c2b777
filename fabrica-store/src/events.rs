//! The events of an attempt on their way into the tables.

use std::mem::size_of;

use chrono::{DateTime, Utc};
use fabrica_core::ids::Fence;
use fabrica_core::message::NewMessage;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{EventRecord, Storable};
use fabrica_core::protocol::{TranscriptEntry, Usage};
use serde::Serialize;
use sqlx::types::Uuid;

use crate::group::Item;
use crate::values::plus;

/// What one caller wants recorded, in a form that every database can hold. Its JSON is text already: callers work in
/// parallel, the writer does not.
pub(crate) struct Delivery {
    pub(crate) fence: Fence,
    pub(crate) events: Vec<Event>,
    bytes: usize,
}

/// One event.
pub(crate) struct Event {
    pub(crate) number: u64,
    pub(crate) messages: Vec<MessageText>,
    pub(crate) transcript: Option<EntryText>,
    pub(crate) usage: Option<Usage>,
    pub(crate) result: Option<String>,
    pub(crate) checkpoint: Option<String>,
}

/// A message.
pub(crate) struct MessageText {
    pub(crate) id: Uuid,
    pub(crate) kind: &'static str,
    pub(crate) content: String,
}

/// A transcript entry.
pub(crate) struct EntryText {
    pub(crate) at: DateTime<Utc>,
    pub(crate) kind: String,
    pub(crate) parent: Option<String>,
    pub(crate) summary: String,
    pub(crate) detail: String,
}

impl Item for Delivery {
    fn key(&self) -> Uuid {
        *self.fence.session.as_uuid()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Delivery {
    pub(crate) fn new(fence: Fence, events: Vec<EventRecord>) -> Result<Self, StoreError> {
        let events: Vec<Event> = events.into_iter().map(Event::new).collect::<Result<_, _>>()?;
        let bytes = events.iter().map(Event::bytes).sum();
        Ok(Self { fence, events, bytes })
    }

    /// The numbers of its first and last event, if none is missing between them.
    pub(crate) fn range(&self) -> Option<(u64, u64)> {
        let (first, last) = (self.events.first()?.number, self.events.last()?.number);
        let complete = first > 0
            && (first..=last)
                .zip(&self.events)
                .all(|(number, event)| number == event.number)
            && last - first + 1 == self.events.len() as u64;
        complete.then_some((first, last))
    }

    /// Those of its events that are not stored; none of them may be missing.
    pub(crate) fn unstored(&self, stored: u64) -> Result<Vec<&Event>, StoreError> {
        let new: Vec<_> = self.events.iter().filter(|event| event.number > stored).collect();
        match (stored + 1..)
            .zip(&new)
            .find(|(expected, event)| *expected != event.number)
        {
            Some((expected, _)) => Err(StoreError::EventGap {
                fence: self.fence,
                expected,
            }),
            None => Ok(new),
        }
    }
}

impl Event {
    fn new(record: EventRecord) -> Result<Self, StoreError> {
        Ok(Self {
            number: record.event,
            messages: record
                .messages
                .into_iter()
                .map(MessageText::new)
                .collect::<Result<_, _>>()?,
            transcript: record
                .transcript
                .map(|(at, entry)| EntryText::new(at, entry))
                .transpose()?,
            usage: record.usage,
            result: record.result.map(storable_json).transpose()?,
            checkpoint: record.checkpoint.map(storable_json).transpose()?,
        })
    }

    fn bytes(&self) -> usize {
        let messages: usize = self
            .messages
            .iter()
            .map(|message| size_of::<MessageText>() + message.content.len())
            .sum();
        let transcript = self.transcript.as_ref().map_or(0, |entry| {
            entry.kind.len()
                + entry.parent.as_ref().map_or(0, String::len)
                + entry.summary.len()
                + entry.detail.len()
        });
        let values = [&self.result, &self.checkpoint];
        let values: usize = values.into_iter().flatten().map(String::len).sum();
        size_of::<Self>() + messages + transcript + values
    }
}

impl MessageText {
    fn new(message: NewMessage) -> Result<Self, StoreError> {
        Ok(Self {
            id: *message.id.as_uuid(),
            kind: message.kind.as_str(),
            content: storable_json(message.content)?,
        })
    }
}

impl EntryText {
    fn new(at: DateTime<Utc>, entry: TranscriptEntry) -> Result<Self, StoreError> {
        Ok(Self {
            at,
            detail: storable_json(entry.detail)?,
            kind: entry.kind.storable(),
            parent: entry.parent.storable(),
            summary: entry.summary.storable(),
        })
    }
}

/// New events, taken apart by the table that they go to.
pub(crate) struct Batch<'a> {
    pub(crate) last_event: u64,
    pub(crate) messages: Vec<&'a MessageText>,
    pub(crate) transcript: Vec<&'a EntryText>,
    /// The session's, with that of the events.
    pub(crate) usage: Usage,
    pub(crate) result: Option<&'a str>,
    /// The newest one.
    pub(crate) checkpoint: Option<&'a str>,
}

impl<'a> Batch<'a> {
    /// Of at least one event.
    pub(crate) fn of(events: impl IntoIterator<Item = &'a Event>, usage: Usage) -> Self {
        let mut batch = Self {
            last_event: 0,
            messages: vec![],
            transcript: vec![],
            usage,
            result: None,
            checkpoint: None,
        };
        for event in events {
            batch.last_event = event.number;
            batch.messages.extend(&event.messages);
            batch.transcript.extend(&event.transcript);
            batch.usage = event.usage.map_or(batch.usage, |more| plus(batch.usage, more));
            batch.result = event.result.as_deref().or(batch.result);
            batch.checkpoint = event.checkpoint.as_deref().or(batch.checkpoint);
        }
        batch
    }

    /// Whether it brings what only a few deliveries bring: a result, or a checkpoint.
    pub(crate) fn is_rare(&self) -> bool {
        self.result.is_some() || self.checkpoint.is_some()
    }
}

/// A value as the text of a column, without NUL characters. They are so rare that they are looked for in the text, where
/// they are escaped.
fn storable_json<T: Serialize + Storable>(value: T) -> Result<String, StoreError> {
    let text = json_text(&value)?;
    if text.contains("\\u0000") {
        json_text(&value.storable())
    } else {
        Ok(text)
    }
}

/// A value as the text of a column.
pub(crate) fn json_text(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Database {
        message: "a value is no JSON".into(),
        source: Some(Box::new(error)),
    })
}
