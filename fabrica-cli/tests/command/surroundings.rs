//! What is missing around a good plan: keys, databases, engines.

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
