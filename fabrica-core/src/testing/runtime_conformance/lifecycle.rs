//! Starting, adopting and observing.

use futures::future::join_all;

use super::Rig;
use crate::ports::RuntimeError;
use crate::ports::runtime::{ContainerName, Ensured, LABEL_OWNER, LABEL_SPEC, Observation};

/// A container runs, and ends with its program's exit code.
pub async fn an_exit_code_is_told(rig: &Rig) {
    let success = rig.shell("exit 0");
    let failure = rig.shell("exit 7");
    assert_eq!(rig.finish(&success).await.0, 0);
    assert_eq!(rig.finish(&failure).await.0, 7);
}

/// A container that was never there is gone, and so is one whose name no engine would take.
pub async fn what_is_not_there_is_gone(rig: &Rig) {
    for name in ["fabrica-never-was-1", "../../info", "a?b=c", ""] {
        let name = ContainerName::from_engine(name);
        assert_eq!(
            rig.runtime.observe(&name).await.expect("the engine answers"),
            Observation::Gone,
            "{name}"
        );
    }
}

/// The second `ensure` of the same spec changes nothing.
pub async fn a_second_ensure_adopts(rig: &Rig) {
    let spec = rig.shell("echo once; while :; do sleep 0.1; done");
    rig.start(&spec).await;
    rig.until_logged(&spec, "once").await;
    assert_eq!(
        rig.runtime.ensure(&spec).await.expect("it is adopted"),
        Ensured::Adopted
    );
    assert_eq!(rig.observe(&spec).await, Observation::Running);
    assert_eq!(rig.log(&spec).await, ["once"], "it was not started again");
}

/// A container that has ended is adopted as it is, so that its outcome is not lost.
pub async fn an_ended_container_is_adopted_and_not_started_again(rig: &Rig) {
    let spec = rig.shell("echo once; exit 3");
    assert_eq!(rig.finish(&spec).await, (3, vec!["once".to_owned()]));
    assert_eq!(
        rig.runtime.ensure(&spec).await.expect("it is adopted"),
        Ensured::Adopted
    );
    assert_eq!(rig.end_of(&spec).await, (3, vec!["once".to_owned()]));
}

/// A container of the same name from another spec, or of another owner, is refused and left alone.
pub async fn another_container_of_the_same_name_is_refused_and_untouched(rig: &Rig) {
    let first = rig.shell("echo first; while :; do sleep 0.1; done");
    rig.start(&first).await;
    rig.until_logged(&first, "first").await;
    let mut changed = first.clone();
    changed.command.push("more".to_owned());
    let mut foreign = first.clone();
    foreign
        .labels
        .insert(LABEL_OWNER.to_owned(), "somebody else".to_owned());
    for other in [changed, foreign] {
        let error = rig
            .runtime
            .ensure(&other)
            .await
            .expect_err("another container has the name");
        assert!(
            matches!(&error, RuntimeError::AlreadyExists { name, .. } if *name == first.name),
            "{error}"
        );
        assert!(!error.retryable());
    }
    assert_eq!(rig.observe(&first).await, Observation::Running);
    assert_eq!(rig.log(&first).await, ["first"]);
}

/// An image that the engine does not have is told as such, and nothing is left.
pub async fn a_missing_image_is_told(rig: &Rig) {
    for image in ["fabrica-test/not-there:1", "not an image?"] {
        let mut spec = rig.shell("exit 0");
        image.clone_into(&mut spec.image);
        let error = rig
            .runtime
            .ensure(&spec)
            .await
            .expect_err("the image is not there");
        assert!(
            matches!(&error, RuntimeError::ImageMissing { reference, .. } if reference == image),
            "{error}"
        );
        assert_eq!(rig.observe(&spec).await, Observation::Gone);
    }
}

/// A program that the image does not have is an error, and nothing is left.
pub async fn a_program_that_is_not_there_is_refused_and_nothing_is_left(rig: &Rig) {
    let mut spec = rig.idle();
    spec.command = vec!["/no/such/program".to_owned()];
    let error = rig
        .runtime
        .ensure(&spec)
        .await
        .expect_err("the program is not there");
    assert!(
        matches!(&error, RuntimeError::Denied { message, .. } if message.contains("/no/such/program")),
        "{error}"
    );
    assert_eq!(rig.observe(&spec).await, Observation::Gone);
    assert!(
        rig.runtime
            .list(&rig.owner)
            .await
            .expect("the engine answers")
            .is_empty()
    );
}

/// Eight containers that are started at once all run.
pub async fn eight_at_once_all_start(rig: &Rig) {
    let specs: Vec<_> = (0..8).map(|_| rig.idle()).collect();
    for ensured in join_all(specs.iter().map(|spec| rig.runtime.ensure(spec))).await {
        assert_eq!(ensured.expect("it starts"), Ensured::Started);
    }
    let observed = join_all(specs.iter().map(|spec| rig.observe(spec))).await;
    assert_eq!(observed, vec![Observation::Running; 8]);
}

/// The same container, ensured several times at once, is started once.
pub async fn the_same_at_once_is_started_once(rig: &Rig) {
    let spec = rig.idle();
    let ensured = join_all((0..4).map(|_| rig.runtime.ensure(&spec))).await;
    let ensured: Vec<_> = ensured.into_iter().map(|one| one.expect("it runs")).collect();
    assert_eq!(
        ensured.iter().filter(|one| **one == Ensured::Started).count(),
        1,
        "{ensured:?}"
    );
    assert_eq!(rig.observe(&spec).await, Observation::Running);
}

/// The environment, the user, the working directory and the arguments reach the program; the image's entry point
/// does not run.
pub async fn the_program_gets_what_the_spec_says(rig: &Rig) {
    let mut spec = rig.shell(r#"echo "$SECRET|$(id -u):$(id -g)|$PWD|$1""#);
    spec.command.extend(["sh".to_owned(), "an argument".to_owned()]);
    spec.environment
        .insert("SECRET".to_owned(), "a b\"c=d".to_owned());
    spec.user = (1234, 4321);
    "/tmp".clone_into(&mut spec.working_directory);
    assert_eq!(rig.output(&spec).await, ["a b\"c=d|1234:4321|/tmp|an argument"]);
}

/// Labels carry the fingerprint, and nothing of the environment's values.
pub async fn values_of_the_environment_are_not_in_labels(rig: &Rig) {
    let mut spec = rig.idle();
    spec.environment
        .insert("TOKEN".to_owned(), "s3cr3t-value".to_owned());
    rig.start(&spec).await;
    let listed = rig.runtime.list(&rig.owner).await.expect("the engine answers");
    let labels = &listed.first().expect("it is listed").labels;
    assert_eq!(labels.get(LABEL_SPEC), Some(&spec.fingerprint()));
    assert!(
        spec.labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value)),
        "{labels:?}"
    );
    assert!(!format!("{labels:?}").contains("s3cr3t"), "{labels:?}");
    spec.environment.insert("TOKEN".to_owned(), "another".to_owned());
    assert_eq!(
        rig.runtime
            .ensure(&spec)
            .await
            .expect("a new token is no other spec"),
        Ensured::Adopted
    );
}
