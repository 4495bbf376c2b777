//! Where files go, such that the engine's user can reach what it has to mount.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use super::args::DataArgs;
use super::error::AssemblyError;
use super::secrets::Environment;

/// Where root keeps its files.
const ROOT_DATA: &str = "/var/lib/fabrica";
/// Where root's sockets are.
const ROOT_RUN: &str = "/run/fabrica";
/// The longest directory that leaves room for an attempt's own directory and the socket in it (108 bytes in all).
const LONGEST_SOCKET_DIRECTORY: usize = 70;

/// Where files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// The embedded database, downloads, the runner.
    pub data: PathBuf,
    /// Candidates for the sockets' directory, best first.
    sockets: Vec<PathBuf>,
}

impl Directories {
    /// The directories for these options in this environment. Nothing is created.
    pub fn resolve(args: &DataArgs, environment: &Environment) -> Self {
        let user = current_user();
        let data = args.data_directory.clone().unwrap_or_else(|| default_data(user));
        let data = std::path::absolute(&data).unwrap_or(data);
        let mut sockets = Vec::new();
        if let Some(chosen) = &args.socket_directory {
            sockets.push(chosen.clone());
        } else {
            if args.data_directory.is_some() {
                // Whoever says where files go means these, too: behind the engine's socket in a container, only this
                // path is the same for the engine.
                sockets.push(data.join("sockets"));
            }
            if user == 0 {
                sockets.push(ROOT_RUN.into());
            } else if let Some(runtime) = environment.variable("XDG_RUNTIME_DIR") {
                sockets.push(Path::new(runtime).join("fabrica"));
            }
            sockets.push(format!("/tmp/fabrica-{user}").into());
        }
        Self { data, sockets }
    }

    /// Directories below one, for a short-lived installation.
    pub fn below(data: impl Into<PathBuf>, sockets: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            sockets: vec![sockets.into()],
        }
    }

    /// The directory of the embedded database, private to this user; made if it is missing.
    ///
    /// # Errors
    ///
    /// [`AssemblyError::Directory`].
    pub fn database(&self) -> Result<PathBuf, AssemblyError> {
        self.make_data()?;
        make(&self.data.join("database"), 0o700)
    }

    /// The directory of downloads; made if it is missing.
    ///
    /// # Errors
    ///
    /// [`AssemblyError::Directory`].
    pub fn cache(&self) -> Result<PathBuf, AssemblyError> {
        self.make_data()?;
        make(&self.data.join("cache"), 0o700)
    }

    fn make_data(&self) -> Result<(), AssemblyError> {
        // The engine's user passes through it; what is private in it has a directory of its own.
        if !self.data.exists() {
            make(&self.data, 0o711)?;
        }
        Ok(())
    }

    /// A directory below which the engine's user can read files: the data directory, or, if that user cannot pass
    /// through it, one elsewhere. Made if it is missing, and given to that user.
    ///
    /// # Errors
    ///
    /// [`AssemblyError::Directory`], [`AssemblyError::Unreachable`].
    pub fn for_engine(&self, host_user: Option<u32>) -> Result<PathBuf, AssemblyError> {
        let foreign = foreign(host_user);
        let mut tried = Vec::new();
        for base in [self.data.clone(), default_data(current_user())] {
            if let Some(user) = foreign
                && !passable(&base, user)
            {
                tried.push(base);
                continue;
            }
            if !base.exists() {
                make(&base, 0o711)?;
            }
            let name = foreign.map_or_else(|| "runner".to_owned(), |user| format!("runner-{user}"));
            let directory = make(&base.join(name), 0o755)?;
            if foreign.is_some_and(|user| !passable(&directory, user)) {
                tried.push(base);
                continue;
            }
            return Ok(directory);
        }
        Err(AssemblyError::Unreachable {
            user: foreign.unwrap_or_default(),
            tried,
        })
    }

    /// The directory of the sockets: short, private, and the engine's user's if that is another one.
    ///
    /// # Errors
    ///
    /// [`AssemblyError::Directory`], [`AssemblyError::Unreachable`].
    pub fn sockets(&self, host_user: Option<u32>) -> Result<PathBuf, AssemblyError> {
        let owner = foreign(host_user);
        for base in &self.sockets {
            let base = std::path::absolute(base).unwrap_or_else(|_| base.clone());
            // Root's sandboxes and those of a rootless engine's user do not share a directory.
            let directory = match (owner, current_user()) {
                (Some(user), _) => base.join(user.to_string()),
                (None, 0) => base.join("0"),
                (None, _) => base.clone(),
            };
            if directory.as_os_str().len() > LONGEST_SOCKET_DIRECTORY {
                continue;
            }
            if directory != base {
                if !base.exists() {
                    make(&base, 0o711)?;
                }
                if owner.is_some_and(|user| !passable(&base, user)) {
                    continue;
                }
            }
            return private(&directory, owner);
        }
        Err(AssemblyError::Setting {
            option: "--socket-directory",
            reason: format!(
                "none of {} is short enough ({LONGEST_SOCKET_DIRECTORY} bytes) and open to the engine's user",
                self.sockets
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        })
    }
}

/// The user who runs this process.
pub fn current_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The engine's user, if files have to be given to that user: only root can, and only to others.
pub(super) fn foreign(host_user: Option<u32>) -> Option<u32> {
    host_user.filter(|user| current_user() == 0 && *user != 0)
}

fn default_data(user: u32) -> PathBuf {
    if user == 0 {
        return ROOT_DATA.into();
    }
    match directories::ProjectDirs::from("", "", "fabrica") {
        Some(directories) => directories.data_local_dir().to_owned(),
        None => format!("/tmp/fabrica-{user}/data").into(),
    }
}

/// Whether that user may pass through a directory and all above it; what does not exist yet is ours to make.
fn passable(path: &Path, user: u32) -> bool {
    path.ancestors().all(|ancestor| match fs::metadata(ancestor) {
        Ok(found) if found.uid() == user => found.mode() & 0o100 != 0,
        Ok(found) => found.mode() & 0o001 != 0,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    })
}

/// Makes a directory with exactly these rights; one that is there keeps its own.
fn make(path: &Path, mode: u32) -> Result<PathBuf, AssemblyError> {
    let failed = |source| AssemblyError::Directory {
        action: "create",
        path: path.to_owned(),
        source,
    };
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(failed)?;
    // After the umask had its say.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
    Ok(path.to_owned())
}

/// Makes a directory that only its owner may enter. One that somebody else put there, or a link, is refused: `/tmp` is
/// open to all.
fn private(path: &Path, owner: Option<u32>) -> Result<PathBuf, AssemblyError> {
    let failed = |source| AssemblyError::Directory {
        action: "create",
        path: path.to_owned(),
        source,
    };
    let refused = |reason: &str| failed(io::Error::new(io::ErrorKind::PermissionDenied, reason.to_owned()));
    make(path, 0o700)?;
    let found = fs::symlink_metadata(path).map_err(failed)?;
    if !found.is_dir() {
        return Err(refused("it is a link"));
    }
    let wanted = owner.unwrap_or_else(current_user);
    if found.uid() != wanted {
        if current_user() != 0 {
            return Err(refused("it belongs to somebody else"));
        }
        chown(path, Some(wanted), None).map_err(failed)?;
    }
    if found.mode() & 0o777 != 0o700 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(data: &Path) -> Directories {
        let args = DataArgs {
            data_directory: Some(data.to_owned()),
            socket_directory: None,
        };
        Directories::resolve(&args, &Environment::default())
    }

    #[test]
    fn private_files_are_private_and_sockets_fit() {
        let root = tempfile::tempdir().unwrap();
        let directories = resolve(&root.path().join("data"));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&directories.database().unwrap()), 0o700);
        assert_eq!(mode(&directories.cache().unwrap()), 0o700);
        assert_eq!(mode(&directories.data), 0o711);
        assert_eq!(mode(&directories.for_engine(None).unwrap()), 0o755);
        let sockets = directories.sockets(None).unwrap();
        assert_eq!(mode(&sockets), 0o700);
        assert!(sockets.as_os_str().len() <= LONGEST_SOCKET_DIRECTORY);
    }

    #[test]
    fn a_long_path_is_not_taken_for_sockets() {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories::below(root.path(), root.path().join("x".repeat(100)));
        assert_eq!(directories.sockets(None).unwrap_err().code(), "settings.invalid");
    }

    #[test]
    fn another_user_needs_a_way_through_every_directory() {
        let root = tempfile::tempdir().unwrap();
        let inner = make(&root.path().join("inner"), 0o711).unwrap();
        let stranger = current_user() + 4_711;
        fs::set_permissions(root.path(), Permissions::from_mode(0o700)).unwrap();
        assert!(!passable(&inner, stranger));
        fs::set_permissions(root.path(), Permissions::from_mode(0o711)).unwrap();
        assert!(passable(&inner, stranger));
        assert!(passable(&inner.join("not/yet/there"), stranger));
    }

    #[test]
    fn a_link_is_not_taken_for_a_private_directory() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path(), &link).unwrap();
        assert_eq!(private(&link, None).unwrap_err().code(), "directory.unusable");
    }
}
