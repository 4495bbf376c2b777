//! Names go into the paths of requests, so they are checked first.

/// Whether an engine would take it as the name of a container or a volume.
pub(crate) fn is_container(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=128).contains(&name.len()) && name.as_bytes()[0].is_ascii_alphanumeric() && name.bytes().all(allowed)
}

/// Whether it may be an image's name, tag, digest or id. The engine decides the rest.
pub(crate) fn is_image(reference: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/:@".contains(&byte);
    (1..=512).contains(&reference.len())
        && reference.as_bytes()[0].is_ascii_alphanumeric()
        && reference.bytes().all(allowed)
        && reference.split('/').all(|part| !part.is_empty() && part != "..")
}

/// `registry:5000/name:tag` → (`registry:5000/name`, `tag`); without a tag, `latest`.
pub(crate) fn split_tag(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_change_a_request_are_not_names() {
        assert!(is_container("fabrica-018f4e1c-7a52-7cc3-9d51-0a6f3ad1c2b4-1"));
        for name in ["", "a/b", "a?b", "..", "-a", "a b", "a#b", "ä", "a%2f"] {
            assert!(!is_container(name), "{name:?}");
        }
        assert!(is_image("registry.example.com:5000/team/dev:1") && is_image("sha256:0123"));
        for reference in ["", "a?b", "../json", "a/../b", "a//b", "a b", "a#b", "-a", "a%20"] {
            assert!(!is_image(reference), "{reference:?}");
        }
    }

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(split_tag("fabrica/agent:1"), ("fabrica/agent", "1"));
        assert_eq!(
            split_tag("registry:5000/agent"),
            ("registry:5000/agent", "latest")
        );
    }
}
