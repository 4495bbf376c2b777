//! A script: what the model says, turn by turn, and what goes wrong on the way. Data only.

use std::time::Duration;

use serde_json::Value;

/// What the scripted model says in a conversation.
///
/// The place in the script follows from the request alone: the turn's index is the number of the
/// model's own messages in it. A repeated request therefore gets the same turn again, and any number of
/// conversations may be under way at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Script {
    /// The turns of a conversation that no case matches.
    pub turns: Vec<Turn>,
    /// Other turns, chosen by what the user said; see [`Script::when_user_says`].
    pub cases: Vec<Case>,
}

/// Turns that start where the user said something.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Text that one of the user's messages contains.
    pub needle: String,
    /// The turns after that message.
    pub turns: Vec<Turn>,
}

impl Script {
    /// A script of these turns; after the last one the model closes with a plain text.
    pub fn new(turns: impl IntoIterator<Item = Turn>) -> Self {
        Self {
            turns: turns.into_iter().collect(),
            cases: Vec::new(),
        }
    }

    /// Adds turns that begin after the latest message of the user whose text contains `needle`, whatever
    /// was said before: a resumed conversation holds messages that nobody scripted. Where several needles
    /// occur, the latest message decides, then the first case. Results of tools are not the user's text.
    #[must_use]
    pub fn when_user_says(
        mut self,
        needle: impl Into<String>,
        turns: impl IntoIterator<Item = Turn>,
    ) -> Self {
        self.cases.push(Case {
            needle: needle.into(),
            turns: turns.into_iter().collect(),
        });
        self
    }
}

/// One message of the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Turn {
    /// What it says and which tools it calls.
    pub blocks: Vec<Block>,
    /// What it costs.
    pub usage: Usage,
    /// What happens to the first requests for this turn, one fault after the other; afterwards they are
    /// answered. Counted for each session on its own.
    pub faults: Vec<Fault>,
    /// A pause before every event of the stream.
    pub pace: Duration,
}

impl Turn {
    /// A turn that says `text` and calls no tool, which ends the agent's work.
    pub fn text(text: impl Into<String>) -> Self {
        Self::default().and_text(text)
    }

    /// A turn that calls one tool.
    pub fn tool(name: impl Into<String>, input: Value) -> Self {
        Self::default().and_tool(name, input)
    }

    /// Says something more.
    #[must_use]
    pub fn and_text(mut self, text: impl Into<String>) -> Self {
        self.blocks.push(Block::Text(text.into()));
        self
    }

    /// Calls one more tool in the same turn.
    #[must_use]
    pub fn and_tool(mut self, name: impl Into<String>, input: Value) -> Self {
        self.blocks.push(Block::ToolUse {
            name: name.into(),
            input,
        });
        self
    }

    /// Costs this.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }

    /// Goes wrong in this way first; may be repeated.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// Streams with this pause before every event.
    #[must_use]
    pub fn pace(mut self, pause: Duration) -> Self {
        self.pace = pause;
        self
    }

    /// `tool_use` when a tool is called, else `end_turn`.
    pub(super) fn stop_reason(&self) -> &'static str {
        if self
            .blocks
            .iter()
            .any(|block| matches!(block, Block::ToolUse { .. }))
        {
            "tool_use"
        } else {
            "end_turn"
        }
    }

    /// The fault of the request with this number, counted from 0.
    pub(super) fn fault_of(&self, request: u32) -> Option<&Fault> {
        let mut before = 0_u32;
        self.faults.iter().find(|fault| {
            before = before.saturating_add(fault.times());
            request < before
        })
    }
}

/// A block of a message's content.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// Something said.
    Text(String),
    /// A tool called.
    ToolUse {
        /// The tool's name, as the agent knows it.
        name: String,
        /// Its input: an object.
        input: Value,
    },
}

/// The tokens that a turn is charged with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Tokens read at the full price.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Tokens written to the prompt cache.
    pub cache_creation_input_tokens: u64,
    /// Tokens read from the prompt cache.
    pub cache_read_input_tokens: u64,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            input_tokens: 1_200,
            output_tokens: 180,
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: 0,
        }
    }
}

/// What happens instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An error in Anthropic's shape.
    Status {
        /// The status, for instance 429, 500 or 529.
        code: u16,
        /// Headers such as `retry-after`.
        headers: Vec<(String, String)>,
        /// How many requests it happens to.
        times: u32,
    },
    /// The connection breaks after so many events of the stream. Claude Code then asks for a stream
    /// again, up to ten times with growing pauses. A request without a stream is answered.
    CutAfter {
        /// Events before the cut.
        events: usize,
        /// How many requests it happens to.
        times: u32,
    },
    /// The stream ends in good order after so many events, though its message is incomplete. Claude Code
    /// then asks again at once, from the second time on without a stream; such a request is answered.
    EndAfter {
        /// Events before the end.
        events: usize,
        /// How many requests it happens to.
        times: u32,
    },
    /// The answer comes, but late.
    Delay {
        /// How late.
        duration: Duration,
        /// How many requests it happens to.
        times: u32,
    },
}

impl Fault {
    /// This status for the next `times` requests.
    pub fn status(code: u16, times: u32) -> Self {
        Self::Status {
            code,
            headers: Vec::new(),
            times,
        }
    }

    /// 429 with `retry-after`.
    pub fn rate_limited(retry_after: Duration, times: u32) -> Self {
        let header = ("retry-after".to_owned(), retry_after.as_secs().to_string());
        Self::Status {
            code: 429,
            headers: vec![header],
            times,
        }
    }

    /// 529, which tells that the model is overloaded.
    pub fn overloaded(times: u32) -> Self {
        Self::status(529, times)
    }

    /// A stream that is cut off once.
    pub fn cut_after(events: usize) -> Self {
        Self::CutAfter { events, times: 1 }
    }

    /// One late answer.
    pub fn delay(duration: Duration) -> Self {
        Self::Delay { duration, times: 1 }
    }

    fn times(&self) -> u32 {
        match self {
            Self::Status { times, .. }
            | Self::CutAfter { times, .. }
            | Self::EndAfter { times, .. }
            | Self::Delay { times, .. } => *times,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, Turn};

    #[test]
    fn faults_follow_one_another_and_end() {
        let turn = Turn::text("hello")
            .fault(Fault::overloaded(2))
            .fault(Fault::cut_after(3));
        assert_eq!(turn.fault_of(1), Some(&Fault::overloaded(2)));
        assert_eq!(turn.fault_of(2), Some(&Fault::cut_after(3)));
        assert_eq!(turn.fault_of(3), None);
    }
}
