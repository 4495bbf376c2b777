//! Processes of the sandbox: starting them in groups, ending them, and burying those that lost their parent.

mod children;
mod output;
mod table;

pub(crate) use children::{Process, Processes};
pub(crate) use output::{Line, Lines, OutputLine, pump, unless_quiet};

use std::io;
use std::process::ExitStatus;

use rustix::process::{DumpableBehavior, getpid, set_child_subreaper, set_dumpable_behavior};

/// Makes this process unreadable to others of its user, and the parent of all orphans below it.
///
/// # Errors
///
/// If the kernel refuses.
pub fn harden() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_child_subreaper(Some(getpid()))?;
    Ok(())
}

/// How a process ended, for people.
pub(crate) fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(9)) => "was killed (signal 9; the kernel does that when memory runs out)".to_owned(),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}
