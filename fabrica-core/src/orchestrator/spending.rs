//! What an attempt spends on the model, by the gateway's own count.

use std::sync::{Arc, Mutex, PoisonError};

use crate::ports::gateway::{ModelRefusal, ModelUse};
use crate::pricing::PriceList;
use crate::protocol::BUDGET_REACHED;

/// From which part of the budget on people are told.
const NEARLY: f64 = 0.8;

/// Counts against a budget.
#[derive(Debug)]
pub(super) struct Spending {
    prices: Arc<PriceList>,
    /// US dollars for the whole session; `None` counts nothing.
    limit: Option<f64>,
    /// What the session had spent before this worker had it, in US dollars.
    before: f64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spent: f64,
    told: bool,
    /// A model that answered though nobody knows its price: whoever asked for another one got round the first look.
    unpriced: Option<String>,
}

impl Spending {
    pub(super) fn new(prices: Arc<PriceList>, limit: Option<f64>, before: f64) -> Self {
        let told = limit.is_some_and(|limit| before >= NEARLY * limit);
        Self {
            prices,
            limit,
            before,
            state: Mutex::new(State {
                told,
                ..State::default()
            }),
        }
    }

    /// Whether this model may be asked now. What is under way at the same time may go beyond the budget.
    pub(super) fn may_ask(&self, model: &str) -> Result<(), ModelRefusal> {
        let Some(limit) = self.limit else { return Ok(()) };
        let unpriced = self.state().unpriced.clone();
        let unknown = self.prices.price(model).is_none().then(|| model.to_owned());
        if let Some(model) = unpriced.or(unknown) {
            return Err(ModelRefusal {
                code: "budget.price_unknown",
                detail: format!(
                    "the plan has a budget in US dollars, and nobody knows the price of the model {model:?}: name it in the \
                     file of --prices, or use `limits.turns` instead of `limits.cost_usd`"
                ),
            });
        }
        let spent = self.before + self.state().spent;
        if spent >= limit {
            return Err(ModelRefusal {
                code: "budget.reached",
                detail: format!("{BUDGET_REACHED} of ${limit:.2}: it has used ${spent:.2}"),
            });
        }
        Ok(())
    }

    /// Counts, and says what people shall know of it.
    pub(super) fn used(&self, used: &ModelUse) -> Option<String> {
        let mut state = self.state();
        let Some(price) = self.prices.price(&used.model) else {
            state.unpriced = Some(used.model.clone());
            return None;
        };
        let cost = price.cost(used);
        state.spent += cost;
        let (limit, spent) = (self.limit?, self.before + state.spent);
        if state.told || spent < NEARLY * limit {
            return None;
        }
        state.told = true;
        let percent = (100.0 * spent / limit).round();
        Some(format!(
            "{percent} % of the budget are used: ${spent:.2} of ${limit:.2}"
        ))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Usage;

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
}
