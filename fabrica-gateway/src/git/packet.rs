//! Packet lines, the framing of git's protocol: four hexadecimal digits of length, these included, then the data.
//!
//! Twenty lines of our own instead of a library: what is accepted here decides what may be pushed, so it is stricter
//! than git's own reader, and reads nothing but flush packets and lines with content.

/// The longest packet, by the protocol.
const LONGEST: usize = 65_520;
/// The four digits.
const HEADER: usize = 4;

/// One packet at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// `0000`.
    Flush,
    /// Content, without the length.
    Line(&'a [u8]),
}

/// The bytes are no packet that belongs here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotAPacket;

/// Reads one packet and says how many bytes it takes; `None` means that more bytes are needed.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, NotAPacket> {
    let Some(digits) = bytes.get(..HEADER) else {
        return Ok(None);
    };
    // `from_str_radix` would take a sign.
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(NotAPacket);
    }
    let text = std::str::from_utf8(digits).map_err(|_| NotAPacket)?;
    let length = usize::from_str_radix(text, 16).map_err(|_| NotAPacket)?;
    match length {
        0 => Ok(Some((Packet::Flush, HEADER))),
        5..=LONGEST => Ok(bytes.get(HEADER..length).map(|line| (Packet::Line(line), length))),
        _ => Err(NotAPacket),
    }
}

/// Appends a packet; `line` is far shorter than the longest one.
pub(super) fn write(into: &mut Vec<u8>, line: &[u8]) {
    into.extend_from_slice(format!("{:04x}", line.len() + HEADER).as_bytes());
    into.extend_from_slice(line);
}

/// `0000`.
pub(super) const FLUSH: &[u8] = b"0000";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_one_by_one() {
        assert_eq!(read(b"0000rest"), Ok(Some((Packet::Flush, 4))));
        assert_eq!(read(b"0006a\nrest"), Ok(Some((Packet::Line(b"a\n"), 6))));
        assert_eq!(read(b"000"), Ok(None));
        assert_eq!(read(b"0006a"), Ok(None));
    }

    #[test]
    fn special_and_broken_packets_are_refused() {
        for bytes in [
            b"0001".as_slice(),
            b"0002",
            b"0003",
            b"0004",
            b"+006ab",
            b"-001",
            b"zzzz",
            b"fff1",
            b"ffff",
            b" 006",
        ] {
            assert_eq!(read(bytes), Err(NotAPacket), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut bytes = Vec::new();
        write(&mut bytes, b"unpack ok\n");
        assert_eq!(read(&bytes), Ok(Some((Packet::Line(b"unpack ok\n"), 14))));
    }
}
