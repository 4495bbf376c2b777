//! What a push may change.
//!
//! Checked here, before a byte reaches the code host: which refs are created or updated (the session's own branch and
//! refs below `refs/fabrica/<session id>/`), that none is deleted, that every command of the push is allowed (one
//! foreign ref refuses all of it), that no push options and no push certificate come along.
//!
//! Not checked: whether an update is a fast-forward. The protocol carries the old and the new commit, and which of them
//! descends from the other is known to the code host only. The host compares the old commit with the ref's value, so
//! nothing that was pushed unseen in between is lost; the runner never forces; protect branches on the host where that
//! is not enough. For a repository on this machine git itself is told to refuse it.

use fabrica_core::ids::SessionId;

use super::packet::{self, Packet};
use crate::access::Session;

/// The most bytes that the commands of a push may take.
pub(super) const LONGEST_PRELUDE: usize = 64 * 1024;
/// The most refs that a push may change.
const MOST_COMMANDS: usize = 32;
/// What a client may ask for. Not among them: `push-options`, `push-cert`.
const CAPABILITIES: [&str; 7] = [
    "report-status",
    "report-status-v2",
    "delete-refs",
    "side-band-64k",
    "quiet",
    "atomic",
    "ofs-delta",
];
/// The same, with a value.
const CAPABILITIES_WITH_VALUE: [&str; 3] = ["agent=", "object-format=", "session-id="];

/// What the beginning of a push says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PushRequest {
    pub(super) commands: Vec<Command>,
    pub(super) capabilities: Vec<String>,
}

/// One ref that the push wants to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) name: String,
    deletes: bool,
}

/// Why a push was not let through.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) code: &'static str,
    pub(super) sentence: String,
}

/// The beginning of a push cannot be read; nothing of it was passed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl PushRequest {
    pub(super) fn has(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|known| known == capability)
    }

    /// Reads the commands up to the flush packet behind them, and says how many bytes they take; `None` means that more
    /// bytes are needed.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let mut request = Self::default();
        let mut at = 0;
        loop {
            if at > LONGEST_PRELUDE {
                return Err(Malformed("the list of refs is too long"));
            }
            match packet::read(&bytes[at..]).map_err(|_| Malformed("it is not framed as git frames it"))? {
                None if bytes.len() > LONGEST_PRELUDE => {
                    return Err(Malformed("the list of refs is too long"));
                }
                None => return Ok(None),
                Some((Packet::Flush, length)) => return Ok(Some((request, at + length))),
                Some((Packet::Line(line), length)) => {
                    request.line(line)?;
                    at += length;
                }
            }
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let line = std::str::from_utf8(line).map_err(|_| Malformed("a line is not UTF-8"))?;
        let line = line.strip_suffix('\n').unwrap_or(line);
        if let Some(commit) = line.strip_prefix("shallow ") {
            // Where the history of a shallow clone ends.
            return if is_object(commit) {
                Ok(())
            } else {
                Err(Malformed("a shallow line is wrong"))
            };
        }
        let command = match line.split_once('\0') {
            // git would read capabilities behind any of the lines; it writes them behind the first only.
            Some((command, capabilities)) if self.commands.is_empty() => {
                self.capabilities = capabilities
                    .split(' ')
                    .filter(|word| !word.is_empty())
                    .map(str::to_owned)
                    .collect();
                command
            }
            Some(_) => return Err(Malformed("capabilities are in the wrong place")),
            None => line,
        };
        if self.commands.len() == MOST_COMMANDS {
            return Err(Malformed("it changes too many refs"));
        }
        self.commands.push(Command::read(command)?);
        Ok(())
    }
}

impl Command {
    fn read(line: &str) -> Result<Self, Malformed> {
        let mut words = line.splitn(3, ' ');
        let (Some(old), Some(new), Some(name)) = (words.next(), words.next(), words.next()) else {
            return Err(Malformed("a line is not the change of a ref"));
        };
        if !is_object(old)
            || !is_object(new)
            || old.len() != new.len()
            || name.contains(|c: char| c.is_control())
        {
            return Err(Malformed("a line is not the change of a ref"));
        }
        Ok(Self {
            name: name.to_owned(),
            deletes: new.bytes().all(|digit| digit == b'0'),
        })
    }
}

/// An object's name: SHA-1 or SHA-256.
fn is_object(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text
            .bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// The refs that one session may write.
#[derive(Debug)]
pub(super) struct Allowed {
    /// `None` if the plan names the branch that it starts from: that one is never pushed to.
    branch: Option<String>,
    checkpoints: String,
}

impl Allowed {
    pub(super) fn of(session: &Session) -> Self {
        let job = &session.job;
        Self::new(&job.branch, job.base.as_deref(), session.fence.session)
    }

    fn new(branch: &str, base: Option<&str>, session: SessionId) -> Self {
        Self {
            branch: (base != Some(branch)).then(|| format!("refs/heads/{branch}")),
            checkpoints: format!("refs/fabrica/{session}/"),
        }
    }

    /// Whether all of the push may pass.
    pub(super) fn check(&self, request: &PushRequest) -> Result<(), Reason> {
        for capability in &request.capabilities {
            let known = CAPABILITIES.contains(&capability.as_str())
                || CAPABILITIES_WITH_VALUE
                    .iter()
                    .any(|prefix| capability.starts_with(prefix));
            if !known {
                let name: String = capability
                    .chars()
                    .filter(char::is_ascii_graphic)
                    .take(40)
                    .collect();
                let sentence = format!("the gateway does not let `{name}` through");
                return Err(Reason {
                    code: "push.option_refused",
                    sentence,
                });
            }
        }
        for (index, command) in request.commands.iter().enumerate() {
            if command.deletes {
                let sentence = "the gateway never deletes a ref".to_owned();
                return Err(Reason {
                    code: "push.delete_refused",
                    sentence,
                });
            }
            let twice = request.commands[..index]
                .iter()
                .any(|earlier| earlier.name == command.name);
            if twice || !self.may_write(&command.name) {
                let sentence = "only the session's own branch and checkpoints may be pushed".to_owned();
                return Err(Reason {
                    code: "push.ref_refused",
                    sentence,
                });
            }
        }
        Ok(())
    }

    fn may_write(&self, name: &str) -> bool {
        if self.branch.as_deref() == Some(name) {
            return true;
        }
        name.strip_prefix(&self.checkpoints).is_some_and(|rest| {
            rest.len() <= 200
                && rest.split('/').all(|part| {
                    part.starts_with(|c: char| c.is_ascii_alphanumeric())
                        && part
                            .chars()
                            .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
                })
        })
    }
}

#[cfg(test)]
#[path = "push_tests.rs"]
mod tests;
