//! What was done to Fabrica, what broke, and how long it took: for people and as JSON.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What is known of one promise so far; its clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Tally(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    promise: &'static str,
    title: &'static str,
    began: Instant,
    took: Duration,
    faults: BTreeMap<String, u64>,
    checks: u64,
    broken: Vec<String>,
    times: BTreeMap<String, Vec<Duration>>,
    numbers: BTreeMap<String, u64>,
    notes: Vec<String>,
}

impl Tally {
    pub(crate) fn new(promise: &'static str, title: &'static str) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            promise,
            title,
            began: Instant::now(),
            took: Duration::ZERO,
            faults: BTreeMap::new(),
            checks: 0,
            broken: Vec::new(),
            times: BTreeMap::new(),
            numbers: BTreeMap::new(),
            notes: Vec::new(),
        })))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fault was injected.
    pub(crate) fn fault(&self, kind: &str) {
        self.faults(kind, 1);
    }

    /// So many faults of a kind were injected.
    pub(crate) fn faults(&self, kind: &str, count: u64) {
        if count > 0 {
            *self.kept().faults.entry(kind.to_owned()).or_default() += count;
        }
    }

    /// An invariant was looked at: it held, or it broke, and this is how.
    pub(crate) fn check(&self, holds: bool, how: impl FnOnce() -> String) {
        self.kept().checks += 1;
        if !holds {
            self.broken(how());
        }
    }

    pub(crate) fn broken(&self, how: String) {
        let mut kept = self.kept();
        println!("  BROKEN ({}): {how}", kept.promise);
        kept.broken.push(how);
    }

    /// How long something took, under a name that is the same in every run.
    pub(crate) fn took(&self, what: &str, time: Duration) {
        self.kept().times.entry(what.to_owned()).or_default().push(time);
    }

    /// A number worth knowing; the largest one counts.
    pub(crate) fn number(&self, what: &str, value: u64) {
        let mut kept = self.kept();
        let known = kept.numbers.entry(what.to_owned()).or_default();
        *known = (*known).max(value);
    }

    /// Something that the reader should know, such as what could not be done on this machine.
    pub(crate) fn note(&self, text: impl Into<String>) {
        let text = text.into();
        let mut kept = self.kept();
        if !kept.notes.contains(&text) {
            kept.notes.push(text);
        }
    }

    pub(crate) fn end(&self) {
        let mut kept = self.kept();
        kept.took = kept.began.elapsed();
        if kept.faults.is_empty() {
            kept.broken.push("no fault was injected".to_owned());
        }
    }

    pub(crate) fn injected(&self) -> u64 {
        self.kept().faults.values().sum()
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.kept().broken.is_empty()
    }

    /// One line, and what has to be read below it.
    pub(crate) fn print(&self) {
        let kept = self.kept();
        let faults: u64 = kept.faults.values().sum();
        println!(
            "{:<8} {:<44} {:>5} faults {:>7} checks {:>3} broken {:>6.1} s",
            kept.promise,
            kept.title,
            faults,
            kept.checks,
            kept.broken.len(),
            kept.took.as_secs_f64()
        );
        for (what, times) in &kept.times {
            let summary = Summary::of(times);
            println!(
                "           {what}: n={} p50={:.2} s p95={:.2} s max={:.2} s",
                summary.count,
                summary.median.as_secs_f64(),
                summary.high.as_secs_f64(),
                summary.largest.as_secs_f64()
            );
        }
        for (what, value) in &kept.numbers {
            println!("           {what}: {value}");
        }
        for note in &kept.notes {
            println!("           note: {note}");
        }
        for broken in &kept.broken {
            println!("           BROKEN: {broken}");
        }
    }

    fn json(&self) -> Value {
        let kept = self.kept();
        let times: serde_json::Map<String, Value> = kept
            .times
            .iter()
            .map(|(what, times)| (what.clone(), Summary::of(times).json()))
            .collect();
        json!({
            "promise": kept.promise,
            "title": kept.title,
            "faults": kept.faults.values().sum::<u64>(),
            "faults_by_kind": kept.faults,
            "checks": kept.checks,
            "broken": kept.broken,
            "times": times,
            "numbers": kept.numbers,
            "notes": kept.notes,
            "seconds": kept.took.as_secs_f64(),
        })
    }
}

/// A few numbers instead of many.
struct Summary {
    count: usize,
    median: Duration,
    high: Duration,
    largest: Duration,
}

impl Summary {
    fn of(times: &[Duration]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let at = |hundredths: usize| {
            let place = (sorted.len().saturating_sub(1) * hundredths).div_ceil(100);
            sorted.get(place).copied().unwrap_or_default()
        };
        Self {
            count: sorted.len(),
            median: at(50),
            high: at(95),
            largest: at(100),
        }
    }

    fn json(&self) -> Value {
        json!({
            "count": self.count,
            "p50_ms": milliseconds(self.median),
            "p95_ms": milliseconds(self.high),
            "max_ms": milliseconds(self.largest),
        })
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Writes everything down.
pub(crate) fn write(path: &Path, seed: u64, form: &str, noise: f64, tallies: &[Tally]) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let report = json!({
        "seed": seed,
        "form": form,
        "noise": noise,
        "faults": tallies.iter().map(Tally::injected).sum::<u64>(),
        "broken": tallies.iter().filter(|tally| !tally.is_kept()).count(),
        "promises": tallies.iter().map(Tally::json).collect::<Vec<_>>(),
    });
    std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    Ok(())
}
