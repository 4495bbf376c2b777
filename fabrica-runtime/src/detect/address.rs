//! Where an engine listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`, without TLS. Docker only.
    Tcp(String),
}

/// The text is not an address that Fabrica can use.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not an address such as unix:///run/docker.sock or tcp://127.0.0.1:2375")]
pub struct InvalidAddress(String);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.chars().take(200).collect());
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("tcp" | "http", host)) => {
                let host = host.trim_end_matches('/');
                let port = host
                    .rsplit_once(':')
                    .and_then(|(_, port)| port.parse::<u16>().ok());
                let plain = host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte));
                if plain && port.is_some() {
                    Ok(Self::Tcp(host.to_owned()))
                } else {
                    Err(invalid())
                }
            }
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_plain_tcp_are_addresses_and_nothing_else() {
        assert_eq!(
            "unix:///run/x.sock".parse(),
            Ok(Address::Unix("/run/x.sock".into()))
        );
        assert_eq!(
            "tcp://127.0.0.1:2375".parse(),
            Ok(Address::Tcp("127.0.0.1:2375".to_owned()))
        );
        assert_eq!(
            "http://[::1]:2375/".parse(),
            Ok(Address::Tcp("[::1]:2375".to_owned()))
        );
        for text in [
            "",
            "unix://relative",
            "ssh://host",
            "tcp://host",
            "tcp://user@host:1",
            "/run/x.sock",
            "npipe:////x",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }
}
