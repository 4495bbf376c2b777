//! Lines out of an engine's log stream.

use std::collections::VecDeque;

use bytes::{Buf as _, BytesMut};

/// Longer lines are cut: they are for people.
const LONGEST_LINE: usize = 16 * 1024;
/// A frame that claims to be longer than this is no frame.
const LONGEST_FRAME: usize = 16 * 1024 * 1024;

/// The last lines of two streams, in the order in which they were completed.
#[derive(Debug)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    most: usize,
    open: [Vec<u8>; 2],
}

impl Tail {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            lines: VecDeque::new(),
            most,
            open: [Vec::new(), Vec::new()],
        }
    }

    /// Bytes of standard output, or of standard error.
    pub(crate) fn push(&mut self, error: bool, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let open = &mut self.open[usize::from(error)];
            let text = part.strip_suffix(b"\n");
            let room = LONGEST_LINE.saturating_sub(open.len());
            let body = text.unwrap_or(part);
            open.extend_from_slice(&body[..body.len().min(room)]);
            if text.is_some() {
                self.end(error);
            }
        }
    }

    fn end(&mut self, error: bool) {
        let line = std::mem::take(&mut self.open[usize::from(error)]);
        let text = String::from_utf8_lossy(&line);
        self.lines.push_back(text.trim_end_matches('\r').to_owned());
        if self.lines.len() > self.most {
            self.lines.pop_front();
        }
    }

    /// All that is left, a last line without its newline among it.
    pub(crate) fn finish(mut self) -> Vec<String> {
        for error in [false, true] {
            if !self.open[usize::from(error)].is_empty() {
                self.end(error);
            }
        }
        self.lines.into()
    }
}

/// Takes the frames `[stream, 0, 0, 0, length × 4]` apart, which both engines send. Bytes that are no frame are taken
/// as text: a log is for diagnosis, and an odd byte in it must end nothing.
#[derive(Debug, Default)]
pub(crate) struct Demultiplexer {
    buffer: BytesMut,
}

impl Demultiplexer {
    pub(crate) fn push(&mut self, bytes: &[u8], tail: &mut Tail) {
        self.buffer.extend_from_slice(bytes);
        while let [stream, a, b, c, length @ ..] = &self.buffer[..] {
            let Some(length) = length.first_chunk::<4>() else {
                return;
            };
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if *stream > 2 || [*a, *b, *c] != [0; 3] || length > LONGEST_FRAME {
                let rest = self.buffer.split();
                tail.push(false, &rest);
                return;
            }
            let error = *stream == 2;
            if self.buffer.len() < 8 + length {
                return;
            }
            self.buffer.advance(8);
            let frame = self.buffer.split_to(length);
            tail.push(error, &frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[stream, 0, 0, 0][..], &length[..], text].concat()
    }

    fn lines(chunks: &[&[u8]], most: usize) -> Vec<String> {
        let mut tail = Tail::new(most);
        let mut frames = Demultiplexer::default();
        for chunk in chunks {
            frames.push(chunk, &mut tail);
        }
        tail.finish()
    }

    #[test]
    fn frames_are_put_together_from_any_chunks() {
        let bytes = [frame(1, b"one\ntw"), frame(2, b"error\n"), frame(1, b"o\n")].concat();
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(lines(&single, 9), ["one", "error", "two"]);
        assert_eq!(lines(&[&bytes], 2), ["error", "two"]);
    }

    #[test]
    fn a_last_line_without_newline_and_invalid_utf8_are_kept() {
        assert_eq!(lines(&[&frame(1, b"a\xffb\r\nlast")], 9), ["a\u{fffd}b", "last"]);
    }

    #[test]
    fn garbage_is_text() {
        assert_eq!(lines(&[b"panic: out of cheese\n"], 9), ["panic: out of cheese"]);
        assert_eq!(
            lines(&[&[1, 0, 0, 0, 255, 255, 255, 255, b'x', b'\n']], 9).len(),
            1
        );
    }

    #[test]
    fn a_long_line_is_cut() {
        assert_eq!(
            lines(&[&frame(1, &vec![b'x'; 1 << 20])], 9)[0].len(),
            LONGEST_LINE
        );
    }
}
