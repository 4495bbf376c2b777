//! The runner's binary: found, checked, and copied to where the engine's user can read it.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::directories::Directories;
use super::error::AssemblyError;

const NAME: &str = "fabrica-runner";

/// Finds the runner: the one that was named, else one from this checkout's target directory, else one beside this
/// program. A dynamically linked one is not taken: it would only run in images that have its libraries.
///
/// # Errors
///
/// [`AssemblyError::RunnerMissing`], [`AssemblyError::RunnerNotStatic`].
pub fn find_runner(named: Option<&Path>) -> Result<PathBuf, AssemblyError> {
    if let Some(path) = named {
        return match is_static(path) {
            Ok(true) => Ok(path.to_owned()),
            Ok(false) => Err(AssemblyError::RunnerNotStatic(path.to_owned())),
            Err(source) => Err(AssemblyError::Setting {
                option: "--runner",
                reason: format!("{} cannot be used: {source}", path.display()),
            }),
        };
    }
    let program = std::env::current_exe().unwrap_or_default();
    let looked = candidates(&program);
    let found: Vec<&PathBuf> = looked.iter().filter(|path| path.is_file()).collect();
    match (
        found.iter().find(|path| is_static(path).unwrap_or(false)),
        found.first(),
    ) {
        (Some(path), _) => Ok((**path).clone()),
        (None, Some(path)) => Err(AssemblyError::RunnerNotStatic((**path).clone())),
        (None, None) => Err(AssemblyError::RunnerMissing { looked }),
    }
}

fn candidates(program: &Path) -> Vec<PathBuf> {
    let target = format!(
        "runner/{}-unknown-linux-gnu/release/{NAME}",
        std::env::consts::ARCH
    );
    // target/debug/fabrica, target/release/fabrica, target/debug/deps/test-…: the target directory is one of these.
    let in_checkout = program
        .ancestors()
        .skip(2)
        .take(2)
        .map(|directory| directory.join(&target));
    let beside = program.parent().map(|directory| directory.join(NAME));
    in_checkout.chain(beside).collect()
}

/// Whether an ELF file asks for no dynamic loader (it has no `PT_INTERP` segment).
fn is_static(path: &Path) -> io::Result<bool> {
    const PT_INTERP: [u8; 4] = 3_u32.to_le_bytes();
    let mut file = File::open(path)?;
    let mut header = [0_u8; 64];
    if file.read_exact(&mut header).is_err() || header[..5] != *b"\x7fELF\x02" || header[5] != 1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is no 64-bit little-endian Linux program",
        ));
    }
    let number = |range: std::ops::Range<usize>| {
        header[range]
            .iter()
            .rev()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let (offset, size, count) = (number(0x20..0x28), number(0x36..0x38), number(0x38..0x3a));
    for index in 0..count {
        file.seek(SeekFrom::Start(offset.saturating_add(index * size)))?;
        let mut kind = [0_u8; 4];
        file.read_exact(&mut kind)?;
        if kind == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies the runner to where the engine's user can read it, under a name that its content decides: sandboxes that run
/// keep theirs when a newer one comes.
///
/// # Errors
///
/// [`AssemblyError::Directory`], [`AssemblyError::Unreachable`].
pub fn stage_runner(
    runner: &Path,
    directories: &Directories,
    host_user: Option<u32>,
) -> Result<PathBuf, AssemblyError> {
    let read = |source| AssemblyError::Directory {
        action: "read",
        path: runner.to_owned(),
        source,
    };
    let content = fs::read(runner).map_err(read)?;
    let hash = hex(Sha256::digest(&content).into_iter().take(8));
    let directory = directories.for_engine(host_user)?;
    let staged = directory.join(format!("{NAME}-{hash}"));
    if staged
        .metadata()
        .is_ok_and(|found| found.len() == content.len() as u64 && found.mode() & 0o555 == 0o555)
    {
        return Ok(staged);
    }
    place(&staged, |partial| fs::write(partial, &content))?;
    Ok(staged)
}

/// The same for a large program: its size and time of change stand for its content, and it is linked rather than
/// copied where that is possible.
///
/// # Errors
///
/// [`AssemblyError::Directory`], [`AssemblyError::Unreachable`].
pub fn stage_agent(
    agent: &Path,
    directories: &Directories,
    host_user: Option<u32>,
) -> Result<PathBuf, AssemblyError> {
    let found = agent.metadata().map_err(|source| AssemblyError::Directory {
        action: "read",
        path: agent.to_owned(),
        source,
    })?;
    let directory = directories.for_engine(host_user)?;
    let staged = directory.join(format!(
        "claude-{:x}-{:x}",
        found.len(),
        found.mtime_nsec() ^ found.mtime()
    ));
    if !staged.exists() {
        place(&staged, |partial| fs::copy(agent, partial).map(|_| ()))?;
    }
    Ok(staged)
}

/// Writes a program under another name first, so that nobody ever sees half of it.
fn place(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), AssemblyError> {
    let partial = path.with_extension(format!("{}.new", std::process::id()));
    write(&partial)
        .and_then(|()| fs::set_permissions(&partial, Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&partial, path))
        .map_err(|source| {
            // What is left of it is of no use; that it cannot be removed changes nothing.
            let _ = fs::remove_file(&partial);
            AssemblyError::Directory {
                action: "write",
                path: path.to_owned(),
                source,
            }
        })
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: impl IntoIterator<Item = u8>) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    bytes
        .into_iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(segment: u32) -> Vec<u8> {
        let mut file = vec![0_u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[0x20] = 64;
        file[0x36] = 56;
        file[0x38] = 1;
        file.extend(segment.to_le_bytes());
        file.extend([0; 52]);
        file
    }

    #[test]
    fn a_dynamic_runner_is_refused_and_a_static_one_is_staged_once() {
        let root = tempfile::tempdir().unwrap();
        let runner = root.path().join("runner");
        fs::write(&runner, elf(3)).unwrap();
        assert_eq!(
            find_runner(Some(&runner)).unwrap_err().code(),
            "runner.not_static"
        );
        fs::write(&runner, elf(1)).unwrap();
        assert_eq!(find_runner(Some(&runner)).unwrap(), runner);

        let directories = Directories::below(root.path().join("data"), root.path());
        let staged = stage_runner(&runner, &directories, None).unwrap();
        let inode = fs::metadata(&staged).unwrap().ino();
        assert_eq!(fs::metadata(&staged).unwrap().mode() & 0o777, 0o755);
        assert_eq!(stage_runner(&runner, &directories, None).unwrap(), staged);
        assert_eq!(fs::metadata(&staged).unwrap().ino(), inode);
        let names = fs::read_dir(staged.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "nothing half-made is left");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let runner = root.path().join("runner");
        fs::write(&runner, "#!/bin/sh\n").unwrap();
        assert_eq!(find_runner(Some(&runner)).unwrap_err().code(), "settings.invalid");
        assert_eq!(
            find_runner(Some(&root.path().join("none"))).unwrap_err().code(),
            "settings.invalid"
        );
    }

    #[test]
    fn a_checkout_is_looked_through_before_the_programs_own_directory() {
        let looked = candidates(Path::new("/src/target/debug/fabrica"));
        assert!(looked[0].starts_with("/src/target/runner"), "{looked:?}");
        assert_eq!(
            looked.last().unwrap(),
            Path::new("/src/target/debug/fabrica-runner")
        );
    }
}
