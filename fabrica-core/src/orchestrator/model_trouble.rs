//! Trouble with the model that the session cannot mend: the operator is asked, or the session waits without a sandbox until
//! the model answers again.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::failure::Failure;
use crate::ports::store::{Note, Question};
use crate::protocol::{Escalation, USAGE_LIMIT, Urgency};

/// The first answer to choose from.
const GO_ON: &str = "go on: it is mended";
/// The second one.
const STOP: &str = "stop the session";
/// How long a session waits for a model at most: a limit of usage is for a week at the longest.
const LONGEST: TimeDelta = TimeDelta::days(8);

/// What the operator is asked instead of failing, if nobody else can mend it: the provider does not accept Fabrica's key any
/// more, or wants to be paid.
pub(super) fn question(failure: &Failure) -> Option<Escalation> {
    let remedy = match failure.code.as_str() {
        "model.unauthorized" => "Set a valid key and restart Fabrica",
        "model.payment_required" => {
            "Fill the account of Fabrica's key up, or set another key and restart Fabrica"
        }
        "model.forbidden" => "Give Fabrica's key the right to use the model, or amend the plan's `model`",
        _ => return None,
    };
    Some(Escalation {
        question: format!(
            "The model's provider refuses Fabrica, and the session cannot go on: {}. {remedy}; or stop the session?",
            failure.cause.trim_end_matches('.')
        ),
        options: vec![GO_ON.to_owned(), STOP.to_owned()],
        context: format!(
            "This is for whoever operates Fabrica ({}). The work is safe, and nothing is spent while this waits.",
            failure.code
        ),
        urgency: Urgency::High,
    })
}

/// Whether Fabrica asked, about the model.
pub(super) fn is_about_model(question: &Escalation) -> bool {
    question.options == [GO_ON, STOP]
}

/// Whether the operator answered that the session shall end. Whoever says something afterwards wants it to go on.
pub(super) fn shall_stop(question: Option<&Question>, notes: &[Note]) -> bool {
    let Some(question) = question.filter(|question| is_about_model(&question.escalation)) else {
        return false;
    };
    question.answer.as_ref().is_some_and(|answer| {
        let words = answer.text.trim();
        let stop = words
            .get(..4)
            .is_some_and(|word| word.eq_ignore_ascii_case("stop"));
        stop && notes.last().is_none_or(|note| note.at <= answer.at)
    })
}

/// Why a session failed that was stopped so.
pub(super) fn stopped() -> Failure {
    Failure::new(
        "model.stopped",
        "The model's provider refused Fabrica, and whoever was asked stopped the session",
        "What was committed is on the branch. Say something to the session, or submit the plan again, once the model answers.",
    )
}

/// How long the session has to wait, if the failure is that the model answers nobody before a certain time; and until when.
/// The words come from the sandbox: nobody waits for ever because of them.
pub(super) fn wait(failure: &Failure, now: DateTime<Utc>) -> Option<(Duration, DateTime<Utc>)> {
    if failure.code != "model.usage_limit" {
        return None;
    }
    let (_, rest) = failure.cause.split_once(USAGE_LIMIT)?;
    let time = rest.split_inclusive('Z').next()?;
    let until = DateTime::parse_from_rfc3339(time).ok()?.to_utc();
    let wait = until.signed_duration_since(now);
    if wait > LONGEST {
        return None;
    }
    Some((wait.to_std().unwrap_or_default(), until))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AttemptNumber;
    use crate::ports::store::{Answer, OnDeadline};

    fn at(time: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(time).unwrap().to_utc()
    }

    #[test]
    fn only_what_the_operator_can_mend_is_asked() {
        for code in ["model.unauthorized", "model.payment_required", "model.forbidden"] {
            let asked = question(&Failure::new(code, "invalid x-api-key.", "x")).unwrap();
            assert!(is_about_model(&asked));
            assert!(
                asked.question.contains("invalid x-api-key. "),
                "{}",
                asked.question
            );
            assert!(asked.context.contains(code) && asked.urgency == Urgency::High);
        }
        for code in ["model.overloaded", "agent.crashed", "model.usage_limit"] {
            assert_eq!(question(&Failure::new(code, "x", "x")), None);
        }
    }

    #[test]
    fn an_answer_stops_the_session_until_somebody_says_more() {
        let asked = |escalation, text: &str| Question {
            id: "0198f000-0000-7000-8000-000000000002".parse().unwrap(),
            session: "0198f000-0000-7000-8000-000000000001".parse().unwrap(),
            attempt: AttemptNumber::new(1),
            escalation,
            asked_at: DateTime::UNIX_EPOCH,
            deadline: None,
            then: OnDeadline::Fail,
            answer: Some(Answer {
                text: text.into(),
                by: Some("ada".into()),
                at: DateTime::UNIX_EPOCH,
            }),
        };
        let about_key = || question(&Failure::new("model.unauthorized", "x", "x")).unwrap();
        let stop = asked(about_key(), "Stop the session");
        assert!(shall_stop(Some(&stop), &[]));
        assert!(!shall_stop(Some(&asked(about_key(), GO_ON)), &[]));
        assert!(!shall_stop(None, &[]));
        let own = Escalation {
            options: vec!["go".into(), "stop".into()],
            ..about_key()
        };
        assert!(
            !shall_stop(Some(&asked(own, "stop")), &[]),
            "the agent asked that"
        );
        let note = Note {
            id: "0198f000-0000-7000-8000-000000000009".parse().unwrap(),
            session: stop.session,
            number: 1,
            text: "There is a new key".into(),
            by: "ada".into(),
            at: DateTime::UNIX_EPOCH + TimeDelta::seconds(1),
        };
        assert!(!shall_stop(Some(&stop), &[note]));
    }

    #[test]
    fn a_limit_of_usage_is_waited_for_but_not_for_ever() {
        let now = at("2026-11-23T12:00:00Z");
        let limited = |time: &str| {
            let cause =
                format!("API Error: Request rejected (429) · fabrica: {USAGE_LIMIT}{time}: weekly limit");
            Failure::new("model.usage_limit", cause, "x")
        };
        assert_eq!(
            wait(&limited("2026-11-23T13:00:00Z"), now),
            Some((Duration::from_hours(1), at("2026-11-23T13:00:00Z")))
        );
        let past = wait(&limited("2026-11-23T11:00:00Z"), now);
        assert_eq!(past, Some((Duration::ZERO, at("2026-11-23T11:00:00Z"))));
        for time in ["2027-11-23T13:00:00Z", "tomorrow", ""] {
            assert_eq!(wait(&limited(time), now), None, "{time}");
        }
        let other = Failure::new("model.rate_limited", limited("2026-11-23T13:00:00Z").cause, "x");
        assert_eq!(wait(&other, now), None);
    }
}
