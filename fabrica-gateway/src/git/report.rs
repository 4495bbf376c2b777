//! What the gateway answers to a push by itself.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use fabrica_core::protocol::CODE_HEADER;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};

use super::packet::{self, FLUSH};
use super::push::{PushRequest, Reason};
use crate::refusal::{Area, Refusal};

/// The side band that carries the protocol's own data.
const DATA: u8 = 1;

/// The answer to a push of nothing.
pub(super) fn empty() -> Response {
    result(Vec::new())
}

/// A refusal that git prints for each ref, as if the code host had refused it:
/// `! [remote rejected] main -> main (…)`.
pub(super) fn refusal(request: &PushRequest, reason: &Reason) -> Response {
    let status = ["report-status", "report-status-v2"]
        .iter()
        .any(|capability| request.has(capability));
    if !status {
        let detail = format!("fabrica: {} ({})", reason.sentence, reason.code);
        return Refusal::forbidden(reason.code, detail).in_area(Area::Git);
    }
    let mut report = Vec::new();
    packet::write(&mut report, b"unpack ok\n");
    for command in &request.commands {
        let line = format!(
            "ng {} fabrica: {} ({})\n",
            command.name, reason.sentence, reason.code
        );
        packet::write(&mut report, line.as_bytes());
    }
    report.extend_from_slice(FLUSH);
    let body = if request.has("side-band-64k") {
        side_band(&report)
    } else {
        report
    };
    let mut response = result(body);
    response
        .headers_mut()
        .insert(CODE_HEADER, HeaderValue::from_static(reason.code));
    response
}

fn side_band(report: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    // Far below the longest packet, since a long list of refs may have long names.
    for chunk in report.chunks(8 * 1024) {
        let mut packet = vec![DATA];
        packet.extend_from_slice(chunk);
        packet::write(&mut body, &packet);
    }
    body.extend_from_slice(FLUSH);
    body
}

fn result(body: Vec<u8>) -> Response {
    let mut response = (StatusCode::OK, Body::from(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-git-receive-pack-result"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
