//! The build context: what the Dockerfile copies, and a hash of all of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use fabrica_cli::assembly::hex;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::agent::{Agent, unreadable, written};
use super::{ImageRequest, LABEL};
use crate::exit::Exit;
use crate::problem::Problem;

/// How the image is made.
const DOCKERFILE: &str = include_str!("../../../runner/Dockerfile");
/// What is installed in it.
pub(super) const PACKAGES: &str = include_str!("../../../runner/packages.txt");

/// Everything that an image is made of.
#[derive(Debug)]
pub(super) struct Recipe {
    /// Equal for equal images.
    pub(super) hash: String,
    certificates: Vec<(String, Vec<u8>)>,
    own_agent: bool,
}

impl Recipe {
    pub(super) fn new(request: &ImageRequest, agent: &Agent) -> Result<Self, Problem> {
        let mut certificates = Vec::new();
        for (index, path) in request.certificates.iter().enumerate() {
            let content = fs::read(path).map_err(|error| unreadable(path, &error))?;
            certificates.extend(
                split(path, &content)?
                    .into_iter()
                    .enumerate()
                    .map(|(part, content)| (format!("fabrica-{index}-{part}.crt"), content)),
            );
        }
        let identity = agent.identity()?;
        let mut parts = vec![
            DOCKERFILE.as_bytes(),
            PACKAGES.as_bytes(),
            request.base.as_bytes(),
            identity.as_bytes(),
        ];
        parts.extend(certificates.iter().map(|(_, content)| content.as_slice()));
        let hash = hash(parts);
        Ok(Self {
            hash,
            certificates,
            own_agent: matches!(agent, Agent::File(_)),
        })
    }

    /// Writes the context into a directory of its own in the cache, which vanishes with the answer.
    pub(super) async fn write(self, cache: &Path, agent: &Path) -> Result<TempDir, Problem> {
        let (cache, agent) = (cache.to_owned(), agent.to_owned());
        let failed = cache.clone();
        tokio::task::spawn_blocking(move || self.write_now(&cache, &agent))
            .await
            .unwrap_or_else(|error| Err(written(&failed, &std::io::Error::other(error))))
    }

    fn write_now(self, cache: &Path, agent: &Path) -> Result<TempDir, Problem> {
        let failed = |error: std::io::Error| written(cache, &error);
        let directory = tempfile::Builder::new()
            .prefix("context-")
            .tempdir_in(cache)
            .map_err(failed)?;
        let place = |name: &str, content: &[u8]| -> Result<PathBuf, Problem> {
            let path = directory.path().join(name);
            fs::write(&path, content).map_err(failed)?;
            fs::set_permissions(&path, Permissions::from_mode(0o644)).map_err(failed)?;
            Ok(path)
        };
        place(
            "Dockerfile",
            format!("{DOCKERFILE}\nLABEL {LABEL}=\"{}\"\n", self.hash).as_bytes(),
        )?;
        place("packages.txt", PACKAGES.as_bytes())?;
        fs::create_dir(directory.path().join("certificates")).map_err(failed)?;
        for (name, content) in &self.certificates {
            place(&format!("certificates/{name}"), content)?;
        }
        let binary = directory.path().join("claude");
        // Another name for the same file costs nothing; the user's own file is not to change its mode.
        if self.own_agent || fs::hard_link(agent, &binary).is_err() {
            fs::copy(agent, &binary).map_err(|error| unreadable(agent, &error))?;
            fs::set_permissions(&binary, Permissions::from_mode(0o755)).map_err(failed)?;
        }
        Ok(directory)
    }
}

/// The certificates of a PEM file, one each: that is what `update-ca-certificates` takes.
fn split(path: &Path, content: &[u8]) -> Result<Vec<Vec<u8>>, Problem> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(content);
    let found: Vec<Vec<u8>> = text
        .split_inclusive(END)
        .filter_map(|part| {
            part.find("-----BEGIN CERTIFICATE-----")
                .map(|begin| &part[begin..])
        })
        .filter(|part| part.ends_with(END))
        .map(|part| format!("{part}\n").into_bytes())
        .collect();
    if found.is_empty() || text.contains("PRIVATE KEY-----") {
        let message = format!("{} is not a file of PEM certificates alone", path.display());
        return Err(Problem::new(Exit::Usage, "image.certificate", message)
            .hint("give certificate authorities as PEM, without keys"));
    }
    Ok(found)
}

/// A hash over parts that cannot run into one another.
pub(super) fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ImageRequest {
        ImageRequest {
            base: super::super::DEFAULT_BASE.into(),
            tag: "t".into(),
            claude: None,
            certificates: Vec::new(),
            if_missing: true,
        }
    }

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    #[test]
    fn a_recipe_changes_with_what_it_is_made_of() {
        let agent = Agent::choose(None).unwrap();
        let first = Recipe::new(&request(), &agent).unwrap().hash;
        assert_eq!(Recipe::new(&request(), &agent).unwrap().hash, first);
        let other = ImageRequest {
            base: "debian:trixie".into(),
            ..request()
        };
        assert_ne!(Recipe::new(&other, &agent).unwrap().hash, first);
    }

    #[tokio::test]
    async fn the_context_has_what_the_dockerfile_copies() {
        let cache = tempfile::tempdir().unwrap();
        let agent = cache.path().join("agent");
        let bundle = cache.path().join("ca.pem");
        fs::write(&agent, "binary").unwrap();
        fs::write(&bundle, format!("# one\n{CERTIFICATE}# two\n{CERTIFICATE}")).unwrap();
        let request = ImageRequest {
            certificates: vec![bundle],
            ..request()
        };
        let recipe = Recipe::new(&request, &Agent::File(agent.clone())).unwrap();
        let hash = recipe.hash.clone();
        let context = recipe.write(cache.path(), &agent).await.unwrap();
        let dockerfile = fs::read_to_string(context.path().join("Dockerfile")).unwrap();
        assert!(dockerfile.contains(&format!("LABEL {LABEL}=\"{hash}\"")));
        for line in dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")) {
            let source = line.split_whitespace().next().unwrap();
            assert!(context.path().join(source).exists(), "{source}");
        }
        let mode = fs::metadata(context.path().join("claude"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(
            fs::read_dir(context.path().join("certificates")).unwrap().count(),
            2
        );
    }

    #[test]
    fn a_private_key_is_no_certificate() {
        let path = Path::new("x.pem");
        assert!(split(path, b"nothing").is_err());
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(split(path, format!("{CERTIFICATE}{key}").as_bytes()).is_err());
        assert_eq!(split(path, CERTIFICATE.as_bytes()).unwrap().len(), 1);
    }
}
