//! More output than anybody wants: the runner's memory is bounded, and the agent's outcome is its own.

use std::time::Duration;

use fabrica_core::plan::Agent;
use fabrica_core::protocol::{MAX_EVENT_BYTES, RunnerEvent, exit};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::support::{End, Running, Sandbox, until};

const COMMIT: &str = "echo hello >hello.txt; git add hello.txt; git commit -q -m 'Add a greeting'";
/// What the runner may take, whatever the agent writes, in MiB.
const MEMORY: u64 = 64;
/// How long a gateway takes for a batch that cannot keep up, but is not given up either.
const SLOW: Duration = Duration::from_secs(8);

/// Runs to the end and says how much memory the runner took at most.
async fn measured(sandbox: &Sandbox, running: Running) -> (End, u64) {
    let pid = running.pid();
    let watching = tokio::spawn(async move {
        let mut peak = 0;
        while let Some(now) = crate::support::peak(pid) {
            peak = now.max(peak);
            sleep(Duration::from_millis(20)).await;
        }
        peak
    });
    let end = sandbox.end(running).await;
    let peak = timeout(Duration::from_secs(10), watching).await.unwrap().unwrap();
    (end, peak)
}

/// How many lines of output arrived, and how many are said to be missing.
fn lines(end: &End) -> (u64, u64) {
    let missing = end.events.iter().filter_map(|event| match &event.event {
        RunnerEvent::Agent(entry) if entry.kind == "notice" => {
            assert!(entry.summary.ends_with("lines left out"), "{entry:?}");
            entry.detail["left_out"].as_u64()
        }
        _ => None,
    });
    (end.output().len() as u64, missing.sum())
}

fn within_limits(end: &End) {
    for event in &end.events {
        let length = serde_json::to_string(event).unwrap().len();
        assert!(length <= MAX_EVENT_BYTES, "{length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minutes_flood_at_once_in_front_of_a_slow_gateway_is_thinned_and_the_work_is_unhurt() {
    // As many lines as ten thousand a second are in a minute, as fast as they can be written.
    let line = "x".repeat(150);
    let script = format!(
        "awk 'BEGIN {{ for (n = 1; n <= 600000; n++) print n, \"{line}\" }}'; echo the end; {COMMIT}"
    );
    let sandbox = Sandbox::new(&script);
    sandbox.gateway.slow_down(SLOW);
    let running = sandbox.start();
    until(|| sandbox.path("workspace/repository/hello.txt").exists()).await;
    sandbox.gateway.slow_down(Duration::ZERO);
    let (end, peak) = measured(&sandbox, running).await;
    assert_eq!(end.completed().pushed.as_ref().unwrap().commits, 1);
    assert_eq!(end.completed().summary, "the end");
    assert_eq!(end.status.code(), Some(exit::REPORTED));
    let (arrived, missing) = lines(&end);
    println!("{arrived} lines arrived, {missing} were left out, the runner took at most {peak} MiB");
    assert_eq!(arrived + missing, 600_001);
    assert!(missing > 0 && arrived > 100_000, "{arrived} {missing}");
    within_limits(&end);
    assert!(peak < MEMORY, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_while_the_gateway_is_dead_neither_stops_the_agent_nor_hurts_its_work() {
    let script = format!(
        "echo ready; while ! test -e ../go; do sleep 0.05; done; \
         awk 'BEGIN {{ for (n = 1; n <= 100000; n++) print n, \"{}\" }}'; {COMMIT}; touch ../done; echo the end",
        "y".repeat(900)
    );
    let sandbox = Sandbox::new(&script);
    let running = sandbox.start();
    until(|| format!("{:?}", sandbox.gateway.events()).contains("ready\"")).await;
    sandbox.gateway.close();
    std::fs::write(sandbox.path("workspace/go"), "").unwrap();
    until(|| sandbox.path("workspace/done").exists()).await;
    sandbox.gateway.open();
    let (end, peak) = measured(&sandbox, running).await;
    assert_eq!(end.completed().summary, "the end");
    let (arrived, missing) = lines(&end);
    assert_eq!(arrived + missing, 100_002);
    assert!(missing > 0, "{arrived}");
    assert!(peak < MEMORY, "{peak} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_100_mb_and_bytes_that_are_no_text_are_cut_and_replaced() {
    let script = format!(
        r"head -c 100000000 /dev/zero | tr '\0' x; echo; head -c 3000000 /dev/zero; echo; head -c 3000000 /dev/urandom; echo; printf 'a\000b\377c\n'; {COMMIT}; echo the end"
    );
    let sandbox = Sandbox::new(&script);
    let running = sandbox.start();
    let (end, peak) = measured(&sandbox, running).await;
    assert_eq!(end.completed().summary, "the end");
    assert_eq!(end.completed().pushed.as_ref().unwrap().commits, 1);
    let output = end.output();
    assert!(output[0].ends_with("[99967232 bytes cut]"), "{}", output[0].len());
    assert!(output.contains(&"a\u{fffd}b\u{fffd}c".to_owned()));
    assert!(!serde_json::to_string(&end.events).unwrap().contains("\\u0000"));
    within_limits(&end);
    assert!(peak < MEMORY, "{peak} MiB");
}

/// A program that floods the stream of the real agent's format, and succeeds.
fn claude(sandbox: &mut Sandbox, flood: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    sandbox.job.agent = Agent::Claude;
    let directory = sandbox.path("bin");
    std::fs::create_dir(&directory).unwrap();
    let result = r#"{"type":"result","subtype":"success","is_error":false,"terminal_reason":"completed","result":"all done","total_cost_usd":0.5,"num_turns":3,"usage":{"input_tokens":0,"output_tokens":70000}}"#;
    let program =
        format!("#!/bin/sh\ncat >/dev/null\n{COMMIT}\n{flood}\ntouch ../flooded\necho '{result}'\n");
    std::fs::write(directory.join("claude"), program).unwrap();
    std::fs::set_permissions(directory.join("claude"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
    sandbox.variables = vec![("PATH".into(), path)];
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_too_many_and_too_long_messages_is_thinned_and_its_usage_is_whole() {
    let mut sandbox = Sandbox::new("");
    let message = r#"{\"type\":\"assistant\",\"message\":{\"id\":\"m%d\",\"model\":\"x\",\"content\":[{\"type\":\"text\",\"text\":\"word \\u0000 %s\"}],\"usage\":{\"input_tokens\":0,\"output_tokens\":1}}}"#;
    let flood = format!(
        "awk 'BEGIN {{ fill = \"{}\"; for (n = 1; n <= 70000; n++) printf \"{message}\\n\", n, fill }}'\n\
         head -c 100000000 /dev/zero | tr '\\0' x; echo; printf '\\377\\000 no json\\n'; \
         printf '{{\"type\":\"user\",\"message\":{{\"content\":[{{\"type\":\"tool_result\",\"content\":\"'; \
         head -c 8000000 /dev/zero | tr '\\0' y; printf '\"}}]}}}}\\n'",
        "z".repeat(150)
    );
    claude(&mut sandbox, &flood);
    sandbox.gateway.slow_down(SLOW);
    let running = sandbox.start();
    until(|| sandbox.path("workspace/flooded").exists()).await;
    sandbox.gateway.slow_down(Duration::ZERO);
    let (end, peak) = measured(&sandbox, running).await;
    assert_eq!(end.completed().summary, "all done");
    assert_eq!(end.completed().pushed.as_ref().unwrap().commits, 1);
    let used: u64 = end
        .events
        .iter()
        .filter_map(|event| match &event.event {
            RunnerEvent::Usage(usage) => Some(usage.output_tokens),
            _ => None,
        })
        .sum();
    assert_eq!(
        used, 70_000,
        "what was left out of the transcript was still paid for"
    );
    let text = |event: &RunnerEvent| match event {
        RunnerEvent::Agent(entry) => entry
            .detail
            .get("text")
            .and_then(Value::as_str)
            .map(str::to_owned),
        _ => None,
    };
    let first = end.events.iter().find_map(|event| text(&event.event)).unwrap();
    assert!(first.starts_with("word \u{fffd} z"), "{first}");
    assert!(lines(&end).1 > 0, "some are left out");
    within_limits(&end);
    assert!(peak < 2 * MEMORY, "{peak} MiB");
}
