//! Files in Git LFS: their content is in the sandbox, and what the agent adds gets to the code host before its commits do.

use std::os::unix::fs::symlink;

use fabrica_core::protocol::Resume;

use crate::support::{End, Moment, Sandbox, Trouble, pointer, until};

const BRANCH: &str = "fabrica/5c0ffee0";
const REPOSITORY: &str = "repository.git";
const TRACK: &str = "echo '*.bin filter=lfs diff=lfs merge=lfs -text' >.gitattributes";

const NOWHERE: &str = "git config -f .lfsconfig lfs.url http://127.0.0.1:9/";

/// A shell script that writes what a commit has in the place of some content.
fn point(file: &str, content: &str) -> String {
    format!("printf '%s' '{}' >{file}", pointer(content))
}

/// A sandbox whose repository had `data.bin` with `old`, and has it with `new` now. Its own word about where that is leads
/// nowhere.
fn sandbox(script: &str) -> Sandbox {
    let sandbox = Sandbox::new(script);
    sandbox.change_on_remote(&format!("{TRACK}; {}; {NOWHERE}", point("data.bin", "old")));
    sandbox.change_on_remote(&point("data.bin", "new"));
    sandbox.gateway.large_files.keep(REPOSITORY, "old");
    sandbox.gateway.large_files.keep(REPOSITORY, "new");
    sandbox
}

fn told(end: &End, expected: &str) -> bool {
    end.progress().iter().any(|line| line.contains(expected))
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_there_and_what_the_agent_adds_goes_along() {
    let sandbox = sandbox(
        "git status --porcelain; cat data.bin; echo; git checkout -q HEAD~1 -- data.bin; cat data.bin; echo; \
         git checkout -q HEAD -- data.bin; printf added >added.bin; git add .; git commit -q -m Add; \
         printf left >left.bin",
    );
    let end = sandbox.run().await;
    end.completed();
    assert_eq!(end.output(), ["new", "old"]);
    assert!(told(&end, "Fetched the files"), "{:?}", end.progress());
    for content in ["added", "left"] {
        let file = sandbox.file(BRANCH, &format!("{content}.bin"));
        assert_eq!(file, Some(pointer(content)));
        assert!(sandbox.gateway.large_files.has(REPOSITORY, content), "{content}");
    }
    assert_eq!(sandbox.file(BRANCH, "data.bin"), Some(pointer("new")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_the_agent_brings_to_git_lfs_works_too() {
    let sandbox = Sandbox::new(&format!("mkdir sub; cd sub; {TRACK}; printf first >first.bin"));
    let end = sandbox.run().await;
    end.completed();
    assert_eq!(sandbox.file(BRANCH, "sub/first.bin"), Some(pointer("first")));
    assert!(sandbox.gateway.large_files.has(REPOSITORY, "first"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_committed_comes_back_in_a_fresh_sandbox() {
    let mut sandbox = sandbox(
        "printf committed >committed.bin; git add .; git commit -q -m Add; printf changed >data.bin; \
         printf staged >staged.bin; git add staged.bin; printf 'staged, then more' >staged.bin; printf untracked >untracked.bin; \
         fabrica-escalate 'Which one?' && exit 85",
    );
    let end = sandbox.run().await;
    assert_eq!(end.asked().question, "Which one?");
    let resume = Resume {
        checkpoint: Some((*end.checkpoints().last().unwrap()).clone()),
        prompt: "The first.".into(),
    };
    let second = "cat committed.bin; echo; cat data.bin; echo; cat staged.bin; echo; cat untracked.bin; echo; \
        git show :staged.bin | git lfs smudge; echo; git status --porcelain";
    sandbox.resume(resume, Some(second));
    let end = sandbox.run().await;
    end.completed();
    assert_eq!(
        end.output(),
        [
            "committed",
            "changed",
            "staged, then more",
            "untracked",
            "staged",
            " M data.bin",
            "AM staged.bin",
            "?? untracked.bin"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_push_meanwhile_is_verified_with_its_content() {
    let mut sandbox = sandbox(
        "printf mine >mine.bin; git config lfs.url http://127.0.0.1:9/; touch ../ready; \
         until test -e ../pushed; do sleep 0.05; done",
    );
    sandbox.job.verify = vec!["test \"$(cat theirs.bin)\" = theirs".into()];
    sandbox.gateway.large_files.keep(REPOSITORY, "theirs");
    let running = sandbox.start();
    until(|| sandbox.path("workspace/ready").exists()).await;
    sandbox.change_branch_on_remote(BRANCH, &point("theirs.bin", "theirs"));
    let moment = Moment {
        request: "POST /git/repository.git/info/lfs",
        served: false,
    };
    sandbox.gateway.expect(moment, Trouble::Dies);
    std::fs::write(sandbox.path("workspace/pushed"), "").unwrap();
    until(|| !sandbox.gateway.expects()).await;
    sandbox.gateway.open();
    let end = sandbox.end(running).await;
    end.completed();
    assert!(told(&end, "on top of 1 commit"), "{:?}", end.progress());
    assert!(sandbox.gateway.large_files.has(REPOSITORY, "mine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_goes_away_during_an_upload_is_waited_for() {
    for trouble in [Trouble::Dies, Trouble::PutsOff] {
        let sandbox = sandbox("printf added >added.bin");
        let moment = Moment {
            request: "PUT /git/repository.git/info/lfs",
            served: false,
        };
        sandbox.gateway.expect(moment, trouble);
        let running = sandbox.start();
        until(|| !sandbox.gateway.expects()).await;
        assert_eq!(sandbox.head(BRANCH), None, "content goes first");
        sandbox.gateway.open();
        sandbox.end(running).await.completed();
        assert!(sandbox.gateway.large_files.has(REPOSITORY, "added"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_no_more_fails_the_push_but_loses_no_other_work() {
    let sandbox = sandbox("printf added >added.bin; echo code >code");
    sandbox.gateway.large_files.fill();
    let end = sandbox.run().await;
    let (failure, pushed) = end.failed();
    assert_eq!((failure.code.as_str(), pushed), ("large_files.refused", None));
    assert_eq!(failure.cause, "the host has no room left (large_files.refused)");
    assert_eq!(sandbox.head(BRANCH), None);
    let checkpoint = end.checkpoints()[0];
    assert_eq!(
        sandbox.ask_remote(&["show", &format!("{}:code", checkpoint.commit)]),
        "code"
    );
    assert!(
        told(&end, "in Git LFS are not in checkpoints"),
        "{:?}",
        end.progress()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_code_host_lost_fails_with_a_way_out() {
    let mut sandbox = Sandbox::new("cat data.bin");
    sandbox.change_on_remote(&format!("{TRACK}; {}", point("data.bin", "lost")));
    let end = sandbox.run().await;
    let failure = end.failed().0;
    assert_eq!(failure.code, "repository.large_files");
    assert!(
        failure.cause.contains("it is gone") && !failure.retryable,
        "{failure:?}"
    );
    assert!(failure.advice.contains("`lfs: false`"));
    assert_eq!(
        sandbox.gateway.large_files.asked(),
        1,
        "it was asked again for what is gone"
    );

    sandbox.job.large_files = false;
    let mut again = Sandbox::new("echo \"skip $GIT_LFS_SKIP_SMUDGE\"; cat data.bin");
    again.change_on_remote(&format!("{TRACK}; {}", point("data.bin", "lost")));
    again.job.large_files = false;
    let end = again.run().await;
    let mut expected = vec!["skip 1".to_owned()];
    expected.extend(pointer("lost").lines().map(str::to_owned));
    assert_eq!(end.output(), expected);
    assert!(
        told(&end, "pointers only, since the plan says `lfs: false`"),
        "{:?}",
        end.progress()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_git_lfs_has_pointers_and_says_so() {
    let mut sandbox =
        sandbox("head -c 7 data.bin; echo; echo content >new.bin; git add .; git commit -q -m New");
    // As packages of git-lfs leave it behind, or worse.
    let filter = "[filter \"lfs\"]\n\tclean = head -c 1\n\tsmudge = head -c 1\n\trequired = true\n";
    std::fs::write(sandbox.path("home/.gitconfig"), filter).unwrap();
    let programs = sandbox.path("programs");
    std::fs::create_dir(&programs).unwrap();
    for program in ["git", "sh", "head"] {
        symlink(format!("/usr/bin/{program}"), programs.join(program)).unwrap();
    }
    sandbox
        .variables
        .push(("PATH".into(), programs.display().to_string()));
    let end = sandbox.run().await;
    assert_eq!(end.output(), ["version"]);
    assert_eq!(sandbox.file(BRANCH, "new.bin").as_deref(), Some("content\n"));
    assert!(
        told(&end, "pointers only, since the image has no git-lfs"),
        "{:?}",
        end.progress()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pointer_to_nothing_is_told_and_keeps_nobody_from_going_on() {
    let script = format!(
        "{}; git add .; git commit -q -m Point; fabrica-escalate 'Which one?' && exit 85",
        point("nothing.bin", "nothing")
    );
    let mut sandbox = sandbox(&script);
    let end = sandbox.run().await;
    let resume = Resume {
        checkpoint: Some((*end.checkpoints().last().unwrap()).clone()),
        prompt: "The first.".into(),
    };
    assert_eq!(end.asked().question, "Which one?");
    sandbox.resume(resume, Some("cat data.bin; echo; head -c 7 nothing.bin"));
    let end = sandbox.run().await;
    end.completed();
    assert_eq!(end.output(), ["new", "version"]);
    assert!(told(&end, "Pointers stay where"), "{:?}", end.progress());
    assert!(
        told(&end, "1 files in Git LFS that the work points to"),
        "{:?}",
        end.progress()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_put_in_the_place_of_content_is_not_followed() {
    let sandbox = sandbox(
        "printf one >one.bin; printf two >two.bin; touch -d '1 hour ago' *.bin; git add .; git commit -q -m Add; \
         object() { echo .git/lfs/objects/*/*/\"$(git show HEAD:\"$1\" | sed -n 's/oid sha256://p')\"; }; \
         one=$(object one.bin); mv $one ../one; ln -s \"$PWD/../one\" $one; printf longer >$(object two.bin)",
    );
    let end = sandbox.run().await;
    end.completed();
    assert!(
        told(&end, "2 files in Git LFS that the work points to"),
        "{:?}",
        end.progress()
    );
    for content in ["one", "two"] {
        assert_eq!(
            sandbox.file(BRANCH, &format!("{content}.bin")),
            Some(pointer(content))
        );
        assert!(!sandbox.gateway.large_files.has(REPOSITORY, content), "{content}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn submodules_have_theirs() {
    let mut sandbox = Sandbox::new(
        "cat libs/one/data.bin; echo; git -C libs/one status --porcelain; git status --porcelain",
    );
    let commit = sandbox.list_submodule("one", &format!("{TRACK}; {}", point("data.bin", "inner")));
    sandbox.gateway.large_files.keep("submodules/1.git", "inner");
    sandbox.change_on_remote(&format!(
        "mkdir -p libs/one; git update-index --add --cacheinfo 160000,{commit},libs/one\n\
         printf '[submodule \"one\"]\\n\\tpath = libs/one\\n\\turl = ../one.git\\n' >.gitmodules"
    ));
    let end = sandbox.run().await;
    end.completed();
    assert_eq!(end.output(), ["inner"]);
}
