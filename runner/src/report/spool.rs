//! What is not acknowledged yet: an unnamed file with one line for each event, and where each line is.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use chrono::{DateTime, Utc};
use fabrica_core::protocol::{Envelope, MAX_EVENT_BYTES, PROTOCOL_VERSION, RunnerEvent, TranscriptEntry};
use serde_json::Map;
use tracing::warn;

/// When so much of the file is acknowledged, the rest is moved to its start.
const COMPACT_AT: u64 = 16 * 1024 * 1024;

#[derive(Debug)]
enum Place {
    /// In the file.
    Disk { offset: u64, length: usize },
    /// In memory: the disk is full, or the line was replaced.
    Memory(Vec<u8>),
}

/// Events from the first unacknowledged one to the last.
///
/// It lives as long as the process: a container that loses its runner is lost, and a new attempt counts from 1 again.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    /// The number of the first entry.
    first: u64,
    entries: VecDeque<Place>,
    /// Where the next line goes.
    end: u64,
    waiting: u64,
    /// How much of it is in memory.
    memory: u64,
}

/// Lines to send.
#[derive(Debug)]
pub(super) struct Batch {
    /// The number of the first line.
    pub(super) first: u64,
    /// How many there are.
    pub(super) count: usize,
    /// The lines.
    pub(super) lines: Vec<u8>,
}

impl Spool {
    /// Makes the file in a directory, and takes its name away at once.
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!(".spool-{}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Self {
            file,
            first: 1,
            entries: VecDeque::new(),
            end: 0,
            waiting: 0,
            memory: 0,
        })
    }

    /// Numbers an event and keeps it.
    pub(super) fn append(
        &mut self,
        event: RunnerEvent,
        at: DateTime<Utc>,
        redact: impl Fn(String) -> String,
    ) {
        let envelope = Envelope {
            v: PROTOCOL_VERSION,
            seq: self.last() + 1,
            at,
            event,
        };
        let mut line = redact(encode(&envelope)).into_bytes();
        if line.len() > MAX_EVENT_BYTES {
            line = placeholder(envelope.seq, at, "an event was too long and is left out");
        }
        line.push(b'\n');
        let length = line.len();
        self.waiting += length as u64;
        match self.file.write_all_at(&line, self.end) {
            Ok(()) => {
                self.entries.push_back(Place::Disk {
                    offset: self.end,
                    length,
                });
                self.end += length as u64;
            }
            Err(error) => {
                warn!(%error, "the spool cannot be written, the event stays in memory");
                self.memory += length as u64;
                self.entries.push_back(Place::Memory(line));
            }
        }
    }

    /// The number of the last event; 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    /// How many bytes are not acknowledged.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.waiting
    }

    /// How many of them are in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory
    }

    /// How many events are not acknowledged.
    pub(super) fn waiting_events(&self) -> usize {
        self.entries.len()
    }

    /// The size of the file.
    #[cfg(test)]
    pub(super) fn file_bytes(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    /// The first lines, up to both limits, but at least one if there is any.
    pub(super) fn batch(&self, events: usize, bytes: usize) -> io::Result<Batch> {
        let mut batch = Batch {
            first: self.first,
            count: 0,
            lines: Vec::new(),
        };
        for place in self.entries.iter().take(events) {
            if batch.count > 0 && batch.lines.len() + place.length() > bytes {
                break;
            }
            match place {
                Place::Memory(line) => batch.lines.extend_from_slice(line),
                Place::Disk { offset, length } => {
                    let start = batch.lines.len();
                    batch.lines.resize(start + length, 0);
                    self.file.read_exact_at(&mut batch.lines[start..], *offset)?;
                }
            }
            batch.count += 1;
        }
        Ok(batch)
    }

    /// Forgets what is stored for good. True if that was anything.
    pub(super) fn acknowledge(&mut self, number: u64) -> bool {
        let before = self.first;
        while self.first <= number
            && let Some(place) = self.entries.pop_front()
        {
            self.waiting -= place.length() as u64;
            self.memory -= place.memory();
            self.first += 1;
        }
        self.compact();
        self.first > before
    }

    /// Puts a note in the place of the first event, which the gateway will never take.
    pub(super) fn replace_first(&mut self, at: DateTime<Utc>, why: &str) {
        let mut line = placeholder(self.first, at, why);
        line.push(b'\n');
        if let Some(place) = self.entries.front_mut() {
            self.waiting = self.waiting - place.length() as u64 + line.len() as u64;
            self.memory = self.memory - place.memory() + line.len() as u64;
            *place = Place::Memory(line);
        }
    }

    /// Gives the disk back what is acknowledged.
    fn compact(&mut self) {
        let start = self.entries.iter().find_map(|place| match place {
            Place::Disk { offset, .. } => Some(*offset),
            Place::Memory(_) => None,
        });
        let Some(start) = start else {
            if self.end > 0 && self.file.set_len(0).is_ok() {
                self.end = 0;
            }
            return;
        };
        // Only onto what is free: the parts do not overlap, and a failure in between loses nothing.
        let length = self.end - start;
        if start >= COMPACT_AT && length <= start && self.move_to_start(start, length).is_ok() {
            for place in &mut self.entries {
                if let Place::Disk { offset, .. } = place {
                    *offset -= start;
                }
            }
            self.end = length;
            // A longer file than needed is harmless.
            let _ = self.file.set_len(length);
        }
    }

    fn move_to_start(&self, start: u64, length: u64) -> io::Result<()> {
        let mut buffer = vec![0; 256 * 1024];
        let mut done = 0;
        while done < length {
            let part = buffer
                .len()
                .min(usize::try_from(length - done).unwrap_or(buffer.len()));
            self.file.read_exact_at(&mut buffer[..part], start + done)?;
            self.file.write_all_at(&buffer[..part], done)?;
            done += part as u64;
        }
        Ok(())
    }
}

impl Place {
    fn length(&self) -> usize {
        match self {
            Self::Disk { length, .. } => *length,
            Self::Memory(line) => line.len(),
        }
    }

    fn memory(&self) -> u64 {
        match self {
            Self::Disk { .. } => 0,
            Self::Memory(line) => line.len() as u64,
        }
    }
}

fn encode(envelope: &Envelope) -> String {
    // Its parts are text, numbers and JSON values: encoding cannot fail; if it did, the number must not be missing.
    serde_json::to_string(envelope).unwrap_or_else(|error| {
        String::from_utf8_lossy(&placeholder(envelope.seq, envelope.at, &error.to_string())).into_owned()
    })
}

/// An event that says that another one is missing: numbers have no gaps.
fn placeholder(seq: u64, at: DateTime<Utc>, why: &str) -> Vec<u8> {
    let entry = TranscriptEntry {
        kind: "notice".to_owned(),
        parent: None,
        summary: why.to_owned(),
        detail: Map::new(),
    };
    let envelope = Envelope {
        v: PROTOCOL_VERSION,
        seq,
        at,
        event: RunnerEvent::Agent(entry),
    };
    serde_json::to_vec(&envelope).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool() -> Spool {
        Spool::create(tempfile::tempdir().unwrap().path()).unwrap()
    }

    fn add(spool: &mut Spool, message: &str) {
        let event = RunnerEvent::Progress {
            step: "test".into(),
            message: message.into(),
        };
        spool.append(event, DateTime::UNIX_EPOCH, |text| text);
    }

    fn numbers(batch: &Batch) -> Vec<u64> {
        let lines = std::str::from_utf8(&batch.lines).unwrap().lines();
        lines
            .map(|line| serde_json::from_str::<Envelope>(line).unwrap().seq)
            .collect()
    }

    #[test]
    fn numbers_start_at_one_and_go_on_after_acknowledgements() {
        let mut spool = spool();
        assert_eq!((spool.last(), spool.batch(10, 1_000).unwrap().count), (0, 0));
        for n in 1..=5 {
            add(&mut spool, &format!("event {n}"));
        }
        assert_eq!(numbers(&spool.batch(10, 10_000).unwrap()), [1, 2, 3, 4, 5]);
        assert!(spool.acknowledge(2));
        assert!(!spool.acknowledge(1), "an old acknowledgement does nothing");
        assert_eq!(numbers(&spool.batch(2, 10_000).unwrap()), [3, 4]);
        assert_eq!(numbers(&spool.batch(9, 1).unwrap()), [3], "one event always fits");
        assert!(spool.acknowledge(99));
        assert_eq!(spool.waiting_bytes(), 0);
        add(&mut spool, "after all");
        assert_eq!(numbers(&spool.batch(9, 10_000).unwrap()), [6]);
    }

    #[test]
    fn the_file_does_not_grow_while_acknowledgements_keep_up() {
        let mut spool = spool();
        let text = "x".repeat(100_000);
        for n in 1..=260_u64 {
            add(&mut spool, &text);
            // Three events always wait, so the file is never empty.
            spool.acknowledge(n.saturating_sub(3));
        }
        assert!(spool.file.metadata().unwrap().len() <= COMPACT_AT + 2_000_000);
        assert_eq!(numbers(&spool.batch(9, 1_000_000).unwrap()), [258, 259, 260]);
    }

    #[test]
    fn what_is_too_long_or_refused_keeps_its_number() {
        let mut spool = spool();
        add(&mut spool, &"x".repeat(2 * MAX_EVENT_BYTES));
        add(&mut spool, "next");
        let batch = spool.batch(9, 1_000_000).unwrap();
        assert!(batch.lines.len() < 1_000);
        assert_eq!(numbers(&batch), [1, 2]);
        spool.acknowledge(1);
        spool.replace_first(DateTime::UNIX_EPOCH, "refused");
        assert_eq!(numbers(&spool.batch(9, 1_000_000).unwrap()), [2]);
    }
}
