//! Values that have to pass a check, with errors that name their key and place.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};

/// Marks the text of errors that the checks of plans raise, so that they are told from YAML's own.
pub(super) const EXPECTED: &str = "\u{1}";

/// Reads a text that has to pass a check. The error is raised inside the visitor, so that it knows its key and place.
pub(super) fn checked<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    check: fn(&str) -> Option<T>,
) -> Result<Option<T>, D::Error> {
    struct Checked<T> {
        expected: &'static str,
        check: fn(&str) -> Option<T>,
    }

    impl<T> Visitor<'_> for Checked<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.check)(text).ok_or_else(|| E::custom(format!("{EXPECTED}{}, got {text:?}", self.expected)))
        }
    }

    deserializer
        .deserialize_str(Checked { expected, check })
        .map(Some)
}
