//! Which headers pass the gateway: those on these lists, nothing else. Credentials, cookies, hop-by-hop headers and
//! whatever speaks of proxies are on none of them.

use http::HeaderMap;

/// What a client of the model API may say. Not which encodings it takes: the gateway reads the answers.
pub(crate) fn to_model(name: &str) -> bool {
    name.starts_with("x-stainless-")
        || matches!(
            name,
            "accept"
                | "anthropic-beta"
                | "anthropic-dangerous-direct-browser-access"
                | "anthropic-version"
                | "content-encoding"
                | "content-length"
                | "content-type"
                | "idempotency-key"
                | "user-agent"
                | "x-app"
                | "x-claude-code-session-id"
        )
}

/// What the model API may answer.
pub(crate) fn from_model(name: &str) -> bool {
    name.starts_with("anthropic-ratelimit-")
        || matches!(
            name,
            "cache-control"
                | "content-encoding"
                | "content-length"
                | "content-type"
                | "date"
                | "request-id"
                | "retry-after"
                | "retry-after-ms"
                | "x-should-retry"
        )
}

/// What git may say to a code host.
pub(crate) fn to_code_host(name: &str) -> bool {
    matches!(
        name,
        "accept"
            | "accept-encoding"
            | "content-encoding"
            | "content-length"
            | "content-type"
            | "git-protocol"
            | "user-agent"
    )
}

/// What a code host may answer.
pub(crate) fn from_code_host(name: &str) -> bool {
    matches!(
        name,
        "cache-control" | "content-encoding" | "content-length" | "content-type" | "expires" | "pragma"
    )
}

/// The headers that a list lets pass.
pub(crate) fn passing(headers: &HeaderMap, may_pass: impl Fn(&str) -> bool) -> HeaderMap {
    headers
        .iter()
        .filter(|(name, _)| may_pass(name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
