//! A transcript as people read it: what the agent says in full, what its tools do in two lines each.

mod block;
mod calls;
mod detail;
mod output;

use chrono::{DateTime, SecondsFormat, Utc};
use fabrica_core::ids::AttemptNumber;
use fabrica_core::ports::store::StoredTranscript;

use self::block::{Block, clean};
use self::calls::Calls;
use self::output::Output;
use crate::ui::Style;
use crate::ui::text::{clip, elapsed};

/// How long a line is that stands for something longer.
const FOLDED: usize = 160;
/// How far subagents of subagents are indented.
const DEEPEST: usize = 4;

/// A line, and how it looks on a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) style: Option<Style>,
    pub(crate) text: String,
}

/// Tells a transcript, entry by entry.
#[derive(Debug)]
pub(crate) struct Teller {
    full: bool,
    begun: DateTime<Utc>,
    attempt: Option<AttemptNumber>,
    /// Who spoke last, and in which way.
    last: Option<(Option<String>, Kind)>,
    calls: Calls,
    output: Option<Output>,
    /// What the agent said last: its closing words usually are the same.
    said: String,
    lines: Vec<Line>,
}

/// What stands together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
    Tools,
    Notice,
    Output,
    Result,
}

impl Kind {
    fn of(kind: &str) -> Self {
        match kind {
            "thinking" => Self::Thinking,
            "text" => Self::Text,
            "tool_use" | "tool_result" => Self::Tools,
            "output" => Self::Output,
            "result" => Self::Result,
            // And whatever a newer runner reports.
            _ => Self::Notice,
        }
    }

    /// Whether it belongs to the turn of what stands before it.
    fn follows(self, before: Self) -> bool {
        match self {
            Self::Tools => matches!(before, Self::Tools | Self::Text | Self::Thinking),
            Self::Text => before == Self::Thinking,
            Self::Notice | Self::Output => before == self,
            Self::Thinking | Self::Result => false,
        }
    }
}

impl Teller {
    /// Times are told from `begun` on; `full` folds nothing.
    pub(crate) fn new(begun: DateTime<Utc>, full: bool) -> Self {
        Self {
            full,
            begun,
            attempt: None,
            last: None,
            calls: Calls::default(),
            output: None,
            said: String::new(),
            lines: Vec::new(),
        }
    }

    /// The lines that tell the next entry. What is folded is told when it is over.
    pub(crate) fn take(&mut self, row: &StoredTranscript) -> Vec<Line> {
        let kind = Kind::of(&row.entry.kind);
        self.begin_attempt(row);
        let step = detail::text(&row.entry, "step");
        let goes_on = self.output.as_ref().is_some_and(|output| output.step == step);
        if kind != Kind::Output || !goes_on {
            self.end_output();
        }
        let depth = self.speaker(row, kind);
        match kind {
            Kind::Thinking => self.thinking(row, depth),
            Kind::Text => self.text(row, depth),
            Kind::Tools if row.entry.kind == "tool_use" => self.call(row, depth),
            Kind::Tools => self.returned(row, depth),
            Kind::Notice => self.notice(row, depth),
            Kind::Output => self.output(row, step),
            Kind::Result => self.result(row, depth),
        }
        if row.entry.kind != "tool_use" {
            self.calls.told();
        }
        self.last = Some((row.entry.parent.clone(), kind));
        std::mem::take(&mut self.lines)
    }

    /// The lines that are left once nothing more comes, for now or at all.
    pub(crate) fn finish(&mut self) -> Vec<Line> {
        self.end_output();
        std::mem::take(&mut self.lines)
    }

    fn begin_attempt(&mut self, row: &StoredTranscript) {
        if self.attempt == Some(row.attempt) {
            return;
        }
        self.end_output();
        self.calls = Calls::default();
        self.said.clear();
        if self.attempt.replace(row.attempt).is_some() {
            self.blank();
        }
        let at = row.at.to_rfc3339_opts(SecondsFormat::Secs, true);
        self.line(Some(Style::Bold), format!("attempt {}, {at}", row.attempt));
        self.last = None;
    }

    /// How far the entry's lines are indented, after what separates them from those before.
    fn speaker(&mut self, row: &StoredTranscript, kind: Kind) -> usize {
        let parent = row.entry.parent.as_deref();
        let depth = parent.map_or(0, |parent| (self.calls.depth(parent) + 1).min(DEEPEST));
        let same = self
            .last
            .as_ref()
            .is_some_and(|(last, _)| last.as_deref() == parent);
        let together = same
            && self
                .last
                .as_ref()
                .is_some_and(|(_, before)| kind.follows(*before));
        let begins = kind == Kind::Output && self.output.is_none();
        let called = parent.is_some() && self.calls.latest() == parent;
        if !called && (begins || !together) {
            self.blank();
        }
        if let Some(parent) = parent.filter(|_| !same && !called) {
            let label = self.calls.label(parent).unwrap_or("a subagent").to_owned();
            let block = Block::new(depth).mark("↳ ", "  ");
            self.lines.extend(block.style(Style::Dim).lines([label]));
        }
        depth
    }

    fn thinking(&mut self, row: &StoredTranscript, depth: usize) {
        let thought = detail::all(&row.entry, "thinking");
        let thought = if thought.is_empty() {
            vec!["(hidden)".to_owned()]
        } else {
            thought
        };
        let block = Block::new(depth).at(self.time(row)).mark("~ ", "~ ");
        self.lines.extend(block.style(Style::Dim).lines(thought));
    }

    fn text(&mut self, row: &StoredTranscript, depth: usize) {
        let said = detail::all(&row.entry, "text");
        if row.entry.parent.is_none() {
            self.said = said.join("\n");
        }
        let block = Block::new(depth).at(self.time(row));
        self.lines.extend(block.lines(said));
    }

    fn call(&mut self, row: &StoredTranscript, depth: usize) {
        let name = [
            row.entry.summary.as_str(),
            detail::text(&row.entry, "name"),
            "tool",
        ];
        let name = name.iter().map(|name| clean(name)).find(|name| !name.is_empty());
        let label = clip(&name.unwrap_or_default(), FOLDED);
        let block = Block::new(depth).at(self.time(row)).mark("▸ ", "    ");
        let input = if self.full {
            detail::input(&row.entry)
        } else {
            Vec::new()
        };
        self.calls.add(detail::text(&row.entry, "id"), depth, &label);
        self.lines
            .extend(block.lines(std::iter::once(label).chain(input)));
    }

    fn returned(&mut self, row: &StoredTranscript, depth: usize) {
        let id = detail::text(&row.entry, "tool_use_id");
        // Of several calls at once the results come one after the other: each says whose it is.
        let whose = (self.calls.latest() != Some(id))
            .then(|| {
                self.calls
                    .label(id)
                    .map(|label| format!("({}) ", clip(label, 60)))
            })
            .flatten()
            .unwrap_or_default();
        let failed = detail::is_error(&row.entry);
        let content = detail::content(&row.entry);
        let error = if failed { "error: " } else { "" };
        let width = if self.full { usize::MAX } else { FOLDED };
        let folded = match content.as_slice() {
            [] => "nothing".to_owned(),
            [line] => clip(line, width),
            lines if self.full => format!("{} lines", lines.len()),
            [.., last] => format!("{} lines, the last: {}", content.len(), clip(last.trim(), width)),
        };
        let rest = if self.full && content.len() > 1 {
            content
        } else {
            Vec::new()
        };
        let style = if failed { Style::Red } else { Style::Dim };
        let block = Block::new(depth).mark("  └ ", "    ").style(style);
        let lines = std::iter::once(format!("{whose}{error}{folded}")).chain(rest);
        self.lines.extend(block.lines(lines));
    }

    fn notice(&mut self, row: &StoredTranscript, depth: usize) {
        let entry = &row.entry;
        let kind = if entry.kind == "notice" {
            String::new()
        } else {
            format!("{}: ", clean(&entry.kind))
        };
        let mut told = vec![format!("{kind}{}", clean(&entry.summary))];
        if self.full && !detail::text(entry, "text").is_empty() {
            told = detail::all(entry, "text");
        }
        let block = Block::new(depth).at(self.time(row)).mark("· ", "  ");
        self.lines.extend(block.style(Style::Dim).lines(told));
    }

    fn output(&mut self, row: &StoredTranscript, step: &str) {
        let time = self.time(row);
        let block = Block::new(0);
        let output = self.output.get_or_insert_with(|| {
            let name = clean(step);
            let name = if name.is_empty() {
                "output".to_owned()
            } else {
                name
            };
            self.lines.extend(block.at(time).lines([name]));
            Output::new(step, self.full)
        });
        let shown = output.take(detail::output(&row.entry));
        self.lines
            .extend(block.mark("| ", "| ").style(Style::Dim).lines(shown));
    }

    fn end_output(&mut self) {
        if let Some(folded) = self.output.take().and_then(Output::end) {
            self.lines.extend(Block::new(0).style(Style::Dim).lines([folded]));
        }
    }

    fn result(&mut self, row: &StoredTranscript, depth: usize) {
        let failed = detail::is_error(&row.entry);
        let style = if failed { Style::Red } else { Style::Bold };
        let block = Block::new(depth).at(self.time(row)).mark("■ ", "  ");
        self.lines
            .extend(block.style(style).lines([detail::end(&row.entry)]));
        let words = detail::all(&row.entry, "result");
        if words.join("\n") != self.said && !words.is_empty() {
            self.lines.extend(Block::new(depth).mark("  ", "  ").lines(words));
        }
    }

    fn time(&self, row: &StoredTranscript) -> String {
        elapsed((row.at - self.begun).to_std().unwrap_or_default())
    }

    fn blank(&mut self) {
        self.line(None, String::new());
    }

    fn line(&mut self, style: Option<Style>, text: String) {
        self.lines.push(Line { style, text });
    }
}

#[cfg(test)]
mod tests;
