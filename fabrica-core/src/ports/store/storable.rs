//! Text as every database can hold it.

use serde_json::{Map, Value};

use super::{
    AttemptEnd, AttemptStart, EventRecord, NewAnswer, NewArtifact, NewMessage, NewNote, NewQuestion,
    NewSession,
};
use crate::failure::Failure;
use crate::ids::WorkerId;
use crate::message::MessageContent;
use crate::protocol::{Checkpoint, Escalation, TranscriptEntry};

/// What a store takes in. NUL characters, which PostgreSQL cannot hold in text, become U+FFFD, in every adapter alike:
/// otherwise one of them in the output of a command would make a write fail for ever.
pub trait Storable {
    /// The same without NUL characters.
    #[must_use]
    fn storable(self) -> Self;
}

impl Storable for String {
    fn storable(self) -> Self {
        if self.contains('\0') {
            self.replace('\0', "\u{FFFD}")
        } else {
            self
        }
    }
}

impl<T: Storable> Storable for Option<T> {
    fn storable(self) -> Self {
        self.map(Storable::storable)
    }
}

impl<T: Storable> Storable for Vec<T> {
    fn storable(self) -> Self {
        self.into_iter().map(Storable::storable).collect()
    }
}

impl Storable for Map<String, Value> {
    fn storable(self) -> Self {
        self.into_iter()
            .map(|(key, value)| (key.storable(), value.storable()))
            .collect()
    }
}

impl Storable for Value {
    fn storable(self) -> Self {
        match self {
            Self::String(text) => Self::String(text.storable()),
            Self::Array(items) => Self::Array(items.storable()),
            Self::Object(members) => Self::Object(members.storable()),
            other => other,
        }
    }
}

impl Storable for WorkerId {
    fn storable(self) -> Self {
        Self::new(self.as_str().to_owned().storable())
    }
}

impl Storable for MessageContent {
    fn storable(self) -> Self {
        Self {
            message: self.message.storable(),
            metadata: self.metadata.storable(),
        }
    }
}

impl Storable for NewMessage {
    fn storable(self) -> Self {
        Self {
            content: self.content.storable(),
            ..self
        }
    }
}

impl Storable for NewSession {
    fn storable(self) -> Self {
        Self {
            content: self.content.storable(),
            repo_url: self.repo_url.storable(),
            title: self.title.storable(),
            submitter: self.submitter.storable(),
            idempotency_key: self.idempotency_key.storable(),
            message: self.message.storable(),
            ..self
        }
    }
}

impl Storable for AttemptStart {
    fn storable(self) -> Self {
        Self {
            container: self.container.storable(),
            branch: self.branch.storable(),
            title: self.title.storable(),
            ..self
        }
    }
}

impl Storable for TranscriptEntry {
    fn storable(self) -> Self {
        Self {
            kind: self.kind.storable(),
            parent: self.parent.storable(),
            summary: self.summary.storable(),
            detail: self.detail.storable(),
        }
    }
}

impl Storable for EventRecord {
    fn storable(self) -> Self {
        Self {
            messages: self.messages.storable(),
            transcript: self.transcript.map(|(at, entry)| (at, entry.storable())),
            result: self.result.storable(),
            checkpoint: self.checkpoint.storable(),
            ..self
        }
    }
}

impl Storable for Checkpoint {
    fn storable(self) -> Self {
        Self {
            reference: self.reference.storable(),
            commit: self.commit.storable(),
            head: self.head.storable(),
            ..self
        }
    }
}

impl Storable for Escalation {
    fn storable(self) -> Self {
        Self {
            question: self.question.storable(),
            options: self.options.storable(),
            context: self.context.storable(),
            ..self
        }
    }
}

impl Storable for NewQuestion {
    fn storable(self) -> Self {
        Self {
            escalation: self.escalation.storable(),
            ..self
        }
    }
}

impl Storable for NewAnswer {
    fn storable(self) -> Self {
        Self {
            text: self.text.storable(),
            by: self.by.storable(),
            plan: self.plan.map(|(spec, content)| (spec, content.storable())),
            message: self.message.storable(),
            ..self
        }
    }
}

impl Storable for NewNote {
    fn storable(self) -> Self {
        Self {
            text: self.text.storable(),
            by: self.by.storable(),
            message: self.message.storable(),
            ..self
        }
    }
}

impl Storable for NewArtifact {
    fn storable(self) -> Self {
        Self {
            name: self.name.storable(),
            ..self
        }
    }
}

impl Storable for Failure {
    fn storable(self) -> Self {
        Self {
            code: self.code.storable(),
            cause: self.cause.storable(),
            advice: self.advice.storable(),
            diagnosis: self.diagnosis.storable(),
            retryable: self.retryable,
        }
    }
}

impl Storable for AttemptEnd {
    fn storable(self) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(failure.storable()),
            Self::Escalated(question) => Self::Escalated(question.storable()),
            Self::Lost {
                failure,
                delay,
                counts,
            } => Self::Lost {
                counts,
                failure: failure.storable(),
                delay,
            },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nul_is_replaced_wherever_it_hides() {
        let value = json!({"a\0": ["b\0", {"c": "\0"}], "d": 1}).storable();
        assert_eq!(
            value,
            json!({"a\u{FFFD}": ["b\u{FFFD}", {"c": "\u{FFFD}"}], "d": 1})
        );
    }
}
