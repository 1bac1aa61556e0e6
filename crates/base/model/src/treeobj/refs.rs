//! What a stored directory refers to: the edges that a walk over a tree of objects follows.

use super::{Treeobj, TreeobjError};
use crate::blobref::Blobref;

/// Blobs that a directory refers to, in the order of its entries, with repetitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// Blobs that hold directories.
    pub dirs: Vec<Blobref>,
    /// Blobs that hold pieces of values.
    pub data: Vec<Blobref>,
}

impl References {
    /// Reads the blob of a directory. Directories inside it are looked through; symbolic links
    /// are not followed.
    ///
    /// # Errors
    /// [`TreeobjError`] when it is no tree object.
    pub fn of(blob: &[u8]) -> Result<Self, TreeobjError> {
        let mut found = Self::default();
        found.gather(&Treeobj::decode(blob)?);
        Ok(found)
    }

    // Decoding has bounded the depth.
    fn gather(&mut self, object: &Treeobj) {
        match object {
            Treeobj::Val(_) | Treeobj::Symlink { .. } => {}
            Treeobj::Valref(blobs) => self.data.extend(blobs),
            Treeobj::Dirref(blob) => self.dirs.push(*blob),
            Treeobj::Dir(entries) => entries.values().for_each(|entry| self.gather(entry)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobref::HashAlg;

    #[test]
    fn every_reference_is_found_at_any_depth() {
        let blob = |n: u8| HashAlg::Sha1.hash(&[n]);
        let inner =
            Treeobj::Dir([("v".to_string(), Treeobj::Valref(vec![blob(1), blob(2)]))].into());
        let object = Treeobj::Dir(
            [
                ("a".to_string(), inner),
                ("d".to_string(), Treeobj::Dirref(blob(3))),
                ("l".to_string(), Treeobj::symlink(None, "a.v")),
                ("x".to_string(), Treeobj::val(*b"sha1-")),
            ]
            .into(),
        );
        let found = References::of(&object.encode()).unwrap();
        assert_eq!(found, References { dirs: vec![blob(3)], data: vec![blob(1), blob(2)] });
        assert!(References::of(b"{}").is_err());
    }
}
