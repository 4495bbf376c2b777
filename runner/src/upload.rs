//! What a request carries: bytes from memory, and after them those of a file, read as they are sent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// How much is read from the file at a time.
const PIECE: usize = 64 * 1024;

/// The body of a request, of a length that is known before it is sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upload {
    head: Bytes,
    file: Option<Arc<File>>,
    /// How far the file was read.
    at: u64,
    /// How much of it there is.
    end: u64,
}

impl From<Bytes> for Upload {
    fn from(head: Bytes) -> Self {
        Self {
            head,
            ..Self::default()
        }
    }
}

impl Upload {
    /// Some bytes, and the whole of a file behind them.
    pub(crate) fn with_file(head: Vec<u8>, file: Arc<File>) -> io::Result<Self> {
        Ok(Self {
            head: head.into(),
            end: file.metadata()?.len(),
            file: Some(file),
            at: 0,
        })
    }

    /// How much is still to be sent.
    pub(crate) fn length(&self) -> u64 {
        self.head.len() as u64 + (self.end - self.at)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if !self.head.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.head)))));
        }
        let piece = usize::try_from(self.end - self.at).map_or(PIECE, |rest| rest.min(PIECE));
        let Some(file) = self.file.clone().filter(|_| piece > 0) else {
            return Poll::Ready(None);
        };
        let mut bytes = vec![0; piece];
        // The file is on the local disk and was just written.
        Poll::Ready(Some(file.read_exact_at(&mut bytes, self.at).map(|()| {
            self.at += piece as u64;
            Frame::data(bytes.into())
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.length() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn the_file_follows_on_the_bytes_and_can_be_sent_again() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..=255).cycle().take(PIECE * 2 + 17).collect();
        io::Write::write_all(&mut file, &content).unwrap();
        let upload = Upload::with_file(b"head".to_vec(), Arc::new(file)).unwrap();
        assert_eq!(upload.length(), content.len() as u64 + 4);
        for _ in 0..2 {
            let sent = upload.clone().collect().await.unwrap().to_bytes();
            assert_eq!(sent, [b"head".to_vec(), content.clone()].concat());
        }
        assert!(Upload::default().is_end_stream());
    }
}
