//! The settings under which everything talks to the stand-ins.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use fabrica_cli::assembly::{
    DataArgs, Directories, Environment, ForgeKind, ForgeOption, ForgeSettings, Settings, signing_key,
};
use fabrica_cli::rehearsal::Rehearsal;
use fabrica_core::plan::RepositoryPolicy;
use fabrica_core::pricing::PriceList;
use fabrica_gateway::{ModelCredential, ModelUpstream};
use secrecy::SecretString;
use url::Url;

use super::DemoArgs;
use crate::exit::Exit;
use crate::problem::Problem;

/// What the stand-ins accept; made anew for each demonstration.
pub(super) struct Secrets {
    pub(super) model_key: SecretString,
    pub(super) forge_token: SecretString,
}

pub(super) fn directories(args: &DataArgs) -> Directories {
    Directories::resolve(args, &Environment::of_process())
}

pub(super) fn settings(
    args: &DemoArgs,
    rehearsal: &Rehearsal,
    secrets: &Secrets,
    directory: &Path,
) -> Result<Settings, Problem> {
    let address = |text: String| {
        Url::parse(&text)
            .map_err(|error| Problem::new(Exit::Failure, "demo.stand_in", format!("{text}: {error}")))
    };
    let repository = address(rehearsal.repository_url())?;
    let host = repository.authority().to_owned();
    let database = args.database.clone();
    let temporary = || directory.join("demo.sqlite").display().to_string().into();
    Ok(Settings {
        prices: Arc::new(PriceList::builtin()),
        signing_key: signing_key(&args.worker)?,
        database: Some(database.unwrap_or_else(temporary)),
        directories: directories(&args.data),
        runtime: args.runtime.runtime,
        model: ModelUpstream {
            base_url: address(rehearsal.model_base_url())?,
            credential: ModelCredential::ApiKey(secrets.model_key.clone()),
        },
        forges: vec![ForgeSettings {
            forge: ForgeOption {
                kind: ForgeKind::GitHub,
                host: host.clone(),
                api: address(rehearsal.forge_api_url())?,
            },
            token: Some(secrets.forge_token.clone()),
        }],
        repositories: RepositoryPolicy {
            local_paths: false,
            hosts: Some(vec![host.clone()]),
            plain_http: vec![host],
        },
        // The stand-in of the demonstration keeps no large files.
        large_file_hosts: BTreeSet::new(),
        sandbox: args.sandbox.clone(),
        worker: args.worker.clone(),
    })
}
