//! Lines below one another, behind a time and a mark.

use fabrica_cli::redact;

use super::Line;
use crate::ui::Style;
use crate::ui::text::{sanitize, sanitize_lines};

/// How far one subagent is indented.
const INDENT: usize = 4;

/// One line of others' text, harmless and without credentials, also without those that invisible characters interrupt.
pub(super) fn clean(text: &str) -> String {
    redact::text(&sanitize(text)).into_owned()
}

/// The same for several lines, without empty ones at the beginning and at the end.
pub(super) fn clean_lines(text: &str) -> Vec<String> {
    let text = sanitize_lines(text);
    let text = redact::text(text.trim_matches('\n'));
    text.lines().map(str::to_owned).collect()
}

/// Where lines stand and how they look.
#[derive(Debug, Clone, Default)]
pub(super) struct Block {
    time: String,
    depth: usize,
    first: &'static str,
    others: &'static str,
    style: Option<Style>,
}

impl Block {
    pub(super) fn new(depth: usize) -> Self {
        Self {
            depth,
            ..Self::default()
        }
    }

    /// The time before the first line.
    pub(super) fn at(&self, time: String) -> Self {
        Self { time, ..self.clone() }
    }

    /// What stands before the first line, and before the others.
    pub(super) fn mark(&self, first: &'static str, others: &'static str) -> Self {
        Self {
            first,
            others,
            ..self.clone()
        }
    }

    pub(super) fn style(&self, style: Style) -> Self {
        Self {
            style: Some(style),
            ..self.clone()
        }
    }

    pub(super) fn lines(self, texts: impl IntoIterator<Item = String>) -> Vec<Line> {
        let line = |(index, text): (usize, String)| {
            let (time, mark) = if index == 0 {
                (self.time.as_str(), self.first)
            } else {
                ("", self.others)
            };
            let text = format!(
                "{time:>6}  {:width$}{mark}{text}",
                "",
                width = self.depth * INDENT
            );
            Line {
                style: self.style,
                text: text.trim_end().to_owned(),
            }
        };
        texts.into_iter().enumerate().map(line).collect()
    }
}
