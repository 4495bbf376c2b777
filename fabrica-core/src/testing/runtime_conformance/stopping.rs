//! Stopping and removing.

use std::time::Duration;

use tokio::time::Instant;

use super::Rig;
use crate::ports::runtime::{ContainerName, Observation};

const LONG: Duration = Duration::from_mins(1);

/// A program that heeds TERM ends with its own code, long before the grace is over.
pub async fn a_program_may_end_by_itself(rig: &Rig) {
    let spec = rig.shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done");
    rig.start(&spec).await;
    rig.until_logged(&spec, "ready").await;
    let begun = Instant::now();
    rig.runtime.stop(&spec.name, LONG).await.expect("it stops");
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    assert!(matches!(
        rig.observe(&spec).await,
        Observation::Exited { code: 3, .. }
    ));
}

/// A program that ignores TERM is killed once the grace is over, and not before.
pub async fn a_program_that_ignores_term_is_killed_after_the_grace(rig: &Rig) {
    let spec = rig.shell("trap '' TERM; echo ready; while :; do sleep 0.1; done");
    rig.start(&spec).await;
    rig.until_logged(&spec, "ready").await;
    let begun = Instant::now();
    let grace = Duration::from_secs(2);
    rig.runtime.stop(&spec.name, grace).await.expect("it stops");
    assert!(
        (grace..grace * 4).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    assert!(matches!(
        rig.observe(&spec).await,
        Observation::Exited { code: 137, .. }
    ));
}

/// Stopping what has ended, what was removed and what never was is fine, any number of times.
pub async fn stopping_is_idempotent(rig: &Rig) {
    let spec = rig.shell("exit 5");
    rig.finish(&spec).await;
    for _ in 0..2 {
        rig.runtime
            .stop(&spec.name, LONG)
            .await
            .expect("it has ended already");
    }
    assert!(
        matches!(rig.observe(&spec).await, Observation::Exited { code: 5, .. }),
        "its outcome is not touched"
    );
    rig.runtime.remove(&spec.name).await.expect("it is removed");
    rig.runtime.stop(&spec.name, LONG).await.expect("it is gone");
    let never = ContainerName::from_engine("fabrica-never-was-1");
    rig.runtime.stop(&never, LONG).await.expect("it was never there");
}

/// A running container is removed at once, without any grace; removing it again is fine.
pub async fn removing_is_prompt_and_idempotent(rig: &Rig) {
    let spec = rig.shell("trap '' TERM; while :; do sleep 0.1; done");
    rig.start(&spec).await;
    let begun = Instant::now();
    for _ in 0..2 {
        rig.runtime.remove(&spec.name).await.expect("it is removed");
        assert_eq!(rig.observe(&spec).await, Observation::Gone);
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let never = ContainerName::from_engine("fabrica-never-was-1");
    rig.runtime.remove(&never).await.expect("it was never there");
}

/// Two who stop and remove the same container at the same time do not get into each other's way.
pub async fn two_may_remove_at_once(rig: &Rig) {
    let spec = rig.idle();
    rig.start(&spec).await;
    let stopped = rig.runtime.stop(&spec.name, LONG);
    let removals = futures::future::join(rig.runtime.remove(&spec.name), rig.runtime.remove(&spec.name));
    let (stopped, (one, two)) = futures::future::join(stopped, removals).await;
    stopped.expect("it stops");
    one.expect("it is removed");
    two.expect("it is removed");
    assert_eq!(rig.observe(&spec).await, Observation::Gone);
}
