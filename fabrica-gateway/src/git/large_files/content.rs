//! The content of an object on its way out of the sandbox.

use std::error::Error;
use std::io;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest as _, Sha256};

use super::batch::Object;
use crate::git::body::DataStream;

/// The same content, but its end is an error if it is not what the object's name and size say. The last piece is held back
/// until that is known: without it nobody takes the rest for the object.
pub(super) fn verified(content: DataStream, object: &Object) -> DataStream {
    let state = (content, None::<Bytes>, Some(Sha256::new()), 0, object.clone());
    stream::try_unfold(
        state,
        |(mut content, mut held, mut hash, mut length, object)| async move {
            while let (Some(hash), Some(piece)) = (&mut hash, content.try_next().await?) {
                hash.update(&piece);
                length += piece.len() as u64;
                if let Some(earlier) = held.replace(piece) {
                    return Ok(Some((
                        earlier,
                        (content, held, Some(hash.clone()), length, object),
                    )));
                }
            }
            if let Some(hash) = hash
                && (length != object.size || hex(&hash.finalize()) != object.oid.as_str())
            {
                return Err(wrong(&object));
            }
            Ok(held.map(|last| (last, (content, None, None, length, object))))
        },
    )
    .boxed()
}

fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Bytes::copy_from_slice(bytes))
}

/// Whether content did not get to its end because it was not what its name says.
pub(super) fn is_wrong(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::InvalidData
        {
            return true;
        }
        next = error.source();
    }
    false
}

fn wrong(object: &Object) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the content is not that of the object {}", object.oid),
    )
}

#[cfg(test)]
mod tests {
    use super::super::batch::ObjectId;
    use super::*;

    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    async fn sent(pieces: &[&'static [u8]], size: u64) -> (Vec<u8>, bool) {
        let object = Object {
            oid: ObjectId::try_from(HELLO.to_owned()).unwrap(),
            size,
        };
        let pieces: Vec<io::Result<Bytes>> =
            pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect();
        let mut content = verified(stream::iter(pieces).boxed(), &object);
        let mut sent = Vec::new();
        while let Some(piece) = content.next().await {
            match piece {
                Ok(piece) => sent.extend_from_slice(&piece),
                Err(_) => return (sent, false),
            }
        }
        (sent, true)
    }

    #[tokio::test]
    async fn only_what_the_name_says_gets_to_its_end() {
        assert_eq!(sent(&[b"hel", b"l", b"o"], 5).await, (b"hello".to_vec(), true));
        assert_eq!(sent(&[b"hello"], 5).await, (b"hello".to_vec(), true));
        assert_eq!(sent(&[b"hel", b"p!"], 5).await, (b"hel".to_vec(), false));
        assert_eq!(sent(&[b"hello"], 4).await, (Vec::new(), false));
        assert_eq!(sent(&[b"hel"], 5).await, (Vec::new(), false));
        assert_eq!(sent(&[], 5).await, (Vec::new(), false));
    }
}
