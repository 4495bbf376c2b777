//! How far a git is that takes its time: what it would show on a terminal, as words for people.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use crate::report::Reporter;

/// What takes no longer is not spoken of.
const FIRST: Duration = Duration::from_secs(5);
/// How long nothing more is said then.
const PAUSE: Duration = Duration::from_secs(30);
/// What is told, in the words of git and of git-lfs. Before the first there is what the host does, which may say anything:
/// only these words and a number are taken from it.
const TOLD: [&str; 7] = [
    "Counting objects",
    "Compressing objects",
    "Receiving objects",
    "Resolving deltas",
    "Updating files",
    "Filtering content",
    "Downloading LFS objects",
];
/// No line that is told is longer.
const LONGEST: usize = 1024;

/// What a git showed last.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Option<String>>);

impl Progress {
    /// Says it from time to time, for as long as it is asked to.
    pub(super) async fn tell(&self, reporter: &Reporter) -> Infallible {
        let mut said = None;
        sleep(FIRST).await;
        loop {
            let latest = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if latest != said
                && let Some(latest) = &latest
            {
                reporter.progress("clone", latest).await;
            }
            said = latest;
            sleep(PAUSE).await;
        }
    }

    /// For everything that it writes.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader {
            begun: Vec::new(),
            progress: self,
        }
    }
}

/// Reads what a git shows, as it comes.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    /// A line that has not ended yet.
    begun: Vec<u8>,
    progress: &'a Progress,
}

impl Reader<'_> {
    pub(super) fn take(&mut self, written: &[u8]) {
        self.begun.extend_from_slice(written);
        let Some(end) = self.begun.iter().rposition(|byte| is_end(char::from(*byte))) else {
            self.begun.truncate(LONGEST);
            return;
        };
        let rest = self.begun.split_off(end + 1);
        let lines = std::mem::replace(&mut self.begun, rest);
        let lines = String::from_utf8_lossy(&lines);
        if let Some(latest) = lines.split(is_end).rev().find_map(parse) {
            *self.progress.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(latest);
        }
    }
}

fn is_end(character: char) -> bool {
    matches!(character, '\r' | '\n')
}

/// `Receiving objects:  43% (431/1000), 450.00 MiB | 12.00 MiB/s`, without what changes too fast to be news.
fn parse(line: &str) -> Option<String> {
    let line = line.trim();
    let (what, rest) = line.strip_prefix("remote: ").unwrap_or(line).split_once(':')?;
    let what = TOLD.into_iter().find(|told| *told == what)?;
    let (percent, rest) = rest.split_once('%')?;
    let percent = percent
        .trim()
        .parse::<u8>()
        .ok()
        .filter(|percent| *percent <= 100)?;
    let size = rest
        .split_once("), ")
        .and_then(|(_, size)| size.split(" | ").next());
    let size = size.filter(|size| size.starts_with(|first: char| first.is_ascii_digit()));
    Some(match size {
        Some(size) => format!("{what}: {percent} %, {size}"),
        None => format!("{what}: {percent} %"),
    })
}

/// What of an output is for people to read afterwards: a terminal would have shown no more either.
pub(super) fn without(output: &str) -> String {
    let lines = output
        .lines()
        .map(|line| line.rsplit('\r').next().unwrap_or_default());
    let left: Vec<_> = lines.filter(|line| parse(line).is_none()).collect();
    left.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_becomes_a_line_of_words() {
        let progress = Progress::default();
        let mut reader = progress.reader();
        let mut after = |written: &str| {
            reader.take(written.as_bytes());
            progress.0.lock().unwrap().clone()
        };
        assert_eq!(
            after("Cloning into 'repository'...\nremote: Evil: 50% (1/2)\r"),
            None
        );
        assert_eq!(
            after("remote: Counting objects:  50% (1/2)\r"),
            Some("Counting objects: 50 %".into())
        );
        assert_eq!(after("Receiving objects:   1% (10/1000)\rReceiving obj"), {
            Some("Receiving objects: 1 %".into())
        });
        assert_eq!(
            after("ects:  43% (431/1000), 450.00 MiB | 12.00 MiB/s   \r"),
            Some("Receiving objects: 43 %, 450.00 MiB".into())
        );
        assert_eq!(
            after(
                "Receiving objects: 100% (3/3), 1.05 GiB | 12.00 MiB/s, done.\nUpdating files: 100% (9/9), done.\n"
            ),
            Some("Updating files: 100 %".into())
        );
        assert_eq!(
            after("Resolving deltas: many% (1/2)\rEvil: 50% (1/2)\rUpdating files: 101% (9/9)\r"),
            Some("Updating files: 100 %".into())
        );
        after(&"x".repeat(1_000_000));
        assert!(reader.begun.len() <= LONGEST);
    }

    #[test]
    fn a_diagnosis_has_what_a_terminal_shows_in_the_end() {
        let output = "Receiving objects:  1% (1/9)\rReceiving objects: 100% (9/9), done.\nReceiving objects:  43% (1/2)\r\
                      fatal: early EOF\nerror: RPC failed\n";
        assert_eq!(without(output), "fatal: early EOF\nerror: RPC failed");
    }
}
