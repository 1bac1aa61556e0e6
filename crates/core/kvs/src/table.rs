//! The durable table of namespaces: a directory of 64 shards, each a directory of namespaces, so
//! that a commit to one of many namespaces rewrites little, and whoever walks tree objects (to
//! collect, to dump) finds every namespace's root as a dirref.
//!
//! A namespace's entry is a directory: `info`, the JSON `{owner, flags, seq}`, and `root`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use flux_model::blobref::Blobref;
use serde_json::{Value, json};

use crate::dir::{Dir, Node};
use crate::space::{Root, Space};

const SHARDS: u32 = 64;

/// Which shard holds a namespace.
pub(crate) fn shard_of(name: &str) -> u32 {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in name.bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    (hash ^ (hash >> 16)) % SHARDS
}

/// A namespace name as a directory entry: `.`, `%` and control characters are escaped.
fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if c == '.' || c == '%' || c.is_ascii_control() {
            out.push_str(&format!("%{:02x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let code = u8::from_str_radix(after.get(..2)?, 16).ok()?;
        out.push(char::from(code));
        rest = after.get(2..)?;
    }
    out.push_str(rest);
    Some(out)
}

/// Names by shard, and where each shard was stored last.
#[derive(Debug, Default)]
pub(crate) struct Table {
    names: BTreeMap<u32, BTreeSet<String>>,
    stored: BTreeMap<u32, Blobref>,
    /// Shards that must be written again.
    pub(crate) dirty: BTreeSet<u32>,
    /// Where the table was stored last.
    pub(crate) root: Option<Blobref>,
}

impl Table {
    pub(crate) fn add(&mut self, name: &str) {
        let shard = shard_of(name);
        self.names.entry(shard).or_default().insert(name.to_string());
        self.dirty.insert(shard);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let shard = shard_of(name);
        if let Some(names) = self.names.get_mut(&shard) {
            names.remove(name);
        }
        self.dirty.insert(shard);
    }

    /// Notes that a namespace has a new root.
    pub(crate) fn touch(&mut self, name: &str) {
        self.dirty.insert(shard_of(name));
    }

    /// The blobs of what changed; the last one is the table.
    pub(crate) fn write(
        &mut self,
        spaces: &BTreeMap<String, Space>,
        hash: flux_model::blobref::HashAlg,
    ) -> Vec<(Blobref, Bytes)> {
        let mut blobs = Vec::new();
        for shard in std::mem::take(&mut self.dirty) {
            let mut dir = Dir::default();
            for name in self.names.get(&shard).into_iter().flatten() {
                if let Some(space) = spaces.get(name) {
                    dir.entries.insert(escape(name).into(), entry(space));
                }
            }
            if dir.entries.is_empty() {
                self.stored.remove(&shard);
                continue;
            }
            let bytes = Bytes::from(dir.encode());
            let blobref = hash.hash(&bytes);
            self.stored.insert(shard, blobref);
            blobs.push((blobref, bytes));
        }
        let entries = self
            .stored
            .iter()
            .map(|(shard, blob)| (format!("{shard:02}").into(), Node::Ref(*blob)))
            .collect();
        let bytes = Bytes::from(Dir { entries }.encode());
        let blobref = hash.hash(&bytes);
        self.root = (!self.stored.is_empty()).then_some(blobref);
        if self.root.is_some() {
            blobs.push((blobref, bytes));
        }
        blobs
    }

    /// Reads the table itself: where its shards are.
    pub(crate) fn restore(&mut self, root: Blobref, dir: &Dir) -> Result<Vec<Blobref>, String> {
        self.root = Some(root);
        for (name, node) in &dir.entries {
            match (name.parse(), node) {
                (Ok(shard), Node::Ref(blob)) if shard < SHARDS => {
                    self.stored.insert(shard, *blob);
                }
                _ => return Err(format!("the namespace table has the odd entry '{name}'")),
            }
        }
        Ok(self.stored.values().copied().collect())
    }

    /// Reads one shard: its namespaces.
    pub(crate) fn restore_shard(&mut self, dir: &Dir) -> Result<Vec<(String, Space)>, String> {
        let mut spaces = Vec::new();
        for (escaped, node) in &dir.entries {
            let space = unescape(escaped)
                .and_then(|name| read(node).map(|space| (name, space)))
                .ok_or_else(|| format!("the namespace table has a bad entry '{escaped}'"))?;
            self.names.entry(shard_of(&space.0)).or_default().insert(space.0.clone());
            spaces.push(space);
        }
        Ok(spaces)
    }
}

fn entry(space: &Space) -> Node {
    let root = space.work.newest;
    let mut info = json!({ "flags": space.flags, "owner": space.owner, "seq": root.seq });
    if space.put > 0 {
        info["put"] = space.put.into();
    }
    let entries = [
        (Arc::from("info"), Node::Val(info.to_string().into())),
        (Arc::from("root"), Node::Ref(root.blobref)),
    ];
    Node::Inline(Arc::new(Dir { entries: entries.into() }))
}

fn read(node: &Node) -> Option<Space> {
    let Node::Inline(dir) = node else { return None };
    let (Node::Val(info), Node::Ref(root)) = (dir.entries.get("info")?, dir.entries.get("root")?)
    else {
        return None;
    };
    let info: Value = serde_json::from_slice(info).ok()?;
    let number = |key: &str| info.get(key)?.as_u64().and_then(|n| u32::try_from(n).ok());
    let root = Root { seq: info.get("seq")?.as_i64()?, blobref: *root };
    let mut space = Space::new(number("owner")?, number("flags")?, root);
    space.put = info.get("put").and_then(Value::as_u64).unwrap_or(0);
    Some(space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_namespace_name_can_be_an_entry() {
        for name in ["job-123", "a.b", "%", "", "x\u{0}y", "é.%2e"] {
            let escaped = escape(name);
            assert!(!escaped.contains(['.', '\0']));
            assert_eq!(unescape(&escaped).as_deref(), Some(name));
        }
    }
}
