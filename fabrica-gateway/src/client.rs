//! The one HTTP client that talks to the outside.

use std::sync::Arc;

use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder};
use url::{Host, Url};

use crate::error::SetupError;
use crate::options::GatewayLimits;
use crate::public::{Exceptions, PublicOnly, may_be_asked};

/// The client, with and without the operator's proxy.
#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    usual: reqwest::Client,
    /// No proxy leads to this machine itself.
    loopback: reqwest::Client,
    /// For addresses that others name: it reaches public ones only.
    public: reqwest::Client,
    exceptions: Exceptions,
}

impl HttpClient {
    /// Begins a request.
    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let local = url.host().is_some_and(|host| match host {
            Host::Domain(name) => name.eq_ignore_ascii_case("localhost"),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        });
        let client = if local { &self.loopback } else { &self.usual };
        client.request(method, url)
    }

    /// Begins a request to an address that a code host named. Nothing if that is in a private network, and the operator
    /// lists it not as an exception.
    pub(crate) fn request_named(&self, method: Method, url: Url) -> Option<RequestBuilder> {
        if !may_be_asked(&url, &self.exceptions) {
            return None;
        }
        let excepted = url
            .host_str()
            .is_some_and(|host| self.exceptions.contains(&host.to_ascii_lowercase()));
        Some(if excepted {
            self.request(method, url)
        } else {
            self.public.request(method, url)
        })
    }
}

/// Makes a client that verifies certificates as the platform does (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured),
/// never follows a redirect by itself, and keeps no cookies.
///
/// Proxies named in the environment of the process (`HTTPS_PROXY`, `NO_PROXY`) are used: it is the operator's
/// environment, never the sandbox's.
///
/// TLS is rustls with the `ring` provider. reqwest takes the provider that the process has installed; the first client
/// installs `ring` if the program has not chosen another one before.
pub(crate) fn http_client(limits: &GatewayLimits, exceptions: Exceptions) -> Result<HttpClient, SetupError> {
    // An error says that a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        reqwest::Client::builder()
            .connect_timeout(limits.connect_timeout)
            .read_timeout(limits.idle_timeout)
            .redirect(Policy::none())
            .referer(false)
    };
    let usual = builder().build().map_err(SetupError::HttpClient)?;
    let loopback = builder().no_proxy().build().map_err(SetupError::HttpClient)?;
    let resolver = PublicOnly {
        exceptions: Arc::clone(&exceptions),
    };
    let public = builder()
        .dns_resolver(Arc::new(resolver))
        .build()
        .map_err(SetupError::HttpClient)?;
    Ok(HttpClient {
        usual,
        loopback,
        public,
        exceptions,
    })
}

/// Checks the base address of an API: http or https, with a host, without credentials, query and fragment.
pub(crate) fn check_address(what: &'static str, url: &Url) -> Result<(), SetupError> {
    let reason = if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        "it must be an http or https address"
    } else if !url.username().is_empty() || url.password().is_some() {
        "it must not carry credentials"
    } else if url.query().is_some() || url.fragment().is_some() {
        "it must end with its path"
    } else {
        return Ok(());
    };
    let mut shown = url.clone();
    // Neither fails for an address that has a host; one without has nothing to hide.
    let _ = shown.set_password(None);
    let _ = shown.set_username("");
    shown.set_query(None);
    Err(SetupError::Address {
        what,
        url: shown.to_string(),
        reason,
    })
}

/// The innermost cause of a failed request, in a line without its address.
pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.is_timeout() && error.is_connect() {
        return "the connection took too long".to_owned();
    }
    if error.is_timeout() {
        return "no answer came in time".to_owned();
    }
    if std::ptr::addr_eq(std::ptr::from_ref(cause), std::ptr::from_ref(error)) {
        return "the request failed".to_owned();
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_secrets_are_refused_without_showing_them() {
        let url = Url::parse("https://user:canary@api.example/v1?key=canary").unwrap();
        let error = check_address("model API", &url).unwrap_err();
        assert_eq!(error.code(), "gateway.address_invalid");
        assert!(!error.to_string().contains("canary"), "{error}");
        assert!(check_address("model API", &Url::parse("ftp://api.example").unwrap()).is_err());
        assert!(check_address("model API", &Url::parse("http://127.0.0.1:9/base").unwrap()).is_ok());
    }
}
