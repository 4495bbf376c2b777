//! The few words of git's protocol that a push consists of.

/// Ends a list of lines.
const FLUSH: &[u8] = b"0000";

/// What stands before the pack: where history ends, and the one reference that changes.
pub(super) fn prelude(old: Option<&str>, new: &str, reference: &str, shallow: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for end in shallow
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        line(&mut bytes, &[b"shallow ", end, b"\n"].concat());
    }
    let none = "0".repeat(new.len());
    let old = old.unwrap_or(&none);
    let format = if new.len() == 64 {
        " object-format=sha256"
    } else {
        ""
    };
    let change = format!("{old} {new} {reference}\0 report-status{format}");
    line(&mut bytes, change.as_bytes());
    bytes.extend_from_slice(FLUSH);
    bytes
}

fn line(bytes: &mut Vec<u8>, content: &[u8]) {
    bytes.extend_from_slice(format!("{:04x}", content.len() + 4).as_bytes());
    bytes.extend_from_slice(content);
}

/// Reads lines as they come.
#[derive(Debug, Default)]
struct Packets {
    waiting: Vec<u8>,
    broken: bool,
}

impl Packets {
    fn add(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        if self.broken {
            return;
        }
        self.waiting.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(length) = self.waiting.get(at..at + 4) {
            let length = std::str::from_utf8(length)
                .ok()
                .and_then(|digits| usize::from_str_radix(digits, 16).ok());
            match length {
                // Flush packets and the like.
                Some(0..=3) => at += 4,
                Some(length) => {
                    let Some(content) = self.waiting.get(at + 4..at + length) else {
                        break;
                    };
                    each(content.strip_suffix(b"\n").unwrap_or(content));
                    at += length;
                }
                None => {
                    self.broken = true;
                    break;
                }
            }
        }
        self.waiting.drain(..at);
    }

    /// Whether nothing is missing.
    fn whole(&self) -> bool {
        !self.broken && self.waiting.is_empty()
    }
}

/// The remote's list of references, of which one is looked for.
#[derive(Debug)]
pub(super) struct Advertisement<'a> {
    packets: Packets,
    reference: &'a str,
    any: bool,
    value: Option<String>,
}

impl<'a> Advertisement<'a> {
    pub(super) fn of(reference: &'a str) -> Self {
        Self {
            packets: Packets::default(),
            reference,
            any: false,
            value: None,
        }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        let Self {
            packets,
            reference,
            any,
            value,
        } = self;
        packets.add(bytes, |line| {
            *any = true;
            let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
            let Ok(line) = std::str::from_utf8(line) else {
                return;
            };
            if let Some((commit, name)) = line.split_once(' ')
                && name == *reference
                && is_commit(commit)
            {
                *value = Some(commit.to_owned());
            }
        });
    }

    /// The commit that the reference is at. An error if the list was not understood.
    pub(super) fn value(self) -> Result<Option<String>, ()> {
        if self.packets.whole() && self.any {
            Ok(self.value)
        } else {
            Err(())
        }
    }
}

/// Whether it is an object's name, and so can be nothing else in an argument.
pub(super) fn is_commit(name: &str) -> bool {
    matches!(name.len(), 40 | 64) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What the remote says about a push.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The reference has its new value.
    Done,
    /// It has not, for this reason.
    Refused(String),
    /// It does not say.
    Unclear,
}

pub(super) fn report(bytes: &[u8], reference: &str) -> Report {
    let mut packets = Packets::default();
    let mut unpacked = None;
    let mut told = None;
    packets.add(bytes, |line| {
        let line = crate::text::lossy(line);
        if let Some(result) = line.strip_prefix("unpack ") {
            unpacked = Some(result.to_owned());
        } else if let Some(name) = line.strip_prefix("ok ") {
            told = (name == reference).then_some(None);
        } else if let Some((name, reason)) = line.strip_prefix("ng ").and_then(|rest| rest.split_once(' '))
            && name == reference
        {
            told = Some(Some(reason.to_owned()));
        }
    });
    match (unpacked.as_deref(), told) {
        (Some("ok"), Some(None)) => Report::Done,
        (Some("ok"), Some(Some(reason))) => Report::Refused(reason),
        (Some("ok") | None, _) => Report::Unclear,
        (Some(problem), _) => Report::Refused(format!("unpacking failed: {problem}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = "refs/fabrica/x/checkpoint";

    fn lines(lines: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for content in lines {
            line(&mut bytes, content.as_bytes());
        }
        bytes.extend_from_slice(FLUSH);
        bytes
    }

    #[test]
    fn the_prelude_is_framed_as_git_frames_it() {
        let bytes = prelude(None, "ab", "refs/x", b"cd\nef\n");
        let expected = "000fshallow cd\n000fshallow ef\n001f00 ab refs/x\0 report-status0000";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        let bytes = prelude(Some("cd"), "ab", "refs/x", b"");
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "001fcd ab refs/x\0 report-status0000"
        );
    }

    #[test]
    fn the_reference_is_found_however_the_list_is_cut() {
        let mut bytes = lines(&["# service=git-receive-pack\n"]);
        let [main, ours, other] = ["1", "2", "3"].map(|digit| digit.repeat(40));
        bytes.extend(lines(&[
            &format!("{main} refs/heads/main\0report-status ofs-delta\n"),
            &format!("{ours} refs/fabrica/x/checkpoint\n"),
            &format!("{other} refs/fabrica/x/checkpoint2\n"),
        ]));
        for size in [1, 3, 7, 1_000] {
            let mut advertisement = Advertisement::of(REFERENCE);
            bytes.chunks(size).for_each(|piece| advertisement.add(piece));
            assert_eq!(advertisement.value(), Ok(Some(ours.clone())));
        }
        let mut advertisement = Advertisement::of("refs/heads/none");
        advertisement.add(&bytes);
        assert_eq!(advertisement.value(), Ok(None));
        let mut advertisement = Advertisement::of(REFERENCE);
        advertisement.add(&bytes[..bytes.len() - 10]);
        assert_eq!(
            advertisement.value(),
            Err(()),
            "a list that was cut proves nothing"
        );
        let mut advertisement = Advertisement::of(REFERENCE);
        advertisement.add(b"<html>");
        assert_eq!(advertisement.value(), Err(()));
    }

    #[test]
    fn only_a_report_that_says_so_is_a_success() {
        let ok = format!("ok {REFERENCE}\n");
        assert_eq!(report(&lines(&["unpack ok\n", &ok]), REFERENCE), Report::Done);
        let refused = format!("ng {REFERENCE} fetch first\n");
        assert_eq!(
            report(&lines(&["unpack ok\n", &refused]), REFERENCE),
            Report::Refused("fetch first".into())
        );
        assert_eq!(
            report(&lines(&["unpack index-pack failed\n"]), REFERENCE),
            Report::Refused("unpacking failed: index-pack failed".into())
        );
        for unclear in [
            &b""[..],
            &lines(&["unpack ok\n"]),
            &lines(&["unpack ok\n", "ok refs/other\n"]),
        ] {
            assert_eq!(report(unclear, REFERENCE), Report::Unclear);
        }
    }
}
