//! How the command speaks: stdout is data, stderr is talk. All of its output goes through here.

mod live;
pub(crate) mod text;

use std::io::{self, IsTerminal as _, Write as _};

pub(crate) use live::Live;

use crate::problem::Problem;

/// A weight or colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

/// Where and how to speak.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    /// Whether stderr is a terminal on which lines may be redrawn and coloured.
    pub(crate) rich: bool,
    /// Whether a person reads stdout.
    pub(crate) stdout_is_terminal: bool,
}

impl Ui {
    /// As the terminal, `NO_COLOR`, `TERM` and the options say.
    pub(crate) fn of_process(plain: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            rich: !plain && !dumb && !set("NO_COLOR") && io::stderr().is_terminal(),
            stdout_is_terminal: io::stdout().is_terminal(),
        }
    }

    /// A line of talk.
    #[expect(clippy::unused_self, reason = "whoever speaks needs the value that knows how")]
    pub(crate) fn say(self, line: &str) {
        // When nobody listens any more, the work still goes on.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// A line of data.
    #[expect(clippy::unused_self, reason = "whoever speaks needs the value that knows how")]
    pub(crate) fn data(self, line: &str) {
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }

    /// Data as it is, without a line's end of its own.
    #[expect(clippy::unused_self, reason = "whoever speaks needs the value that knows how")]
    pub(crate) fn raw(self, text: &str) {
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }

    /// Text in a style, where styles are shown.
    pub(crate) fn styled(self, style: Style, text: &str) -> String {
        if self.rich {
            paint(style, text)
        } else {
            text.to_owned()
        }
    }

    /// What went wrong, with evidence and advice.
    pub(crate) fn problem(self, problem: &Problem) {
        let message = text::sanitize_lines(&problem.message);
        let mut lines = message.lines();
        let first = lines.next().unwrap_or_default();
        self.say(&format!(
            "{} {first} ({})",
            self.styled(Style::Red, "error:"),
            problem.code
        ));
        for line in lines {
            self.say(&format!("  {}", line.trim_start()));
        }
        for line in &problem.diagnosis {
            self.say(&format!("  | {}", text::sanitize(line)));
        }
        if let Some(hint) = &problem.hint {
            self.say(&format!(
                "{} {}",
                self.styled(Style::Yellow, "hint:"),
                text::sanitize(hint)
            ));
        }
    }
}

fn paint(style: Style, text: &str) -> String {
    let code = match style {
        Style::Bold => "1",
        Style::Dim => "2",
        Style::Green => "32",
        Style::Yellow => "33",
        Style::Red => "31",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}
