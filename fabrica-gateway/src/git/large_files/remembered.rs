//! Where the code host said that objects are, until they are asked for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use fabrica_core::clock::{Clock as _, SystemClock};

use super::batch::{Actions, Object, ObjectId, Operation};

/// How many are remembered. What was forgotten is asked for again.
const MOST: usize = 10_000;
/// How much of its time an action must have left.
const MARGIN: TimeDelta = TimeDelta::seconds(30);
/// No action holds longer, whatever it says.
const LONGEST: TimeDelta = TimeDelta::days(1);

/// What a repository's host answered last, by what was asked.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<HashMap<Key, (Actions, DateTime<Utc>)>>);

type Key = (Operation, ObjectId);

impl Remembered {
    pub(super) fn add(&self, operation: Operation, oid: &ObjectId, actions: &Actions) {
        let Some(until) = until(actions, SystemClock.now()) else {
            return;
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == MOST {
            known.clear();
        }
        known.insert((operation, oid.clone()), (actions.clone(), until));
    }

    /// Takes it out, so that whoever tries once more hears from the host afresh.
    pub(super) fn take(&self, operation: Operation, object: &Object) -> Option<Actions> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (actions, until) = known.remove(&(operation, object.oid.clone()))?;
        (SystemClock.now() < until).then_some(actions)
    }
}

/// When the first of the actions ends to hold. Nothing if that is so soon that it is not worth remembering.
fn until(actions: &Actions, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let all = [&actions.download, &actions.upload, &actions.verify];
    let mut until = now + LONGEST;
    for action in all.into_iter().flatten() {
        // The first of the two counts, where there are both.
        let end = match (action.expires_in, action.expires_at) {
            (Some(seconds), _) if seconds != 0 => {
                TimeDelta::try_seconds(seconds).and_then(|span| now.checked_add_signed(span))
            }
            (_, at) => at,
        };
        until = end.map_or(until, |end| until.min(end));
    }
    let until = until - MARGIN;
    (now < until).then_some(until)
}

#[cfg(test)]
mod tests {
    use super::super::batch::Action;
    use super::*;

    fn actions(expires_in: Option<i64>, expires_at: Option<DateTime<Utc>>) -> Actions {
        Actions {
            download: Some(Action {
                href: "https://storage.example/x".to_owned(),
                expires_in,
                expires_at,
                ..Action::default()
            }),
            ..Actions::default()
        }
    }

    #[test]
    fn what_ends_soon_is_not_remembered_and_nothing_is_remembered_twice() {
        let now = SystemClock.now();
        assert_eq!(until(&actions(Some(10), None), now), None);
        assert_eq!(until(&actions(Some(-10), None), now), None);
        assert_eq!(
            until(&actions(Some(90), None), now),
            Some(now + TimeDelta::seconds(60))
        );
        assert_eq!(until(&actions(None, Some(now)), now), None);
        assert_eq!(until(&actions(None, None), now), Some(now + LONGEST - MARGIN));
        assert_eq!(
            until(&actions(Some(i64::MAX), None), now),
            Some(now + LONGEST - MARGIN)
        );
        let object = Object {
            oid: ObjectId::try_from("0a".repeat(32)).unwrap(),
            size: 1,
        };
        let remembered = Remembered::default();
        remembered.add(Operation::Download, &object.oid, &actions(None, None));
        assert!(remembered.take(Operation::Upload, &object).is_none());
        assert!(remembered.take(Operation::Download, &object).is_some());
        assert!(remembered.take(Operation::Download, &object).is_none());
    }
}
