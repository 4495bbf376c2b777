//! Submodules: those that the plan lists are there, nothing else is, and what is done to them is told.

use fabrica_core::protocol::Resume;

use crate::support::{End, Sandbox, git};

const BRANCH: &str = "fabrica/5c0ffee0";

/// A shell script that records a submodule.
fn record(path: &str, url: &str, commit: &str) -> String {
    format!(
        "mkdir -p {path}; git update-index --add --cacheinfo 160000,{commit},{path}\n\
         printf '[submodule \"%s\"]\\n\\tpath = %s\\n\\turl = %s\\n' '{path}' '{path}' '{url}' >>.gitmodules\n"
    )
}

/// A sandbox whose repository has one listed submodule, `libs/one`, with the file `one`.
fn sandbox(script: &str) -> (Sandbox, String) {
    let mut sandbox = Sandbox::new(script);
    let commit = sandbox.list_submodule("one", "echo one >one");
    sandbox.change_on_remote(&record("libs/one", "../one.git", &commit));
    (sandbox, commit)
}

fn told(end: &End, expected: &str) -> bool {
    end.progress().iter().any(|line| line.contains(expected))
}

/// The commit that a branch of the remote records for a path.
fn recorded(sandbox: &Sandbox, branch: &str, path: &str) -> String {
    sandbox.ask_remote(&["rev-parse", &format!("{branch}:{path}")])
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_ones_are_checked_out_however_deep_and_others_are_told_of() {
    let mut sandbox = Sandbox::new(
        "cat libs/two/two libs/two/inner/one; git -C libs/two rev-parse HEAD; ls -A libs/other libs/foreign; git status --porcelain; echo x >work",
    );
    let one = sandbox.list_submodule("one", "echo one >one");
    let two = sandbox.list_submodule(
        "two",
        &format!(
            "echo two >two\n{}",
            record("inner", "https://git.example.com/acme/one", &one)
        ),
    );
    sandbox.change_on_remote(&format!(
        "{}{}{}",
        record("libs/two", "git@git.example.com:acme/two.git", &two),
        record("libs/other", "../other.git", &one),
        record(
            "libs/foreign",
            "https://user:hunter2@elsewhere.example/acme/one.git",
            &one
        ),
    ));
    let end = sandbox.run().await;
    end.completed();
    let output = end.output();
    assert_eq!(output, ["two", "one", &two, "libs/foreign:", "", "libs/other:"]);
    assert!(
        told(&end, "Checked out the submodule libs/two/inner"),
        "{:?}",
        end.progress()
    );
    let hint =
        "The submodule libs/other is left empty: add https://git.example.com/acme/other to `submodules`";
    assert!(told(&end, hint), "{:?}", end.progress());
    assert!(told(&end, "libs/foreign is left empty"), "{:?}", end.progress());
    assert!(!told(&end, "hunter2"));
    assert_eq!(recorded(&sandbox, BRANCH, "libs/two"), two, "it is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_commit_that_is_on_no_branch_or_far_back_is_found() {
    for depth in [Some(1), None] {
        let mut sandbox = Sandbox::new("cat libs/one/one >copy");
        sandbox.job.depth = depth;
        let commit = sandbox.list_submodule("one", "echo one >one");
        let bare = sandbox.submodule(1);
        assert!(
            git(&bare, &["update-ref", "refs/heads/main", "main^"])
                .status
                .success()
        );
        assert!(
            git(&bare, &["update-ref", "refs/hidden", &commit])
                .status
                .success()
        );
        sandbox.change_on_remote(&record("libs/one", "../one.git", &commit));
        sandbox.run().await.completed();
        assert_eq!(
            sandbox.file(BRANCH, "copy").as_deref(),
            Some("one\n"),
            "{depth:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_ones_run_nothing_and_write_nowhere() {
    let mut sandbox = Sandbox::new("find .git/hooks .git/modules 2>/dev/null; echo done");
    let commit = sandbox.list_submodule(
        "one",
        "mkdir hooks; printf '#!/bin/sh\\ntouch ../mark ../../mark ../../../mark' >hooks/post-checkout; chmod +x hooks/post-checkout",
    );
    let mark = sandbox.path("mark").display().to_string();
    let mut script = String::new();
    for (number, url) in [
        format!("ext::sh -c touch% {mark}"),
        format!("eXt::sh -c touch% {mark}"),
        format!("file://{}", sandbox.submodule(1).display()),
        sandbox.submodule(1).display().to_string(),
        format!("--upload-pack=touch {mark}"),
        "../../../one.git".to_owned(),
        "../../session/job".to_owned(),
        "http://127.0.0.1:4180/git/repository.git".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        script.push_str(&record(&format!("evil/{number}"), url, &commit));
    }
    // Names and paths that lead elsewhere, one of them only without its last character, and a command.
    script.push_str(&record("libs/one", "../one.git", &commit));
    script.push_str(&format!(
        "cat >>.gitmodules <<'END'\n[submodule \"../../hooks\"]\n\tpath = libs/one\n\turl = ../one.git\n\tupdate = !touch {mark}\n\
         [submodule \"up\"]\n\tpath = ../../escaped\n\turl = ../one.git\n\
         [submodule \"in\"]\n\tpath = .git/hooks\n\turl = ../one.git\n\
         [submodule \"option\"]\n\tpath = --output={mark}\n\turl = ../one.git\n\
         END\n\
         for path in link libs/return; do printf '[submodule \"%s\"]\\n\\tpath = \"%s\\r\"\\n\\turl = ../one.git\\n' $path $path; done >>.gitmodules\n\
         ln -s .git/hooks link\n\
         for path in link libs/return; do printf '160000 {commit}\\t%s\\r\\n' $path | git update-index --add --index-info; mkdir \"$(printf '%s\\r' $path)\"; done\n"
    ));
    sandbox.change_on_remote(&script);
    let end = sandbox.run().await;
    end.completed();
    assert!(!sandbox.path("mark").exists() && !sandbox.path("workspace/mark").exists());
    assert!(!sandbox.path("workspace/escaped").exists() && !sandbox.path("escaped").exists());
    assert_eq!(end.output(), ["done"], "nothing is in git's own directory");
    let checked_out: Vec<_> = end
        .progress()
        .into_iter()
        .filter(|line| line.contains("Checked out"))
        .collect();
    assert_eq!(checked_out.len(), 1, "{checked_out:?}");
    assert!(checked_out[0].contains("libs/one"), "{checked_out:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_changes_in_one_is_told_and_never_recorded_for_it() {
    let (sandbox, commit) = sandbox(
        "cd libs/one; echo changed >one; git -c user.name=A -c user.email=a@b commit -q -a -m 'Change it'; echo more >>one; echo x >../../work; echo y >../empty/y",
    );
    sandbox.change_on_remote(&record("libs/empty", "../empty.git", &commit));
    let end = sandbox.run().await;
    assert_eq!(end.completed().pushed.as_ref().unwrap().commits, 1);
    assert_eq!(sandbox.file(BRANCH, "work").as_deref(), Some("x\n"));
    assert_eq!(recorded(&sandbox, BRANCH, "libs/one"), commit);
    let expected =
        "What the agent changed in the submodule libs/one (1 commits, 1 uncommitted files) is not pushed";
    assert!(told(&end, expected), "{:?}", end.progress());
    assert!(
        told(&end, "for https://git.example.com/acme/one.git"),
        "{:?}",
        end.progress()
    );
    assert!(
        told(&end, "wrote into the empty submodule libs/empty"),
        "{:?}",
        end.progress()
    );
}

/// Records a commit that only the sandbox has; told of it, goes back.
const DANGLING: &str = "if [ -z \"$FABRICA_ANSWER\" ]; then git -C libs/one -c user.name=A -c user.email=a@b commit -q --allow-empty -m 'Change it'; \
    else cat \"$FABRICA_ANSWER\"; git -C libs/one checkout -q HEAD^; fi; echo x >>work; git add --all; git commit -q -m 'Work'";

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_nobody_else_could_check_out_goes_back_to_the_agent() {
    let (mut sandbox, commit) = self::sandbox(DANGLING);
    sandbox.job.rounds = 2;
    let end = sandbox.run().await;
    end.completed();
    assert!(
        told(&end, "in the sandbox only: the agent is told (round 1 of 2)"),
        "{:?}",
        end.progress()
    );
    assert!(
        end.output()
            .join("\n")
            .contains(&format!("the one before was {commit}"))
    );
    assert_eq!(recorded(&sandbox, BRANCH, "libs/one"), commit);

    let (sandbox, _) = self::sandbox(DANGLING);
    let end = sandbox.run().await;
    let (failure, pushed) = end.failed();
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("submodule.unpublished", false)
    );
    assert!(
        failure.advice.contains("https://git.example.com/acme/one.git"),
        "{failure}"
    );
    assert_eq!(pushed.unwrap().commits, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_commit_that_its_repository_has_may_be_recorded() {
    let (mut sandbox, commit) = sandbox(
        "git -C libs/one fetch -q && git -C libs/one checkout -q origin/main && git add libs/one && git commit -q -m 'Update it'",
    );
    let newer = {
        let bare = sandbox.submodule(1);
        let output = git(
            &bare,
            &["commit-tree", "main^{tree}", "-p", "main", "-m", "Newer"],
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    // Published after the clone, by the plan's own setup.
    sandbox.job.setup = vec![format!(
        "git -C {} update-ref refs/heads/main {newer}",
        sandbox.submodule(1).display()
    )];
    let end = sandbox.run().await;
    assert_eq!(end.completed().pushed.as_ref().unwrap().subjects, ["Update it"]);
    assert_eq!(recorded(&sandbox, BRANCH, "libs/one"), newer);
    assert!(
        newer != commit && !told(&end, "is not pushed"),
        "{:?}",
        end.progress()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_others_moved_meanwhile_is_moved_before_the_verification() {
    let (mut sandbox, _) = sandbox("");
    let bare = sandbox.submodule(1);
    let output = git(
        &bare,
        &["commit-tree", "main^{tree}", "-p", "main", "-m", "Newer"],
    );
    let newer = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let others = format!(
        "git -C {submodule} update-ref refs/heads/main {newer}\n\
         GIT_INDEX_FILE=../index; export GIT_INDEX_FILE; remote() {{ git -C {remote} -c user.name=O -c user.email=o@o \"$@\"; }}\n\
         remote read-tree main; remote update-index --add --cacheinfo 160000,{newer},libs/one\n\
         remote update-ref refs/heads/{BRANCH} $(remote commit-tree $(remote write-tree) -p main -m 'Move it')",
        submodule = bare.display(),
        remote = sandbox.remote().display(),
    );
    // Twice: what was fetched in the first round must not be taken for the agent's in the second.
    sandbox.job.rounds = 2;
    sandbox.job.verify = vec![format!(
        "test \"$(git -C libs/one rev-parse HEAD)\" = {newer} && test \"$(wc -l <work)\" = 2"
    )];
    let script = format!("if [ -z \"$FABRICA_ANSWER\" ]; then ({others}\n); fi; echo x >>work");
    sandbox.job.agent = fabrica_core::plan::Agent::Command(vec!["sh".into(), "-c".into(), script]);
    let end = sandbox.run().await;
    assert_eq!(end.completed().rounds, 2, "{:?}", end.progress());
    assert_eq!(recorded(&sandbox, BRANCH, "libs/one"), newer);
    assert!(told(&end, "Moved the submodule libs/one"), "{:?}", end.progress());
    assert!(!told(&end, "is not pushed"), "{:?}", end.progress());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_had_is_a_failure_that_names_it() {
    let (mut sandbox, _) = sandbox("");
    sandbox.job.submodules[0] = "https://git.example.com/acme/two.git".into();
    sandbox
        .job
        .submodules
        .push("https://git.example.com/acme/one.git".into());
    let end = sandbox.run().await;
    let (failure, _) = end.failed();
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("repository.not_found", false)
    );
    assert!(
        failure.cause.contains("libs/one") && failure.advice.contains("`submodules`"),
        "{failure}"
    );

    let mut sandbox = Sandbox::new("");
    sandbox.list_submodule("one", "echo one >one");
    sandbox.change_on_remote(&record("libs/one", "../one.git", &"1".repeat(40)));
    let end = sandbox.run().await;
    let (failure, _) = end.failed();
    assert_eq!(failure.code, "repository.submodule_commit_missing");
    assert!(
        failure.cause.contains("libs/one") && failure.cause.contains("acme/one"),
        "{failure}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_attempt_has_them_again_and_says_what_is_lost() {
    let (mut sandbox, _) = sandbox("cat libs/one/one; echo x >work; fabrica-escalate 'Which one?'; exit 85");
    let checkpoint = sandbox.run().await.first_checkpoint();
    let resume = Resume {
        checkpoint: Some(checkpoint),
        prompt: "The first.".into(),
    };
    sandbox.resume(
        resume,
        Some(
            &format!("cat libs/one/one; {DANGLING}; fabrica-escalate 'And now?'; exit 85")
                .replace("$FABRICA_ANSWER", ""),
        ),
    );
    let end = sandbox.run().await;
    assert!(end.output().contains(&"one".to_owned()));
    assert!(
        told(
            &end,
            "What the agent changed in the submodule libs/one (1 commits, 0 uncommitted files)"
        ),
        "{:?}",
        end.progress()
    );
    let resume = Resume {
        checkpoint: Some(end.first_checkpoint()),
        prompt: "The second.".into(),
    };
    sandbox.resume(resume, Some("ls -A libs/one; git status --porcelain"));
    let end = sandbox.run().await;
    assert!(
        told(&end, "libs/one is left empty: its commit was never pushed"),
        "{:?}",
        end.progress()
    );
    assert_eq!(end.output(), Vec::<String>::new());
}
