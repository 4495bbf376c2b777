//! The real agent plays the scripts; `FABRICA_TEST_CLAUDE` names its binary.

use std::{ffi::OsString, path::PathBuf, process::Stdio, time::Duration};

use fabrica_cli::rehearsal::{Fault, RecordedRequest, Rehearsal, RehearsalOptions, Script, Turn, scripts};
use serde_json::Value;

use crate::{KEY, TOKEN, git_succeeds, isolated, run_git, with_password};

/// A rehearsal with a clone of the sample, and the agent in it.
struct Workplace {
    program: OsString,
    _directory: tempfile::TempDir,
    home: PathBuf,
    workspace: PathBuf,
    rehearsal: Rehearsal,
}

impl Workplace {
    async fn with(script: impl FnOnce(&str) -> Script) -> Self {
        let program = std::env::var_os("FABRICA_TEST_CLAUDE");
        let program = program.expect("FABRICA_TEST_CLAUDE is not set: run `make test`");
        let directory = tempfile::tempdir().unwrap();
        let (home, workspace) = (directory.path().join("home"), directory.path().join("clone"));
        std::fs::create_dir(&home).unwrap();
        let script = script(workspace.to_str().unwrap());
        let options = RehearsalOptions::new(directory.path().join("repositories"), script);
        let rehearsal = Rehearsal::start(options.model_key(KEY).forge_token(TOKEN))
            .await
            .unwrap();
        let url = with_password(&rehearsal.repository_url(), TOKEN);
        git_succeeds(directory.path(), &["clone", "-q", &url, "clone"]).await;
        Self {
            program,
            _directory: directory,
            home,
            workspace,
            rehearsal,
        }
    }

    /// Runs the agent with nothing of this machine's environment and no address but loopback, and
    /// returns every line of its output.
    async fn run(&self, arguments: &[&str]) -> Vec<Value> {
        let mut command = isolated(self.program.to_str().unwrap(), &self.home);
        command
            .current_dir(&self.workspace)
            .env("ANTHROPIC_BASE_URL", self.rehearsal.model_base_url())
            .env("ANTHROPIC_AUTH_TOKEN", KEY)
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .env("DISABLE_AUTOUPDATER", "1")
            .env("IS_SANDBOX", "1")
            .args([
                "-p",
                "--output-format",
                "stream-json",
                "--verbose",
                "--dangerously-skip-permissions",
            ])
            .args(["--setting-sources", "user", "--strict-mcp-config"])
            .args(["--settings", r#"{"attribution":{"commit":"","pr":""}}"#])
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_mins(2), command.output())
            .await
            .unwrap()
            .unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn result(lines: &[Value]) -> &Value {
    lines.iter().find(|line| line["type"] == "result").unwrap()
}

/// What the tools returned, in order: whether it was an error, and what it said.
fn tool_results(lines: &[Value]) -> Vec<(bool, String)> {
    lines
        .iter()
        .filter(|line| line["type"] == "user")
        .filter_map(|line| line["message"]["content"].as_array())
        .flatten()
        .filter(|block| block["type"] == "tool_result")
        .map(|block| (block["is_error"] == true, block["content"].to_string()))
        .collect()
}

#[tokio::test]
async fn the_real_agent_does_the_sample_job() {
    let place = Workplace::with(scripts::sample_job).await;
    let lines = place.run(&["--", "Add the command that the README wants."]).await;
    let result = result(&lines);
    assert_eq!(result["is_error"], false, "{result}");
    assert_eq!(result["terminal_reason"], "completed");
    assert!(result["total_cost_usd"].as_f64().unwrap() > 0.0);
    let tools = tool_results(&lines);
    assert!(
        tools.len() == 6 && tools.iter().all(|(failed, _)| !failed),
        "{tools:?}"
    );
    assert!(tools[5].1.contains("ok   tests/low_test.sh"), "{tools:?}");
    assert_eq!(place.rehearsal.model_requests().len(), 4);

    git_succeeds(&place.workspace, &["push", "-q", "origin", "HEAD:fabrica/low"]).await;
    let sample = place.rehearsal.sample();
    assert_eq!(sample.log("fabrica/low").await.unwrap(), ["Add stock low"]);
    assert!(
        sample
            .file("fabrica/low", "tests/low_test.sh")
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        sample
            .file("fabrica/low", "bin/stock")
            .await
            .unwrap()
            .unwrap()
            .contains("| low N")
    );
    place.rehearsal.shutdown().await;
}

#[tokio::test]
async fn the_real_agent_changes_nothing_or_forgets_to_commit() {
    for (script, changes) in [
        (scripts::no_change as fn(&str) -> Script, ""),
        (scripts::leaves_uncommitted_change, "?? NOTES.md\n"),
    ] {
        let place = Workplace::with(script).await;
        let lines = place.run(&["--", "Do it."]).await;
        assert_eq!(result(&lines)["terminal_reason"], "completed");
        let status = run_git(&place.workspace, &["status", "--porcelain"]).await;
        assert_eq!(String::from_utf8(status.stdout).unwrap(), changes);
    }
}

#[tokio::test]
async fn the_real_agent_goes_on_after_a_command_that_fails() {
    let commands = ["exit 3", "echo $((6 * 7))"];
    let place = Workplace::with(|_| scripts::runs_bash(commands)).await;
    let lines = place.run(&["--", "Try."]).await;
    assert_eq!(result(&lines)["result"], "I ran all commands.");
    let tools = tool_results(&lines);
    assert!(
        tools[0].0 && tools[1] == (false, "\"42\"".to_owned()),
        "{tools:?}"
    );
}

#[tokio::test]
async fn the_real_agent_outlasts_the_faults() {
    let turn = Turn::text("Done at last.")
        .fault(Fault::rate_limited(Duration::from_secs(1), 1))
        .fault(Fault::overloaded(1))
        .fault(Fault::cut_after(3))
        .fault(Fault::EndAfter { events: 4, times: 2 });
    let place = Workplace::with(|_| Script::new([turn])).await;
    let lines = place.run(&["--", "Do it."]).await;
    let result = result(&lines);
    assert_eq!(
        (&result["is_error"], &result["result"]),
        (&false.into(), &"Done at last.".into()),
        "{result}"
    );
    let requests = place.rehearsal.model_requests();
    let statuses: Vec<_> = requests.iter().filter_map(|request| request.status).collect();
    assert_eq!(statuses, [429, 529, 200, 200, 200, 200]);
    let streams: Vec<_> = requests.iter().map(RecordedRequest::streams).collect();
    assert_eq!(streams, [true, true, true, true, true, false]);
}

#[tokio::test]
async fn the_real_agent_fails_on_a_refusal() {
    let turn = Turn::text("never said").fault(Fault::status(400, u32::MAX));
    let place = Workplace::with(|_| Script::new([turn])).await;
    let lines = place.run(&["--", "Do it."]).await;
    assert_eq!(result(&lines)["is_error"], true);
    assert_eq!(result(&lines)["api_error_status"], 400);
}

#[tokio::test]
async fn the_real_agent_is_resumed_into_the_case_of_its_answer() {
    let script = |_: &str| {
        Script::new([
            Turn::tool("Bash", scripts::bash("true", "Nothing")),
            Turn::text("Which colour?"),
        ])
        .when_user_says(
            "Answer to your question",
            [
                Turn::tool("Bash", scripts::bash("echo blue >colour", "Note the answer")),
                Turn::text("Blue it is."),
            ],
        )
    };
    let place = Workplace::with(script).await;
    let session = "7a3cbe9e-61c4-4d0b-9d0b-0c1f54f4a001";
    let lines = place.run(&["--session-id", session, "--", "Paint it."]).await;
    assert_eq!(result(&lines)["result"], "Which colour?");
    let lines = place
        .run(&["--resume", session, "--", "Answer to your question: blue"])
        .await;
    assert_eq!(result(&lines)["result"], "Blue it is.");
    assert_eq!(
        std::fs::read_to_string(place.workspace.join("colour")).unwrap(),
        "blue\n"
    );
    assert!(
        place
            .rehearsal
            .model_requests()
            .iter()
            .all(|request| request.session() == Some(session))
    );
}
