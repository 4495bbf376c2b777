//! What becomes of questions that nobody answers.

use std::time::Duration;

use serde::Deserialize;
use serde::de::Deserializer;

use super::value::checked;
use crate::ports::store::OnDeadline;

/// What becomes of the agent's questions to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EscalationOptions {
    /// How long a question waits for its answer, written like `8h` or `3d`; one minute to 90 days. `None` is the operator's
    /// default.
    #[serde(default, deserialize_with = "deadline")]
    pub deadline: Option<Duration>,
    /// What happens then: `fail` or `proceed`, on the agent's own judgement.
    #[serde(default, deserialize_with = "then")]
    pub then: Option<OnDeadline>,
}

const SHORTEST: Duration = Duration::from_mins(1);
const LONGEST: Duration = Duration::from_hours(90 * 24);

fn deadline<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    checked(
        deserializer,
        "a duration from 1m to 90d with its unit, such as `8h` or `3d`",
        |text| {
            let deadline = humantime::parse_duration(text).ok()?;
            (SHORTEST..=LONGEST).contains(&deadline).then_some(deadline)
        },
    )
}

fn then<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OnDeadline>, D::Error> {
    checked(deserializer, "`fail` or `proceed`", |text| match text {
        "fail" => Some(OnDeadline::Fail),
        "proceed" => Some(OnDeadline::Proceed),
        _ => None,
    })
}
