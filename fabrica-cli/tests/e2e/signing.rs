//! Commits are signed by a key that stays outside: git verifies them, and the sandbox never has it.

use anyhow::{Context as _, Result, ensure};
use fabrica_cli::rehearsal::scripts;
use tokio::process::Command;

use crate::rig::{CLONE, Database, Engine, World, on_each_engine};

on_each_engine!(the_agents_commits_and_the_runners_are_signed);

/// Commits one thing and forgets another. A tag cannot be signed, and a commit in somebody else's name neither; and the key
/// is in no file.
const WORK: &str = "echo hello >hello.txt; git add hello.txt; git commit -qm 'Say hello'; \
     git tag -s -m Release v1; \
     git -c user.name=Somebody commit -q --allow-empty -m 'In another name' || echo no-other-name; \
     grep -rl 'KEY' / --exclude-dir=proc --exclude-dir=sys 2>/dev/null; echo searched; echo left >left.txt";
const COMMITTER: &str = "Fabrica <fabrica@example.com>";

async fn the_agents_commits_and_the_runners_are_signed(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Sqlite, scripts::no_change(CLONE)).await?;
    let key = world.path("signing-key");
    let key = key.to_str().context("the path is text")?;
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f", key])
        .status();
    ensure!(made.await?.success(), "ssh-keygen makes a key");
    let arguments = ["--signing-key-file", key, "--committer", COMMITTER];
    // A line of the private half, as a pattern that does not find itself.
    let text = std::fs::read_to_string(key)?;
    let line = text.lines().nth(4).context("a key has more lines")?;
    let pattern = format!("[{}]{}", &line[..1], &line[1..]);
    let found = Command::new("grep").args(["-q", &pattern, key]).status();
    ensure!(found.await?.success(), "it would be found");
    let plan = world.command_plan(&WORK.replace("KEY", &pattern), "");
    let run = world.run_with(&plan, &arguments).await?;
    run.assert_status("completed", 0);

    let output: Vec<&str> = (run.transcript.iter())
        .filter_map(|entry| entry.entry.detail["lines"].as_array())
        .flatten()
        .filter_map(serde_json::Value::as_str)
        .collect();
    let told = output.join("\n");
    for words in [
        "(signing.tag_refused)",
        "(signing.committer_refused)",
        "no-other-name",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(told.ends_with("no-other-name\nsearched"), "{told}");

    let repository = world.rehearsal.sample().path().to_owned();
    let allowed = world.path("allowed-signers");
    let public = std::fs::read_to_string(format!("{key}.pub"))?;
    std::fs::write(
        &allowed,
        format!("fabrica@example.com namespaces=\"git\" {public}"),
    )?;
    let log = world.rehearsal.sample().log(&run.branch()).await?;
    assert_eq!(log, ["Add stock low", "Say hello"]);
    for (commit, signed) in [("", true), ("~1", true), ("~2", false)] {
        let verified = Command::new("git")
            .args(["-c", "safe.directory=*", "-c"])
            .arg(format!("gpg.ssh.allowedSignersFile={}", allowed.display()))
            .args(["verify-commit", &format!("{}{commit}", run.branch())])
            .current_dir(&repository)
            .output()
            .await?;
        assert_eq!(verified.status.success(), signed, "{commit}: {verified:?}");
    }
    world.end().await
}
