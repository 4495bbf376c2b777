//! Text from elsewhere, made harmless before it reaches a terminal; and how times and numbers are written.

use std::time::Duration;

use fabrica_core::protocol::Usage;

/// Text of an agent, a repository or an engine on one line: without escape sequences, control characters and those
/// invisible ones that reorder or hide what follows.
pub(crate) fn sanitize(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => skip_escape(&mut characters),
            // The single-character forms of CSI, DCS, OSC, PM and APC.
            '\u{9b}' => skip_control_sequence(&mut characters),
            '\u{90}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => skip_string(&mut characters),
            '\n' | '\t' | '\r' => {
                if !clean.ends_with(' ') {
                    clean.push(' ');
                }
            }
            _ if character.is_control() || is_invisible(character) => {}
            _ => clean.push(character),
        }
    }
    clean.trim().to_owned()
}

/// The same for text of several lines, which it keeps.
pub(crate) fn sanitize_lines(text: &str) -> String {
    text.lines()
        .map(|line| {
            let line = line.replace('\t', "    ");
            let indent = line.len() - line.trim_start_matches(' ').len();
            format!("{}{}", &line[..indent], sanitize(&line))
                .trim_end()
                .to_owned()
        })
        .collect::<Vec<_>>()
        .join("\n")
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// What follows ESC: a control sequence, a string, or one more character after intermediates.
fn skip_escape(characters: &mut Characters<'_>) {
    match characters.next() {
        Some('[') => skip_control_sequence(characters),
        Some(']' | 'P' | 'X' | '^' | '_') => skip_string(characters),
        Some(' '..='/') => {
            while characters
                .next_if(|character| (' '..='/').contains(character))
                .is_some()
            {}
            characters.next();
        }
        _ => {}
    }
}

fn skip_control_sequence(characters: &mut Characters<'_>) {
    while characters
        .next_if(|character| (' '..='?').contains(character))
        .is_some()
    {}
    characters.next_if(|character| ('@'..='~').contains(character));
}

/// Up to BEL or the string terminator; one that is not terminated ends with its line.
fn skip_string(characters: &mut Characters<'_>) {
    while let Some(character) = characters.next_if(|character| *character != '\n') {
        match character {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' => {
                characters.next_if_eq(&'\\');
                return;
            }
            _ => {}
        }
    }
}

const fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

/// At most so many characters, with an ellipsis if there are more.
pub(crate) fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut clipped: String = text.chars().take(width.saturating_sub(1)).collect();
    clipped.push('…');
    clipped
}

/// `0:07`, `12:34`, `1:02:03`.
pub(crate) fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// `950`, `19.1k`, `2.4M`.
pub(crate) fn count(number: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let float = number as f64;
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{:.1}k", float / 1e3),
        _ => format!("{:.1}M", float / 1e6),
    }
}

/// `4 turns, 19.1k tokens in, 960 out, $0.1234`; empty if nothing was used.
pub(crate) fn usage(usage: &Usage) -> String {
    if *usage == Usage::default() {
        return String::new();
    }
    let input = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens;
    format!(
        "{} {}, {} tokens in, {} out, ${:.4}",
        usage.turns,
        if usage.turns == 1 { "turn" } else { "turns" },
        count(input),
        count(usage.output_tokens),
        usage.cost_usd
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_escape_sequence_reaches_the_terminal() {
        for (hostile, harmless) in [
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]52;c;aGVsbG8=\u{7}copied", "copied"),
            (
                "\u{1b}]8;;https://evil.example\u{1b}\\link\u{1b}]8;;\u{1b}\\",
                "link",
            ),
            ("\u{9b}2Jcleared", "cleared"),
            ("\u{9d}0;title\u{9c}x", "x"),
            ("\u{1b}]0;never terminated", ""),
            ("\u{1b}(0line drawing", "line drawing"),
            ("\u{1b}cgone", "gone"),
            ("a\rb\nc\td\u{8}\u{7}\0e", "a b c de"),
            ("user\u{202e}txt.exe", "usertxt.exe"),
            ("zero\u{200b}width\u{feff}", "zerowidth"),
            ("\u{1b}", ""),
            ("grüße, 日本, 🦀", "grüße, 日本, 🦀"),
        ] {
            assert_eq!(sanitize(hostile), harmless, "{hostile:?}");
        }
    }

    #[test]
    fn lines_and_their_indentation_are_kept() {
        assert_eq!(
            sanitize_lines("+\tfoo\n  bar\u{1b}[2J\r\n\n-x"),
            "+    foo\n  bar\n\n-x"
        );
    }

    #[test]
    fn times_and_numbers_are_short() {
        assert_eq!(elapsed(Duration::from_secs(7)), "0:07");
        assert_eq!(elapsed(Duration::from_secs(3_723)), "1:02:03");
        assert_eq!(
            [count(950), count(19_100), count(2_400_000)],
            ["950", "19.1k", "2.4M"]
        );
        assert_eq!(clip("abcdef", 4), "abc…");
        assert_eq!(usage(&Usage::default()), "");
    }
}
