//! Listing and watching.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::time::timeout;

use super::{PATIENCE, Rig};
use crate::ports::runtime::{ContainerChange, ContainerSpec, Observation};

/// Only containers of the owner are listed, with what is true of them, ended ones among them.
pub async fn only_ours_are_listed(rig: &Rig) {
    let running = rig.idle();
    let ended = rig.shell("exit 4");
    let mut foreign = rig.idle();
    foreign.labels.insert(
        crate::ports::runtime::LABEL_OWNER.to_owned(),
        format!("{}-b", rig.owner),
    );
    rig.start(&running).await;
    rig.start(&foreign).await;
    rig.finish(&ended).await;
    let mut listed = rig.runtime.list(&rig.owner).await.expect("the engine answers");
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    let listed: Vec<_> = listed
        .into_iter()
        .map(|one| (one.name, one.observation))
        .collect();
    let exited = Observation::Exited {
        code: 4,
        out_of_memory: false,
        reason: String::new(),
    };
    assert_eq!(
        listed,
        [
            (running.name.clone(), Observation::Running),
            (ended.name.clone(), exited)
        ]
    );
}

async fn next(changes: &mut BoxStream<'static, ContainerChange>, wanted: impl Fn(&ContainerChange) -> bool) {
    let seen = async {
        while let Some(change) = changes.next().await {
            if wanted(&change) {
                return;
            }
        }
        panic!("the stream ended");
    };
    timeout(PATIENCE, seen).await.expect("the change is told");
}

fn is(spec: &ContainerSpec, state: impl Fn(&Observation) -> bool) -> impl Fn(&ContainerChange) -> bool {
    let name = spec.name.clone();
    move |change| change.name == name && state(&change.observation)
}

/// A start, an exit and a removal are told as they happen, and what was there before at the beginning.
pub async fn changes_are_told(rig: &Rig) {
    let before = rig.idle();
    rig.start(&before).await;
    let mut changes = rig.runtime.watch(&rig.owner).await.expect("the engine answers");
    next(&mut changes, is(&before, |seen| *seen == Observation::Running)).await;
    let spec = rig.shell("trap 'exit 6' TERM; echo ready; while :; do sleep 0.1; done");
    rig.start(&spec).await;
    next(&mut changes, is(&spec, |seen| *seen == Observation::Running)).await;
    rig.until_logged(&spec, "ready").await;
    rig.runtime.stop(&spec.name, PATIENCE).await.expect("it stops");
    next(
        &mut changes,
        is(&spec, |seen| matches!(seen, Observation::Exited { code: 6, .. })),
    )
    .await;
    rig.runtime.remove(&spec.name).await.expect("it is removed");
    next(&mut changes, is(&spec, |seen| *seen == Observation::Gone)).await;
}

/// What is true is told again and again, so that a reader who missed something catches up.
pub async fn what_is_true_is_told_again(rig: &Rig) {
    let spec = rig.idle();
    rig.start(&spec).await;
    let mut changes = rig.runtime.watch(&rig.owner).await.expect("the engine answers");
    for _ in 0..3 {
        next(&mut changes, is(&spec, |seen| *seen == Observation::Running)).await;
    }
}

/// Containers of other owners are not told.
pub async fn changes_of_others_are_not_told(rig: &Rig) {
    let mut changes = rig.runtime.watch(&rig.owner).await.expect("the engine answers");
    let mut foreign = rig.shell("exit 0");
    foreign.labels.insert(
        crate::ports::runtime::LABEL_OWNER.to_owned(),
        format!("{}-b", rig.owner),
    );
    let ours = rig.idle();
    let (foreign_name, ours_name) = (foreign.name.clone(), ours.name.clone());
    rig.finish(&foreign).await;
    rig.start(&ours).await;
    next(&mut changes, |change| {
        assert_ne!(change.name, foreign_name);
        change.name == ours_name
    })
    .await;
}
