//! Who may ask at all: by the host that a request names, the page that it comes from, and the token that it shows.

mod auth;
mod host;

pub use host::HostPolicy;

pub(crate) use auth::authenticate;
pub(crate) use host::check;
