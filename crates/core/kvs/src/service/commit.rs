//! Rank 0: transactions become roots, many in one durable commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use flux_api::content::{self, BlobBatch, Checkpoint};
use flux_api::kvs::{
    self, Commit, LAZY, NO_MERGE, NamespaceCreate_, NamespaceRemove, Operation, PRIMARY,
    Relaycommit, SYNC, Setroot, WAIT_SPACE,
};
use flux_api::{Answer, Call, Empty, RpcError};
use flux_model::blobref::Blobref;
use flux_proto::{Cred, Errno, Rolemask};
use flux_svc::{Level, Reply, To};
use serde_json::{Map, Value, json};

use super::follow::Forward;
use super::{Context, KvsService, MAX_WAITING, Phase, Wait, Waiter};
use crate::apply::{self, Op, Source, Stop};
use crate::cache::Object;
use crate::dir::{Dir, Node};
use crate::error::KvsError;
use crate::space::{Done, Group, Outgoing, Root, Space, Txn};

/// Bytes that gather for the next commit while one is in flight; beyond them transactions wait.
const BATCH_BYTES: usize = 64 << 20;

/// Bytes of blobs that commits may take to the store per microsecond, on average.
///
/// Every commit writes the directories on the way to what it changes anew, whole. Where they are
/// large, a commit per few transactions would cost far more than the transactions, so that the
/// next commit waits for more of them.
const PACE: u64 = 16;

/// Transactions in a commit from which on it is worth waiting for more: there are others than
/// those who wait for an answer before they go on.
const PACE_TXNS: usize = 16;

/// Shorter waits gather too little.
const PACE_MIN_US: u64 = 500;

/// No commit waits longer.
const PACE_MAX_US: u64 = 10_000;

/// How long what nobody waits for may wait for other transactions, in microseconds.
const LATER_US: u64 = 2_000;

/// Time before what waits for space is tried again, in microseconds.
const SPACE_US: u64 = 500_000;

/// A change to the set of namespaces.
#[derive(Debug)]
pub(super) enum Admin {
    /// A new one, with what is done first in it.
    Create(String, Vec<Op>, Answer<NamespaceCreate_>),
    Remove(String, Answer<NamespaceRemove>),
}

/// What one commit to the store carries.
#[derive(Debug)]
pub(super) struct Batch {
    parts: Vec<(String, Vec<Group>)>,
    admins: Vec<Admin>,
    shards: Vec<u32>,
    objects: Vec<(Blobref, Object, usize)>,
    replaced: Vec<Blobref>,
    shared: Vec<Blobref>,
    empty: bool,
}

impl KvsService {
    pub(super) fn commit(&mut self, cx: &mut Context<'_>, call: Call<Commit>) {
        let ticket = self.ticket();
        let cred = call.answer.cred();
        let name = format!("transaction_req.{}.{ticket}", self.rank);
        let kvs::CommitRequest { namespace, flags, ops } = call.request;
        self.accept(cx, &namespace, flags, ops, cred, name, Done::Commit(call.answer));
    }

    pub(super) fn relayed(&mut self, cx: &mut Context<'_>, call: Call<Relaycommit>) {
        if self.rank > 0 {
            let text = "kvs.relaycommit is only available on rank 0".to_string();
            return call.answer.err(cx, KvsError::Protocol(text));
        }
        let kvs::RelayCommit { name, userid, rolemask, namespace, flags, ops } = call.request;
        let cred = Cred { userid, rolemask: Rolemask(rolemask) };
        self.accept(cx, &namespace, flags, ops, cred, name, Done::Relay(call.answer));
    }

    fn accept(
        &mut self,
        cx: &mut Context<'_>,
        namespace: &str,
        flags: u32,
        ops: Vec<Operation>,
        cred: Cred,
        name: String,
        done: Done,
    ) {
        let guest = !cred.rolemask.contains(Rolemask::OWNER);
        let checked = if matches!(self.phase, Phase::Draining) {
            Err(KvsError::Stopping)
        } else if self.waiting_txns >= MAX_WAITING {
            Err(KvsError::Busy(MAX_WAITING))
        } else if let Some(error) = self.full(flags) {
            Err(error)
        } else if flags & SYNC != 0 && namespace != PRIMARY {
            Err(KvsError::Invalid("SYNC is for the primary namespace only".into()))
        } else {
            self.space(namespace, cred).and_then(|_| apply::check(ops, guest, self.hash)).and_then(
                |ops| if guest { self.count(namespace, &ops).map(|()| ops) } else { Ok(ops) },
            )
        };
        let ops = match checked {
            Ok(ops) => ops,
            Err(error) => return answer(cx, done, Err(error.into())),
        };
        let exclusive = flags & (NO_MERGE | SYNC) != 0 || !self.merge;
        let patient = flags & WAIT_SPACE != 0;
        let held = apply::Held::new();
        let txn = Txn { name, ops, exclusive, patient, done, held, sure: false, failed: None };
        self.waiting_txns += 1;
        if let Some(space) = self.spaces.get_mut(namespace) {
            space.work.queue.push_back(txn);
        }
        self.advance(cx, namespace);
        self.flush_for(cx, flags);
    }

    /// Counts what a guest puts into a namespace; what was put counts even where it is replaced.
    fn count(&mut self, namespace: &str, ops: &[apply::Op]) -> Result<(), KvsError> {
        let Some(space) = self.spaces.get_mut(namespace) else { return Ok(()) };
        let put = ops.iter().fold(space.put, |sum, op| sum.saturating_add(op.weight()));
        // Who only takes away may do so in a namespace that is full.
        if put > self.guest_max && ops.iter().any(apply::Op::brings) {
            let max = flux_id::size::format(self.guest_max);
            return Err(KvsError::Quota { name: namespace.to_string(), max });
        }
        space.put = put;
        Ok(())
    }

    /// Refuses what does not wait for space, while others do: they try whether there is some.
    fn full(&self, flags: u32) -> Option<KvsError> {
        let error = self.failing.as_ref().filter(|error| error.errno == Errno::ENOSPC)?;
        let waits = self.pacing && flags & WAIT_SPACE == 0;
        waits.then(|| KvsError::Store {
            what: "the transaction was refused".to_string(),
            error: error.clone(),
        })
    }

    /// Answers a transaction; `root` is the version it went into.
    pub(super) fn answer_txn(
        &mut self,
        cx: &mut Context<'_>,
        txn: Txn,
        result: Result<(), KvsError>,
        root: Option<Root>,
    ) {
        self.waiting_txns -= 1;
        let result = match (result, root) {
            (Ok(()), Some(root)) => Ok(root.response()),
            (Err(error), _) => Err(error.into()),
            // A group with a transaction that went through has a root.
            (Ok(()), None) => Err(KvsError::Stopping.into()),
        };
        answer(cx, txn.done, result);
    }

    /// Applies the waiting transactions of a namespace, as far as their directories are here.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>, name: &str) {
        let mut need = None;
        while let Some(space) = self.spaces.get_mut(name) {
            let work = &mut space.work;
            if work.stall.is_some() || work.queue.is_empty() {
                break;
            }
            if self.out.bytes > BATCH_BYTES {
                self.blocked.insert(name.to_string());
                break;
            }
            let Some(mut txn) = work.queue.pop_front() else { break };
            let exclusive = txn.exclusive;
            if let Some(request) = self.unsure(&txn) {
                self.hold(cx, name, txn, &request);
                break;
            }
            let Some(work) = self.spaces.get_mut(name).map(|space| &mut space.work) else { break };
            if work.groups.last().is_some_and(|last| last.changed && (exclusive || last.exclusive))
            {
                self.seal(name);
                if let Some(space) = self.spaces.get_mut(name) {
                    space.work.groups.push(Group::new());
                }
            }
            let Some(space) = self.spaces.get_mut(name) else { break };
            let work = &mut space.work;
            let result = match txn.failed.take() {
                Some(error) => Err(error),
                None => {
                    let mut blobs = Vec::new();
                    let replaced = &mut self.out.replaced;
                    let mut source = Source { cache: &mut self.cache, held: &txn.held, replaced };
                    let tree = &mut work.tree;
                    match apply::apply(tree, name, &txn.ops, self.hash, &mut source, &mut blobs) {
                        Ok(()) => {
                            for (blobref, bytes) in blobs {
                                self.out.push(blobref, &bytes, Object::Data(bytes.clone()));
                            }
                            Ok(())
                        }
                        Err(Stop::Fail(error)) => Err(error),
                        Err(Stop::Need(blobrefs)) => {
                            self.next += 1;
                            work.stall = Some((self.next, blobrefs.len()));
                            work.queue.push_front(txn);
                            need = Some((self.next, blobrefs));
                            break;
                        }
                    }
                }
            };
            txn.held.clear();
            // Should it have to be done again, that is long ago.
            txn.sure = false;
            if work.groups.is_empty() {
                work.groups.push(Group::new());
            }
            if let Some(group) = work.groups.last_mut() {
                group.changed |= result.is_ok();
                group.exclusive |= exclusive && result.is_ok();
                group.txns.push((txn, result));
            }
            self.dirty.insert(name.to_string());
        }
        if let Some((stall, blobrefs)) = need {
            for blobref in blobrefs {
                self.load(cx, blobref, Waiter::Txn(name.to_string(), stall));
            }
        }
    }

    /// An object that a stalled transaction waits for came, or cannot be had.
    pub(super) fn txn_loaded(
        &mut self,
        cx: &mut Context<'_>,
        name: &str,
        stall: u64,
        blobref: Blobref,
        dir: Result<Arc<Dir>, KvsError>,
    ) {
        let Some(work) = self.spaces.get_mut(name).map(|space| &mut space.work) else { return };
        let Some((_, missing)) = work.stall.filter(|(number, _)| *number == stall) else { return };
        if let Some(txn) = work.queue.front_mut() {
            match dir {
                Ok(dir) => {
                    txn.held.insert(blobref, dir);
                }
                Err(error) => txn.failed = Some(error),
            }
        }
        work.stall = (missing > 1).then_some((stall, missing - 1));
        if missing <= 1 {
            self.advance(cx, name);
            self.urgent = true;
            self.flush(cx);
        }
    }

    /// Makes the version of the newest group of a namespace.
    fn seal(&mut self, name: &str) {
        let Some(work) = self.spaces.get_mut(name).map(|space| &mut space.work) else { return };
        let Some(group) = work.groups.last_mut() else { return };
        if !group.changed || group.root.is_some() {
            return;
        }
        let mut sealed = Vec::new();
        work.tree.seal(self.hash, &mut sealed);
        for dir in sealed {
            if self.out.push(dir.blobref, &dir.bytes, Object::Dir(dir.dir.clone())) {
                self.cache.put_dirty(dir.blobref, Object::Dir(dir.dir));
            } else {
                self.out.shared.push(dir.blobref);
            }
        }
        if let Node::Ref(blobref) = work.tree {
            work.newest = Root { seq: work.newest.seq + 1, blobref };
            group.root = Some(work.newest);
        }
    }

    /// As [`Self::flush`], for a request with these flags: within a short time if nobody waits.
    fn flush_for(&mut self, cx: &mut Context<'_>, flags: u32) {
        if flags & LAZY == 0 || matches!(self.phase, Phase::Draining) {
            self.urgent = true;
            self.flush(cx);
        } else if !self.later {
            self.later = true;
            cx.timer(LATER_US, Wait::Later);
        }
    }

    /// Sends what was applied to the store, unless a commit is in flight or was large just now.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) {
        if self.batch.is_some() || self.pacing {
            return;
        }
        let wait = self.paid_us.saturating_sub(cx.now_us());
        let idle = self.dirty.is_empty() && self.admins.is_empty();
        if wait >= PACE_MIN_US && !idle && !matches!(self.phase, Phase::Draining) {
            self.pacing = true;
            cx.timer(wait, Wait::Pace);
            return;
        }
        self.urgent = false;
        let mut parts = Vec::new();
        for name in std::mem::take(&mut self.dirty) {
            self.seal(&name);
            if let Some(space) = self.spaces.get_mut(&name) {
                let groups = std::mem::take(&mut space.work.groups);
                if name != PRIMARY && groups.iter().any(|group| group.changed) {
                    self.table.touch(&name);
                }
                parts.push((name, groups));
            }
        }
        let admins = std::mem::take(&mut self.admins);
        let changed = parts.iter().flat_map(|(_, groups)| groups).any(|group| group.changed);
        if !changed && admins.is_empty() {
            for (name, groups) in parts {
                self.finish_groups(cx, &name, groups);
            }
            return;
        }
        let shards: Vec<u32> = self.table.dirty.iter().copied().collect();
        let mut out = std::mem::take(&mut self.out);
        if self.store_empty {
            let dir = Arc::new(Dir::default());
            out.push(self.empty, &dir.encode().into(), Object::Dir(dir));
        }
        if !shards.is_empty() {
            for (blobref, bytes) in self.table.write(&self.spaces, self.hash) {
                out.push(blobref, &bytes, Object::Data(bytes.clone()));
            }
        }
        let checkpoint = self.spaces.get(PRIMARY).map(|primary| Checkpoint {
            version: 1,
            rootref: primary.work.newest.blobref.to_string(),
            sequence: primary.work.newest.seq,
            timestamp: cx.wall(),
            namespaces: self.table.root.map(|root| root.to_string()),
        });
        let Outgoing { blobs, objects, bytes, replaced, shared, .. } = out;
        let txns: usize =
            parts.iter().flat_map(|(_, groups)| groups).map(|group| group.txns.len()).sum();
        if txns >= PACE_TXNS {
            self.paid_us = cx.now_us() + (bytes as u64 / PACE).min(PACE_MAX_US);
        }
        let empty = self.store_empty;
        self.batch = Some(Batch { parts, admins, shards, objects, replaced, shared, empty });
        let request = BlobBatch { blobs, checkpoint };
        cx.hand::<content::Commit>(To::Rank(0), request, Wait::Batch);
        for name in std::mem::take(&mut self.blocked) {
            self.advance(cx, &name);
        }
    }

    pub(super) fn batch_settled(&mut self, cx: &mut Context<'_>, reply: &Reply) {
        let Some(batch) = self.batch.take() else { return };
        match reply.decode::<content::Commit>() {
            Ok(Empty) => self.batch_durable(cx, batch),
            Err(error) => self.batch_failed(cx, batch, &error),
        }
        // What nobody waits for waits on, for the timer.
        if self.urgent || !self.later {
            self.flush(cx);
        }
        self.settle_drain(cx);
    }

    fn batch_durable(&mut self, cx: &mut Context<'_>, batch: Batch) {
        if self.failing.take().is_some() {
            cx.log(Level::Notice, "commits can be stored again");
        }
        if batch.empty {
            self.store_empty = false;
        }
        // First, since a directory may have become again what it was.
        for blobref in batch.replaced {
            self.cache.remove(&blobref);
        }
        for (blobref, object, size) in batch.objects {
            self.cache.settle(blobref, object, size);
        }
        for blobref in batch.shared {
            self.cache.share(&blobref, 1);
        }
        for (name, groups) in batch.parts {
            self.finish_groups(cx, &name, groups);
        }
        for admin in batch.admins {
            match admin {
                Admin::Create(name, _, answer) => {
                    if let Some(space) = self.spaces.get_mut(&name) {
                        space.work.born = true;
                        let body = kvs::Root {
                            owner: space.owner,
                            rootseq: space.root.seq,
                            rootref: space.root.blobref.to_string(),
                            flags: space.flags,
                            namespace: name.clone(),
                        };
                        let cred = Cred { userid: space.owner, ..cx.own_cred() };
                        cx.publish_as(cred, &format!("kvs.namespace-{name}-created"), &body, true);
                    }
                    answer.ok(cx, &Empty);
                }
                Admin::Remove(name, answer) => {
                    if let Some(space) = self.spaces.get(&name) {
                        let cred = Cred { userid: space.owner, ..cx.own_cred() };
                        let body = object(json!({ "namespace": name }));
                        cx.publish_as(cred, &format!("kvs.namespace-{name}-removed"), &body, true);
                    }
                    self.drop_space(cx, &name);
                    answer.ok(cx, &Empty);
                }
            }
        }
    }

    /// Shows the versions of a namespace and answers their transactions.
    fn finish_groups(&mut self, cx: &mut Context<'_>, name: &str, groups: Vec<Group>) {
        for group in groups {
            if let Some(root) = group.root
                && let Some(space) = self.spaces.get_mut(name)
            {
                let old = std::mem::replace(&mut space.work.durable, root);
                let owner = space.owner;
                let keys = group.keys();
                let names: Vec<String> = group
                    .txns
                    .iter()
                    .filter(|(_, result)| result.is_ok())
                    .map(|(txn, _)| txn.name.clone())
                    .collect();
                space.transactions += names.len() as u64;
                if name != PRIMARY {
                    self.new_top(name, old.blobref, root.blobref);
                }
                self.reach(cx, name, root);
                if group.txns.is_empty() {
                    // Nobody knows of a namespace that has just begun; its creation is told.
                    continue;
                }
                let body = Setroot {
                    namespace: name.to_string(),
                    rootseq: root.seq,
                    rootref: root.blobref.to_string(),
                    names,
                    keys,
                    owner,
                };
                let cred = Cred { userid: owner, ..cx.own_cred() };
                cx.publish_as(cred, &format!("kvs.namespace-{name}-setroot"), &body, true);
            }
            for (txn, result) in group.txns {
                if let Err(error) = &result
                    && let Some(space) = self.spaces.get(name)
                {
                    let cred = Cred { userid: space.owner, ..cx.own_cred() };
                    let body = object(json!({
                        "namespace": name,
                        "names": [txn.name],
                        "errnum": error.errno().0,
                    }));
                    cx.publish_as(cred, &format!("kvs.namespace-{name}-error"), &body, true);
                }
                self.answer_txn(cx, txn, result, group.root);
            }
        }
    }

    /// The store refused a commit: what it carried fails, or waits if the disk is full and it
    /// may, and all that was built on it is done again on the newest durable version.
    fn batch_failed(&mut self, cx: &mut Context<'_>, batch: Batch, error: &RpcError) {
        if self.failing.as_ref().is_none_or(|last| last.errno != error.errno) {
            cx.log(Level::Err, format!("cannot store commits: {error}"));
        }
        self.failing = Some(error.clone());
        self.urgent = true;
        let wait = error.errno == Errno::ENOSPC && !matches!(self.phase, Phase::Draining);
        let failure = |what: &str| KvsError::Store {
            what: format!("{what} could not be stored and was undone"),
            error: error.clone(),
        };
        self.cache.drop_dirty();
        self.out = Outgoing::default();
        let mut again = std::mem::take(&mut self.dirty);
        let mut patient: BTreeMap<String, Vec<Txn>> = BTreeMap::new();
        for (name, groups) in batch.parts {
            // What failed by itself may have failed on a version that is now undone.
            let undone = groups.iter().any(|group| group.changed);
            for (txn, result) in groups.into_iter().flat_map(|group| group.txns) {
                if wait && undone && txn.patient {
                    patient.entry(name.clone()).or_default().push(txn);
                    continue;
                }
                let result = if undone { Err(failure("the transaction")) } else { result };
                self.answer_txn(cx, txn, result, None);
            }
            again.insert(name);
        }
        let mut admins = Vec::new();
        for admin in batch.admins {
            match admin {
                // By then another root than the empty one may be gone.
                admin if wait && !self.begins_with_root(&admin) => admins.push(admin),
                Admin::Create(name, _, answer) => {
                    self.table.remove(&name);
                    self.drop_space(cx, &name);
                    answer.err(cx, failure("the new namespace"));
                }
                Admin::Remove(name, answer) => {
                    self.table.add(&name);
                    if let Some(space) = self.spaces.get_mut(&name) {
                        space.work.dying = false;
                    }
                    answer.err(cx, failure("the removal of the namespace"));
                }
            }
        }
        let waiting = !patient.is_empty() || !admins.is_empty();
        admins.append(&mut self.admins);
        self.admins = admins;
        self.table.dirty.extend(batch.shards);
        for name in &again {
            let Some(work) = self.spaces.get_mut(name).map(|space| &mut space.work) else {
                continue;
            };
            work.tree = Node::Ref(work.durable.blobref);
            work.newest = work.durable;
            work.stall = None;
            let groups = std::mem::take(&mut work.groups);
            let first = patient.remove(name).unwrap_or_default().into_iter();
            let later = groups.into_iter().flat_map(|group| group.txns).map(|(txn, _)| txn);
            for txn in first.chain(later).collect::<Vec<Txn>>().into_iter().rev() {
                work.queue.push_front(txn);
            }
        }
        let admins = std::mem::take(&mut self.admins);
        for admin in &admins {
            if let Admin::Create(name, ops, _) = admin {
                // They went through before.
                drop(self.begin(name, ops));
            }
        }
        self.admins = admins;
        for txn in patient.into_values().flatten() {
            self.answer_txn(cx, txn, Err(failure("the transaction")), None);
        }
        if waiting && !self.pacing {
            // What waits is tried again then; what comes meanwhile and need not wait is refused
            // without a try.
            self.pacing = true;
            cx.timer(SPACE_US, Wait::Pace);
        }
        for name in again {
            self.advance(cx, &name);
        }
    }

    pub(super) fn create(&mut self, cx: &mut Context<'_>, call: Call<NamespaceCreate_>) {
        if self.rank > 0 {
            return self.forward::<NamespaceCreate_>(
                cx,
                &call.request,
                Forward::Create(call.answer),
            );
        }
        let root = self.first_root(&call.request);
        if let Some(call) = self.hold_root(cx, call, root) {
            self.create_sure(cx, call);
        }
    }

    /// The root that a new namespace is to begin with.
    fn first_root(&self, request: &kvs::NamespaceCreate) -> Blobref {
        let root = request.rootref.parse::<Blobref>().ok();
        root.filter(|blobref| blobref.alg() == self.hash).unwrap_or(self.empty)
    }

    /// Makes a namespace whose first root is there.
    pub(super) fn create_sure(&mut self, cx: &mut Context<'_>, call: Call<NamespaceCreate_>) {
        let blobref = self.first_root(&call.request);
        let kvs::NamespaceCreate { namespace, owner, flags, ops, .. } = call.request;
        if matches!(self.phase, Phase::Draining) {
            return call.answer.err(cx, KvsError::Stopping);
        }
        if self.spaces.contains_key(&namespace) {
            return call.answer.err(cx, KvsError::Exists(namespace));
        }
        if self.admins.len() >= MAX_WAITING {
            return call.answer.err(cx, KvsError::Busy(MAX_WAITING));
        }
        let owner = match u32::try_from(owner) {
            Ok(owner) => owner,
            Err(_) if owner == -1 => cx.owner(),
            Err(_) => {
                let text = format!("{owner} is no user id");
                return call.answer.err(cx, KvsError::Invalid(text));
            }
        };
        let ops = match apply::check(ops, false, self.hash) {
            Ok(ops) => ops,
            Err(error) => return call.answer.err(cx, error),
        };
        if !ops.is_empty() && blobref != self.empty {
            let text = "first operations need an empty directory".to_string();
            return call.answer.err(cx, KvsError::Invalid(text));
        }
        self.store_empty |= blobref == self.empty && ops.is_empty();
        let mut space = Space::new(owner, flags, Root { seq: 0, blobref });
        space.work.born = false;
        self.spaces.insert(namespace.clone(), space);
        if let Err(error) = self.begin(&namespace, &ops) {
            self.spaces.remove(&namespace);
            return call.answer.err(cx, error);
        }
        self.table.add(&namespace);
        self.admins.push(Admin::Create(namespace, ops, call.answer));
        self.flush_for(cx, 0);
    }

    /// Whether a namespace is made that begins with something.
    fn begins_with_root(&self, admin: &Admin) -> bool {
        let Admin::Create(name, ..) = admin else { return false };
        self.spaces.get(name).is_some_and(|space| space.work.durable.blobref != self.empty)
    }

    /// Does the first operations of a new namespace, which is empty.
    fn begin(&mut self, name: &str, ops: &[Op]) -> Result<(), KvsError> {
        let Some(work) = self.spaces.get_mut(name).map(|space| &mut space.work) else {
            return Ok(());
        };
        if ops.is_empty() {
            return Ok(());
        }
        let (held, mut blobs) = (apply::Held::new(), Vec::new());
        let replaced = &mut self.out.replaced;
        let mut source = Source { cache: &mut self.cache, held: &held, replaced };
        match apply::apply(&mut work.tree, name, ops, self.hash, &mut source, &mut blobs) {
            Ok(()) => {}
            Err(Stop::Fail(error)) => return Err(error),
            Err(Stop::Need(_)) => {
                let text = "first operations cannot follow links".to_string();
                return Err(KvsError::Invalid(text));
            }
        }
        for (blobref, bytes) in blobs {
            self.out.push(blobref, &bytes, Object::Data(bytes.clone()));
        }
        work.groups.push(Group { changed: true, ..Group::new() });
        self.dirty.insert(name.to_string());
        Ok(())
    }

    pub(super) fn remove(&mut self, cx: &mut Context<'_>, call: Call<NamespaceRemove>) {
        let name = call.request.namespace.clone();
        if name == PRIMARY {
            return call.answer.err(cx, KvsError::Primary);
        }
        if self.rank > 0 {
            let request = call.request;
            return self.forward::<NamespaceRemove>(
                cx,
                &request,
                Forward::Remove(name, call.answer),
            );
        }
        if matches!(self.phase, Phase::Draining) {
            return call.answer.err(cx, KvsError::Stopping);
        }
        match self.spaces.get_mut(&name) {
            Some(space) if space.work.born && !space.work.dying => {
                space.work.dying = true;
                space.work.stall = None;
                for txn in std::mem::take(&mut space.work.queue) {
                    let error = KvsError::NoNamespace(name.clone());
                    self.answer_txn(cx, txn, Err(error), None);
                }
                self.table.remove(&name);
                self.admins.push(Admin::Remove(name, call.answer));
                self.flush_for(cx, call.request.flags);
            }
            _ => call.answer.ok(cx, &Empty),
        }
    }

    /// Says drained when nothing is owed any more.
    pub(super) fn settle_drain(&mut self, cx: &mut Context<'_>) {
        if matches!(self.phase, Phase::Draining)
            && self.batch.is_none()
            && self.waiting_txns == 0
            && self.admins.is_empty()
            && self.creates.is_empty()
        {
            self.end_requests(cx);
            cx.drained();
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn answer(cx: &mut Context<'_>, done: Done, result: Result<kvs::RootResponse, RpcError>) {
    match done {
        Done::Commit(answer) => answer.respond(cx, result),
        Done::Relay(answer) => answer.respond(cx, result),
    }
}
