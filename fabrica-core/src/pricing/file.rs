//! The file that holds prices.

use chrono::NaiveDate;
use serde::Deserialize;
use serde_yaml::{Mapping, Value};

use super::pattern::Pattern;
use super::{Edition, Price, PriceError};

/// What the prices of the cache are, as shares of the input's, where the file does not say.
const CACHE_READ: f64 = 0.1;
const CACHE_WRITE: f64 = 1.25;
const HOUR_CACHE_WRITE: f64 = 2.0;

const EXPECTED: &str = "expected `date: 2026-01-31` and `models:` with entries such as \
                        `claude-opus-*: { input: 5, output: 25 }`";

/// The keys of a list as they are written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    date: NaiveDate,
    models: Mapping,
}

/// The keys of an entry as they are written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    input: f64,
    output: f64,
    cache_read: Option<f64>,
    cache_write: Option<f64>,
    hour_cache_write: Option<f64>,
}

pub(super) fn read(text: &str) -> Result<Edition, PriceError> {
    let list: List =
        serde_yaml::from_str(text).map_err(|error| PriceError::List(format!("{error}; {EXPECTED}")))?;
    let entries = list.models.into_iter().map(|(name, value)| entry(&name, value));
    Ok(Edition {
        date: list.date,
        entries: entries.collect::<Result<_, _>>()?,
    })
}

fn entry(name: &Value, value: Value) -> Result<(Pattern, Price), PriceError> {
    let shown = match name {
        Value::String(name) => name.clone(),
        other => serde_yaml::to_string(other).unwrap_or_default().trim().to_owned(),
    };
    let fails = |problem: String| PriceError::Entry {
        model: shown.clone(),
        problem,
    };
    let pattern = name.as_str().and_then(Pattern::parse).ok_or_else(|| {
        fails("expected a model's name without spaces, with `*` at its end at the most".to_owned())
    })?;
    let entry: Entry = serde_yaml::from_value(value).map_err(|error| fails(in_plain_words(&error)))?;
    entry.price().map(|price| (pattern, price)).map_err(fails)
}

impl Entry {
    fn price(&self) -> Result<Price, String> {
        let input = sensible("input", self.input)?;
        let or = |key, given: Option<f64>, share: f64| sensible(key, given.unwrap_or(input * share));
        Ok(Price {
            input,
            output: sensible("output", self.output)?,
            cache_read: or("cache_read", self.cache_read, CACHE_READ)?,
            cache_write: or("cache_write", self.cache_write, CACHE_WRITE)?,
            hour_cache_write: or("hour_cache_write", self.hour_cache_write, HOUR_CACHE_WRITE)?,
        })
    }
}

fn sensible(key: &str, price: f64) -> Result<f64, String> {
    if price.is_finite() && price >= 0.0 {
        Ok(price)
    } else {
        Err(format!(
            "`{key}` is {price}; expected US dollars per million tokens, 0 or more"
        ))
    }
}

/// Says what the YAML library says in the words of a price list.
fn in_plain_words(error: &serde_yaml::Error) -> String {
    error
        .to_string()
        .replace("expected f64", "expected US dollars per million tokens")
        .replace(
            "expected struct Entry",
            "expected prices such as `{ input: 5, output: 25 }`",
        )
}
