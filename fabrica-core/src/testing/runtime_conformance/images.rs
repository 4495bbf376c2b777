//! Images.

use std::fs;
use std::sync::{Arc, Mutex};

use super::Rig;
use crate::ports::RuntimeError;
use crate::ports::runtime::{BuildRequest, ImageProgress, ProgressSink};

fn collect() -> (ProgressSink, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let progress: ProgressSink = Arc::new(move |step: ImageProgress| sink.lock().unwrap().push(step.message));
    (progress, told)
}

/// An image that is there is described; one that is not is `None`, whatever its name.
pub async fn an_image_is_described(rig: &Rig) {
    let image = rig
        .runtime
        .image(&rig.image)
        .await
        .expect("the engine answers")
        .expect("it has the image");
    assert!(!image.id.is_empty() && image.size > 0, "{image:?}");
    for missing in ["fabrica-test/not-there:1", "../info", "a?b", ""] {
        assert_eq!(
            rig.runtime.image(missing).await.expect("the engine answers"),
            None,
            "{missing:?}"
        );
    }
}

/// An image that no registry has is told as missing, with a reason.
pub async fn an_image_that_cannot_be_pulled_is_missing(rig: &Rig) {
    // Nobody listens there.
    let reference = "127.0.0.1:9/fabrica-test/not-there:1";
    let error = rig
        .runtime
        .pull(reference, collect().0)
        .await
        .expect_err("nobody has it");
    assert!(
        matches!(&error, RuntimeError::ImageMissing { reason, .. } if !reason.is_empty()),
        "{error:?}"
    );
}

fn context(rig: &Rig, dockerfile: &str) -> std::path::PathBuf {
    let context = rig.scratch.join("context");
    fs::create_dir(&context).expect("the scratch directory is ours");
    fs::write(context.join("Dockerfile"), dockerfile).expect("the scratch directory is ours");
    fs::write(context.join("note"), "from the context\n").expect("the scratch directory is ours");
    context
}

/// A context is built, with its arguments; its lines are told as they come; the image runs.
pub async fn a_context_is_built(rig: &Rig) {
    let dockerfile = format!(
        "FROM {}\nARG WORD=none\nCOPY note /note\nLABEL word=$WORD\nENTRYPOINT [\"/bin/false\"]\n",
        rig.image
    );
    let request = BuildRequest {
        context: context(rig, &dockerfile),
        reference: "fabrica-test/conformance-build:1".to_owned(),
        arguments: [("WORD".to_owned(), "given & sent".to_owned())].into(),
    };
    let (progress, told) = collect();
    let image = rig.runtime.build(&request, progress).await.expect("it is built");
    assert_eq!(
        image.labels.get("word").map(String::as_str),
        Some("given & sent"),
        "{image:?}"
    );
    assert!(
        told.lock().unwrap().iter().any(|line| line.contains("COPY note")),
        "{told:?}"
    );
    let mut spec = rig.shell("cat /note");
    spec.image = request.reference;
    assert_eq!(
        rig.output(&spec).await,
        ["from the context"],
        "the image's entry point does not run"
    );
}

/// A build that fails tells its last lines.
pub async fn a_failed_build_tells_its_last_lines(rig: &Rig) {
    let dockerfile = format!("FROM {}\nUSER 0:0\nRUN echo the reason; exit 9\n", rig.image);
    let request = BuildRequest {
        context: context(rig, &dockerfile),
        reference: "fabrica-test/conformance-failure:1".to_owned(),
        arguments: [].into(),
    };
    let error = rig
        .runtime
        .build(&request, collect().0)
        .await
        .expect_err("it fails");
    let RuntimeError::BuildFailed { reference, reason } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*reference, request.reference);
    assert!(reason.contains("the reason") && reason.contains('9'), "{reason}");
}

/// A context that is not there, and an archive that is none, are failures with a reason.
pub async fn what_cannot_be_read_is_a_failure(rig: &Rig) {
    let nowhere = rig.scratch.join("nowhere");
    let reference = "fabrica-test/conformance-failure:1".to_owned();
    let import = rig
        .runtime
        .import(&nowhere, &reference, collect().0)
        .await
        .expect_err("nothing to read");
    assert!(matches!(import, RuntimeError::BuildFailed { .. }), "{import:?}");
    let request = BuildRequest {
        context: nowhere,
        reference,
        arguments: [].into(),
    };
    let build = rig
        .runtime
        .build(&request, collect().0)
        .await
        .expect_err("nothing to read");
    assert!(matches!(build, RuntimeError::BuildFailed { .. }), "{build:?}");
}

/// A file system in an archive becomes an image that runs.
pub async fn an_archive_is_imported(rig: &Rig, archive: &std::path::Path) {
    let (progress, told) = collect();
    let reference = "fabrica-test/conformance-import:1";
    let image = rig
        .runtime
        .import(archive, reference, progress)
        .await
        .expect("it is imported");
    assert!(image.size > 0, "{image:?}");
    assert!(!told.lock().unwrap().is_empty());
    let mut spec = rig.shell("echo imported");
    reference.clone_into(&mut spec.image);
    assert_eq!(rig.output(&spec).await, ["imported"]);
}
