//! How a run of the agent ended. Neither its exit code nor the result's `subtype` alone tells.

use std::process::ExitStatus;

use fabrica_core::failure::Failure;
use fabrica_core::protocol::{BUDGET_REACHED, PRICE_UNKNOWN, USAGE_LIMIT};
use serde_json::{Map, Value};

use super::stream::{number, text};
use crate::process::describe;
use crate::text::one_line;

/// What else was seen.
#[derive(Debug)]
pub(super) struct Clue {
    /// The last things that the agent said.
    pub(super) said: Vec<String>,
    /// The end of its standard error.
    pub(super) errors: Vec<String>,
}

/// Success is a result without error that was completed, or stopped by our own hook.
pub(super) fn of_result(result: &Map<String, Value>, refused: bool, clue: Clue) -> Result<String, Failure> {
    let reason = text(result, "terminal_reason");
    let error = result.get("is_error") != Some(&Value::Bool(false));
    if !error && matches!(reason, "completed" | "hook_stopped") {
        return Ok(text(result, "result").to_owned());
    }
    let status = number(result, "api_error_status");
    let words = words(result, reason);
    let failure = match text(result, "subtype") {
        "error_max_turns" => Failure::new(
            "agent.max_turns",
            words,
            "Raise `limits.turns` in the plan, or split the task. What was committed is on the branch.",
        ),
        "error_max_budget_usd" => Failure::new(
            "agent.max_budget",
            words,
            "Raise `limits.cost_usd` in the plan, or split the task. What was committed is on the branch.",
        ),
        _ if refused || text(result, "stop_reason") == "refusal" => Failure::new(
            "agent.refused",
            words,
            "The model's safeguards stopped the work. Rephrase the task, or name another `model` in the plan.",
        ),
        _ if status != 0 => of_status(status, words),
        _ if reason == "api_error" => Failure::new(
            "model.unavailable",
            words,
            "The model API could not be reached. Run the session again once it answers.",
        )
        .retryable(),
        _ if reason.starts_with("aborted") => Failure::new(
            "agent.interrupted",
            format!("the agent was interrupted: {words}"),
            "Something in the sandbox interrupted it. Run the session again.",
        )
        .retryable(),
        _ => Failure::new(
            "agent.crashed",
            words,
            "Read the diagnosis and the transcript; then run the session again.",
        ),
    };
    Err(failure.with_diagnosis(clue.said).with_diagnosis(clue.errors))
}

fn of_status(status: u64, words: String) -> Failure {
    match status {
        403 if words.contains(BUDGET_REACHED) => Failure::new(
            "budget.reached",
            words,
            "Raise `limits.cost_usd` in the plan, or split the task. What was committed is on the branch.",
        ),
        403 if words.contains(PRICE_UNKNOWN) => Failure::new(
            PRICE_UNKNOWN,
            words,
            "Name the model's price in the file of `--prices`, or limit `tokens` or `turns` instead of `cost_usd` in the plan.",
        ),
        401 => Failure::new(
            "model.unauthorized",
            words,
            "The model API does not accept Fabrica's key: set a valid one and restart Fabrica.",
        ),
        402 => Failure::new(
            "model.payment_required",
            words,
            "The account of Fabrica's model key has no credit left, or the budget is used up: raise it.",
        ),
        403 => Failure::new(
            "model.forbidden",
            words,
            "Fabrica's model key may not do this: check its rights and the `model` in the plan.",
        ),
        429 if words.contains(USAGE_LIMIT) => Failure::new(
            "model.usage_limit",
            words,
            "The session waits for that time and goes on by itself; one that has failed of it can be run again then. With another key (set it and restart Fabrica) it goes on sooner.",
        )
        .retryable(),
        429 => Failure::new(
            "model.rate_limited",
            words,
            "The model API limits the rate: run fewer sessions at once, or wait, and run the session again.",
        )
        .retryable(),
        529 => Failure::new(
            "model.overloaded",
            words,
            "The model API is overloaded. Run the session again in some minutes.",
        )
        .retryable(),
        500..=599 => Failure::new(
            "model.unavailable",
            words,
            "The model API fails. Run the session again once it works; if it goes on, look at its status page.",
        )
        .retryable(),
        _ => Failure::new(
            "model.refused_request",
            words,
            "The model API does not take the request: check the `model` in the plan, and whether the task is too long.",
        ),
    }
}

/// The process is gone and told nothing.
pub(super) fn without_result(status: ExitStatus, clue: Clue) -> Failure {
    let last = clue.errors.iter().rev().find(|line| !line.trim().is_empty());
    let cause = match last {
        Some(line) => format!("the agent {} without a result: {line}", describe(status)),
        None => format!("the agent {} without a result", describe(status)),
    };
    Failure::new(
        "agent.crashed",
        cause,
        "Read the diagnosis. If it was killed, raise `limits.memory` in the plan; otherwise run the session again.",
    )
    .retryable()
    .with_diagnosis(clue.said)
    .with_diagnosis(clue.errors)
}

fn words(result: &Map<String, Value>, reason: &str) -> String {
    let errors = result.get("errors").and_then(Value::as_array);
    let errors: Vec<&str> = errors.into_iter().flatten().filter_map(Value::as_str).collect();
    match (text(result, "result"), errors.as_slice()) {
        ("", []) => format!(
            "the agent ended without success: {}",
            if reason.is_empty() { "unknown" } else { reason }
        ),
        ("", errors) => one_line(&errors.join("; ")),
        (result, _) => one_line(result),
    }
}
