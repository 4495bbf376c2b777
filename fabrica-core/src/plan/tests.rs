use std::time::Duration;

use super::*;

const HEAD: &str = "---\nrepo: https://github.com/acme/billing.git\n";

fn parse(source: &str) -> Result<Plan, PlanError> {
    Plan::parse(source, &RepositoryPolicy::default())
}

fn error(source: &str) -> PlanError {
    parse(source).expect_err("the plan is wrong")
}

#[test]
fn the_minimal_plan_works() {
    let plan = parse(&format!("{HEAD}---\nFix the rounding.\n")).unwrap();
    assert_eq!(plan.title, "Untitled");
    assert_eq!(plan.agent, Agent::Claude);
    assert_eq!(plan.task, "Fix the rounding.\n");
    assert_eq!(plan.limits, Limits::default());
    assert!(plan.large_files);
}

#[test]
fn every_key_is_read() {
    let plan = parse(
        "---\n\
         repo: ssh://git@git.example.com:2222/acme/billing.git\n\
         submodules: [\"https://git.example.com/acme/money.git\", \"git@git.example.com:acme/time.git\"]\n\
         lfs: false\n\
         title: Add idempotency keys\n\
         base: main\n\
         branch: fabrica/idempotency\n\
         path: services/billing api/\n\
         agent: { command: [\"./agent.sh\", \"--fast\"] }\n\
         model: sonnet\n\
         image: registry.example.com/acme/dev:1\n\
         setup: [\"cargo fetch\"]\n\
         verify: [\"cargo test\"]\n\
         limits: { wall: 1h 30m, turns: 200, tokens: 5000000, cost_usd: 10, memory: 4GiB, cpus: 2, attempts: 2, rounds: 5 }\n\
         priority: -5\n\
         network: { allow: [\"packages.example.com\"] }\n\
         pull_request: { draft: true, labels: [agent], reviewers: [platform-team] }\n\
         ---\n# Other\ntext",
    )
    .unwrap();
    assert_eq!(plan.title, "Add idempotency keys");
    assert_eq!(
        plan.repository.http_url().unwrap().as_str(),
        "https://git.example.com/acme/billing.git"
    );
    assert_eq!(plan.repository.slug().as_deref(), Some("acme/billing"));
    let submodules: Vec<_> = plan.submodules.iter().filter_map(Repository::slug).collect();
    assert_eq!(submodules, ["acme/money", "acme/time"]);
    assert!(!plan.large_files);
    assert_eq!(plan.base.as_deref(), Some("main"));
    assert_eq!(plan.branch.as_deref(), Some("fabrica/idempotency"));
    assert_eq!(plan.path.as_deref(), Some("services/billing api"));
    assert_eq!(
        plan.agent,
        Agent::Command(vec!["./agent.sh".into(), "--fast".into()])
    );
    assert_eq!(plan.limits.wall, Some(Duration::from_mins(90)));
    assert_eq!(plan.limits.memory, Some(4 * 1024 * 1024 * 1024));
    assert_eq!(plan.limits.cost_usd, Some(10.0));
    assert_eq!(plan.limits.tokens, Some(5_000_000));
    assert_eq!(plan.limits.attempts, Some(2));
    assert_eq!(plan.limits.rounds, Some(5));
    assert_eq!(plan.priority, -5);
    assert_eq!(plan.network.allow, ["packages.example.com"]);
    assert!(plan.pull_request.draft);
    assert_eq!(plan.pull_request.reviewers, ["platform-team"]);
}

#[test]
fn windows_line_endings_a_byte_order_mark_and_a_fence_at_the_end_are_accepted() {
    let plan =
        parse("\u{feff}---\r\nrepo: https://h.example/a/b\r\ntitle: T\r\n---\r\n# X\r\nbody\r\n").unwrap();
    assert_eq!(plan.title, "T");
    assert_eq!(plan.task, "# X\r\nbody\r\n");
    // The fence at the end is found; that no task follows is the only complaint.
    assert_eq!(
        error("---\nrepo: https://h.example/a/b\n---").code(),
        "plan.empty_task"
    );
}

#[test]
fn the_title_is_the_first_heading_outside_of_code() {
    let title = |body: &str| parse(&format!("{HEAD}---\n{body}")).unwrap().title;
    assert_eq!(title("```\n# no\n```\n\n## Yes ##\n"), "Yes");
    assert_eq!(title("#nospace\n"), "Untitled");
    assert_eq!(title("# a\u{7}b\n"), "ab");
    assert_eq!(title(&format!("# {}\n", "x".repeat(500))).len(), 200);
}

#[test]
fn errors_name_place_key_and_remedy() {
    let cases = [
        "no frontmatter\n",
        "---\nrepo: https://h.example/a/b\n",
        "---\ntitle: x\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\ntittle: x\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nlimits:\n  walll: 1h\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nlimits: { wall: 90 }\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nlimits: { wall: fortnight }\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nlimits: { turns: 0 }\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nlimits: { tokens: 999 }\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nlimits: { memory: 1KiB }\n---\nbody\n",
        "---\nrepo: [1, 2]\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nagent: claud\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nagent: { command: [] }\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nbranch: -x\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nbranch: a..b\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nbase: main\nbranch: main\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\npath: ../other\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nsubmodules: https://h.example/a/c\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nlfs: sometimes\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nsubmodules: [\"https://other.example/a/c\"]\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\ntitle: x\nsubmodules: [\"ext::sh -c touch\"]\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nimage: --privileged\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nsetup: cargo fetch\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\nrepo: https://h.example/a/c\n---\nbody\n",
        "---\nrepo: \"unclosed\n---\nbody\n",
        "---\ntitle: x\nrepo: ext::sh -c touch\n---\nbody\n",
        "---\nrepo: https://h.example/a/b\n---\n\n",
    ];
    let mut told = String::new();
    for case in cases {
        let error = error(case);
        told.push_str(&format!("{}: {error}\n", error.code()));
    }
    insta::assert_snapshot!(told);
}

#[test]
fn a_path_stays_in_the_repository() {
    let path = |path: &str| parse(&format!("{HEAD}path: {}\n---\nbody\n", serde_json::json!(path)));
    for inside in ["a", "a/b/c", "-a", "~", ".github", "..a/b", "a b", "\u{e9}"] {
        assert_eq!(path(inside).unwrap().path.as_deref(), Some(inside));
    }
    let long = "a/".repeat(600);
    for outside in [
        "", "/", "//", "/etc", ".", "./a", "..", "../a", "a/../b", "a/..", "a//b", "a/./b", "a//", ".git",
        "a/.GIT/b", "a\nb", "a\0b", &long,
    ] {
        let error = path(outside).expect_err(outside);
        assert_eq!(
            (error.code(), error.line, error.column),
            ("plan.invalid_value", Some(3), Some(7)),
            "{outside:?}: {error}"
        );
    }
}

#[test]
fn a_plan_may_be_as_large_as_the_cap_and_no_larger() {
    let fill = |size: usize| {
        let head = format!("{HEAD}---\n");
        format!("{head}{}", "x".repeat(size - head.len()))
    };
    assert!(parse(&fill(MAX_PLAN_BYTES)).is_ok());
    assert_eq!(error(&fill(MAX_PLAN_BYTES + 1)).code(), "plan.too_large");
    assert_eq!(error(&fill(10 * 1024 * 1024)).code(), "plan.too_large");
}

#[test]
fn yaml_bombs_are_refused_quickly() {
    let mut bomb = String::from("---\na0: &a0 [x, x]\n");
    for level in 1..40 {
        let previous = level - 1;
        bomb.push_str(&format!(
            "a{level}: &a{level} [*a{previous}, *a{previous}, *a{previous}, *a{previous}]\n"
        ));
    }
    bomb.push_str("setup: *a39\nrepo: https://h.example/a/b\n---\nbody\n");
    assert!(parse(&bomb).is_err());
    let aliases = "---\nrepo: https://h.example/a/b\nsetup: &s [a]\nverify: *s\n---\nbody\n";
    assert_eq!(parse(aliases).unwrap().verify, ["a"]);
    let deep = format!(
        "---\nsetup: {}{}\n---\nbody\n",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    assert!(parse(&deep).is_err());
}

#[test]
fn a_foreign_session_needs_no_frontmatter() {
    let policy = RepositoryPolicy::default();
    let plan = Plan::parse_with_default("# Do it\nnow", Some("https://h.example/a/b"), &policy).unwrap();
    assert_eq!(plan.title, "Do it");
    assert_eq!(plan.repository.to_string(), "https://h.example/a/b");
}

#[test]
fn hostile_repositories_are_refused() {
    let hostile = [
        "",
        "-",
        "--upload-pack=touch /tmp/x",
        "-oProxyCommand=x",
        "ext::sh -c id",
        "EXT::sh -c id",
        "eXt::x@y:z",
        "fd::17",
        "file:///etc",
        "FILE:///etc",
        "file://localhost/etc",
        "git://h.example/a/b",
        "ftp://h.example/a/b",
        "http://h.example/a/b",
        "HTTP://h.example/a/b",
        "https:///h.example/a/b",
        "https:h.example/a/b",
        "https:/h.example/a/b",
        "https://",
        "https://h.example",
        "https://h.example/",
        "https://-h.example/a/b",
        "https://user@h.example/a/b",
        "https://user:pw@h.example/a/b",
        "https://:pw@h.example/a/b",
        "https://h.example/a/b?x=1",
        "https://h.example/a/b#f",
        "https://h.example//a/b",
        "https://h.example/a//b",
        "https://h.example/a/%2e%2e/b",
        "https://h.example/a%2fb",
        "https://h.example/a%5cb",
        "https://h.example\\a\\b",
        "https://h.example/a%00b",
        "https://h.example/a%0db",
        "https://h.example/a/b\n",
        "https://h.example/a/b\r\nx",
        "https://h.example/a b",
        "\thttps://h.example/a/b",
        "https://h.example/a/b\0",
        "https://h.example/-x",
        "https://h.example/a/--upload-pack=x",
        "ssh://-oProxyCommand=x/a",
        "ssh://git@-x/a",
        "ssh://git:pw@h.example/a",
        "ssh://h.example",
        "ssh:///a/b",
        "-x@h.example:a/b",
        "git@-x:a/b",
        "git@h.example",
        "git@h.example:",
        "/etc",
        "./x",
        "../x",
        "~/x",
        "C:\\x",
        "C:/x",
        "javascript:alert(1)",
        "data:text/plain,x",
        "ssh+git://h.example/a/b",
        "git+ssh://h.example/a/b",
        "rsync://h.example/a",
        "transport::address",
        "https://h.example:99999/a/b",
        "https://[::1/a/b",
        "https://h example/a/b",
        "@h.example:a/b",
        ":a/b",
    ];
    for input in hostile {
        let refused = Repository::parse(input, &RepositoryPolicy::default());
        assert!(refused.is_err(), "{input:?} was accepted as {refused:?}");
    }
}

#[test]
fn usual_repositories_are_accepted() {
    let policy = RepositoryPolicy {
        local_paths: true,
        hosts: None,
        plain_http: vec!["127.0.0.1:8080".into()],
    };
    let slug = |input: &str| Repository::parse(input, &policy).unwrap().slug();
    assert_eq!(
        slug("https://github.com/acme/billing").as_deref(),
        Some("acme/billing")
    );
    assert_eq!(
        slug("https://git.example.com:8443/group/sub/billing.git").as_deref(),
        Some("group/sub/billing")
    );
    assert_eq!(
        slug("git@github.com:acme/billing.git").as_deref(),
        Some("acme/billing")
    );
    assert_eq!(
        slug("ssh://git@github.com/acme/billing.git").as_deref(),
        Some("acme/billing")
    );
    assert_eq!(
        slug("http://127.0.0.1:8080/acme/sample.git").as_deref(),
        Some("acme/sample")
    );
    assert_eq!(slug("/srv/git/billing"), None);
}

#[test]
fn submodules_are_on_the_host_of_the_repository() {
    let policy = RepositoryPolicy {
        local_paths: true,
        plain_http: vec!["h.example".into()],
        ..RepositoryPolicy::default()
    };
    let plan = |repo: &str, submodule: &str| {
        let source = format!("---\nrepo: {repo}\nsubmodules: [{submodule:?}]\n---\nbody\n");
        Plan::parse(&source, &policy).map(|plan| plan.submodules.len())
    };
    for same in [
        "https://H.example/a/c",
        "git@h.example:a/c.git",
        "http://h.example/a/c",
    ] {
        assert_eq!(plan("https://h.example/a/b", same), Ok(1), "{same}");
    }
    for (repo, other) in [
        ("https://h.example/a/b", "https://h.example:8443/a/c"),
        ("https://h.example/a/b", "https://h.example.evil.example/a/c"),
        ("https://h.example/a/b", "https://user:password@h.example/a/c"),
        ("https://h.example/a/b", "/srv/git/c"),
        ("https://h.example/a/b", "../c"),
        ("/srv/git/b", "/srv/git/c"),
        ("/srv/git/b", "https://h.example/a/c"),
    ] {
        let error = plan(repo, other).expect_err(other);
        assert_eq!((error.line, error.column), (Some(3), Some(1)), "{other}: {error}");
    }
    let many = vec!["https://h.example/a/c"; MAX_SUBMODULES + 1].join(", ");
    assert_eq!(plan("https://h.example/a/b", "https://h.example/a/c"), Ok(1));
    let error = parse(&format!("{HEAD}submodules: [{many}]\n---\nbody\n")).expect_err("too many");
    assert!(error.to_string().contains("at most 64"), "{error}");
}

#[test]
fn only_hosts_of_the_operator_are_accepted() {
    let policy = RepositoryPolicy {
        hosts: Some(vec!["git.example.com".into()]),
        ..RepositoryPolicy::default()
    };
    assert!(Repository::parse("https://GIT.example.com/a/b", &policy).is_ok());
    for other in [
        "https://github.com/a/b",
        "https://git.example.com.evil.example/a/b",
        "git@github.com:a/b",
    ] {
        let error = Repository::parse(other, &policy).unwrap_err();
        assert_eq!(error.code(), "repository.host_not_accepted", "{other}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(source in "(---\n)?(repo|title|limits|agent|[a-z]{1,6}): [ -~\u{e9}\u{0}]{0,40}\n(---\n)?.{0,40}") {
        let _ = parse(&source);
    }

    #[test]
    fn no_repository_text_makes_the_parser_panic_or_reach_an_option(input in "\\PC{0,60}") {
        if let Ok(repository) = Repository::parse(&input, &RepositoryPolicy::default()) {
            let url = repository.http_url().expect("local paths are off").as_str().to_owned();
            proptest::prop_assert!(url.starts_with("https://"));
            proptest::prop_assert!(!url.contains(char::is_control));
        }
    }
}
