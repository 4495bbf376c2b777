//! The sample repository `acme/sample`: a small project with an obvious gap.

use std::{ops::Deref, path::Path};

use super::{
    error::RehearsalError,
    repository::{BareRepository, SourceFile},
};

/// A shell program that keeps the stock of a warehouse, with tests that need nothing but `sh`; what its
/// README wants, [`scripts::sample_job`](super::scripts::sample_job) adds.
#[derive(Debug, Clone)]
pub struct SampleRepository(BareRepository);

impl SampleRepository {
    /// Its name at the forge.
    pub const FULL_NAME: &'static str = "acme/sample";

    /// Creates it below `root`. Its first commit is the same every time.
    ///
    /// # Errors
    /// When git fails.
    pub async fn create(root: &Path) -> Result<Self, RehearsalError> {
        let files = [
            SourceFile::new("README.md", include_str!("sample/README.md")),
            SourceFile::new("bin/stock", include_str!("sample/bin/stock")).executable(),
            SourceFile::new("tests/run.sh", include_str!("sample/tests/run.sh")).executable(),
            SourceFile::new("tests/take_test.sh", include_str!("sample/tests/take_test.sh")),
        ];
        BareRepository::create(root, Self::FULL_NAME, &files)
            .await
            .map(Self)
    }
}

impl Deref for SampleRepository {
    type Target = BareRepository;

    fn deref(&self) -> &BareRepository {
        &self.0
    }
}
