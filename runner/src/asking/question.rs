//! What a question may look like.

use fabrica_core::protocol::{Escalation, Urgency};
use serde_json::{Map, Value};

use crate::text::cut;

/// How long a question may be.
const MAX_QUESTION: usize = 16 * 1024;
/// How many answers may be offered.
const MAX_OPTIONS: usize = 20;
/// How long each of them may be.
const MAX_OPTION: usize = 1024;
/// How long the context may be.
const MAX_CONTEXT: usize = 64 * 1024;

/// The question, if a person can be asked it; otherwise what is wrong with it, for whoever asks.
pub(super) fn checked(question: &Escalation) -> Result<Escalation, String> {
    let question = Escalation {
        question: question.question.trim().to_owned(),
        options: question
            .options
            .iter()
            .map(|option| option.trim().to_owned())
            .collect(),
        context: question.context.trim().to_owned(),
        urgency: question.urgency,
    };
    let Escalation {
        question: text,
        options,
        context,
        ..
    } = &question;
    if text.is_empty() {
        return Err("the question is empty".to_owned());
    }
    if text.len() > MAX_QUESTION {
        return Err(format!(
            "the question has more than {MAX_QUESTION} bytes: put the details into the context"
        ));
    }
    if options.len() > MAX_OPTIONS {
        return Err(format!("there are more than {MAX_OPTIONS} options"));
    }
    if options
        .iter()
        .any(|option| option.is_empty() || option.len() > MAX_OPTION)
    {
        return Err(format!(
            "an option is empty or has more than {MAX_OPTION} bytes: explain options in the context"
        ));
    }
    if context.len() > MAX_CONTEXT {
        return Err(format!(
            "the context has more than {MAX_CONTEXT} bytes: keep to what the person needs"
        ));
    }
    Ok(question)
}

/// A question in the arguments of a tool.
pub(super) fn of_arguments(arguments: &Map<String, Value>) -> Result<Escalation, String> {
    let known = ["question", "options", "context", "urgency"];
    if let Some(other) = arguments.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("there is no parameter {other:?}"));
    }
    let given = |key: &str| arguments.get(key).filter(|value| !value.is_null());
    let text = |key: &str| match given(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("{key} must be text")),
        None => Ok(String::new()),
    };
    let options = match given("options") {
        Some(Value::Array(options)) => options
            .iter()
            .map(|option| option.as_str().map(str::to_owned).ok_or(()))
            .collect::<Result<_, _>>()
            .map_err(|()| "each option must be text")?,
        Some(_) => return Err("options must be a list".to_owned()),
        None => Vec::new(),
    };
    checked(&Escalation {
        question: text("question")?,
        options,
        context: text("context")?,
        urgency: urgency(&text("urgency")?)?,
    })
}

/// How urgent it is, by its name.
pub(super) fn urgency(name: &str) -> Result<Urgency, String> {
    match name {
        "low" => Ok(Urgency::Low),
        "" | "normal" => Ok(Urgency::Normal),
        "high" => Ok(Urgency::High),
        other => Err(format!("urgency is low, normal or high, not {other:?}")),
    }
}

/// One question out of several: the first one stands, and the others are told in its context.
pub(super) fn merged(questions: impl IntoIterator<Item = Escalation>) -> Option<Escalation> {
    let mut questions = questions.into_iter();
    let mut first = questions.next()?;
    for other in questions {
        if !first.context.is_empty() {
            first.context.push_str("\n\n");
        }
        first.context.push_str("Asked at the same time: ");
        first.context.push_str(&other.question);
        if !other.options.is_empty() {
            first.context.push_str("\nOptions: ");
            first.context.push_str(&other.options.join("; "));
        }
        if !other.context.is_empty() {
            first.context.push('\n');
            first.context.push_str(&other.context);
        }
        first.urgency = heavier(first.urgency, other.urgency);
    }
    first.context = cut(&first.context, MAX_CONTEXT + MAX_QUESTION);
    Some(first)
}

/// A question as the wire and the database take it.
pub(super) fn cleaned(question: Escalation) -> Escalation {
    let clean = |text: String| text.replace('\0', "\u{fffd}");
    Escalation {
        question: clean(question.question),
        options: question.options.into_iter().map(clean).collect(),
        context: clean(question.context),
        urgency: question.urgency,
    }
}

fn heavier(one: Urgency, other: Urgency) -> Urgency {
    let weight = |urgency| match urgency {
        Urgency::Low => 0,
        Urgency::Normal => 1,
        Urgency::High => 2,
    };
    if weight(other) > weight(one) { other } else { one }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(arguments: &Value) -> Result<Escalation, String> {
        of_arguments(arguments.as_object().unwrap())
    }

    #[test]
    fn the_arguments_of_the_tool_are_read_strictly() {
        let full = json!({"question": " Which? ", "options": ["a", "b"], "context": "c", "urgency": "high"});
        assert_eq!(
            read(&full).unwrap(),
            Escalation {
                question: "Which?".into(),
                options: vec!["a".into(), "b".into()],
                context: "c".into(),
                urgency: Urgency::High
            }
        );
        assert_eq!(
            read(&json!({"question": "Which?", "options": null}))
                .unwrap()
                .options
                .len(),
            0
        );
        for wrong in [
            json!({}),
            json!({"question": "  "}),
            json!({"question": 7}),
            json!({"question": "q", "options": "a"}),
            json!({"question": "q", "options": [1]}),
            json!({"question": "q", "options": [""]}),
            json!({"question": "q", "urgency": "now"}),
            json!({"question": "q", "answer": "a"}),
            json!({"question": "q".repeat(20_000)}),
            json!({"question": "q", "context": "c".repeat(100_000)}),
            json!({"question": "q", "options": vec!["o"; 21]}),
        ] {
            assert!(read(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_several_questions_the_first_stands_and_none_is_lost() {
        let ask = |question: &str, options: &[&str], context: &str| Escalation {
            question: question.into(),
            options: options.iter().map(|&option| option.into()).collect(),
            context: context.into(),
            urgency: Urgency::Normal,
        };
        let second = Escalation {
            urgency: Urgency::High,
            ..ask("Which port?", &["80", "81"], "It is free.")
        };
        let merged = merged([ask("Postgres?", &["yes"], "We have both."), second]).unwrap();
        assert_eq!((merged.question.as_str(), merged.options.len()), ("Postgres?", 1));
        assert_eq!(
            merged.context,
            "We have both.\n\nAsked at the same time: Which port?\nOptions: 80; 81\nIt is free."
        );
        assert_eq!(merged.urgency, Urgency::High);
    }
}
