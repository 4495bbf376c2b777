//! From the container's start to its exit code.

use std::time::Duration;

use fabrica_core::failure::Failure;
use fabrica_core::protocol::{Job, RunnerEvent, exit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::environment::Environment;
use crate::forwarder::Forwarder;
use crate::gateway::{Gateway, GatewayError};
use crate::process::Processes;
use crate::report::Reporter;
use crate::session::Session;
use crate::socket::Socket;
use crate::stop::{Reason, Stop};

/// The longest pause between two requests for the job.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long the last events are offered after a stop was requested.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// Does the attempt's job and returns the exit code, one of [`exit`].
pub async fn run(environment: Environment) -> i32 {
    let stop = Stop::new();
    // Before anything else, since the kernel drops signals to the first process that it does not handle.
    let (Ok(terminate), Ok(interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        error!("signals cannot be handled");
        return exit::ENVIRONMENT;
    };
    tokio::spawn(listen(terminate, interrupt, stop.clone()));
    let processes = Processes::default();
    tokio::spawn(processes.clone().reap_orphans());
    match Parts::start(&environment, &stop).await {
        Ok(parts) => parts.run(environment, processes, stop).await,
        Err(problem) => {
            error!(%problem, "the sandbox is unusable");
            exit::ENVIRONMENT
        }
    }
}

async fn listen(mut terminate: Signal, mut interrupt: Signal, stop: Stop) {
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("asked to stop");
        stop.request(Reason::Signal);
    }
}

/// The ways out of the sandbox.
struct Parts {
    gateway: Gateway,
    reporter: Reporter,
    address: String,
}

impl Parts {
    async fn start(environment: &Environment, stop: &Stop) -> Result<Self, String> {
        let describe = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
        let socket = Socket::new(environment.socket.clone());
        tokio::spawn(socket.clone().watch());
        let forwarder = Forwarder::bind(&environment.forwarder, socket.clone())
            .await
            .map_err(|error| {
                describe(
                    &format!("the port {} cannot be taken", environment.forwarder),
                    &error,
                )
            })?;
        let address = forwarder
            .address()
            .map_err(|error| describe("the port is unknown", &error))?;
        tokio::spawn(forwarder.run());
        let gateway = Gateway::new(environment, socket);
        let secrets = vec![environment.runner_token.clone(), environment.agent_token.clone()];
        let (reporter, _) = Reporter::start(&environment.workspace, gateway.clone(), secrets, stop.clone())
            .map_err(|error| {
            describe(
                &format!(
                    "the workspace {} cannot be written to",
                    environment.workspace.display()
                ),
                &error,
            )
        })?;
        Ok(Self {
            gateway,
            reporter,
            address: format!("http://{address}"),
        })
    }

    async fn run(self, environment: Environment, processes: Processes, stop: Stop) -> i32 {
        let last = match self.job(&stop).await {
            Some(Ok(job)) => {
                self.reporter
                    .report(RunnerEvent::Started {
                        runner: env!("CARGO_PKG_VERSION").to_owned(),
                    })
                    .await;
                let session = Session {
                    environment,
                    gateway: self.gateway.clone(),
                    reporter: self.reporter.clone(),
                    processes: processes.clone(),
                    stop: stop.clone(),
                    address: self.address.clone(),
                    job,
                };
                session.run().await
            }
            Some(Err(failure)) => RunnerEvent::Failed {
                failure,
                pushed: None,
            },
            None => return exit::UNREPORTED,
        };
        let stopped =
            matches!(&last, RunnerEvent::Failed { failure, .. } if failure.code == "session.stopped");
        self.reporter.report(last).await;
        let reported = self.reporter.delivered(LAST_WORDS).await;
        if let Err(error) = processes.kill_all_others().await {
            warn!(%error, "processes are left to the engine");
        }
        match (reported, stopped) {
            (false, _) => exit::UNREPORTED,
            (true, true) => exit::STOPPED,
            (true, false) => exit::REPORTED,
        }
    }

    /// Asks for the job until there is an answer. Nothing if nobody will listen to what becomes of it.
    async fn job(&self, stop: &Stop) -> Option<Result<Job, Failure>> {
        let mut pause = Duration::from_millis(50);
        loop {
            let answer = tokio::select! {
                biased;
                answer = self.gateway.job() => answer,
                reason = stop.requested() => return Some(Err(reason.failure())),
            };
            match answer {
                Ok(job) => return Some(Ok(job)),
                Err(error) if error.fenced() => {
                    error!(%error, "the gateway does not know this attempt");
                    return None;
                }
                Err(error @ GatewayError::Unreadable(_)) => {
                    return Some(Err(Failure::new(
                        "runner.job_unreadable",
                        format!("the runner does not understand its job: {error}"),
                        "The runner and Fabrica are of versions that do not fit: use the runner of this Fabrica.",
                    )));
                }
                Err(error) => warn!(%error, "the gateway has no job yet"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
