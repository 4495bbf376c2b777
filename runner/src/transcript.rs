//! The agent's own record of the conversation, handed over as an artifact, and put back from there.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fabrica_core::failure::Failure;
use fabrica_core::protocol::CONVERSATION_ARTIFACT;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::distrusted;
use crate::gateway::Gateway;

/// How long it may be; of a longer one the end is kept.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// The same for what is read back.
const MAX_STORED: usize = 64 * 1024 * 1024;
/// How often it is offered to a gateway that does not take it.
const TRIES: u32 = 5;
/// How long a gateway that is away is waited for.
const PATIENCE: Duration = Duration::from_mins(10);
/// The pause meanwhile.
const AWAY_PAUSE: Duration = Duration::from_millis(500);

/// The conversation at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Transcript {
    content: Bytes,
    /// Whether it is all there.
    pub(crate) whole: bool,
}

/// Reads the transcript, if that can be done.
pub(crate) fn read(path: &Path) -> Option<Transcript> {
    match end_of(path, MAX_BYTES) {
        Ok(transcript) => Some(transcript),
        Err(error) => {
            warn!(%error, "the agent's transcript cannot be read");
            None
        }
    }
}

/// Uploads the transcript, and says whether it is stored. Without it nothing fails.
pub(crate) async fn upload(gateway: &Gateway, transcript: &Transcript) -> bool {
    let started = Instant::now();
    let mut tries = 0;
    while tries < TRIES && started.elapsed() < PATIENCE {
        match gateway
            .artifact(CONVERSATION_ARTIFACT, transcript.content.clone())
            .await
        {
            Ok(()) => return true,
            Err(error) if error.away() => {
                debug!(%error, "the agent's transcript waits for the gateway");
                sleep(AWAY_PAUSE).await;
            }
            Err(error) if error.fenced() || error.malformed() => {
                warn!(%error, "the agent's transcript was refused");
                return false;
            }
            Err(error) => {
                warn!(%error, "the agent's transcript is not stored yet");
                sleep(Duration::from_millis(500) * 2_u32.pow(tries)).await;
                tries += 1;
            }
        }
    }
    false
}

/// What was stored, if anything was.
pub(crate) async fn download(gateway: &Gateway) -> Result<Option<Bytes>, Failure> {
    let mut tries = 0;
    loop {
        match gateway.stored(CONVERSATION_ARTIFACT, MAX_STORED).await {
            Ok(content) => return Ok(content),
            Err(error) if error.away() => sleep(AWAY_PAUSE).await,
            Err(error) => {
                tries += 1;
                if tries == TRIES {
                    return Err(Failure::new(
                        "checkpoint.conversation",
                        format!("the agent's conversation cannot be read back: {error}"),
                        "Fabrica's store may be in trouble; run the session again once it works.",
                    )
                    .retryable());
                }
                sleep(Duration::from_millis(500) * 2_u32.pow(tries)).await;
            }
        }
    }
}

/// The end of the file, in whole lines. The path is the agent's to write to.
fn end_of(path: &Path, limit: u64) -> io::Result<Transcript> {
    let mut file = distrusted::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(limit);
    file.seek(SeekFrom::Start(skipped))?;
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    if skipped > 0
        && let Some(end) = content.iter().position(|byte| *byte == b'\n')
    {
        content.drain(..=end);
    }
    Ok(Transcript {
        content: content.into(),
        whole: skipped == 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_in_whole_lines_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.jsonl");
        std::fs::write(&path, "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n").unwrap();
        assert_eq!(end_of(&path, 1_000).unwrap().content.len(), 24);
        assert_eq!(end_of(&path, 10).unwrap().content, "{\"n\":3}\n");
        let link = directory.path().join("link.jsonl");
        std::os::unix::fs::symlink("/proc/self/environ", &link).unwrap();
        assert!(end_of(&link, 1_000).is_err());
        assert!(end_of(&path, 1_000).unwrap().whole && !end_of(&path, 10).unwrap().whole);
    }
}
