//! Tree objects, the nodes of a key-value store namespace (RFC 11).
//!
//! The JSON form is written with sorted keys (`data`, `type`, `ver`, and sorted directory entries), so
//! that equal objects have equal bytes and therefore equal blobrefs. Any key order is read.
//!
//! `hdir` objects are defined by the RFC but were never implemented by anyone; they are refused.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Deserialize, Serialize, Serializer};

use crate::blobref::{Blobref, HashAlg};

mod decode;
pub mod key;
mod refs;

pub use key::{KeyError, key_names, normalize_key};
pub use refs::References;

/// Deepest nesting of `dir` objects inside one JSON document. Deeper trees are linked by `dirref`.
pub const MAX_DEPTH: usize = 56;

/// Why JSON is no tree object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid tree object: {0}")]
pub struct TreeobjError(String);

/// Why data cannot be appended to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The object is a symbolic link (EOPNOTSUPP).
    #[error("cannot append to a symlink")]
    Symlink,
    /// The object is a directory (EISDIR).
    #[error("cannot append to a directory")]
    Directory,
}

/// A tree object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Treeobj {
    /// Data held here (base64 in JSON).
    Val(Vec<u8>),
    /// Data held in the content store: the blobs, one after the other. At least one.
    Valref(Vec<Blobref>),
    /// A directory held here. Names are not empty and hold no `.`.
    Dir(BTreeMap<String, Treeobj>),
    /// A directory whose JSON is a blob of the content store.
    Dirref(Blobref),
    /// Stands for another key.
    Symlink {
        /// Namespace of the target; `None` is the namespace of the link itself.
        namespace: Option<String>,
        /// Key it stands for; not empty.
        target: String,
    },
}

impl Treeobj {
    /// A value with these bytes.
    pub fn val(data: impl Into<Vec<u8>>) -> Self {
        Treeobj::Val(data.into())
    }

    /// A directory without entries.
    pub fn empty_dir() -> Self {
        Treeobj::Dir(BTreeMap::new())
    }

    /// A link to a key, by default of the same namespace.
    pub fn symlink(namespace: Option<&str>, target: &str) -> Self {
        Treeobj::Symlink { namespace: namespace.map(str::to_owned), target: target.to_owned() }
    }

    /// The value of the `type` key.
    pub fn type_name(&self) -> &'static str {
        match self {
            Treeobj::Val(_) => "val",
            Treeobj::Valref(_) => "valref",
            Treeobj::Dir(_) => "dir",
            Treeobj::Dirref(_) => "dirref",
            Treeobj::Symlink { .. } => "symlink",
        }
    }

    /// Whether it is a directory, held here or by reference.
    pub fn is_dir(&self) -> bool {
        matches!(self, Treeobj::Dir(_) | Treeobj::Dirref(_))
    }

    /// Reads one object from JSON text.
    ///
    /// # Errors
    /// [`TreeobjError`] when the text is not JSON, not a valid tree object, or nested deeper than
    /// [`MAX_DEPTH`].
    pub fn decode(json: &[u8]) -> Result<Self, TreeobjError> {
        serde_json::from_slice(json).map_err(|err| TreeobjError(err.to_string()))
    }

    /// Reads one object from a JSON value.
    ///
    /// # Errors
    /// As [`Treeobj::decode`].
    pub fn from_value(value: &serde_json::Value) -> Result<Self, TreeobjError> {
        Self::deserialize(value).map_err(|err| TreeobjError(err.to_string()))
    }

    /// The JSON value.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a tree object has string keys only")
    }

    /// The canonical JSON text, without a newline.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a tree object has string keys only")
    }

    /// The address of the canonical JSON text.
    pub fn hash(&self, alg: HashAlg) -> Blobref {
        alg.hash(&self.encode())
    }

    /// Appends the blob `piece` to a value. A value held here becomes the first blob: `store` is
    /// given its bytes and returns their address.
    ///
    /// # Errors
    /// [`AppendError`] unless the object is a `val` or `valref`; it is then unchanged.
    pub fn append(
        &mut self,
        piece: Blobref,
        store: impl FnOnce(Vec<u8>) -> Blobref,
    ) -> Result<(), AppendError> {
        match self {
            Treeobj::Val(data) => {
                let first = store(std::mem::take(data));
                *self = Treeobj::Valref(vec![first, piece]);
                Ok(())
            }
            Treeobj::Valref(blobs) => {
                blobs.push(piece);
                Ok(())
            }
            Treeobj::Symlink { .. } => Err(AppendError::Symlink),
            Treeobj::Dir(_) | Treeobj::Dirref(_) => Err(AppendError::Directory),
        }
    }
}

/// Length of the base64 text of `len` bytes.
pub fn base64_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}

/// Whether a directory may have an entry of this name.
pub fn is_entry_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['.', '\0'])
}

impl Serialize for Treeobj {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Treeobj", 3)?;
        match self {
            Treeobj::Val(data) => object.serialize_field("data", &BASE64.encode(data))?,
            Treeobj::Valref(blobs) => object.serialize_field("data", blobs)?,
            Treeobj::Dir(entries) => object.serialize_field("data", entries)?,
            Treeobj::Dirref(blob) => object.serialize_field("data", std::slice::from_ref(blob))?,
            Treeobj::Symlink { namespace, target } => {
                object
                    .serialize_field("data", &Link { namespace: namespace.as_deref(), target })?;
            }
        }
        object.serialize_field("type", self.type_name())?;
        object.serialize_field("ver", &1)?;
        object.end()
    }
}

struct Link<'a> {
    namespace: Option<&'a str>,
    target: &'a str,
}

impl Serialize for Link<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(namespace) = self.namespace {
            map.serialize_entry("namespace", namespace)?;
        }
        map.serialize_entry("target", self.target)?;
        map.end()
    }
}

#[cfg(test)]
mod tests;
