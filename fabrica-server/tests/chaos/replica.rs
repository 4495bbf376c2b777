//! One process of the service, which may be killed, frozen and started again.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::cluster::free_port;
use crate::process::Process;

/// How long a replica may take until it answers.
const PATIENCE: Duration = Duration::from_mins(3);
/// How often it is started for that.
const STARTS: u32 = 3;

/// What every replica of a world is started with.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) program: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) logs: PathBuf,
}

/// A place for a replica; whether one runs there changes.
#[derive(Debug)]
pub(crate) struct Replica {
    port: u16,
    log: PathBuf,
    program: PathBuf,
    environment: Vec<(String, String)>,
    process: Option<Process>,
    frozen: bool,
}

impl Replica {
    pub(crate) fn new(place: usize, surroundings: &Surroundings) -> Result<Self> {
        Ok(Self {
            port: free_port()?,
            log: surroundings.logs.join(format!("replica-{place}.log")),
            program: surroundings.program.clone(),
            environment: surroundings.environment.clone(),
            process: None,
            frozen: false,
        })
    }

    /// Gives it one more variable when it starts next.
    pub(crate) fn set(&mut self, variable: &str, value: &str) {
        self.environment.push((variable.to_owned(), value.to_owned()));
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its process id, if it was started and not killed.
    pub(crate) fn id(&self) -> Option<i32> {
        self.process.as_ref().map(Process::id)
    }

    /// Whether it can work.
    pub(crate) fn works(&self) -> bool {
        self.process.is_some() && !self.frozen
    }

    /// Starts it, without waiting.
    pub(crate) fn spawn(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("FABRICA_LISTEN", format!("127.0.0.1:{}", self.port));
        self.process = Some(Process::start(command, &self.log)?);
        self.frozen = false;
        Ok(())
    }

    /// Waits until it answers. One that ends instead, since an engine under that much load did not answer it, is started
    /// again, as by any supervisor.
    pub(crate) async fn ready(&mut self, client: &reqwest::Client) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let url = format!("{}/health", self.base_url());
        let mut starts = 1;
        loop {
            let answer = client.get(&url).timeout(Duration::from_secs(5)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let process = self.process.as_mut().context("it was not started")?;
            if !process.lives() {
                ensure!(
                    starts < STARTS,
                    "a replica has ended {starts} times: see {}",
                    self.log.display()
                );
                starts += 1;
                self.spawn()?;
            }
            ensure!(
                Instant::now() < deadline,
                "a replica does not answer: see {}",
                self.log.display()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill().await?;
        }
        self.frozen = false;
        Ok(())
    }

    pub(crate) fn freeze(&mut self) -> Result<()> {
        self.frozen = true;
        self.signal(Signal::STOP)
    }

    pub(crate) fn thaw(&mut self) -> Result<()> {
        self.frozen = false;
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("it does not run")?.signal(signal)
    }

    /// Asks it to end, and waits: how it ended and how long that took.
    pub(crate) async fn terminate(&mut self, patience: Duration) -> Result<(ExitStatus, Duration)> {
        let asked = Instant::now();
        self.signal(Signal::TERM)?;
        let mut process = self.process.take().context("it does not run")?;
        match process.ended(patience).await {
            Ok(status) => Ok((status, asked.elapsed())),
            Err(error) => {
                process.kill().await?;
                Err(error)
            }
        }
    }

    /// Whether it ended without being asked to.
    pub(crate) fn has_died(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| !process.lives())
    }
}
