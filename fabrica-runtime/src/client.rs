//! HTTP to an engine.

/// Begins a client that goes straight to the engine, never through a proxy.
///
/// No connection of this crate is encrypted. But where another crate of the same program turns on the encryption of the
/// shared HTTP library, that library makes no client before the process has a provider of cryptography.
pub(crate) fn builder() -> reqwest::ClientBuilder {
    // An error says that a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}
