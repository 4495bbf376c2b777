//! What git runs instead of `ssh-keygen` to sign: `-Y sign -n git -f KEY [-U] FILE` writes `FILE.sig`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use fabrica_core::protocol::{AGENT_TOKEN_VARIABLE, MAX_SIGNED_BYTES};
use tokio::time::{Instant, sleep};

use super::{AWAY, REFUSED};
use crate::environment::{Environment, SOCKET_VARIABLE, Token};
use crate::gateway::{Gateway, GatewayError};
use crate::socket::Socket;

/// How long a gateway that is away is waited for.
const PATIENCE: Duration = Duration::from_mins(1);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(300);

/// What the environment of a git has to have so that it can sign. The agent has both anyway.
pub(crate) fn variables(environment: &Environment) -> [(&'static str, OsString); 2] {
    [
        (AGENT_TOKEN_VARIABLE, environment.agent_token.expose().into()),
        (SOCKET_VARIABLE, environment.socket.clone().into()),
    ]
}

/// Does what git asks for, and says to git why it cannot.
pub(crate) fn sign(arguments: &[&str]) -> ExitCode {
    match answer(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            // Git shows it behind a word of its own. Nobody is left to tell if this fails.
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{words}\n"));
            ExitCode::FAILURE
        }
    }
}

fn answer(arguments: &[&str]) -> Result<(), String> {
    let file = match arguments {
        ["sign", "-n", "git", "-f", _, "-U", file] | ["sign", "-n", "git", "-f", _, file] => Path::new(*file),
        _ => return Err("this signs commits for git, and does nothing else".to_owned()),
    };
    let refused = |words: String| format!("{REFUSED}{words}");
    let unusable = |error: io::Error| refused(format!("{}: {error}", file.display()));
    let payload = read(file).map_err(unusable)?;
    let missing = |name| refused(format!("{name} is not set: it is for whatever the agent starts"));
    let token = std::env::var(AGENT_TOKEN_VARIABLE).map_err(|_| missing(AGENT_TOKEN_VARIABLE))?;
    let socket = std::env::var_os(SOCKET_VARIABLE).ok_or_else(|| missing(SOCKET_VARIABLE))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(unusable)?;
    let signature = runtime.block_on(async {
        let socket = Socket::new(socket.into());
        // So that a connection to a frozen gateway is cut as soon as another has taken its place.
        tokio::spawn(socket.clone().watch());
        ask(&Gateway::of_agent(Token::from(token.as_str()), socket), payload).await
    })?;
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    std::fs::write(name, signature).map_err(unusable)
}

/// One byte more than fits, so that the gateway can say that it is too long.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut payload = Vec::new();
    let limit = MAX_SIGNED_BYTES as u64 + 1;
    File::open(file)?.take(limit).read_to_end(&mut payload)?;
    Ok(payload)
}

/// Asks for the signature until there is an answer.
async fn ask(gateway: &Gateway, payload: Vec<u8>) -> Result<Vec<u8>, String> {
    let started = Instant::now();
    loop {
        match gateway.signature(payload.clone()).await {
            Ok(signature) => return Ok(signature.into()),
            Err(error) if error.away() && started.elapsed() < PATIENCE => sleep(PAUSE).await,
            Err(error) if error.away() => return Err(format!("{AWAY}{error}")),
            Err(error) => return Err(format!("{REFUSED}{}", words(&error))),
        }
    }
}

/// What the gateway said, with its code.
fn words(error: &GatewayError) -> String {
    let GatewayError::Refused { status, code, text } = error else {
        return error.to_string();
    };
    let text = crate::text::one_line(text);
    let text = text.strip_prefix("fabrica: ").unwrap_or(&text);
    match code {
        Some(code) => format!("{text} ({code})"),
        None => format!("{text} ({status})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_is_away_for_too_long_is_told_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let socket = Socket::new(directory.path().join("gateway.sock"));
        let started = Instant::now();
        let words = ask(&Gateway::of_agent(Token::from("token"), socket), vec![])
            .await
            .unwrap_err();
        assert!(words.starts_with(AWAY), "{words}");
        assert!(started.elapsed() >= PATIENCE);
    }

    #[test]
    fn nothing_but_signing_for_git_is_done() {
        for arguments in [
            &["sign", "-n", "file", "-f", "key", "payload"][..],
            &["verify", "-n", "git", "-f", "allowed", "payload"],
            &["sign"],
            &[],
        ] {
            let words = answer(arguments).unwrap_err();
            // Git takes a usage for a program that is too old.
            assert!(
                words.contains("nothing else") && !words.contains("usage:"),
                "{words}"
            );
        }
    }
}
