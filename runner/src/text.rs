//! Text for people and for the wire: bounded, one line where one is asked for, without what no database takes.

use std::collections::VecDeque;

use serde_json::{Map, Value};

/// How many characters a summary has at most.
pub(crate) const MAX_SUMMARY: usize = 300;

/// One line of at most [`MAX_SUMMARY`] characters, without control characters.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::new();
    let mut count = 0;
    for word in text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
    {
        let room = MAX_SUMMARY.saturating_sub(count + usize::from(count > 0));
        if word.chars().count() > room {
            if count > 0 && room > 0 {
                line.push(' ');
            }
            line.extend(word.chars().take(room));
            line.push('…');
            return line;
        }
        if count > 0 {
            line.push(' ');
            count += 1;
        }
        line.push_str(word);
        count += word.chars().count();
    }
    line
}

/// The text of bytes that may not be UTF-8, without NUL, which no database's text holds.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}")
}

/// Cuts a text at a character, and says how much is missing.
pub(crate) fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes);
    format!("{} … [{} bytes cut]", &text[..end], text.len() - end)
}

/// The same object in at most about `bytes` bytes: long texts are cut shorter and shorter until it fits.
pub(crate) fn bounded(detail: Map<String, Value>, bytes: usize) -> Map<String, Value> {
    let mut detail = detail;
    let mut limit = bytes / 2;
    clean(&mut detail, limit);
    while size(&detail) > bytes {
        limit /= 4;
        if limit < 16 {
            return Map::from_iter([("truncated".to_owned(), Value::Bool(true))]);
        }
        clean(&mut detail, limit);
        detail.insert("truncated".to_owned(), Value::Bool(true));
    }
    detail
}

fn size(detail: &Map<String, Value>) -> usize {
    serde_json::to_vec(detail).map_or(usize::MAX, |text| text.len())
}

fn clean(detail: &mut Map<String, Value>, limit: usize) {
    let keys_are_clean = detail.keys().all(|key| key.len() <= limit && !key.contains('\0'));
    if !keys_are_clean {
        *detail = std::mem::take(detail)
            .into_iter()
            .map(|(key, value)| (cut(&key, limit).replace('\0', "\u{fffd}"), value))
            .collect();
    }
    detail.values_mut().for_each(|value| clean_value(value, limit));
}

fn clean_value(value: &mut Value, limit: usize) {
    match value {
        Value::String(text) => {
            if text.contains('\0') {
                *text = text.replace('\0', "\u{fffd}");
            }
            if text.len() > limit {
                *text = cut(text, limit);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| clean_value(item, limit)),
        Value::Object(object) => clean(object, limit),
        _ => {}
    }
}

/// The last lines of an output.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    limit: usize,
}

impl Tail {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            lines: VecDeque::with_capacity(limit),
            limit,
        }
    }

    pub(crate) fn push(&mut self, line: &str) {
        if self.lines.len() == self.limit {
            self.lines.pop_front();
        }
        self.lines.push_back(cut(line, 2_000));
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_summary_is_one_short_line_without_control_characters() {
        assert_eq!(one_line("  a\n\tb\u{1b}[31mc\0 "), "a b [31mc");
        assert_eq!(one_line(&"é".repeat(5_000)).chars().count(), MAX_SUMMARY + 1);
        assert!(one_line(&"word ".repeat(1_000)).chars().count() <= MAX_SUMMARY + 1);
        assert_eq!(one_line(""), "");
    }

    #[test]
    fn details_are_cut_until_they_fit_and_hold_no_nul() {
        let Value::Object(detail) =
            json!({"a\0": "x\0y", "b": ["é".repeat(200_000)], "c": "z".repeat(1_000_000)})
        else {
            unreachable!()
        };
        let detail = bounded(detail, 200_000);
        let text = serde_json::to_string(&detail).unwrap();
        assert!(text.len() <= 200_000, "{}", text.len());
        assert!(text.contains("bytes cut") && !text.contains("\\u0000"));
        let many: Map<_, _> = (0..5_000).map(|n| (format!("key{n}"), Value::from(n))).collect();
        assert_eq!(
            bounded(many, 1_000).len(),
            1,
            "even many small values end within the limit"
        );
    }

    #[test]
    fn a_tail_keeps_the_end() {
        let mut tail = Tail::new(2);
        for line in ["1", "2", "3"] {
            tail.push(line);
        }
        assert_eq!(tail.into_lines(), ["2", "3"]);
    }
}
