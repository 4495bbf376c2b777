//! What may be signed: a commit by the operator's committer, and nothing else.
//!
//! The agent chooses what it sends, so a signature says no more than this: a session of this Fabrica asked for it, while
//! its attempt was the current one. That alone is why nobody else's name and no tag is ever signed.

use fabrica_core::protocol::Identity;

/// What the beginning of a commit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commit<'a> {
    /// The tree's id.
    pub(crate) tree: &'a str,
    /// The committer as git shows a person: without crud at the ends.
    committer: Person<'a>,
}

/// Why something is not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Objection {
    /// It is a tag.
    Tag,
    /// It is no commit, and why not.
    NotACommit(&'static str),
    /// It is a commit that has a signature.
    Signed,
    /// It is a commit by somebody else.
    Committer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Person<'a> {
    name: &'a [u8],
    email: &'a [u8],
}

impl<'a> Commit<'a> {
    /// Reads a commit as git writes it, without its signature.
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self, Objection> {
        if payload.starts_with(b"object ") {
            return Err(Objection::Tag);
        }
        if payload.contains(&0) {
            return Err(Objection::NotACommit("it holds a NUL"));
        }
        let end = payload.windows(2).position(|window| window == b"\n\n");
        let header = &payload[..end.ok_or(Objection::NotACommit("its header has no end"))?];
        let mut lines = header.split(|byte| *byte == b'\n').peekable();
        let tree = lines.next().and_then(|line| object(line, b"tree "));
        let tree = tree.ok_or(Objection::NotACommit("it does not begin with its tree"))?;
        while let Some(line) = lines.next_if(|line| line.starts_with(b"parent ")) {
            let parent = object(line, b"parent ").filter(|parent| parent.len() == tree.len());
            parent.ok_or(Objection::NotACommit("a parent is no object's name"))?;
        }
        // Whoever that is: what old histories have there is not always well formed.
        let author = lines.next().is_some_and(|line| line.starts_with(b"author "));
        let committer = lines
            .next()
            .and_then(|line| Person::read(line.strip_prefix(b"committer ")?));
        let committer = committer.filter(|_| author);
        let committer = committer.ok_or(Objection::NotACommit(
            "author and committer are not where they belong",
        ))?;
        further(lines)?;
        Ok(Self { tree, committer })
    }

    /// Whether it is by that committer, whose name and address git writes without crud.
    pub(crate) fn is_by(&self, identity: &Identity) -> bool {
        self.committer.name == without_crud(identity.name.as_bytes())
            && self.committer.email == without_crud(identity.email.as_bytes())
    }
}

impl<'a> Person<'a> {
    /// Reads `Name <address> 1790000000 +0000`.
    fn read(line: &'a [u8]) -> Option<Self> {
        let (name, rest) = split_once(line, b'<')?;
        let (email, when) = split_once(rest, b'>')?;
        let when = std::str::from_utf8(when.strip_prefix(b" ")?).ok()?;
        let (seconds, zone) = when.split_once(' ')?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let zone = zone.strip_prefix(['+', '-'])?;
        (digits(seconds) && digits(zone) && zone.len() == 4 && !email.contains(&b'<')).then_some(Self {
            name: without_crud(name),
            email: without_crud(email),
        })
    }
}

/// What may stand behind the committer, such as `encoding` and `mergetag`: nothing that git or a forge could take for a
/// second committer or for a signature.
fn further<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<(), Objection> {
    let mut may_go_on = false;
    for line in lines {
        // Such a line belongs to the one before.
        if line.starts_with(b" ") && may_go_on {
            continue;
        }
        may_go_on = true;
        let (name, _) = split_once(line, b' ').ok_or(Objection::NotACommit("a header is malformed"))?;
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        if name.starts_with(b"gpgsig") {
            return Err(Objection::Signed);
        }
        let taken: [&[u8]; 4] = [b"tree", b"parent", b"author", b"committer"];
        if name.is_empty() || !name.iter().all(plain) || taken.contains(&name) {
            return Err(Objection::NotACommit("a header is not where it belongs"));
        }
    }
    Ok(())
}

/// An object's name behind a label: SHA-1 or SHA-256.
fn object<'a>(line: &'a [u8], label: &[u8]) -> Option<&'a str> {
    let name = line.strip_prefix(label)?;
    let hexadecimal = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let fits = matches!(name.len(), 40 | 64) && name.iter().all(hexadecimal);
    std::str::from_utf8(name).ok().filter(|_| fits)
}

/// What git leaves of a name: it takes away spaces and punctuation at the ends, some of its versions also full stops.
fn without_crud(mut text: &[u8]) -> &[u8] {
    let crud = |byte: u8| byte <= b' ' || b".,:;<>\"\\'".contains(&byte);
    while let [first, rest @ ..] = text
        && crud(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && crud(*last)
    {
        text = rest;
    }
    text
}

fn split_once(line: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = line.iter().position(|byte| *byte == at)?;
    Some((&line[..position], &line[position + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
    const PERSON: &str = "Fabrica <fabrica@example.com> 1790000000 +0000";

    fn commit(further: &str) -> String {
        format!(
            "tree {TREE}\nparent {TREE}\nparent {TREE}\nauthor {PERSON}\ncommitter {PERSON}\n{further}\nAdd it\n"
        )
    }

    fn objection(payload: &str) -> Objection {
        Commit::read(payload.as_bytes()).unwrap_err()
    }

    fn by(line: &str, identity: (&str, &str)) -> bool {
        let payload = format!("tree {TREE}\nauthor {PERSON}\ncommitter {line}\n\n");
        let identity = Identity {
            name: identity.0.to_owned(),
            email: identity.1.to_owned(),
        };
        Commit::read(payload.as_bytes()).unwrap().is_by(&identity)
    }

    #[test]
    fn commits_of_every_form_are_read() {
        let merge = "encoding ISO-8859-1\nmergetag object 1234\n type commit\n \n gpgsig inside\n";
        for payload in [
            commit(""),
            commit(merge),
            commit("").replace("Add it", "tree x\n\ngpgsig y"),
        ] {
            assert_eq!(Commit::read(payload.as_bytes()).unwrap().tree, TREE);
        }
        let longer = commit("").replace(TREE, &"a".repeat(64));
        assert!(Commit::read(longer.as_bytes()).is_ok());
    }

    #[test]
    fn a_committer_is_told_from_every_other_but_for_what_git_leaves_out() {
        let fabrica = ("Fabrica", "fabrica@example.com");
        assert!(by(PERSON, fabrica));
        for other in [
            "Fabrica <fabrica@example.org> 1 +0000",
            "fabrica <fabrica@example.com> 1 +0000",
            "Fabrica Fabrica <fabrica@example.com> 1 +0000",
            " <fabrica@example.com> 1 +0000",
            "Fabrica <> 1 +0000",
        ] {
            assert!(!by(other, fabrica), "{other}");
        }
        assert!(by(
            "Acme, Inc <a@example.com> 1 -0330",
            (" Acme, Inc.", "a@example.com")
        ));
        assert!(!by(
            "Acme Inc <a@example.com> 1 -0330",
            ("Acme, Inc.", "a@example.com")
        ));
    }

    #[test]
    fn what_has_a_signature_and_what_is_a_tag_is_named() {
        let signed = commit("gpgsig -----BEGIN SSH SIGNATURE-----\n U1NI\n -----END SSH SIGNATURE-----\n");
        assert_eq!(objection(&signed), Objection::Signed);
        assert_eq!(objection(&commit("gpgsig-sha256 x\n")), Objection::Signed);
        let tag = format!("object {TREE}\ntype commit\ntag v1\ntagger {PERSON}\n\nRelease\n");
        assert_eq!(objection(&tag), Objection::Tag);
    }

    #[test]
    fn whatever_else_is_no_commit() {
        let good = commit("");
        for (what, bad) in [
            ("nothing", String::new()),
            ("text", "I owe the bearer a thousand dollars\n\n".to_owned()),
            ("no end", good.split("\n\n").next().unwrap_or_default().to_owned()),
            ("a NUL", good.replace("Add it", "Add\0it")),
            ("a short tree", good.replacen(TREE, &TREE[1..], 1)),
            (
                "a parent of another length",
                good.replacen(
                    &format!("parent {TREE}"),
                    &format!("parent {}", "a".repeat(64)),
                    1,
                ),
            ),
            ("a parent in capitals", good.replacen("parent 4b", "parent 4B", 1)),
            ("no author", good.replace(&format!("author {PERSON}\n"), "")),
            ("no committer", good.replace(&format!("committer {PERSON}\n"), "")),
            ("no time", good.replace(" 1790000000 +0000", "")),
            (
                "half an address",
                good.replace("committer Fabrica <", "committer Fabrica "),
            ),
            (
                "two addresses",
                good.replace("committer Fabrica ", "committer <a> Fabrica "),
            ),
            ("two committers", commit(&format!("committer {PERSON}\n"))),
            ("a parent behind", commit(&format!("parent {TREE}\n"))),
            ("a line that goes on from nothing", commit(" x\n")),
            ("a header in capitals", commit("Encoding x\n")),
            ("a header without a value", commit("encoding\n")),
        ] {
            assert!(
                matches!(objection(&bad), Objection::NotACommit(_)),
                "{what}: {bad}"
            );
        }
    }
}
