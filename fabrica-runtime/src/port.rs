//! The port, for each engine: every method is the lifecycle's.

/// Implements the port for a newtype over a [`Lifecycle`](crate::lifecycle::Lifecycle).
macro_rules! implement_port {
    ($runtime:ty) => {
        #[async_trait::async_trait]
        impl fabrica_core::ports::ContainerRuntime for $runtime {
            async fn capabilities(&self) -> Result<Capabilities, RuntimeError> {
                self.0.capabilities().await
            }

            async fn ensure(&self, spec: &ContainerSpec) -> Result<Ensured, RuntimeError> {
                self.0.ensure(spec).await
            }

            async fn observe(&self, name: &ContainerName) -> Result<Observation, RuntimeError> {
                self.0.observe(name).await
            }

            async fn watch(&self, owner: &str) -> Result<BoxStream<'static, ContainerChange>, RuntimeError> {
                self.0.watch(owner).await
            }

            async fn stop(&self, name: &ContainerName, grace: Duration) -> Result<(), RuntimeError> {
                self.0.stop(name, grace).await
            }

            async fn remove(&self, name: &ContainerName) -> Result<(), RuntimeError> {
                self.0.remove(name).await
            }

            async fn log_tail(
                &self,
                name: &ContainerName,
                lines: usize,
            ) -> Result<Vec<String>, RuntimeError> {
                self.0.log_tail(name, lines).await
            }

            async fn list(&self, owner: &str) -> Result<Vec<ContainerSummary>, RuntimeError> {
                self.0.list(owner).await
            }

            async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, RuntimeError> {
                self.0.image(reference).await
            }

            async fn pull(&self, reference: &str, progress: ProgressSink) -> Result<ImageInfo, RuntimeError> {
                self.0.pull(reference, &progress).await
            }

            async fn import(
                &self,
                archive: &Path,
                reference: &str,
                progress: ProgressSink,
            ) -> Result<ImageInfo, RuntimeError> {
                self.0.import(archive, reference, &progress).await
            }

            async fn build(
                &self,
                request: &BuildRequest,
                progress: ProgressSink,
            ) -> Result<ImageInfo, RuntimeError> {
                self.0.build(request, &progress).await
            }
        }
    };
}

pub(crate) use implement_port;
