//! The bearer token.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use fabrica_core::secrets::TokenHash;
use subtle::ConstantTimeEq as _;

use crate::problem::Problem;
use crate::state::AppState;

/// The only route that answers without a token.
const OPEN: &str = "/health";

/// Lets a request through that shows the token.
pub(crate) async fn authenticate(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if request.uri().path() != OPEN {
        verify(request.headers(), &state.token)?;
    }
    Ok(next.run(request).await)
}

fn verify(headers: &HeaderMap, expected: &TokenHash) -> Result<(), Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, more) = (values.next(), values.next());
    let Some(token) = value.and_then(bearer) else {
        return Err(
            Problem::new("auth.required", "the request has no bearer token").with_header(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(r#"Bearer realm="fabrica""#),
            ),
        );
    };
    // Hashes of equal length are compared, in constant time: nothing can be learnt from how long it takes.
    let same = TokenHash::of(token).as_bytes().ct_eq(expected.as_bytes());
    if more.is_none() && bool::from(same) {
        return Ok(());
    }
    let challenge = HeaderValue::from_static(r#"Bearer realm="fabrica", error="invalid_token""#);
    Err(
        Problem::new("auth.invalid", "the bearer token is not the one of this server")
            .with_header(header::WWW_AUTHENTICATE, challenge),
    )
}

/// The token of `Bearer TOKEN`; the scheme's letter case does not matter.
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(values: &[&str]) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        verify(&headers, &TokenHash::of("the-right-token-1"))
            .err()
            .map(|problem| problem.code())
    }

    #[test]
    fn only_the_right_token_alone_is_let_through() {
        for good in [
            "Bearer the-right-token-1",
            "bearer the-right-token-1",
            "BEARER  the-right-token-1",
        ] {
            assert_eq!(code(&[good]), None, "{good}");
        }
        let required = [
            "",
            "Bearer",
            "Bearer ",
            "Basic the-right-token-1",
            "the-right-token-1",
            "Bearer\tx",
        ];
        for bad in required {
            assert_eq!(code(&[bad]), Some("auth.required"), "{bad}");
        }
        for bad in [
            "the-right-token-",
            "the-right-token-1 x",
            "the-right-token-1,",
            "THE-RIGHT-TOKEN-1",
            "\"\"",
        ] {
            assert_eq!(code(&[&format!("Bearer {bad}")]), Some("auth.invalid"), "{bad}");
        }
    }

    #[test]
    fn two_headers_are_one_too_many() {
        assert_eq!(
            code(&["Bearer the-right-token-1", "Bearer other"]),
            Some("auth.invalid")
        );
        assert_eq!(code(&[]), Some("auth.required"));
    }
}
