//! A diff, coloured where colours are shown.

use crate::ui::text::sanitize_lines;
use crate::ui::{Style, Ui};

/// The lines of a diff, made harmless.
pub(crate) fn lines(diff: &str, ui: Ui) -> Vec<String> {
    sanitize_lines(diff)
        .lines()
        .map(|line| {
            let style = match line.as_bytes() {
                [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] | [b'd', ..] => Some(Style::Bold),
                [b'@', b'@', ..] => Some(Style::Dim),
                [b'+', ..] => Some(Style::Green),
                [b'-', ..] => Some(Style::Red),
                _ => None,
            };
            style.map_or_else(|| line.to_owned(), |style| ui.styled(style, line))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_output_has_no_colours() {
        let ui = Ui {
            rich: false,
            stdout_is_terminal: false,
        };
        let diff = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n old\n+    new\u{1b}[2J\n";
        assert_eq!(
            lines(diff, ui).join("\n"),
            diff.replace("\u{1b}[2J", "").trim_end()
        );
        let rich = Ui { rich: true, ..ui };
        assert_eq!(lines("+new", rich), ["\u{1b}[32m+new\u{1b}[0m"]);
    }
}
