//! A bare repository, and what a person would ask of it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{error::RehearsalError, git};

/// Whoever wrote the first commit, and when: the same in every rehearsal, so that its id is too.
const AUTHOR: &str = "Acme Backend <backend@acme.example> 1767225600 +0000";

/// A file of a repository's first commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path in the repository.
    pub path: String,
    /// What it holds.
    pub content: String,
    /// Whether it can be executed.
    pub executable: bool,
}

impl SourceFile {
    /// A file that cannot be executed.
    pub fn new(path: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            content: content.into(),
            executable: false,
        }
    }

    /// Makes it executable.
    #[must_use]
    pub fn executable(mut self) -> Self {
        self.executable = true;
        self
    }
}

/// A bare repository below the directory of a [`GitServer`](super::GitServer).
#[derive(Debug, Clone)]
pub struct BareRepository {
    path: PathBuf,
}

impl BareRepository {
    /// Creates `root/owner/name.git` with one commit on `main` that holds `files`.
    ///
    /// # Errors
    /// When `full_name` is not `owner/name`, or git fails.
    pub async fn create(root: &Path, full_name: &str, files: &[SourceFile]) -> Result<Self, RehearsalError> {
        let repository = Self::at(root, full_name)?;
        std::fs::create_dir_all(&repository.path).map_err(|source| RehearsalError::Write {
            path: repository.path.clone(),
            source,
        })?;
        repository
            .git(&["init", "--quiet", "--bare", "--initial-branch=main", "."])
            .await?;
        let history = first_commit(files);
        git::run(&repository.path, &["fast-import", "--quiet"], history.as_bytes()).await?;
        Ok(repository)
    }

    /// The repository of this name, whether it exists or not.
    ///
    /// # Errors
    /// When `full_name` is not `owner/name`, each of letters, digits, `.`, `_` and `-`.
    pub fn at(root: &Path, full_name: &str) -> Result<Self, RehearsalError> {
        let invalid = || RehearsalError::RepositoryName(full_name.to_owned());
        let (owner, name) = full_name.split_once('/').ok_or_else(invalid)?;
        let name = name.strip_suffix(".git").unwrap_or(name);
        if !is_plain(owner) || !is_plain(name) {
            return Err(invalid());
        }
        Ok(Self {
            path: root.join(owner).join(format!("{name}.git")),
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.path.join("HEAD").is_file()
    }

    /// The commit that a branch points to; none when there is no such branch.
    ///
    /// # Errors
    /// When git fails.
    pub async fn head(&self, branch: &str) -> Result<Option<String>, RehearsalError> {
        let name = format!("refs/heads/{branch}");
        Ok(self
            .refs()
            .await?
            .into_iter()
            .find_map(|(found, id)| (found == name).then_some(id)))
    }

    /// Every ref with the object that it points to, in the order of their names.
    ///
    /// # Errors
    /// When git fails.
    pub async fn refs(&self) -> Result<Vec<(String, String)>, RehearsalError> {
        let listing = self
            .git(&["for-each-ref", "--format=%(refname) %(objectname)"])
            .await?;
        let pair = |line: &str| {
            line.split_once(' ')
                .map(|(name, id)| (name.to_owned(), id.to_owned()))
        };
        Ok(listing.lines().filter_map(pair).collect())
    }

    /// A file's content at a branch; none when the branch or the file is missing.
    ///
    /// # Errors
    /// When git fails.
    pub async fn file(&self, branch: &str, path: &str) -> Result<Option<String>, RehearsalError> {
        let listing = match self.head(branch).await? {
            Some(head) => self.git(&["ls-tree", &head, "--", path]).await?,
            None => return Ok(None),
        };
        // `<mode> blob <id>\t<path>`
        match listing.split_whitespace().nth(2) {
            Some(id) => Ok(Some(self.git(&["cat-file", "blob", id]).await?)),
            None => Ok(None),
        }
    }

    /// The subjects of a branch's commits that `main` lacks, the latest first; of all commits for `main`.
    ///
    /// # Errors
    /// When git fails, as it does for an unknown branch.
    pub async fn log(&self, branch: &str) -> Result<Vec<String>, RehearsalError> {
        let range = if branch == "main" {
            "refs/heads/main".to_owned()
        } else {
            format!("refs/heads/main..refs/heads/{branch}")
        };
        let log = self.git(&["log", "--format=%s", &range, "--"]).await?;
        Ok(log.lines().map(str::to_owned).collect())
    }

    /// What a branch changes against `main`, since it left it.
    ///
    /// # Errors
    /// When git fails, as it does for an unknown branch.
    pub async fn diff(&self, branch: &str) -> Result<String, RehearsalError> {
        let range = format!("refs/heads/main...refs/heads/{branch}");
        self.git(&["diff", "--no-color", "--no-ext-diff", &range, "--"])
            .await
    }

    /// How many commits `head` has and `base` lacks; both are ids of commits.
    pub(super) async fn ahead(&self, base: &str, head: &str) -> Result<u64, RehearsalError> {
        let range = format!("{base}..{head}");
        let count = self.git(&["rev-list", "--count", &range, "--"]).await?;
        Ok(count.trim().parse().unwrap_or(0))
    }

    /// Keeps content in Git LFS, and returns the pointer that a commit has in its place.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_large_file(&self, content: &str) -> Result<String, RehearsalError> {
        let path = self.large_file(content);
        let directory = path.parent().unwrap_or(&self.path);
        let written = std::fs::create_dir_all(directory).and_then(|()| std::fs::write(&path, content));
        written.map_err(|source| RehearsalError::Write {
            path: path.clone(),
            source,
        })?;
        Ok(large_file_pointer(content))
    }

    /// Whether that content is in Git LFS.
    pub fn has_large_file(&self, content: &str) -> bool {
        self.large_file(content).is_file()
    }

    fn large_file(&self, content: &str) -> PathBuf {
        large_file(&self.path, &hash(content)).unwrap_or_default()
    }

    /// Installs a hook, for instance a `post-receive` that keeps a ledger of its own.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn install_hook(&self, name: &str, script: &str) -> Result<(), RehearsalError> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.path.join("hooks").join(name);
        let written = std::fs::create_dir_all(self.path.join("hooks"))
            .and_then(|()| std::fs::write(&path, script))
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)));
        written.map_err(|source| RehearsalError::Write { path, source })
    }

    async fn git(&self, arguments: &[&str]) -> Result<String, RehearsalError> {
        let output = git::run(&self.path, arguments, b"").await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }
}

/// The file of an object in Git LFS, where git-lfs has it in a bare repository; nothing if its name is none.
pub(super) fn large_file(repository: &Path, name: &str) -> Option<PathBuf> {
    let plain = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| {
        let objects = repository.join("lfs/objects");
        objects.join(&name[..2]).join(&name[2..4]).join(name)
    })
}

/// What a commit has in the place of content that is kept in Git LFS.
pub fn large_file_pointer(content: &str) -> String {
    format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n",
        hash(content),
        content.len()
    )
}

fn hash(content: &str) -> String {
    format!("{:x}", Bytes::copy_from_slice(&Sha256::digest(content)))
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['.', '-'])
        && name
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "._-".contains(character))
}

/// The input of `git fast-import` for one commit.
fn first_commit(files: &[SourceFile]) -> String {
    let message = "Start the project\n";
    let mut history = format!(
        "commit refs/heads/main\nauthor {AUTHOR}\ncommitter {AUTHOR}\ndata {}\n{message}",
        message.len()
    );
    for SourceFile {
        path,
        content,
        executable,
    } in files
    {
        let mode = if *executable { "100755" } else { "100644" };
        let length = content.len().to_string();
        history.extend([
            "M ", mode, " inline ", path, "\ndata ", &length, "\n", content, "\n",
        ]);
    }
    history
}

#[cfg(test)]
mod tests {
    use super::{BareRepository, SourceFile};

    #[tokio::test]
    async fn a_repository_tells_what_it_holds() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            SourceFile::new("docs/a b.txt", "one\n"),
            SourceFile::new("run", "two").executable(),
        ];
        let repository = BareRepository::create(root.path(), "acme/tools", &files)
            .await
            .unwrap();
        assert!(repository.exists());
        assert_eq!(
            repository.file("main", "docs/a b.txt").await.unwrap().as_deref(),
            Some("one\n")
        );
        assert_eq!(repository.file("main", "missing").await.unwrap(), None);
        assert_eq!(repository.file("missing", "run").await.unwrap(), None);
        assert_eq!(repository.log("main").await.unwrap(), ["Start the project"]);
        assert_eq!(repository.head("missing").await.unwrap(), None);
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        let root = std::path::Path::new("/srv");
        for name in [
            "acme", "../etc", "acme/..", "acme/-x", "acme/a/b", "/acme", "acme/", "acme/a b",
        ] {
            assert!(BareRepository::at(root, name).is_err(), "{name}");
        }
        assert!(
            BareRepository::at(root, "acme/sample.git")
                .unwrap()
                .path()
                .ends_with("acme/sample.git")
        );
    }
}
