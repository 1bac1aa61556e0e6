//! What can go wrong with the file.

use std::path::{Path, PathBuf};

use flux_model::blobref::Blobref;
use flux_proto::Errno;
use rusqlite::ErrorCode;

use crate::format::FORMAT;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such blob or checkpoint.
    #[error("{path}: no such {what}", path = .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// `blob` or `checkpoint`.
        what: &'static str,
    },
    /// A commit is about to refer to what is not there.
    #[error("blob {0} is not in the store, or was collected since it was read")]
    Collected(Blobref),
    /// A commit is about to take for a directory what is none.
    #[error("blob {blobref} is no directory: {text}")]
    NoDirectory {
        /// Its name.
        blobref: Blobref,
        /// What is wrong with it.
        text: String,
    },
    /// The disk is full.
    #[error("{path}: no space left on device: free some space, then go on", path = .0.display())]
    Full(PathBuf),
    /// The file holds something that it should not.
    #[error("{path}: damaged: {text}: {next}", path = .path.display(), next = next(.path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// The file was written by a later release.
    #[error(
        "{path}: format {found} is newer than this release knows ({FORMAT}): \
             start the release that wrote it, or take its flux dump into a new state directory",
        path = .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// Another process has it.
    #[error("{path}: in use by another broker: stop that one first", path = .0.display())]
    Busy(PathBuf),
    /// The file was made with another hash.
    #[error(
        "{path}: holds {found} blobs: start with content.hash={found}", path = .path.display()
    )]
    Hash {
        /// The file.
        path: PathBuf,
        /// Its hash.
        found: String,
    },
    /// The file is a link to a place where nothing is.
    #[error(
        "{path}: was moved to {target}, where nothing is: mount that file system, or restore a \
         backup there", path = .path.display(), target = .target.display()
    )]
    Gone {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A file is where a copy was to be made, or its path is no good.
    #[error("{path}: {text}", path = .path.display())]
    Place {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        text: String,
    },
    /// Only one collection or copy at a time.
    #[error("{path}: {what} is going on: try again when it is over", path = .path.display())]
    Working {
        /// The file.
        path: PathBuf,
        /// What is going on.
        what: &'static str,
    },
    /// Any other failure of SQLite.
    #[error("{path}: {source}", path = .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// The errno on the wire.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Missing { .. } | Self::Collected(_) => Errno::ENOENT,
            Self::Full(_) => Errno::ENOSPC,
            Self::Newer { .. }
            | Self::Hash { .. }
            | Self::Place { .. }
            | Self::NoDirectory { .. } => Errno::EINVAL,
            Self::Busy(_) | Self::Working { .. } => Errno::EBUSY,
            Self::Damaged { .. } | Self::Gone { .. } | Self::Sqlite { .. } => Errno::EIO,
        }
    }
}

/// An error of SQLite about a file.
pub(crate) fn wrap(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_path_buf();
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(path),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged { path, text: source.to_string() }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy(path),
        _ => StoreError::Sqlite { path, source },
    }
}

/// What to do about a damaged file.
fn next(path: &Path) -> String {
    match path.parent() {
        Some(statedir) if path.ends_with("content.sqlite") => format!(
            "stop the instance and run flux fsck --repair --statedir={}",
            statedir.display()
        ),
        _ => "stop the instance and run flux fsck --repair with its --statedir".to_string(),
    }
}
