//! `fabrica answer ID [TEXT]`: answers what an agent asks.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use fabrica_cli::assembly::{DataArgs, DatabaseArgs, Directories, Environment, RepositoryArgs, open_store};
use fabrica_cli::assembly::{Role, repository_policy};
use fabrica_core::clock::{IdSource, SystemClock, SystemEntropy};
use fabrica_core::ids::SessionId;
use fabrica_core::orchestrator::{AnswerSubmission, submit_answer};
use fabrica_core::ports::Store;
use fabrica_core::ports::store::{Answered, Question};
use fabrica_core::session::{Session, SessionStatus};

use super::run::PlanFile;
use super::show::find;
use crate::exit::Exit;
use crate::problem::Problem;
use crate::render::session::question;
use crate::ui::text::sanitize_lines;
use crate::ui::{Style, Ui};

/// Answer what the agent of a session asks; the session goes on with the answer
#[derive(Debug, Clone, Args)]
pub(crate) struct AnswerArgs {
    /// Its id, or as many of its first digits as tell it from others
    id: String,
    /// The answer, or the number of an option; `-` reads it from stdin. Without it the question is shown, and a terminal is
    /// asked
    answer: Option<String>,
    /// A new version of the whole plan, for the same repository
    #[arg(long, value_name = "PATH")]
    plan: Option<PathBuf>,
    /// Who answers [default: the user's name]
    #[arg(long = "as", value_name = "NAME", env = "FABRICA_ANSWER_AS")]
    name: Option<String>,
    #[command(flatten)]
    repositories: RepositoryArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    data: DataArgs,
}

pub(crate) async fn run(args: &AnswerArgs, ui: Ui) -> Result<Exit, Problem> {
    let directories = Directories::resolve(&args.data, &Environment::of_process());
    let store = open_store(&args.database, &directories).await?;
    let session = find(&store, &args.id).await?;
    let open = open_question(&store, &session).await?;
    let text = match args.answer.as_deref() {
        Some("-") => {
            let text = io::read_to_string(io::stdin()).map_err(|error| unreadable(&error))?;
            chosen(&open.escalation.options, &text)?
        }
        Some(text) => chosen(&open.escalation.options, text)?,
        None => match ask(&open, ui)? {
            Some(text) => text,
            None => return Ok(Exit::Escalated),
        },
    };
    let plan = match &args.plan {
        Some(path) => Some(PlanFile::read(path)?),
        None => None,
    };
    let (plan, directory) = plan.map(|plan| (plan.text, plan.directory)).unzip();
    let answer = AnswerSubmission {
        session: session.id,
        question: Some(open.id),
        text,
        by: args.name.clone().unwrap_or_else(user),
        plan,
        directory: directory.flatten(),
    };
    let ids = IdSource::new(&SystemClock, &SystemEntropy);
    let policy = repository_policy(&args.repositories, Role::Cli);
    let short = session.id.short();
    match submit_answer(&*store, ids, &policy, answer).await? {
        Answered::Accepted(_) => {
            ui.say(&format!("session {short} has its answer"));
            ui.say(&format!(
                "hint: a service on this database goes on with it; without one, `fabrica resume {short}` does"
            ));
            Ok(Exit::Success)
        }
        Answered::Already(question) => Err(already(session.id, &question)),
    }
}

/// The question that the session waits with.
pub(crate) async fn open_question(store: &Arc<dyn Store>, session: &Session) -> Result<Question, Problem> {
    let newest = store.questions(session.id).await?.pop();
    let short = session.id.short();
    match newest {
        Some(question) if question.answer.is_some() => Err(already(session.id, &question)),
        Some(question) if session.status == SessionStatus::Escalated => Ok(question),
        Some(_) | None => {
            let message = format!("session {} is {} and asks nothing", session.id, session.status);
            Err(
                Problem::new(Exit::Usage, "question.not_open", message).hint(format!(
                    "`fabrica show {short} --messages` tells what became of it"
                )),
            )
        }
    }
}

fn already(session: SessionId, question: &Question) -> Problem {
    let by = question
        .answer
        .as_ref()
        .and_then(|answer| answer.by.clone())
        .unwrap_or_else(|| "nobody, before the deadline".into());
    let text = question.answer.as_ref().map_or("", |answer| answer.text.as_str());
    Problem::new(
        Exit::Failure,
        "question.already_answered",
        format!("the question was answered before, by {by}"),
    )
    .diagnosis(text.lines().map(str::to_owned))
    .hint(format!(
        "the first answer stands; `fabrica resume {}` goes on where no service does",
        session.short()
    ))
}

/// Shows the question, and asks for the answer where a person can give one.
pub(crate) fn ask(open: &Question, ui: Ui) -> Result<Option<String>, Problem> {
    ui.say(&ui.styled(Style::Yellow, &question(open)));
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    let choice = if open.escalation.options.is_empty() {
        "Your answer (nothing leaves it open):"
    } else {
        "Your answer, or the number of an option (nothing leaves it open):"
    };
    loop {
        ui.say(choice);
        let mut line = String::new();
        io::stdin()
            .lock()
            .read_line(&mut line)
            .map_err(|error| unreadable(&error))?;
        let line = line.trim();
        if line.is_empty() {
            return Ok(None);
        }
        match chosen(&open.escalation.options, line) {
            Ok(text) => return Ok(Some(text)),
            Err(problem) => ui.say(&ui.styled(Style::Yellow, &problem.message)),
        }
    }
}

fn unreadable(error: &io::Error) -> Problem {
    Problem::new(
        Exit::Usage,
        "answer.unreadable",
        format!("the answer cannot be read: {error}"),
    )
    .hint("give it as an argument, or as UTF-8 text on stdin with `-`")
}

/// A number stands for the option that has it; everything else is the answer itself. Where there are options, a number that
/// none of them has is a slip, and an answer cannot be taken back.
fn chosen(options: &[String], text: &str) -> Result<String, Problem> {
    let trimmed = text.trim();
    let number = trimmed.parse::<usize>().ok().filter(|_| !options.is_empty());
    let Some(number) = number else {
        return Ok(text.to_owned());
    };
    let option = number.checked_sub(1).and_then(|place| options.get(place));
    let option = option.or_else(|| options.iter().find(|option| *option == trimmed));
    option.cloned().ok_or_else(|| {
        let message = format!("there is no option {number}: the question has {}", options.len());
        Problem::new(Exit::Usage, "answer.no_such_option", message)
            .hint("name one of them by its number, or answer in words; nothing was stored")
    })
}

/// Who answers, where nobody says.
pub(crate) fn user() -> String {
    let known = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let name = known("USER").or_else(|| known("LOGNAME"));
    sanitize_lines(&name.unwrap_or_else(|| "somebody at the command line".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_choose_among_options_and_slips_are_no_answers() {
        let text = |options: &[&str], text: &str| {
            let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
            chosen(&options, text).map_err(|problem| problem.code)
        };
        assert_eq!(text(&["red", "blue"], " 2\n").unwrap(), "blue");
        assert_eq!(text(&["red", "blue"], "neither").unwrap(), "neither");
        assert_eq!(text(&["20", "30"], "30").unwrap(), "30");
        assert_eq!(text(&[], "3").unwrap(), "3");
        for slip in ["0", "3", "99"] {
            assert_eq!(text(&["red", "blue"], slip).unwrap_err(), "answer.no_such_option");
        }
    }
}
