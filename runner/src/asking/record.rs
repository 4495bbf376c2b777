//! The questions of one run, a file each. They are written by the agent's processes, several at once perhaps, and read
//! by the runner, which trusts none of it.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use fabrica_core::clock::{Entropy as _, SystemEntropy};
use fabrica_core::protocol::Escalation;
use tracing::warn;

use super::question::{checked, cleaned, merged};
use crate::distrusted;

/// How many questions are kept.
const MOST: u32 = 16;
/// How long a file may be.
const MAX_BYTES: u64 = 256 * 1024;

/// The directory of the questions.
#[derive(Debug, Clone)]
pub(crate) struct Questions(PathBuf);

impl Questions {
    pub(crate) fn at(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    /// Begins without any question.
    pub(crate) fn begin(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&self.0)
    }

    /// Keeps a question. It is there as a whole or not at all, and never in the place of another.
    pub(super) fn record(&self, question: &Escalation) -> io::Result<()> {
        let mut name = [0; 8];
        SystemEntropy.fill(&mut name);
        let unfinished = self.0.join(format!(".new-{:016x}", u64::from_ne_bytes(name)));
        std::fs::write(&unfinished, serde_json::to_vec(question)?)?;
        let placed = self.place(&unfinished);
        std::fs::remove_file(&unfinished)?;
        placed
    }

    fn place(&self, unfinished: &Path) -> io::Result<()> {
        for number in 1..=MOST {
            match std::fs::hard_link(unfinished, self.path(number)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                placed => return placed,
            }
        }
        Err(io::Error::other("too many questions have been asked already"))
    }

    fn path(&self, number: u32) -> PathBuf {
        self.0.join(format!("{number}.json"))
    }

    /// Whether something was asked.
    pub(super) fn any(&self) -> bool {
        self.read().is_some()
    }

    /// What was asked.
    pub(crate) fn read(&self) -> Option<Escalation> {
        merged((1..=MOST).filter_map(|number| match read(&self.path(number)) {
            Ok(question) => question,
            Err(error) => {
                warn!(%error, number, "a recorded question cannot be read");
                None
            }
        }))
    }
}

fn read(path: &Path) -> io::Result<Option<Escalation>> {
    let file = match distrusted::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut content = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut content)?;
    let question = serde_json::from_slice(&content)?;
    checked(&cleaned(question)).map(Some).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use fabrica_core::protocol::Urgency;

    use super::*;

    fn question(text: &str) -> Escalation {
        Escalation {
            question: text.into(),
            options: vec![],
            context: String::new(),
            urgency: Urgency::Normal,
        }
    }

    #[test]
    fn questions_that_come_at_once_are_all_kept_and_a_new_run_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let questions = Questions::at(directory.path().join("questions"));
        questions.begin().unwrap();
        assert_eq!(questions.read(), None);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let questions = &questions;
                scope.spawn(move || {
                    questions
                        .record(&question(&format!("Question {number}?")))
                        .unwrap();
                });
            }
        });
        let all = questions.read().unwrap();
        let text = format!("{} {}", all.question, all.context);
        assert!(
            (0..8).all(|number| text.contains(&format!("Question {number}?"))),
            "{text}"
        );
        let files = std::fs::read_dir(questions.directory()).unwrap().count();
        assert_eq!(files, 8, "nothing unfinished is left");
        questions.begin().unwrap();
        assert!(!questions.any());
    }

    #[test]
    fn what_is_no_question_and_links_to_the_runners_secrets_are_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let questions = Questions::at(directory.path());
        std::os::unix::fs::symlink("/proc/self/environ", questions.path(1)).unwrap();
        std::fs::write(questions.path(2), "{").unwrap();
        std::fs::write(questions.path(3), r#"{"question":" "}"#).unwrap();
        assert_eq!(questions.read(), None);
        questions.record(&question("Really?\0")).unwrap();
        assert_eq!(questions.read().unwrap().question, "Really?\u{fffd}");
    }
}
