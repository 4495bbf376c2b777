//! `fabrica doctor`: is everything there that a session needs?

mod check;
mod machine;

use clap::Args;
use fabrica_cli::assembly::{AssemblyArgs, Environment, Role, Settings, connect_engine};
use fabrica_core::ports::runtime::Capabilities;
use serde_json::json;

use self::check::{Check, Verdict, render};
use crate::exit::Exit;
use crate::problem::Problem;
use crate::ui::Ui;

/// Check this machine: engine, image, runner, credentials, database, space
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit code 1 if a check fails; warnings do not count.")]
pub(crate) struct DoctorArgs {
    /// Print JSON: one object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    assembly: AssemblyArgs,
}

pub(crate) async fn run(args: &DoctorArgs, ui: Ui) -> Result<Exit, Problem> {
    let settings = Settings::resolve(&args.assembly, &Environment::of_process(), Role::Cli)?;
    let mut checks = engine(&settings).await;
    checks.push(machine::git().await);
    checks.push(machine::model(&settings));
    checks.extend(machine::forges(&settings));
    checks.extend(machine::signing(&settings));
    checks.push(machine::database(&settings).await);
    checks.push(machine::data_directory(&settings));
    checks.push(machine::free_space(&settings));
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    if args.json {
        let object = json!({ "ok": !failed, "checks": checks.iter().map(Check::json).collect::<Vec<_>>() });
        ui.data(&object.to_string());
    } else {
        ui.data(&render(&checks));
        let warned = checks.iter().any(|check| check.verdict == Verdict::Warn);
        ui.say(match (failed, warned) {
            (true, _) => "something is missing, see the hints",
            (false, true) => "ready, except for what is marked with a warning",
            (false, false) => "ready",
        });
    }
    Ok(if failed { Exit::Failure } else { Exit::Success })
}

/// The limits that an engine does not enforce.
pub(crate) fn unenforced(capabilities: &Capabilities) -> Vec<&'static str> {
    [
        (capabilities.memory_limit, "memory"),
        (capabilities.cpu_limit, "processors"),
        (capabilities.pids_limit, "processes"),
    ]
    .into_iter()
    .filter_map(|(enforced, name)| (!enforced).then_some(name))
    .collect()
}

/// The engine, and what depends on it.
async fn engine(settings: &Settings) -> Vec<Check> {
    let engine = match connect_engine(settings.runtime).await {
        Ok(engine) => engine,
        Err(error) => {
            let mut checks = vec![Check::fail("engine", error.to_string(), error.hint())];
            checks.push(machine::runner(settings, None));
            return checks;
        }
    };
    let capabilities = &engine.capabilities;
    let rights = if capabilities.rootless {
        "rootless"
    } else {
        "with root rights"
    };
    let mut checks = vec![Check::ok(
        "engine",
        format!(
            "{} {} at {}, {rights}",
            capabilities.engine,
            capabilities.version,
            engine.address()
        ),
    )];
    checks.push(limits(capabilities, settings.sandbox.allow_unenforced_limits));
    checks.push(match engine.runtime.image(&settings.sandbox.image).await {
        Ok(Some(image)) => Check::ok(
            "image",
            format!("{} ({} MB)", settings.sandbox.image, image.size / 1_000_000),
        ),
        Ok(None) => Check::fail(
            "image",
            format!("{} is not there", settings.sandbox.image),
            "`fabrica image build` makes it; or name another one with --image",
        ),
        Err(error) => Check::fail("image", error.to_string(), error.failure().advice),
    });
    checks.push(machine::runner(settings, capabilities.host_user));
    checks.push(machine::sockets(settings, capabilities.host_user));
    engine.shutdown().await;
    checks
}

fn limits(capabilities: &Capabilities, allowed: bool) -> Check {
    let missing = unenforced(capabilities);
    if missing.is_empty() {
        return Check::ok("limits", "memory, processors and processes are enforced");
    }
    let detail = format!("not enforced here: {}", missing.join(", "));
    let hint = "use an engine that enforces them (Docker, Podman as root, or rootless on cgroup v2)";
    if allowed {
        Check::warn("limits", detail, hint)
    } else {
        Check::fail(
            "limits",
            detail,
            format!("{hint}, or accept the risk with --allow-unenforced-limits"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(enforced: bool) -> Capabilities {
        Capabilities {
            engine: "podman".into(),
            version: "5.4.2".into(),
            rootless: true,
            host_user: Some(1000),
            memory_limit: enforced,
            cpu_limit: enforced,
            pids_limit: enforced,
        }
    }

    #[test]
    fn limits_that_do_not_hold_fail_unless_they_are_accepted() {
        assert_eq!(limits(&capabilities(true), false).verdict, Verdict::Ok);
        assert_eq!(limits(&capabilities(false), false).verdict, Verdict::Fail);
        assert_eq!(limits(&capabilities(false), true).verdict, Verdict::Warn);
        assert_eq!(
            unenforced(&capabilities(false)),
            ["memory", "processors", "processes"]
        );
    }
}
