//! Files and directories on their way to an engine: streamed, never held in memory as a whole.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{ImageProgress, ProgressSink};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const CHUNK: usize = 256 * 1024;
/// Progress is told so often.
const STEP: u64 = 16 * 1024 * 1024;

/// Bytes on their way, and whether it was reading them that failed: to the engine's client that looks like a broken
/// connection.
pub(crate) struct Upload {
    pub(crate) chunks: BoxStream<'static, io::Result<Bytes>>,
    failure: Arc<OnceLock<String>>,
}

/// Why the bytes could not be read, once they were to be.
#[derive(Debug, Clone)]
pub(crate) struct ReadFailure(Arc<OnceLock<String>>);

impl ReadFailure {
    /// The failure to make the image if that was the reason, else what the engine's client said.
    pub(crate) fn or(&self, reference: &str, error: RuntimeError) -> RuntimeError {
        match self.0.get() {
            Some(reason) => RuntimeError::BuildFailed {
                reference: reference.to_owned(),
                reason: reason.clone(),
            },
            None => error,
        }
    }
}

impl Upload {
    fn new(path: &Path, chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        let failure = Arc::new(OnceLock::new());
        let (seen, path) = (Arc::clone(&failure), path.to_owned());
        let chunks = chunks.inspect_err(move |error| {
            // The first one counts.
            let _ = seen.set(format!("cannot read {}: {error}", path.display()));
        });
        Self {
            chunks: chunks.boxed(),
            failure,
        }
    }

    pub(crate) fn failure(&self) -> ReadFailure {
        ReadFailure(Arc::clone(&self.failure))
    }
}

/// The bytes of a file; each 16 MiB are told.
pub(crate) fn file(path: &Path, progress: &ProgressSink) -> Upload {
    let (place, progress) = (path.to_owned(), Arc::clone(progress));
    let opened = async move {
        let file = tokio::fs::File::open(place).await?;
        let total = file.metadata().await?.len();
        Ok::<_, io::Error>(told(chunks(file), total, progress))
    };
    Upload::new(path, stream::once(opened).try_flatten())
}

fn chunks(file: tokio::fs::File) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::try_unfold(file, |mut file| async move {
        let mut buffer = Vec::with_capacity(CHUNK);
        let read = (&mut file).take(CHUNK as u64).read_to_end(&mut buffer).await?;
        Ok((read > 0).then(|| (Bytes::from(buffer), file)))
    })
}

fn told(
    chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    total: u64,
    progress: ProgressSink,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let done = AtomicU64::new(0);
    chunks.inspect(move |chunk| {
        let length = chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let before = done.fetch_add(length, Ordering::Relaxed);
        let now = before + length;
        if now / STEP > before / STEP || now == total {
            progress(ImageProgress {
                message: "sending the archive".to_owned(),
                bytes: Some((now, total)),
            });
        }
    })
}

/// A tar archive of a directory's contents, made while it is read. A file that cannot be read ends the stream with
/// an error, so that no engine takes a part for the whole.
pub(crate) fn directory(path: &Path) -> Upload {
    let (sender, receiver) = mpsc::channel(8);
    let place = path.to_owned();
    let writer = tokio::task::spawn_blocking(move || {
        let errors = sender.clone();
        let mut builder = tar::Builder::new(io::BufWriter::with_capacity(CHUNK, ChannelWriter { sender }));
        builder.follow_symlinks(false);
        let written = builder
            .append_dir_all(".", &place)
            .and_then(|()| builder.into_inner()?.flush());
        if let Err(error) = written {
            // The reader may be gone; then nobody wants to know.
            let _ = errors.blocking_send(Err(error));
        }
    });
    // The channel closes when the writer ends; a writer that panicked is an error of the stream.
    let end =
        stream::once(writer).filter_map(async |ended| ended.err().map(|error| Err(io::Error::other(error))));
    Upload::new(path, ReceiverStream::new(receiver).chain(end))
}

struct ChannelWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for ChannelWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.sender
            .blocking_send(Ok(Bytes::copy_from_slice(buffer)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The last lines that an engine said over a long piece of work.
#[derive(Debug, Default)]
pub(crate) struct LastWords {
    lines: std::collections::VecDeque<String>,
}

const LAST_WORDS: usize = 40;

impl LastWords {
    /// Tells each line, and keeps the last.
    pub(crate) fn say(&mut self, text: &str, bytes: Option<(u64, u64)>, progress: &ProgressSink) {
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            progress(ImageProgress {
                message: line.to_owned(),
                bytes,
            });
            if bytes.is_none() {
                self.lines.push_back(line.to_owned());
            }
            if self.lines.len() > LAST_WORDS {
                self.lines.pop_front();
            }
        }
    }

    /// The last lines, with the error as the very last; engines often say it in both places.
    pub(crate) fn with(mut self, error: &str) -> String {
        let error = error.trim();
        if self.lines.back().is_none_or(|last| last != error) {
            self.lines.push_back(error.to_owned());
        }
        self.lines.make_contiguous().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent() -> ProgressSink {
        Arc::new(|_| {})
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_directory_is_archived_with_its_links_and_modes() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        std::fs::write(directory.path().join("sub/file"), vec![7; 1 << 20]).unwrap();
        std::os::unix::fs::symlink("/nowhere", directory.path().join("link")).unwrap();
        let bytes = super::directory(directory.path())
            .chunks
            .try_collect::<Vec<_>>()
            .await
            .unwrap()
            .concat();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().into_owned())
            .collect();
        names.sort();
        let expected = ["", "link", "sub", "sub/file"].map(std::path::PathBuf::from);
        assert_eq!(
            names
                .iter()
                .map(|name| name.strip_prefix(".").unwrap_or(name))
                .collect::<Vec<_>>(),
            expected
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_directory_that_is_missing_is_an_error_of_the_stream() {
        let upload = directory(Path::new("/nonexistent"));
        let failure = upload.failure();
        assert!(upload.chunks.try_collect::<Vec<_>>().await.is_err());
        let other = RuntimeError::ImageMissing {
            reference: String::new(),
            reason: String::new(),
        };
        let error = failure.or("image", other).to_string();
        assert!(error.contains("cannot read /nonexistent: "), "{error}");
    }

    #[tokio::test]
    async fn a_file_is_sent_whole_and_its_progress_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![1; 3 * CHUNK + 5]).unwrap();
        let (sender, told) = std::sync::mpsc::channel();
        let progress: ProgressSink = Arc::new(move |step: ImageProgress| sender.send(step.bytes).unwrap());
        let chunks = super::file(file.path(), &progress)
            .chunks
            .try_collect::<Vec<_>>()
            .await
            .unwrap();
        let total = 3 * CHUNK + 5;
        assert_eq!(chunks.concat().len(), total);
        assert_eq!(told.try_iter().last(), Some(Some((total as u64, total as u64))));
    }

    #[test]
    fn the_error_comes_last_and_not_twice() {
        let mut words = LastWords::default();
        words.say("step 1\nstep 2\n", None, &silent());
        assert_eq!(words.with("boom"), "step 1\nstep 2\nboom");
    }
}
