//! The one place that says which HTTP status, title and hint a code has.

use axum::http::StatusCode;

/// What is the same for every problem of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) status: StatusCode,
    pub(crate) title: &'static str,
    pub(crate) hint: &'static str,
}

const fn entry(status: StatusCode, title: &'static str, hint: &'static str) -> Entry {
    Entry { status, title, hint }
}

/// The entry of a code. Codes that no route can answer with are the server's own failure.
pub(crate) fn look_up(code: &str) -> Entry {
    plans(code)
        .or_else(|| sessions(code))
        .or_else(|| requests(code))
        .unwrap_or_else(|| server(code))
}

fn plans(code: &str) -> Option<Entry> {
    Some(match code {
        "plan.too_large" => entry(
            StatusCode::PAYLOAD_TOO_LARGE,
            "The plan is too large",
            "Keep the plan below 256 KiB: put long material into the repository and name it in the plan.",
        ),
        "plan.not_utf8" => entry(
            StatusCode::BAD_REQUEST,
            "The plan is not UTF-8",
            "Save the plan as UTF-8 and send it again.",
        ),
        "network.not_permitted" => entry(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The plan asks for connections that are not permitted",
            "Remove `network` from the plan, or put what is needed into the image.",
        ),
        _ if code.starts_with("plan.") => entry(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The plan cannot be accepted",
            "Correct the plan where `line` and `column` point, and send it again.",
        ),
        _ if code.starts_with("repository.") => entry(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The plan's repository cannot be accepted",
            "Name the repository by a URL that this installation accepts, such as https://host/owner/name.git.",
        ),
        _ => return None,
    })
}

fn sessions(code: &str) -> Option<Entry> {
    Some(match code {
        "id.invalid" => entry(
            StatusCode::BAD_REQUEST,
            "The id is not valid",
            "Use the `sessionId` that POST /run answered with.",
        ),
        "session.not_found" => entry(
            StatusCode::NOT_FOUND,
            "There is no such session",
            "GET /sessions lists the sessions that there are.",
        ),
        "session.idempotency_conflict" => entry(
            StatusCode::CONFLICT,
            "The idempotency key was used for another plan",
            "Use a new Idempotency-Key for every new plan; repeat one only with the same plan.",
        ),
        "question.not_found" => entry(
            StatusCode::NOT_FOUND,
            "There is no such question",
            "GET /sessions/{id}/questions lists the questions that the session has asked.",
        ),
        "question.not_open" => entry(
            StatusCode::CONFLICT,
            "The session waits for no answer",
            "GET the session for its status; a session that has ended is not answered any more.",
        ),
        "question.already_answered" => entry(
            StatusCode::CONFLICT,
            "The question has an answer already",
            "The first answer stands, and the session goes on with it; `question` tells what it is.",
        ),
        "answer.empty" | "answer.too_long" | "answer.name_invalid" | "answer.other_repository" => entry(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The answer cannot be accepted",
            "Correct what `detail` names, and send the answer again.",
        ),
        "note.empty" | "note.too_long" | "note.name_invalid" => entry(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The note cannot be accepted",
            "Correct what `detail` names, and send the note again.",
        ),
        "session.waits_for_answer" => entry(
            StatusCode::CONFLICT,
            "The session waits for an answer",
            "POST the answer to /sessions/{id}/answer; GET /sessions/{id}/questions tells what is asked.",
        ),
        "session.already_ended" => entry(
            StatusCode::CONFLICT,
            "The session has ended already",
            "Nothing has to be done: GET the session for its outcome.",
        ),
        _ => return None,
    })
}

fn requests(code: &str) -> Option<Entry> {
    Some(match code {
        "auth.required" => entry(
            StatusCode::UNAUTHORIZED,
            "A token is required",
            "Send `Authorization: Bearer TOKEN`, with FABRICA_API_TOKEN or the token that the server printed at its first start.",
        ),
        "auth.invalid" => entry(
            StatusCode::UNAUTHORIZED,
            "The token is not valid",
            "Use FABRICA_API_TOKEN or the token that the server printed at its first start. If that is lost, start the server with FABRICA_API_TOKEN.",
        ),
        "request.forbidden_origin" => entry(
            StatusCode::FORBIDDEN,
            "The request comes from a foreign web page",
            "Call the API from a program, or name the page's host with --public-host.",
        ),
        "request.misdirected" => entry(
            StatusCode::MISDIRECTED_REQUEST,
            "This server does not answer for that host",
            "Use a loopback name, or name the host with --public-host when the server is started.",
        ),
        "request.route_not_found" => entry(
            StatusCode::NOT_FOUND,
            "There is no such route",
            "The routes are /health, /run, /sessions, /sessions/{id}, and below it /messages, /transcript, /questions, /answer, /say and /cancel.",
        ),
        "request.method_not_allowed" => entry(
            StatusCode::METHOD_NOT_ALLOWED,
            "The route has no such method",
            "The `Allow` header names the methods that it has.",
        ),
        "request.unsupported_media_type" => entry(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "The body is not markdown",
            "Send the plan itself as `Content-Type: text/markdown`, uncompressed. With curl: --data-binary @plan.md -H 'Content-Type: text/markdown'.",
        ),
        "request.not_json" => entry(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "The body is not announced as JSON",
            "Send `Content-Type: application/json`, uncompressed.",
        ),
        "request.invalid_json" => entry(
            StatusCode::BAD_REQUEST,
            "The body is not the JSON that is expected",
            "Correct what `detail` names, and send the request again.",
        ),
        "request.too_large" => entry(
            StatusCode::PAYLOAD_TOO_LARGE,
            "The body is too large",
            "Keep the body below 1 MiB.",
        ),
        "request.invalid_submitter" => entry(
            StatusCode::BAD_REQUEST,
            "The submitter's name is not valid",
            "Send one Fabrica-Submitter of 1 to 100 visible ASCII characters, or none.",
        ),
        "request.invalid_idempotency_key" => entry(
            StatusCode::BAD_REQUEST,
            "The idempotency key is not valid",
            "Send one Idempotency-Key of 1 to 255 visible ASCII characters, such as a UUID.",
        ),
        "request.invalid_query" => entry(
            StatusCode::BAD_REQUEST,
            "The query is not valid",
            "Correct the parameter that `detail` names.",
        ),
        "request.incomplete_body" => entry(
            StatusCode::BAD_REQUEST,
            "The body did not arrive whole",
            "Send the request again.",
        ),
        "request.timeout" => entry(
            StatusCode::REQUEST_TIMEOUT,
            "The body took too long to arrive",
            "Send the request again.",
        ),
        _ => return None,
    })
}

fn server(code: &str) -> Entry {
    match code {
        "database.unavailable" => entry(
            StatusCode::SERVICE_UNAVAILABLE,
            "The database does not answer",
            "Try again in a few seconds, with the same Idempotency-Key. If it lasts, look into the server's log.",
        ),
        "server.timeout" => entry(
            StatusCode::SERVICE_UNAVAILABLE,
            "The server is too slow to answer",
            "Try again in a few seconds, with the same Idempotency-Key. If it lasts, look into the server's log.",
        ),
        _ => entry(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The server failed",
            "Look into the server's log for the `x-request-id` of this answer.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_nobody_knows_is_the_servers_own_failure() {
        assert_eq!(
            look_up("session.fenced").status,
            StatusCode::INTERNAL_SERVER_ERROR
        );
    }

    #[test]
    fn every_hint_is_a_sentence() {
        for code in [
            "plan.syntax",
            "repository.unsupported",
            "id.invalid",
            "auth.required",
            "x",
        ] {
            assert!(look_up(code).hint.ends_with('.'), "{code}");
        }
    }
}
