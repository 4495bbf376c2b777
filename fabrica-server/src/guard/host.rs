//! Against web pages in the operator's browser: DNS rebinding (the page's own name resolves to this server) and
//! cross-site requests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, header, uri::Authority};
use axum::middleware::Next;
use axum::response::Response;
use url::Url;

use crate::error::ServerError;
use crate::problem::Problem;
use crate::state::AppState;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The names that the server answers for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostPolicy {
    hosts: Vec<String>,
    public: Vec<String>,
    /// Whether every address is this machine's: the server listens on all of them. A literal address is not a name,
    /// so nobody can make it resolve to this server.
    any_address: bool,
}

impl HostPolicy {
    /// Loopback names only.
    pub fn loopback() -> Self {
        Self::default()
    }

    /// Loopback names, the host of the address that is listened on (`host:port`), and the names by which a proxy in
    /// front is known.
    ///
    /// # Errors
    ///
    /// [`ServerError::InvalidAddress`] if the address or a name is none.
    pub fn new<I>(listen: &str, public: I) -> Result<Self, ServerError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let invalid = |address: &str| ServerError::InvalidAddress {
            address: address.to_owned(),
        };
        let host = authority(listen).filter(|authority| authority.port().is_some());
        let host = normal(host.ok_or_else(|| invalid(listen))?.host());
        let public = public
            .into_iter()
            .map(|name| {
                authority(name.as_ref())
                    .map(|it| normal(it.host()))
                    .ok_or_else(|| invalid(name.as_ref()))
            })
            .collect::<Result<_, _>>()?;
        let any_address = address(&host).is_some_and(|address| address.is_unspecified());
        Ok(Self {
            hosts: vec![host],
            public,
            any_address,
        })
    }

    fn answers_for(&self, host: &str) -> bool {
        let loopback = match address(host) {
            Some(address) => self.any_address || is_loopback(address),
            None => host == "localhost",
        };
        loopback || self.hosts.iter().chain(&self.public).any(|known| known == host)
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        let named = named_host(request).filter(|authority| self.answers_for(&normal(authority.host())));
        let Some(named) = named else {
            return Err(Problem::new(
                "request.misdirected",
                "the request names no host that this server answers for",
            ));
        };
        let headers = request.headers();
        let own_page =
            self.is_own_page(headers, &named) && headers.get_all(SEC_FETCH_SITE).iter().all(is_same_site);
        if own_page {
            Ok(())
        } else {
            Err(Problem::new(
                "request.forbidden_origin",
                "the request was made by a page of another site",
            ))
        }
    }

    /// Whether every `Origin`, if there is one, is this server itself or a public name of it.
    fn is_own_page(&self, headers: &HeaderMap, named: &Authority) -> bool {
        headers.get_all(header::ORIGIN).iter().all(|value| {
            let url = value.to_str().ok().and_then(|text| Url::parse(text).ok());
            let Some(url) = url.filter(|url| matches!(url.scheme(), "http" | "https")) else {
                return false;
            };
            let host = normal(url.host_str().unwrap_or_default());
            let default_port = if url.scheme() == "https" { 443 } else { 80 };
            let same_port = url.port_or_known_default() == Some(named.port_u16().unwrap_or(default_port));
            self.public.contains(&host) || (host == normal(named.host()) && same_port)
        })
    }
}

/// Lets a request through that names this server and does not come from a foreign page.
pub(crate) async fn check(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    state.hosts.check(&request)?;
    Ok(next.run(request).await)
}

/// The host that a request names: once, and the same in its target if that is absolute.
fn named_host(request: &Request) -> Option<Authority> {
    let mut values = request.headers().get_all(header::HOST).iter();
    let named = authority(values.next()?.to_str().ok()?)?;
    let in_target = request.uri().authority();
    (values.next().is_none() && in_target.is_none_or(|target| *target == named)).then_some(named)
}

fn is_same_site(value: &axum::http::HeaderValue) -> bool {
    matches!(value.as_bytes(), b"same-origin" | b"none")
}

fn authority(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    (!text.contains('@') && !authority.host().is_empty()).then_some(authority)
}

fn normal(host: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .to_ascii_lowercase()
}

fn address(host: &str) -> Option<IpAddr> {
    host.parse::<Ipv4Addr>()
        .map(IpAddr::V4)
        .or_else(|_| host.parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn verdict(policy: &HostPolicy, headers: &[(&str, &str)]) -> &'static str {
        let mut request = Request::builder().uri("/sessions");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        policy
            .check(&request.body(Body::empty()).unwrap())
            .map_or_else(|problem| problem.code(), |()| "ok")
    }

    #[test]
    fn only_own_names_are_answered_for() {
        let policy = HostPolicy::new("127.0.0.1:8080", ["fabrica.example.com"]).unwrap();
        for host in [
            "127.0.0.1:8080",
            "localhost",
            "LOCALHOST.:1",
            "[::1]:8080",
            "127.0.0.2",
            "fabrica.example.com",
        ] {
            assert_eq!(verdict(&policy, &[("host", host)]), "ok", "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.1",
            "a@localhost",
            "",
        ] {
            assert_eq!(
                verdict(&policy, &[("host", host)]),
                "request.misdirected",
                "{host}"
            );
        }
        assert_eq!(verdict(&policy, &[]), "request.misdirected");
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(verdict(&policy, &twice), "request.misdirected");
    }

    #[test]
    fn a_server_on_all_addresses_answers_for_addresses_but_not_for_names() {
        let policy = HostPolicy::new("0.0.0.0:8080", [""; 0]).unwrap();
        assert_eq!(verdict(&policy, &[("host", "192.0.2.1:8080")]), "ok");
        assert_eq!(
            verdict(&policy, &[("host", "evil.example:8080")]),
            "request.misdirected"
        );
        assert_eq!(
            verdict(
                &policy,
                &[("host", "192.0.2.1:8080"), ("origin", "http://192.0.2.9:8080")]
            ),
            "request.forbidden_origin"
        );
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let policy = HostPolicy::new("localhost:8080", ["fabrica.example.com"]).unwrap();
        let with = |name, value| verdict(&policy, &[("host", "localhost:8080"), (name, value)]);
        for origin in ["http://localhost:8080", "https://fabrica.example.com"] {
            assert_eq!(with("origin", origin), "ok", "{origin}");
        }
        let foreign = [
            "null",
            "http://evil.example",
            "http://localhost:3000",
            "https://localhost",
            "file://",
            "",
            "localhost:8080",
        ];
        for origin in foreign {
            assert_eq!(with("origin", origin), "request.forbidden_origin", "{origin}");
        }
        assert_eq!(with("sec-fetch-site", "none"), "ok");
        for site in ["cross-site", "same-site", "Cross-Site", ""] {
            assert_eq!(with("sec-fetch-site", site), "request.forbidden_origin", "{site}");
        }
    }

    #[test]
    fn an_absolute_target_has_to_name_the_same_host() {
        let request = Request::builder()
            .uri("http://evil.example/run")
            .header("host", "localhost");
        let problem = HostPolicy::loopback()
            .check(&request.body(Body::empty()).unwrap())
            .unwrap_err();
        assert_eq!(problem.code(), "request.misdirected");
    }

    #[test]
    fn nonsense_is_no_address() {
        for listen in ["", "8080", "localhost", "a b:1", "user@localhost:1"] {
            assert!(HostPolicy::new(listen, [""; 0]).is_err(), "{listen}");
        }
        assert!(HostPolicy::new("127.0.0.1:0", ["http://x/"]).is_err());
    }
}
