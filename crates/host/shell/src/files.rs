//! The files that a job brings (`attributes.system.files`, RFC 37).

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use flux_model::archive::{Content, File, decode_archive};
use serde_json::{Map, Value};

/// Why a file is not there.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The archive makes no sense.
    #[error(transparent)]
    Archive(#[from] flux_model::archive::ArchiveError),
    /// A file cannot be written.
    #[error("files: {path}: {reason}")]
    Write {
        /// Its path.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// The content is in the content store, from which this shell does not fetch.
    #[error("files: {0}: content by blob reference is not supported")]
    Blobs(String),
}

/// Writes the files of a job below `dir`.
///
/// # Errors
/// The first that cannot be written.
pub fn extract(files: &Map<String, Value>, dir: &Path) -> Result<(), FilesError> {
    for file in decode_archive(&Value::Object(files.clone()))? {
        if let Content::Blobs { .. } = file.content {
            return Err(FilesError::Blobs(file.path));
        }
        write(&file, dir).map_err(|error| FilesError::Write {
            path: file.path.clone(),
            reason: crate::output::reason(&error),
        })?;
    }
    Ok(())
}

fn write(file: &File, dir: &Path) -> io::Result<()> {
    let path = dir.join(&file.path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
        // A link that the archive itself made must not lead out of the directory.
        if !parent.canonicalize()?.starts_with(dir.canonicalize()?) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
    }
    let mode = file.permissions() & 0o777;
    let text;
    let bytes: &[u8] = match &file.content {
        Content::Directory => {
            return match DirBuilder::new().mode(mode | 0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                result => result,
            };
        }
        Content::Symlink(target) => return symlink(target, &path),
        Content::Json(value) => {
            text = value.to_string();
            text.as_bytes()
        }
        Content::Text(text) => text.as_bytes(),
        Content::Bytes(bytes) => bytes,
        Content::Hole(_) | Content::Blobs { .. } => &[],
    };
    let mut options = OpenOptions::new();
    let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    out.write_all(bytes)?;
    if let Content::Hole(size) = file.content {
        out.set_len(size)?;
    }
    out.set_permissions(fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_batch_script_is_executable() {
        let dir = tempfile::tempdir().unwrap();
        let files = json!({
            "script": {"mode": 33216, "data": "#!/bin/sh\n", "encoding": "utf-8"},
            "conf.json": {"mode": 33152, "data": {"a": 1}},
        });
        extract(files.as_object().unwrap(), dir.path()).unwrap();
        let script = dir.path().join("script");
        assert_eq!(fs::read_to_string(&script).unwrap(), "#!/bin/sh\n");
        assert_eq!(fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(dir.path().join("conf.json")).unwrap(), "{\"a\":1}");
    }

    #[test]
    fn nothing_leaves_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        for files in [
            json!({"../x": {"mode": 33152, "data": "", "encoding": "utf-8"}}),
            json!({"a": {"mode": 41471, "data": "/tmp"},
                   "a/b": {"mode": 33152, "data": "x", "encoding": "utf-8"}}),
        ] {
            assert!(extract(files.as_object().unwrap(), dir.path()).is_err());
        }
    }
}
