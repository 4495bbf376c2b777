//! The last lines that a container wrote.

use super::Rig;
use crate::ports::runtime::ContainerName;

/// The last lines are told, oldest first, of both streams.
pub async fn the_last_lines_of_both_streams_are_told(rig: &Rig) {
    let spec = rig.shell("for i in $(seq 500); do echo line $i; done; sleep 0.2; echo to stderr >&2");
    rig.finish(&spec).await;
    let tail = rig
        .runtime
        .log_tail(&spec.name, 3)
        .await
        .expect("the engine tells the log");
    assert_eq!(tail, ["line 499", "line 500", "to stderr"]);
    assert!(
        rig.runtime
            .log_tail(&spec.name, 0)
            .await
            .expect("the engine tells the log")
            .is_empty()
    );
}

/// A container that runs has a log too, and the question does not wait for its end.
pub async fn the_log_of_a_running_container_is_told(rig: &Rig) {
    let spec = rig.shell("echo so far; while :; do sleep 0.1; done");
    rig.start(&spec).await;
    rig.until_logged(&spec, "so far").await;
}

/// Bytes that are no UTF-8, a carriage return, an empty line, a line that was written in pieces and a last line without
/// its newline are all told.
pub async fn odd_lines_are_told(rig: &Rig) {
    let spec = rig.shell(
        "printf 'a\\377b\\r\\n\\n'; printf in; sleep 0.1; printf ' pieces\\n'; sleep 0.1; printf last",
    );
    rig.finish(&spec).await;
    assert_eq!(rig.log(&spec).await, ["a\u{fffd}b", "", "in pieces", "last"]);
}

/// What is not there has no log.
pub async fn what_is_gone_has_no_log(rig: &Rig) {
    let never = ContainerName::from_engine("fabrica-never-was-1");
    assert!(
        rig.runtime
            .log_tail(&never, 10)
            .await
            .expect("the engine answers")
            .is_empty()
    );
}
