//! Addresses that anybody may be sent to: a code host that a plan names says where its large files are, and must not be
//! able to lead the gateway to a service of the operator's own network.

use std::collections::BTreeSet;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Host names that the operator lets code hosts send the gateway to, wherever they lead.
pub(crate) type Exceptions = Arc<BTreeSet<String>>;

/// Why a name was not asked.
#[derive(Debug, thiserror::Error)]
#[error("{0} has no address in a public network")]
pub(crate) struct NotPublic(String);

impl NotPublic {
    /// Whether that is why a request failed.
    pub(crate) fn is_cause_of(error: &reqwest::Error) -> bool {
        let mut next: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = next {
            if error.is::<Self>() {
                return true;
            }
            next = error.source();
        }
        false
    }
}

/// Looks names up, and keeps what is public of the answer. The connection goes to what was looked at, not to what a second
/// look would give.
#[derive(Debug, Clone)]
pub(crate) struct PublicOnly {
    /// Also the operator's proxy has to be among these, if its name leads to a private address.
    pub(crate) exceptions: Exceptions,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let all = self.exceptions.contains(&name.as_str().to_ascii_lowercase());
        Box::pin(async move {
            let name = name.as_str();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name, 0))
                .await?
                .filter(|address| all || is_public(address.ip()))
                .collect();
            if found.is_empty() {
                return Err(NotPublic(name.to_owned()).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether an address may be asked without looking up its name first: it is one, or it is the name of an exception.
pub(crate) fn may_be_asked(url: &Url, exceptions: &BTreeSet<String>) -> bool {
    let Some(host) = url.host() else { return false };
    if exceptions.contains(&host.to_string().to_ascii_lowercase()) {
        return true;
    }
    match host {
        // What it leads to is looked at when it is looked up.
        Host::Domain(_) => true,
        Host::Ipv4(address) => is_public(address.into()),
        Host::Ipv6(address) => is_public(address.into()),
    }
}

/// Whether an address is reached over the internet, and is no special one (RFC 6890 and the registries that it began).
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        // Carriers' own networks, protocol assignments, benchmarks, and what is reserved with the broadcast address.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240;
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    match segments {
        // Translated addresses lead where the address inside of them does: NAT64, 6to4.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            is_public_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Protocol assignments with Teredo, and documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        // Only this eighth is handed out.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_internet_leads_to_is_public() {
        for public in [
            "1.1.1.1",
            "100.63.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for special in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001:0:1::",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(special.parse().unwrap()), "{special}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_no_way_in() {
        let resolver = |exceptions: &[&str]| PublicOnly {
            exceptions: Arc::new(exceptions.iter().map(|&name| name.to_owned()).collect()),
        };
        let name = || "localhost".parse::<Name>().unwrap();
        assert!(resolver(&[]).resolve(name()).await.is_err());
        assert!(resolver(&["localhost"]).resolve(name()).await.is_ok());
    }

    #[test]
    fn addresses_are_judged_before_they_are_asked() {
        let none = BTreeSet::new();
        let url = |text: &str| Url::parse(text).unwrap();
        assert!(may_be_asked(&url("https://storage.example/x"), &none));
        assert!(!may_be_asked(&url("https://169.254.169.254/latest"), &none));
        assert!(!may_be_asked(&url("http://[::1]:8080/"), &none));
        let named = BTreeSet::from(["10.0.0.9".to_owned()]);
        assert!(may_be_asked(&url("http://10.0.0.9:9000/x"), &named));
    }
}
