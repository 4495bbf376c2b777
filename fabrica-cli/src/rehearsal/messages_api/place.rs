//! Where a conversation stands in its script.

use serde_json::Value;

use super::script::{Script, Turn};

/// The case and the turn that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// The index of the case; none for the script's own turns.
    pub(super) case: Option<usize>,
    /// The index of the turn, which may be past the last one.
    pub(super) turn: usize,
}

impl Place {
    /// Reads the place out of a request's body.
    pub(super) fn of(script: &Script, body: &Value) -> Self {
        let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let latest_match = messages.iter().enumerate().rev().find_map(|(index, message)| {
            let case = script
                .cases
                .iter()
                .position(|case| user_says(message, &case.needle))?;
            Some((index, case))
        });
        match latest_match {
            Some((index, case)) => Self {
                case: Some(case),
                turn: turns_of_model(&messages[index..]),
            },
            None => Self {
                case: None,
                turn: turns_of_model(messages),
            },
        }
    }

    /// The turn at this place, or the closing one past the last.
    pub(super) fn turn(self, script: &Script) -> Turn {
        let turns = match self.case {
            Some(case) => script.cases.get(case).map_or(&[][..], |case| &case.turns),
            None => &script.turns,
        };
        turns
            .get(self.turn)
            .cloned()
            .unwrap_or_else(|| Turn::text("Nothing is left to do."))
    }
}

fn turns_of_model(messages: &[Value]) -> usize {
    messages
        .iter()
        .filter(|message| message["role"] == "assistant")
        .count()
}

fn user_says(message: &Value, needle: &str) -> bool {
    if message["role"] != "user" {
        return false;
    }
    match &message["content"] {
        Value::String(text) => text.contains(needle),
        Value::Array(blocks) => blocks
            .iter()
            .filter(|block| block["type"] == "text")
            .any(|block| block["text"].as_str().is_some_and(|text| text.contains(needle))),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Place, Script, Turn};

    fn conversation(messages: &Value) -> Value {
        json!({ "messages": messages })
    }

    #[test]
    fn the_turn_is_the_number_of_the_models_messages() {
        let body = conversation(&json!([
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": "first"},
            {"role": "user", "content": "on"},
        ]));
        assert_eq!(
            Place::of(&Script::default(), &body),
            Place { case: None, turn: 1 }
        );
    }

    #[test]
    fn a_case_counts_from_the_users_words_on() {
        let script = Script::new([]).when_user_says("Answer to your question", [Turn::text("thanks")]);
        let body = conversation(&json!([
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": "No response requested."},
            {"role": "user", "content": [{"type": "text", "text": "Answer to your question: blue"}]},
        ]));
        let place = Place::of(&script, &body);
        assert_eq!(
            place,
            Place {
                case: Some(0),
                turn: 0
            }
        );
        assert_eq!(place.turn(&script), Turn::text("thanks"));
    }

    #[test]
    fn what_a_tool_returned_is_not_what_the_user_said() {
        let script = Script::new([]).when_user_says("blue", [Turn::text("thanks")]);
        let body = conversation(&json!([
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "blue"}]},
        ]));
        assert_eq!(Place::of(&script, &body).case, None);
    }

    #[test]
    fn a_body_without_messages_stands_at_the_beginning() {
        assert_eq!(Place::of(&Script::default(), &Value::Null).turn, 0);
    }
}
