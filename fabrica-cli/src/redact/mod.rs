//! Credentials in what agents said and did, replaced before people or programs read it.
//!
//! The runner replaces the tokens that it knows. What an agent finds elsewhere, in a repository or in a program's output,
//! is known by its form only: keys of model providers, forges and clouds, bearer tokens, private keys, passwords in
//! addresses.
//!
//! ```
//! use fabrica_cli::redact::text;
//!
//! assert_eq!(text("git clone https://me:canary@git.example.com/a.git"), "git clone https://[redacted]@git.example.com/a.git");
//! assert_eq!(text("git clone https://git.example.com/a.git"), "git clone https://git.example.com/a.git");
//! ```

mod credential;
mod private_key;

use std::borrow::Cow;
use std::collections::BTreeSet;

use fabrica_core::protocol::TranscriptEntry;
use serde_json::{Map, Value};

/// What stands in a credential's place.
pub const REDACTED: &str = "[redacted]";

/// The text without what looks like a well-known credential; the text itself if there is none.
///
/// A credential that escape sequences or invisible characters interrupt is found, too; then those go with it.
pub fn text(text: &str) -> Cow<'_, str> {
    let clean = replaced(text).map_or(Cow::Borrowed(text), Cow::Owned);
    match visible(&clean).as_deref().and_then(replaced) {
        Some(clean) => Cow::Owned(clean),
        None => clean,
    }
}

/// Without credentials; `None` if there are none.
fn replaced(text: &str) -> Option<String> {
    let mut ends = private_key::Ends::new(text);
    let mut clean = String::new();
    let (mut at, mut taken) = (0, 0);
    while at < text.len() {
        let found = credential::at(text, at).or_else(|| private_key::at(text, at, &mut ends));
        let Some(secret) = found else {
            at += 1;
            continue;
        };
        clean.push_str(&text[taken..secret.start]);
        clean.push_str(REDACTED);
        (at, taken) = (secret.end, secret.end);
    }
    (taken > 0).then(|| clean + &text[taken..])
}

/// The text as a terminal shows it: without control sequences and what is invisible; `None` if that is all of it.
fn visible(text: &str) -> Option<String> {
    let hidden = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if !text.contains(hidden) {
        return None;
    }
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let sequence = match character {
            '\u{1b}' => characters.next_if_eq(&'[').is_some(),
            '\u{9b}' => true,
            _ => false,
        };
        if sequence {
            while characters.next_if(|c| (' '..='?').contains(c)).is_some() {}
            characters.next_if(|c| ('@'..='~').contains(c));
        } else if !hidden(character) {
            shown.push(character);
        }
    }
    Some(shown)
}

/// Takes credentials out of a transcript, entry by entry: a private key may begin in one and end in another.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    /// The streams of output in which a private key has begun.
    within: BTreeSet<String>,
}

impl Redactor {
    /// The entry without what looks like a well-known credential.
    #[must_use]
    pub fn entry(&mut self, entry: TranscriptEntry) -> TranscriptEntry {
        let mut detail = entry.detail;
        let mut summary = text(&entry.summary).into_owned();
        if entry.kind == "output" {
            let stream = detail.get("stream").and_then(Value::as_str).unwrap_or_default();
            let stream = stream.to_owned();
            if let Some(Value::Array(lines)) = detail.get_mut("lines") {
                let summarised = summarised(lines, &entry.summary);
                let within = self.within.remove(&stream);
                if private_key::in_lines(lines, within) {
                    self.within.insert(stream);
                }
                if let Some(line) = summarised
                    .and_then(|index| lines.get(index))
                    .and_then(Value::as_str)
                    && line == REDACTED
                {
                    REDACTED.clone_into(&mut summary);
                }
            }
        }
        TranscriptEntry {
            kind: text(&entry.kind).into_owned(),
            parent: entry.parent.map(|parent| text(&parent).into_owned()),
            summary,
            detail: object(detail),
        }
    }
}

/// The line that the summary repeats.
fn summarised(lines: &[Value], summary: &str) -> Option<usize> {
    let summary = summary.trim().trim_end_matches('…');
    let repeats = |line: &Value| line.as_str().is_some_and(|line| line.trim().starts_with(summary));
    lines.iter().rposition(repeats).filter(|_| !summary.is_empty())
}

fn object(object: Map<String, Value>) -> Map<String, Value> {
    let members = object.into_iter();
    members
        .map(|(key, member)| (text(&key).into_owned(), value(member)))
        .collect()
}

fn value(value: Value) -> Value {
    match value {
        Value::String(said) => match text(&said) {
            Cow::Borrowed(_) => Value::String(said),
            Cow::Owned(clean) => Value::String(clean),
        },
        Value::Array(mut items) => {
            private_key::in_lines(&mut items, false);
            Value::Array(items.into_iter().map(self::value).collect())
        }
        Value::Object(members) => Value::Object(object(members)),
        other => other,
    }
}

#[cfg(test)]
mod tests;
