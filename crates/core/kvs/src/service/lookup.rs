//! Lookups, and the loading of blobs they need.

use std::sync::Arc;

use bytes::Bytes;
use flux_api::content::Load;
use flux_api::kvs::{
    KEEP_REFS, Lookup, LookupPlus, LookupPlusResponse, LookupRequest, LookupResponse, READDIR,
    READLINK, TREEOBJ,
};
use flux_api::{Answer, Raw, RpcError};
use flux_model::blobref::Blobref;
use flux_model::treeobj::{Treeobj, normalize_key};
use flux_proto::{Cred, Errno, Message, Rolemask};
use flux_svc::{Reply, To};
use serde_json::Value;

use super::follow::Parked;
use super::{Context, KvsService, MAX_WAITING, Wait, Waiter};
use crate::cache::Object;
use crate::dir::{Dir, Node, value_object};
use crate::error::KvsError;
use crate::space::{Root, VersionWaiter};
use crate::walk::{Step, Walk};

/// Largest value of one response, in bytes.
const VALUE_MAX: usize = 512 << 20;

/// Pieces of one value that are loaded at a time.
const WINDOW: usize = 64;

/// Times that a lookup begins again, since what it needs was collected. Each time it
/// took longer than collections leave a reader.
const TRIES: u32 = 4;

/// How a lookup is answered.
#[derive(Debug)]
pub(super) enum Asked {
    Lookup(Answer<Lookup>),
    Plus(Answer<LookupPlus>),
}

impl From<Answer<Lookup>> for Asked {
    fn from(answer: Answer<Lookup>) -> Self {
        Self::Lookup(answer)
    }
}

impl From<Answer<LookupPlus>> for Asked {
    fn from(answer: Answer<LookupPlus>) -> Self {
        Self::Plus(answer)
    }
}

impl Asked {
    fn head(&self) -> &Message {
        match self {
            Self::Lookup(answer) => answer.head(),
            Self::Plus(answer) => answer.head(),
        }
    }

    fn cred(&self) -> Cred {
        self.head().cred
    }

    fn fail(self, cx: &mut Context<'_>, error: impl Into<RpcError>) {
        match self {
            Self::Lookup(answer) => answer.err(cx, error),
            Self::Plus(answer) => answer.err(cx, error),
        }
    }
}

/// A lookup on its way.
#[derive(Debug)]
pub(super) struct Reading {
    asked: Asked,
    /// Whose rights count on the way.
    cred: Cred,
    flags: u32,
    root: Root,
    walk: Walk,
    gather: Option<Gather>,
    /// The namespace at whose newest root it began, if it did.
    fresh: Option<String>,
    /// The namespace at whose newest root it is now, and the version of that.
    place: Option<(String, i64)>,
    /// Times that it may begin again.
    tries: u32,
    /// Why it begins again, when the place has a newer root.
    stale: Option<KvsError>,
}

/// A value whose pieces are collected.
#[derive(Debug)]
struct Gather {
    refs: Arc<Vec<Blobref>>,
    parts: Vec<Bytes>,
    bytes: usize,
    next: usize,
    outstanding: usize,
}

impl Reading {
    pub(super) fn fail(self, cx: &mut Context<'_>, error: impl Into<RpcError>) {
        self.asked.fail(cx, error);
    }

    pub(super) fn same_sender(&self, message: &Message) -> bool {
        match &self.asked {
            Asked::Lookup(answer) => answer.same_sender(message),
            Asked::Plus(answer) => answer.same_sender(message),
        }
    }

    pub(super) fn forget(self) {
        match self.asked {
            Asked::Lookup(answer) => answer.forget(),
            Asked::Plus(answer) => answer.forget(),
        }
    }

    fn found(self, cx: &mut Context<'_>, val: Value) {
        match self.asked {
            Asked::Lookup(answer) => answer.give(cx, LookupResponse { val }),
            Asked::Plus(answer) => {
                let response = LookupPlusResponse {
                    val: Some(val),
                    errno: None,
                    rootseq: self.root.seq,
                    rootref: self.root.blobref.to_string(),
                };
                answer.give(cx, response);
            }
        }
    }

    fn missing(self, cx: &mut Context<'_>) {
        match self.asked {
            Asked::Lookup(answer) => {
                answer.err(cx, KvsError::Missing(self.walk.key().to_string()));
            }
            Asked::Plus(answer) => {
                let response = LookupPlusResponse {
                    val: None,
                    errno: Some(Errno::ENOENT.0),
                    rootseq: self.root.seq,
                    rootref: self.root.blobref.to_string(),
                };
                answer.give(cx, response);
            }
        }
    }
}

/// What became of an object that was found.
enum Found {
    Value(Value),
    Need(Blobref),
    Gather(Arc<Vec<Blobref>>),
}

impl KvsService {
    pub(super) fn lookup(&mut self, cx: &mut Context<'_>, request: &LookupRequest, asked: Asked) {
        if self.readings.len() >= MAX_WAITING {
            return asked.fail(cx, KvsError::Busy(MAX_WAITING));
        }
        let root = match self.start_root(request, asked.cred()) {
            Ok(root) => root,
            Err(error) => return asked.fail(cx, error),
        };
        let key = match normalize_key(&request.key) {
            Ok(key) => key,
            Err(error) => return asked.fail(cx, KvsError::BadKey(error)),
        };
        let walk = Walk::new(&key, request.flags, root.blobref);
        let fresh = request.namespace.clone().filter(|_| request.rootdir.is_none());
        let flags = request.flags;
        let cred = match request.userid {
            Some(userid) if asked.cred().is_owner() => Cred { userid, rolemask: Rolemask::USER },
            _ => asked.cred(),
        };
        let place = fresh.clone().map(|name| (name, root.seq));
        let reading = Reading {
            asked,
            cred,
            flags,
            root,
            walk,
            gather: None,
            fresh,
            place,
            tries: TRIES,
            stale: None,
        };
        let id = self.ticket();
        if let (None, Some(seq), Some(name)) =
            (&request.rootdir, request.rootseq, &request.namespace)
            && seq > root.seq
            && let Some(space) = self.spaces.get_mut(name)
        {
            space.waiters.insert((seq, id), VersionWaiter::Lookup(id));
            self.readings.insert(id, reading);
            return;
        }
        self.drive(cx, id, reading);
    }

    fn start_root(&self, request: &LookupRequest, cred: Cred) -> Result<Root, KvsError> {
        if let Some(rootdir) = &request.rootdir {
            // A root says nothing of whose it is.
            if !cred.is_owner() {
                return Err(KvsError::GuestRoot);
            }
            return match Treeobj::from_value(rootdir) {
                Ok(Treeobj::Dirref(blobref)) => {
                    Ok(Root { seq: request.rootseq.unwrap_or(0), blobref })
                }
                _ => Err(KvsError::Invalid("rootdir is no dirref with one blobref".into())),
            };
        }
        let Some(name) = &request.namespace else {
            return Err(KvsError::Protocol("a lookup needs a namespace or a rootdir".into()));
        };
        Ok(self.space(name, cred)?.root)
    }

    /// The version that a lookup waited for is there.
    pub(super) fn lookup_at(&mut self, cx: &mut Context<'_>, id: u64, root: Root) {
        if let Some(mut reading) = self.readings.remove(&id) {
            reading.root = root;
            reading.walk.enter(root.blobref);
            if let Some((_, seq)) = &mut reading.place {
                *seq = root.seq;
            }
            self.drive(cx, id, reading);
        }
    }

    /// Something that a lookup waited for is there.
    pub(super) fn lookup_on(&mut self, cx: &mut Context<'_>, id: u64) {
        let Some(mut reading) = self.readings.remove(&id) else { return };
        if let Some(error) = reading.stale.take() {
            let newer = reading.place.as_ref().is_some_and(|(name, seq)| {
                self.spaces.get(name).is_some_and(|space| space.root.seq > *seq)
            });
            if !newer {
                // It is missing from what everybody else sees, too.
                return reading.fail(cx, error);
            }
            if let Some(name) = &reading.fresh
                && let Some(space) = self.spaces.get(name)
            {
                reading.root = space.root;
            }
            let place = reading.fresh.clone().map(|name| (name, reading.root.seq));
            reading.place = place;
            reading.walk = Walk::new(reading.walk.key(), reading.flags, reading.root.blobref);
        }
        self.drive(cx, id, reading);
    }

    /// An object that a lookup needs is gone. A lookup that takes long, or a follower that was cut
    /// off, may have begun at a root which nobody else remembers: it begins again at the leader's.
    fn lookup_stale(&mut self, cx: &mut Context<'_>, id: u64, error: KvsError) {
        let Some(mut reading) = self.readings.remove(&id) else { return };
        if matches!(error, KvsError::BadObject { .. })
            && reading.tries > 0
            && let Some((name, _)) = reading.place.clone()
        {
            reading.tries -= 1;
            reading.stale = Some(error);
            // Pieces that are still on their way mean nothing to it any more.
            reading.gather = None;
            let id = self.ticket();
            self.readings.insert(id, reading);
            if self.rank == 0 {
                return self.lookup_on(cx, id);
            }
            return self.ask(cx, name, Parked::Lookup(id));
        }
        reading.fail(cx, error);
    }

    pub(super) fn lookup_failed(
        &mut self,
        cx: &mut Context<'_>,
        id: u64,
        error: impl Into<RpcError>,
    ) {
        if let Some(reading) = self.readings.remove(&id) {
            reading.fail(cx, error);
        }
    }

    fn drive(&mut self, cx: &mut Context<'_>, id: u64, mut reading: Reading) {
        loop {
            let node = match reading.walk.step(&mut self.cache) {
                Err(error) => return reading.fail(cx, error),
                Ok(Step::Missing) => return reading.missing(cx),
                Ok(Step::Need(blobref)) => {
                    self.readings.insert(id, reading);
                    return self.load(cx, blobref, Waiter::Lookup(id));
                }
                Ok(Step::Cross(name)) => {
                    if self.behind.contains_key(&name) && self.spaces.contains_key(&name) {
                        reading.walk.cross_again(&name);
                        self.readings.insert(id, reading);
                        return self.read_newest(cx, &name, Parked::Lookup(id));
                    }
                    match self.space(&name, reading.cred) {
                        Ok(space) => {
                            reading.walk.enter(space.root.blobref);
                            reading.place = Some((name, space.root.seq));
                        }
                        Err(_) if self.rank > 0 && !self.spaces.contains_key(&name) => {
                            reading.walk.cross_again(&name);
                            self.readings.insert(id, reading);
                            return self.ask(cx, name, Parked::Lookup(id));
                        }
                        Err(error) => return reading.fail(cx, error),
                    }
                    continue;
                }
                Ok(Step::Found(node)) => node,
            };
            match self.object(&node, reading.flags, reading.walk.key()) {
                Err(error) => reading.fail(cx, error),
                Ok(Found::Value(value)) => reading.found(cx, value),
                Ok(Found::Need(blobref)) => {
                    self.readings.insert(id, reading);
                    self.load(cx, blobref, Waiter::Lookup(id));
                }
                Ok(Found::Gather(refs)) => {
                    let parts = vec![Bytes::new(); refs.len()];
                    reading.gather =
                        Some(Gather { refs, parts, bytes: 0, next: 0, outstanding: 0 });
                    self.gather(cx, id, reading);
                }
            }
            return;
        }
    }

    fn object(&mut self, node: &Node, flags: u32, key: &str) -> Result<Found, KvsError> {
        if flags & READLINK != 0 && !matches!(node, Node::Link(_)) {
            return Err(KvsError::NotLink(key.to_string()));
        }
        if flags & TREEOBJ != 0 {
            return Ok(Found::Value(node.to_value()));
        }
        match node {
            Node::Link(_) => Ok(Found::Value(node.to_value())),
            Node::Ref(_) | Node::Open(_) | Node::Inline(_) if flags & READDIR == 0 => {
                Err(KvsError::IsDirectory(key.to_string()))
            }
            Node::Ref(blobref) => Ok(match self.cache.dir(blobref) {
                Some(dir) => Found::Value(dir.to_value()),
                None => Found::Need(*blobref),
            }),
            Node::Open(dir) | Node::Inline(dir) => Ok(Found::Value(dir.to_value())),
            Node::Val(_) | Node::Valref(_) if flags & READDIR != 0 => {
                Err(KvsError::NotDirectory(key.to_string()))
            }
            Node::Val(data) => Ok(Found::Value(value_object(data))),
            Node::Valref(_) if flags & KEEP_REFS != 0 => Ok(Found::Value(node.to_value())),
            Node::Valref(refs) => Ok(Found::Gather(refs.clone())),
        }
    }

    /// Collects what is at hand and asks for the next pieces.
    fn gather(&mut self, cx: &mut Context<'_>, id: u64, mut reading: Reading) {
        let mut wanted = Vec::new();
        if let Some(gather) = &mut reading.gather {
            while gather.next < gather.refs.len() && gather.outstanding < WINDOW {
                let at = gather.next;
                gather.next += 1;
                let blobref = gather.refs[at];
                if let Some(data) = self.cache.data(&blobref) {
                    gather.bytes += data.len();
                    gather.parts[at] = data;
                } else {
                    gather.outstanding += 1;
                    wanted.push((blobref, at));
                }
            }
            if gather.bytes > VALUE_MAX {
                let key = reading.walk.key().to_string();
                return reading.fail(cx, KvsError::TooLarge { key, limit: VALUE_MAX });
            }
            if gather.outstanding == 0 {
                let value = match &gather.parts[..] {
                    [one] => value_object(one),
                    parts => value_object(&parts.concat()),
                };
                return reading.found(cx, value);
            }
        }
        self.readings.insert(id, reading);
        for (blobref, at) in wanted {
            self.load(cx, blobref, Waiter::Part(id, at));
        }
    }

    fn gathered(
        &mut self,
        cx: &mut Context<'_>,
        id: u64,
        at: usize,
        result: Result<Bytes, KvsError>,
    ) {
        let data = match result {
            Ok(data) => data,
            Err(error) => return self.lookup_stale(cx, id, error),
        };
        let Some(mut reading) = self.readings.remove(&id) else { return };
        let Some(gather) = &mut reading.gather else { return self.drive(cx, id, reading) };
        gather.bytes += data.len();
        gather.outstanding -= 1;
        if let Some(part) = gather.parts.get_mut(at) {
            *part = data;
        }
        self.gather(cx, id, reading);
    }

    /// Asks for a blob on behalf of `waiter`; equal loads share one request.
    pub(super) fn load(&mut self, cx: &mut Context<'_>, blobref: Blobref, waiter: Waiter) {
        let waiters = self.loads.entry(blobref).or_default();
        waiters.push(waiter);
        if waiters.len() == 1 {
            self.cache.faults += 1;
            let digest = Bytes::copy_from_slice(blobref.digest());
            cx.call::<Load>(To::Any, &Raw(digest), Wait::Load(blobref));
        }
    }

    pub(super) fn loaded(&mut self, cx: &mut Context<'_>, blobref: Blobref, reply: &Reply) {
        let waiters = self.loads.remove(&blobref).unwrap_or_default();
        let data = reply.decode::<Load>().map(|raw| raw.0).map_err(|error| match error.errno {
            Errno::ENOENT => KvsError::BadObject {
                blobref,
                reason: "it is missing from the content store".into(),
            },
            _ => KvsError::Store { what: format!("cannot load object {blobref}"), error },
        });
        let data = data.and_then(|data| {
            if blobref.addresses(&data) {
                return Ok(data);
            }
            let reason = "the content store answered other bytes".to_string();
            Err(KvsError::BadObject { blobref, reason })
        });
        let wants_dir = waiters.iter().any(|waiter| !matches!(waiter, Waiter::Part(..)));
        let dir: Result<Arc<Dir>, KvsError> = match &data {
            Err(error) => Err(error.clone()),
            Ok(data) if wants_dir => match Dir::decode(data) {
                Ok(dir) => Ok(Arc::new(dir)),
                Err(reason) => Err(KvsError::BadObject { blobref, reason }),
            },
            Ok(_) => Ok(Arc::default()),
        };
        match (&dir, &data) {
            (Ok(dir), Ok(data)) if wants_dir => {
                self.cache.put(blobref, Object::Dir(dir.clone()), data.len());
            }
            (_, Ok(data)) if !wants_dir => {
                self.cache.put(blobref, Object::Data(data.clone()), data.len());
            }
            _ => {}
        }
        for waiter in waiters {
            match waiter {
                Waiter::Table | Waiter::Shard => {
                    let whole = matches!(waiter, Waiter::Table);
                    let dir = dir.clone().map_err(|error| error.to_string());
                    self.restore(cx, blobref, whole, dir);
                }
                Waiter::Lookup(id) => match &dir {
                    Ok(_) => self.lookup_on(cx, id),
                    Err(error) => self.lookup_stale(cx, id, error.clone()),
                },
                Waiter::Part(id, at) => self.gathered(cx, id, at, data.clone()),
                Waiter::Txn(name, stall) => {
                    self.txn_loaded(cx, &name, stall, blobref, dir.clone());
                }
            }
        }
    }
}
