//! A transaction on a working tree: all of it, or none.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use flux_api::kvs::{APPEND, Operation, PRUNE};
use flux_model::blobref::{Blobref, HashAlg};
use flux_model::treeobj::{Treeobj, key_names, normalize_key};

use crate::cache::Cache;
use crate::dir::{Blob, Dir, Node};
use crate::error::KvsError;

/// Most symbolic links on the way to one key.
pub(crate) const MAX_LINKS: u32 = 10;

/// Deepest key after its links were followed.
pub(crate) const MAX_KEY_DEPTH: usize = 1024;

/// Most objects asked for at a time on behalf of one transaction.
const PREFETCH: usize = 256;

/// What is done to a key.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// The key goes away.
    Remove,
    /// The key goes away, and the directories on the way to it that are empty then.
    Prune,
    /// The key gets this object; these blobs come with it.
    Put(Node, Vec<Blob>),
    /// The value grows.
    Append(Bytes),
}

/// One operation, checked.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    /// Normalised key.
    pub(crate) key: String,
    pub(crate) names: Vec<Arc<str>>,
    pub(crate) change: Change,
    /// What it refers to and does not bring.
    pub(crate) refs: Refs,
}

/// Blobs that the object of a client refers to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refs {
    pub(crate) dirs: Vec<Blobref>,
    pub(crate) data: Vec<Blobref>,
}

impl Refs {
    fn of(object: &Treeobj) -> Self {
        let mut refs = Self::default();
        refs.add(object);
        refs
    }

    fn add(&mut self, object: &Treeobj) {
        match object {
            Treeobj::Dirref(blobref) => self.dirs.push(*blobref),
            Treeobj::Valref(blobrefs) => self.data.extend(blobrefs),
            Treeobj::Dir(entries) => entries.values().for_each(|object| self.add(object)),
            Treeobj::Val(_) | Treeobj::Symlink { .. } => {}
        }
    }
}

impl Op {
    /// Bytes that it brings, about.
    pub(crate) fn weight(&self) -> u64 {
        let data = match &self.change {
            Change::Remove | Change::Prune => 0,
            Change::Append(data) | Change::Put(Node::Val(data), _) => data.len(),
            Change::Put(_, blobs) => blobs.iter().map(|(_, data)| data.len()).sum(),
        };
        (self.key.len() + data) as u64
    }

    /// Whether something is there afterwards that was not there before.
    pub(crate) fn brings(&self) -> bool {
        !matches!(self.change, Change::Remove | Change::Prune)
    }
}

/// Checks the operations of a request. Guests may commit only plain values and empty directories.
pub(crate) fn check(ops: Vec<Operation>, guest: bool, hash: HashAlg) -> Result<Vec<Op>, KvsError> {
    let mut checked = Vec::with_capacity(ops.len());
    for op in ops {
        let key = normalize_key(&op.key)?.into_owned();
        if key == "." {
            return Err(KvsError::Invalid("the root '.' cannot be written".into()));
        }
        let names = names_of(&key);
        let object = op
            .dirent
            .into_object()
            .map_err(|error| KvsError::Protocol(format!("key '{key}': {error}")))?;
        if let Some(object) = &object
            && guest
        {
            let allowed = match object {
                Treeobj::Val(_) => true,
                Treeobj::Dir(entries) => entries.is_empty(),
                _ => false,
            };
            if !allowed {
                return Err(KvsError::GuestObject(object.type_name()));
            }
        }
        let refs = object.as_ref().map(Refs::of).unwrap_or_default();
        let change = match object {
            object if op.flags & APPEND != 0 => match object {
                Some(Treeobj::Val(data)) => Change::Append(data.into()),
                _ => {
                    let text = format!("key '{key}': only a val object can be appended");
                    return Err(KvsError::Protocol(text));
                }
            },
            None if op.flags & PRUNE != 0 => Change::Prune,
            None => Change::Remove,
            Some(object) => {
                let mut blobs = Vec::new();
                let node = Node::committed(object, hash, &mut blobs);
                Change::Put(node, blobs)
            }
        };
        checked.push(Op { key, names, change, refs });
    }
    Ok(checked)
}

pub(crate) fn names_of(key: &str) -> Vec<Arc<str>> {
    key_names(key).map(Arc::from).collect()
}

/// Objects that a stalled transaction has been given; they count beside the cache, so that a
/// small cache cannot keep a transaction from ever finding all it needs.
pub(crate) type Held = BTreeMap<Blobref, Arc<Dir>>;

/// Why a transaction did not go through.
#[derive(Debug)]
pub(crate) enum Stop {
    /// These directories must be loaded first.
    Need(BTreeSet<Blobref>),
    /// It fails.
    Fail(KvsError),
}

/// Where directories come from.
pub(crate) struct Source<'a> {
    pub(crate) cache: &'a mut Cache,
    pub(crate) held: &'a Held,
    /// Gets the directories that were opened to be changed: nobody looks for them soon again.
    pub(crate) replaced: &'a mut Vec<Blobref>,
}

impl Source<'_> {
    fn dir(&mut self, node: &Node) -> Option<Result<Arc<Dir>, Blobref>> {
        match node {
            Node::Open(dir) | Node::Inline(dir) => Some(Ok(dir.clone())),
            Node::Ref(blob) => Some(self.by_ref(blob).ok_or(*blob)),
            _ => None,
        }
    }

    fn by_ref(&mut self, blob: &Blobref) -> Option<Arc<Dir>> {
        self.held.get(blob).cloned().or_else(|| self.cache.dir(blob))
    }
}

/// A place in the tree once its links are followed.
struct Place {
    names: Vec<Arc<str>>,
    found: Option<Node>,
}

enum Halt {
    Need(Blobref),
    Fail(KvsError),
}

fn resolve(root: &Node, op: &Op, namespace: &str, source: &mut Source<'_>) -> Result<Place, Halt> {
    let mut names = op.names.clone();
    let mut links = 0;
    'restart: loop {
        let mut node = root.clone();
        for at in 0..names.len() {
            let dir = match source.dir(&node) {
                Some(Ok(dir)) => dir,
                Some(Err(blob)) => return Err(Halt::Need(blob)),
                None => return Ok(Place { names, found: None }),
            };
            let Some(next) = dir.entries.get(&names[at]) else {
                return Ok(Place { names, found: None });
            };
            if let Node::Link(link) = next
                && at + 1 < names.len()
            {
                if link.namespace.as_deref().is_some_and(|other| other != namespace) {
                    let text = format!("key '{}' crosses into another namespace", op.key);
                    return Err(Halt::Fail(KvsError::Invalid(text)));
                }
                links += 1;
                if links > MAX_LINKS {
                    return Err(Halt::Fail(KvsError::TooManyLinks(op.key.clone())));
                }
                let mut followed = names_of(&link.target);
                followed.extend_from_slice(&names[at + 1..]);
                if followed.len() > MAX_KEY_DEPTH {
                    let text = format!("key '{}' is too deep", op.key);
                    return Err(Halt::Fail(KvsError::Invalid(text)));
                }
                names = followed;
                continue 'restart;
            }
            node = next.clone();
        }
        return Ok(Place { names, found: Some(node) });
    }
}

/// What one change replaced: the path, how deep the replaced entry is, and what was there.
struct Undo {
    names: Vec<Arc<str>>,
    depth: usize,
    old: Option<Node>,
}

/// The directory of a node, ready to be changed. The directory is in reach: it was resolved.
fn open<'a>(node: &'a mut Node, source: &mut Source<'_>) -> &'a mut Dir {
    let dir = match node {
        Node::Open(_) => None,
        Node::Inline(dir) => Some(std::mem::take(dir)),
        Node::Ref(blob) => {
            source.replaced.push(*blob);
            Some(source.by_ref(blob).expect("every directory on the way was resolved just before"))
        }
        _ => Some(Arc::default()),
    };
    if let Some(dir) = dir {
        *node = Node::Open(dir);
    }
    match node {
        Node::Open(dir) => Arc::make_mut(dir),
        _ => unreachable!("the node was opened above"),
    }
}

/// Sets or removes the entry at `names`, making directories on the way.
fn set(
    root: &mut Node,
    names: &[Arc<str>],
    new: Option<Node>,
    source: &mut Source<'_>,
) -> (usize, Option<Node>) {
    let mut node = root;
    let last = names.len() - 1;
    for depth in 0..last {
        let dir = open(node, source);
        if dir.entries.get(&names[depth]).is_some_and(Node::is_dir) {
            node = dir.entries.get_mut(&names[depth]).expect("looked up above");
            continue;
        }
        let Some(mut new) = new else { return (depth, dir.entries.get(&names[depth]).cloned()) };
        for name in names[depth + 1..].iter().rev() {
            new = Node::Open(Arc::new(Dir { entries: [(name.clone(), new)].into() }));
        }
        return (depth, dir.entries.insert(names[depth].clone(), new));
    }
    let dir = open(node, source);
    let old = match new {
        Some(new) => dir.entries.insert(names[last].clone(), new),
        None => dir.entries.remove(&names[last]),
    };
    (last, old)
}

/// Applies a transaction to the tree under `root`. On `Ok`, the blobs it brings are added to
/// `blobs`; otherwise the tree holds what it held before.
pub(crate) fn apply(
    root: &mut Node,
    namespace: &str,
    ops: &[Op],
    hash: HashAlg,
    source: &mut Source<'_>,
    blobs: &mut Vec<Blob>,
) -> Result<(), Stop> {
    let first_blob = blobs.len();
    let mut undo: Vec<Undo> = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        let halt = match step(root, namespace, op, hash, source, blobs, &mut undo) {
            Ok(()) => continue,
            Err(halt) => halt,
        };
        let stop = match halt {
            Halt::Fail(error) => Stop::Fail(error),
            Halt::Need(blob) => {
                // Ask at once for whatever else the rest will need.
                let mut need = BTreeSet::from([blob]);
                for op in &ops[at + 1..] {
                    if need.len() >= PREFETCH {
                        break;
                    }
                    if let Err(Halt::Need(blob)) = resolve(root, op, namespace, source) {
                        need.insert(blob);
                    }
                }
                Stop::Need(need)
            }
        };
        for Undo { names, depth, old } in undo.into_iter().rev() {
            set(root, &names[..=depth], old, source);
        }
        blobs.truncate(first_blob);
        return Err(stop);
    }
    Ok(())
}

fn step(
    root: &mut Node,
    namespace: &str,
    op: &Op,
    hash: HashAlg,
    source: &mut Source<'_>,
    blobs: &mut Vec<Blob>,
    undo: &mut Vec<Undo>,
) -> Result<(), Halt> {
    let Place { names, found } = resolve(root, op, namespace, source)?;
    if names.is_empty() {
        let text = format!("key '{}' leads to the root, which cannot be written", op.key);
        return Err(Halt::Fail(KvsError::Invalid(text)));
    }
    let new = match &op.change {
        Change::Remove | Change::Prune if found.is_none() => return Ok(()),
        Change::Remove | Change::Prune => None,
        Change::Put(node, more) => {
            blobs.extend_from_slice(more);
            Some(node.clone())
        }
        Change::Append(data) => Some(match found {
            None => Node::value(data.clone(), hash, blobs),
            Some(Node::Val(old)) => {
                let refs = [old, data.clone()].map(|piece| {
                    let blobref = hash.hash(&piece);
                    blobs.push((blobref, piece));
                    blobref
                });
                Node::Valref(Arc::new(refs.to_vec()))
            }
            Some(Node::Valref(mut refs)) => {
                let blobref = hash.hash(data);
                blobs.push((blobref, data.clone()));
                Arc::make_mut(&mut refs).push(blobref);
                Node::Valref(refs)
            }
            Some(Node::Link(_)) => return Err(Halt::Fail(KvsError::AppendLink(op.key.clone()))),
            Some(_) => return Err(Halt::Fail(KvsError::AppendDirectory(op.key.clone()))),
        }),
    };
    let (depth, old) = set(root, &names, new, source);
    let prune = matches!(op.change, Change::Prune);
    undo.push(Undo { names: names.clone(), depth, old });
    if prune {
        // Directories of the first level stay.
        let mut length = names.len() - 1;
        while length > 1 && is_empty(root, &names[..length]) {
            let names = names[..length].to_vec();
            let (depth, old) = set(root, &names, None, source);
            undo.push(Undo { names, depth, old });
            length -= 1;
        }
    }
    Ok(())
}

/// Whether a directory that was opened just before is empty.
fn is_empty(root: &Node, names: &[Arc<str>]) -> bool {
    let mut node = root;
    for name in names {
        let Node::Open(dir) = node else { return false };
        let Some(next) = dir.entries.get(name) else { return false };
        node = next;
    }
    matches!(node, Node::Open(dir) if dir.entries.is_empty())
}
