//! What is missing around a good plan: keys, databases, engines.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::{Place, absent_engine};

const PLAN: &str = "---\nrepo: https://git.example.com/acme/app.git\n---\n# Say hello\n";
const COMMAND_PLAN: &str =
    "---\nrepo: https://git.example.com/acme/app.git\nagent: { command: [\"true\"] }\n---\n# Say hello\n";

#[test]
fn without_a_key_the_agent_is_not_even_started() {
    Place::new()
        .run_plan(PLAN)
        .assert_refused(78, "model.no_credential");
}

#[test]
fn a_database_that_cannot_be_reached_is_69_and_keeps_its_password() {
    let place = Place::new();
    std::fs::write(place.path("plan.md"), COMMAND_PLAN).unwrap();
    let mut command = place.command(&["run", "plan.md"]);
    command.env(
        "DATABASE_URL",
        "postgres://me:canary-password@127.0.0.1:1/fabrica",
    );
    let said = crate::said(command.output().unwrap());
    said.assert_refused(69, "database.unreachable");
    assert!(!said.stderr.contains("canary"), "{said:#?}");
}

#[test]
fn an_address_of_no_database_is_a_wrong_option() {
    let said = Place::new().run(&["sessions", "--database", "mysql://me:canary@h/d"]);
    said.assert_refused(2, "database.address_invalid");
    assert!(!said.stderr.contains("canary"), "{said:#?}");
}

#[test]
fn without_an_engine_it_is_69_and_says_what_was_tried() {
    let place = Place::new();
    std::fs::write(place.path("plan.md"), COMMAND_PLAN).unwrap();
    let said = place.run(&["run", "plan.md", "--runtime", absent_engine()]);
    said.assert_refused(69, "engine.unavailable");
    assert!(said.stderr.contains("not set"), "{said:#?}");
    assert_eq!(said.stdout, "");
}

#[test]
fn the_doctor_names_what_is_missing_and_shows_no_secret() {
    let place = Place::new();
    let mut command = place.command(&["doctor", "--json", "--runtime", absent_engine()]);
    command
        .env("ANTHROPIC_API_KEY", "canary-key")
        .env("FABRICA_FORGE_TOKEN", "canary-token");
    let said = crate::said(command.output().unwrap());
    assert_eq!(said.code, 1, "{said:#?}");
    let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let status = |name: &str| {
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        check["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(report["ok"], false);
    assert_eq!(status("engine"), "fail");
    assert_eq!(status("git"), "warn");
    assert_eq!(status("model"), "ok");
    assert_eq!(status("forge"), "ok");
    assert_eq!(status("database"), "ok");
    assert!(!format!("{said:?}").contains("canary"), "{said:#?}");
}

/// Makes a signing key in a place, as the README says.
fn make_key(place: &Place, passphrase: &str) -> String {
    let path = place.path("key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", passphrase, "-f"])
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    path.display().to_string()
}

#[test]
fn a_signing_key_that_cannot_be_used_is_told_with_its_file_and_what_to_do() {
    let refused = |file: &str, code: &str, words: [&str; 2]| {
        let place = Place::new();
        std::fs::write(place.path("plan.md"), COMMAND_PLAN).unwrap();
        let said = place.run(&["run", "plan.md", "--signing-key-file", file]);
        said.assert_refused(78, code);
        for words in [file, words[0], words[1]] {
            assert!(said.stderr.contains(words), "{words}: {said:#?}");
        }
        assert!(!place.path("fabrica.sqlite").exists(), "nothing is opened before");
    };
    let place = Place::new();
    let absent = place.path("absent").display().to_string();
    refused(
        &absent,
        "signing.key_unreadable",
        ["--signing-key-file: cannot read", "hint: name a private key"],
    );
    let key = make_key(&place, "");
    let open = Permissions::from_mode(0o644);
    std::fs::set_permissions(&key, open).unwrap();
    refused(
        &key,
        "signing.key_open_to_others",
        ["mode 0600", "hint: run: chmod 600"],
    );
    let public = format!("{key}.pub");
    std::fs::set_permissions(&public, Permissions::from_mode(0o600)).unwrap();
    refused(
        &public,
        "signing.key_malformed",
        ["the public half", "hint: `ssh-keygen -t ed25519"],
    );
    let place = Place::new();
    let encrypted = make_key(&place, "a passphrase");
    refused(
        &encrypted,
        "signing.key_encrypted",
        ["without one", "ssh-keygen -p"],
    );
}

#[test]
fn a_key_in_place_of_its_files_name_is_not_repeated() {
    let place = Place::new();
    let key = std::fs::read_to_string(make_key(&place, "")).unwrap();
    std::fs::write(place.path("plan.md"), COMMAND_PLAN).unwrap();
    let mut command = place.command(&["run", "plan.md"]);
    let said = crate::said(command.env("FABRICA_SIGNING_KEY_FILE", &key).output().unwrap());
    said.assert_refused(78, "signing.key_not_a_path");
    assert!(key.lines().all(|line| !said.stderr.contains(line)), "{said:#?}");
}

#[test]
fn the_doctor_shows_the_fingerprint_of_the_signing_key_and_warns_of_an_address_that_no_forge_knows() {
    let place = Place::new();
    let key = make_key(&place, "");
    let shown = Command::new("ssh-keygen").args(["-lf", &key]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let fingerprint = shown.split(' ').nth(1).unwrap();
    let check = |arguments: &[&str]| {
        let doctor = ["doctor", "--json", "--runtime", absent_engine()];
        let said = place.run(&[&doctor[..], arguments].concat());
        let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == "signing").cloned()
    };
    assert_eq!(check(&[]), None);
    let unknown = check(&["--signing-key-file", &key]).unwrap();
    assert_eq!(unknown["status"], "warn");
    let committer = [
        "--signing-key-file",
        &key,
        "--committer",
        "Fabrica <bot@example.com>",
    ];
    let known = check(&committer).unwrap();
    assert_eq!(known["status"], "ok");
    assert_eq!(
        known["detail"],
        format!("{fingerprint} for commits by bot@example.com")
    );
}

#[test]
fn wrong_options_are_usage_errors() {
    let place = Place::new();
    for arguments in [
        &["run"][..],
        &["run", "plan.md", "--runtime", "lxc"],
        &["run", "plan.md", "--memory", "much"],
        &["run", "plan.md", "--wall", "0s"],
        &["run", "plan.md", "--forge", "gitlab=x"],
        &["sessions", "--status", "done"],
        &["dance"],
    ] {
        assert_eq!(place.run(arguments).code, 2, "{arguments:?}");
    }
}

#[test]
fn completions_are_printed() {
    let said = Place::new().run(&["completions", "bash"]);
    assert_eq!(said.code, 0);
    assert!(said.stdout.contains("_fabrica"));
}
