//! What the model API says about an answer's use, as it is written.

use fabrica_core::ports::gateway::ModelUse;
use fabrica_core::protocol::Usage;
use serde::Deserialize;

/// An answer as a whole, or the `message` that a stream begins with.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    model: Option<String>,
    usage: Option<Reported>,
}

/// The data of an event of a stream.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    /// The event's name once more.
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    message: Option<Message>,
    usage: Option<Reported>,
}

/// `usage`. In a stream every one of its numbers covers all of the answer so far.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reported {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
}

/// The parts of `cache_creation_input_tokens`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CacheCreation {
    ephemeral_5m_input_tokens: Option<u64>,
    ephemeral_1h_input_tokens: Option<u64>,
}

/// What is known of an answer.
#[derive(Debug, Default)]
pub(super) struct Figures {
    model: Option<String>,
    /// `None` until a number is told.
    usage: Option<Usage>,
    hour_cache_write_tokens: u64,
}

impl Figures {
    pub(super) fn message(&mut self, message: Message) {
        if message.model.is_some() {
            self.model = message.model;
        }
        if let Some(usage) = message.usage {
            self.reported(&usage);
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        if let Some(message) = event.message {
            self.message(message);
        }
        if let Some(usage) = event.usage {
            self.reported(&usage);
        }
    }

    fn reported(&mut self, reported: &Reported) {
        let known = self.usage.get_or_insert_default();
        let raise = |known: &mut u64, told: Option<u64>| *known = (*known).max(told.unwrap_or_default());
        raise(&mut known.input_tokens, reported.input_tokens);
        raise(&mut known.output_tokens, reported.output_tokens);
        raise(&mut known.cache_read_tokens, reported.cache_read_input_tokens);
        raise(
            &mut known.cache_write_tokens,
            reported.cache_creation_input_tokens,
        );
        if let Some(parts) = &reported.cache_creation {
            let (minutes, hour) = (parts.ephemeral_5m_input_tokens, parts.ephemeral_1h_input_tokens);
            let both = minutes
                .unwrap_or_default()
                .saturating_add(hour.unwrap_or_default());
            raise(&mut known.cache_write_tokens, Some(both));
            raise(&mut self.hour_cache_write_tokens, hour);
        }
    }

    /// What was used, if anything is known. An answer that does not name its model is of the one that was asked for.
    pub(super) fn used(self, asked: String) -> Option<ModelUse> {
        Some(ModelUse {
            usage: self.usage?,
            model: self.model.unwrap_or(asked),
            hour_cache_write_tokens: self.hour_cache_write_tokens,
        })
    }
}
