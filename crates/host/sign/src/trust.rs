//! Files that nobody but the trusted can change.
//!
//! A path is walked from the root, each part opened below the one before and looked at through its
//! descriptor: every directory, every link and the file itself must belong to who is trusted and
//! not be writable by others. Where that holds, nobody else can swap a part of the path, before or
//! after the look.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, Stat};

/// Links that are followed on one path, and the parts that a path may have in all.
const LINKS_MAX: usize = 40;
const PARTS_MAX: usize = 400;

/// Largest configuration file.
const FILE_MAX: u64 = 1 << 20;

/// Files that a pattern may name.
const FILES_MAX: usize = 256;

/// Why a file is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The path does not begin at the root.
    #[error("{0}: must be an absolute path")]
    Relative(PathBuf),
    /// The path cannot be followed.
    #[error("{path}: {text}")]
    Io {
        /// The part that cannot be opened.
        path: PathBuf,
        /// Why.
        text: String,
    },
    /// Somebody else owns a part.
    #[error("{path}: belongs to uid {uid}: it must belong to {wanted}")]
    Owner {
        /// The part.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Who may own it.
        wanted: String,
    },
    /// Others may write a part.
    #[error("{path}: mode {mode:04o} lets others change it: chmod go-w {path}")]
    Writable {
        /// The part.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no regular file, or too many links lead to it, or it is too large.
    #[error("{path}: {text}")]
    Kind {
        /// The part.
        path: PathBuf,
        /// What is wrong with it.
        text: &'static str,
    },
}

/// Who is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// A user besides root.
    other: Option<u32>,
}

impl Trust {
    /// Root alone.
    pub const ROOT: Trust = Trust { other: None };

    /// Root and a user, who then has nobody to fear in directories like `/tmp`.
    #[must_use]
    pub const fn and(uid: u32) -> Trust {
        Trust { other: Some(uid) }
    }

    fn trusts(self, uid: u32) -> bool {
        uid == 0 || self.other == Some(uid)
    }

    fn check(self, path: &Path, stat: &Stat) -> Result<(), TrustError> {
        let path = path.to_path_buf();
        if !self.trusts(stat.st_uid) {
            let wanted = match self.other {
                None | Some(0) => "root".to_string(),
                Some(uid) => format!("root or uid {uid}"),
            };
            return Err(TrustError::Owner { path, uid: stat.st_uid, wanted });
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        // The mode of a link means nothing. In a sticky directory others can add but not replace.
        let sticky = kind == FileType::Directory
            && stat.st_mode & Mode::SVTX.as_raw_mode() != 0
            && self.other.is_some();
        if kind != FileType::Symlink && stat.st_mode & 0o022 != 0 && !sticky {
            return Err(TrustError::Writable { path, mode: stat.st_mode & 0o7777 });
        }
        Ok(())
    }

    /// Follows an absolute path. Gives the descriptor (`O_PATH`) of what is there, and its path
    /// without links.
    ///
    /// # Errors
    /// The first part that others may change, or that is not there.
    pub fn walk(self, path: &Path) -> Result<(OwnedFd, Stat, PathBuf), TrustError> {
        if !path.is_absolute() {
            return Err(TrustError::Relative(path.to_path_buf()));
        }
        let io = |path: &Path, error: rustix::io::Errno| TrustError::Io {
            path: path.to_path_buf(),
            text: std::io::Error::from(error).to_string(),
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = || {
            let at = PathBuf::from("/");
            let fd = rustix::fs::open("/", flags, Mode::empty()).map_err(|error| io(&at, error))?;
            let stat = rustix::fs::fstat(&fd).map_err(|error| io(&at, error))?;
            self.check(&at, &stat)?;
            Ok((fd, stat, at))
        };
        let mut rest: VecDeque<OsString> = parts(path);
        let mut stack: Vec<(OwnedFd, Stat, PathBuf)> = vec![root()?];
        let (mut links, mut seen) = (0, 0);
        while let Some(name) = rest.pop_front() {
            seen += 1;
            let (parent, _, at) = stack.last().expect("the root stays");
            if name == ".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let here = at.join(&name);
            let wrong = |text| TrustError::Kind { path: here.clone(), text };
            if seen > PARTS_MAX {
                return Err(wrong("path is too long"));
            }
            let fd = rustix::fs::openat(parent.as_fd(), name.as_os_str(), flags, Mode::empty())
                .map_err(|error| io(&here, error))?;
            let stat = rustix::fs::fstat(&fd).map_err(|error| io(&here, error))?;
            self.check(&here, &stat)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(wrong("too many symbolic links"));
                    }
                    let target = rustix::fs::readlinkat(&fd, "", Vec::new())
                        .map_err(|error| io(&here, error))?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        stack.truncate(1);
                    }
                    let mut parts = parts(&target);
                    parts.append(&mut rest);
                    rest = parts;
                }
                FileType::Directory => stack.push((fd, stat, here)),
                _ if rest.is_empty() => return Ok((fd, stat, here)),
                _ => return Err(wrong("not a directory")),
            }
        }
        Ok(stack.pop().expect("the root stays"))
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// It is not trusted, cannot be read, or is no regular file of a sensible size.
    pub fn read(self, path: &Path) -> Result<String, TrustError> {
        let (found, stat, at) = self.walk(path)?;
        let wrong = |text| TrustError::Kind { path: at.clone(), text };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(wrong("not a regular file"));
        }
        let io =
            |error: std::io::Error| TrustError::Io { path: at.clone(), text: error.to_string() };
        // What was looked at is opened again for reading, and must be the same still.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(&at, flags, Mode::empty()).map_err(|error| io(error.into()))?;
        let again = rustix::fs::fstat(&file).map_err(|error| io(error.into()))?;
        drop(found);
        if (again.st_dev, again.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(wrong("was replaced while it was read"));
        }
        let mut text = String::new();
        let read = File::from(file).take(FILE_MAX + 1).read_to_string(&mut text).map_err(io)?;
        if read as u64 > FILE_MAX {
            return Err(wrong("larger than 1 MiB"));
        }
        Ok(text)
    }

    /// The files that `DIRECTORY/*.toml`, or the path of one file, names, in the order of their
    /// names. A directory that is not there holds none.
    ///
    /// # Errors
    /// The directory is not trusted or cannot be read.
    pub fn files(self, pattern: &str) -> Result<Vec<PathBuf>, TrustError> {
        let path = Path::new(pattern);
        let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
        let Some(suffix) = name.strip_prefix(b"*") else {
            return Ok(vec![path.to_path_buf()]);
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        if !directory.exists() {
            return Ok(Vec::new());
        }
        let (_, _, at) = self.walk(directory)?;
        let io =
            |error: std::io::Error| TrustError::Io { path: at.clone(), text: error.to_string() };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&at).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let bytes = name.as_bytes();
            if bytes.ends_with(suffix) && !bytes.starts_with(b".") {
                files.push(at.join(&name));
            }
            if files.len() > FILES_MAX {
                return Err(TrustError::Kind { path: at, text: "too many files" });
            }
        }
        files.sort();
        Ok(files)
    }
}

/// The names on a path; `.` is left out, `..` kept.
fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
