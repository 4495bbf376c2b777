//! The scripted agents: shell scripts that write numbered lines, so that any that is lost, doubled or out of order shows.

use crate::dice::Dice;

/// What a scripted agent does, and therefore what has to be in the store afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agent {
    /// How many numbered lines it writes.
    pub(crate) lines: u32,
    /// What makes the lines of one session different from those of all others.
    salt: u32,
    /// The pause after each line, as `sleep` takes it; none if it is empty.
    pause: &'static str,
    /// Runs before the lines.
    before: String,
    /// Runs after the lines and before the commit.
    after: String,
    /// Whether it changes something and commits it.
    commits: bool,
}

impl Agent {
    pub(crate) fn new(dice: &mut Dice, lines: u32, pause: &'static str) -> Self {
        Self {
            lines,
            salt: u32::try_from(dice.below(1_000_000)).unwrap_or(0),
            pause,
            before: String::new(),
            after: String::new(),
            commits: true,
        }
    }

    pub(crate) fn before(mut self, script: impl Into<String>) -> Self {
        self.before = script.into();
        self
    }

    pub(crate) fn after(mut self, script: impl Into<String>) -> Self {
        self.after = script.into();
        self
    }

    /// The number and the check of a line, if it is one of this agent's.
    pub(crate) fn number(&self, line: &str) -> Option<u32> {
        let mut words = line.split(' ');
        if words.next() != Some("line") {
            return None;
        }
        let number: u32 = words.next()?.parse().ok()?;
        (words.next() == Some(self.check(number).to_string().as_str()) && words.next().is_none())
            .then_some(number)
    }

    fn check(&self, number: u32) -> u64 {
        (u64::from(number) * 7_919 + u64::from(self.salt)) % 1_000_003
    }

    fn script(&self) -> String {
        let Self {
            lines,
            salt,
            pause,
            before,
            after,
            commits,
        } = self;
        let pause = if pause.is_empty() {
            String::new()
        } else {
            format!("sleep {pause}; ")
        };
        let mut script = format!(
            "{before}\ni=0; while [ $i -lt {lines} ]; do i=$((i+1)); \
             echo \"line $i $(( (i*7919+{salt})%1000003 ))\"; {pause}done\n{after}\n"
        );
        if *commits {
            // The host's name is the container's id: a push tells which container made it.
            script.push_str("cat /proc/sys/kernel/hostname > made-by && git add -A && git commit -qm Work\n");
        }
        script
    }

    /// A plan for it, with more lines of frontmatter.
    pub(crate) fn plan(&self, repository: &str, title: &str, frontmatter: &str) -> String {
        let argv = serde_json::json!(["sh", "-c", self.script()]);
        format!(
            "---\nrepo: {repository}\nagent: {{ command: {argv} }}\n{frontmatter}\n---\n# {title}\n\nWrite lines.\n"
        )
    }
}
