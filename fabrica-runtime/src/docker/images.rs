//! Images on Docker.

use std::path::Path;

use bollard::body_try_stream;
use bollard::errors::Error;
use bollard::models::{BuildInfo, CreateImageInfo, ProgressDetail};
use bollard::query_parameters::{BuildImageOptions, CreateImageOptions};
use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{BuildRequest, ProgressSink};
use futures::Stream;
use futures::StreamExt as _;

use crate::archive::{self, LastWords};
use crate::docker::engine::DockerEngine;
use crate::names::split_tag;

impl DockerEngine {
    pub(super) async fn pull_image(
        &self,
        reference: &str,
        progress: &ProgressSink,
    ) -> Result<(), RuntimeError> {
        let (name, tag) = split_tag(reference);
        // A digest stands in the name; a tag beside it would be an error.
        let tag = (!reference.contains('@')).then(|| tag.to_owned());
        let name = if tag.is_some() { name } else { reference };
        let options = CreateImageOptions {
            from_image: Some(name.to_owned()),
            tag,
            ..CreateImageOptions::default()
        };
        let steps = self.client.create_image(Some(options), None, None);
        self.follow(steps, progress)
            .await
            .map_err(|(error, _)| match refusal(&error) {
                Some(reason) => RuntimeError::ImageMissing {
                    reference: reference.to_owned(),
                    reason,
                },
                None => self.refused("pull an image")(error),
            })
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
        let (name, tag) = split_tag(reference);
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(name.to_owned()),
            tag: Some(tag.to_owned()),
            ..CreateImageOptions::default()
        };
        let steps = self
            .client
            .create_image(Some(options), Some(body_try_stream(file.chunks)), None);
        self.follow(steps, progress)
            .await
            .map_err(|(error, words)| match refusal(&error) {
                Some(reason) => failed(words.with(&reason)),
                None => unread.or(reference, self.refused("import an image")(error)),
            })
    }

    pub(super) async fn build_image(
        &self,
        request: &BuildRequest,
        progress: &ProgressSink,
    ) -> Result<(), RuntimeError> {
        let options = BuildImageOptions {
            dockerfile: "Dockerfile".to_owned(),
            t: Some(request.reference.clone()),
            rm: true,
            forcerm: true,
            buildargs: Some(request.arguments.clone().into_iter().collect()),
            ..BuildImageOptions::default()
        };
        let context = archive::directory(&request.context);
        let unread = context.failure();
        let steps = self
            .client
            .build_image(options, None, Some(body_try_stream(context.chunks)));
        self.follow(steps, progress)
            .await
            .map_err(|(error, words)| match refusal(&error) {
                Some(reason) => RuntimeError::BuildFailed {
                    reference: request.reference.clone(),
                    reason: words.with(&reason),
                },
                None => unread.or(&request.reference, self.refused("build an image")(error)),
            })
    }

    async fn follow<S: Into<Step>>(
        &self,
        steps: impl Stream<Item = Result<S, Error>>,
        progress: &ProgressSink,
    ) -> Result<(), (Error, LastWords)> {
        let mut steps = std::pin::pin!(steps);
        let mut words = LastWords::default();
        while let Some(step) = steps.next().await {
            let step = match step {
                Ok(step) => step.into(),
                Err(error) => return Err((error, words)),
            };
            words.say(&step.message, step.bytes, progress);
            if let Some(error) = step.error {
                return Err((Error::DockerStreamError { error }, words));
            }
        }
        Ok(())
    }
}

/// The daemon's own words, if it was the daemon who refused.
fn refusal(error: &Error) -> Option<String> {
    match error {
        Error::DockerStreamError { error } => Some(error.clone()),
        Error::DockerResponseServerError {
            status_code: 400..=501,
            message,
        } => Some(message.clone()),
        _ => None,
    }
}

struct Step {
    message: String,
    bytes: Option<(u64, u64)>,
    error: Option<String>,
}

impl From<CreateImageInfo> for Step {
    fn from(info: CreateImageInfo) -> Self {
        let status = info.status.unwrap_or_default();
        let message = info
            .id
            .map_or_else(|| status.clone(), |layer| format!("{layer}: {status}"));
        Self {
            message,
            bytes: info.progress_detail.as_ref().and_then(bytes),
            error: info.error_detail.and_then(|detail| detail.message),
        }
    }
}

impl From<BuildInfo> for Step {
    fn from(info: BuildInfo) -> Self {
        Self {
            message: info.stream.or(info.status).unwrap_or_default(),
            bytes: info.progress_detail.as_ref().and_then(bytes),
            error: info.error_detail.and_then(|detail| detail.message),
        }
    }
}

fn bytes(detail: &ProgressDetail) -> Option<(u64, u64)> {
    Some((
        u64::try_from(detail.current?).ok()?,
        u64::try_from(detail.total?).ok()?,
    ))
}
