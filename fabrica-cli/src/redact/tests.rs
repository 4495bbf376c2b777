use serde_json::json;

use super::*;

/// Credentials are put together here, so that no tool takes this file for a leak.
const LONG: &str = "abcdefghij0123456789KLMNOPQRSTUVWXYZ";
const LINE: &str = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7canarycanary";

fn begin() -> String {
    ["-----BEGIN RSA ", "PRIVATE KEY-----"].concat()
}

fn end() -> String {
    ["-----END RSA ", "PRIVATE KEY-----"].concat()
}

#[track_caller]
fn becomes(before: &str, after: &str) {
    assert_eq!(text(before), after, "of {before:?}");
    assert_eq!(text(after), after, "what is clean stays as it is");
}

#[test]
fn keys_of_model_providers_and_forges_are_found() {
    for beginning in [
        "sk-ant-api03-",
        "sk-ant-oat01-",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_11AB_",
    ] {
        let key = format!("{beginning}{LONG}");
        becomes(&format!("KEY={key}"), "KEY=[redacted]");
        becomes(&format!("It is {key}. Keep it."), "It is [redacted]. Keep it.");
        becomes(&format!(r#"{{"a":"x\n{key}\n"}}"#), r#"{"a":"x\n[redacted]\n"}"#);
        becomes(&format!("ä{key}ö, {key}"), "ä[redacted]ö, [redacted]");
    }
}

#[test]
fn access_keys_of_clouds_are_found() {
    let digits = "IOSFODNN7EXAMPLE";
    for beginning in ["AKIA", "ASIA"] {
        becomes(&format!("id = {beginning}{digits};"), "id = [redacted];");
        let longer = format!("{beginning}{digits}X");
        becomes(&longer, &longer);
        let within = format!("X{beginning}{digits}");
        becomes(&within, &within);
    }
}

#[test]
fn bearer_tokens_are_found_from_21_characters_on() {
    let longest = &LONG[..20];
    becomes(
        &format!("Authorization: Bearer {LONG}=="),
        "Authorization: Bearer [redacted]",
    );
    becomes(&format!("bearer \t{longest}x"), "bearer \t[redacted]");
    becomes(&format!("Bearer {longest}"), &format!("Bearer {longest}"));
    becomes(
        "-H \"Authorization: Bearer $TOKEN\"",
        "-H \"Authorization: Bearer $TOKEN\"",
    );
}

#[test]
fn passwords_in_addresses_are_found() {
    becomes(
        "postgres://me:canary@db:5432/app and https://x:y@h",
        "postgres://[redacted]@db:5432/app and https://[redacted]@h",
    );
    becomes(
        &format!("https://ghp_{LONG}:x-oauth-basic@github.com/a"),
        "https://[redacted]@github.com/a",
    );
    becomes("redis://:p@ss@cache", "redis://[redacted]@cache");
    becomes("url=\"https://me:canary@h\"", "url=\"https://[redacted]@h\"");
}

#[test]
fn private_keys_are_found_whole_and_cut_off() {
    let (begin, end) = (begin(), end());
    becomes(
        &format!("a\n{begin}\n{LINE}\n{LINE}\nabc=\n{end}\nb"),
        "a\n[redacted]\nb",
    );
    becomes(
        &format!(r#"{{"key":"{begin}\n{LINE}\n{end}\n"}}"#),
        r#"{"key":"[redacted]\n"}"#,
    );
    // As the runner cuts a summary: one line without an end.
    becomes(&format!("1\t{begin} {LINE} {LINE} MIIE…"), "1\t[redacted]…");
    becomes(
        &format!(
            "{begin}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00112233\n\n{LINE}\n{LINE}\nab=\n\nThe rest."
        ),
        "[redacted]\n\nThe rest.",
    );
    becomes(
        &format!("     1→{begin}\n     2→{LINE}\n     3→{LINE}\n"),
        "     1→[redacted]\n",
    );
    let openssh = ["-----BEGIN OPENSSH ", "PRIVATE KEY-----"].concat();
    becomes(&format!("{openssh}\n{LINE}"), "[redacted]");
}

#[test]
fn what_escape_sequences_interrupt_is_found() {
    becomes(
        &format!("\u{1b}[31mghp_\u{1b}[0m{LONG} \u{1b}[1mbold"),
        "[redacted] bold",
    );
    becomes(&format!("sk-ant-\u{200b}{LONG}"), "[redacted]");
    let plain = "\u{1b}[31mred\u{1b}[0m";
    becomes(plain, plain);
}

#[test]
fn ordinary_text_is_untouched() {
    for ordinary in [
        "",
        "The bearer of bad news, and a Bearer: token of trust.",
        "lowp_float, highp_vec4_of_all_things_and_more",
        "Set ANTHROPIC_API_KEY to sk-ant-… or sk-ant-xxx, GITHUB_TOKEN to ghp_xxx.",
        "task-antecedent sk-antique github_pattern",
        "https://git.example.com:8443/acme/app.git?a=b@c ssh://git@host:22/x git@host:a/b.git me@example.com",
        "npm install http://localhost:4873/@scope/name, e=mc², a://b",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  AKIA",
        "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "| a |\n|-----|-----------------------|\n----- BEGIN",
        "\u{1b}]0;title\u{7}日本\u{200b}🦀",
    ] {
        becomes(ordinary, ordinary);
    }
    let marker = format!("if line == \"{}\" {{ go_on() }}", begin());
    becomes(&marker, "if line == \"[redacted]\" { go_on() }");
}

fn entry(kind: &str, summary: &str, detail: Value) -> TranscriptEntry {
    TranscriptEntry {
        kind: kind.into(),
        parent: None,
        summary: summary.into(),
        detail: serde_json::from_value(detail).unwrap(),
    }
}

fn output(stream: &str, summary: &str, lines: &[&str]) -> TranscriptEntry {
    entry(
        "output",
        summary,
        json!({"step": "setup", "stream": stream, "lines": lines}),
    )
}

#[test]
fn every_text_of_an_entry_is_searched() {
    let key = format!("ghp_{LONG}");
    let before = entry(
        "tool_use",
        &format!("Bash: echo {key}"),
        json!({"input": {"list": [[key]], "deep": {"er": {&key: key, "n": 1, "yes": true, "none": null}}}}),
    );
    let after = Redactor::default().entry(before);
    assert_eq!(after.summary, "Bash: echo [redacted]");
    assert_eq!(
        Value::Object(after.detail),
        json!({"input": {"list": [["[redacted]"]], "deep": {"er": {"[redacted]": "[redacted]", "n": 1, "yes": true, "none": null}}}})
    );
}

#[test]
fn a_private_key_over_lines_and_entries_is_found_in_each_stream() {
    let mut redactor = Redactor::default();
    let first = redactor.entry(output("stdout", LINE, &["$ cat key", &begin(), LINE]));
    assert_eq!(
        first.detail["lines"],
        json!(["$ cat key", "[redacted]", "[redacted]"])
    );
    assert_eq!(first.summary, "[redacted]", "the summary repeats a line");
    let other = redactor.entry(output("stderr", "warning", &["warning"]));
    assert_eq!(other.detail["lines"], json!(["warning"]));
    let second = redactor.entry(output("stdout", "done", &[LINE, "abc=", &end(), "done"]));
    assert_eq!(
        second.detail["lines"],
        json!(["[redacted]", "[redacted]", "[redacted]", "done"])
    );
    assert_eq!(second.summary, "done");
    let third = redactor.entry(output("stdout", LINE, &[LINE]));
    assert_eq!(third.detail["lines"], json!([LINE]), "the key is over");
}

#[test]
fn a_private_key_is_over_where_no_line_of_one_follows() {
    let after = Redactor::default().entry(output("stdout", "", &[&begin(), LINE, "cat: broken pipe", LINE]));
    assert_eq!(
        after.detail["lines"],
        json!(["[redacted]", "[redacted]", "cat: broken pipe", LINE])
    );
}

#[test]
fn a_private_key_of_which_only_the_end_is_known_is_found() {
    let after = Redactor::default().entry(output("stdout", "", &["a b", LINE, LINE, "abc=", &end(), "x"]));
    assert_eq!(
        after.detail["lines"],
        json!(["a b", "[redacted]", "[redacted]", "[redacted]", "[redacted]", "x"])
    );
    let after = Redactor::default().entry(output("stdout", "", &[&begin(), LINE, "abc", &end(), "x"]));
    assert_eq!(
        after.detail["lines"],
        json!(["[redacted]", "[redacted]", "[redacted]", "[redacted]", "x"]),
        "a last line of the form of a word"
    );
    let only = ["done", &end()];
    let after = Redactor::default().entry(output("stdout", "", &only));
    assert_eq!(after.detail["lines"], json!(only), "a marker alone is no key");
}

/// How long it takes to search so many bytes of each hostile text, in turn.
fn search_time(bytes: usize) -> std::time::Duration {
    let begun = std::time::Instant::now();
    for hostile in [
        begin(),
        end(),
        "://a:".into(),
        "-".into(),
        "Bearer ".into(),
        "ghp_".into(),
        "\u{1b}[".into(),
    ] {
        let long = hostile.repeat(bytes / hostile.len());
        let _ = text(&long);
        let lines = vec![Value::from(long.as_str()); 3];
        let _ = value(Value::Array(lines));
    }
    begun.elapsed()
}

#[test]
fn the_time_for_a_hostile_text_grows_with_its_length_and_no_faster() {
    // Eight times as much takes about eight times as long, and 64 times if it grew with the square.
    let ratio = |_| search_time(512 * 1024).as_secs_f64() / search_time(64 * 1024).as_secs_f64();
    let best = (0..3).map(ratio).fold(f64::MAX, f64::min);
    assert!(best < 24.0, "{best}");
}
