//! Private keys between their markers, on one line or on many, whole or cut off.

use std::ops::Range;

use serde_json::Value;

use super::REDACTED;

/// How far from its beginning a key's end is looked for.
const LONGEST_KEY: usize = 32 * 1024;
/// How many characters a key's lines have at least, all but the last; usual are 64.
const SHORTEST_LINE: usize = 32;
/// What may stand between two lines of a key: line ends, numbers of lines, the headers of an encrypted key.
const LONGEST_GAP: usize = 64;
/// How long a marker's label may be.
const LONGEST_LABEL: usize = 64;

/// The ends of keys in a text, each looked for once.
#[derive(Debug)]
pub(super) struct Ends<'a> {
    text: &'a str,
    /// The next one, unless there is none.
    next: Option<Range<usize>>,
}

impl<'a> Ends<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let next = marker(text, 0, "END");
        Self { text, next }
    }

    fn after(&mut self, at: usize) -> Option<usize> {
        if self.next.as_ref().is_some_and(|next| next.start < at) {
            self.next = marker(self.text, at, "END");
        }
        let next = self.next.as_ref()?;
        (next.end - at <= LONGEST_KEY).then_some(next.end)
    }
}

/// The key that begins at that place, if one does.
pub(super) fn at(text: &str, at: usize, ends: &mut Ends<'_>) -> Option<Range<usize>> {
    let label = begins(text, at, "BEGIN")?;
    let end = ends.after(label).unwrap_or_else(|| cut_off(text, label));
    Some(at..end)
}

/// Takes keys out of lines that stand one below the other. Whether the last one is within a key, as the first one may be.
pub(super) fn in_lines(lines: &mut [Value], mut within: bool) -> bool {
    for index in 0..lines.len() {
        let (before, rest) = lines.split_at_mut(index);
        let Some(Value::String(line)) = rest.first_mut() else {
            within = false;
            continue;
        };
        if let Some(end) = closed_by(line) {
            // Where only the marker is named, there is nothing to hide.
            if within || redact_before(before) || has_long_run(&line[..end.start]) {
                line.replace_range(..end.end, REDACTED);
            }
            within = false;
        } else if within && is_of_key(line) {
            REDACTED.clone_into(line);
        } else {
            within = is_opened_by(line);
        }
    }
    within
}

/// The lines of a key of which only the end is known; whether there are any.
fn redact_before(lines: &mut [Value]) -> bool {
    let last = lines.last().and_then(Value::as_str);
    let shorter = usize::from(last.is_some_and(|line| !has_long_run(line) && is_word(line.trim())));
    let of_key = |line: &&Value| {
        line.as_str()
            .is_some_and(|line| line == REDACTED || has_long_run(line))
    };
    let long = lines.iter().rev().skip(shorter).take_while(of_key).count();
    if long == 0 {
        return false;
    }
    for line in lines.iter_mut().rev().take(shorter + long) {
        *line = Value::from(REDACTED);
    }
    true
}

/// The end of a key that began before this line.
fn closed_by(line: &str) -> Option<Range<usize>> {
    let end = marker(line, 0, "END")?;
    marker(&line[..end.start], 0, "BEGIN").is_none().then_some(end)
}

/// Whether a key begins in this line, and goes on after it.
fn is_opened_by(line: &str) -> bool {
    let mut label = None;
    while let Some(next) = marker(line, label.unwrap_or_default(), "BEGIN") {
        label = Some(next.end);
    }
    label.is_some_and(|label| {
        marker(line, label, "END").is_none() && line[cut_off(line, label)..].trim().is_empty()
    })
}

/// Whether the line may stand within a key.
fn is_of_key(line: &str) -> bool {
    let line = line.trim();
    let header = ["Proc-Type:", "DEK-Info:", "Version:", "Comment:"];
    // The last line is shorter; most words of prose are not of its form.
    let last = is_word(line) && (line.ends_with('=') || (line.len() >= 8 && line.len().is_multiple_of(4)));
    has_long_run(line) || line.is_empty() || last || header.iter().any(|name| line.starts_with(name))
}

fn is_word(line: &str) -> bool {
    !line.is_empty() && line.bytes().all(is_base64)
}

fn has_long_run(line: &str) -> bool {
    line.as_bytes()
        .chunk_by(|one, next| is_base64(*one) && is_base64(*next))
        .any(|run| run.len() >= SHORTEST_LINE)
}

/// Where the lines of a key end that has no end.
fn cut_off(text: &str, label: usize) -> usize {
    let bytes = text.as_bytes();
    let run = |from: usize| bytes[from..].iter().take_while(|byte| is_base64(**byte)).count();
    let mut end = label;
    let mut at = label;
    while at < bytes.len() && at - end <= LONGEST_GAP {
        let length = run(at);
        if length >= SHORTEST_LINE {
            end = at + length;
        }
        at += length.max(1);
    }
    if end == label {
        return label;
    }
    // The last line is shorter.
    let breaks = ["\r\n", "\n", "\\n", " "];
    let gap = breaks.iter().find(|gap| text[end..].starts_with(**gap));
    let last = end + gap.map_or(0, |gap| gap.len());
    match run(last) {
        0 => end,
        length => last + length,
    }
}

/// The next marker at or after that place.
fn marker(text: &str, from: usize, word: &str) -> Option<Range<usize>> {
    let mut from = from;
    loop {
        let start = from + text.get(from..)?.find("-----")?;
        if let Some(end) = begins(text, start, word) {
            return Some(start..end);
        }
        from = start + 1;
    }
}

/// Where a marker ends that begins at that place: `-----BEGIN RSA PRIVATE KEY-----`.
fn begins(text: &str, at: usize, word: &str) -> Option<usize> {
    let rest = text.get(at..)?.strip_prefix("-----")?;
    let label = rest.strip_prefix(word)?.strip_prefix(' ')?;
    let named = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
    let length = label
        .bytes()
        .take(LONGEST_LABEL)
        .take_while(|byte| named(byte))
        .count();
    let (label, rest) = label.split_at(length);
    let private = label.contains("PRIVATE KEY") && rest.starts_with("-----");
    private.then(|| at + 5 + word.len() + 1 + length + 5)
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}
