//! Ready-made scripts for the model, and the plan that belongs to the sample.
//!
//! The inputs of the tools are those that the agent's real tools take. `workspace` is the absolute path
//! of the clone inside the sandbox.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Script, Turn, Usage};

/// The plan of the sample job, for the repository at this URL.
pub fn sample_plan(repository_url: &str) -> String {
    let task = include_str!("sample/plan.md");
    format!("---\nrepo: {repository_url}\nverify: [\"sh tests/run.sh\"]\n---\n{task}")
}

/// What the sample lacks, done in four turns: read, change, test and commit, tell.
pub fn sample_job(workspace: &str) -> Script {
    let program = format!("{workspace}/bin/stock");
    let reading = Turn::text("I'll look at the program and at its tests first.")
        .and_tool("Read", read(&program))
        .and_tool("Read", read(&format!("{workspace}/tests/take_test.sh")));
    let usage_line = edit(&program, "show ARTICLE | list\"", "show ARTICLE | list | low N\"");
    let listing = "    list)\n        cat \"$store\"\n        ;;\n";
    let low = concat!(
        "    low)\n",
        "        [ $# -eq 2 ] || usage\n",
        "        while read -r article count; do\n",
        "            if [ \"$count\" -lt \"$2\" ]; then\n",
        "                echo \"$article $count\"\n",
        "            fi\n",
        "        done <\"$store\"\n",
        "        ;;\n",
    );
    let test = include_str!("sample/tests/low_test.sh.txt");
    let changing = Turn::text("Now the command itself, its usage line and a test.")
        .and_tool("Edit", edit(&program, listing, &format!("{listing}{low}")))
        .and_tool("Edit", usage_line)
        .and_tool("Write", write(&format!("{workspace}/tests/low_test.sh"), test));
    let committing = format!(
        "cd {} && sh tests/run.sh && git add -A && git commit -q -m 'Add stock low' && git log --oneline -1",
        quoted(workspace)
    );
    Script::new([
        reading.usage(tokens(3_400, 140)),
        changing.usage(tokens(4_600, 620)),
        Turn::tool("Bash", bash(&committing, "Run the tests and commit")).usage(tokens(5_400, 110)),
        Turn::text(
            "`stock low N` now lists the articles of which fewer than N are left. The usage line names it, \
             tests/low_test.sh shows that only such articles are listed, and all tests pass.",
        )
        .usage(tokens(5_700, 90)),
    ])
}

/// Reads, and changes nothing.
pub fn no_change(workspace: &str) -> Script {
    Script::new([
        Turn::tool("Read", read(&format!("{workspace}/README.md"))).usage(tokens(3_400, 60)),
        Turn::text("Everything that was asked for is already there. I changed nothing.")
            .usage(tokens(3_900, 40)),
    ])
}

/// Writes the file `NOTES.md` and forgets to commit it.
pub fn leaves_uncommitted_change(workspace: &str) -> Script {
    let notes = write(&format!("{workspace}/NOTES.md"), "Not committed by the agent.\n");
    Script::new([
        Turn::tool("Write", notes).usage(tokens(3_400, 80)),
        Turn::text("I wrote NOTES.md.").usage(tokens(3_600, 20)),
    ])
}

/// Runs one shell command a turn, whether they succeed or not, and ends. The agent's Bash tool refuses a
/// command that begins with `sleep`.
pub fn runs_bash<C: AsRef<str>>(commands: impl IntoIterator<Item = C>) -> Script {
    let turns = commands
        .into_iter()
        .map(|command| Turn::tool("Bash", bash(command.as_ref(), "Try it")));
    Script::new(turns.chain([Turn::text("I ran all commands.")]))
}

/// Takes `turns` turns, each a harmless command that the model thinks about for `thinking`.
pub fn slow(turns: u32, thinking: Duration) -> Script {
    let script = runs_bash((1..=turns).map(|turn| format!("echo 'turn {turn} of {turns}'")));
    let late = |turn: Turn| turn.fault(super::Fault::delay(thinking));
    Script {
        turns: script.turns.into_iter().map(late).collect(),
        ..script
    }
}

/// Calls a tool that asks a person, and after an answer that contains `answer` goes on with `then`.
pub fn asks(tool: &str, input: Value, answer: &str, then: impl IntoIterator<Item = Turn>) -> Script {
    Script::new([Turn::tool(tool, input)]).when_user_says(answer, then)
}

/// The input of `Read`.
pub fn read(path: &str) -> Value {
    json!({"file_path": path})
}

/// The input of `Write`; an existing file must have been read before.
pub fn write(path: &str, content: &str) -> Value {
    json!({"file_path": path, "content": content})
}

/// The input of `Edit`; the file must have been read before, and `old` occur once.
pub fn edit(path: &str, old: &str, new: &str) -> Value {
    json!({"file_path": path, "old_string": old, "new_string": new})
}

/// The input of `Bash`.
pub fn bash(command: &str, description: &str) -> Value {
    json!({"command": command, "description": description})
}

fn tokens(input: u64, output: u64) -> Usage {
    Usage {
        input_tokens: input,
        output_tokens: output,
        ..Usage::default()
    }
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{Script, sample_job, sample_plan};
    use crate::rehearsal::Block;

    fn inputs<'a>(script: &'a Script, tool: &'a str) -> Vec<&'a serde_json::Value> {
        let blocks = script.turns.iter().flat_map(|turn| &turn.blocks);
        blocks
            .filter_map(|block| match block {
                Block::ToolUse { name, input } if name == tool => Some(input),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn the_sample_job_edits_what_is_in_the_sample() {
        let script = sample_job("/workspace");
        let program = include_str!("sample/bin/stock");
        for edit in inputs(&script, "Edit") {
            assert_eq!(
                program.matches(edit["old_string"].as_str().unwrap()).count(),
                1,
                "{edit}"
            );
        }
        assert_eq!(script.turns.len(), 4);
        assert_eq!(inputs(&script, "Read")[0]["file_path"], "/workspace/bin/stock");
    }

    #[test]
    fn the_plan_names_its_repository() {
        let plan = sample_plan("http://127.0.0.1:1/acme/sample.git");
        assert!(plan.starts_with("---\nrepo: http://127.0.0.1:1/acme/sample.git\n"));
    }
}
