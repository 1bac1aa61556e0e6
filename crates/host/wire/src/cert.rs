//! The certificate file: one key pair with notes about where it comes from.
//!
//! The file is ZPL text like that of CURVE certificates, with a section `metadata` and a section
//! `curve`, so that guides, copying and inspecting stay as they are. The key is our own: Ed25519
//! for TLS raw public keys, where `secret-key` is the Z85 text of the 32 byte seed and
//! `public-key` that of the public key. A file with a key of another kind does not load, since
//! its public key does not belong to its secret key.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::key::{KeyError, KeyPair, PublicKey};
use crate::zpl;

/// The largest file in bytes that is read.
const FILE_MAX: u64 = 64 * 1024;

/// The largest number of metadata entries.
const METADATA_MAX: usize = 256;

/// Why a certificate cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than the owner may read it. Corresponds to `EPERM`.
    #[error("{}: readable by group/other", path.display())]
    Readable {
        /// The file.
        path: PathBuf,
    },
    /// Another user owns it. Corresponds to `EPERM`.
    #[error("{}: owned by user {owner}, expected user {expected}", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who should.
        expected: u32,
    },
    /// Not a certificate file.
    #[error("{}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The key is unusable.
    #[error("{}: {source}: make a new certificate with flux keygen", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// A metadata entry that cannot be written.
    #[error("metadata {0:?}: invalid name or value")]
    Metadata(String),
}

/// A key pair with its metadata.
#[derive(Debug, Clone)]
pub struct Cert {
    keys: KeyPair,
    metadata: Vec<(String, String)>,
}

impl Cert {
    /// A new certificate with a random key, and no metadata.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Cert, KeyError> {
        Ok(Cert::from_keys(KeyPair::generate()?))
    }

    /// A certificate around an existing key.
    #[must_use]
    pub fn from_keys(keys: KeyPair) -> Cert {
        Cert { keys, metadata: Vec::new() }
    }

    /// Sets one metadata entry, such as `name`, or replaces it.
    ///
    /// # Errors
    /// [`CertError::Metadata`] when the name is not made of letters, digits and `$-_@.&+/`, when
    /// the value has control characters or both kinds of quotes, or when there are too many.
    pub fn set_metadata(&mut self, name: &str, value: &str) -> Result<(), CertError> {
        if !zpl::is_entry(name, value) {
            return Err(CertError::Metadata(name.to_owned()));
        }
        let room = self.metadata.len() < METADATA_MAX;
        match self.metadata.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => value.clone_into(old),
            None if room => self.metadata.push((name.to_owned(), value.to_owned())),
            None => return Err(CertError::Metadata(name.to_owned())),
        }
        Ok(())
    }

    /// Adds the entries that tell where a new key was made: `keygen.hostname`, `keygen.time`
    /// (UTC) and `keygen.userid` of this process, and `keygen.flux-core-version` as given.
    ///
    /// # Errors
    /// As [`Cert::set_metadata`].
    pub fn set_origin(&mut self, version: &str) -> Result<(), CertError> {
        let uname = rustix::system::uname();
        self.set_metadata("keygen.flux-core-version", version)?;
        self.set_metadata("keygen.hostname", &uname.nodename().to_string_lossy())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.set_metadata("keygen.time", &utc_text(now.as_secs()))?;
        self.set_metadata("keygen.userid", &rustix::process::getuid().as_raw().to_string())
    }

    /// The key pair.
    #[must_use]
    pub const fn keys(&self) -> &KeyPair {
        &self.keys
    }

    /// The public key.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.keys.public()
    }

    /// The value of one metadata entry.
    #[must_use]
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// What people call the certificate: entry `name`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.metadata("name")
    }

    /// Reads the file at `path`, which must be a regular file of the effective user that group
    /// and others cannot read.
    ///
    /// # Errors
    /// Every case of [`CertError`] but metadata.
    pub fn load(path: &Path) -> Result<Cert, CertError> {
        Self::load_of(path, rustix::process::geteuid().as_raw())
    }

    /// As [`Cert::load`], of a file that belongs to `owner`.
    ///
    /// # Errors
    /// As [`Cert::load`].
    pub fn load_of(path: &Path, owner: u32) -> Result<Cert, CertError> {
        let io = |source| CertError::Io { path: path.to_owned(), source };
        // Not to wait when the path is a pipe; it is refused below.
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(io)?;
        let found = file.metadata().map_err(io)?;
        if !found.is_file() {
            let what = "not a regular file".to_owned();
            return Err(CertError::Format { path: path.to_owned(), what });
        }
        check_access(path, found.mode(), found.uid(), owner)?;
        if found.len() == 0 {
            let what = "empty: make a certificate with flux keygen".to_owned();
            return Err(CertError::Format { path: path.to_owned(), what });
        }
        let mut text = String::new();
        file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(io)?;
        if text.len() as u64 > FILE_MAX {
            let what = format!("larger than {FILE_MAX} bytes");
            return Err(CertError::Format { path: path.to_owned(), what });
        }
        Cert::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Cert, CertError> {
        let format = |what: String| CertError::Format { path: path.to_owned(), what };
        let key = |source| CertError::Key { path: path.to_owned(), source };
        let entries = zpl::parse(text).map_err(|e| format(e.to_string()))?;
        let mut metadata = Vec::new();
        let (mut public, mut secret) = (None, None);
        for entry in entries {
            match (entry.section.as_str(), entry.name.as_str()) {
                ("metadata", _) => metadata.push((entry.name, entry.value)),
                ("curve", "public-key") => public = Some(entry.value),
                ("curve", "secret-key") => secret = Some(entry.value),
                _ => {}
            }
        }
        if metadata.len() > METADATA_MAX {
            return Err(format(format!("more than {METADATA_MAX} metadata entries")));
        }
        let public = public.ok_or_else(|| format("section curve has no public-key".into()))?;
        let secret = secret.ok_or_else(|| format("section curve has no secret-key".into()))?;
        let keys = KeyPair::from_secret_text(&secret).map_err(key)?;
        if public.parse::<PublicKey>().map_err(key)? != keys.public() {
            return Err(key(KeyError::Mismatch));
        }
        Ok(Cert { keys, metadata })
    }

    /// The text of the file.
    fn to_text(&self) -> String {
        let mut text = String::from(
            "# Flux overlay network certificate\n\
             # This file holds a SECRET key: keep its mode 0600, and give it to nobody.\n\n\
             metadata\n",
        );
        for (name, value) in &self.metadata {
            zpl::write_entry(&mut text, name, value);
        }
        text.push_str("curve\n");
        zpl::write_entry(&mut text, "public-key", &self.keys.public().to_string());
        zpl::write_entry(&mut text, "secret-key", &self.keys.secret_text());
        text
    }

    /// Writes the file with mode 0600, whole or not at all. An existing file is never
    /// overwritten, since it may hold the only copy of a key in use; but an empty one of this
    /// user, which others cannot read, is a place made ready for the key, in a directory where
    /// the user may make no files.
    ///
    /// # Errors
    /// [`CertError::Io`], with `EEXIST` when the file is there already.
    pub fn save(&self, path: &Path) -> Result<(), CertError> {
        let io = |source| CertError::Io { path: path.to_owned(), source };
        if let Some(mut place) = empty_place(path) {
            return place
                .write_all(self.to_text().as_bytes())
                .and_then(|()| place.sync_all())
                .map_err(io);
        }
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let Some(name) = path.file_name() else {
            return Err(io(io::Error::from(io::ErrorKind::InvalidInput)));
        };
        let mut draft_name = std::ffi::OsString::from(".");
        draft_name.push(name);
        draft_name.push(format!(".{}", std::process::id()));
        let draft = dir.join(draft_name);
        let written = write_draft(&draft, self.to_text().as_bytes())
            // A hard link, unlike a rename, fails when the name is taken.
            .and_then(|()| std::fs::hard_link(&draft, path));
        let removed = std::fs::remove_file(&draft);
        written.and(removed).map_err(io)?;
        File::open(dir).and_then(|d| d.sync_all()).map_err(io)
    }
}

/// An empty regular file that is this user's alone, open for writing.
fn empty_place(path: &Path) -> Option<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file =
        OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(path).ok()?;
    let found = file.metadata().ok()?;
    let private =
        check_access(path, found.mode(), found.uid(), rustix::process::geteuid().as_raw());
    (found.is_file() && found.len() == 0 && private.is_ok()).then_some(file)
}

fn write_draft(path: &Path, text: &[u8]) -> io::Result<()> {
    // What an interrupted run of the same process id has left.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn check_access(path: &Path, mode: u32, owner: u32, expected: u32) -> Result<(), CertError> {
    if mode & 0o044 != 0 {
        return Err(CertError::Readable { path: path.to_owned() });
    }
    if owner != expected {
        return Err(CertError::Owner { path: path.to_owned(), owner, expected });
    }
    Ok(())
}

/// Seconds since 1970 as `2026-11-21T02:34:21Z`.
fn utc_text(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have their leap day last, and repeat every 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests;
