//! What programs write, of which the beginning is shown and the rest counted.

/// How many lines are shown of one program.
const SHOWN: usize = 20;

/// The output of one step.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) step: String,
    full: bool,
    lines: usize,
    /// The last line that is not shown.
    last: String,
}

impl Output {
    pub(super) fn new(step: &str, full: bool) -> Self {
        Self {
            step: step.to_owned(),
            full,
            lines: 0,
            last: String::new(),
        }
    }

    /// The lines to show of those that come.
    pub(super) fn take(&mut self, lines: Vec<String>) -> Vec<String> {
        let room = if self.full {
            usize::MAX
        } else {
            SHOWN.saturating_sub(self.lines)
        };
        self.lines += lines.len();
        let mut lines = lines.into_iter();
        let shown = lines.by_ref().take(room).collect();
        if let Some(last) = lines.rfind(|line| !line.trim().is_empty()) {
            self.last = last;
        }
        shown
    }

    /// What stands for the lines that are not shown.
    pub(super) fn end(self) -> Option<String> {
        let folded = self.lines.checked_sub(SHOWN).filter(|_| !self.full)?;
        let last = super::clip(self.last.trim(), super::FOLDED);
        match folded {
            0 => None,
            1 => Some(format!("… and 1 line more: {last}")),
            folded => Some(format!("… and {folded} lines more, the last: {last}")),
        }
    }
}
