//! What is tried, in which order, and how an engine is told from the other.

use fabrica_core::ports::Source;

use super::{Address, EngineAddresses, RuntimeChoice};
use crate::client;

/// A place where an engine may listen.
#[derive(Debug)]
pub(super) struct Candidate {
    /// Where it was read, for people.
    pub(super) origin: String,
    pub(super) address: Result<Address, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Docker,
    Podman,
}

pub(super) fn of(choice: RuntimeChoice, addresses: &EngineAddresses) -> Vec<Candidate> {
    let named = |variable: &str, value: &Option<String>| match value {
        Some(text) => Candidate {
            origin: variable.to_owned(),
            address: text
                .parse()
                .map_err(|error: super::InvalidAddress| error.to_string()),
        },
        None => Candidate {
            origin: variable.to_owned(),
            address: Err("not set".to_owned()),
        },
    };
    let usual = |engine: &str, path: &std::path::PathBuf| Candidate {
        origin: format!("{engine}'s usual socket"),
        address: Ok(Address::Unix(path.clone())),
    };
    let mut all = Vec::new();
    if choice != RuntimeChoice::Podman {
        all.push(named("DOCKER_HOST", &addresses.docker_host));
        all.extend(addresses.docker_sockets.iter().map(|path| usual("Docker", path)));
    }
    if choice != RuntimeChoice::Docker {
        all.push(named("CONTAINER_HOST", &addresses.container_host));
        all.extend(addresses.podman_sockets.iter().map(|path| usual("Podman", path)));
    }
    all
}

/// Asks what listens there. Podman speaks Docker's language too, so a Docker address may lead to it.
pub(super) async fn ask(address: &Address) -> Result<Kind, String> {
    let failed = |error: &dyn std::error::Error| {
        let mut cause = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        format!("{address}: {cause}")
    };
    let (client, host) = match address {
        Address::Unix(path) => (client::builder().unix_socket(path.as_path()), "engine"),
        Address::Tcp(host) => (client::builder(), host.as_str()),
    };
    let client = client.build().map_err(|error| failed(&error))?;
    let answer = client.get(format!("http://{host}/_ping")).send().await;
    let answer = answer.map_err(|error| {
        let error: Source = Box::new(error.without_url());
        failed(&*error)
    })?;
    if !answer.status().is_success() {
        return Err(format!(
            "{address}: what answers there is no container engine ({})",
            answer.status()
        ));
    }
    if answer.headers().contains_key("libpod-api-version") {
        Ok(Kind::Podman)
    } else if answer.headers().contains_key("api-version") {
        Ok(Kind::Docker)
    } else {
        Err(format!("{address}: what answers there is no container engine"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> EngineAddresses {
        EngineAddresses {
            docker_host: Some("ssh://host".to_owned()),
            docker_sockets: vec!["/d.sock".into()],
            podman_sockets: vec!["/user.sock".into(), "/root.sock".into()],
            ..EngineAddresses::default()
        }
    }

    fn tried(choice: RuntimeChoice) -> Vec<String> {
        of(choice, &addresses())
            .into_iter()
            .map(|one| {
                one.address
                    .map_or_else(|reason| reason, |address| address.to_string())
            })
            .collect()
    }

    #[test]
    fn docker_is_tried_before_podman_and_what_is_named_before_what_is_usual() {
        let all = tried(RuntimeChoice::Auto);
        assert!(all[0].contains("ssh://host"), "{all:?}");
        assert_eq!(
            all[1..],
            [
                "unix:///d.sock",
                "not set",
                "unix:///user.sock",
                "unix:///root.sock"
            ]
        );
        assert_eq!(tried(RuntimeChoice::Docker), all[..2]);
        assert_eq!(tried(RuntimeChoice::Podman), all[2..]);
    }
}
