//! The identity of the instance whose state this is. It goes where the state goes, so that a
//! broker which comes back can tell whether it belongs there.

use std::io::Read;

use rusqlite::params;

use crate::error::StoreError;
use crate::log::BlobLog;

/// A new identity: 128 random bits in hexadecimal.
fn fresh() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl BlobLog {
    /// The identity of the instance, made at the first call and never changed.
    ///
    /// # Errors
    /// When the file can't be written or read.
    pub fn instance(&self) -> Result<String, StoreError> {
        let sql = |source| StoreError::Sqlite { path: self.path().to_path_buf(), source };
        let fresh = fresh().map_err(|error| StoreError::Damaged {
            path: self.path().to_path_buf(),
            text: format!("no random numbers: {error}"),
        })?;
        let connection = &self.connection;
        connection
            .execute("INSERT OR IGNORE INTO meta VALUES ('instance', ?1)", params![fresh])
            .map_err(sql)?;
        connection
            .query_row("SELECT value FROM meta WHERE key = 'instance'", [], |row| row.get(0))
            .map_err(sql)
    }
}

#[cfg(test)]
mod tests {
    use flux_model::blobref::HashAlg;

    use super::*;
    use crate::log::Durability;

    #[test]
    fn the_identity_stays_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            BlobLog::open(&dir.path().join(name), HashAlg::Sha1, Durability::Synced).unwrap()
        };
        let first = open("a").instance().unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(open("a").instance().unwrap(), first);
        assert_ne!(open("b").instance().unwrap(), first);
    }
}
