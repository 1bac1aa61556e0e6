//! Directories in memory: parsed once, shared, and copied only along the path that changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use flux_model::blobref::{Blobref, HashAlg};
use flux_model::treeobj::{Treeobj, base64_len};
use serde_json::{Map, Value, json};

/// Longest base64 text of a value that stays in its directory.
const INLINE_BASE64: usize = 72;

/// One name's object.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// Data held here.
    Val(Bytes),
    /// Data held in blobs.
    Valref(Arc<Vec<Blobref>>),
    /// A directory whose JSON is a blob.
    Ref(Blobref),
    /// A changed directory that becomes a blob of its own when it is sealed.
    Open(Arc<Dir>),
    /// A directory that was stored inside its parent.
    Inline(Arc<Dir>),
    /// A symbolic link.
    Link(Arc<Link>),
}

/// A symbolic link.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) namespace: Option<String>,
    pub(crate) target: String,
}

/// A directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dir {
    pub(crate) entries: BTreeMap<Arc<str>, Node>,
}

/// A blob and its address.
pub(crate) type Blob = (Blobref, Bytes);

/// A directory that became a blob.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) blobref: Blobref,
    pub(crate) bytes: Bytes,
    pub(crate) dir: Arc<Dir>,
}

impl Node {
    /// The node of a stored object.
    pub(crate) fn stored(object: Treeobj) -> Self {
        match object {
            Treeobj::Val(data) => Self::Val(data.into()),
            Treeobj::Valref(blobs) => Self::Valref(Arc::new(blobs)),
            Treeobj::Dirref(blob) => Self::Ref(blob),
            Treeobj::Symlink { namespace, target } => {
                Self::Link(Arc::new(Link { namespace, target }))
            }
            Treeobj::Dir(entries) => Self::Inline(Arc::new(Dir::stored(entries))),
        }
    }

    /// The node of an object that a client commits: long values and directories get blobs of
    /// their own.
    pub(crate) fn committed(object: Treeobj, hash: HashAlg, blobs: &mut Vec<Blob>) -> Self {
        match object {
            Treeobj::Val(data) => Self::value(data.into(), hash, blobs),
            Treeobj::Dir(entries) => {
                let entries = entries
                    .into_iter()
                    .map(|(name, object)| (name.into(), Self::committed(object, hash, blobs)))
                    .collect();
                Self::Open(Arc::new(Dir { entries }))
            }
            other => Self::stored(other),
        }
    }

    /// A value, in a blob when it is long.
    pub(crate) fn value(data: Bytes, hash: HashAlg, blobs: &mut Vec<Blob>) -> Self {
        if base64_len(data.len()) <= INLINE_BASE64 {
            return Self::Val(data);
        }
        let blobref = hash.hash(&data);
        blobs.push((blobref, data));
        Self::Valref(Arc::new(vec![blobref]))
    }

    pub(crate) fn is_dir(&self) -> bool {
        matches!(self, Self::Ref(_) | Self::Open(_) | Self::Inline(_))
    }

    /// The tree object as JSON.
    pub(crate) fn to_value(&self) -> Value {
        match self {
            Self::Val(data) => value_object(data),
            Self::Valref(blobs) => {
                let refs: Vec<String> = blobs.iter().map(Blobref::to_string).collect();
                json!({ "data": refs, "type": "valref", "ver": 1 })
            }
            Self::Ref(blob) => json!({ "data": [blob.to_string()], "type": "dirref", "ver": 1 }),
            Self::Open(dir) | Self::Inline(dir) => dir.to_value(),
            Self::Link(link) => {
                let mut data = Map::new();
                if let Some(namespace) = &link.namespace {
                    data.insert("namespace".into(), Value::from(namespace.as_str()));
                }
                data.insert("target".into(), Value::from(link.target.as_str()));
                json!({ "data": data, "type": "symlink", "ver": 1 })
            }
        }
    }

    /// Turns every changed directory below into a blob, children first; the node itself becomes
    /// a reference. A node that is no changed directory stays as it is.
    pub(crate) fn seal(&mut self, hash: HashAlg, out: &mut Vec<Sealed>) {
        let Self::Open(dir) = self else { return };
        let mut dir = std::mem::take(dir);
        if dir.entries.values().any(|node| matches!(node, Self::Open(_))) {
            for node in Arc::make_mut(&mut dir).entries.values_mut() {
                node.seal(hash, out);
            }
        }
        let bytes = Bytes::from(dir.encode());
        let blobref = hash.hash(&bytes);
        *self = Self::Ref(blobref);
        out.push(Sealed { blobref, bytes, dir });
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Val(data) => {
                out.extend_from_slice(b"{\"data\":\"");
                let start = out.len();
                out.resize(start + base64_len(data.len()), 0);
                let written = BASE64.encode_slice(data, &mut out[start..]).unwrap_or(0);
                out.truncate(start + written);
                out.extend_from_slice(b"\",\"type\":\"val\",\"ver\":1}");
            }
            Self::Valref(blobs) => {
                out.extend_from_slice(b"{\"data\":[");
                for (i, blob) in blobs.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    write_blobref(blob, out);
                }
                out.extend_from_slice(b"],\"type\":\"valref\",\"ver\":1}");
            }
            Self::Ref(blob) => {
                out.extend_from_slice(b"{\"data\":[");
                write_blobref(blob, out);
                out.extend_from_slice(b"],\"type\":\"dirref\",\"ver\":1}");
            }
            Self::Open(dir) | Self::Inline(dir) => dir.write(out),
            Self::Link(link) => {
                out.extend_from_slice(b"{\"data\":{");
                if let Some(namespace) = &link.namespace {
                    out.extend_from_slice(b"\"namespace\":");
                    write_text(namespace, out);
                    out.push(b',');
                }
                out.extend_from_slice(b"\"target\":");
                write_text(&link.target, out);
                out.extend_from_slice(b"},\"type\":\"symlink\",\"ver\":1}");
            }
        }
    }
}

/// A value's tree object.
pub(crate) fn value_object(data: &[u8]) -> Value {
    json!({ "data": BASE64.encode(data), "type": "val", "ver": 1 })
}

fn write_blobref(blob: &Blobref, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    out.extend_from_slice(blob.alg().name().as_bytes());
    out.push(b'-');
    for byte in blob.digest() {
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
    out.push(b'"');
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    // Most names need no escapes.
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(Value::from(text).to_string().as_bytes());
    }
}

impl Dir {
    fn stored(entries: BTreeMap<String, Treeobj>) -> Self {
        let entries =
            entries.into_iter().map(|(name, object)| (name.into(), Node::stored(object))).collect();
        Self { entries }
    }

    /// Bytes of memory, roughly.
    pub(crate) fn footprint(&self) -> usize {
        // A tree of entries is two thirds full; each name and each datum is an allocation.
        const ENTRY: usize = (size_of::<Arc<str>>() + size_of::<Node>()) * 3 / 2 + 32;
        self.entries
            .iter()
            .map(|(name, node)| {
                let more = match node {
                    Node::Val(data) => data.len() + 32,
                    Node::Valref(blobs) => blobs.len() * size_of::<Blobref>() + 48,
                    Node::Inline(dir) | Node::Open(dir) => dir.footprint(),
                    Node::Link(link) => link.target.len() + 96,
                    Node::Ref(_) => 0,
                };
                ENTRY + name.len() + more
            })
            .sum::<usize>()
            + 64
    }

    /// Parses a blob that must be a directory.
    pub(crate) fn decode(json: &[u8]) -> Result<Self, String> {
        match Treeobj::decode(json) {
            Ok(Treeobj::Dir(entries)) => Ok(Self::stored(entries)),
            Ok(other) => Err(format!("a {} where a directory should be", other.type_name())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The canonical JSON (sorted keys, no spaces).
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.entries.len() * 96);
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"data\":{");
        for (i, (name, node)) in self.entries.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_text(name, out);
            out.push(b':');
            node.write(out);
        }
        out.extend_from_slice(b"},\"type\":\"dir\",\"ver\":1}");
    }

    pub(crate) fn to_value(&self) -> Value {
        let entries: Map<String, Value> =
            self.entries.iter().map(|(name, node)| (name.to_string(), node.to_value())).collect();
        json!({ "data": entries, "type": "dir", "ver": 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_written_as_the_canonical_tree_object() {
        let mut entries = BTreeMap::new();
        let blob = HashAlg::Sha1.hash(b"x");
        entries.insert("v\"\u{7}é".to_string(), Treeobj::val("hello"));
        entries.insert("r".to_string(), Treeobj::Valref(vec![blob, blob]));
        entries.insert("d".to_string(), Treeobj::Dirref(blob));
        entries.insert("l".to_string(), Treeobj::symlink(Some("ns"), "a.b"));
        entries.insert("k".to_string(), Treeobj::symlink(None, "a"));
        entries.insert("i".to_string(), Treeobj::Dir([("z".into(), Treeobj::val(""))].into()));
        let object = Treeobj::Dir(entries.clone());
        let dir = Dir::stored(entries);
        assert_eq!(
            String::from_utf8(dir.encode()).unwrap(),
            String::from_utf8(object.encode()).unwrap()
        );
        assert_eq!(dir.to_value(), object.to_value());
        assert_eq!(Dir::decode(&dir.encode()).unwrap().encode(), dir.encode());
    }

    #[test]
    fn a_value_goes_to_a_blob_beyond_72_base64_characters() {
        let mut blobs = Vec::new();
        let short = Node::value(Bytes::from(vec![0; 54]), HashAlg::Sha1, &mut blobs);
        assert!(matches!(short, Node::Val(_)) && blobs.is_empty());
        let long = Node::value(Bytes::from(vec![0; 55]), HashAlg::Sha1, &mut blobs);
        assert!(matches!(long, Node::Valref(_)) && blobs.len() == 1);
    }
}
