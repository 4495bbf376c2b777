//! Pages of what a session has numbered. They are bounded in bytes too: a page is held in memory for as long as its reader
//! takes to fetch it.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use fabrica_core::ports::StoreError;
use serde::Serialize;
use tokio::task::yield_now;

use crate::problem::Problem;

/// How many bytes a page may have, except for what its last item has beyond that.
const PAGE_BYTES: usize = 512 * 1024;
/// How many items are read from the store at once. Few, since each may have hundreds of kilobytes.
const STEP: u32 = 16;

/// The items after a sequence number, in order, as an answer.
#[derive(Debug)]
pub(crate) struct Page {
    /// A JSON array that lacks its end.
    body: Vec<u8>,
    items: u32,
    /// The sequence number of the last item, or what the page comes after.
    last: u64,
    limit: u32,
    /// Whether something may follow.
    more: bool,
}

impl Page {
    /// Reads items until there are `limit`, or no more, or enough bytes of them. `read` gets the sequence number that they
    /// come after and how many are wanted; `view` says an item's sequence number and how it is shown.
    pub(crate) async fn read<T, V, F>(
        after: u64,
        limit: u32,
        read: impl Fn(u64, u32) -> F,
        mut view: impl FnMut(T) -> (u64, V),
    ) -> Result<Self, Problem>
    where
        V: Serialize,
        F: Future<Output = Result<Vec<T>, StoreError>>,
    {
        let mut page = Self {
            body: b"[".to_vec(),
            items: 0,
            last: after,
            limit,
            more: true,
        };
        while page.wanted() > 0 {
            let wanted = page.wanted();
            let items = read(page.last, wanted).await?;
            let ended = items.len() < wanted as usize;
            for item in items {
                if page.wanted() == 0 {
                    return Ok(page);
                }
                let (sequence, shown) = view(item);
                page.push(sequence, &shown)?;
                // A large one takes a while.
                yield_now().await;
            }
            if ended {
                page.more = page.wanted() == 0;
                break;
            }
        }
        Ok(page)
    }

    /// How many items to read next.
    fn wanted(&self) -> u32 {
        if self.body.len() < PAGE_BYTES {
            (self.limit - self.items).min(STEP)
        } else {
            0
        }
    }

    fn push(&mut self, sequence: u64, shown: &impl Serialize) -> Result<(), Problem> {
        if self.items > 0 {
            self.body.push(b',');
        }
        serde_json::to_writer(&mut self.body, shown)
            .map_err(|error| Problem::new("server.error", format!("an item cannot be shown: {error}")))?;
        self.items += 1;
        self.last = sequence;
        Ok(())
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// The answer. If something may follow, its `Link` header names the next page of `path`.
    pub(crate) fn answer(self, path: &str) -> Response {
        let Self {
            mut body,
            last,
            limit,
            more,
            ..
        } = self;
        body.push(b']');
        let kind = HeaderValue::from_static("application/json");
        let mut response = ([(header::CONTENT_TYPE, kind)], body).into_response();
        let next = format!("<{path}?after={last}&limit={limit}>; rel=\"next\"");
        if more && let Ok(next) = HeaderValue::try_from(next) {
            response.headers_mut().insert(header::LINK, next);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Reads a page of `count` items that each are a text of so many bytes.
    async fn page(count: u64, bytes: usize, after: u64, limit: u32) -> (Page, usize) {
        let read = AtomicUsize::new(0);
        let items = |after: u64, wanted: u32| {
            let items: Vec<u64> = (after + 1..=count).take(wanted as usize).collect();
            read.fetch_add(items.len(), Ordering::Relaxed);
            std::future::ready(Ok(items))
        };
        let page = Page::read(after, limit, items, |item| (item, "x".repeat(bytes))).await;
        (page.unwrap(), read.into_inner())
    }

    #[tokio::test]
    async fn a_page_ends_with_its_limit_or_with_what_there_is() {
        for (count, limit, items, more) in [
            (0, 5, 0, false),
            (4, 5, 4, false),
            (5, 5, 5, true),
            (40, 33, 33, true),
            (16, 100, 16, false),
            (40, 100, 40, false),
        ] {
            let (page, _) = page(count, 1, 0, limit).await;
            assert_eq!((page.items, page.more), (items, more), "{limit} of {count}");
            assert_eq!(page.last, u64::from(items));
        }
    }

    #[tokio::test]
    async fn a_page_of_large_items_ends_early_and_names_the_next() {
        let (first, read) = page(40, PAGE_BYTES / 3, 0, 40).await;
        assert_eq!((first.items, first.more, read), (3, true, 16));
        assert!(first.body.len() < 2 * PAGE_BYTES);
        let (last, _) = page(40, PAGE_BYTES / 3, 37, 40).await;
        assert_eq!((last.items, last.last), (3, 40));
        // One that is larger than all of a page comes alone.
        let (whole, _) = page(2, 2 * PAGE_BYTES, 0, 40).await;
        assert_eq!((whole.items, whole.more), (1, true));
        let link = whole.answer("/things").headers()["link"]
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(link, "</things?after=1&limit=40>; rel=\"next\"");
    }
}
