//! What has to be in place before an agent can ask.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::hook::Moment;
use super::record::Questions;
use super::{TOOL, shell};

/// Where `fabrica-escalate` finds the directory of the questions.
pub(crate) const QUESTIONS_VARIABLE: &str = "FABRICA_QUESTIONS";
/// How many seconds a hook has. It takes some milliseconds; a machine that swaps takes its time.
const HOOK_SECONDS: u32 = 60;

/// The agent's way to ask, below the scratch directory.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    scratch: PathBuf,
    program: PathBuf,
}

impl Setup {
    /// With this very program as what the agent's side calls.
    pub(crate) fn new(scratch: PathBuf) -> io::Result<Self> {
        Ok(Self {
            scratch,
            program: std::env::current_exe()?,
        })
    }

    /// Where the questions are.
    pub(crate) fn questions(&self) -> Questions {
        Questions::at(self.scratch.join("questions"))
    }

    /// Where the notes of people to the agent are.
    pub(crate) fn inbox(&self) -> PathBuf {
        self.scratch.join("inbox")
    }

    /// The directory with `fabrica-escalate`, for the agent's `PATH`.
    pub(crate) fn programs(&self) -> PathBuf {
        self.scratch.join("bin")
    }

    /// Puts everything in place, and forgets all earlier questions.
    pub(crate) fn begin(&self) -> io::Result<()> {
        self.questions().begin()?;
        std::fs::create_dir_all(self.programs())?;
        let link = self.programs().join(shell::NAME);
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(&self.program, link)
    }

    /// Writes the configuration of Claude Code's servers, and returns its path.
    pub(crate) fn servers(&self) -> io::Result<PathBuf> {
        let servers = json!({"mcpServers": {"fabrica": {
            "type": "stdio",
            "command": self.program,
            "args": ["mcp", self.questions().directory()],
            "env": {},
        }}});
        self.write("servers.json", &servers)
    }

    /// Writes Claude Code's settings, and returns their path.
    pub(crate) fn settings(&self) -> io::Result<PathBuf> {
        let hook = |tool: &str, moment: Moment| {
            let directory = match moment {
                Moment::AfterTool | Moment::BeforeEnd => self.inbox(),
                _ => self.questions().directory().to_owned(),
            };
            let command = format!(
                "{} hook {} {}",
                quoted(&self.program),
                moment.name(),
                quoted(&directory)
            );
            json!({"matcher": tool, "hooks": [{"type": "command", "command": command, "timeout": HOOK_SECONDS}]})
        };
        let settings = json!({
            // No trailer of its own in commits.
            "attribution": {"commit": "", "pr": ""},
            "hooks": {
                "PreToolUse": [
                    hook(TOOL, Moment::BeforeEscalation),
                    hook("AskUserQuestion", Moment::BeforeAsking),
                ],
                "PostToolUse": [
                    hook(TOOL, Moment::AfterEscalation),
                    hook("*", Moment::AfterTool),
                ],
                "Stop": [hook("", Moment::BeforeEnd)],
            },
        });
        self.write("settings.json", &settings)
    }

    fn write(&self, name: &str, content: &Value) -> io::Result<PathBuf> {
        let path = self.scratch.join(name);
        std::fs::write(&path, content.to_string())?;
        Ok(path)
    }
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_calls_is_this_program_and_may_have_any_path() {
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup {
            scratch: directory.path().join("it's here"),
            program: "/opt/fabrica/bin/fabrica-runner".into(),
        };
        setup.begin().unwrap();
        setup.begin().unwrap();
        let link = std::fs::read_link(setup.programs().join("fabrica-escalate")).unwrap();
        assert_eq!(link, setup.program);
        let read =
            |path: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        let servers = read(setup.servers().unwrap());
        assert_eq!(servers["mcpServers"]["fabrica"]["args"][0], "mcp");
        let settings = read(setup.settings().unwrap());
        let command = settings["hooks"]["PostToolUse"][0]["hooks"][0]["command"]
            .as_str()
            .unwrap();
        assert!(command.starts_with("'/opt/fabrica/bin/fabrica-runner' hook after-escalation '"));
        assert!(command.ends_with(r"/it'\''s here/questions'"), "{command}");
        assert_eq!(settings["hooks"]["PreToolUse"][1]["matcher"], "AskUserQuestion");
        assert_eq!(settings["attribution"]["commit"], "");
    }
}
