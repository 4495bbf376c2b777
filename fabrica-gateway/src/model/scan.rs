//! Finds the model in the beginning of a request, without the rest of it.

/// The longest key or model that is kept.
const LONGEST: usize = 1024;

/// What is known of the document so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// More of it is needed.
    Open,
    /// The value of the first `model` on the top level.
    Model(String),
    /// There is none: the document has ended, is no JSON object, or its model is no text.
    Absent,
}

/// Reads the top level of a JSON object, byte by byte, as far as its first `model`.
///
/// Whether the rest is JSON is for the model API to say. Should a document name two models, the API may take the other
/// one; what the session is charged for is the model that the answer names.
#[derive(Debug)]
pub(super) struct Scanner {
    place: Place,
    /// The text that is being read, as it is written, with its quotes.
    text: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Before the object.
    Start,
    /// Where a key may begin.
    Key,
    /// In a key.
    InKey { escaped: bool },
    /// Behind a key.
    Colon { model: bool },
    /// Before a value.
    Value { model: bool },
    /// In the value that is looked for.
    InModel { escaped: bool },
    /// In another value, or behind it, so many brackets deep.
    Other { depth: usize },
    /// In a text inside of such a value.
    OtherText { depth: usize, escaped: bool },
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            place: Place::Start,
            text: Vec::new(),
        }
    }

    /// Reads on. Whatever comes after a verdict does not matter.
    pub(super) fn read(&mut self, piece: &[u8]) -> Verdict {
        piece
            .iter()
            .map(|byte| self.step(*byte))
            .find(|verdict| *verdict != Verdict::Open)
            .unwrap_or(Verdict::Open)
    }

    fn step(&mut self, byte: u8) -> Verdict {
        self.place = match (self.place, byte) {
            (
                Place::Start | Place::Key | Place::Colon { .. } | Place::Value { .. },
                b' ' | b'\t' | b'\n' | b'\r',
            ) => self.place,
            (Place::Start, b'{') | (Place::Key, b',') => Place::Key,
            (Place::Key, b'"') => {
                self.begin(byte);
                Place::InKey { escaped: false }
            }
            (Place::InKey { escaped }, _) => {
                if self.text_goes_on(byte, escaped) {
                    Place::InKey {
                        escaped: escapes(byte, escaped),
                    }
                } else {
                    let model = self.decoded().is_some_and(|key| key == "model");
                    Place::Colon { model }
                }
            }
            (Place::Colon { model }, b':') => Place::Value { model },
            (Place::Value { model: true }, b'"') => {
                self.begin(byte);
                Place::InModel { escaped: false }
            }
            (Place::InModel { escaped }, _) => {
                if !self.text_goes_on(byte, escaped) {
                    return self.decoded().map_or(Verdict::Absent, Verdict::Model);
                }
                Place::InModel {
                    escaped: escapes(byte, escaped),
                }
            }
            (Place::Value { model: false }, _) => return self.skip(0, byte),
            (Place::Other { depth }, _) => return self.skip(depth, byte),
            (
                Place::OtherText {
                    depth,
                    escaped: false,
                },
                b'"',
            ) => Place::Other { depth },
            (Place::OtherText { depth, escaped }, _) => Place::OtherText {
                depth,
                escaped: escapes(byte, escaped),
            },
            (Place::Start | Place::Key | Place::Colon { .. } | Place::Value { model: true }, _) => {
                return Verdict::Absent;
            }
        };
        Verdict::Open
    }

    /// In a value that is not looked for.
    fn skip(&mut self, depth: usize, byte: u8) -> Verdict {
        self.place = match byte {
            b'"' => Place::OtherText {
                depth,
                escaped: false,
            },
            b'{' | b'[' => Place::Other { depth: depth + 1 },
            b'}' | b']' if depth == 0 => return Verdict::Absent,
            b'}' | b']' => Place::Other { depth: depth - 1 },
            b',' if depth == 0 => Place::Key,
            _ => Place::Other { depth },
        };
        Verdict::Open
    }

    fn begin(&mut self, quote: u8) {
        self.text.clear();
        self.text.push(quote);
    }

    /// Keeps a byte of a text; `false` says that it was the last one.
    fn text_goes_on(&mut self, byte: u8, escaped: bool) -> bool {
        // What is too long loses its closing quote, and is no text any more.
        if self.text.len() < LONGEST {
            self.text.push(byte);
        }
        byte != b'"' || escaped
    }

    fn decoded(&self) -> Option<String> {
        serde_json::from_slice(&self.text).ok()
    }
}

fn escapes(byte: u8, escaped: bool) -> bool {
    byte == b'\\' && !escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> Verdict {
        Verdict::Model(name.to_owned())
    }

    /// Reads a document in two pieces, cut at every place, and byte by byte.
    fn scan(document: &str) -> Verdict {
        let whole = Scanner::new().read(document.as_bytes());
        for at in 0..=document.len() {
            let (first, second) = document.as_bytes().split_at(at);
            let mut scanner = Scanner::new();
            let verdict = match scanner.read(first) {
                Verdict::Open => scanner.read(second),
                verdict => verdict,
            };
            assert_eq!(verdict, whole, "cut at {at}: {document}");
        }
        whole
    }

    #[test]
    fn the_model_is_found_wherever_a_document_is_cut() {
        let found = [
            r#"{"model":"claude","max_tokens":1}"#,
            "\n{ \"max_tokens\" : 1e3 ,\t\"model\"\r\n: \"claude\"",
            r#"{"a":null,"b":-1.5,"c":true,"model":"claude"}"#,
            r#"{"a":"\\","b":"\\\"","model":"claude"}"#,
            r#"{"a\"":1,"\\":2,"":3,"model":"claude"}"#,
            r#"{"\u006dodel":"cl\u0061ude"}"#,
            r#"{"model":"claude","model":"other"}"#,
        ];
        for document in found {
            assert_eq!(scan(document), model("claude"), "{document}");
        }
        assert_eq!(scan(r#"{"model":"a\"\\ü"}"#), model("a\"\\ü"));
        assert_eq!(scan(r#"{"model":""}"#), model(""));
    }

    #[test]
    fn only_a_key_of_the_top_level_counts() {
        let documents = [
            r#"{"metadata":{"model":"inner"},"model":"claude"}"#,
            r#"{"messages":[{"model":"inner"},[{"model":"inner"}]],"model":"claude"}"#,
            r#"{"a":"model","b":["model","x"],"model":"claude"}"#,
            r#"{"a":"\"model\":\"inner\"","b":"}","c":["]","{"],"model":"claude"}"#,
            r#"{"system":"{\"model\":\"inner\"}","models":"no","mode":"no","model":"claude"}"#,
        ];
        for document in documents {
            assert_eq!(scan(document), model("claude"), "{document}");
        }
        assert_eq!(scan(r#"{"metadata":{"model":"inner"}}"#), Verdict::Absent);
    }

    #[test]
    fn what_names_no_model_is_told_from_what_is_not_read_to_its_end() {
        let absent = [
            "piece",
            "[{\"model\":\"claude\"}]",
            "\"model\"",
            "{}",
            r#"{"model":1}"#,
            r#"{"model":["claude"]}"#,
            r#"{"model":"\x"}"#,
            r#"{"model" "claude"}"#,
            r#"{model:"claude"}"#,
            r#"{"a":1}{"model":"claude"}"#,
            "\u{1f}\u{8b}",
        ];
        for document in absent {
            assert_eq!(scan(document), Verdict::Absent, "{document}");
        }
        for document in ["", " ", "{", r#"{"model":"cla"#, r#"{"a":"#, r#"{"a":{}"#] {
            assert_eq!(scan(document), Verdict::Open, "{document}");
        }
    }

    #[test]
    fn keys_and_models_without_end_are_not_kept() {
        let mut scanner = Scanner::new();
        assert_eq!(scanner.read(b"{\""), Verdict::Open);
        for _ in 0..1000 {
            assert_eq!(scanner.read(&[b'm'; 100]), Verdict::Open);
        }
        assert!(scanner.text.capacity() <= 2 * LONGEST);
        assert_eq!(scanner.read(br#"":1,"model":"claude"}"#), model("claude"));
        let endless = format!("{{\"model\":\"{}\"}}", "m".repeat(LONGEST));
        assert_eq!(Scanner::new().read(endless.as_bytes()), Verdict::Absent);
    }
}
