//! What the hooks in Claude Code's settings say. Their input is what the agent is about to do or has done.

use std::path::Path;

use fabrica_core::protocol::{Escalation, Urgency};
use serde_json::{Map, Value, json};

use super::TOOL;
use super::question::checked;
use super::record::Questions;
use crate::inbox::{take, words};

/// What is told when the run ends.
const STOPPED: &str = "A person was asked, and will answer later.";
/// What a subagent is told.
const NOT_HERE: &str = "A subagent cannot ask a person. End your work, and report to the main agent what has to be asked \
    and everything that the person needs to know; the main agent will ask.";
/// What the agent is told when it asks in the way that nobody is there for.
const KEPT: &str =
    "Recorded. A person will answer later. End your turn now: do no more work and call no more tools.";

/// A moment that a hook is run at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before the tool `escalate` is called.
    BeforeEscalation,
    /// After that.
    AfterEscalation,
    /// Before the tool `AskUserQuestion` is called, which waits for somebody at the keyboard.
    BeforeAsking,
    /// After any tool was called: the agent hears what people said.
    AfterTool,
    /// Before the agent ends its turn: it hears what people said, and goes on.
    BeforeEnd,
}

impl Moment {
    /// The name in the arguments of the program.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::BeforeEscalation => "before-escalation",
            Self::AfterEscalation => "after-escalation",
            Self::BeforeAsking => "before-asking",
            Self::AfterTool => "after-tool",
            Self::BeforeEnd => "before-end",
        }
    }

    /// The moment of a name.
    pub(super) fn named(name: &str) -> Option<Self> {
        [
            Self::BeforeEscalation,
            Self::AfterEscalation,
            Self::BeforeAsking,
            Self::AfterTool,
            Self::BeforeEnd,
        ]
        .into_iter()
        .find(|moment| moment.name() == name)
    }
}

/// What the hook prints; nothing if it has no objection.
pub(super) fn decide(moment: Moment, input: &Value, questions: &Questions) -> Option<Value> {
    // To stop a subagent would stop only that, and leave the question to nobody.
    let subagent = input.get("agent_id").is_some_and(|id| !id.is_null());
    match moment {
        Moment::AfterEscalation if subagent || !questions.any() => None,
        Moment::AfterEscalation => Some(json!({"continue": false, "stopReason": STOPPED})),
        _ if subagent => Some(denied(NOT_HERE)),
        Moment::BeforeEscalation | Moment::AfterTool | Moment::BeforeEnd => None,
        Moment::BeforeAsking => Some(ask(input, questions)),
    }
}

/// What the agent hears of what people said; nothing if there is nothing, or if somebody else has to hear it.
pub(super) fn hear(moment: Moment, input: &Value, inbox: &Path) -> Option<Value> {
    let subagent = input.get("agent_id").is_some_and(|id| !id.is_null());
    // After that call its turn ends, and what it was told would be forgotten.
    let asking = input.get("tool_name").and_then(Value::as_str) == Some(TOOL);
    if subagent || asking {
        return None;
    }
    let notes = take(inbox);
    if notes.is_empty() {
        return None;
    }
    let words = words(&notes);
    match moment {
        Moment::AfterTool => Some(json!({"hookSpecificOutput": {
            "hookEventName": "PostToolUse",
            "additionalContext": format!("While you work: {words}"),
        }})),
        Moment::BeforeEnd => Some(json!({"decision": "block", "reason": words})),
        Moment::BeforeEscalation | Moment::AfterEscalation | Moment::BeforeAsking => None,
    }
}

fn ask(input: &Value, questions: &Questions) -> Value {
    let asked = input
        .pointer("/tool_input/questions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object);
    for question in asked.filter_map(|question| checked(&read(question)).ok()) {
        // The first one that is kept is enough to stop for.
        let _ = questions.record(&question);
    }
    if !questions.any() {
        return denied("Nobody is there to ask. Call the tool `escalate` of the server `fabrica` instead.");
    }
    let mut decision = denied(KEPT);
    decision["continue"] = json!(false);
    decision["stopReason"] = json!(STOPPED);
    decision
}

/// A question as the agent's own tool has it: the options' descriptions become part of the context.
fn read(question: &Map<String, Value>) -> Escalation {
    let text = |object: &Map<String, Value>, key: &str| {
        object
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let options: Vec<(String, String)> = question
        .get("options")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .map(|option| (text(option, "label"), text(option, "description")))
        .filter(|(label, _)| !label.trim().is_empty())
        .collect();
    let context = options
        .iter()
        .filter(|(_, description)| !description.is_empty())
        .map(|(label, description)| format!("{label}: {description}"))
        .collect::<Vec<_>>()
        .join("\n");
    Escalation {
        question: text(question, "question"),
        options: options.into_iter().map(|(label, _)| label).collect(),
        context,
        urgency: Urgency::Normal,
    }
}

fn denied(reason: &str) -> Value {
    json!({"hookSpecificOutput": {
        "hookEventName": "PreToolUse",
        "permissionDecision": "deny",
        "permissionDecisionReason": reason,
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, Questions) {
        let directory = tempfile::tempdir().unwrap();
        let questions = Questions::at(directory.path());
        (directory, questions)
    }

    fn question() -> Escalation {
        Escalation {
            question: "Which?".into(),
            options: vec![],
            context: String::new(),
            urgency: Urgency::Normal,
        }
    }

    #[test]
    fn the_turn_ends_once_a_question_is_kept_and_not_before() {
        let (_directory, questions) = fresh();
        let main = json!({"hook_event_name": "PostToolUse"});
        assert_eq!(decide(Moment::BeforeEscalation, &main, &questions), None);
        assert_eq!(
            decide(Moment::AfterEscalation, &main, &questions),
            None,
            "a call that was refused can be corrected"
        );
        questions.record(&question()).unwrap();
        let decision = decide(Moment::AfterEscalation, &main, &questions).unwrap();
        assert_eq!(decision["continue"], false);
        assert!(!decision["stopReason"].as_str().unwrap().is_empty());
    }

    #[test]
    fn a_subagent_is_sent_to_the_main_agent() {
        let (_directory, questions) = fresh();
        let input = json!({"agent_id": "a1", "tool_input": {"questions": [{"question": "Which?"}]}});
        for moment in [Moment::BeforeEscalation, Moment::BeforeAsking] {
            let decision = decide(moment, &input, &questions).unwrap();
            let output = &decision["hookSpecificOutput"];
            assert_eq!(output["permissionDecision"], "deny");
            assert!(
                output["permissionDecisionReason"]
                    .as_str()
                    .unwrap()
                    .contains("main agent")
            );
            assert_eq!(decision.get("continue"), None, "only the call is stopped");
        }
        assert!(!questions.any());
        questions.record(&question()).unwrap();
        assert_eq!(decide(Moment::AfterEscalation, &input, &questions), None);
    }

    #[test]
    fn the_agents_own_way_to_ask_is_caught_with_all_its_questions() {
        let (_directory, questions) = fresh();
        let input = json!({"tool_input": {"questions": [
            {"question": "Postgres or SQLite?", "header": "Store", "multiSelect": false, "options": [
                {"label": "Postgres", "description": "a server"}, {"label": "SQLite", "description": "a file"}]},
            {"question": "Which port?", "options": []},
        ]}});
        let decision = decide(Moment::BeforeAsking, &input, &questions).unwrap();
        assert_eq!(decision["hookSpecificOutput"]["permissionDecision"], "deny");
        assert_eq!(decision["continue"], false);
        let kept = questions.read().unwrap();
        assert_eq!(kept.options, ["Postgres", "SQLite"]);
        assert!(kept.context.contains("SQLite: a file") && kept.context.contains("Which port?"));
    }

    #[test]
    fn a_call_of_it_without_a_question_does_not_stop_the_agent() {
        let (_directory, questions) = fresh();
        let decision = decide(Moment::BeforeAsking, &json!({"tool_input": {}}), &questions).unwrap();
        assert_eq!(decision["hookSpecificOutput"]["permissionDecision"], "deny");
        assert_eq!(decision.get("continue"), None);
    }

    #[test]
    fn what_people_say_is_heard_once_by_the_main_agent() {
        let directory = tempfile::tempdir().unwrap();
        let inbox = crate::inbox::Inbox::new(directory.path().to_owned(), 0);
        let say = |number: u32| {
            inbox.receive(&fabrica_core::protocol::Told {
                number,
                by: "ada".into(),
                text: "Use tabs.".into(),
            });
        };
        say(1);
        let after = json!({"tool_name": "Bash"});
        for other in [
            json!({"tool_name": "Bash", "agent_id": "a1"}),
            json!({"tool_name": TOOL}),
        ] {
            assert_eq!(hear(Moment::AfterTool, &other, directory.path()), None);
        }
        let heard = hear(Moment::AfterTool, &after, directory.path()).unwrap();
        let context = &heard["hookSpecificOutput"]["additionalContext"];
        assert_eq!(context, "While you work: ada says:\n\nUse tabs.");
        assert_eq!(hear(Moment::BeforeEnd, &json!({}), directory.path()), None);
        say(2);
        let heard = hear(Moment::BeforeEnd, &json!({}), directory.path()).unwrap();
        assert_eq!(heard["decision"], "block");
        assert_eq!(heard["reason"], "ada says:\n\nUse tabs.");
    }

    #[test]
    fn every_moment_is_found_by_its_name() {
        for moment in [
            Moment::BeforeEscalation,
            Moment::AfterEscalation,
            Moment::BeforeAsking,
            Moment::AfterTool,
            Moment::BeforeEnd,
        ] {
            assert_eq!(Moment::named(moment.name()), Some(moment));
        }
        assert_eq!(Moment::named("later"), None);
    }
}
