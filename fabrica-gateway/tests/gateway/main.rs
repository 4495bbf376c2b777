//! The gateway as a sandbox meets it: through its socket, with recording upstreams on the other side.

#[cfg(test)]
mod flood;
#[cfg(test)]
mod forges;
#[cfg(test)]
mod git_host;
#[cfg(test)]
mod git_local;
#[cfg(test)]
mod large_files;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod model;
#[cfg(test)]
mod session;
#[cfg(test)]
mod signature;
mod submodules;
#[cfg(test)]
mod support;
#[cfg(test)]
mod takeover;
#[cfg(test)]
mod usage;
