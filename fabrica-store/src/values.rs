//! Values between the domain and the columns.

use std::time::Duration;

use chrono::{DateTime, Utc};
use fabrica_core::protocol::Usage;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Database, Decode, Encode, Postgres, Sqlite, Type};

/// A moment: `timestamptz` in PostgreSQL, microseconds since 1970 in SQLite.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment(pub(crate) DateTime<Utc>);

impl Type<Postgres> for Moment {
    fn type_info() -> <Postgres as Database>::TypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Moment {
    fn decode(value: <Postgres as Database>::ValueRef<'r>) -> Result<Self, BoxDynError> {
        <DateTime<Utc> as Decode<Postgres>>::decode(value).map(Self)
    }
}

impl Type<Sqlite> for Moment {
    fn type_info() -> <Sqlite as Database>::TypeInfo {
        <i64 as Type<Sqlite>>::type_info()
    }

    fn compatible(ty: &<Sqlite as Database>::TypeInfo) -> bool {
        <i64 as Type<Sqlite>>::compatible(ty)
    }
}

impl<'r> Decode<'r, Sqlite> for Moment {
    fn decode(value: <Sqlite as Database>::ValueRef<'r>) -> Result<Self, BoxDynError> {
        let microseconds = <i64 as Decode<Sqlite>>::decode(value)?;
        DateTime::from_timestamp_micros(microseconds)
            .map(Self)
            .ok_or_else(|| format!("{microseconds} is no time in microseconds since 1970").into())
    }
}

impl Encode<'_, Sqlite> for Moment {
    fn encode_by_ref(
        &self,
        buffer: &mut <Sqlite as Database>::ArgumentBuffer,
    ) -> Result<IsNull, BoxDynError> {
        <i64 as Encode<Sqlite>>::encode(self.0.timestamp_micros(), buffer)
    }
}

/// Ten years: longer than every lease and delay, and nowhere near the end of any calendar.
const FOREVER: Duration = Duration::from_hours(10 * 365 * 24);

/// A duration in whole microseconds.
pub(crate) fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.min(FOREVER).as_micros()).unwrap_or(i64::MAX)
}

/// The duration of that many microseconds; a clock that was set back makes none.
pub(crate) fn duration(microseconds: i64) -> Duration {
    Duration::from_micros(u64::try_from(microseconds).unwrap_or(0))
}

/// A number for a `bigint` column; what does not fit becomes the largest.
pub(crate) fn bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// How many there are.
pub(crate) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A number for an `integer` column.
pub(crate) fn integer(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The sum, as far as the columns can hold it: what a sandbox reports must never make a write fail.
pub(crate) fn plus(stored: Usage, more: Usage) -> Usage {
    let sum = stored.plus(more);
    Usage {
        cost_usd: if sum.cost_usd.is_finite() {
            sum.cost_usd
        } else {
            stored.cost_usd
        },
        ..sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut() {
        assert_eq!(bigint(u64::MAX), i64::MAX);
        assert_eq!(microseconds(Duration::from_micros(7)), 7);
        assert!(microseconds(Duration::MAX) < i64::MAX / 2);
        assert_eq!(
            (duration(7), duration(-7)),
            (Duration::from_micros(7), Duration::ZERO)
        );
        let cost = |cost_usd| Usage {
            cost_usd,
            ..Usage::default()
        };
        assert_eq!(plus(cost(1.0), cost(f64::NAN)), cost(1.0));
        assert_eq!(plus(cost(f64::MAX), cost(f64::MAX)), cost(f64::MAX));
    }
}
