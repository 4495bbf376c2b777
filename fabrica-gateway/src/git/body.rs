//! The body of a request: uncompressed where it must be read, and split behind the commands of a push.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use fabrica_core::ports::SessionSink;
use flate2::write::GzDecoder;
use futures::{Stream, StreamExt as _, TryStreamExt as _, future, stream};
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, StatusCode};

use super::push::{Malformed, PushRequest};
use crate::refusal::Refusal;

/// A body that arrives piece by piece.
pub(super) type DataStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// How much of a refused push is read to its end, so that git is ready to hear the answer.
const LONGEST_DRAIN: usize = 1 << 30;
/// How much compressed data is unfolded at once: at most about a thousand times as much comes out.
const COMPRESSED_SLICE: usize = 1024;
/// How long a push may take until the attempt is asked for once more.
const FRESH: Duration = Duration::from_secs(1);

/// The beginning of a push.
#[derive(Debug)]
pub(super) struct Prelude {
    pub(super) request: PushRequest,
    /// What was read so far: the commands, and perhaps the beginning of the pack.
    pub(super) bytes: Bytes,
}

/// The body without its compression, if it has one.
pub(super) fn plain(body: Body, headers: &HeaderMap) -> DataStream {
    let raw = body.into_data_stream().map_err(io::Error::other);
    match headers.get(CONTENT_ENCODING).map(http::HeaderValue::as_bytes) {
        None | Some(b"identity") => raw.boxed(),
        Some(b"gzip" | b"x-gzip") => inflate(raw),
        Some(_) => {
            let error = io::Error::new(io::ErrorKind::Unsupported, "the body's encoding is not supported");
            stream::once(future::ready(Err(error))).boxed()
        }
    }
}

fn inflate(raw: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> DataStream {
    // The end of the body is a piece of its own, so that a body that was cut short is an error.
    let pieces = raw.map_ok(Some).chain(stream::once(future::ready(Ok(None))));
    let mut decoder = GzDecoder::new(Vec::new());
    pieces
        .map_ok(|piece| stream::iter(slices(piece).into_iter().map(Ok::<_, io::Error>)))
        .try_flatten()
        .map(move |slice| {
            match slice? {
                Some(bytes) => decoder.write_all(&bytes)?,
                None => decoder.try_finish()?,
            }
            Ok(Bytes::from(std::mem::take(decoder.get_mut())))
        })
        .try_filter(|bytes| future::ready(!bytes.is_empty()))
        .boxed()
}

/// The same piece in parts so small that what they unfold to is small as well.
fn slices(piece: Option<Bytes>) -> Vec<Option<Bytes>> {
    let Some(mut piece) = piece else {
        return vec![None];
    };
    let mut parts = Vec::with_capacity(piece.len().div_ceil(COMPRESSED_SLICE));
    while !piece.is_empty() {
        let length = piece.len().min(COMPRESSED_SLICE);
        parts.push(Some(piece.split_to(length)));
    }
    parts
}

/// Reads the commands of a push; what was read beyond them stays with them.
pub(super) async fn split_prelude(mut body: DataStream) -> Result<(Prelude, DataStream), Refusal> {
    let mut bytes = Vec::new();
    loop {
        if let Some((request, _)) = PushRequest::read(&bytes).map_err(|error| malformed(&error))? {
            return Ok((
                Prelude {
                    request,
                    bytes: bytes.into(),
                },
                body,
            ));
        }
        match body.next().await {
            Some(Ok(piece)) => bytes.extend_from_slice(&piece),
            Some(Err(_)) | None => return Err(malformed(&Malformed("it ends too early"))),
        }
    }
}

fn malformed(error: &Malformed) -> Refusal {
    let detail = format!("fabrica: the push cannot be read: {}", error.0);
    Refusal::new(StatusCode::BAD_REQUEST, "push.malformed", detail)
}

/// The body as it was before it was split.
pub(super) fn rejoin(read: Bytes, rest: DataStream) -> DataStream {
    stream::once(future::ready(Ok(read))).chain(rest).boxed()
}

/// The same body, but its last piece waits until the attempt is found to be the session's current one still. A process
/// that was frozen in the middle of a push does not complete it when it goes on: without its end, a push does nothing.
pub(super) fn guarded(body: DataStream, sink: Arc<dyn SessionSink>) -> DataStream {
    let state = (body, None::<Bytes>, Instant::now());
    stream::try_unfold(state, move |(mut body, mut held, mut seen)| {
        let sink = Arc::clone(&sink);
        async move {
            while let Some(piece) = body.try_next().await? {
                if let Some(earlier) = held.replace(piece) {
                    return Ok(Some((earlier, (body, held, seen))));
                }
            }
            let Some(last) = held.take() else { return Ok(None) };
            if seen.elapsed() > FRESH {
                sink.authorize().await.map_err(io::Error::other)?;
                seen = Instant::now();
            }
            Ok(Some((last, (body, None, seen))))
        }
    })
    .boxed()
}

/// Reads a body to its end and forgets it.
pub(super) async fn drain(mut body: DataStream) {
    let mut read = 0;
    while let Some(Ok(piece)) = body.next().await {
        read += piece.len();
        if read > LONGEST_DRAIN {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn compressed(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    async fn inflated(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let pieces: Vec<io::Result<Bytes>> = bytes
            .chunks(3)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let whole: Vec<Bytes> = inflate(stream::iter(pieces)).try_collect().await?;
        Ok(whole.concat())
    }

    #[tokio::test]
    async fn compressed_bodies_are_read_and_cut_ones_are_errors() {
        let bytes = compressed(b"0032want and have");
        assert_eq!(inflated(&bytes).await.unwrap(), b"0032want and have");
        assert!(inflated(&bytes[..bytes.len() - 4]).await.is_err());
        assert!(inflated(b"not gzip at all").await.is_err());
    }
}
