//! What the use of models costs: price lists as data with a date.
//!
//! ```
//! use fabrica_core::ports::gateway::ModelUse;
//! use fabrica_core::pricing::PriceList;
//! use fabrica_core::protocol::Usage;
//!
//! let list = PriceList::builtin().with(PriceList::parse(
//!     "date: 2026-03-01\nmodels:\n  our-model*: { input: 2, output: 8 }\n",
//! )?);
//! let price = list.price("our-model-7b").expect("its name begins like the entry's");
//! let used = ModelUse {
//!     model: "our-model-7b".into(),
//!     usage: Usage { input_tokens: 1_000_000, output_tokens: 500_000, ..Usage::default() },
//!     hour_cache_write_tokens: 0,
//! };
//! assert_eq!(price.cost(&used), 6.0);
//! assert!(list.price("somebody-elses").is_none());
//! # Ok::<(), fabrica_core::pricing::PriceError>(())
//! ```

mod file;
mod pattern;

use std::fmt;

use chrono::NaiveDate;
use thiserror::Error;

use crate::ports::gateway::ModelUse;
use pattern::{Pattern, spellings};

/// How many tokens a price is for.
const PRICED_TOKENS: f64 = 1_000_000.0;

/// What a model costs, in US dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// Tokens read, without those from or for the cache: US dollars per million.
    pub input: f64,
    /// Tokens written: US dollars per million.
    pub output: f64,
    /// Tokens read from the provider's cache: US dollars per million.
    pub cache_read: f64,
    /// Tokens written to the provider's cache to be kept for five minutes: US dollars per million.
    pub cache_write: f64,
    /// Tokens written to the provider's cache to be kept for an hour: US dollars per million.
    pub hour_cache_write: f64,
}

impl Price {
    /// What was used, in US dollars.
    pub fn cost(&self, used: &ModelUse) -> f64 {
        let usage = &used.usage;
        let hour = used.hour_cache_write_tokens.min(usage.cache_write_tokens);
        [
            (usage.input_tokens, self.input),
            (usage.output_tokens, self.output),
            (usage.cache_read_tokens, self.cache_read),
            (usage.cache_write_tokens - hour, self.cache_write),
            (hour, self.hour_cache_write),
        ]
        .into_iter()
        .map(|(tokens, price)| count(tokens) * price / PRICED_TOKENS)
        .sum()
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53 tokens, which nobody can pay"
)]
fn count(tokens: u64) -> f64 {
    tokens as f64
}

/// Prices of models, with the date at which they were known.
#[derive(Clone, PartialEq)]
pub struct PriceList {
    /// What was added last comes first.
    editions: Vec<Edition>,
}

/// The entries of one file.
#[derive(Debug, Clone, PartialEq)]
struct Edition {
    date: NaiveDate,
    entries: Vec<(Pattern, Price)>,
}

impl PriceList {
    /// The list prices that were known when this version was made.
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "the list is a part of the program, and a test reads it"
    )]
    pub fn builtin() -> Self {
        Self::parse(include_str!("prices.yaml")).expect("the list that comes with the program can be read")
    }

    /// Reads a list: `date: 2026-01-31` and `models:`, a map of names with their prices in US dollars per million tokens,
    /// such as `claude-opus-*: { input: 5, output: 25 }`.
    ///
    /// A name may end with `*`. Beside `input` and `output` an entry may have `cache_read`, `cache_write` and
    /// `hour_cache_write`; left out, they are 0.1, 1.25 and 2 times `input`.
    ///
    /// # Errors
    ///
    /// [`PriceError`], which names the entry and what was expected.
    pub fn parse(text: &str) -> Result<Self, PriceError> {
        Ok(Self {
            editions: vec![file::read(text)?],
        })
    }

    /// This list with the entries of another one, which win: where one of them fits a model, none of this list counts.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let mut editions = other.editions;
        editions.extend(self.editions);
        Self { editions }
    }

    /// When these prices were known: the date of the list that was added last.
    pub fn date(&self) -> NaiveDate {
        self.editions[0].date
    }

    /// The price of a model, under the name that it is asked by or that its provider answers with. Among the entries
    /// that fit, the longest counts. A name fits also without its date (`-20250805`) and without its provider
    /// (`anthropic/`, `us.anthropic.`).
    pub fn price(&self, model: &str) -> Option<Price> {
        let spellings = spellings(model);
        self.editions.iter().find_map(|edition| edition.price(&spellings))
    }
}

impl Edition {
    fn price(&self, spellings: &[&str]) -> Option<Price> {
        self.entries
            .iter()
            .filter(|(pattern, _)| spellings.iter().any(|name| pattern.fits(name)))
            .max_by_key(|(pattern, _)| pattern.rank())
            .map(|(_, price)| *price)
    }
}

impl fmt::Debug for PriceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: usize = self.editions.iter().map(|edition| edition.entries.len()).sum();
        f.debug_struct("PriceList")
            .field("date", &self.date())
            .field("entries", &entries)
            .finish()
    }
}

/// Why a price list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PriceError {
    /// The file as a whole.
    #[error("the price list cannot be read: {0}")]
    List(String),
    /// One of its entries.
    #[error("the price list's entry `{model}`: {problem}")]
    Entry {
        /// The entry's name, as it is written.
        model: String,
        /// What is wrong and what was expected.
        problem: String,
    },
}

impl PriceError {
    /// Stable code of this error.
    pub const fn code(&self) -> &'static str {
        "prices.invalid"
    }
}

#[cfg(test)]
mod tests;
