//! Reads what an answer used out of the answer, in the form that it has.

use fabrica_core::ports::gateway::ModelUse;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::events::EventStream;
use super::figures::{Event, Figures};

/// The longest answer that is read as a whole.
const LONGEST_DOCUMENT: usize = 4 * 1024 * 1024;

/// The events that say something about use, or that the answer is over.
const START: &str = "message_start";
const DELTA: &str = "message_delta";
const STOP: &str = "message_stop";

/// Reads an answer on its way.
#[derive(Debug)]
pub(super) enum Reader {
    /// A stream of events.
    Events { stream: EventStream, figures: Figures },
    /// One JSON document.
    Document(Vec<u8>),
    /// It cannot be read, for this reason.
    Not(&'static str),
}

impl Reader {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let encoding = text(CONTENT_ENCODING).unwrap_or_default();
        if headers.contains_key(CONTENT_ENCODING) && !encoding.eq_ignore_ascii_case("identity") {
            return Self::Not("it is encoded, although the gateway does not ask for that");
        }
        let kind = text(CONTENT_TYPE).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("text/event-stream") {
            Self::Events {
                stream: EventStream::default(),
                figures: Figures::default(),
            }
        } else if essence.eq_ignore_ascii_case("application/json") {
            Self::Document(Vec::new())
        } else {
            Self::Not("it is neither JSON nor a stream of events")
        }
    }

    /// Whether only the end of the answer shows that it is over.
    pub(super) fn needs_the_end(&self) -> bool {
        matches!(self, Self::Document(_))
    }

    /// Reads on; `true` says that the answer is over, although its end may not have arrived.
    pub(super) fn read(&mut self, piece: &[u8]) -> bool {
        match self {
            Self::Events { stream, figures } => {
                let mut over = false;
                let wanted = |name: &str| matches!(name, "" | START | DELTA | STOP);
                stream.read(piece, wanted, |name, data| over |= event(figures, name, data));
                over
            }
            Self::Document(content) if content.len() + piece.len() > LONGEST_DOCUMENT => {
                *self = Self::Not("it is too long");
                false
            }
            Self::Document(content) => {
                content.extend_from_slice(piece);
                false
            }
            Self::Not(_) => false,
        }
    }

    /// What was used, or why that is not known.
    pub(super) fn used(self, asked: String) -> Result<ModelUse, &'static str> {
        let figures = match self {
            Self::Events { figures, .. } => figures,
            Self::Document(content) => {
                let mut figures = Figures::default();
                let message = serde_json::from_slice(&content).map_err(|_| "it is no whole message")?;
                figures.message(message);
                figures
            }
            Self::Not(reason) => return Err(reason),
        };
        figures.used(asked).ok_or("it says nothing of its use")
    }
}

/// Reads one event; `true` says that it is the last one.
fn event(figures: &mut Figures, name: &str, data: &[u8]) -> bool {
    let Ok(event) = serde_json::from_slice::<Event>(data) else {
        return name == STOP;
    };
    let kind = match name {
        "" => event.kind.clone().unwrap_or_default(),
        name => name.to_owned(),
    };
    match kind.as_str() {
        START | DELTA => figures.event(event),
        STOP => return true,
        _ => {}
    }
    false
}

#[cfg(test)]
mod tests {
    use fabrica_core::protocol::Usage;
    use http::HeaderValue;

    use super::*;

    const STREAM: &str = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-a\",\"usage\":{",
        "\"input_tokens\":10,\"output_tokens\":1,\"cache_read_input_tokens\":300,",
        "\"cache_creation_input_tokens\":50,\"cache_creation\":{\"ephemeral_5m_input_tokens\":20,",
        "\"ephemeral_1h_input_tokens\":30},\"service_tier\":\"standard\"}}}\n\n",
        "event: ping\ndata: {\"type\":\"ping\"}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":",
        "\"event: message_delta\\ndata: {\\\"usage\\\":{\\\"output_tokens\\\":9999}}\\n\\n\"}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":40}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"input_tokens\":10,",
        "\"output_tokens\":72,\"cache_read_input_tokens\":null}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );

    fn reader(kind: &'static str) -> Reader {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Reader::of(&headers)
    }

    fn used(output_tokens: u64) -> ModelUse {
        ModelUse {
            model: "claude-a".into(),
            usage: Usage {
                input_tokens: 10,
                output_tokens,
                cache_read_tokens: 300,
                cache_write_tokens: 50,
                ..Usage::default()
            },
            hour_cache_write_tokens: 30,
        }
    }

    #[test]
    fn a_stream_is_counted_wherever_it_is_cut_into_pieces() {
        for text in [STREAM.to_owned(), STREAM.replace('\n', "\r\n")] {
            for at in 0..=text.len() {
                let (first, second) = text.as_bytes().split_at(at);
                let mut reader = reader("text/event-stream; charset=utf-8");
                let over = reader.read(first);
                assert!(over | reader.read(second), "cut at {at}");
                assert_eq!(reader.used(String::new()), Ok(used(72)), "cut at {at}");
            }
        }
    }

    #[test]
    fn of_a_stream_that_breaks_off_its_beginning_counts() {
        let begun = STREAM.find("event: ping").unwrap();
        let mut reader = reader("text/event-stream");
        assert!(!reader.read(&STREAM.as_bytes()[..begun]));
        assert_eq!(reader.used(String::new()), Ok(used(1)));
    }

    #[test]
    fn events_without_names_are_told_apart_by_their_type() {
        let mut reader = reader("text/event-stream");
        let nameless: String = STREAM
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("event:"))
            .collect();
        assert!(reader.read(nameless.as_bytes()));
        assert_eq!(reader.used(String::new()), Ok(used(72)));
    }

    #[test]
    fn a_document_is_counted_as_a_whole_and_may_leave_its_model_out() {
        let mut whole = reader("Application/JSON");
        assert!(!whole.read(br#"{"id":"msg_1","content":[{"text":"#));
        assert!(!whole.read(br#""x"}],"usage":{"input_tokens":3,"output_tokens":4}}"#));
        let used = whole.used("asked".into()).unwrap();
        assert_eq!(used.model, "asked");
        assert_eq!((used.usage.input_tokens, used.usage.output_tokens), (3, 4));
        let mut parts = reader("application/json");
        parts.read(
            br#"{"usage":{"cache_creation":{"ephemeral_5m_input_tokens":5,"ephemeral_1h_input_tokens":2}}}"#,
        );
        let used = parts.used(String::new()).unwrap();
        assert_eq!(
            (used.usage.cache_write_tokens, used.hour_cache_write_tokens),
            (7, 2)
        );
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let refused = |mut reader: Reader, piece: &[u8]| {
            reader.read(piece);
            reader.used(String::new()).unwrap_err()
        };
        assert!(refused(reader("text/plain"), b"x").contains("neither"));
        assert!(refused(reader("application/json"), b"{\"usage\":").contains("no whole message"));
        assert!(refused(reader("application/json"), b"{}").contains("nothing"));
        assert!(refused(reader("text/event-stream"), b"event: error\ndata: {}\n\n").contains("nothing"));
        assert!(refused(reader("application/json"), &vec![b' '; LONGEST_DOCUMENT + 1]).contains("too long"));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(refused(Reader::of(&headers), b"{}").contains("encoded"));
    }
}
