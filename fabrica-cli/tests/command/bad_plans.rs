//! Plans that cannot be accepted: exit code 2, the place, the problem, and nothing stored.

use crate::Place;

const VALID: &str = "---\nrepo: https://git.example.com/acme/app.git\n---\n# Say hello\n";

#[test]
fn each_bad_plan_is_refused_with_its_code_and_leaves_nothing() {
    let place = Place::new();
    let large = format!("{VALID}{}", "x".repeat(10 * 1024 * 1024));
    let cases = [
        ("# no frontmatter\n", "plan.no_frontmatter"),
        (
            "---\nrepo: https://git.example.com/a/b.git\n",
            "plan.unclosed_frontmatter",
        ),
        ("---\ntitle: x\n---\nDo it.\n", "plan.missing_repository"),
        ("---\nrepo: [1]\n---\nDo it.\n", "plan.invalid_value"),
        ("---\nrepo: \"unclosed\nx\n---\nDo it.\n", "plan.syntax"),
        (
            "---\nrepo: https://git.example.com/a/b.git\n---\n \n",
            "plan.empty_task",
        ),
        (
            "---\nrepo: \"ext::sh -c id\"\n---\nDo it.\n",
            "repository.unsupported",
        ),
        ("---\nrepo: file:///etc\n---\nDo it.\n", "repository.unsupported"),
        (
            "---\nrepo: --upload-pack=id\n---\nDo it.\n",
            "repository.unsupported",
        ),
        (
            "---\nrepo: http://git.example.com/a/b.git\n---\nDo it.\n",
            "repository.unencrypted",
        ),
        (large.as_str(), "plan.too_large"),
    ];
    for (plan, code) in cases {
        let said = place.run_plan(plan);
        said.assert_refused(2, code);
        assert!(said.stderr.contains("plan.md"), "the file is named: {said:#?}");
        assert!(said.stderr.len() < 2_000, "{said:#?}");
        assert_eq!(said.stdout, "");
    }
    assert!(
        !place.path("fabrica.sqlite").exists(),
        "a bad plan is refused before anything is opened"
    );
}

#[test]
fn an_unknown_key_is_told_with_its_place_and_the_nearest_known_one() {
    let place = Place::new();
    let said = place.run_plan("---\nrepo: https://git.example.com/a/b.git\nverfy: [make]\n---\nDo it.\n");
    said.assert_refused(2, "plan.unknown_key");
    insta::assert_snapshot!(said.stderr, @r"
    error: plan.md: line 3, column 1: unknown key `verfy`, did you mean `verify`? (plan.unknown_key)
    hint: mend the plan and run it again
    ");
}

#[test]
fn a_password_in_the_repositorys_address_is_refused_and_not_repeated() {
    let said = Place::new().run_plan("---\nrepo: https://me:canary@git.example.com/a/b.git\n---\nDo it.\n");
    said.assert_refused(2, "repository.credentials_in_url");
    assert!(!said.stderr.contains("canary"), "{said:#?}");
}

#[test]
fn a_plan_is_read_from_stdin() {
    let said = Place::new().run_stdin(&["run", "-"], "# no frontmatter\n");
    said.assert_refused(2, "plan.no_frontmatter");
    assert!(said.stderr.contains("stdin: line 1, column 1"), "{said:#?}");
}

#[test]
fn a_plan_that_is_not_there_or_no_text_is_refused() {
    let place = Place::new();
    place
        .run(&["run", "none.md"])
        .assert_refused(2, "plan.unreadable");
    place
        .run_plan(b"---\nrepo: \xff\n---\nx\n")
        .assert_refused(2, "plan.not_utf8");
}

#[test]
fn programs_read_the_problem_as_json() {
    let said = Place::new().run_stdin(&["run", "--json", "-"], "---\nrepos: x\n---\nDo it.\n");
    assert_eq!(said.code, 2);
    let problem: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(problem["type"], "problem");
    assert_eq!(problem["code"], "plan.unknown_key");
    assert_eq!(problem["exitCode"], 2);
}

#[test]
fn local_repositories_and_listed_hosts_are_the_operators_choice() {
    let place = Place::new();
    std::fs::write(place.path("plan.md"), VALID).unwrap();
    let said = place.run(&["run", "plan.md", "--repository-host", "github.com"]);
    said.assert_refused(2, "repository.host_not_accepted");
}
