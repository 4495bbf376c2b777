//! Images.

use std::path::Path;
use std::time::Duration;

use fabrica_core::ports::RuntimeError;
use fabrica_core::ports::runtime::{BuildRequest, ImageInfo, ProgressSink};

use super::Lifecycle;
use crate::engine::Engine;
use crate::names;

/// How long an image may take.
const IMAGE_PATIENCE: Duration = Duration::from_hours(2);

impl<E: Engine> Lifecycle<E> {
    pub(crate) async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        if !names::is_image(reference) {
            return Ok(None);
        }
        self.quick("inspect an image", self.engine.image(reference)).await
    }

    pub(crate) async fn pull(
        &self,
        reference: &str,
        progress: &ProgressSink,
    ) -> Result<ImageInfo, RuntimeError> {
        let missing = |reason: &str| RuntimeError::ImageMissing {
            reference: reference.to_owned(),
            reason: reason.to_owned(),
        };
        if !names::is_image(reference) {
            return Err(missing("that is not the name of an image"));
        }
        self.within(
            "pull an image",
            IMAGE_PATIENCE,
            self.engine.pull(reference, progress),
        )
        .await?;
        self.image(reference)
            .await?
            .ok_or_else(|| missing("the engine pulled it and does not have it"))
    }

    pub(crate) async fn import(
        &self,
        archive: &Path,
        reference: &str,
        progress: &ProgressSink,
    ) -> Result<ImageInfo, RuntimeError> {
        self.check_reference(reference)?;
        self.within(
            "import an image",
            IMAGE_PATIENCE,
            self.engine.import(archive, reference, progress),
        )
        .await?;
        self.made(reference).await
    }

    pub(crate) async fn build(
        &self,
        request: &BuildRequest,
        progress: &ProgressSink,
    ) -> Result<ImageInfo, RuntimeError> {
        self.check_reference(&request.reference)?;
        self.within(
            "build an image",
            IMAGE_PATIENCE,
            self.engine.build(request, progress),
        )
        .await?;
        self.made(&request.reference).await
    }

    fn check_reference(&self, reference: &str) -> Result<(), RuntimeError> {
        if names::is_image(reference) && !reference.contains('@') {
            return Ok(());
        }
        let reason = format!("{} takes no image of that name", self.engine.name());
        Err(RuntimeError::BuildFailed {
            reference: reference.to_owned(),
            reason,
        })
    }

    async fn made(&self, reference: &str) -> Result<ImageInfo, RuntimeError> {
        self.image(reference)
            .await?
            .ok_or_else(|| RuntimeError::BuildFailed {
                reference: reference.to_owned(),
                reason: "the engine reported no error and does not have the image".to_owned(),
            })
    }
}
