//! A code host: the stub forge and the git server at one address, as real ones are.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use secrecy::SecretString;

use super::{
    error::RehearsalError, forge::StubForge, git_server::GitServer, repository::BareRepository,
    server::Server,
};

/// How a code host is set up.
#[derive(Debug, Clone)]
pub struct CodeHostOptions {
    /// Where the bare repositories lie; it is created if it is missing.
    pub directory: PathBuf,
    /// The only credential that is accepted, for git and for the APIs.
    pub forge_token: SecretString,
    /// The labels that the repositories have from the beginning; their ids are their places, from 1.
    pub labels: Vec<String>,
    /// Whose review may be asked for; nobody listed means everybody.
    pub collaborators: BTreeSet<String>,
}

impl CodeHostOptions {
    /// A host with the labels `bug` and `agent`, where everybody may review.
    pub fn new(directory: impl Into<PathBuf>, forge_token: impl Into<SecretString>) -> Self {
        Self {
            directory: directory.into(),
            forge_token: forge_token.into(),
            labels: vec!["bug".to_owned(), "agent".to_owned()],
            collaborators: BTreeSet::new(),
        }
    }
}

/// Git repositories and a forge's APIs on one port of 127.0.0.1.
///
/// It ends on [`shutdown`](Self::shutdown), or when it is dropped.
#[derive(Debug)]
pub struct CodeHost {
    server: Server,
    root: PathBuf,
    forge: StubForge,
    git: GitServer,
}

impl CodeHost {
    /// Starts on a free port.
    ///
    /// # Errors
    /// When the directory cannot be made, git is missing, or no port can be opened.
    pub async fn start(options: CodeHostOptions) -> Result<Self, RehearsalError> {
        let CodeHostOptions {
            directory,
            forge_token,
            labels,
            collaborators,
        } = options;
        let root = std::fs::create_dir_all(&directory)
            .and_then(|()| directory.canonicalize())
            .map_err(|source| RehearsalError::Write {
                path: directory,
                source,
            })?;
        let git = GitServer::new(&root, forge_token.clone()).await?;
        let forge = StubForge::new(&root, forge_token, labels, collaborators);
        let (routes, fallback) = (forge.clone(), git.clone());
        let server = Server::start(|base_url, _| {
            routes
                .router(base_url)
                .fallback(move |request| fallback.clone().serve(request))
        })
        .await?;
        Ok(Self {
            server,
            root,
            forge,
            git,
        })
    }

    /// The address of both, without a slash at the end.
    pub fn base_url(&self) -> String {
        self.server.base_url()
    }

    /// Where the API in GitHub's dialect begins.
    pub fn forge_api_url(&self) -> String {
        format!("{}/api/v3", self.base_url())
    }

    /// Where the API in Gitea's dialect begins.
    pub fn gitea_api_url(&self) -> String {
        format!("{}/api/v1", self.base_url())
    }

    /// The URL to clone `owner/name` from, without a credential.
    pub fn repository_url(&self, full_name: &str) -> String {
        format!("{}/{full_name}.git", self.base_url())
    }

    /// Where the bare repositories lie, for [`BareRepository::create`].
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A repository by its name, whether it exists or not.
    ///
    /// # Errors
    /// When the name is not `owner/name`.
    pub fn repository(&self, full_name: &str) -> Result<BareRepository, RehearsalError> {
        BareRepository::at(&self.root, full_name)
    }

    /// The forge: its pull requests, its requests, its outages.
    pub fn forge(&self) -> &StubForge {
        &self.forge
    }

    /// The git server: its requests.
    pub fn git(&self) -> &GitServer {
        &self.git
    }

    /// Stops and waits for the end.
    pub async fn shutdown(self) {
        self.server.shutdown().await;
    }
}
