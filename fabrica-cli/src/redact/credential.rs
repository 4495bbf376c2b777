//! Credentials of one word: what they begin with tells what they are.

use std::ops::Range;

use super::REDACTED;

/// How many characters follow the beginning of a key at least; real ones have more.
const SHORTEST_KEY: usize = 16;
/// How many characters an access key id of AWS has after its first four.
const AWS_KEY: usize = 16;
/// Longer words after `Bearer` are tokens.
const LONGEST_WORD: usize = 20;
/// How long user and password in an address may be together.
const LONGEST_LOGIN: usize = 1_024;

/// Keys of Anthropic and of GitHub.
const BEGINNINGS: [&str; 7] = ["sk-ant-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"];

/// The credential to which the character at that place leads, if it does to one.
pub(super) fn at(text: &str, at: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    match bytes.get(at)? {
        b's' | b'g' => key(bytes, at),
        b'A' => access_key(bytes, at),
        b'B' | b'b' => bearer(bytes, at),
        b':' => login(bytes, at),
        _ => None,
    }
}

fn key(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let rest = &bytes[at..];
    let beginning = BEGINNINGS
        .iter()
        .find(|beginning| rest.starts_with(beginning.as_bytes()))?;
    let begun = at + beginning.len();
    let end = begun + word(&bytes[begun..], |byte| matches!(byte, b'_' | b'-' | b'.'));
    (begins_word(bytes, at) && end - begun >= SHORTEST_KEY).then_some(at..end)
}

fn access_key(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let rest = &bytes[at..];
    if !(rest.starts_with(b"AKIA") || rest.starts_with(b"ASIA")) || !begins_word(bytes, at) {
        return None;
    }
    let end = 4 + AWS_KEY;
    let digits = rest.get(4..end)?;
    let all = digits
        .iter()
        .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    let over = rest.get(end).is_none_or(|next| !next.is_ascii_alphanumeric());
    (all && over).then_some(at..at + end)
}

/// The token after the word.
fn bearer(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let rest = &bytes[at..];
    if !rest.get(..6)?.eq_ignore_ascii_case(b"bearer") || !begins_word(bytes, at) {
        return None;
    }
    let gap = rest[6..]
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t'))
        .count();
    let begun = 6 + gap;
    let others = |byte: u8| matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
    let length = word(&rest[begun..], others);
    let token = at + begun..at + begun + length;
    (gap > 0 && length > LONGEST_WORD).then_some(token)
}

/// User and password of an address. The user may be the token.
fn login(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let rest = bytes[at..].strip_prefix(b"://")?;
    let scheme = at.checked_sub(1).and_then(|before| bytes.get(before))?;
    let host_ends = |byte: &u8| {
        byte.is_ascii_whitespace()
            || byte.is_ascii_control()
            || matches!(
                byte,
                b'/' | b'?' | b'#' | b'"' | b'\'' | b'`' | b'<' | b'>' | b'\\'
            )
    };
    let end = rest.iter().take(LONGEST_LOGIN).position(host_ends);
    let authority = &rest[..end.unwrap_or(rest.len().min(LONGEST_LOGIN))];
    let at_sign = authority.iter().rposition(|byte| *byte == b'@')?;
    let login = &authority[..at_sign];
    let colon = login.iter().position(|byte| *byte == b':')?;
    let password = &login[colon + 1..];
    let known = password.is_empty() || password == REDACTED.as_bytes();
    (scheme.is_ascii_alphanumeric() && !known).then(|| at + 3..at + 3 + at_sign)
}

/// Whether no word goes on here; the `n` of `\n` in JSON is none.
fn begins_word(bytes: &[u8], at: usize) -> bool {
    match &bytes[..at] {
        [] | [.., b'\\', b'n' | b't' | b'r'] => true,
        [.., before] => !before.is_ascii_alphanumeric(),
    }
}

/// How long the word is of letters, digits and those others. The full stop of a sentence is no part of it.
fn word(bytes: &[u8], others: impl Fn(u8) -> bool) -> usize {
    let part = |byte: &&u8| byte.is_ascii_alphanumeric() || others(**byte);
    let length = bytes.iter().take_while(part).count();
    let stops = bytes[..length].iter().rev().take_while(|byte| **byte == b'.');
    length - stops.count()
}
