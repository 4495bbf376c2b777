//! Where in the repository a session works.

use fabrica_core::plan::Agent;
use fabrica_core::protocol::Resume;
use serde_json::json;

use crate::claude::sandbox_with;
use crate::support::Sandbox;

const BRANCH: &str = "fabrica/5c0ffee0";

/// A repository with the directory `services/billing` and a link to it, and one out of the repository.
fn sandbox(script: &str) -> Sandbox {
    placed(Sandbox::new(script))
}

fn placed(mut sandbox: Sandbox) -> Sandbox {
    sandbox.change_on_remote(
        "mkdir -p services/billing && echo 1 >services/billing/amount && ln -s services/billing current && ln -s .. out",
    );
    sandbox.job.path = Some("services/billing".into());
    sandbox
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_setup_and_verification_start_in_the_plans_path_and_all_of_the_repository_is_committed() {
    let mut sandbox = sandbox("test -f prepared; pwd; echo 2 >amount; echo x >../../everywhere");
    sandbox.job.setup = vec!["grep -q 1 amount && mkdir ignored && >prepared".into()];
    sandbox.job.verify = vec!["grep -q 2 amount && basename \"$PWD\"".into()];
    let end = sandbox.run().await;
    let result = end.completed();
    assert_eq!(result.verification[0].output, ["billing"]);
    let workspace = sandbox.path("workspace").canonicalize().unwrap();
    let expected = workspace.join("repository/services/billing");
    assert!(
        end.output().contains(&expected.display().to_string()),
        "{:?}",
        end.output()
    );
    assert_eq!(
        sandbox.file(BRANCH, "services/billing/amount").as_deref(),
        Some("2\n")
    );
    assert_eq!(sandbox.file(BRANCH, "everywhere").as_deref(), Some("x\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_the_repository_is_found_from_the_plans_path() {
    let mut sandbox = sandbox("");
    sandbox.change_on_remote("printf '#!/bin/sh\\necho done >result\\n' >services/billing/agent.sh && chmod +x services/billing/agent.sh");
    sandbox.job.agent = Agent::Command(vec!["./agent.sh".into()]);
    sandbox.run().await.completed();
    assert_eq!(
        sandbox.file(BRANCH, "services/billing/result").as_deref(),
        Some("done\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_no_directory_of_the_repository_is_a_failure_that_says_what_to_do() {
    for (path, code) in [
        ("services/invoicing", "repository.path_not_found"),
        ("README.md", "repository.path_not_found"),
        ("out", "repository.path_outside"),
        ("../..", "repository.path_outside"),
    ] {
        let mut sandbox = sandbox("echo started");
        sandbox.job.path = Some(path.into());
        let end = sandbox.run().await;
        let (failure, pushed) = end.failed();
        assert_eq!(
            (failure.code.as_str(), failure.retryable),
            (code, false),
            "{failure}"
        );
        assert!(
            failure.cause.contains(path) && failure.advice.contains("`path`"),
            "{failure}"
        );
        assert!(pushed.is_none() && end.output().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_within_the_repository_is_where_it_leads_to() {
    let mut sandbox = sandbox("echo \"at $PWD\"; /bin/pwd");
    sandbox.job.path = Some("current".into());
    let end = sandbox.run().await;
    end.completed();
    let lines = end.output();
    assert!(
        lines.iter().all(|line| line.ends_with("services/billing")),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_removes_its_own_directory_is_told_of_and_its_work_is_kept() {
    let mut sandbox = sandbox("cd ../..; rm -r services; echo moved >elsewhere");
    sandbox.job.verify = vec!["true".into()];
    let end = sandbox.run().await;
    let (failure, pushed) = end.failed();
    assert_eq!(failure.code, "repository.path_removed");
    assert!(failure.cause.contains("services/billing"), "{failure}");
    assert_eq!(pushed.unwrap().commits, 1);
    assert_eq!(sandbox.file(BRANCH, "elsewhere").as_deref(), Some("moved\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_agent_starts_there_knows_the_whole_repositorys_conventions_and_goes_on_with_its_conversation()
 {
    let program = std::env::var_os("FABRICA_TEST_CLAUDE").map(std::path::PathBuf::from);
    let program = program.expect("FABRICA_TEST_CLAUDE is not set: run `make test`");
    let mut sandbox = placed(sandbox_with(&format!(
        "#!/bin/sh\nexec {} \"$@\"\n",
        program.display()
    )));
    // By its link, so that it is not the plan's words that decide what the conversation is kept under.
    sandbox.job.path = Some("current".into());
    sandbox.change_on_remote(
        "echo 'The first word is xyzzy-of-the-root.' >CLAUDE.md; echo 'The second word is plugh-of-the-path.' >services/billing/CLAUDE.md",
    );
    let ask = json!([{"name": "mcp__fabrica__escalate", "input": {"question": "Postgres or SQLite?"}}]);
    sandbox.gateway.play(&[
        "echo 2 > amount",
        &ask.to_string(),
        "git add --all && git commit -q -m 'Go on'",
    ]);
    let checkpoint = sandbox.run().await.first_checkpoint();
    assert!(checkpoint.conversation);
    let before = sandbox.gateway.prompts();
    for expected in [
        "xyzzy-of-the-root",
        "plugh-of-the-path",
        "the current directory is its `current`",
    ] {
        assert!(before.join("\n").contains(expected), "{expected}");
    }
    let resume = Resume {
        checkpoint: Some(checkpoint),
        prompt: "Answer to your question: SQLite.".into(),
    };
    sandbox.resume(resume, None);
    let end = sandbox.run().await;
    let result = end.completed();
    let Some(pushed) = &result.pushed else {
        panic!("nothing was pushed: {result:?}");
    };
    assert_eq!(pushed.subjects, ["Go on"]);
    assert_eq!(
        sandbox.file(BRANCH, "services/billing/amount").as_deref(),
        Some("2\n")
    );
    let prompts = sandbox.gateway.prompts().split_off(before.len()).join("\n");
    assert!(
        prompts.contains("Postgres or SQLite?"),
        "it remembers what it asked"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_git_lfs_are_told_to_be_pointers_and_no_program_of_an_image_fetches_them() {
    let pointers = |lines: Vec<&str>| lines.iter().any(|line| line.contains("they are pointers only"));
    let sandbox = sandbox("echo \"skip $GIT_LFS_SKIP_SMUDGE\"; cat picture");
    assert!(!pointers(sandbox.run().await.progress()));
    let mut sandbox = self::sandbox("echo \"skip $GIT_LFS_SKIP_SMUDGE\"; cat picture");
    sandbox.change_on_remote(
        "echo '*.md text' >.gitattributes; echo 'picture filter=lfs diff=lfs merge=lfs -text' >services/billing/.gitattributes; echo version >services/billing/picture",
    );
    sandbox.job.large_files = false;
    let end = sandbox.run().await;
    assert!(pointers(end.progress()), "{:?}", end.progress());
    assert_eq!(end.output(), ["skip 1", "version"]);
}
