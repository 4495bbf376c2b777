//! A line at the bottom that tells what is being done, below lines that stay.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Style, Ui};

/// Lines that stay, and, on a terminal, one at the bottom that changes.
#[derive(Debug)]
pub(crate) struct Live {
    ui: Ui,
    bar: Option<ProgressBar>,
}

impl Live {
    pub(crate) fn new(ui: Ui) -> Self {
        let bar = ui.rich.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style.tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ "));
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { ui, bar }
    }

    /// Whether what changes is shown at all.
    pub(crate) const fn is_rich(&self) -> bool {
        self.bar.is_some()
    }

    /// A line that stays.
    pub(crate) fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => self.ui.say(line),
        }
    }

    /// The line at the bottom.
    pub(crate) fn status(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// Text in a style, where styles are shown.
    pub(crate) fn styled(&self, style: Style, text: &str) -> String {
        self.ui.styled(style, text)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
