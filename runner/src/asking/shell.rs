//! `fabrica-escalate`: how any program asks a person.

use std::io::Read;

use fabrica_core::protocol::{AGENT_ASKED, Escalation, Urgency};

use super::question::{checked, urgency};

/// The program's name.
pub(super) const NAME: &str = "fabrica-escalate";
/// What it says about itself.
pub(super) const HELP: &str = "\
Ask a person, from inside a Fabrica sandbox.

Usage: fabrica-escalate [OPTIONS] QUESTION

The question is recorded. End with exit code 85 afterwards: your work is kept, and you are run again with the answer in
the file that $FABRICA_ANSWER names.

Arguments:
  QUESTION  The question, complete in itself; `-` reads it from standard input

Options:
      --option TEXT      An answer to choose from; may be given several times
      --context TEXT     What the person should know
      --urgency URGENCY  low, normal or high [default: normal]
  -h, --help             Print help
";
/// The longest question on standard input.
const MAX_INPUT: u64 = 1024 * 1024;

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// To be told about the program.
    Help,
    /// To ask.
    Ask(Escalation),
}

/// What is printed once the question is recorded.
pub(super) fn recorded() -> String {
    format!("recorded: now end with exit code {AGENT_ASKED}\n")
}

/// Reads the arguments, without the program's name.
pub(super) fn read(arguments: &[String], input: impl Read) -> Result<Request, String> {
    let mut asked = Escalation {
        question: String::new(),
        options: Vec::new(),
        context: String::new(),
        urgency: Urgency::Normal,
    };
    let mut question = None;
    let mut arguments = arguments.iter();
    let mut only_positional = false;
    while let Some(argument) = arguments.next() {
        if only_positional || argument == "-" || !argument.starts_with('-') {
            if question.replace(argument.clone()).is_some() {
                return Err(format!("unexpected argument {argument:?}: quote the question"));
            }
            continue;
        }
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let mut value = || {
            value
                .clone()
                .or_else(|| arguments.next().cloned())
                .ok_or_else(|| format!("{name} needs a value"))
        };
        match name {
            "--" => only_positional = true,
            "-h" | "--help" => return Ok(Request::Help),
            "--option" => asked.options.push(value()?),
            "--context" => asked.context = value()?,
            "--urgency" => asked.urgency = urgency(&value()?)?,
            _ => return Err(format!("unexpected option {name:?}")),
        }
    }
    asked.question = match question {
        None => return Err("there is no question".to_owned()),
        Some(dash) if dash == "-" && !only_positional => {
            let mut text = String::new();
            input
                .take(MAX_INPUT)
                .read_to_string(&mut text)
                .map_err(|error| format!("standard input cannot be read: {error}"))?;
            text
        }
        Some(question) => question,
    };
    checked(&asked).map(Request::Ask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str], input: &str) -> Result<Request, String> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        read(&arguments, input.as_bytes())
    }

    fn asked(arguments: &[&str], input: &str) -> Escalation {
        match parse(arguments, input) {
            Ok(Request::Ask(question)) => question,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn questions_are_read_in_every_form() {
        let question = asked(
            &[
                "--option",
                "a",
                "--option=b",
                "--context",
                "-c",
                "--urgency",
                "high",
                "Which?",
            ],
            "",
        );
        assert_eq!(
            question,
            Escalation {
                question: "Which?".into(),
                options: vec!["a".into(), "b".into()],
                context: "-c".into(),
                urgency: Urgency::High
            }
        );
        assert_eq!(asked(&["-"], "From\ninput?\n").question, "From\ninput?");
        assert_eq!(asked(&["--", "--why?"], "").question, "--why?");
        assert_eq!(asked(&["--", "-"], "not read").question, "-");
        assert_eq!(parse(&["-h"], ""), Ok(Request::Help));
        assert_eq!(parse(&["--help", "x", "y"], ""), Ok(Request::Help));
    }

    #[test]
    fn mistakes_are_told() {
        for (arguments, words) in [
            (vec![], "there is no question"),
            (vec!["--option"], "--option needs a value"),
            (vec!["Which", "one?"], "quote the question"),
            (vec!["--verbose", "Which?"], "unexpected option"),
            (vec!["--urgency", "now", "Which?"], "low, normal or high"),
            (vec!["-"], "the question is empty"),
        ] {
            let problem = parse(&arguments, "").unwrap_err();
            assert!(problem.contains(words), "{arguments:?}: {problem}");
        }
    }

    #[test]
    fn the_help_names_the_exit_code_of_the_protocol() {
        assert!(HELP.contains(&AGENT_ASKED.to_string()) && recorded().contains(&AGENT_ASKED.to_string()));
    }
}
