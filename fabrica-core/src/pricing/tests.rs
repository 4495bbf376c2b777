use super::*;
use crate::protocol::Usage;

fn list(entries: &str) -> PriceList {
    PriceList::parse(&format!("date: 2026-02-03\nmodels:\n{entries}")).unwrap()
}

fn error(entry: &str) -> String {
    PriceList::parse(&format!("date: 2026-02-03\nmodels:\n  {entry}\n"))
        .unwrap_err()
        .to_string()
}

#[track_caller]
fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-9, "{a} is not {b}");
}

/// Input and output of a model in the list that comes with the program.
fn known(model: &str) -> Option<(f64, f64)> {
    let price = PriceList::builtin().price(model)?;
    Some((price.input, price.output))
}

#[test]
fn the_list_that_comes_with_the_program_knows_the_models_of_its_date() {
    assert_eq!(PriceList::builtin().date().to_string(), "2026-01-01");
    for model in [
        "claude-opus-4-20250514",
        "claude-opus-4-0",
        "claude-opus-4-1",
        "claude-opus-4-1-20250805",
        "claude-opus-4-1@20250805",
        "anthropic/claude-opus-4.1",
        "us.anthropic.claude-opus-4-20250514-v1:0",
    ] {
        assert_eq!(known(model), Some((15.0, 75.0)), "{model}");
    }
    for model in [
        "claude-opus-4-5-20251101",
        "claude-opus-4-5",
        "claude-opus-4-6",
        "claude-opus-5",
    ] {
        assert_eq!(known(model), Some((5.0, 25.0)), "{model}");
    }
    for model in [
        "claude-3-7-sonnet-20250219",
        "claude-3-7-sonnet-latest",
        "claude-sonnet-4-20250514",
        "claude-sonnet-4-5-20250929",
        "anthropic/claude-sonnet-4.5",
        "claude-sonnet-5",
    ] {
        assert_eq!(known(model), Some((3.0, 15.0)), "{model}");
    }
    assert_eq!(known("claude-3-5-haiku-20241022"), Some((0.8, 4.0)));
    assert_eq!(known("claude-haiku-4-5-20251001"), Some((1.0, 5.0)));
    for model in ["", "claude", "gpt-5", "claude-instant-1.2", "my-claude-opus-4"] {
        assert_eq!(known(model), None, "{model}");
    }
}

#[test]
fn the_longest_entry_that_fits_counts_wherever_it_stands() {
    let list = list(
        "  m-*: { input: 1, output: 1 }\n  m-large-2: { input: 2, output: 1 }\n  \
         m-large*: { input: 3, output: 1 }\n  m-large-2*: { input: 4, output: 1 }\n  \"*\": { input: 5, output: 1 }\n",
    );
    for (model, input) in [
        ("m-small", 1.0),
        ("m-large", 3.0),
        ("m-large-2", 2.0),
        ("m-large-2-20260101", 2.0),
        ("provider/m-large-2-20260101", 2.0),
        ("m-large-2-2026", 4.0),
        ("m", 5.0),
        ("", 5.0),
    ] {
        assert_eq!(list.price(model).map(|price| price.input), Some(input), "{model}");
    }
}

#[test]
fn the_operators_list_wins_with_whatever_fits() {
    let builtin = PriceList::builtin();
    let both = builtin
        .clone()
        .with(list("  claude-*: { input: 0.5, output: 1 }\n"));
    assert_eq!(both.date().to_string(), "2026-02-03");
    close(both.price("claude-opus-4-1").unwrap().input, 0.5);
    let both = builtin.with(list("  mine: { input: 0, output: 0 }\n"));
    close(both.price("mine").unwrap().output, 0.0);
    close(both.price("claude-opus-4-1").unwrap().input, 15.0);
}

#[test]
fn prices_of_the_cache_follow_from_the_inputs_unless_they_are_given() {
    let price = list("  m: { input: 4, output: 20 }\n").price("m").unwrap();
    close(price.cache_read, 0.4);
    close(price.cache_write, 5.0);
    close(price.hour_cache_write, 8.0);
    let price = list("  m: { input: 4, output: 20, cache_read: 0, cache_write: 1, hour_cache_write: 2 }\n")
        .price("m")
        .unwrap();
    assert_eq!(
        (price.cache_read, price.cache_write, price.hour_cache_write),
        (0.0, 1.0, 2.0)
    );
}

#[test]
fn every_kind_of_token_has_its_price() {
    let price = Price {
        input: 1.0,
        output: 10.0,
        cache_read: 100.0,
        cache_write: 1_000.0,
        hour_cache_write: 10_000.0,
    };
    let used = |cache_write_tokens, hour_cache_write_tokens| ModelUse {
        model: "m".into(),
        usage: Usage {
            input_tokens: 1_000_000,
            output_tokens: 2_000_000,
            cache_read_tokens: 3_000_000,
            cache_write_tokens,
            // Not the price list's.
            cost_usd: 7.0,
            turns: 7,
        },
        hour_cache_write_tokens,
    };
    close(price.cost(&used(0, 0)), 321.0);
    close(price.cost(&used(5_000_000, 0)), 5_321.0);
    close(price.cost(&used(5_000_000, 4_000_000)), 41_321.0);
    // More of a part than of the whole is not possible, and not charged.
    close(price.cost(&used(1_000_000, 9_000_000)), 10_321.0);
}

#[test]
fn errors_name_the_entry_and_what_was_expected() {
    let entries = [
        "m: { input: -1, output: 1 }",
        "m: { input: 1, output: .inf }",
        "m: { input: .nan, output: 1 }",
        "m: { input: 1, output: 1, cache_read: -0.5 }",
        "m: { input: 1e308, output: 1 }",
        "m: { input: cheap, output: 1 }",
        "m: { input: 1 }",
        "m: { input: 1, output: 1, cache: 1 }",
        "m: 5",
        "m*n: { input: 1, output: 1 }",
        "m n: { input: 1, output: 1 }",
        "\"\": { input: 1, output: 1 }",
        "4: { input: 1, output: 1 }",
    ];
    let lists = [
        "",
        "models: {}",
        "date: 2026-01-01",
        "date: 2026-13-01\nmodels: {}",
        "date: 2026-01-01\nmodels: []",
        "date: 2026-01-01\nmodels: {}\ncurrency: EUR",
        "date: 2026-01-01\nmodels:\n  m: { input: 1, output: 1 }\n  m: { input: 2, output: 1 }",
        "date: [",
    ];
    let mut text = String::new();
    for entry in entries {
        text.push_str(&format!("{entry}\n  {}\n", error(entry)));
    }
    for list in lists {
        let error = PriceList::parse(list).unwrap_err();
        assert_eq!(error.code(), "prices.invalid");
        text.push_str(&format!("{list:?}\n  {error}\n"));
    }
    insta::assert_snapshot!(text);
}
