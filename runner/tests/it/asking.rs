//! The agent asks a person: any program with `fabrica-escalate`, and the real Claude Code with its tool.

use std::path::PathBuf;

use fabrica_core::protocol::{Resume, RunnerEvent, Urgency};
use serde_json::json;

use crate::claude::{sandbox_with, used};
use crate::support::{End, RUNNER_TOKEN, Sandbox};

#[tokio::test(flavor = "multi_thread")]
async fn a_program_asks_and_what_it_recorded_is_the_truth() {
    for end in ["exit 85", "exit 0", "exit 3", "kill -9 $$"] {
        let sandbox = Sandbox::new(&format!(
            "env >../environment; fabrica-escalate --option Postgres --option SQLite --context 'We have both.' --urgency high 'Which one?'; {end}"
        ));
        let end = sandbox.run().await;
        let question = end.asked();
        assert_eq!(
            (question.question.as_str(), question.urgency),
            ("Which one?", Urgency::High)
        );
        assert_eq!(question.options, ["Postgres", "SQLite"]);
        assert_eq!(question.context, "We have both.");
        assert_eq!(end.output(), ["recorded: now end with exit code 85"]);
        let [.., checkpoint, question] = &end.events[..] else {
            panic!("{:?}", end.events);
        };
        assert!(
            matches!(checkpoint.event, RunnerEvent::Checkpoint(_)),
            "the work is safe first"
        );
        assert!(matches!(question.event, RunnerEvent::Escalation(_)));
        let environment = std::fs::read_to_string(sandbox.path("workspace/environment")).unwrap();
        assert!(!environment.contains(RUNNER_TOKEN));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_asks_nothing_or_asks_wrongly_is_told() {
    let sandbox = Sandbox::new("exit 85");
    assert_eq!(sandbox.run().await.failed().0.code, "agent.asked_nothing");
    let sandbox = Sandbox::new(
        "fabrica-escalate --help; fabrica-escalate; echo $?; fabrica-escalate --bogus x; echo $?; \
         env -u FABRICA_QUESTIONS fabrica-escalate 'Which?'; echo $?",
    );
    let end = sandbox.run().await;
    end.completed();
    let output = end.output().join("\n");
    for part in [
        "Usage: fabrica-escalate",
        "error: there is no question",
        "hint: see fabrica-escalate --help",
        "unexpected option \"--bogus\"",
        "FABRICA_QUESTIONS is not set",
    ] {
        assert!(output.contains(part), "{part}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_questions_the_first_stands_and_a_question_on_standard_input_is_taken() {
    let sandbox = Sandbox::new(
        "echo 'Which one?' | fabrica-escalate -; fabrica-escalate --option 80 'Which port?'; exit 85",
    );
    let end = sandbox.run().await;
    let question = end.asked();
    assert_eq!(question.question, "Which one?");
    assert_eq!(
        question.context,
        "Asked at the same time: Which port?\nOptions: 80"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_of_setup_is_none_of_the_agents() {
    let mut sandbox = Sandbox::new("true");
    sandbox.job.setup = vec!["fabrica-escalate Which? || true".into()];
    sandbox.run().await.completed();
}

fn real() -> Sandbox {
    let program = std::env::var_os("FABRICA_TEST_CLAUDE").map(PathBuf::from);
    let program = program.expect("FABRICA_TEST_CLAUDE is not set: run `make test`");
    sandbox_with(&format!("#!/bin/sh\nexec {} \"$@\"\n", program.display()))
}

fn transcript(end: &End) -> String {
    format!("{:?}", end.events)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_agent_asks_in_the_middle_of_parallel_calls_and_goes_on_with_the_answer() {
    let mut sandbox = real();
    let calls = json!([
        {"name": "Bash", "input": {"command": "echo half > half.txt", "description": "Work"}},
        {"name": "mcp__fabrica__escalate", "input": {"question": "Postgres or SQLite?", "options": ["Postgres", "SQLite"]}},
        {"name": "Bash", "input": {"command": "echo sibling > sibling.txt", "description": "Work"}},
        {"name": "mcp__fabrica__escalate", "input": {"question": "Which port?"}},
    ]);
    let commit = "cat half.txt sibling.txt && git add --all && git commit -q -m 'Go on'";
    sandbox
        .gateway
        .play(&["echo before > before.txt", &calls.to_string(), commit]);
    let end = sandbox.run().await;
    let question = end.asked().clone();
    let both = format!("{} {}", question.question, question.context);
    assert!(
        both.contains("Postgres or SQLite?") && both.contains("Which port?"),
        "{question:?}"
    );
    assert!(
        transcript(&end).contains("hook_stopped"),
        "the hook ended the turn"
    );
    let checkpoint = end.first_checkpoint();
    assert!(checkpoint.conversation);
    assert_eq!(used(&end).input_tokens, 200);
    let files = sandbox.ask_remote(&["ls-tree", "--name-only", &checkpoint.commit]);
    assert!(
        files.contains("half.txt") && files.contains("sibling.txt"),
        "{files}"
    );

    let before = sandbox.gateway.prompts().len();
    let resume = Resume {
        checkpoint: Some(checkpoint),
        prompt: "Answer to your question: SQLite.".into(),
    };
    sandbox.resume(resume, None);
    let end = sandbox.run().await;
    let result = end.completed();
    assert_eq!(result.summary, "Everything is done.");
    assert_eq!(result.pushed.as_ref().unwrap().subjects, ["Go on"]);
    let prompts = sandbox.gateway.prompts().split_off(before).join("\n");
    assert!(prompts.contains("Answer to your question: SQLite.") && prompts.contains("Write a greeting."));
    assert!(
        prompts.contains("Postgres or SQLite?"),
        "it remembers what it asked"
    );
    assert_eq!(
        used(&end).input_tokens,
        200,
        "what was used before is not counted again"
    );
    let kept = sandbox.gateway.artifact("claude-transcript.jsonl").unwrap();
    let kept = String::from_utf8_lossy(&kept);
    assert!(kept.contains("SQLite.") && kept.contains("Everything is done.") && kept.contains("echo before"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_agent_begins_anew_with_the_answer_if_its_conversation_is_lost() {
    let mut sandbox = real();
    let ask = json!([{"name": "mcp__fabrica__escalate", "input": {"question": "Which one?"}}]);
    sandbox.gateway.play(&[&ask.to_string()]);
    let end = sandbox.run().await;
    let checkpoint = end.first_checkpoint();
    sandbox.gateway.forget_artifacts();
    sandbox.gateway.play(&["echo hello > hello.txt"]);
    let resume = Resume {
        checkpoint: Some(checkpoint),
        prompt: "Answer to your question: SQLite.".into(),
    };
    sandbox.resume(resume, None);
    let end = sandbox.run().await;
    assert!(end.completed().pushed.is_some());
    assert!(end.progress().iter().any(|line| line.contains("begins anew")));
    let prompt = sandbox.gateway.prompts().pop().unwrap();
    assert!(
        prompt.contains("Write a greeting.\\n\\nAnswer to your question: SQLite."),
        "{prompt}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subagent_of_the_real_agent_is_sent_to_the_main_agent() {
    let sandbox = real();
    let task = json!([{"name": "Task", "input": {
        "description": "Look around", "prompt": "YOU-ARE-A-SUBAGENT: look around", "subagent_type": "general-purpose",
        "run_in_background": false}}]);
    let theirs = json!([{"name": "mcp__fabrica__escalate", "input": {"question": "From the subagent?"}}]);
    let ours = json!([{"name": "mcp__fabrica__escalate", "input": {"question": "From the main agent?"}}]);
    sandbox.gateway.play(&[
        &task.to_string(),
        &format!("subagent:{theirs}"),
        &ours.to_string(),
    ]);
    let end = sandbox.run().await;
    let question = end.asked();
    assert_eq!(
        (question.question.as_str(), question.context.as_str()),
        ("From the main agent?", "")
    );
    assert!(
        transcript(&end).contains("A subagent cannot ask a person"),
        "{}",
        transcript(&end)
    );
}
