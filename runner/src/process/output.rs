//! What processes write: read in lines of bounded length, whatever bytes they are.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One line without its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// The first bytes of it.
    pub(crate) bytes: Vec<u8>,
    /// How many more there were.
    pub(crate) cut: u64,
}

/// Reads lines of at most `limit` bytes; of longer ones the start.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
    limit: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(reader: R, limit: usize) -> Self {
        Self {
            reader: BufReader::with_capacity(64 * 1024, reader),
            limit,
        }
    }

    /// The next line, or nothing at the end. A last line without an end counts.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        let mut line = Line::default();
        let mut any = false;
        loop {
            let buffer = self.reader.fill_buf().await?;
            if buffer.is_empty() {
                return Ok(any.then_some(line));
            }
            any = true;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            let taken = part.len().min(self.limit - line.bytes.len());
            line.bytes.extend_from_slice(&part[..taken]);
            line.cut += (part.len() - taken) as u64;
            let consumed = part.len() + usize::from(end.is_some());
            self.reader.consume(consumed);
            if end.is_some() {
                if line.cut == 0 && line.bytes.last() == Some(&b'\r') {
                    line.bytes.pop();
                }
                return Ok(Some(line));
            }
        }
    }
}

/// How long a pipe is listened to after its program has ended: something that it started may hold it open.
const QUIET: Duration = Duration::from_millis(500);

/// What comes next; nothing if the program has ended and all is quiet.
pub(crate) async fn unless_quiet<T>(
    next: impl Future<Output = Option<T>>,
    exited: &CancellationToken,
) -> Option<T> {
    tokio::select! {
        biased;
        next = next => next,
        () = async {
            exited.cancelled().await;
            tokio::time::sleep(QUIET).await;
        } => None,
    }
}

/// A line with the pipe that it came from.
#[derive(Debug)]
pub(crate) struct OutputLine {
    /// `stdout` or `stderr`.
    pub(crate) stream: &'static str,
    /// The line.
    pub(crate) line: Line,
}

/// Hands lines on until the pipe ends. When nobody takes them any more, it goes on reading, so that a service which
/// a command left behind can go on writing.
pub(crate) async fn pump<R: AsyncRead + Unpin>(
    pipe: R,
    stream: &'static str,
    limit: usize,
    sender: mpsc::Sender<OutputLine>,
) {
    let mut lines = Lines::new(pipe, limit);
    let mut sender = Some(sender);
    while let Ok(Some(line)) = lines.next().await {
        if let Some(open) = &sender
            && open.send(OutputLine { stream, line }).await.is_err()
        {
            sender = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8], limit: usize) -> Vec<(String, u64)> {
        let mut lines = Lines::new(bytes, limit);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push((String::from_utf8_lossy(&line.bytes).into_owned(), line.cut));
        }
        all
    }

    #[tokio::test]
    async fn lines_are_bounded_and_the_last_needs_no_end() {
        let lines = read(b"one\r\n\ntwo\0\xff\nlast", 100).await;
        assert_eq!(
            lines.iter().map(|line| line.0.as_str()).collect::<Vec<_>>(),
            ["one", "", "two\0\u{fffd}", "last"]
        );
        let long = [vec![b'x'; 300_000], b"\nnext\n".to_vec()].concat();
        let lines = read(&long, 1_000).await;
        assert_eq!((lines[0].0.len(), lines[0].1), (1_000, 299_000));
        assert_eq!(lines[1], ("next".to_owned(), 0));
        assert_eq!(lines.len(), 2);
    }
}
