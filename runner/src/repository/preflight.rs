//! Whether the repository can be reached, asked before git is: the gateway's refusals carry a code.

use std::time::Duration;

use fabrica_core::failure::Failure;
use tokio::time::sleep;

use crate::gateway::{Gateway, GatewayError, Service};

/// How often a git host that cannot be reached is asked for.
const TRIES: u32 = 4;
/// The pause after the first try; it grows.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause while the gateway itself is away: one that is back is found within about a second.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Asks for the repository. A gateway that is away is waited for; a host that is away is asked a few times.
pub(crate) async fn preflight(gateway: &Gateway, service: Service) -> Result<(), Failure> {
    let mut waits = 0;
    let mut tries = 0;
    loop {
        let pause = match gateway.advertisement(service).await {
            Ok(()) => return Ok(()),
            Err(error) if error.away() => {
                waits += 1;
                (PAUSE * waits).min(LONGEST_PAUSE)
            }
            Err(error) => {
                let failure = refused(&error, service);
                tries += 1;
                if !failure.retryable || tries == TRIES {
                    return Err(failure);
                }
                PAUSE * 2_u32.pow(tries - 1)
            }
        };
        sleep(pause).await;
    }
}

/// What a request for the repository that went wrong means.
pub(crate) fn refused(error: &GatewayError, service: Service) -> Failure {
    let GatewayError::Refused { status, code, text } = error else {
        return Failure::new(
            "repository.unreachable",
            error.to_string(),
            advice("repository.unreachable"),
        )
        .retryable();
    };
    let code = code
        .clone()
        .unwrap_or_else(|| by_status(status.as_u16(), service).to_owned());
    let cause = match text.lines().find(|line| !line.trim().is_empty()) {
        // The gateway begins with its name, for those who see it in git's output.
        Some(line) => line.strip_prefix("fabrica: ").unwrap_or(line).to_owned(),
        None => format!("the request for the repository was answered with {status}"),
    };
    let failure = Failure::new(code.clone(), cause, advice(&code)).with_diagnosis(text.lines());
    if status.is_server_error() || status.as_u16() == 429 {
        failure.retryable()
    } else {
        failure
    }
}

fn by_status(status: u16, service: Service) -> &'static str {
    match (status, service) {
        (401 | 403, Service::ReceivePack) => "push.denied",
        (401 | 403, Service::UploadPack | Service::Submodule(_)) => "repository.denied",
        (404 | 410, _) => "repository.not_found",
        _ => "repository.unreachable",
    }
}

fn advice(code: &str) -> &'static str {
    match code {
        "repository.not_found" => {
            "Check the address in the plan's `repo`; a private repository looks the same to a token that may not see it."
        }
        "repository.denied" => "Give Fabrica's git token the right to read this repository.",
        "push.denied" => "Give Fabrica's git token the right to push branches to this repository.",
        "repository.unreachable" => {
            "Check that the machine that runs Fabrica reaches the git host, then run the plan again."
        }
        _ => "Read the cause; then correct the plan or Fabrica's settings and run the plan again.",
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    fn refusal(status: u16, code: Option<&str>, text: &str) -> GatewayError {
        let status = StatusCode::from_u16(status).unwrap();
        GatewayError::Refused {
            status,
            code: code.map(str::to_owned),
            text: text.to_owned(),
        }
    }

    #[test]
    fn the_gateways_code_and_words_are_handed_on() {
        let error = refusal(
            404,
            Some("repository.not_found"),
            "fabrica: acme/gone does not exist\n",
        );
        let told = refused(&error, Service::UploadPack);
        assert_eq!(
            (told.code.as_str(), told.cause.as_str()),
            ("repository.not_found", "acme/gone does not exist")
        );
        assert!(told.advice.contains("`repo`") && !told.retryable);
    }

    #[test]
    fn without_a_code_the_status_says_what_it_is() {
        let code = |status, service| refused(&refusal(status, None, ""), service).code;
        assert_eq!(code(401, Service::UploadPack), "repository.denied");
        assert_eq!(code(403, Service::ReceivePack), "push.denied");
        assert_eq!(code(404, Service::UploadPack), "repository.not_found");
        let away = refused(&refusal(502, None, ""), Service::UploadPack);
        assert!(away.code == "repository.unreachable" && away.retryable && away.cause.contains("502"));
    }
}
