//! The way to a key for a reader: resumable wherever a blob or a namespace is missing.

use std::collections::VecDeque;
use std::sync::Arc;

use flux_api::kvs::{READLINK, TREEOBJ};
use flux_model::blobref::Blobref;

use crate::apply::{MAX_KEY_DEPTH, MAX_LINKS, names_of};
use crate::cache::Cache;
use crate::dir::{Dir, Link, Node};
use crate::error::KvsError;

/// What a walk needs or found.
#[derive(Debug)]
pub(crate) enum Step {
    /// The object at the key.
    Found(Node),
    /// Nothing there.
    Missing,
    /// This directory must be loaded first.
    Need(Blobref),
    /// A link leads to this namespace: the walk goes on at its root.
    Cross(String),
}

/// A walk from a root to a key.
#[derive(Debug)]
pub(crate) struct Walk {
    key: String,
    flags: u32,
    root: Blobref,
    at: Node,
    rest: VecDeque<Arc<str>>,
    links: u32,
    crossing: Option<String>,
}

impl Walk {
    pub(crate) fn new(key: &str, flags: u32, root: Blobref) -> Self {
        Self {
            key: key.to_string(),
            flags,
            root,
            at: Node::Ref(root),
            rest: names_of(key).into(),
            links: 0,
            crossing: None,
        }
    }

    /// The key asked for.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Goes on at the root of another namespace.
    pub(crate) fn enter(&mut self, root: Blobref) {
        self.root = root;
        self.at = Node::Ref(root);
    }

    /// Stays at the link into a namespace that is not known yet: the next step says it again.
    pub(crate) fn cross_again(&mut self, namespace: &str) {
        self.crossing = Some(namespace.to_string());
    }

    fn follow(&mut self, link: &Link) -> Result<Option<String>, KvsError> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(KvsError::TooManyLinks(self.key.clone()));
        }
        let mut names: VecDeque<Arc<str>> = names_of(&link.target).into();
        names.extend(self.rest.drain(..));
        if names.len() > MAX_KEY_DEPTH {
            return Err(KvsError::Invalid(format!("key '{}' is too deep", self.key)));
        }
        self.rest = names;
        if let Some(namespace) = &link.namespace {
            return Ok(Some(namespace.clone()));
        }
        self.enter(self.root);
        Ok(None)
    }

    /// Goes as far as the cache allows.
    pub(crate) fn step(&mut self, cache: &mut Cache) -> Result<Step, KvsError> {
        if let Some(namespace) = self.crossing.take() {
            return Ok(Step::Cross(namespace));
        }
        loop {
            if let Node::Link(link) = &self.at {
                let link = link.clone();
                if self.rest.is_empty() && self.flags & (READLINK | TREEOBJ) != 0 {
                    return Ok(Step::Found(Node::Link(link)));
                }
                if let Some(namespace) = self.follow(&link)? {
                    return Ok(Step::Cross(namespace));
                }
                continue;
            }
            let Some(name) = self.rest.front() else {
                return Ok(Step::Found(self.at.clone()));
            };
            let dir: Arc<Dir> = match &self.at {
                Node::Open(dir) | Node::Inline(dir) => dir.clone(),
                Node::Ref(blob) => match cache.dir(blob) {
                    Some(dir) => dir,
                    None => return Ok(Step::Need(*blob)),
                },
                _ => return Ok(Step::Missing),
            };
            let Some(next) = dir.entries.get(name) else { return Ok(Step::Missing) };
            self.at = next.clone();
            self.rest.pop_front();
        }
    }
}
