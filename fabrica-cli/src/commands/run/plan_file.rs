//! The plan as it is handed in: a file or stdin.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use fabrica_core::plan::{MAX_PLAN_BYTES, PlanError};

use crate::exit::Exit;
use crate::problem::Problem;

/// A plan's text, and where it is from.
#[derive(Debug)]
pub(crate) struct PlanFile {
    pub(crate) text: String,
    /// What a relative local repository is relative to, if that is not the working directory.
    pub(crate) directory: Option<PathBuf>,
    shown: String,
}

impl PlanFile {
    pub(crate) fn read(path: &Path) -> Result<Self, Problem> {
        if path == Path::new("-") {
            let text = text("stdin", io::stdin().lock())?;
            return Ok(Self {
                text,
                directory: None,
                shown: "stdin".into(),
            });
        }
        let shown = path.display().to_string();
        let file = File::open(path).map_err(|error| unreadable(&shown, &error))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok(Self {
            text: text(&shown, file)?,
            directory: parent.map(Path::to_owned),
            shown,
        })
    }

    /// What is wrong with it, and where.
    pub(super) fn problem(&self, error: PlanError) -> Problem {
        let problem = Problem::from(error);
        Problem {
            message: format!("{}: {}", self.shown, problem.message),
            ..problem
        }
    }
}

fn unreadable(shown: &str, error: &io::Error) -> Problem {
    Problem::new(
        Exit::Usage,
        "plan.unreadable",
        format!("cannot read the plan {shown}: {error}"),
    )
    .hint("name a markdown file, or `-` for stdin")
}

fn text(shown: &str, mut source: impl io::Read) -> Result<String, Problem> {
    // What is larger is refused anyway; this much is enough to say so.
    let limit = MAX_PLAN_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    source
        .by_ref()
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(shown, &error))?;
    if bytes.len() > MAX_PLAN_BYTES {
        let message = format!("{shown}: the plan has more than the {MAX_PLAN_BYTES} bytes that are accepted");
        return Err(Problem::new(Exit::Usage, "plan.too_large", message)
            .hint("move long material into the repository, and name it in the plan"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].split(|byte| *byte == b'\n').count();
        Problem::new(
            Exit::Usage,
            "plan.not_utf8",
            format!("{shown}: line {line} is not UTF-8"),
        )
        .hint("save the plan as UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_or_no_text_is_refused() {
        let large = vec![b'x'; MAX_PLAN_BYTES + 10];
        assert_eq!(text("stdin", &large[..]).unwrap_err().code, "plan.too_large");
        let latin = text("stdin", &b"one\ntwo\xe9\n"[..]).unwrap_err();
        assert_eq!(
            (latin.code.as_str(), latin.message.as_str()),
            ("plan.not_utf8", "stdin: line 2 is not UTF-8")
        );
        assert_eq!(text("stdin", &b"\xef\xbb\xbfplan"[..]).unwrap(), "\u{feff}plan");
    }

    #[test]
    fn a_plan_that_is_not_there_is_named() {
        let problem = PlanFile::read(Path::new("no/such/plan.md")).unwrap_err();
        assert!(problem.message.contains("no/such/plan.md"));
        assert_eq!(problem.exit, Exit::Usage);
    }
}
