//! Which model a request asks for, read before any of it leaves.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, future};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use super::scan::{Scanner, Verdict};

/// How much of a request is held back while its model is looked for.
const MOST_HELD: usize = 64 * 1024;
/// How much of a refused request is read: as much as the model API takes.
const LONGEST_DRAIN: usize = 32 * 1024 * 1024;

/// A body that arrives piece by piece.
type Pieces = BoxStream<'static, Result<Bytes, axum::Error>>;

/// A request whose beginning was read.
pub(crate) struct Asked {
    /// The model, or an empty text if the beginning does not name one.
    pub(crate) model: String,
    /// The body, complete.
    pub(crate) body: Pieces,
}

impl Asked {
    /// Reads as much of the body as it takes to find the model.
    pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Self {
        let mut pieces = body.into_data_stream().boxed();
        if headers.contains_key(CONTENT_ENCODING) {
            return Self {
                model: String::new(),
                body: pieces,
            };
        }
        let mut scanner = Scanner::new();
        let mut held = BytesMut::new();
        let mut next = None;
        let mut model = String::new();
        while let Some(piece) = pieces.next().await {
            let verdict = match &piece {
                Ok(piece) => scanner.read(piece),
                Err(_) => Verdict::Absent,
            };
            let full = |piece: &Bytes| held.len() + piece.len() > MOST_HELD;
            match (verdict, piece) {
                (Verdict::Open, Ok(piece)) if !full(&piece) => held.extend_from_slice(&piece),
                (verdict, piece) => {
                    if let Verdict::Model(name) = verdict {
                        model = name;
                    }
                    next = Some(piece);
                    break;
                }
            }
        }
        let held = Some(held.freeze()).filter(|held| !held.is_empty());
        Self {
            model,
            body: stream::iter(held.map(Ok).into_iter().chain(next))
                .chain(pieces)
                .boxed(),
        }
    }
}

/// Reads a refused request to its end and forgets it: a client that cannot send all of it may not look at the answer.
pub(crate) async fn drain(body: Pieces) {
    let mut read = 0;
    body.take_while(|piece| {
        read += piece.as_ref().map_or(LONGEST_DRAIN, Bytes::len);
        future::ready(read < LONGEST_DRAIN)
    })
    .for_each(|_| future::ready(()))
    .await;
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use http::HeaderValue;

    use super::*;

    async fn read(headers: &HeaderMap, pieces: &[&[u8]]) -> (String, Vec<Bytes>) {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)))
            .collect();
        let asked = Asked::read(headers, Body::from_stream(stream::iter(pieces))).await;
        (asked.model, asked.body.try_collect().await.unwrap())
    }

    #[tokio::test]
    async fn the_body_stays_complete() {
        let headers = HeaderMap::new();
        let pieces: [&[u8]; 4] = [b"{\"max\":1,\"mo", b"del\":\"cl", b"aude\",\"a\":", b"2}"];
        let (model, body) = read(&headers, &pieces).await;
        assert_eq!(model, "claude");
        assert_eq!(body.concat(), pieces.concat());
        assert_eq!(
            body.last().unwrap(),
            pieces[3],
            "what comes later is left as it is"
        );
        assert_eq!(read(&headers, &[]).await, (String::new(), vec![]));
        let (model, body) = read(&headers, &[b"{\"a\":"]).await;
        assert_eq!(
            (model.as_str(), body.concat().as_slice()),
            ("", b"{\"a\":".as_slice())
        );
    }

    #[tokio::test]
    async fn what_is_compressed_names_no_model() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let (model, body) = read(&headers, &[b"{\"model\":\"claude\"}"]).await;
        assert_eq!((model.as_str(), body.len()), ("", 1));
    }

    #[tokio::test]
    async fn only_so_much_is_held_back() {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let body = Body::from_stream(tokio_stream::wrappers::UnboundedReceiverStream::new(receiver));
        let begun = Bytes::from(format!("{{\"system\":\"{}", "x".repeat(MOST_HELD / 2)));
        for _ in 0..2 {
            sender.send(Ok::<_, std::io::Error>(begun.clone())).unwrap();
        }
        // It returns although the body goes on.
        let mut asked = Asked::read(&HeaderMap::new(), body).await;
        assert_eq!(asked.model, "");
        assert_eq!(asked.body.next().await.unwrap().unwrap(), begun);
        assert_eq!(asked.body.next().await.unwrap().unwrap(), begun);
        drop(sender);
        assert!(asked.body.next().await.is_none());
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_stays_broken() {
        let pieces = [
            Ok(Bytes::from_static(b"{\"a\"")),
            Err(std::io::Error::other("gone")),
        ];
        let asked = Asked::read(&HeaderMap::new(), Body::from_stream(stream::iter(pieces))).await;
        let pieces: Vec<_> = asked.body.collect().await;
        assert_eq!(pieces.len(), 2);
        assert!(pieces[1].is_err());
    }
}
