//! A server of the Model Context Protocol on standard input and output, with one tool. A crate for this would bring a
//! hundred times its length.

use std::io::{self, BufRead, Read as _, Write};

use serde_json::{Map, Value, json};

use super::question::of_arguments;
use super::record::Questions;

/// The longest message.
const MAX_LINE: u64 = 1024 * 1024;
/// The versions of the protocol that this is written for; the last is offered to a client that wants another.
const VERSIONS: [&str; 3] = ["2024-11-05", "2025-03-26", "2025-06-18"];
/// What the agent is told once its question is kept.
const RECORDED: &str =
    "Recorded. A person will answer later. End your turn now: do no more work and call no more tools.";

/// What a request came to: its result, or a code and words.
type Answer = Result<Value, (i32, String)>;

/// Serves until the client goes.
pub(super) fn serve(
    mut input: impl BufRead,
    mut output: impl Write,
    questions: &Questions,
) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        let length = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(());
        }
        if length as u64 == MAX_LINE && line.last() != Some(&b'\n') {
            // What follows would be taken for the next message.
            return Err(io::Error::other("a message is too long"));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if let Some(answer) = answer(&line, questions) {
            let mut text = serde_json::to_vec(&answer)?;
            text.push(b'\n');
            output.write_all(&text)?;
            output.flush()?;
        }
    }
}

/// The answer to a message; nothing to a notification.
fn answer(message: &[u8], questions: &Questions) -> Option<Value> {
    let failed = |id: Value, code: i32, words: &str| {
        Some(json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": words}}))
    };
    let Ok(message) = serde_json::from_slice::<Value>(message) else {
        return failed(Value::Null, -32700, "this is not JSON");
    };
    let (Some(object), Some(method)) = (message.as_object(), message.get("method").and_then(Value::as_str))
    else {
        return failed(Value::Null, -32600, "this is not a request");
    };
    let id = object.get("id").cloned()?;
    if !(id.is_string() || id.is_number()) {
        return failed(Value::Null, -32600, "the id is neither text nor a number");
    }
    let empty = Map::new();
    let parameters = object.get("params").and_then(Value::as_object).unwrap_or(&empty);
    match call(method, parameters, questions) {
        Ok(result) => Some(json!({"jsonrpc": "2.0", "id": id, "result": result})),
        Err((code, words)) => failed(id, code, &words),
    }
}

fn call(method: &str, parameters: &Map<String, Value>, questions: &Questions) -> Answer {
    match method {
        "initialize" => Ok(initialize(parameters)),
        "ping" => Ok(json!({})),
        "tools/list" => Ok(json!({"tools": [tool()]})),
        "tools/call" => escalate(parameters, questions),
        // `server/discover` too: the client then goes on with `initialize`.
        _ => Err((-32601, format!("there is no method {method:?}"))),
    }
}

fn initialize(parameters: &Map<String, Value>) -> Value {
    let wanted = parameters.get("protocolVersion").and_then(Value::as_str);
    let version = wanted
        .filter(|version| VERSIONS.contains(version))
        .unwrap_or(VERSIONS[VERSIONS.len() - 1]);
    json!({
        "protocolVersion": version,
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "fabrica", "version": env!("CARGO_PKG_VERSION")},
    })
}

fn tool() -> Value {
    json!({
        "name": "escalate",
        "title": "Ask a person",
        "description": "Ask the person who gave you the task, when you are blocked by something that only a person can \
            decide or provide. Call it once, alone, with everything that the person needs in order to answer; then end \
            your turn. Your work is kept, and you go on with the answer later.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "question": {"type": "string", "description": "The question, complete in itself."},
                "options": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "Answers to choose from, if there are any.",
                },
                "context": {
                    "type": "string",
                    "description": "What the person should know: what you found, what you tried, what depends on the answer.",
                },
                "urgency": {"type": "string", "enum": ["low", "normal", "high"], "default": "normal"},
            },
            "required": ["question"],
            "additionalProperties": false,
        },
        "_meta": {"anthropic/alwaysLoad": true},
    })
}

fn escalate(parameters: &Map<String, Value>, questions: &Questions) -> Answer {
    let name = parameters.get("name").and_then(Value::as_str).unwrap_or_default();
    if name != "escalate" {
        return Err((-32602, format!("there is no tool {name:?}")));
    }
    let empty = Map::new();
    let arguments = parameters
        .get("arguments")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let recorded = of_arguments(arguments).and_then(|question| {
        questions
            .record(&question)
            .map_err(|error| format!("the question cannot be kept: {error}"))
    });
    let (words, error) = match recorded {
        Ok(()) => (RECORDED.to_owned(), false),
        Err(problem) => (
            format!("Not recorded: {problem}. Correct this and call the tool again."),
            true,
        ),
    };
    Ok(json!({"content": [{"type": "text", "text": words}], "isError": error}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialogue(questions: &Questions, messages: &[&str]) -> Vec<Value> {
        let mut output = Vec::new();
        serve(messages.join("\n").as_bytes(), &mut output, questions).unwrap();
        String::from_utf8(output)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn fresh() -> (tempfile::TempDir, Questions) {
        let directory = tempfile::tempdir().unwrap();
        let questions = Questions::at(directory.path().join("questions"));
        questions.begin().unwrap();
        (directory, questions)
    }

    #[test]
    fn a_client_finds_the_tool_and_its_question_is_kept() {
        let (_directory, questions) = fresh();
        let answers = dialogue(
            &questions,
            &[
                r#"{"jsonrpc":"2.0","id":0,"method":"server/discover"}"#,
                r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{}}}"#,
                r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
                r#"{"jsonrpc":"2.0","id":"two","method":"tools/list"}"#,
                r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"escalate","arguments":{"question":"Which?","options":["a","b"]}}}"#,
                r#"{"jsonrpc":"2.0","id":4,"method":"ping"}"#,
            ],
        );
        assert_eq!(answers.len(), 5, "a notification has no answer");
        assert_eq!(answers[0]["error"]["code"], -32601);
        assert_eq!(answers[1]["result"]["protocolVersion"], "2025-03-26");
        let tool = &answers[2]["result"]["tools"][0];
        assert_eq!(
            (&answers[2]["id"], &tool["name"]),
            (&json!("two"), &json!("escalate"))
        );
        assert_eq!(tool["_meta"]["anthropic/alwaysLoad"], true);
        assert_eq!(answers[3]["result"]["isError"], false);
        assert!(
            answers[3]["result"]["content"][0]["text"]
                .as_str()
                .unwrap()
                .contains("End your turn")
        );
        assert_eq!(answers[4]["result"], json!({}));
        assert_eq!(questions.read().unwrap().options, ["a", "b"]);
    }

    #[test]
    fn what_is_wrong_is_told_and_keeps_nothing() {
        let (_directory, questions) = fresh();
        let answers = dialogue(
            &questions,
            &[
                "{",
                "[]",
                r#"{"jsonrpc":"2.0","id":1}"#,
                r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
                r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"other"}}"#,
                r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"escalate","arguments":{"question":""}}}"#,
                r#"{"jsonrpc":"2.0","id":4,"method":"initialize","params":{"protocolVersion":"1999-01-01"}}"#,
            ],
        );
        let codes: Vec<_> = answers
            .iter()
            .map(|answer| answer["error"]["code"].as_i64())
            .collect();
        assert_eq!(
            codes,
            [
                Some(-32700),
                Some(-32600),
                Some(-32600),
                Some(-32600),
                Some(-32602),
                None,
                None
            ]
        );
        assert_eq!(answers[5]["result"]["isError"], true, "the agent can correct it");
        assert_eq!(answers[6]["result"]["protocolVersion"], "2025-06-18");
        assert!(!questions.any());
    }
}
