//! Putting the parts together.

use std::sync::Arc;

use fabrica_core::clock::{Entropy as _, SystemEntropy};
use fabrica_core::ids::WorkerId;
use fabrica_core::orchestrator::{Options, Orchestrator};
use fabrica_core::ports::runtime::Capabilities;
use fabrica_core::ports::{ContainerRuntime, Forge, Gateway, Store};
use fabrica_gateway::forges::{ForgeConfig, Forges};
use fabrica_gateway::{GatewayLimits, GatewayOptions, GitCredential, GitCredentials, UnixGateway};

use super::directories::foreign;
use super::engine::{Engine, connect_engine};
use super::error::AssemblyError;
use super::presence::LockFiles;
use super::runner::{find_runner, stage_agent, stage_runner};
use super::settings::{ForgeSettings, Settings};
use super::store;

/// The parts, ready to work.
#[derive(Debug)]
pub struct Assembly {
    /// The orchestration over all of them.
    pub orchestrator: Orchestrator,
    /// The database.
    pub store: Arc<dyn Store>,
    /// The engine.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// What the engine is and can do.
    pub capabilities: Capabilities,
    /// The sandboxes' way out.
    pub gateway: Arc<dyn Gateway>,
    /// The forges.
    pub forge: Arc<dyn Forge>,
    engine: Engine,
}

impl Assembly {
    /// Ends what was started for it: an engine's service, if no engine answered. Call it when no session runs any more.
    pub async fn shutdown(self) {
        drop(self.orchestrator);
        self.engine.shutdown().await;
    }
}

/// Connects to the database and the engine, and puts all parts together. Nothing is claimed yet.
///
/// # Errors
///
/// [`AssemblyError`], with what to do. What was started until then is ended.
pub async fn assemble(settings: &Settings) -> Result<Assembly, AssemblyError> {
    let store = store::connect(settings.database.as_ref(), &settings.directories).await?;
    let engine = connect_engine(settings.runtime).await?;
    finish(settings, store, engine).await
}

/// The same on an engine that is connected already.
///
/// # Errors
///
/// As [`assemble`].
pub async fn assemble_on(settings: &Settings, engine: Engine) -> Result<Assembly, AssemblyError> {
    match store::connect(settings.database.as_ref(), &settings.directories).await {
        Ok(store) => finish(settings, store, engine).await,
        Err(error) => {
            engine.shutdown().await;
            Err(error)
        }
    }
}

async fn finish(
    settings: &Settings,
    store: Arc<dyn Store>,
    engine: Engine,
) -> Result<Assembly, AssemblyError> {
    match put_together(settings, store, &engine).await {
        Ok(parts) => Ok(parts.with(engine)),
        Err(error) => {
            engine.shutdown().await;
            Err(error)
        }
    }
}

struct Parts {
    orchestrator: Orchestrator,
    store: Arc<dyn Store>,
    gateway: Arc<dyn Gateway>,
    forge: Arc<dyn Forge>,
}

impl Parts {
    fn with(self, engine: Engine) -> Assembly {
        Assembly {
            orchestrator: self.orchestrator,
            store: self.store,
            runtime: engine.runtime.clone(),
            capabilities: engine.capabilities.clone(),
            gateway: self.gateway,
            forge: self.forge,
            engine,
        }
    }
}

async fn put_together(
    settings: &Settings,
    store: Arc<dyn Store>,
    engine: &Engine,
) -> Result<Parts, AssemblyError> {
    let host_user = engine.capabilities.host_user;
    let runner = find_runner(settings.sandbox.runner.as_deref())?;
    let mut options = Options::new(worker(), stage_runner(&runner, &settings.directories, host_user)?);
    settings.apply(&mut options);
    options.owner = store::installation(&*store).await?;
    if let Some(claude) = &settings.sandbox.claude {
        options.sandbox.agent = Some(stage_agent(claude, &settings.directories, host_user)?);
    }
    let sockets = settings.directories.sockets(host_user)?;
    let presence = LockFiles::announce(&sockets, &options.owner, &options.worker).map_err(|source| {
        AssemblyError::Directory {
            action: "write",
            path: sockets.clone(),
            source,
        }
    })?;
    let gateway: Arc<dyn Gateway> = Arc::new(UnixGateway::new(GatewayOptions {
        directory: sockets,
        owner: foreign(host_user),
        model: settings.model.clone(),
        git: git_credentials(settings),
        large_file_hosts: settings.large_file_hosts.clone(),
        signing_key: settings.signing_key.clone(),
        limits: GatewayLimits::default(),
    })?);
    let forge: Arc<dyn Forge> = Arc::new(Forges::new(settings.forges.iter().map(forge_config))?);
    let orchestrator = Orchestrator::builder(store.clone(), engine.runtime.clone(), gateway.clone(), options)
        .forge(forge.clone())
        .presence(Arc::new(presence))
        .build();
    Ok(Parts {
        orchestrator,
        store,
        gateway,
        forge,
    })
}

fn git_credentials(settings: &Settings) -> GitCredentials {
    settings
        .forges
        .iter()
        .fold(GitCredentials::new(), |known, forge| match &forge.token {
            Some(token) => known.with(forge.forge.host.as_str(), GitCredential::token(token.clone())),
            None => known,
        })
}

fn forge_config(settings: &ForgeSettings) -> ForgeConfig {
    ForgeConfig {
        authority: settings.forge.host.clone(),
        kind: settings.forge.kind,
        api_url: Some(settings.forge.api.clone()),
        token: settings.token.clone(),
    }
}

/// Unique among the processes that share a database, and telling for whoever reads it there.
fn worker() -> WorkerId {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host
        .trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c))
        .take(40)
        .collect();
    let mut bytes = [0_u8; 4];
    SystemEntropy.fill(&mut bytes);
    let random = u32::from_ne_bytes(bytes);
    WorkerId::new(format!(
        "{}-{}-{random:08x}",
        if host.is_empty() { "host" } else { &host },
        std::process::id()
    ))
}
