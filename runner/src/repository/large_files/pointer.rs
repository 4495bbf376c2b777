//! [Pointers](https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md): what a commit has in the place of content.

use serde::{Deserialize, Serialize};

/// No pointer is longer.
pub(super) const MAX_POINTER: usize = 1024;

/// What a pointer leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Object {
    /// The SHA-256 of the content.
    pub(super) oid: String,
    /// Its bytes.
    pub(super) size: u64,
}

/// Reads a pointer. Anything else is content.
pub(super) fn parse(content: &[u8]) -> Option<Object> {
    if content.len() > MAX_POINTER {
        return None;
    }
    let mut lines = std::str::from_utf8(content).ok()?.lines();
    if lines.next()? != "version https://git-lfs.github.com/spec/v1" {
        return None;
    }
    let (mut oid, mut size) = (None, None);
    for line in lines {
        match line.split_once(' ')? {
            ("oid", name) => oid = name.strip_prefix("sha256:").map(str::to_owned),
            ("size", bytes) => size = bytes.parse().ok(),
            _ => {}
        }
    }
    let oid = oid
        .filter(|oid| oid.len() == 64 && oid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))?;
    Some(Object { oid, size: size? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leads_to_content_is_a_pointer() {
        let oid = "0a".repeat(32);
        let pointer = |oid: &str, size: &str| {
            format!(
                "version https://git-lfs.github.com/spec/v1\next-0-x sha256:1\noid sha256:{oid}\nsize {size}\n"
            )
        };
        assert_eq!(
            parse(pointer(&oid, "5").as_bytes()),
            Some(Object {
                oid: oid.clone(),
                size: 5
            })
        );
        for other in [
            String::new(),
            "hello\n".to_owned(),
            pointer(&oid, "-1"),
            pointer("../../../etc/passwd", "5"),
            pointer(&oid.to_uppercase(), "5"),
            pointer(&oid, "5").replace("spec/v1", "spec/v9"),
            pointer(&oid, "5").replace("oid ", ""),
            format!("{}{}", pointer(&oid, "5"), "x 1\n".repeat(300)),
        ] {
            assert_eq!(parse(other.as_bytes()), None, "{other}");
        }
    }
}
