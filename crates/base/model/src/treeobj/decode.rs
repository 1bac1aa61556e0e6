//! Reading tree objects in one pass, whatever the order of their keys.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{MAX_DEPTH, Treeobj, is_entry_name};
use crate::blobref::Blobref;

impl<'de> Deserialize<'de> for Treeobj {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Object { depth: 0 }.deserialize(deserializer)
    }
}

/// Reads an object found below `depth` directories.
#[derive(Clone, Copy)]
struct Object {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Object {
    type Value = Treeobj;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Treeobj, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object {
    type Value = Treeobj;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tree object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Treeobj, A::Error> {
        let (mut ver, mut kind, mut data) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "ver" => set(&mut ver, "ver", map.next_value::<i64>()?)?,
                "type" => set(&mut kind, "type", map.next_value::<String>()?)?,
                "data" => {
                    let value = map.next_value_seed(AnyData { depth: self.depth })?;
                    set(&mut data, "data", value)?;
                }
                _ => return Err(Error::unknown_field(&key, &["data", "type", "ver"])),
            }
        }
        let ver = ver.ok_or_else(|| A::Error::missing_field("ver"))?;
        if ver != 1 {
            return Err(Error::custom(format_args!("version {ver} is not supported")));
        }
        let kind = kind.ok_or_else(|| A::Error::missing_field("type"))?;
        let data = data.ok_or_else(|| A::Error::missing_field("data"))?;
        build(&kind, data).map_err(A::Error::custom)
    }
}

fn set<T, E: Error>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), E> {
    if slot.is_some() {
        return Err(E::duplicate_field(name));
    }
    *slot = Some(value);
    Ok(())
}

/// What the `data` key of any type can hold, before the type is known.
enum Data {
    Text(String),
    Blobs(Vec<Blobref>),
    Entries(BTreeMap<String, Entry>),
}

enum Entry {
    Text(String),
    Object(Treeobj),
}

fn build(kind: &str, data: Data) -> Result<Treeobj, String> {
    match (kind, data) {
        ("val", Data::Text(text)) => match BASE64.decode(text) {
            Ok(bytes) => Ok(Treeobj::Val(bytes)),
            Err(err) => Err(format!("val is not base64: {err}")),
        },
        ("valref", Data::Blobs(blobs)) if !blobs.is_empty() => Ok(Treeobj::Valref(blobs)),
        ("valref", Data::Blobs(_)) => Err("valref names no blob".to_owned()),
        ("dirref", Data::Blobs(blobs)) => match blobs[..] {
            [blob] => Ok(Treeobj::Dirref(blob)),
            _ => Err(format!("dirref must name one blob, not {}", blobs.len())),
        },
        ("dir", Data::Entries(entries)) => {
            let mut dir = BTreeMap::new();
            for (name, entry) in entries {
                if !is_entry_name(&name) {
                    return Err(format!("'{name}' cannot name a directory entry"));
                }
                match entry {
                    Entry::Object(object) => dir.insert(name, object),
                    Entry::Text(_) => return Err(format!("entry '{name}' is no object")),
                };
            }
            Ok(Treeobj::Dir(dir))
        }
        ("symlink", Data::Entries(mut entries)) => {
            let mut text = |name: &str| match entries.remove(name) {
                Some(Entry::Text(text)) => Ok(Some(text)),
                Some(Entry::Object(_)) => Err(format!("symlink {name} is no string")),
                None => Ok(None),
            };
            let namespace = text("namespace")?;
            let target = text("target")?;
            if let Some((name, _)) = entries.first_key_value() {
                return Err(format!("symlink has the unknown key '{name}'"));
            }
            match target {
                Some(target) if !target.is_empty() => Ok(Treeobj::Symlink { namespace, target }),
                _ => Err("symlink has no target".to_owned()),
            }
        }
        ("hdir", _) => Err("hdir is not supported".to_owned()),
        ("val" | "valref" | "dir" | "dirref" | "symlink", _) => {
            Err(format!("{kind} has data of the wrong kind"))
        }
        _ => Err(format!("unknown type '{kind}'")),
    }
}

#[derive(Clone, Copy)]
struct AnyData {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for AnyData {
    type Value = Data;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Data, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyData {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the data of a tree object")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Data, E> {
        Ok(Data::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Data, E> {
        Ok(Data::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Data, A::Error> {
        let mut blobs = Vec::new();
        while let Some(blob) = seq.next_element()? {
            blobs.push(blob);
        }
        Ok(Data::Blobs(blobs))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::custom(format_args!("nested deeper than {MAX_DEPTH} directories")));
        }
        let mut entries = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let entry = map.next_value_seed(AnyEntry { depth: self.depth + 1 })?;
            if entries.contains_key(&name) {
                return Err(Error::custom(format_args!("'{name}' occurs twice")));
            }
            entries.insert(name, entry);
        }
        Ok(Data::Entries(entries))
    }
}

#[derive(Clone, Copy)]
struct AnyEntry {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for AnyEntry {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyEntry {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tree object or the text of a symlink")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Entry, E> {
        Ok(Entry::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Entry, E> {
        Ok(Entry::Text(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
        Object { depth: self.depth }.visit_map(map).map(Entry::Object)
    }
}
