//! The directory of a job on its node.
//!
//! Some file systems look again and again at what was deleted a moment ago when they make
//! something new: with a thousand short jobs a second, to make their directories would soon take
//! more time than all the rest. So a directory that is left as it was made is kept for the next
//! job on the same core.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use flux_id::JobId;
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// The directory of a job.
#[derive(Debug)]
pub struct JobDir {
    path: PathBuf,
    /// Where it is kept for the next job.
    spare: Option<PathBuf>,
}

/// Moves a directory to a name that must be free.
fn take(from: &Path, to: &Path) -> bool {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).is_ok()
}

impl JobDir {
    /// Makes one below the run directory of the broker with this URI, or where temporary files go.
    /// `slot` is the rank of that broker, and a core that no other job has.
    ///
    /// # Errors
    /// When none can be made.
    pub fn make(uri: &str, rank: u32, id: JobId, slot: Option<(u32, u32)>) -> io::Result<Self> {
        let name = format!("jobtmp-{rank}-{}", id.f58());
        // The socket is in the broker's run directory, where nobody but the owner makes anything.
        let rundir = uri.strip_prefix("local://").and_then(|path| Path::new(path).parent());
        if let Some(rundir) = rundir {
            let path = rundir.join(&name);
            let spare =
                slot.map(|(broker, core)| rundir.join(format!("jobtmp-spare-{broker}-{core}")));
            if spare.as_deref().is_some_and(|spare| take(spare, &path)) {
                return Ok(Self { path, spare });
            }
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {}
                _ => return Ok(Self { path, spare }),
            }
        }
        let tmp = std::env::var_os("TMPDIR").unwrap_or_else(|| "/tmp".into());
        Ok(Self { path: private_directory(Path::new(&tmp), &name)?, spare: None })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The job is over: removes it with all that is in it, or keeps it if it is as it was made.
    pub fn leave(self) {
        let kept = self.spare.is_some_and(|spare| is_fresh(&self.path) && take(&self.path, &spare));
        if !kept {
            // Files that cannot be removed are left to the system's own cleaning.
            drop(std::fs::remove_dir_all(self.path));
        }
    }
}

/// Whether a directory is empty, and this user's alone.
fn is_fresh(path: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_dir() && found.uid() == own && found.mode() & 0o7777 == 0o700)
        && std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Makes a new directory for this user alone where others make theirs. A name that is taken, by a
/// job of another instance or by somebody who has guessed it, gets a suffix that nobody can guess.
fn private_directory(parent: &Path, name: &str) -> std::io::Result<PathBuf> {
    const TRIES: usize = 16;
    let mut dir = parent.join(name);
    for _ in 0..TRIES {
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        dir = parent.join(format!("{name}-{:016x}", u64::from_le_bytes(random)));
    }
    let text = format!("{}: no free name", dir.display());
    Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn make(base: &Path, id: u64) -> JobDir {
        let uri = format!("local://{}/local-0", base.display());
        JobDir::make(&uri, 0, JobId(id), Some((0, 3))).unwrap()
    }

    fn names(base: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(base).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_directory_that_was_not_used_serves_the_next_job() {
        let base = tempfile::tempdir().unwrap();
        let first = make(base.path(), 1);
        let inode = std::fs::metadata(first.path()).unwrap().ino();
        // Another job of the same core at the same time gets its own.
        let other = make(base.path(), 2);
        assert_ne!(first.path(), other.path());
        first.leave();
        other.leave();
        assert_eq!(names(base.path()), ["jobtmp-spare-0-3"]);
        let next = make(base.path(), 3);
        assert_eq!(std::fs::metadata(next.path()).unwrap().ino(), inode);
        assert_eq!(names(base.path()).len(), 1);
    }

    #[test]
    fn a_directory_that_was_used_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let used = make(base.path(), 1);
        std::fs::create_dir_all(used.path().join("a/b")).unwrap();
        used.leave();
        let opened = make(base.path(), 2);
        std::fs::set_permissions(opened.path(), PermissionsExt::from_mode(0o755)).unwrap();
        opened.leave();
        assert!(names(base.path()).is_empty());
    }

    #[test]
    fn a_directory_that_somebody_else_prepared_is_not_used() {
        let base = tempfile::tempdir().unwrap();
        let taken = base.path().join("jobtmp");
        symlink(base.path(), &taken).unwrap();
        let first = private_directory(base.path(), "jobtmp").unwrap();
        let second = private_directory(base.path(), "jobtmp").unwrap();
        assert!(first != taken && first != second);
        for dir in [first, second] {
            let found = std::fs::symlink_metadata(dir).unwrap();
            assert!(found.is_dir() && found.permissions().mode() & 0o7777 == 0o700);
        }
        assert_eq!(private_directory(base.path(), "free").unwrap(), base.path().join("free"));
    }
}
