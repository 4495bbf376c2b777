//! Images on Podman.

use std::path::Path;

use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{BuildRequest, ProgressSink};
use futures::TryStreamExt as _;
use reqwest::{Body, Response};
use serde::Deserialize;

use crate::archive::{self, LastWords};
use crate::podman::engine::PodmanEngine;
use crate::podman::raw::Failed;

/// A line of a pull's or a build's progress.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct Step {
    stream: String,
    error: Option<String>,
}

impl PodmanEngine {
    pub(super) async fn pull_image(
        &self,
        reference: &str,
        progress: &ProgressSink,
    ) -> Result<(), RuntimeError> {
        let query = [("reference", reference), ("policy", "always")];
        let response = self.raw.post("/images/pull", &query, None).await;
        self.follow(response, "pull an image", progress, |reason| {
            RuntimeError::ImageMissing {
                reference: reference.to_owned(),
                reason,
            }
        })
        .await
    }

    pub(super) async fn import_image(
        &self,
        archive: &Path,
        reference: &str,
        progress: &ProgressSink,
    ) -> Result<(), RuntimeError> {
        let failed = |reason| RuntimeError::BuildFailed {
            reference: reference.to_owned(),
            reason,
        };
        let file = archive::file(archive, progress);
        let unread = file.failure();
        let body = Some(Body::wrap_stream(file.chunks));
        match self
            .raw
            .post("/images/import", &[("reference", reference)], body)
            .await
        {
            Ok(_) => Ok(()),
            Err(Failed::Refused { message, .. }) => Err(failed(message)),
            Err(Failed::Broken(error)) => Err(unread.or(reference, error)),
        }
    }

    pub(super) async fn build_image(
        &self,
        request: &BuildRequest,
        progress: &ProgressSink,
    ) -> Result<(), RuntimeError> {
        let arguments = serde_json::json!(request.arguments).to_string();
        let query = [
            ("t", request.reference.as_str()),
            ("dockerfile", "Dockerfile"),
            ("buildargs", arguments.as_str()),
            ("rm", "true"),
            ("forcerm", "true"),
            ("pullpolicy", "missing"),
        ];
        let context = archive::directory(&request.context);
        let unread = context.failure();
        let response = self
            .raw
            .post("/build", &query, Some(Body::wrap_stream(context.chunks)))
            .await;
        self.follow(response, "build an image", progress, |reason| {
            RuntimeError::BuildFailed {
                reference: request.reference.clone(),
                reason,
            }
        })
        .await
        .map_err(|error| match error {
            RuntimeError::Unavailable { .. } => unread.or(&request.reference, error),
            error => error,
        })
    }

    /// Reads the progress to its end; the engine's refusal becomes the error that `failed` makes of it.
    async fn follow(
        &self,
        response: Result<Response, Failed>,
        action: &str,
        progress: &ProgressSink,
        failed: impl Fn(String) -> RuntimeError,
    ) -> Result<(), RuntimeError> {
        let response = match response {
            Ok(response) => response,
            Err(Failed::Refused { status, message }) if !(502..=504).contains(&status.as_u16()) => {
                return Err(failed(message));
            }
            Err(other) => return Err(other.into_error(&self.name, action)),
        };
        let mut words = LastWords::default();
        let mut steps = self.raw.lines::<Step>(response);
        while let Some(step) = steps.try_next().await? {
            words.say(&step.stream, None, progress);
            if let Some(error) = step.error.filter(|error| !error.is_empty()) {
                return Err(failed(words.with(&error)));
            }
        }
        Ok(())
    }
}
