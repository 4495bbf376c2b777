//! One module for each promise: what it does to Fabrica, and what has to hold beside what always has to.

mod acknowledged;
mod answered;
mod cancelled;
mod clock;
mod database_dies;
mod delivered;
mod disk_full;
mod drained;
mod engine_dies;
mod fenced;
mod late;
mod one_start;
mod orphans;
mod output;
mod poison;
mod reattached;
mod slow_readers;
mod small_file;
mod stalled;
mod terminal;

use std::pin::Pin;
use std::sync::Arc;

use anyhow::Result;

use crate::engine::Engine;
use crate::report::Tally;
use crate::world::{Making, Suite};

type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A promise and its test.
pub(crate) struct Promise {
    /// As the list of promises numbers it.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) test: for<'a> fn(&'a Suite, &'a Tally) -> Running<'a>,
}

macro_rules! promises {
    ($($name:literal $title:literal $module:ident),+ $(,)?) => {
        &[$(Promise {
            name: $name,
            title: $title,
            test: |suite, tally| Box::pin($module::test(suite, tally)),
        }),+]
    };
}

/// What is tested at the same time, one stage after the other. What kills the engines comes last, and alone, since all use
/// them; what measures a recovery in seconds has the machine for itself.
pub(crate) const STAGES: &[&[&str]] = &[
    &["4"],
    &["1", "3", "9", "15"],
    &["2", "11", "12", "14", "poison"],
    &["5", "7", "13"],
    &["8", "10", "drain"],
    &["6"],
];

pub(crate) const ALL: &[Promise] = promises![
    "1" "acknowledged is durable" acknowledged,
    "2" "one start per attempt" one_start,
    "3" "fencing" fenced,
    "4" "re-attach" reattached,
    "5" "always terminal" terminal,
    "7" "orphans both ways" orphans,
    "8" "the database dies" database_dies,
    "9" "stalls" stalled,
    "10" "cancel" cancelled,
    "11" "an answer resumes once" answered,
    "12" "delivery" delivered,
    "13" "output" output,
    "14" "slow readers" slow_readers,
    "15" "disk full, clock jumps" disk_full,
    "poison" "poison sessions come to an end" poison,
    "drain" "a drained replica hands over" drained,
    "6" "the engine dies" engine_dies,
];

/// A world with the usual database.
fn making<'a>(
    suite: &Suite,
    name: &'a str,
    engine: Arc<Engine>,
    replicas: usize,
    settings: &'a [(&'a str, &'a str)],
) -> Making<'a> {
    Making {
        name,
        engine,
        cluster: suite.cluster.clone(),
        replicas,
        settings,
        database_port: None,
    }
}
