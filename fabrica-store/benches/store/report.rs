//! What was measured, and where it is written.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

/// The numbers of a pair, round by round: what the store did, and what the limit is.
#[derive(Default)]
pub(crate) struct Rounds {
    measured: Vec<f64>,
    limit: Vec<f64>,
}

impl Rounds {
    pub(crate) fn add(&mut self, measured: f64, limit: f64) {
        self.measured.push(measured);
        self.limit.push(limit);
    }

    /// The middle one of the rounds' ratios: what slows the machine down for a while slows both of a round.
    pub(crate) fn ratio(&self) -> f64 {
        median(
            self.measured
                .iter()
                .zip(&self.limit)
                .map(|(measured, limit)| measured / limit)
                .collect(),
        )
    }

    /// With the medians of the absolute numbers, under their names.
    pub(crate) fn measure(&self, measured: &str, limit: &str, limited_by: &str) -> Value {
        json!({
            "ratio": rounded(self.ratio()),
            measured: rounded(median(self.measured.clone())),
            limit: rounded(median(self.limit.clone())),
            "rounds": self.measured.len(),
            "limited_by": limited_by,
        })
    }
}

pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Three digits that count.
pub(crate) fn rounded(number: f64) -> f64 {
    format!("{number:.2e}").parse().unwrap_or(number)
}

/// What goes into the file: the ratios by name, and everything else under `store`.
#[derive(Default)]
pub(crate) struct Report(Map<String, Value>);

impl Report {
    pub(crate) fn add(&mut self, name: &str, measure: Value) {
        println!(
            "{name}: {}",
            serde_json::to_string_pretty(&measure).unwrap_or_default()
        );
        self.0.insert(name.to_owned(), measure);
    }

    /// What others wrote into the file stays.
    pub(crate) fn save(self) -> Result<()> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
        std::fs::create_dir_all(&directory)?;
        let path = directory.join("report.json");
        let mut report: Map<String, Value> = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).context("target/bench/report.json is no report")?,
            Err(_) => Map::new(),
        };
        let details = report.entry("store").or_insert_with(|| json!({}));
        for (name, measure) in &self.0 {
            details[name] = measure.clone();
        }
        for (name, measure) in self.0 {
            report.insert(name, measure["ratio"].clone());
        }
        std::fs::write(&path, serde_json::to_string_pretty(&report)?)?;
        Ok(())
    }
}
