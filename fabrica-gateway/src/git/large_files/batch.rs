//! What Git LFS asks and is answered, as its
//! [batch API](https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md) has it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How the content of a file is named: the only algorithm that there is so far.
pub(super) const ALGORITHM: &str = "sha256";
/// How content is moved: one request an object. Everybody knows this one.
pub(super) const TRANSFER: &str = "basic";

/// The SHA-256 of a file's content, in lower case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ObjectId(String);

impl ObjectId {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ObjectId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 64 && text.bytes().all(digit) {
            Ok(Self(text))
        } else {
            Err("an object's name has 64 hexadecimal digits in lower case")
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is to be done with objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Operation {
    Download,
    Upload,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Object {
    pub(super) oid: ObjectId,
    /// Its bytes.
    pub(super) size: u64,
}

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) operation: Operation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) transfers: Option<Vec<String>>,
    /// The branch that uploaded objects are for.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<Reference>,
    pub(super) objects: Vec<Object>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hash_algo: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reference {
    pub(super) name: String,
}

impl Question {
    pub(super) fn new(operation: Operation, objects: Vec<Object>, branch: &str) -> Self {
        Self {
            operation,
            transfers: Some(vec![TRANSFER.to_owned()]),
            reference: (operation == Operation::Upload).then(|| Reference {
                name: format!("refs/heads/{branch}"),
            }),
            objects,
            hash_algo: Some(ALGORITHM.to_owned()),
        }
    }
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) transfer: Option<String>,
    pub(super) objects: Vec<Answered>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hash_algo: Option<String>,
}

/// What is answered of one object: what to do, or why it cannot be done. Neither, for an upload, if it is there already.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Answered {
    pub(super) oid: ObjectId,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) actions: Option<Actions>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<ObjectError>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Actions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) download: Option<Action>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) upload: Option<Action>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) verify: Option<Action>,
}

/// A request that moves an object. It may carry credentials, so it does not show itself.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Action {
    pub(super) href: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) header: BTreeMap<String, String>,
    /// Seconds for which it holds; for ever if neither this nor the time below is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_in: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<chrono::DateTime<chrono::Utc>>,
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Action(…)")
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ObjectError {
    /// As an HTTP status.
    pub(super) code: u16,
    pub(super) message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_objects_are_names_of_nothing_else() {
        let name = |text: &str| ObjectId::try_from(text.to_owned());
        assert!(name(&"0a".repeat(32)).is_ok());
        for wrong in [
            "",
            "../../etc/passwd",
            &"0A".repeat(32),
            &"0a".repeat(31),
            &"é".repeat(32),
        ] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_action_shows_no_credential() {
        let text = r#"{"objects": [{"oid": "OID", "size": 3, "actions": {"download": {"href":
            "https://storage.example/x?signature=canary", "header": {"Authorization": "canary"}}}}]}"#;
        let answer: Answer = serde_json::from_str(&text.replace("OID", &"0a".repeat(32))).unwrap();
        assert!(!format!("{answer:?}").contains("canary"));
        assert!(answer.transfer.is_none() && answer.objects[0].error.is_none());
    }
}
