//! The agent's own record of the conversation, handed over as an artifact.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::OFlags;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::gateway::Gateway;

/// The artifact's name.
const NAME: &str = "claude-transcript.jsonl";
/// How long it may be; of a longer one the end is kept.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// How often it is offered to a gateway that does not take it.
const TRIES: u32 = 5;
/// How long a gateway that is away is waited for.
const PATIENCE: Duration = Duration::from_mins(10);
/// The pause meanwhile.
const AWAY_PAUSE: Duration = Duration::from_millis(500);

/// Uploads the transcript. Without it nothing fails.
pub(crate) async fn upload(gateway: &Gateway, path: &Path) {
    let content = match read(path, MAX_BYTES) {
        Ok(content) => Bytes::from(content),
        Err(error) => return warn!(%error, "the agent's transcript cannot be read"),
    };
    let started = Instant::now();
    let mut tries = 0;
    while tries < TRIES && started.elapsed() < PATIENCE {
        match gateway.artifact(NAME, content.clone()).await {
            Ok(()) => return,
            Err(error) if error.away() => {
                debug!(%error, "the agent's transcript waits for the gateway");
                sleep(AWAY_PAUSE).await;
            }
            Err(error) if error.fenced() || error.malformed() => {
                return warn!(%error, "the agent's transcript was refused");
            }
            Err(error) => {
                warn!(%error, "the agent's transcript is not stored yet");
                sleep(Duration::from_millis(500) * 2_u32.pow(tries)).await;
                tries += 1;
            }
        }
    }
}

/// The end of the file, in whole lines. The path is the agent's to write to: links are not followed.
fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).map_err(io::Error::other)?;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let skipped = metadata.len().saturating_sub(limit);
    file.seek(SeekFrom::Start(skipped))?;
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    if skipped > 0
        && let Some(end) = content.iter().position(|byte| *byte == b'\n')
    {
        content.drain(..=end);
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_in_whole_lines_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.jsonl");
        std::fs::write(&path, "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n").unwrap();
        assert_eq!(read(&path, 1_000).unwrap().len(), 24);
        assert_eq!(read(&path, 10).unwrap(), b"{\"n\":3}\n");
        let link = directory.path().join("link.jsonl");
        std::os::unix::fs::symlink("/proc/self/environ", &link).unwrap();
        assert!(read(&link, 1_000).is_err());
    }
}
