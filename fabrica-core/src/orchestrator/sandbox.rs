//! From a plan to the runner's job and to the container that it runs in.

use std::collections::BTreeMap;
use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};

use super::asking;
use super::budget::{Budget, Decision};
use super::options::Options;
use crate::ids::Fence;
use crate::plan::Plan;
use crate::ports::runtime::{
    Bind, ContainerName, ContainerSpec, LABEL_ATTEMPT, LABEL_GATEWAY, LABEL_OWNER, LABEL_SESSION,
    ResourceLimits, Tmpfs,
};
use crate::ports::store::{Claimed, Note};
use crate::protocol::{
    AGENT_TOKEN_VARIABLE, GATEWAY_DIRECTORY, Job, RUNNER_PATH, RUNNER_TOKEN_VARIABLE, WORKSPACE,
};

/// The agent's home inside. No image has this directory: where one has it, engines give the memory file system its
/// owner's permissions, and the agent could write nothing.
const HOME: &str = "/fabrica/home";
/// Where a `claude` binary of the host is mounted.
const AGENT_PATH: &str = "/opt/fabrica/bin/claude";

/// The two tokens of an attempt.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) runner: SecretString,
    pub(super) agent: SecretString,
}

/// How often the verification is run where the plan does not say.
const ROUNDS: u32 = 3;

pub(super) fn branch(plan: &Plan, fence: Fence) -> String {
    plan.branch
        .clone()
        .unwrap_or_else(|| format!("fabrica/{}", fence.session.short()))
}

pub(super) fn job(
    options: &Options,
    plan: &Plan,
    claimed: &Claimed,
    notes: &[Note],
    decision: Decision,
) -> Job {
    let fence = claimed.fence();
    let left = match decision {
        Decision::Work(budget) => budget.left(claimed.session.usage),
        Decision::Finish | Decision::Stop => Budget::default(),
    };
    Job {
        session: fence.session,
        attempt: fence.attempt,
        title: plan.title.clone(),
        task: plan.task.clone(),
        repository: plan.repository.http_url().map(ToString::to_string),
        submodules: (plan.submodules.iter())
            .filter_map(|submodule| submodule.http_url().map(ToString::to_string))
            .collect(),
        large_files: plan.large_files,
        base: plan.base.clone(),
        branch: branch(plan, fence),
        path: plan.path.clone(),
        agent: plan.agent.clone(),
        model: plan.model.clone(),
        setup: plan.setup.clone(),
        verify: plan.verify.clone(),
        rounds: plan.limits.rounds.unwrap_or(ROUNDS),
        turns: left.turns,
        cost_usd: left.cost_usd,
        finish: decision == Decision::Finish,
        committer: options.committer.clone(),
        signing_key: options.signing_key.clone(),
        depth: options.clone_depth,
        checkpoint_seconds: options.checkpoint.map(|interval| interval.as_secs().max(1)),
        model_pause_seconds: options.model_pause.as_secs().max(1),
        resume: asking::resume(claimed, plan, notes),
        heard: notes.last().map_or(0, |note| note.number),
    }
}

pub(super) fn container(
    options: &Options,
    plan: &Plan,
    fence: Fence,
    tokens: &Tokens,
    gateway: &Path,
) -> ContainerSpec {
    let sandbox = &options.sandbox;
    let mut binds = vec![
        Bind {
            host: gateway.to_owned(),
            container: GATEWAY_DIRECTORY.into(),
            read_only: true,
        },
        Bind {
            host: sandbox.runner.clone(),
            container: RUNNER_PATH.into(),
            read_only: true,
        },
    ];
    if let Some(agent) = &sandbox.agent {
        binds.push(Bind {
            host: agent.clone(),
            container: AGENT_PATH.into(),
            read_only: true,
        });
    }
    let mut environment = sandbox.environment.clone();
    environment.extend(
        [
            ("HOME", HOME),
            ("LANG", "C.UTF-8"),
            (
                "PATH",
                "/opt/fabrica/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
            (RUNNER_TOKEN_VARIABLE, tokens.runner.expose_secret()),
            (AGENT_TOKEN_VARIABLE, tokens.agent.expose_secret()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let labels = BTreeMap::from([
        (LABEL_OWNER.to_owned(), options.owner.clone()),
        (LABEL_SESSION.to_owned(), fence.session.to_string()),
        (LABEL_ATTEMPT.to_owned(), fence.attempt.to_string()),
        (LABEL_GATEWAY.to_owned(), gateway.display().to_string()),
    ]);
    ContainerSpec {
        name: ContainerName::of(fence),
        labels,
        image: plan.image.clone().unwrap_or_else(|| sandbox.image.clone()),
        command: vec![RUNNER_PATH.into()],
        environment,
        user: sandbox.user,
        working_directory: WORKSPACE.into(),
        binds,
        workspace: WORKSPACE.into(),
        tmpfs: vec![
            Tmpfs {
                container: "/tmp".into(),
                size: sandbox.tmp_bytes,
            },
            Tmpfs {
                container: HOME.into(),
                size: sandbox.home_bytes,
            },
        ],
        limits: ResourceLimits {
            memory: plan.limits.memory.or(sandbox.limits.memory),
            cpus: plan.limits.cpus.or(sandbox.limits.cpus),
            pids: sandbox.limits.pids,
        },
        allow_unenforced_limits: sandbox.allow_unenforced_limits,
    }
}
