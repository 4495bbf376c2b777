//! Many large requests at once: the gateway's memory is bounded.

use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use fabrica_core::ports::store::MAX_ARTIFACT_BYTES;
use fabrica_core::protocol::{MAX_BATCH_BYTES, MAX_EVENT_BYTES};
use flate2::Compression;
use flate2::write::GzEncoder;
use peak_alloc::PeakAlloc;

use crate::support::{RUNNER, Rig};

/// How many large posts come at once.
const POSTS: usize = 36;

/// Counts what the test has allocated, the gateway's part and its own: unlike the memory that the system says the process
/// has, it does not depend on what the allocator keeps for later.
#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Begins to look for the most that is allocated at once.
fn before() -> usize {
    ALLOCATED.reset_peak_usage();
    ALLOCATED.current_usage()
}

/// How much more than `before` was allocated at the most, in MiB.
fn grown(before: usize) -> usize {
    (ALLOCATED.peak_usage() - before) / (1024 * 1024)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_large_posts_takes_a_bounded_amount_of_memory_and_all_are_served() {
    let rig = Rig::new().await;
    *rig.sink.delay.lock().unwrap() = Some(Duration::from_millis(20));
    rig.sink.forgetful.store(true, Ordering::SeqCst);
    let artifact = Bytes::from(vec![b'x'; MAX_ARTIFACT_BYTES]);
    // JSON that is much larger once it is read.
    let start = r#"{"v":1,"seq":1,"at":"2026-11-22T10:00:00Z","event":"agent","kind":"output","summary":"","detail":{"a":["#;
    let line = format!("{start}{}0]}}}}\n", "0,".repeat((MAX_EVENT_BYTES - 200) / 2));
    let batch = Bytes::from(line.repeat(MAX_BATCH_BYTES / line.len()));
    let before = before();
    let posts: Vec<_> = (0..POSTS)
        .map(|n| {
            let request = if n % 3 > 0 {
                let url = format!("http://gateway/session/artifacts/a{n}");
                rig.client().put(url).body(artifact.clone())
            } else {
                rig.client()
                    .post("http://gateway/session/events")
                    .body(batch.clone())
            };
            tokio::spawn(request.bearer_auth(RUNNER).send())
        })
        .collect();
    for post in posts {
        let answer = post.await.unwrap().unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }
    let grown = grown(before);
    println!("{POSTS} large posts at once: {grown} MiB more");
    // Without a budget: 24 artifacts of 16 MiB, and 12 batches of 4 MiB that take 64 MiB each once they are read.
    assert!(grown < 160, "{grown} MiB");
}

#[tokio::test]
async fn a_body_that_stops_half_way_gives_its_memory_back() {
    use tokio::io::AsyncWriteExt as _;
    let rig = Rig::new().await;
    let mut held = Vec::new();
    // More than there is memory for at once.
    for _ in 0..8 {
        let mut stream = tokio::net::UnixStream::connect(rig.socket()).await.unwrap();
        let request = format!(
            "PUT /session/artifacts/a HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {RUNNER}\r\ncontent-length: {MAX_ARTIFACT_BYTES}\r\n\r\nbegun"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Those that are gone make room at once; those that only say nothing do after a while.
    held.clear();
    let answer = rig
        .client()
        .put("http://gateway/session/artifacts/b")
        .bearer_auth(RUNNER)
        .body("content")
        .send();
    let answer = tokio::time::timeout(Duration::from_secs(20), answer).await;
    assert_eq!(answer.unwrap().unwrap().status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_small_only_while_compressed_takes_no_more_memory() {
    let rig = Rig::new().await;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![b'0'; 1 << 20];
    for _ in 0..64 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = Bytes::from(encoder.finish().unwrap());
    let before = before();
    let posts: Vec<_> = (0..8)
        .map(|_| {
            let request = rig
                .client()
                .post("http://gateway/git/repository.git/git-receive-pack")
                .bearer_auth(RUNNER)
                .header("content-encoding", "gzip")
                .body(bomb.clone());
            tokio::spawn(request.send())
        })
        .collect();
    for post in posts {
        // To git it is a push of nothing, with something behind it.
        assert_eq!(post.await.unwrap().unwrap().status(), 200);
    }
    let grown = grown(before);
    println!(
        "8 bodies of {} KiB that unfold to 64 MiB: {grown} MiB more",
        bomb.len() / 1024
    );
    assert!(grown < 48, "{grown} MiB");
}
