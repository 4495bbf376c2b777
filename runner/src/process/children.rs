//! The runner's own children, and the orphans that the kernel hands to it.

use std::collections::HashSet;
use std::io;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpid};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::table;

/// How long zombies may stay: many ends are dealt with at once.
const REAP_INTERVAL: Duration = Duration::from_millis(200);
/// How long killing everything may take. A process in the kernel's hands dies late.
const SWEEP_LIMIT: Duration = Duration::from_secs(10);

/// The children that the runner waits for itself. All others below it are orphans.
///
/// Starting a child and looking for dead orphans exclude one another, so that no child is buried before its owner
/// knows of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Processes(Arc<Mutex<HashSet<u32>>>);

impl Processes {
    /// Starts a process as the leader of its own group.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Process> {
        command.process_group(0).kill_on_drop(true);
        let mut known = self.known();
        let child = command.spawn()?;
        let pid = child
            .id()
            .ok_or_else(|| io::Error::other("the process ended before it was started"))?;
        known.insert(pid);
        Ok(Process {
            child,
            pid,
            ended: false,
            registry: self.clone(),
        })
    }

    /// Buries orphans for as long as it runs.
    pub(crate) async fn reap_orphans(self) {
        let mut ended = match signal(SignalKind::child()) {
            Ok(ended) => ended,
            Err(error) => return warn!(%error, "orphans will stay as zombies"),
        };
        while ended.recv().await.is_some() {
            sleep(REAP_INTERVAL).await;
            self.reap();
        }
    }

    fn reap(&self) {
        let own = std::process::id();
        let known = self.known();
        for row in table::read() {
            if row.zombie
                && row.parent == own
                && !known.contains(&row.pid)
                && let Some(pid) = pid(row.pid)
            {
                // Gone already is as good.
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
    }

    /// Kills every other process of the sandbox, and returns once none is alive. Outside of a sandbox, where the
    /// runner is not the first process, it kills those below it.
    ///
    /// # Errors
    ///
    /// If something is still alive after [`SWEEP_LIMIT`].
    pub(crate) async fn kill_all_others(&self) -> io::Result<()> {
        let own = std::process::id();
        let started = Instant::now();
        loop {
            if own == 1 {
                // One system call, so that nothing can fork its way out. It fails if there is nobody.
                let _ = kill_process_group(Pid::INIT, Signal::KILL);
            }
            let rows = table::read();
            let others = if own == 1 {
                rows.into_iter().filter(|row| row.pid != own).collect()
            } else {
                table::descendants(&rows, own)
            };
            let alive: Vec<u32> = others
                .iter()
                .filter(|row| !row.zombie)
                .map(|row| row.pid)
                .collect();
            if alive.is_empty() {
                self.reap();
                return Ok(());
            }
            for pid in alive.iter().filter_map(|alive| pid(*alive)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            if started.elapsed() > SWEEP_LIMIT {
                return Err(io::Error::other(format!(
                    "{} processes of the agent do not die",
                    alive.len()
                )));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn known(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process that leads its own group. Dropped before its end, the group is killed.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its pipes.
    pub(crate) child: Child,
    pid: u32,
    ended: bool,
    registry: Processes,
}

impl Process {
    /// Waits for the end of the process, not of its group.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.ended = true;
        Ok(status)
    }

    /// Asks the group to end, and kills it after a grace.
    pub(crate) async fn terminate(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        if !self.ended {
            self.signal_group(Signal::TERM);
            if timeout(grace, self.wait()).await.is_err() {
                self.signal_group(Signal::KILL);
            }
        }
        let status = self.wait().await?;
        self.kill_group();
        Ok(status)
    }

    /// Kills what is left of the group.
    pub(crate) fn kill_group(&self) {
        self.signal_group(Signal::KILL);
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(pid) = pid(self.pid) {
            // A group without members is the goal.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            self.kill_group();
        }
        self.registry.known().remove(&self.pid);
    }
}

/// A process id that can be signalled alone: neither 0 nor 1, which mean groups.
fn pid(raw: u32) -> Option<Pid> {
    i32::try_from(raw)
        .ok()
        .filter(|raw| *raw > 1)
        .and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(script)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    #[tokio::test]
    async fn reaping_never_steals_the_end_of_a_child() {
        let processes = Processes::default();
        let reaper = tokio::spawn(processes.clone().reap_orphans());
        for code in 0..40 {
            let mut process = processes.spawn(&mut shell(&format!("exit {code}"))).unwrap();
            if code % 2 == 0 {
                sleep(Duration::from_millis(7)).await;
                processes.reap();
            }
            assert_eq!(process.wait().await.unwrap().code(), Some(code));
        }
        reaper.abort();
    }

    #[tokio::test]
    async fn a_process_that_ignores_the_request_is_killed_with_its_group() {
        let processes = Processes::default();
        let mut process = processes
            .spawn(&mut shell("trap '' TERM; sleep 60 & sleep 61"))
            .unwrap();
        sleep(Duration::from_millis(100)).await;
        let started = Instant::now();
        let status = process.terminate(Duration::from_millis(100)).await.unwrap();
        assert!(!status.success() && started.elapsed() < Duration::from_secs(5));
    }
}
