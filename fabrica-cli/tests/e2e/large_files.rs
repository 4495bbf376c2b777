//! A repository with files in Git LFS and with a submodule that has some too.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use fabrica_cli::rehearsal::{BareRepository, Script, SourceFile, Turn, large_file_pointer, scripts};
use serde_json::json;
use tokio::process::Command;

use crate::rig::{CLONE, Database, Engine, World, on_each_engine};

on_each_engine!(
    content_is_there_stays_over_a_question_and_goes_out_again,
    a_local_repository_keeps_its_own,
);

const ATTRIBUTES: &str = "*.bin filter=lfs diff=lfs merge=lfs -text\n";
const TOOL: &str = "mcp__fabrica__escalate";

/// A repository on the host whose `data.bin` is in Git LFS.
async fn repository(world: &World, name: &str, content: &str) -> Result<BareRepository> {
    let host = world.rehearsal.host();
    let pointer = host.repository(name)?.keep_large_file(content)?;
    let files = [
        SourceFile::new(".gitattributes", ATTRIBUTES),
        SourceFile::new("data.bin", pointer),
    ];
    Ok(BareRepository::create(host.root(), name, &files).await?)
}

/// Runs git in a clone without anybody's settings.
async fn git(directory: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("git")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .args(["-c", "user.name=Acme", "-c", "user.email=acme@example.com"])
        .args(arguments)
        .current_dir(directory)
        .output()
        .await?;
    ensure!(output.status.success(), "git {arguments:?}: {output:?}");
    Ok(())
}

/// Records a repository as a submodule of another one, on `main`.
async fn record(world: &World, outer: &BareRepository, path: &str, name: &str) -> Result<()> {
    let clone = world.path("recording");
    let (from, to) = (outer.path().display().to_string(), clone.display().to_string());
    git(outer.path(), &["clone", "-q", &from, &to]).await?;
    let commit = world.rehearsal.host().repository(name)?.head("main").await?;
    let link = format!("160000,{},{path}", commit.context("it has a commit")?);
    git(&clone, &["update-index", "--add", "--cacheinfo", &link]).await?;
    let modules = format!("[submodule \"{path}\"]\n\tpath = {path}\n\turl = ../../{name}.git\n");
    std::fs::write(clone.join(".gitmodules"), modules)?;
    git(&clone, &["add", ".gitmodules"]).await?;
    git(&clone, &["commit", "-q", "-m", "Use what is shared"]).await?;
    git(&clone, &["push", "-q", "origin", "HEAD:main"]).await
}

fn bash(command: &str) -> Turn {
    Turn::tool("Bash", scripts::bash(&format!("cd {CLONE} && {command}"), "Work"))
}

/// Makes a large file, asks before it commits it, and commits it in another sandbox.
fn asks_in_the_middle() -> Script {
    let question =
        json!({ "question": "Is that enough?", "options": [], "context": "", "urgency": "normal" });
    Script::new([
        bash("cat data.bin libs/shared/data.bin >seen.txt && printf made >made.bin"),
        Turn::tool(TOOL, question),
    ])
    .when_user_says(
        "go on with it, please",
        [
            bash("cat made.bin >>seen.txt && git add -A && git commit -q -m 'Make a large file'"),
            Turn::text("made.bin is made."),
        ],
    )
}

async fn content_is_there_stays_over_a_question_and_goes_out_again(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Sqlite, asks_in_the_middle()).await?;
    let assets = repository(&world, "acme/assets", "of the repository, ").await?;
    repository(&world, "acme/shared", "of the submodule, ").await?;
    record(&world, &assets, "libs/shared", "acme/shared").await?;
    let host = world.rehearsal.host();
    let plan = format!(
        "---\nrepo: {}\nsubmodules: [\"{}\"]\nverify: ['test \"$(cat made.bin)\" = made']\n---\n# Make a large file\n\nAnd look at the others.\n",
        host.repository_url("acme/assets"),
        host.repository_url("acme/shared"),
    );
    let run = world.run(&plan).await?;
    run.assert_status("escalated", 4);
    let id = run.session().id;
    world.answer(id, "go on with it, please").await?;
    let run = world.resume(id).await?;
    run.assert_status("completed", 0);
    let seen = assets.file(&run.branch(), "seen.txt").await?;
    assert_eq!(seen.as_deref(), Some("of the repository, of the submodule, made"));
    assert_eq!(
        assets.file(&run.branch(), "made.bin").await?,
        Some(large_file_pointer("made"))
    );
    assert!(assets.has_large_file("made"));
    world.end().await
}

async fn a_local_repository_keeps_its_own(engine: Engine) -> Result<()> {
    let world = World::new(engine, Database::Sqlite, scripts::no_change(CLONE)).await?;
    let files = [SourceFile::new(".gitattributes", ATTRIBUTES)];
    let repository = BareRepository::create(&world.path("local"), "acme/assets", &files).await?;
    let pointer = repository.keep_large_file("kept")?;
    let clone = world.path("clone");
    let (from, to) = (
        repository.path().display().to_string(),
        clone.display().to_string(),
    );
    git(repository.path(), &["clone", "-q", &from, &to]).await?;
    std::fs::write(clone.join("kept.bin"), pointer)?;
    git(&clone, &["add", "."]).await?;
    git(&clone, &["commit", "-q", "-m", "Keep it"]).await?;
    git(&clone, &["push", "-q", "origin", "HEAD:main"]).await?;
    let argv = r#"["sh", "-c", "cat kept.bin >seen.txt; printf made >made.bin"]"#;
    let plan = format!("---\nrepo: {from}\nagent: {{ command: {argv} }}\n---\n# Make it\n\nSo it is.\n");
    let run = world.run(&plan).await?;
    run.assert_status("completed", 0);
    assert_eq!(
        repository.file(&run.branch(), "seen.txt").await?.as_deref(),
        Some("kept")
    );
    assert_eq!(
        repository.file(&run.branch(), "made.bin").await?,
        Some(large_file_pointer("made"))
    );
    assert!(repository.has_large_file("made"));
    world.end().await
}
