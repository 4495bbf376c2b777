//! Names of models: how entries name them, and how else they are spelled.

/// The name of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// Without the `*` at its end.
    name: String,
    /// Whether anything may follow.
    open: bool,
}

impl Pattern {
    /// `None` for a name without sense.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, open) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        let sensible = !text.is_empty() && !name.contains(|c: char| c == '*' || c.is_whitespace());
        sensible.then(|| Self {
            name: name.to_owned(),
            open,
        })
    }

    pub(super) fn fits(&self, model: &str) -> bool {
        match model.strip_prefix(self.name.as_str()) {
            Some(rest) => self.open || rest.is_empty(),
            None => false,
        }
    }

    /// The longest is the most specific, and a whole name is more so than the same beginning.
    pub(super) fn rank(&self) -> (usize, bool) {
        (self.name.len(), !self.open)
    }
}

/// A model's name, also without its provider and without its date.
pub(super) fn spellings(model: &str) -> Vec<&str> {
    let local = model.rsplit('/').next().unwrap_or(model);
    // Amazon writes `us.anthropic.claude-…`.
    let local = local.split_once("anthropic.").map_or(local, |(_, name)| name);
    [Some(model), Some(local), undated(model), undated(local)]
        .into_iter()
        .flatten()
        .collect()
}

/// The name before a date at its end: `-20250805`, and `@20250805` as Google writes it.
fn undated(model: &str) -> Option<&str> {
    let (name, date) = model.rsplit_once(['-', '@'])?;
    let dated = date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit());
    dated.then_some(name)
}
