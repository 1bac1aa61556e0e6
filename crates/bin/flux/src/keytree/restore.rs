//! A tar archive as a tree: a path is a key, a file its value.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Component, Path};

use flate2::bufread::MultiGzDecoder;
use flux_api::content::Checkpoint;
use flux_model::blobref::{Blobref, HashAlg};
use flux_model::treeobj::{Treeobj, base64_len, is_entry_name};
use tar::{Archive, EntryType};

use super::{Blobs, Stopped};

/// Longest base64 text of a value that stays in its directory.
const INLINE_BASE64: usize = 72;

/// Largest value.
const MAX_VALUE: u64 = 1 << 30;

/// What an archive becomes.
pub(crate) struct Restore<'a> {
    pub(crate) blobs: &'a mut dyn Blobs,
    /// Values above this many bytes are left out.
    pub(crate) limit: Option<u64>,
    /// Hears of each key.
    pub(crate) seen: &'a mut dyn FnMut(&str),
    /// Hears of each file that is left out.
    pub(crate) left_out: &'a mut dyn FnMut(&str, &str),
    /// Keys that were restored.
    pub(crate) keys: u64,
}

#[derive(Debug)]
enum Node {
    Dir(BTreeMap<String, Node>),
    Leaf(Treeobj),
}

/// The names of a key, from a path in an archive.
fn names_of(path: &Path) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir | Component::RootDir => {}
            Component::Normal(name) => match name.to_str().filter(|name| is_entry_name(name)) {
                Some(name) => names.push(name.to_string()),
                None => return Err("cannot be a key: a name has a dot or is no text".to_string()),
            },
            Component::ParentDir | Component::Prefix(_) => {
                return Err("cannot be a key".to_string());
            }
        }
    }
    Ok(names)
}

impl Restore<'_> {
    /// Stores everything; the root.
    ///
    /// # Errors
    /// The sentence on what can't be read or stored.
    pub(crate) fn archive(&mut self, archive: impl Read) -> Result<Blobref, String> {
        let mut archive = Archive::new(archive);
        let mut root = BTreeMap::new();
        let entries = archive.entries().map_err(|error| error.to_string())?;
        for entry in entries {
            let mut entry = entry.map_err(|error| damaged(&error))?;
            let path = entry.path().map_err(|error| error.to_string())?.into_owned();
            let shown = path.display().to_string();
            let names = match names_of(&path) {
                Ok(names) => names,
                Err(text) => {
                    (self.left_out)(&shown, &text);
                    continue;
                }
            };
            let leaf = match entry.header().entry_type() {
                EntryType::Directory => None,
                EntryType::Symlink => {
                    let target = entry.link_name().map_err(|error| error.to_string())?;
                    let target = target.unwrap_or_default().display().to_string();
                    Some(match target.split_once("::") {
                        Some((space, target)) => Treeobj::symlink(Some(space), target),
                        None => Treeobj::symlink(None, &target),
                    })
                }
                EntryType::Regular | EntryType::Continuous => {
                    let size = entry.size();
                    if size > self.limit.unwrap_or(MAX_VALUE).min(MAX_VALUE) {
                        (self.left_out)(&shown, &format!("{size} bytes are over the limit"));
                        continue;
                    }
                    // The size is the archive's word: memory follows what is there.
                    let mut data = Vec::new();
                    entry
                        .read_to_end(&mut data)
                        .map_err(|error| format!("{shown}: {}", damaged(&error)))?;
                    Some(self.value(data)?)
                }
                _ => {
                    (self.left_out)(&shown, "is neither file, directory nor symbolic link");
                    continue;
                }
            };
            let is_leaf = leaf.is_some();
            if put(&mut root, &names, leaf) {
                self.keys += u64::from(is_leaf);
                (self.seen)(&names.join("."));
            } else {
                (self.left_out)(&shown, "a file is in the way");
            }
        }
        let root = self.directory(root)?;
        self.blobs.finish()?;
        Ok(root)
    }

    fn value(&mut self, data: Vec<u8>) -> Result<Treeobj, String> {
        if base64_len(data.len()) <= INLINE_BASE64 {
            return Ok(Treeobj::Val(data));
        }
        Ok(Treeobj::Valref(vec![self.blobs.store(data)?]))
    }

    fn directory(&mut self, entries: BTreeMap<String, Node>) -> Result<Blobref, String> {
        let mut objects = BTreeMap::new();
        for (name, node) in entries {
            let object = match node {
                Node::Leaf(object) => object,
                Node::Dir(inner) => Treeobj::Dirref(self.directory(inner)?),
            };
            objects.insert(name, object);
        }
        self.blobs.store(Treeobj::Dir(objects).encode())
    }
}

/// Opens an archive to read, compressed or not.
///
/// # Errors
/// The sentence on why not.
pub(crate) fn reader(path: &str) -> Result<Box<dyn Read>, String> {
    let about = |error: std::io::Error| format!("{path}: {error}");
    let file: Box<dyn Read> = if path == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(about)?)
    };
    let mut file = BufReader::new(file);
    let compressed = file.fill_buf().map_err(about)?.starts_with(&[0x1f, 0x8b]);
    Ok(if compressed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Makes a restored root the newest one of a store that no broker uses.
///
/// # Errors
/// The sentence on why not.
pub(crate) fn adopt(store: &mut Stopped, root: Blobref) -> Result<(), String> {
    let before = store.checkpoint()?;
    let now = jiff::Timestamp::now().as_microsecond() as f64 / 1e6;
    store.set_checkpoint(&Checkpoint {
        version: 1,
        rootref: root.to_string(),
        // Versions never go back.
        sequence: before.map_or(0, |before| before.sequence) + 1,
        timestamp: now,
        namespaces: None,
    })
}

/// Reads an archive as the whole of a store that no broker uses.
///
/// # Errors
/// The sentence on what can't be read or stored.
pub(crate) fn stopped(statedir: &Path, hash: HashAlg, path: &str) -> Result<(), String> {
    let mut store = Stopped::open(statedir, Some(hash))?;
    let (mut seen, mut left_out) = (|_: &str| {}, |_: &str, _: &str| {});
    let mut restore = Restore {
        blobs: &mut store,
        limit: None,
        seen: &mut seen,
        left_out: &mut left_out,
        keys: 0,
    };
    let root = restore.archive(reader(path)?).map_err(|text| format!("{path}: {text}"))?;
    adopt(&mut store, root)
}

/// Puts a value, or an empty directory, at a place; false when a value is in the way.
fn put(dir: &mut BTreeMap<String, Node>, names: &[String], leaf: Option<Treeobj>) -> bool {
    match names {
        [] => leaf.is_none(),
        [name] => match leaf {
            Some(object) => {
                let in_the_way = matches!(dir.get(name), Some(Node::Dir(_)));
                if !in_the_way {
                    dir.insert(name.clone(), Node::Leaf(object));
                }
                !in_the_way
            }
            None => {
                let entry = dir.entry(name.clone()).or_insert_with(|| Node::Dir(BTreeMap::new()));
                matches!(entry, Node::Dir(_))
            }
        },
        [name, rest @ ..] => {
            let entry = dir.entry(name.clone()).or_insert_with(|| Node::Dir(BTreeMap::new()));
            match entry {
                Node::Dir(inner) => put(inner, rest, leaf),
                Node::Leaf(_) => false,
            }
        }
    }
}

/// Why an archive cannot be read, in one line: the decoder quotes what it has read.
fn damaged(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" when getting") {
        _ if text.lines().count() > 1 => "the archive is damaged, or is none".to_string(),
        Some((reason, _)) => format!("the archive is damaged: {reason}"),
        None => format!("the archive is damaged: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keytree::dump::Dump;

    fn restore(blobs: &mut Stopped, archive: &[u8]) -> Result<(Blobref, u64), String> {
        let (mut seen, mut left_out) = (|_: &str| {}, |_: &str, _: &str| {});
        let mut restore =
            Restore { blobs, limit: None, seen: &mut seen, left_out: &mut left_out, keys: 0 };
        let root = restore.archive(archive)?;
        Ok((root, restore.keys))
    }

    fn dump(blobs: &mut Stopped, root: &Blobref) -> Vec<u8> {
        let (mut seen, mut unreadable) = (|_: &str| {}, |_: &str, _: &str| false);
        let tar = tar::Builder::new(Vec::new());
        let (seen, unreadable) = (&mut seen, &mut unreadable);
        let mut dump = Dump { blobs, tar, mtime: 1, seen, unreadable, keys: 0 };
        dump.root(root).unwrap();
        dump.tar.into_inner().unwrap()
    }

    #[test]
    fn what_was_dumped_is_restored_to_the_same_root() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = Stopped::open(directory.path(), Some(HashAlg::Sha1)).unwrap();
        let deep: Treeobj = (0..40).fold(Treeobj::val(*b"x"), |inner, n| {
            let name = format!("a-long-name-of-a-directory-{n}");
            let blob = Treeobj::Dir([(name, inner)].into()).encode();
            Treeobj::Dirref(first.store(blob).unwrap())
        });
        let long = first.store(vec![7; 100_000]).unwrap();
        let entries = [
            ("deep", deep),
            ("empty", Treeobj::Dirref(first.store(Treeobj::empty_dir().encode()).unwrap())),
            ("link", Treeobj::symlink(None, "deep.x")),
            ("other", Treeobj::symlink(Some("job-1"), "y")),
            ("long", Treeobj::Valref(vec![long])),
            ("nothing", Treeobj::val(*b"")),
        ];
        let entries = entries.map(|(name, object)| (name.to_string(), object));
        let root = first.store(Treeobj::Dir(entries.into()).encode()).unwrap();
        first.finish().unwrap();
        let archive = dump(&mut first, &root);
        let directory = tempfile::tempdir().unwrap();
        let mut second = Stopped::open(directory.path(), Some(HashAlg::Sha1)).unwrap();
        assert_eq!(restore(&mut second, &archive), Ok((root, 5)));
    }

    #[test]
    fn a_truncated_archive_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut blobs = Stopped::open(directory.path(), Some(HashAlg::Sha1)).unwrap();
        let value = blobs.store(vec![7; 10_000]).unwrap();
        let root = Treeobj::Dir([("a".to_string(), Treeobj::Valref(vec![value]))].into());
        let root = blobs.store(root.encode()).unwrap();
        blobs.finish().unwrap();
        let archive = dump(&mut blobs, &root);
        let error = restore(&mut blobs, &archive[..5_000]).unwrap_err();
        assert!(error.contains("damaged"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_bytes_upset_a_restore(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let directory = tempfile::tempdir().unwrap();
            let mut blobs = Stopped::open(directory.path(), Some(HashAlg::Sha1)).unwrap();
            drop(restore(&mut blobs, &bytes));
        }
    }
}
