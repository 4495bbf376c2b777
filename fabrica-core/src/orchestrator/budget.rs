//! Budgets: what a session may use over all of its attempts. At the end of one the session does not fail, it asks.

use crate::failure::Failure;
use crate::plan::Limits;
use crate::ports::store::{Note, Question};
use crate::protocol::{BUDGET_REACHED, Escalation, Urgency, Usage};

/// The second answer to choose from.
const STOP: &str = "stop";
/// The third one.
const FINISH: &str = "finish with what there is";

/// What a session may use over all of its attempts, after what people have answered so far.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Budget {
    /// US dollars.
    pub(super) cost_usd: Option<f64>,
    /// The agent's turns.
    pub(super) turns: Option<u32>,
    /// The model's tokens.
    pub(super) tokens: Option<u64>,
}

/// What people have decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Decision {
    /// The agent works, within this.
    Work(Budget),
    /// The agent does not work any more; what there is becomes the result.
    Finish,
    /// The session ends.
    Stop,
}

/// Which of its budgets a session has used up.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    Cost(f64),
    Turns(u32),
    Tokens(u64),
}

impl Decision {
    /// From the plan's limits, and the session's questions and notes, oldest first. Whoever says something after the session
    /// was to end wants the agent to go on.
    pub(super) fn of(limits: &Limits, questions: &[Question], notes: &[Note]) -> Self {
        let mut budget = Budget {
            cost_usd: limits.cost_usd,
            turns: limits.turns,
            tokens: limits.tokens,
        };
        let newest = questions.last().map(|question| question.id);
        for question in questions {
            let (Some(limit), Some(answer)) = (asked(&question.escalation), &question.answer) else {
                continue;
            };
            // Nobody decided before the deadline: nothing more is spent, and nothing is lost.
            let words = answer.by.as_ref().map_or(FINISH, |_| answer.text.trim());
            let begins = |with: &str| {
                words
                    .get(..with.len())
                    .is_some_and(|word| word.eq_ignore_ascii_case(with))
            };
            let stands = newest == Some(question.id) && notes.last().is_none_or(|note| note.at <= answer.at);
            match (limit, number(words)) {
                _ if begins(STOP) && stands => return Self::Stop,
                _ if begins("finish") && stands => return Self::Finish,
                (Limit::Cost(_), Some(wanted)) => {
                    budget.cost_usd = Some(budget.cost_usd.map_or(wanted, |limit| limit.max(wanted)));
                }
                (Limit::Turns(_), Some(wanted)) => {
                    let wanted = whole(wanted);
                    budget.turns = Some(budget.turns.map_or(wanted, |limit| limit.max(wanted)));
                }
                (Limit::Tokens(_), Some(wanted)) => {
                    let wanted = whole_tokens(wanted * factor(words));
                    budget.tokens = Some(budget.tokens.map_or(wanted, |limit| limit.max(wanted)));
                }
                (Limit::Tokens(proposed), None) if begins("raise") => {
                    budget.tokens = budget.tokens.map(|limit| limit.max(proposed));
                }
                (Limit::Cost(proposed), None) if begins("raise") => {
                    budget.cost_usd = budget.cost_usd.map(|limit| limit.max(proposed));
                }
                (Limit::Turns(proposed), None) if begins("raise") => {
                    budget.turns = budget.turns.map(|limit| limit.max(proposed));
                }
                _ => {}
            }
        }
        Self::Work(budget)
    }
}

impl Budget {
    /// What is left of it.
    pub(super) fn left(self, used: Usage) -> Self {
        Self {
            cost_usd: self.cost_usd.map(|limit| (limit - used.cost_usd).max(0.0)),
            turns: self.turns.map(|limit| limit.saturating_sub(used.turns)),
            tokens: self.tokens.map(|limit| limit.saturating_sub(used.tokens())),
        }
    }

    /// What is asked once nothing is left of it.
    pub(super) fn exhausted(self, used: Usage) -> Option<Escalation> {
        let left = self.left(used);
        let cost = self
            .cost_usd
            .filter(|_| left.cost_usd.is_some_and(|left| left <= 0.0));
        let turns = self.turns.filter(|_| left.turns == Some(0));
        let tokens = self.tokens.filter(|_| left.tokens == Some(0));
        let limit = cost
            .map(Limit::Cost)
            .or_else(|| turns.map(Limit::Turns))
            .or_else(|| tokens.map(Limit::Tokens))?;
        Some(ask(limit, used))
    }

    /// What is asked instead of failing, if the failure is that a budget is used up.
    pub(super) fn question(self, failure: &Failure, used: Usage) -> Option<Escalation> {
        let limit = match failure.code.as_str() {
            "budget.reached" if is_about_tokens(failure) => Limit::Tokens(self.tokens?),
            "agent.max_budget" | "budget.reached" => Limit::Cost(self.cost_usd?),
            "agent.max_turns" => Limit::Turns(self.turns?),
            _ => return None,
        };
        Some(ask(limit, used))
    }
}

fn ask(limit: Limit, used: Usage) -> Escalation {
    let (budget, raise) = match limit {
        Limit::Cost(limit) => (
            format!("${limit:.2} (it has used ${:.2})", used.cost_usd),
            format!("raise to ${:.2}", 2.0 * limit.max(used.cost_usd)),
        ),
        Limit::Turns(limit) => (
            format!("{limit} turns (it has used {})", used.turns),
            format!("raise to {} turns", limit.max(used.turns).saturating_mul(2)),
        ),
        Limit::Tokens(limit) => (
            format!(
                "{} tokens (it has used {})",
                grouped(limit),
                grouped(used.tokens())
            ),
            format!(
                "raise to {} tokens",
                grouped(limit.max(used.tokens()).saturating_mul(2))
            ),
        ),
    };
    Escalation {
        question: format!("The session has used up its budget of {budget}. Raise it, stop, or finish with what there is?"),
        options: vec![raise, STOP.to_owned(), FINISH.to_owned()],
        context: "The work is safe, and nothing is spent while this waits. Any amount may be the answer, such as \
                  `raise to 25`. To finish means: what there is is committed, verified and published as a draft."
            .to_owned(),
        urgency: Urgency::Normal,
    }
}

/// The budget that is asked about, with what was proposed for it; none if the agent itself has asked.
fn asked(question: &Escalation) -> Option<Limit> {
    let [raise, stop, finish] = question.options.as_slice() else {
        return None;
    };
    if stop != STOP || finish != FINISH {
        return None;
    }
    let proposed = number(raise)?;
    let raised = raise.strip_prefix("raise to ")?;
    Some(if raised.starts_with('$') {
        Limit::Cost(proposed)
    } else if raised.ends_with("tokens") {
        Limit::Tokens(whole_tokens(proposed))
    } else {
        Limit::Turns(whole(proposed))
    })
}

/// Whether Fabrica asked, about a budget.
pub(super) fn is_about_budget(question: &Escalation) -> bool {
    asked(question).is_some()
}

/// The first number in a text.
fn number(text: &str) -> Option<f64> {
    let begin = text.find(|c: char| c.is_ascii_digit())?;
    let digits: String = text[begin..]
        .chars()
        .take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ','))
        .filter(|c| *c != ',')
        .collect();
    let wanted: f64 = digits.trim_end_matches('.').parse().ok()?;
    wanted.is_finite().then_some(wanted)
}

/// What stands behind the first number, if it multiplies: `2M` or `500 k`.
fn factor(text: &str) -> f64 {
    let rest = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | ','));
    let mut letters = rest.trim_start().chars();
    let unit = letters.next().map(|c| c.to_ascii_lowercase());
    let alone = letters.next().is_none_or(|c| !c.is_alphanumeric());
    match unit {
        _ if rest.trim_start().to_ascii_lowercase().starts_with("million") => 1e6,
        Some('k') if alone => 1e3,
        Some('m') if alone => 1e6,
        _ => 1.0,
    }
}

/// With commas, as people read large numbers.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Which budget the gateway refused for; it says so itself.
fn is_about_tokens(failure: &Failure) -> bool {
    failure.cause.split_once(BUDGET_REACHED).is_some_and(|(_, rest)| {
        rest.split(':')
            .next()
            .is_some_and(|limit| limit.ends_with("tokens"))
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is limited to what a plan may say"
)]
fn whole_tokens(number: f64) -> u64 {
    number.clamp(0.0, 1e12) as u64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is limited to what fits"
)]
fn whole(number: f64) -> u32 {
    number.clamp(0.0, f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::ids::{AttemptNumber, QuestionId, SessionId};
    use crate::ports::store::{Answer, OnDeadline};

    const LIMITS: Limits = Limits {
        wall: None,
        turns: Some(100),
        cost_usd: Some(10.0),
        tokens: Some(2_000_000),
        memory: None,
        cpus: None,
        attempts: None,
        rounds: None,
    };

    fn used(cost_usd: f64, turns: u32) -> Usage {
        Usage {
            cost_usd,
            turns,
            ..Usage::default()
        }
    }

    fn answered(number: u32, escalation: Escalation, text: &str, by: Option<&str>) -> Question {
        let id = format!("0198f000-0000-7000-8000-00000000000{number}");
        Question {
            id: id.parse::<QuestionId>().unwrap(),
            session: "0198f000-0000-7000-8000-000000000001"
                .parse::<SessionId>()
                .unwrap(),
            attempt: AttemptNumber::new(number),
            escalation,
            asked_at: DateTime::UNIX_EPOCH,
            deadline: None,
            then: OnDeadline::Fail,
            answer: Some(Answer {
                text: text.into(),
                by: by.map(str::to_owned),
                at: DateTime::UNIX_EPOCH,
            }),
        }
    }

    fn work(cost_usd: f64, turns: u32) -> Decision {
        Decision::Work(Budget {
            cost_usd: Some(cost_usd),
            turns: Some(turns),
            tokens: Some(2_000_000),
        })
    }

    #[test]
    fn what_is_asked_says_what_was_used_and_what_can_be_answered() {
        let Decision::Work(budget) = Decision::of(&LIMITS, &[], &[]) else {
            panic!("nobody has decided anything");
        };
        assert_eq!(budget.exhausted(used(9.99, 99)), None);
        let about_cost = budget.exhausted(used(10.5, 0)).unwrap();
        let about_turns = budget.exhausted(used(0.0, 100)).unwrap();
        insta::assert_snapshot!(format!("{about_cost:#?}\n{about_turns:#?}"));
        let failure = Failure::new("agent.max_turns", "x", "x");
        assert_eq!(budget.question(&failure, used(0.0, 100)), Some(about_turns));
        assert_eq!(
            budget.question(&Failure::new("agent.crashed", "x", "x"), used(99.0, 999)),
            None
        );
    }

    #[test]
    fn tokens_are_a_budget_too() {
        let Decision::Work(budget) = Decision::of(&LIMITS, &[], &[]) else {
            panic!("nobody has decided anything");
        };
        let used = Usage {
            input_tokens: 100_000,
            output_tokens: 50_000,
            cache_read_tokens: 1_800_000,
            cache_write_tokens: 50_000,
            ..Usage::default()
        };
        let question = budget.exhausted(used).unwrap();
        assert!(
            question
                .question
                .contains("2,000,000 tokens (it has used 2,000,000)"),
            "{question:?}"
        );
        assert_eq!(question.options[0], "raise to 4,000,000 tokens");
        let cause = format!("fabrica: {BUDGET_REACHED} of 2,000,000 tokens: it has used 2,000,000");
        let failure = Failure::new("budget.reached", cause, "x");
        assert_eq!(budget.question(&failure, used).as_ref(), Some(&question));
        for (answer, tokens) in [
            ("raise to 4,000,000 tokens", 4_000_000),
            ("Raise", 4_000_000),
            ("3M", 3_000_000),
            ("raise to 2.5 million, please", 2_500_000),
            ("2500 k", 2_500_000),
            ("5", 2_000_000),
            ("no idea", 2_000_000),
        ] {
            let questions = [answered(1, question.clone(), answer, Some("ada"))];
            let Decision::Work(budget) = Decision::of(&LIMITS, &questions, &[]) else {
                panic!("{answer}");
            };
            assert_eq!(budget.tokens, Some(tokens), "{answer}");
        }
        let questions = [answered(1, question, "stop", Some("ada"))];
        assert_eq!(Decision::of(&LIMITS, &questions, &[]), Decision::Stop);
    }

    #[test]
    fn an_answer_raises_stops_or_finishes() {
        let about = |limit| ask(limit, used(10.0, 100));
        for (limit, answer, decision) in [
            (Limit::Cost(10.0), "raise to $20.00", work(20.0, 100)),
            (Limit::Cost(10.0), "Raise", work(20.0, 100)),
            (Limit::Cost(10.0), "$1,000", work(1_000.0, 100)),
            (Limit::Cost(10.0), "12.5 is fine.", work(12.5, 100)),
            (Limit::Cost(10.0), "raise to 5", work(10.0, 100)),
            (Limit::Turns(100), "raise to 200 turns", work(10.0, 200)),
            (Limit::Turns(100), "STOP, please", Decision::Stop),
            (Limit::Turns(100), "finish with what there is", Decision::Finish),
            (Limit::Cost(10.0), "no idea", work(10.0, 100)),
        ] {
            let questions = [answered(1, about(limit), answer, Some("ada"))];
            assert_eq!(Decision::of(&LIMITS, &questions, &[]), decision, "{answer}");
        }
        let nobody = [answered(1, about(Limit::Cost(10.0)), "", None)];
        assert_eq!(Decision::of(&LIMITS, &nobody, &[]), Decision::Finish);
    }

    #[test]
    fn whoever_says_something_after_the_end_wants_more_of_the_agent() {
        for words in ["stop", "finish"] {
            let questions = [answered(
                1,
                ask(Limit::Cost(10.0), used(10.0, 0)),
                words,
                Some("ada"),
            )];
            let note = |seconds| crate::ports::store::Note {
                id: "0198f000-0000-7000-8000-000000000009".parse().unwrap(),
                session: questions[0].session,
                number: 1,
                text: "One thing more".into(),
                by: "ada".into(),
                at: DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds),
            };
            assert_eq!(Decision::of(&LIMITS, &questions, &[note(1)]), work(10.0, 100));
            let before = Decision::of(&LIMITS, &questions, &[note(-1)]);
            assert!(matches!(before, Decision::Stop | Decision::Finish), "{before:?}");
        }
    }

    #[test]
    fn answers_add_up_and_only_the_newest_one_ends() {
        let cost = || ask(Limit::Cost(10.0), used(10.0, 0));
        let own = Escalation {
            question: "How many tables?".into(),
            options: vec!["7".into()],
            context: String::new(),
            urgency: Urgency::Normal,
        };
        let questions = [
            answered(1, cost(), "raise to 30", Some("ada")),
            answered(2, cost(), "finish", Some("ada")),
            answered(
                3,
                ask(Limit::Turns(100), used(0.0, 100)),
                "raise to 150",
                Some("ada"),
            ),
            answered(4, own, "7000", Some("ada")),
        ];
        assert_eq!(Decision::of(&LIMITS, &questions, &[]), work(30.0, 150));
        let unlimited = Limits::default();
        assert_eq!(
            Decision::of(&unlimited, &[], &[]),
            Decision::Work(Budget::default())
        );
        assert_eq!(Budget::default().exhausted(used(1e9, u32::MAX)), None);
    }
}
