//! What a session may use.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

use super::value::{EXPECTED, checked};

/// What a session may use. `None` everywhere means: the operator's default.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Wall time of one attempt, written like `90m` or `1h 30m`; one second to seven days.
    #[serde(default, deserialize_with = "wall")]
    pub wall: Option<Duration>,
    /// The agent's turns; 1 to 10,000.
    #[serde(default, deserialize_with = "turns")]
    pub turns: Option<u32>,
    /// US dollars; more than 0, at most 100,000.
    #[serde(default, deserialize_with = "cost")]
    pub cost_usd: Option<f64>,
    /// Tokens of the model over all attempts, those that are read from and written to its cache included; 1,000 to
    /// 1,000,000,000,000.
    #[serde(default, deserialize_with = "tokens")]
    pub tokens: Option<u64>,
    /// Memory in bytes, written like `4GiB` or `512MB`; at least 16 MiB.
    #[serde(default, deserialize_with = "memory")]
    pub memory: Option<u64>,
    /// Processors, may be a fraction; 0.1 to 1,024.
    #[serde(default, deserialize_with = "cpus")]
    pub cpus: Option<f64>,
    /// How often a lost attempt is tried anew, the first one included; 1 to 20.
    #[serde(default, deserialize_with = "attempts")]
    pub attempts: Option<u32>,
    /// How often the verification is run, the first time included: after each failure but the last its output goes back to
    /// the agent; 1 to 20. Without it 3.
    #[serde(default, deserialize_with = "rounds")]
    pub rounds: Option<u32>,
}

const MAX_WALL: Duration = Duration::from_hours(7 * 24);
const MIN_MEMORY: u64 = 16 * 1024 * 1024;

fn wall<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    checked(
        deserializer,
        "a duration from 1s to 7d with its unit, such as `90m` or `1h 30m`",
        |text| {
            let wall = humantime::parse_duration(text).ok()?;
            (Duration::from_secs(1)..=MAX_WALL)
                .contains(&wall)
                .then_some(wall)
        },
    )
}

fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    checked(
        deserializer,
        "a size of at least 16MiB with its unit, such as `4GiB` or `512MB`",
        |text| {
            let size = text.parse::<ByteSize>().ok()?.as_u64();
            (size >= MIN_MEMORY).then_some(size)
        },
    )
}

fn turns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(u32::deserialize(deserializer)?, &(1..=10_000), "for `turns`")
}

fn tokens<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    within(
        u64::deserialize(deserializer)?,
        &(1_000..=1_000_000_000_000),
        "for `tokens`",
    )
}

fn attempts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(u32::deserialize(deserializer)?, &(1..=20), "for `attempts`")
}

fn rounds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(u32::deserialize(deserializer)?, &(1..=20), "for `rounds`")
}

fn cost<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    within(
        f64::deserialize(deserializer)?,
        &(0.000_001..=100_000.0),
        "US dollars",
    )
}

fn cpus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    within(f64::deserialize(deserializer)?, &(0.1..=1_024.0), "for `cpus`")
}

pub(super) fn within<T, E>(value: T, range: &RangeInclusive<T>, unit: &str) -> Result<Option<T>, E>
where
    T: PartialOrd + std::fmt::Display,
    E: de::Error,
{
    if range.contains(&value) {
        return Ok(Some(value));
    }
    Err(E::custom(format!(
        "{EXPECTED}{} to {} {unit}, got {value}",
        range.start(),
        range.end()
    )))
}
