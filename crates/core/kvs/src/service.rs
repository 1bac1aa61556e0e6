//! The `kvs` service: its state, and who handles what.

mod commit;
mod follow;
mod hold;
mod lookup;
mod resync;
mod start;

use std::collections::{BTreeMap, BTreeSet};

use flux_api::kvs::{
    self, Getroot, Kvs, NamespaceEntry, NamespaceList, NamespaceList_, PRIMARY, SetrootPause,
    SetrootUnpause, WaitVersion_,
};
use flux_api::{Call, Empty, RpcError};
use flux_model::blobref::{Blobref, HashAlg};
use flux_proto::{Cred, Errno, Message};
use flux_svc::{Cx, Reply, Service, Way};
use serde_json::{Map, Value, json};

use crate::cache::Cache;
use crate::dir::Dir;
use crate::error::KvsError;
use crate::space::{Outgoing, Root, Space, VersionWaiter};
use crate::table::Table;

use commit::{Admin, Batch};
use follow::{Forward, Parked};
use lookup::Reading;
use resync::{Behind, reads_newest};

/// Bytes of parsed objects that a rank keeps.
const CACHE_BYTES: usize = 24 << 20;

/// Most requests that wait for anything at a time.
const MAX_WAITING: usize = 1 << 16;

/// What the service waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// The newest checkpoint, at the start of rank 0.
    Checkpoint,
    /// A blob.
    Load(Blobref),
    /// Word that the commit in flight is durable.
    Batch,
    /// Time for the next commit, after a large one.
    Pace,
    /// Others to go with what nobody waits for.
    Later,
    /// The root of a namespace, on a follower.
    Getroot(String),
    /// The same, after the way to rank 0 was lost, and the version that was known then.
    Resync(String, i64),
    /// A commit of a follower, by its number.
    Relay(u64),
    /// A request that rank 0 answers, by its number.
    Forward(u64),
    /// Word that what a transaction of a namespace refers to is there, with the number of its stall.
    Hold(String, u64),
    /// The same of the root of a new namespace, by the number of its request.
    HoldRoot(u64),
}

/// Who wants a blob.
#[derive(Debug)]
enum Waiter {
    /// The start: the table of namespaces, or one shard of it.
    Table,
    Shard,
    /// A lookup that needs a directory.
    Lookup(u64),
    /// A lookup that needs a piece of a value.
    Part(u64, usize),
    /// A stalled transaction of a namespace, with the number of its stall.
    Txn(String, u64),
}

#[derive(Debug)]
enum Phase {
    /// Requests wait for the start; this many parts of the table are missing.
    Starting(usize),
    Up,
    Draining,
}

/// Bytes that a guest may put into a namespace, unless `kvs.guest-namespace-max` says otherwise.
const GUEST_MAX: u64 = 2 << 30;

/// The `kvs` service.
#[derive(Debug)]
pub struct KvsService {
    hash: HashAlg,
    empty: Blobref,
    rank: u32,
    phase: Phase,
    early: Vec<Kvs>,
    cache: Cache,
    spaces: BTreeMap<String, Space>,
    loads: BTreeMap<Blobref, Vec<Waiter>>,
    readings: BTreeMap<u64, Reading>,
    next: u64,
    // Rank 0.
    table: Table,
    out: Outgoing,
    dirty: BTreeSet<String>,
    blocked: BTreeSet<String>,
    admins: Vec<Admin>,
    /// The newest root on disk of each namespace, and whose it is.
    tops: BTreeMap<Blobref, String>,
    /// Namespaces that are to begin with a root that is being looked for.
    creates: BTreeMap<u64, Call<kvs::NamespaceCreate_>>,
    batch: Option<Batch>,
    /// When the next commit may go to the store, and whether a timer waits for it.
    paid_us: u64,
    pacing: bool,
    /// A timer waits for what nobody waits for.
    later: bool,
    /// Somebody waits for what is not sent yet.
    urgent: bool,
    waiting_txns: usize,
    /// Bytes that a guest may put into a namespace.
    guest_max: u64,
    /// Transactions that wait may share a version.
    merge: bool,
    /// Why the last commit to the store failed, if it did.
    failing: Option<flux_api::RpcError>,
    /// The next commit carries the empty directory: a root refers to it.
    store_empty: bool,
    // Followers.
    asking: BTreeMap<String, Vec<Parked>>,
    /// Namespaces whose roots are compared with the leader's, since the way to it was lost.
    behind: BTreeMap<String, Behind>,
    parked: usize,
    relays: BTreeMap<u64, (String, flux_api::Answer<kvs::Commit>)>,
    forwards: BTreeMap<u64, Forward>,
}

type Context<'a> = Cx<'a, Wait>;

impl KvsService {
    /// A store whose blobs are named by `hash`.
    #[must_use]
    pub fn new(hash: HashAlg) -> Self {
        let empty = hash.hash(&Dir::default().encode());
        Self {
            hash,
            empty,
            rank: 0,
            phase: Phase::Starting(0),
            early: Vec::new(),
            cache: Cache::new(CACHE_BYTES, empty),
            spaces: BTreeMap::new(),
            loads: BTreeMap::new(),
            readings: BTreeMap::new(),
            next: 0,
            table: Table::default(),
            out: Outgoing::default(),
            dirty: BTreeSet::new(),
            blocked: BTreeSet::new(),
            admins: Vec::new(),
            tops: BTreeMap::new(),
            creates: BTreeMap::new(),
            batch: None,
            paid_us: 0,
            pacing: false,
            later: false,
            urgent: false,
            waiting_txns: 0,
            guest_max: GUEST_MAX,
            merge: true,
            failing: None,
            store_empty: false,
            asking: BTreeMap::new(),
            behind: BTreeMap::new(),
            parked: 0,
            relays: BTreeMap::new(),
            forwards: BTreeMap::new(),
        }
    }

    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A namespace that exists and that this user may use.
    fn space(&self, name: &str, cred: Cred) -> Result<&Space, KvsError> {
        let space = self.spaces.get(name).filter(|space| space.work.born && !space.work.dying);
        let space = space.ok_or_else(|| KvsError::NoNamespace(name.to_string()))?;
        if space.allows(cred) { Ok(space) } else { Err(KvsError::NotOwner(name.to_string())) }
    }

    fn space_mut(&mut self, name: &str, cred: Cred) -> Result<&mut Space, KvsError> {
        self.space(name, cred)?;
        self.spaces.get_mut(name).ok_or_else(|| KvsError::NoNamespace(name.to_string()))
    }

    fn dispatch(&mut self, cx: &mut Context<'_>, call: Kvs) {
        if let Some(name) = namespace_of(&call)
            && self.rank > 0
        {
            let name = name.to_string();
            if !self.spaces.contains_key(&name) {
                return self.ask(cx, name, Parked::Call(Box::new(call)));
            }
            if self.behind.contains_key(&name) && reads_newest(&call) {
                return self.read_newest(cx, &name, Parked::Call(Box::new(call)));
            }
        }
        match call {
            Kvs::Lookup(call) => self.lookup(cx, &call.request, call.answer.into()),
            Kvs::LookupPlus(call) => self.lookup(cx, &call.request, call.answer.into()),
            Kvs::Commit(call) if self.rank > 0 => self.relay(cx, call),
            Kvs::Commit(call) => self.commit(cx, call),
            Kvs::Relaycommit(call) => self.relayed(cx, call),
            Kvs::Getroot(call) => self.getroot(cx, call),
            Kvs::WaitVersion_(call) => self.wait_version(cx, call),
            Kvs::NamespaceCreate_(call) => self.create(cx, call),
            Kvs::NamespaceRemove(call) => self.remove(cx, call),
            Kvs::NamespaceList_(call) => self.list(cx, call),
            Kvs::SetrootPause(call) => self.pause(cx, call),
            Kvs::SetrootUnpause(call) => self.unpause(cx, call),
        }
    }

    fn getroot(&mut self, cx: &mut Context<'_>, call: Call<Getroot>) {
        let name = call.request.namespace;
        let result = self.space(&name, call.answer.cred()).map(|space| kvs::Root {
            owner: space.owner,
            rootseq: space.root.seq,
            rootref: space.root.blobref.to_string(),
            flags: space.flags,
            namespace: name.clone(),
        });
        call.answer.respond(cx, result.map_err(RpcError::from));
    }

    fn wait_version(&mut self, cx: &mut Context<'_>, call: Call<WaitVersion_>) {
        let ticket = self.ticket();
        let request = call.request;
        match self.space_mut(&request.namespace, call.answer.cred()) {
            Ok(space) if space.root.seq >= request.rootseq => {
                let response = space.root.response();
                call.answer.ok(cx, &response);
            }
            Ok(space) if space.waiters.len() >= MAX_WAITING => {
                call.answer.err(cx, KvsError::Busy(MAX_WAITING));
            }
            Ok(space) => {
                let waiter = VersionWaiter::Version(call.answer);
                space.waiters.insert((request.rootseq, ticket), waiter);
            }
            Err(error) => call.answer.err(cx, error),
        }
    }

    fn list(&mut self, cx: &mut Context<'_>, call: Call<NamespaceList_>) {
        if self.rank > 0 {
            return self.forward::<NamespaceList_>(cx, &call.request, Forward::List(call.answer));
        }
        let namespaces = self
            .spaces
            .iter()
            .filter(|(_, space)| space.work.born && !space.work.dying)
            .map(|(name, space)| NamespaceEntry {
                namespace: name.clone(),
                owner: space.owner,
                flags: space.flags,
            })
            .collect();
        call.answer.ok(cx, &NamespaceList { namespaces });
    }

    fn pause(&mut self, cx: &mut Context<'_>, call: Call<SetrootPause>) {
        match self.space_mut(&call.request.namespace, call.answer.cred()) {
            Ok(space) => {
                space.paused.get_or_insert(None);
                call.answer.ok(cx, &Empty);
            }
            Err(error) => call.answer.err(cx, error),
        }
    }

    fn unpause(&mut self, cx: &mut Context<'_>, call: Call<SetrootUnpause>) {
        let name = &call.request.namespace;
        match self.space_mut(name, call.answer.cred()) {
            Ok(space) => {
                let held = space.paused.take().flatten();
                if let Some(root) = held {
                    self.reach(cx, name, root);
                }
                call.answer.ok(cx, &Empty);
            }
            Err(error) => call.answer.err(cx, error),
        }
    }

    /// A newer root of a namespace is there: readers see it, and who waited for it goes on.
    fn reach(&mut self, cx: &mut Context<'_>, name: &str, root: Root) {
        let Some(space) = self.spaces.get_mut(name) else { return };
        if let Some(held) = &mut space.paused {
            if held.is_none_or(|held| held.seq < root.seq) {
                *held = Some(root);
            }
            return;
        }
        if root.seq <= space.root.seq {
            return;
        }
        space.root = root;
        if space.waiters.first_key_value().is_none_or(|((seq, _), _)| *seq > root.seq) {
            return;
        }
        let later = space.waiters.split_off(&(root.seq.saturating_add(1), 0));
        let due = std::mem::replace(&mut space.waiters, later);
        for waiter in due.into_values() {
            match waiter {
                VersionWaiter::Version(answer) => answer.ok(cx, &root.response()),
                VersionWaiter::Commit(answer, response) => answer.ok(cx, &response),
                VersionWaiter::Lookup(id) => self.lookup_at(cx, id, root),
            }
        }
    }

    /// A namespace is gone: so is everything that waits for it.
    fn drop_space(&mut self, cx: &mut Context<'_>, name: &str) {
        let Some(space) = self.spaces.remove(name) else { return };
        let top = space.work.durable.blobref;
        if self.tops.get(&top).is_some_and(|of| of == name) {
            self.tops.remove(&top);
        }
        for waiter in space.waiters.into_values() {
            let error = KvsError::NoNamespace(name.to_string());
            match waiter {
                VersionWaiter::Version(answer) => answer.err(cx, error),
                // The commit is durable, though its namespace is gone.
                VersionWaiter::Commit(answer, response) => answer.ok(cx, &response),
                VersionWaiter::Lookup(id) => {
                    if let Some(reading) = self.readings.remove(&id) {
                        reading.fail(cx, error);
                    }
                }
            }
        }
        for txn in space.work.queue {
            self.answer_txn(cx, txn, Err(KvsError::NoNamespace(name.to_string())), None);
        }
    }
}

/// The namespace that must be known before a call can be handled on this rank.
fn namespace_of(call: &Kvs) -> Option<&str> {
    match call {
        Kvs::Lookup(call) if call.request.rootdir.is_none() => call.request.namespace.as_deref(),
        Kvs::LookupPlus(call) if call.request.rootdir.is_none() => {
            call.request.namespace.as_deref()
        }
        Kvs::Getroot(call) => Some(&call.request.namespace),
        Kvs::WaitVersion_(call) => Some(&call.request.namespace),
        Kvs::SetrootPause(call) => Some(&call.request.namespace),
        Kvs::SetrootUnpause(call) => Some(&call.request.namespace),
        _ => None,
    }
}

/// Refuses any call.
fn refuse(cx: &mut Context<'_>, call: Kvs, error: impl Into<RpcError>) {
    match call {
        Kvs::Lookup(call) => call.answer.err(cx, error),
        Kvs::LookupPlus(call) => call.answer.err(cx, error),
        Kvs::Commit(call) => call.answer.err(cx, error),
        Kvs::Getroot(call) => call.answer.err(cx, error),
        Kvs::WaitVersion_(call) => call.answer.err(cx, error),
        Kvs::NamespaceCreate_(call) => call.answer.err(cx, error),
        Kvs::NamespaceRemove(call) => call.answer.err(cx, error),
        Kvs::NamespaceList_(call) => call.answer.err(cx, error),
        Kvs::Relaycommit(call) => call.answer.err(cx, error),
        Kvs::SetrootPause(call) => call.answer.err(cx, error),
        Kvs::SetrootUnpause(call) => call.answer.err(cx, error),
    }
}

/// Forgets a call of a client that left; gives it back otherwise.
fn forget_if_sent_by(call: Kvs, message: &Message) -> Option<Kvs> {
    match call {
        Kvs::Lookup(call) if call.answer.same_sender(message) => call.answer.forget(),
        Kvs::LookupPlus(call) if call.answer.same_sender(message) => call.answer.forget(),
        Kvs::Getroot(call) if call.answer.same_sender(message) => call.answer.forget(),
        Kvs::WaitVersion_(call) if call.answer.same_sender(message) => call.answer.forget(),
        other => return Some(other),
    }
    None
}

impl Service for KvsService {
    type Api = Kvs;
    type Wait = Wait;

    fn start(&mut self, cx: &mut Context<'_>) {
        self.rank = cx.rank();
        if self.rank > 0 {
            // Topics are kvs.namespace-NS-setroot, -created, -removed.
            cx.subscribe("kvs.namespace-");
            self.phase = Phase::Up;
            self.ask_root(cx, PRIMARY);
            cx.ready();
        } else {
            self.load_checkpoint(cx);
        }
    }

    fn on_call(&mut self, cx: &mut Context<'_>, call: Kvs) {
        match self.phase {
            Phase::Starting(_) if self.early.len() >= MAX_WAITING => {
                refuse(cx, call, KvsError::Busy(MAX_WAITING));
            }
            Phase::Starting(_) => self.early.push(call),
            Phase::Up | Phase::Draining => self.dispatch(cx, call),
        }
    }

    fn on_reply(&mut self, cx: &mut Context<'_>, wait: Wait, reply: Reply) {
        match wait {
            Wait::Checkpoint => self.checkpoint(cx, &reply),
            Wait::Load(blobref) => self.loaded(cx, blobref, &reply),
            Wait::Batch => self.batch_settled(cx, &reply),
            // A timer, not a call.
            Wait::Pace | Wait::Later => {}
            Wait::Getroot(name) => self.got_root(cx, &name, &reply),
            Wait::Resync(name, known) => self.resynced(cx, &name, known, &reply),
            Wait::Relay(ticket) => self.relay_answered(cx, ticket, &reply),
            Wait::Forward(ticket) => self.forward_answered(cx, ticket, &reply),
            Wait::Hold(name, stall) => self.held(cx, &name, stall, &reply),
            Wait::HoldRoot(ticket) => self.root_held(cx, ticket, &reply),
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, wait: Wait) {
        match wait {
            Wait::Pace => self.pacing = false,
            Wait::Later => self.later = false,
            _ => return,
        }
        self.flush(cx);
    }

    fn on_event(&mut self, cx: &mut Context<'_>, event: &Message) {
        if self.rank > 0 {
            self.followed(cx, event);
        }
    }

    fn on_way(&mut self, cx: &mut Context<'_>, way: Way) {
        if way == Way::Back && matches!(self.phase, Phase::Up) {
            self.resync(cx);
        }
    }

    fn on_disconnect(&mut self, _cx: &mut Context<'_>, message: &Message) {
        self.early = std::mem::take(&mut self.early)
            .into_iter()
            .filter_map(|call| forget_if_sent_by(call, message))
            .collect();
        let behind = self.behind.values_mut().map(|behind| &mut behind.parked);
        for parked in self.asking.values_mut().chain(behind) {
            let before = parked.len();
            *parked = std::mem::take(parked)
                .into_iter()
                .filter_map(|parked| match parked {
                    Parked::Call(call) => {
                        forget_if_sent_by(*call, message).map(|call| Parked::Call(Box::new(call)))
                    }
                    Parked::Lookup(id) => Some(Parked::Lookup(id)),
                })
                .collect();
            self.parked -= before - parked.len();
        }
        for space in self.spaces.values_mut() {
            let left: Vec<(i64, u64)> = space
                .waiters
                .iter()
                .filter(|(_, waiter)| match waiter {
                    VersionWaiter::Version(answer) => answer.same_sender(message),
                    _ => false,
                })
                .map(|(key, _)| *key)
                .collect();
            for key in left {
                if let Some(VersionWaiter::Version(answer)) = space.waiters.remove(&key) {
                    answer.forget();
                }
            }
        }
        let left: Vec<u64> = self
            .readings
            .iter()
            .filter(|(_, reading)| reading.same_sender(message))
            .map(|(id, _)| *id)
            .collect();
        for id in left {
            if let Some(reading) = self.readings.remove(&id) {
                reading.forget();
            }
        }
    }

    fn on_config(
        &mut self,
        _cx: &mut Context<'_>,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        let get = |key: &str| config.get("kvs").and_then(|table| table.get(key));
        let wrong = |text: &str| RpcError::new(Errno::EINVAL, text);
        let guest_max = match get("guest-namespace-max") {
            None => GUEST_MAX,
            Some(value) => value
                .as_str()
                .map_or_else(|| value.as_u64(), flux_id::size::parse)
                .ok_or_else(|| wrong("kvs.guest-namespace-max: must be a size"))?,
        };
        let merge = match get("transaction-merge") {
            None => true,
            Some(value) => value
                .as_bool()
                .ok_or_else(|| wrong("kvs.transaction-merge: must be true or false"))?,
        };
        (self.guest_max, self.merge) = (guest_max, merge);
        Ok(())
    }

    fn on_drain(&mut self, cx: &mut Context<'_>) {
        self.phase = Phase::Draining;
        for call in std::mem::take(&mut self.early) {
            refuse(cx, call, KvsError::Stopping);
        }
        self.pacing = false;
        self.flush(cx);
        self.settle_drain(cx);
    }

    fn stats(&self) -> Option<Value> {
        const KIB: f64 = 1024.0;
        let (count, bytes) = self.cache.size();
        let mean = if count == 0 { 0.0 } else { bytes as f64 / count as f64 };
        let (mut min, mut max, mut squares) = (f64::INFINITY, 0f64, 0.0);
        for size in self.cache.sizes() {
            let size = size as f64;
            min = min.min(size);
            max = max.max(size);
            squares += (size - mean) * (size - mean);
        }
        let spread = if count == 0 { 0.0 } else { (squares / count as f64).sqrt() };
        let min = if count == 0 { 0.0 } else { min };
        let namespaces: Map<String, Value> = self
            .spaces
            .iter()
            .map(|(name, space)| {
                let stats = json!({
                    "#versionwaiters": space.waiters.len(),
                    "#no-op stores": 0,
                    "#transactions": space.work.queue.len(),
                    "#readytransactions":
                        space.work.groups.iter().map(|group| group.txns.len()).sum::<usize>(),
                    "store revision": space.root.seq,
                });
                (name.clone(), stats)
            })
            .collect();
        let commits: u64 = self.spaces.values().map(|space| space.transactions).sum();
        Some(json!({
            "cache": {
                "obj size total (MiB)": bytes as f64 / KIB / KIB,
                "obj size (KiB)": {
                    "count": count,
                    "min": min / KIB,
                    "mean": mean / KIB,
                    "stddev": spread / KIB,
                    "max": max / KIB,
                },
                "#obj dirty": self.cache.dirty_len(),
                "#obj incomplete": self.loads.len(),
                "#faults": self.cache.faults,
            },
            "namespace": namespaces,
            "transaction-opcount": { "commit": { "count": commits } },
            "pending_requests": self.readings.len() + self.parked + self.waiting_txns,
        }))
    }
}

#[cfg(test)]
pub(crate) mod tests;
