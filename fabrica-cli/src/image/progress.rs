//! Telling what an image's making is at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fabrica_core::ports::runtime::{ImageProgress, ProgressSink};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

use crate::ui::text::{clip, sanitize};
use crate::ui::{Live, Style, Ui};

/// Tells steps as lines that stay, and what a step is at where lines may be redrawn.
#[derive(Debug, Clone)]
pub(crate) struct Narrator {
    live: Arc<Live>,
    heard: Arc<AtomicU64>,
}

impl Narrator {
    pub(crate) fn new(ui: Ui) -> Self {
        Self {
            live: Arc::new(Live::new(ui)),
            heard: Arc::default(),
        }
    }

    /// A step begins.
    pub(crate) fn step(&self, text: &str) {
        let text = sanitize(text);
        self.live
            .line(&format!("{} {text}", self.live.styled(Style::Dim, "-")));
        self.live.status(&text);
    }

    /// What the step is at: an engine's or a program's own words.
    pub(crate) fn detail(&self, text: &str) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        let text = sanitize(text);
        if text.is_empty() {
            return;
        }
        if self.live.is_rich() {
            self.live.status(&clip(&text, 200));
        } else {
            self.live.line(&format!("  {}", clip(&text, 200)));
        }
    }

    /// How often something was heard: a number that stands still means silence.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// For an engine to tell its progress.
    pub(crate) fn sink(&self) -> ProgressSink {
        let narrator = self.clone();
        Arc::new(move |progress: ImageProgress| narrator.engine(&progress))
    }

    fn engine(&self, progress: &ImageProgress) {
        match progress.bytes {
            Some((done, all)) if all > 0 => {
                // Counting bytes is for those who can watch it.
                self.heard.fetch_add(1, Ordering::Relaxed);
                if self.live.is_rich() {
                    let share = done.saturating_mul(100) / all;
                    self.live
                        .status(&format!("{} {share} %", clip(&sanitize(&progress.message), 160)));
                }
            }
            _ => self.detail(&progress.message),
        }
    }

    /// Tells a program's output line by line, and returns the last ones.
    pub(crate) async fn follow(&self, output: impl AsyncRead + Unpin) -> Vec<String> {
        const KEPT: usize = 20;
        let mut lines = BufReader::new(output).split(b'\n');
        let mut last = Vec::new();
        while let Ok(Some(line)) = lines.next_segment().await {
            // A program that redraws its line separates the versions by CR: the last one counts.
            let text = String::from_utf8_lossy(&line);
            let text = sanitize(text.trim_end().rsplit('\r').next().unwrap_or_default());
            if text.is_empty() {
                continue;
            }
            self.detail(&text);
            if last.len() == KEPT {
                last.remove(0);
            }
            last.push(text);
        }
        last
    }
}
