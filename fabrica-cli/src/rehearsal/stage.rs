//! The whole rehearsal: the model, the forge, the git server and the sample.

use std::path::PathBuf;

use secrecy::SecretString;

use super::{
    ApiOptions, CodeHost, CodeHostOptions, GitRequest, PullRequest, RecordedRequest, RehearsalError,
    SampleRepository, Script, ScriptedMessagesApi,
};

/// How a rehearsal is set up. The secrets are the caller's; without them they are `rehearsal-…`.
#[derive(Debug, Clone)]
pub struct RehearsalOptions {
    directory: PathBuf,
    script: Script,
    model_key: SecretString,
    forge_token: SecretString,
}

impl RehearsalOptions {
    /// A rehearsal of `script` that keeps its repositories in `directory`.
    pub fn new(directory: impl Into<PathBuf>, script: Script) -> Self {
        Self {
            directory: directory.into(),
            script,
            model_key: "rehearsal-model-key".into(),
            forge_token: "rehearsal-forge-token".into(),
        }
    }

    /// The only key that the model accepts.
    #[must_use]
    pub fn model_key(mut self, key: impl Into<SecretString>) -> Self {
        self.model_key = key.into();
        self
    }

    /// The only token that the forge and the git server accept.
    #[must_use]
    pub fn forge_token(mut self, token: impl Into<SecretString>) -> Self {
        self.forge_token = token.into();
        self
    }
}

/// Everything that Fabrica talks to, played on loopback.
///
/// It ends on [`shutdown`](Self::shutdown), or when it is dropped.
#[derive(Debug)]
pub struct Rehearsal {
    model: ScriptedMessagesApi,
    host: CodeHost,
    sample: SampleRepository,
}

impl Rehearsal {
    /// Starts all stand-ins and creates the sample repository.
    ///
    /// # Errors
    /// When the directory cannot be written, git is missing, or no port can be opened.
    pub async fn start(options: RehearsalOptions) -> Result<Self, RehearsalError> {
        let RehearsalOptions {
            directory,
            script,
            model_key,
            forge_token,
        } = options;
        let host = CodeHost::start(CodeHostOptions::new(directory, forge_token)).await?;
        let sample = SampleRepository::create(host.root()).await?;
        let api = ApiOptions {
            accepted_key: Some(model_key),
        };
        let model = ScriptedMessagesApi::start(script, api).await?;
        Ok(Self { model, host, sample })
    }

    /// The sample's URL, `http://127.0.0.1:PORT/acme/sample.git`.
    pub fn repository_url(&self) -> String {
        self.host.repository_url(SampleRepository::FULL_NAME)
    }

    /// Where the forge's API in GitHub's dialect begins.
    pub fn forge_api_url(&self) -> String {
        self.host.forge_api_url()
    }

    /// Where the forge's API in Gitea's dialect begins.
    pub fn gitea_api_url(&self) -> String {
        self.host.gitea_api_url()
    }

    /// The base URL of the Messages API.
    pub fn model_base_url(&self) -> String {
        self.model.base_url()
    }

    /// The model: its requests.
    pub fn model(&self) -> &ScriptedMessagesApi {
        &self.model
    }

    /// The forge and the git server.
    pub fn host(&self) -> &CodeHost {
        &self.host
    }

    /// The sample repository, as it lies on the git server.
    pub fn sample(&self) -> &SampleRepository {
        &self.sample
    }

    /// What the model was asked, in the order of arrival.
    pub fn model_requests(&self) -> Vec<RecordedRequest> {
        self.model.requests()
    }

    /// What the git server was asked, in the order of arrival.
    pub fn git_requests(&self) -> Vec<GitRequest> {
        self.host.git().requests()
    }

    /// The pull requests, in the order in which they were opened.
    pub fn pull_requests(&self) -> Vec<PullRequest> {
        self.host.forge().pull_requests()
    }

    /// Stops everything and waits for the end. The repositories stay in their directory.
    pub async fn shutdown(self) {
        self.model.shutdown().await;
        self.host.shutdown().await;
    }
}
