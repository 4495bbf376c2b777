//! The runner's program under other names and arguments: what the agent's side of asking is made of, and what git signs
//! with.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use super::hook::{Moment, decide, hear};
use super::mcp;
use super::record::Questions;
use super::setup::QUESTIONS_VARIABLE;
use super::shell::{self, Request};
use crate::signing;

/// The most that a hook is given: a call of a tool.
const MAX_INPUT: u64 = 16 * 1024 * 1024;

/// What `fabrica-escalate`, or the program with arguments, was asked to do, and how it ended. Nothing if the arguments
/// (the program's name first) are those of the runner itself.
///
/// ```
/// assert!(fabrica_runner::helper(&["/opt/fabrica/bin/fabrica-runner".into()]).is_none());
/// ```
pub fn helper(arguments: &[OsString]) -> Option<ExitCode> {
    let arguments: Vec<String> = arguments
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let (program, rest) = arguments.split_first()?;
    let name = Path::new(program).file_name().unwrap_or_default();
    let ended = if name == shell::NAME {
        escalate(rest)
    } else {
        match rest.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] => return None,
            ["-Y", arguments @ ..] => return Some(signing::sign(arguments)),
            ["mcp", directory] => mcp::serve(
                io::stdin().lock(),
                io::stdout().lock(),
                &Questions::at(*directory),
            )
            .map_err(Problem::from),
            ["hook", moment, directory] => hook(moment, Path::new(directory)),
            _ => Err(Problem::Usage(
                "unknown arguments: the runner has none".to_owned(),
            )),
        }
    };
    Some(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => problem.tell(name.to_string_lossy().as_ref()),
    })
}

/// Why it went wrong.
enum Problem {
    /// The arguments are wrong.
    Usage(String),
    /// It did not work.
    Failed(String),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Problem {
    fn tell(self, name: &str) -> ExitCode {
        let (words, code) = match self {
            Self::Usage(words) => (format!("{words}\nhint: see {name} --help"), 2),
            Self::Failed(words) => (words, 1),
        };
        // Nobody is left to tell if this fails.
        let _ = writeln!(io::stderr(), "error: {words}");
        ExitCode::from(code)
    }
}

fn escalate(arguments: &[String]) -> Result<(), Problem> {
    match shell::read(arguments, io::stdin().lock()).map_err(Problem::Usage)? {
        Request::Help => io::stdout().write_all(shell::HELP.as_bytes())?,
        Request::Ask(question) => {
            let directory = std::env::var_os(QUESTIONS_VARIABLE).ok_or_else(|| {
                Problem::Failed(format!(
                    "{QUESTIONS_VARIABLE} is not set: this works for the agent in a Fabrica sandbox only"
                ))
            })?;
            Questions::at(directory).record(&question)?;
            io::stdout().write_all(shell::recorded().as_bytes())?;
        }
    }
    Ok(())
}

fn hook(moment: &str, directory: &Path) -> Result<(), Problem> {
    let moment = Moment::named(moment).ok_or_else(|| Problem::Usage(format!("unknown hook {moment:?}")))?;
    let mut input = Vec::new();
    io::stdin().take(MAX_INPUT).read_to_end(&mut input)?;
    let input: Value = serde_json::from_slice(&input).map_err(io::Error::from)?;
    let decision = match moment {
        Moment::AfterTool | Moment::BeforeEnd => hear(moment, &input, directory),
        _ => decide(moment, &input, &Questions::at(directory)),
    };
    if let Some(decision) = decision {
        writeln!(io::stdout(), "{decision}")?;
    }
    Ok(())
}
