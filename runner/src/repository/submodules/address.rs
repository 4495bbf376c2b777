//! Where a submodule really is, and whether the plan lists it.

use fabrica_core::plan::{Repository, RepositoryPolicy};
use fabrica_core::protocol::Job;

use crate::text::one_line;

/// What an address in `.gitmodules` means for the plan.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// The plan lists it: its number in the gateway, from 1, and its address.
    Listed(usize, String),
    /// It is on the repository's host, and not listed.
    Unlisted(String),
    /// It cannot be fetched at all, for this reason.
    Unusable(String),
}

/// Looks up an address that stands in the `.gitmodules` of the repository at `base`.
pub(super) fn look_up(job: &Job, base: &str, written: &str) -> Address {
    let policy = policy(base);
    let Some(base) = Repository::parse(base, &policy).ok().filter(is_remote) else {
        return Address::Unusable("the plan's repository is not reached over HTTP".to_owned());
    };
    let Some(address) = resolve(&base, written) else {
        return Address::Unusable("its address leads above the host".to_owned());
    };
    // The address may hold a password, or anything else: what the parser says about it is safe to show.
    let submodule = match Repository::parse(&address, &policy) {
        Ok(submodule) => submodule,
        Err(error) => return Address::Unusable(format!("its address cannot be used ({error})")),
    };
    let host = |repository: &Repository| {
        let url = repository.http_url();
        url.and_then(|url| url.host_str().map(str::to_ascii_lowercase))
    };
    // The port of an SSH server says nothing about where its repositories are reached over HTTPS.
    let same = match &submodule {
        Repository::Ssh { .. } => host(&submodule) == host(&base),
        _ => submodule.authority() == base.authority(),
    };
    if !same {
        let host = submodule.authority().unwrap_or_default();
        return Address::Unusable(format!("it is on another host, {}", one_line(&host)));
    }
    let slug = submodule.slug();
    let listed = job
        .submodules
        .iter()
        .position(|listed| Repository::parse(listed, &policy).is_ok_and(|listed| listed.slug() == slug));
    match listed {
        Some(index) => Address::Listed(index + 1, job.submodules[index].clone()),
        None => Address::Unlisted(format!("{}/{}", origin(&base), slug.unwrap_or_default())),
    }
}

/// Unencrypted HTTP is for the operator to allow; here it is as good as what the plan's repository has.
fn policy(base: &str) -> RepositoryPolicy {
    let plain = base
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next());
    RepositoryPolicy {
        plain_http: plain.map(str::to_owned).into_iter().collect(),
        ..RepositoryPolicy::default()
    }
}

fn is_remote(repository: &Repository) -> bool {
    repository.http_url().is_some()
}

/// Scheme, host and port.
fn origin(repository: &Repository) -> String {
    let scheme = repository.http_url().map_or("https", |url| url.scheme());
    format!("{scheme}://{}", repository.authority().unwrap_or_default())
}

/// The address itself; one that begins with `./` or `../` starts from the repository, as git has it.
fn resolve(base: &Repository, written: &str) -> Option<String> {
    if !["./", "../"].iter().any(|relative| written.starts_with(relative)) {
        return Some(written.to_owned());
    }
    let path = base.http_url()?.path().trim_matches('/').to_owned();
    let mut names: Vec<&str> = path.split('/').collect();
    let mut rest = written;
    loop {
        if let Some(below) = rest.strip_prefix("../") {
            names.pop()?;
            rest = below;
        } else if let Some(below) = rest.strip_prefix("./") {
            rest = below;
        } else {
            names.push(rest);
            return Some(format!("{}/{}", origin(base), names.join("/")));
        }
    }
}

#[cfg(test)]
mod tests {
    use fabrica_core::ids::{AttemptNumber, SessionId};
    use fabrica_core::plan::Agent;
    use fabrica_core::protocol::Identity;
    use uuid::Uuid;

    use super::*;

    const BASE: &str = "https://h.example/acme/app.git";

    fn job(submodules: &[&str]) -> Job {
        serde_json::from_value(serde_json::json!({
            "session": SessionId::from_uuid(Uuid::nil()), "attempt": AttemptNumber::new(1), "title": "", "task": "",
            "branch": "b", "agent": Agent::Claude, "committer": Identity::default(), "submodules": submodules,
        }))
        .unwrap()
    }

    #[test]
    fn every_way_to_write_an_address_finds_what_the_plan_lists() {
        let job = job(&["https://h.example/other/x", "https://h.example/acme/lib.git"]);
        for written in [
            "../lib.git",
            "../lib",
            "./../lib",
            "../../acme/lib.git",
            "https://h.example/acme/lib",
            "https://H.example/acme/lib.git",
            "git@h.example:acme/lib.git",
            "ssh://git@h.example:2222/acme/lib.git",
        ] {
            let expected = Address::Listed(2, "https://h.example/acme/lib.git".into());
            assert_eq!(look_up(&job, BASE, written), expected, "{written}");
        }
    }

    #[test]
    fn what_is_not_listed_is_named_as_the_plan_would_name_it() {
        let job = job(&["https://h.example/acme/lib.git"]);
        for (written, named) in [
            ("../other.git", "https://h.example/acme/other"),
            ("git@h.example:acme/other.git", "https://h.example/acme/other"),
            ("../lib.git/x", "https://h.example/acme/lib.git/x"),
        ] {
            assert_eq!(
                look_up(&job, BASE, written),
                Address::Unlisted(named.into()),
                "{written}"
            );
        }
    }

    #[test]
    fn other_hosts_and_other_ways_are_unusable_and_no_secret_is_shown() {
        let job = job(&["https://h.example/acme/lib.git"]);
        for written in [
            "https://other.example/acme/lib.git",
            "https://h.example:8443/acme/lib.git",
            "https://user:hunter2@h.example/acme/lib.git",
            "http://h.example/acme/lib.git",
            "ext::sh -c 'touch /tmp/x'",
            "file:///etc",
            "/etc",
            "--upload-pack=touch",
            "../../../lib.git",
            "../..",
            "",
        ] {
            match look_up(&job, BASE, written) {
                Address::Unusable(why) => assert!(!why.contains("hunter2"), "{why}"),
                other => panic!("{written}: {other:?}"),
            }
        }
        let local = look_up(&job, "/srv/git/app", "https://h.example/acme/lib.git");
        assert!(matches!(local, Address::Unusable(_)), "{local:?}");
    }
}
