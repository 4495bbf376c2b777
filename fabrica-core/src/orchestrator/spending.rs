//! What an attempt spends on the model, by the gateway's own count.

use std::sync::{Arc, Mutex, PoisonError};

use super::budget::{Budget, grouped};
use crate::ports::gateway::{ModelRefusal, ModelUse};
use crate::pricing::PriceList;
use crate::protocol::{BUDGET_REACHED, PRICE_UNKNOWN, Usage};

/// From which part of the budget on people are told.
const NEARLY: f64 = 0.8;

/// Counts against a budget.
#[derive(Debug)]
pub(super) struct Spending {
    prices: Arc<PriceList>,
    /// For the whole session. Turns are the runner's to count.
    limit: Budget,
    /// What the session had used before this worker had it.
    before: Usage,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In US dollars, as far as it is limited.
    spent: f64,
    tokens: u64,
    told_of_cost: bool,
    told_of_tokens: bool,
    /// A model that answered though nobody knows its price: whoever asked for another one got round the first look.
    unpriced: Option<String>,
}

impl Spending {
    pub(super) fn new(prices: Arc<PriceList>, limit: Budget, before: Usage) -> Self {
        let state = State {
            told_of_cost: limit
                .cost_usd
                .is_some_and(|limit| before.cost_usd >= NEARLY * limit),
            told_of_tokens: limit.tokens.is_some_and(|limit| nearly(before.tokens(), limit)),
            ..State::default()
        };
        Self {
            prices,
            limit,
            before,
            state: Mutex::new(state),
        }
    }

    /// Whether this model may be asked now. What is under way at the same time may go beyond the budget.
    pub(super) fn may_ask(&self, model: &str) -> Result<(), ModelRefusal> {
        if let Some(limit) = self.limit.tokens {
            let used = self.before.tokens().saturating_add(self.state().tokens);
            if used >= limit {
                return Err(reached(&format!("{} tokens", grouped(limit)), &grouped(used)));
            }
        }
        let Some(limit) = self.limit.cost_usd else {
            return Ok(());
        };
        let unpriced = self.state().unpriced.clone();
        let unknown = self.prices.price(model).is_none().then(|| model.to_owned());
        if let Some(model) = unpriced.or(unknown) {
            return Err(ModelRefusal {
                code: PRICE_UNKNOWN,
                detail: format!(
                    "the plan has a budget in US dollars, and nobody knows the price of the model {model:?}: name it in the \
                     file of --prices, or use `limits.tokens` or `limits.turns` instead of `limits.cost_usd`"
                ),
            });
        }
        let spent = self.before.cost_usd + self.state().spent;
        if spent >= limit {
            return Err(reached(&format!("${limit:.2}"), &format!("${spent:.2}")));
        }
        Ok(())
    }

    /// Counts, and says what people shall know of it.
    pub(super) fn used(&self, used: &ModelUse) -> Option<String> {
        let mut state = self.state();
        state.tokens = state.tokens.saturating_add(used.usage.tokens());
        match self.prices.price(&used.model) {
            Some(price) => state.spent += price.cost(used),
            None => state.unpriced = Some(used.model.clone()),
        }
        let mut told = Vec::new();
        if let Some(limit) = self.limit.cost_usd {
            let spent = self.before.cost_usd + state.spent;
            if !state.told_of_cost && spent >= NEARLY * limit {
                state.told_of_cost = true;
                let percent = (100.0 * spent / limit).round();
                told.push(format!(
                    "{percent} % of the budget are used: ${spent:.2} of ${limit:.2}"
                ));
            }
        }
        if let Some(limit) = self.limit.tokens {
            let spent = self.before.tokens().saturating_add(state.tokens);
            if !state.told_of_tokens && nearly(spent, limit) {
                state.told_of_tokens = true;
                let percent = u128::from(spent) * 100 / u128::from(limit.max(1));
                told.push(format!(
                    "{percent} % of the budget are used: {} of {} tokens",
                    grouped(spent),
                    grouped(limit)
                ));
            }
        }
        (!told.is_empty()).then(|| told.join("; "))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reached(limit: &str, used: &str) -> ModelRefusal {
    ModelRefusal {
        code: "budget.reached",
        detail: format!("{BUDGET_REACHED} of {limit}: it has used {used}"),
    }
}

/// Whether so many tokens are four fifths of the limit.
const fn nearly(used: u64, limit: u64) -> bool {
    used as u128 * 5 >= limit as u128 * 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(output_tokens: u64) -> ModelUse {
        ModelUse {
            model: "claude-test".into(),
            usage: Usage {
                output_tokens,
                ..Usage::default()
            },
            hour_cache_write_tokens: 0,
        }
    }

    /// A dollar for a million tokens.
    fn spending(limit: Option<f64>, before: f64) -> Spending {
        let prices =
            PriceList::parse("date: 2026-01-01\nmodels:\n  claude-test: { input: 1, output: 1 }\n").unwrap();
        let limit = Budget {
            cost_usd: limit,
            ..Budget::default()
        };
        let before = Usage {
            cost_usd: before,
            ..Usage::default()
        };
        Spending::new(Arc::new(prices), limit, before)
    }

    #[test]
    fn a_budget_is_told_of_at_four_fifths_and_ends_at_its_end() {
        let spending = spending(Some(10.0), 1.0);
        assert_eq!(spending.used(&used(6_000_000)), None);
        assert_eq!(spending.may_ask("claude-test"), Ok(()));
        let told = spending.used(&used(1_500_000)).unwrap();
        assert_eq!(told, "85 % of the budget are used: $8.50 of $10.00");
        assert_eq!(spending.used(&used(1_000_000)), None, "once");
        assert_eq!(spending.may_ask("claude-test"), Ok(()));
        spending.used(&used(1_000_000));
        let refused = spending.may_ask("claude-test").unwrap_err();
        assert_eq!(refused.code, "budget.reached");
        assert!(refused.detail.contains(BUDGET_REACHED) && refused.detail.contains("$10.50"));
    }

    #[test]
    fn a_model_without_a_price_is_refused_where_money_is_limited() {
        let refused = spending(Some(10.0), 0.0).may_ask("other").unwrap_err();
        assert_eq!(refused.code, "budget.price_unknown");
        let limited = spending(Some(10.0), 0.0);
        let other = ModelUse {
            model: "other".into(),
            ..used(1)
        };
        assert_eq!(limited.used(&other), None);
        let refused = limited.may_ask("claude-test").unwrap_err();
        assert!(
            refused.detail.contains("other"),
            "it was asked for by another name"
        );
        let unlimited = spending(None, 1e9);
        assert_eq!(unlimited.may_ask("other"), Ok(()));
        assert_eq!(unlimited.used(&used(u64::MAX)), None);
    }

    #[test]
    fn tokens_are_counted_with_those_of_the_cache_and_whatever_they_cost() {
        let limit = Budget {
            tokens: Some(1_000_000),
            ..Budget::default()
        };
        let before = Usage {
            cache_read_tokens: 100_000,
            ..Usage::default()
        };
        let spending = Spending::new(Arc::new(PriceList::builtin()), limit, before);
        let other = |output_tokens| ModelUse {
            model: "nobody-knows-its-price".into(),
            ..used(output_tokens)
        };
        assert_eq!(spending.used(&other(600_000)), None);
        let told = spending.used(&other(100_000)).unwrap();
        assert_eq!(told, "80 % of the budget are used: 800,000 of 1,000,000 tokens");
        assert_eq!(spending.used(&other(199_999)), None, "once");
        assert_eq!(spending.may_ask("nobody-knows-its-price"), Ok(()));
        spending.used(&other(1));
        let refused = spending.may_ask("nobody-knows-its-price").unwrap_err();
        assert_eq!(refused.code, "budget.reached");
        assert!(
            refused
                .detail
                .ends_with("of 1,000,000 tokens: it has used 1,000,000"),
            "{}",
            refused.detail
        );
    }
}
