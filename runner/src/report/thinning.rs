//! What is left out while too much waits for the gateway: a flood of output thins the reporting, never the work.

use fabrica_core::protocol::{RunnerEvent, TranscriptEntry, Usage};
use serde_json::{Map, Value};

/// How much waits for the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// There is room.
    Low,
    /// There is room still, but nothing that was left out before begins again.
    High,
    /// Entries of the transcript are left out.
    Full,
    /// Everything is left out but the attempt's outcome.
    Overfull,
}

/// Decides what is kept. What is left out is counted, and told as soon as there is room.
#[derive(Debug, Default)]
pub(super) struct Thinning {
    /// Whether the last load was too much, and has not become low since: one gap is told once.
    thin: bool,
    lines: u64,
    usage: Usage,
}

impl Thinning {
    /// What to append instead of an event: nothing, itself, or itself after the note about what is missing.
    pub(super) fn admit(&mut self, event: RunnerEvent, load: Load) -> Vec<RunnerEvent> {
        self.thin = match load {
            Load::Low => false,
            Load::High => self.thin,
            Load::Full | Load::Overfull => true,
        };
        match event {
            RunnerEvent::Agent(entry) if self.thin => {
                self.lines += lines(&entry);
                Vec::new()
            }
            // A number that is missing would be wrong for ever; the sum is as good.
            RunnerEvent::Usage(usage) if self.thin => {
                self.usage = self.usage.plus(usage);
                Vec::new()
            }
            RunnerEvent::Progress { .. } if load == Load::Overfull => {
                self.lines += 1;
                Vec::new()
            }
            event if self.thin && !is_last(&event) => vec![event],
            event => self.missing().into_iter().chain([event]).collect(),
        }
    }

    fn missing(&mut self) -> Vec<RunnerEvent> {
        let lines = std::mem::take(&mut self.lines);
        let usage = std::mem::take(&mut self.usage);
        let note = RunnerEvent::Agent(TranscriptEntry {
            kind: "notice".to_owned(),
            parent: None,
            summary: format!("… {lines} lines left out"),
            detail: Map::from_iter([("left_out".to_owned(), Value::from(lines))]),
        });
        let note = (lines > 0).then_some(note);
        let usage = (usage != Usage::default()).then_some(RunnerEvent::Usage(usage));
        note.into_iter().chain(usage).collect()
    }
}

/// Whether it is the attempt's outcome.
fn is_last(event: &RunnerEvent) -> bool {
    matches!(
        event,
        RunnerEvent::Completed(_) | RunnerEvent::Failed { .. } | RunnerEvent::Escalation(_)
    )
}

/// How many lines of output an entry stands for.
fn lines(entry: &TranscriptEntry) -> u64 {
    let lines = entry.detail.get("lines").and_then(Value::as_array);
    lines.map_or(1, |lines| lines.len() as u64)
}

#[cfg(test)]
mod tests {
    use fabrica_core::protocol::JobResult;
    use serde_json::json;

    use super::*;

    fn output(lines: usize) -> RunnerEvent {
        RunnerEvent::Agent(TranscriptEntry {
            kind: "output".into(),
            parent: None,
            summary: String::new(),
            detail: Map::from_iter([("lines".to_owned(), json!(vec!["x"; lines]))]),
        })
    }

    fn progress() -> RunnerEvent {
        RunnerEvent::Progress {
            step: "push".into(),
            message: "Pushed".into(),
        }
    }

    fn usage(tokens: u64) -> RunnerEvent {
        RunnerEvent::Usage(Usage {
            output_tokens: tokens,
            ..Usage::default()
        })
    }

    fn told(events: &[RunnerEvent]) -> Vec<String> {
        let tell = |event: &RunnerEvent| match event {
            RunnerEvent::Agent(entry) => format!("{}{}", entry.kind, entry.summary),
            RunnerEvent::Usage(usage) => format!("usage {}", usage.output_tokens),
            RunnerEvent::Progress { .. } => "progress".to_owned(),
            RunnerEvent::Completed(_) => "completed".to_owned(),
            other => format!("{other:?}"),
        };
        events.iter().map(tell).collect()
    }

    #[test]
    fn a_gap_is_told_once_and_no_usage_is_lost() {
        let mut thinning = Thinning::default();
        assert_eq!(told(&thinning.admit(output(3), Load::High)), ["output"]);
        assert!(thinning.admit(output(3), Load::Full).is_empty());
        assert!(thinning.admit(usage(5), Load::Full).is_empty());
        assert!(thinning.admit(output(4), Load::High).is_empty(), "not yet");
        assert!(thinning.admit(usage(6), Load::High).is_empty());
        assert_eq!(told(&thinning.admit(progress(), Load::Full)), ["progress"]);
        assert_eq!(
            told(&thinning.admit(output(1), Load::Low)),
            ["notice… 7 lines left out", "usage 11", "output"]
        );
        assert_eq!(told(&thinning.admit(output(1), Load::High)), ["output"]);
    }

    #[test]
    fn the_outcome_passes_whatever_waits_and_after_what_is_missing() {
        let mut thinning = Thinning::default();
        assert!(thinning.admit(output(2), Load::Overfull).is_empty());
        assert!(thinning.admit(progress(), Load::Overfull).is_empty());
        let outcome = RunnerEvent::Completed(JobResult {
            summary: String::new(),
            pushed: None,
            verification: vec![],
            rounds: 1,
            template: None,
            heard: 0,
            unfinished: false,
        });
        assert_eq!(
            told(&thinning.admit(outcome, Load::Overfull)),
            ["notice… 3 lines left out", "completed"]
        );
    }
}
