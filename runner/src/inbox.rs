//! What people say to the agent while it works: files that its hooks find after each call of a tool, and before it ends.
//!
//! A note is in `new` until somebody takes it; whoever moves it to `heard` tells the agent, so it is told once. The files are
//! the agent's as much as the runner's, so the runner itself only looks at their names, and remembers the rest.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fabrica_core::protocol::Told;
use tracing::warn;

/// The notes to one agent.
#[derive(Debug)]
pub(crate) struct Inbox {
    directory: PathBuf,
    /// The agent knew all up to this one from the start.
    known: u32,
    notes: Mutex<BTreeMap<u32, Told>>,
    /// All up to this one were heard a while ago.
    settled: AtomicU32,
}

impl Inbox {
    pub(crate) fn new(directory: PathBuf, known: u32) -> Self {
        Self {
            directory,
            known,
            notes: Mutex::default(),
            settled: AtomicU32::new(known),
        }
    }

    /// Puts a note there; one that was there before is not told again.
    pub(crate) fn receive(&self, note: &Told) {
        let mut notes = self.notes();
        if note.number <= self.known || notes.contains_key(&note.number) {
            return;
        }
        if let Err(error) = self.write(note) {
            warn!(%error, note.number, "a note cannot be handed to the agent yet");
        }
        notes.insert(note.number, note.clone());
    }

    fn write(&self, note: &Told) -> io::Result<()> {
        let unfinished = self.directory.join(format!("{}.unfinished", note.number));
        std::fs::create_dir_all(self.directory.join(NEW))?;
        std::fs::create_dir_all(self.directory.join(HEARD))?;
        std::fs::write(&unfinished, serde_json::to_vec(note)?)?;
        std::fs::rename(unfinished, place(&self.directory, NEW, note.number))
    }

    /// Takes what the agent has not heard, for its next start.
    pub(crate) fn take(&self) -> Vec<Told> {
        let notes = self.notes();
        let unheard = notes.values().filter(|note| !self.has_heard(note.number));
        unheard
            .filter(|note| {
                let from = place(&self.directory, NEW, note.number);
                let to = place(&self.directory, HEARD, note.number);
                match std::fs::rename(from, &to) {
                    Ok(()) => true,
                    // It never was on the disk, or somebody removed it: the agent has to hear it all the same.
                    Err(_) if !self.has_heard(note.number) => std::fs::write(to, "").is_ok(),
                    Err(_) => false,
                }
            })
            .cloned()
            .collect()
    }

    /// The number up to which the agent has heard everything.
    pub(crate) fn heard(&self) -> u32 {
        let mut heard = self.known;
        for number in self.notes().keys() {
            if *number != heard + 1 || !self.has_heard(*number) {
                break;
            }
            heard = *number;
        }
        heard
    }

    /// The same, of a while ago: what was heard then is part of the agent's conversation by now.
    pub(crate) fn settled(&self) -> u32 {
        self.settled.load(Ordering::Relaxed)
    }

    /// Notes what has been heard by now, and returns who said what is new.
    pub(crate) fn settle(&self) -> Vec<String> {
        let heard = self.heard();
        let before = self.settled.swap(heard, Ordering::Relaxed);
        let notes = self.notes();
        (before + 1..=heard)
            .filter_map(|number| Some(notes.get(&number)?.by.clone()))
            .collect()
    }

    fn has_heard(&self, number: u32) -> bool {
        place(&self.directory, HEARD, number).symlink_metadata().is_ok()
    }

    fn notes(&self) -> MutexGuard<'_, BTreeMap<u32, Told>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const NEW: &str = "new";
const HEARD: &str = "heard";

fn place(directory: &Path, state: &str, number: u32) -> PathBuf {
    directory.join(state).join(format!("{number}.json"))
}

/// Takes what the agent has not heard, in the agent's own hook.
pub(crate) fn take(directory: &Path) -> Vec<Told> {
    let Ok(files) = std::fs::read_dir(directory.join(NEW)) else {
        return Vec::new();
    };
    let mut numbers: Vec<u32> = files
        .flatten()
        .filter_map(|file| file.file_name().to_str()?.strip_suffix(".json")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
        .into_iter()
        .filter_map(|number| {
            let heard = place(directory, HEARD, number);
            std::fs::rename(place(directory, NEW, number), &heard).ok()?;
            serde_json::from_slice(&std::fs::read(heard).ok()?).ok()
        })
        .collect()
}

/// Notes in words for the agent.
pub(crate) fn words(notes: &[Told]) -> String {
    let said: Vec<_> = notes
        .iter()
        .map(|note| format!("{} says:\n\n{}", note.by, note.text))
        .collect();
    said.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(number: u32) -> Told {
        Told {
            number,
            by: "ada".into(),
            text: format!("note {number}"),
        }
    }

    fn numbers(notes: &[Told]) -> Vec<u32> {
        notes.iter().map(|note| note.number).collect()
    }

    #[test]
    fn a_note_is_told_once_by_whoever_takes_it_first() {
        let directory = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(directory.path().join("inbox"), 2);
        assert_eq!((inbox.heard(), inbox.take()), (2, vec![]));
        for number in [2, 3, 4, 3] {
            inbox.receive(&note(number));
        }
        assert_eq!(inbox.heard(), 2);
        assert_eq!(take(&inbox.directory), [note(3), note(4)], "the second is known");
        assert_eq!((inbox.heard(), inbox.settled()), (4, 2));
        assert_eq!(inbox.settle(), ["ada", "ada"]);
        assert_eq!(inbox.settled(), 4);
        inbox.receive(&note(3));
        inbox.receive(&note(5));
        assert_eq!(inbox.take(), [note(5)]);
        assert_eq!((inbox.take(), take(&inbox.directory)), (vec![], vec![]));
        assert_eq!(inbox.heard(), 5);
    }

    #[test]
    fn what_the_agent_removes_is_told_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(directory.path().to_owned(), 0);
        inbox.receive(&note(1));
        std::fs::remove_file(directory.path().join("new/1.json")).unwrap();
        assert_eq!(numbers(&inbox.take()), [1]);
        assert_eq!(inbox.heard(), 1);
    }

    #[test]
    fn a_gap_is_not_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(directory.path().to_owned(), 0);
        inbox.receive(&note(2));
        assert_eq!(numbers(&take(&inbox.directory)), [2]);
        assert_eq!(inbox.heard(), 0, "the first is still to come");
        inbox.receive(&note(1));
        assert_eq!(numbers(&take(&inbox.directory)), [1]);
        assert_eq!(inbox.heard(), 2);
    }
}
