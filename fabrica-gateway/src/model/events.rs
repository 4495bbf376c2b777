//! Server-sent events, read piece by piece.

/// The longest line, and the most data of one event, that is kept.
const LONGEST: usize = 1024 * 1024;

/// Reads a stream of events. Pieces may end anywhere, lines with LF, CRLF or CR.
#[derive(Debug, Default)]
pub(super) struct EventStream {
    line: Bounded,
    /// Whether the last line ended with CR: an LF belongs to it.
    after_return: bool,
    name: String,
    data: Bounded,
    /// Whether the event has a line of data already.
    has_data: bool,
}

/// Bytes, as long as they are not too many.
#[derive(Debug, Default)]
struct Bounded {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Bounded {
    fn add(&mut self, more: &[u8]) {
        if self.too_long || self.bytes.len() + more.len() > LONGEST {
            *self = Self {
                bytes: Vec::new(),
                too_long: true,
            };
        } else {
            self.bytes.extend_from_slice(more);
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let taken = std::mem::take(self);
        (!taken.too_long).then_some(taken.bytes)
    }
}

impl EventStream {
    /// Reads on, and gives every event that ends to `event`: its name, which may be empty, and its data. Of an event for
    /// whose name `wanted` says no, nothing is kept; one that is too long is left out.
    pub(super) fn read(
        &mut self,
        mut piece: &[u8],
        wanted: impl Fn(&str) -> bool,
        mut event: impl FnMut(&str, &[u8]),
    ) {
        loop {
            if self.after_return && !piece.is_empty() {
                self.after_return = false;
                piece = piece.strip_prefix(b"\n").unwrap_or(piece);
            }
            let Some(end) = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.line.add(piece);
                return;
            };
            self.line.add(&piece[..end]);
            self.after_return = piece[end] == b'\r';
            piece = &piece[end + 1..];
            // A line that is too long is skipped.
            if let Some(line) = self.line.take() {
                self.line(&line, &wanted, &mut event);
            }
        }
    }

    fn line(&mut self, line: &[u8], wanted: &impl Fn(&str) -> bool, event: &mut impl FnMut(&str, &[u8])) {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = self.data.take();
            if let Some(data) = data.filter(|_| std::mem::take(&mut self.has_data)) {
                event(&name, &data);
            }
            self.has_data = false;
            return;
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            b"data" if wanted(&self.name) => {
                if self.has_data {
                    self.data.add(b"\n");
                }
                self.has_data = true;
                self.data.add(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<(String, String)> {
        let mut stream = EventStream::default();
        let mut events = Vec::new();
        for piece in pieces {
            stream.read(
                piece,
                |name| name != "unwanted",
                |name, data| events.push((name.to_owned(), String::from_utf8(data.to_vec()).unwrap())),
            );
        }
        events
    }

    fn event(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    #[test]
    fn events_are_the_same_wherever_pieces_end_and_however_lines_do() {
        let text = "event: first\ndata: {\"a\":1}\n\n: a comment\nid: 7\nevent:second\ndata:one\ndata: two\n\n\n\
                    event: unwanted\ndata: no\n\nevent: empty\n\ndata: nameless\n\ndata: cut";
        let expected = [
            event("first", "{\"a\":1}"),
            event("second", "one\ntwo"),
            event("", "nameless"),
        ];
        for end in ["\n", "\r\n", "\r"] {
            let text = text.replace('\n', end);
            for at in 0..=text.len() {
                let (first, second) = text.as_bytes().split_at(at);
                assert_eq!(read([first, second]), expected, "{end:?} cut at {at}");
            }
            assert_eq!(read(text.as_bytes().chunks(1)), expected, "{end:?} byte by byte");
        }
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let piece = vec![b'x'; 64 * 1024];
        let mut stream = EventStream::default();
        let none = |_: &str, _: &[u8]| panic!("no event");
        stream.read(b"data: ", |_| true, none);
        for _ in 0..64 {
            stream.read(&piece, |_| true, none);
            assert!(stream.line.bytes.capacity() <= 2 * LONGEST);
        }
        stream.read(b"\n\n", |_| true, none);
        for _ in 0..64 {
            for part in [b"data: ", piece.as_slice(), b"\n"] {
                stream.read(part, |_| true, none);
            }
            assert!(stream.data.bytes.capacity() <= 2 * LONGEST);
        }
        stream.read(b"\n", |_| true, none);
        let mut seen = 0;
        stream.read(
            b"data: next\n\n",
            |_| true,
            |_, data| {
                assert_eq!(data, b"next");
                seen += 1;
            },
        );
        assert_eq!(seen, 1);
    }
}
