//! The `kvs-watch` service: lookups that follow changes.
//!
//! It asks the store of its own rank: the first lookup by namespace, each later one at the root
//! that a setroot event announced, so that versions come in order and none is skipped. Both are
//! made with the credentials of the watcher, so that the store decides what it may see.

mod append;
mod cut;
mod deliver;
mod stale;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flux_api::kvs::{
    Getroot, KEEP_REFS, KvsWatch, LookupPlus, LookupRequest, NamespaceRequest, READDIR, READLINK,
    Root, STREAM, Setroot, TREEOBJ, WAITCREATE, WATCH, WATCH_APPEND, WATCH_FULL,
    WATCH_INITIAL_SENTINEL, WATCH_UNIQ, WatchLookup,
};
use flux_api::{Answer, Call, RpcError, rpc};
use flux_model::treeobj::normalize_key;
use flux_proto::{Errno, Message};
use flux_svc::{Cx, Reply, Service, To, Way};
use serde_json::{Map, Value, json};

use append::Seen;
use deliver::Pieces;

/// Most versions that wait for one watcher to be read.
const MAX_BEHIND: usize = 1 << 14;

/// Most watchers of a rank.
const MAX_WATCHERS: usize = 1 << 18;

/// Watchers of one guest.
const MAX_OF_GUEST: usize = MAX_WATCHERS / 16;

/// What the service waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchWait {
    /// The root of a namespace.
    Getroot(String),
    /// The root of a namespace, after the way to the leader was lost.
    Resync(String),
    /// To try again what the leader could not be asked for.
    Retry(u64),
    /// The key of a watcher, by its number.
    Lookup(u64),
    /// A piece of a value of a watcher: of which reading, and which one.
    Piece(u64, u64, usize),
    /// The root of the namespace of a watcher whose version is gone.
    Renew(u64),
}

/// A root that a watcher has yet to be shown.
#[derive(Debug)]
struct Version {
    seq: i64,
    rootref: String,
    /// The event named the key.
    listed: bool,
}

#[derive(Debug)]
enum State {
    /// The namespace does not exist yet.
    NoNamespace,
    /// A lookup is on its way; whether an event named the key.
    Reading { listed: bool },
    /// Pieces of a value are on their way.
    Loading(Pieces),
    /// The leader could not be reached for the next version.
    Cut,
    /// Its version is gone, with this error; the leader is asked for a newer one.
    Stale { listed: bool, error: RpcError },
    /// All is shown; `absent` while the key does not exist yet.
    Idle { absent: bool },
}

#[derive(Debug)]
struct Watcher {
    answer: Answer<WatchLookup>,
    namespace: String,
    key: String,
    flags: u32,
    state: State,
    seq: Option<i64>,
    /// The store has given it the key once: it may see the namespace.
    admitted: bool,
    queue: VecDeque<Version>,
    /// Versions that it gave up since it was last shown something.
    misses: u32,
    /// Something was answered.
    answered: bool,
    previous: Option<Value>,
    seen: Seen,
    /// Lengths of the pieces that were seen, in bytes.
    lengths: Vec<usize>,
}

impl Watcher {
    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

#[derive(Debug, Default)]
struct Monitor {
    owner: Option<u32>,
    root: Option<(i64, String)>,
    /// The version known when the way to the leader came back, until compared with the leader's.
    behind: Option<i64>,
    watchers: BTreeSet<u64>,
    by_key: BTreeMap<String, BTreeSet<u64>>,
    full: BTreeSet<u64>,
}

/// The `kvs-watch` service.
#[derive(Debug, Default)]
pub struct WatchService {
    watchers: BTreeMap<u64, Watcher>,
    monitors: BTreeMap<String, Monitor>,
    /// How many watchers each guest has.
    of_guests: BTreeMap<u32, usize>,
    next: u64,
}

type Context<'a> = Cx<'a, WatchWait>;

fn invalid(text: impl Into<String>) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

fn no_namespace(name: &str) -> RpcError {
    let text = format!("kvs-watch: namespace '{name}' was removed");
    RpcError::new(Errno::EOPNOTSUPP, text)
}

fn check(flags: u32, streaming: bool) -> Result<(), RpcError> {
    let any = |mask: u32| flags & mask != 0;
    if any(WATCH | STREAM) && !streaming {
        let text = "KVS watch request rejected without streaming RPC flag";
        return Err(RpcError::new(Errno::EPROTO, text));
    }
    if any(WATCH) && any(STREAM) {
        return Err(invalid("Cannot KVS watch and stream at the same time"));
    }
    if any(WATCH_FULL | WATCH_UNIQ | WATCH_APPEND) && !any(WATCH) {
        return Err(invalid("Must set KVS watch flag with other watch flags"));
    }
    if any(WATCH_INITIAL_SENTINEL) && !any(WATCH_APPEND) {
        return Err(invalid("the initial sentinel needs WATCH_APPEND"));
    }
    Ok(())
}

fn namespace_topic(namespace: &str) -> String {
    format!("kvs.namespace-{namespace}-")
}

impl WatchService {
    /// A service without watchers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn watch(&mut self, cx: &mut Context<'_>, call: Call<WatchLookup>) {
        let Call { request, answer } = call;
        if let Err(error) = check(request.flags, answer.is_streaming()) {
            return answer.err(cx, error);
        }
        let key = match normalize_key(&request.key) {
            Ok(key) => key.into_owned(),
            Err(error) => return answer.err(cx, invalid(error.to_string())),
        };
        if self.watchers.len() >= MAX_WATCHERS {
            let text = format!("kvs-watch: {MAX_WATCHERS} watchers are served already");
            return answer.err(cx, RpcError::new(Errno::EAGAIN, text));
        }
        let cred = answer.cred();
        let count = self.of_guests.get(&cred.userid).copied().unwrap_or(0);
        if !cred.is_owner() && count >= MAX_OF_GUEST {
            let text = format!("kvs-watch: user {} has {count} watchers already", cred.userid);
            return answer.err(cx, RpcError::new(Errno::EAGAIN, text));
        }
        if !cred.is_owner() {
            self.of_guests.insert(cred.userid, count + 1);
        }
        self.next += 1;
        let id = self.next;
        let name = request.namespace;
        let monitor = self.monitors.entry(name.clone()).or_default();
        if monitor.watchers.is_empty() {
            cx.subscribe(&namespace_topic(&name));
            let body = NamespaceRequest { namespace: name.clone(), flags: 0 };
            cx.call::<Getroot>(To::Any, &body, WatchWait::Getroot(name.clone()));
        }
        monitor.watchers.insert(id);
        monitor.by_key.entry(key.clone()).or_default().insert(id);
        if request.flags & WATCH_FULL != 0 {
            monitor.full.insert(id);
        }
        let watcher = Watcher {
            answer,
            namespace: name,
            key,
            flags: request.flags,
            state: State::Idle { absent: false },
            seq: None,
            admitted: false,
            queue: VecDeque::new(),
            misses: 0,
            answered: false,
            previous: None,
            seen: Seen::Nothing,
            lengths: Vec::new(),
        };
        self.watchers.insert(id, watcher);
        self.first_lookup(cx, id);
    }

    fn first_lookup(&mut self, cx: &mut Context<'_>, id: u64) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let known = self.monitors.get(&watcher.namespace).and_then(|space| space.root.as_ref());
        // Not older than what was announced here already.
        let rootseq = known.map(|(seq, _)| *seq);
        let namespace = Some(watcher.namespace.clone());
        Self::read(cx, id, watcher, true, |request| {
            request.namespace = namespace;
            request.rootseq = rootseq;
        });
    }

    fn read(
        cx: &mut Context<'_>,
        id: u64,
        watcher: &mut Watcher,
        listed: bool,
        place: impl FnOnce(&mut LookupRequest),
    ) {
        let mut flags = watcher.flags & (READDIR | READLINK | TREEOBJ);
        if watcher.has(WATCH_APPEND | STREAM) {
            flags |= KEEP_REFS;
        }
        let mut request = LookupRequest {
            key: watcher.key.clone(),
            flags,
            namespace: None,
            rootdir: None,
            rootseq: None,
            userid: None,
        };
        place(&mut request);
        watcher.state = State::Reading { listed };
        let mut message = rpc::request::<LookupPlus>(&request);
        if request.rootdir.is_none() {
            message = message.with_cred(watcher.answer.cred());
        }
        cx.request(To::Any, message, WatchWait::Lookup(id));
    }

    /// The watcher has shown what it was given: on to the next version.
    fn go_on(&mut self, cx: &mut Context<'_>, id: u64, absent: bool) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        watcher.misses = 0;
        self.next_version(cx, id, absent);
    }

    fn next_version(&mut self, cx: &mut Context<'_>, id: u64, absent: bool) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        watcher.state = State::Idle { absent };
        while let Some(version) = watcher.queue.pop_front() {
            if watcher.seq.is_some_and(|seq| version.seq <= seq) {
                continue;
            }
            watcher.seq = Some(version.seq);
            return Self::read_at(cx, id, watcher, version.listed, version.seq, &version.rootref);
        }
    }

    fn read_at(
        cx: &mut Context<'_>,
        id: u64,
        watcher: &mut Watcher,
        listed: bool,
        seq: i64,
        rootref: &str,
    ) {
        // By its root any version of any namespace can be read: that is for who may, and whether a
        // watcher may was decided when it was first given the key.
        let namespace = (!watcher.admitted).then(|| watcher.namespace.clone());
        let cred = watcher.answer.cred();
        Self::read(cx, id, watcher, listed, |request| {
            request.rootseq = Some(seq);
            if namespace.is_some() {
                request.namespace = namespace;
                return;
            }
            request.rootdir = Some(json!({ "data": [rootref], "type": "dirref", "ver": 1 }));
            request.userid = (!cred.is_owner()).then_some(cred.userid);
        });
    }

    fn take(&mut self, cx: &mut Context<'_>, id: u64) -> Option<Watcher> {
        let watcher = self.watchers.remove(&id)?;
        let userid = watcher.answer.cred().userid;
        if let Some(count) = self.of_guests.get_mut(&userid) {
            *count -= 1;
            if *count == 0 {
                self.of_guests.remove(&userid);
            }
        }
        if let Some(monitor) = self.monitors.get_mut(&watcher.namespace) {
            monitor.watchers.remove(&id);
            monitor.full.remove(&id);
            if let Some(ids) = monitor.by_key.get_mut(&watcher.key) {
                ids.remove(&id);
                if ids.is_empty() {
                    monitor.by_key.remove(&watcher.key);
                }
            }
            if monitor.watchers.is_empty() {
                self.monitors.remove(&watcher.namespace);
                cx.unsubscribe(&namespace_topic(&watcher.namespace));
            }
        }
        Some(watcher)
    }

    fn end(&mut self, cx: &mut Context<'_>, id: u64, error: impl Into<RpcError>) {
        if let Some(watcher) = self.take(cx, id) {
            watcher.answer.err(cx, error);
        }
    }

    fn looked_up(&mut self, cx: &mut Context<'_>, id: u64, reply: &Reply) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let State::Reading { listed } = watcher.state else { return };
        let response = match reply.decode::<LookupPlus>() {
            Ok(response) => response,
            Err(error) => return self.lookup_failed(cx, id, error),
        };
        watcher.admitted = true;
        if watcher.seq.is_none() {
            watcher.seq = Some(response.rootseq);
        }
        match response.val {
            Some(val) if response.errno.is_none() => self.deliver(cx, id, val, listed),
            _ if watcher.has(WAITCREATE) && !watcher.answered => self.go_on(cx, id, true),
            _ => {
                let text = format!("kvs-watch: key '{}' does not exist", watcher.key);
                self.end(cx, id, RpcError::new(Errno::ENOENT, text));
            }
        }
    }

    fn lookup_failed(&mut self, cx: &mut Context<'_>, id: u64, error: RpcError) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let unknown = self.monitors.get(&watcher.namespace).is_some_and(|it| it.root.is_none());
        if error.errno == Errno::EOPNOTSUPP
            && unknown
            && watcher.has(WAITCREATE)
            && watcher.seq.is_none()
        {
            // The answer to getroot, or the event of its creation, wakes the watcher.
            watcher.state = State::NoNamespace;
            return;
        }
        if error.errno == Errno::ENOTRECOVERABLE {
            return self.gone(cx, id, error);
        }
        if cut::is_cut(&error) && watcher.endures() && cx.rank() > 0 {
            return Self::park(cx, id, watcher);
        }
        let error = match error.errno {
            Errno::EISDIR if watcher.has(WATCH_APPEND) => append::directory(),
            Errno::EISDIR if watcher.has(STREAM) => deliver::directory(),
            _ => error,
        };
        self.end(cx, id, error);
    }

    fn appeared(&mut self, cx: &mut Context<'_>, root: Root) {
        let Some(monitor) = self.monitors.get_mut(&root.namespace) else { return };
        monitor.owner = Some(root.owner);
        if monitor.root.as_ref().is_none_or(|(seq, _)| *seq < root.rootseq) {
            monitor.root = Some((root.rootseq, root.rootref));
        }
        for id in monitor.watchers.clone() {
            if matches!(self.watchers.get(&id), Some(Watcher { state: State::NoNamespace, .. })) {
                self.first_lookup(cx, id);
            }
        }
    }

    fn removed(&mut self, cx: &mut Context<'_>, name: &str) {
        let Some(monitor) = self.monitors.get_mut(name) else { return };
        monitor.root = None;
        monitor.owner = None;
        for id in monitor.watchers.clone() {
            if !matches!(self.watchers.get(&id), Some(Watcher { state: State::NoNamespace, .. })) {
                self.end(cx, id, no_namespace(name));
            }
        }
    }

    fn changed(&mut self, cx: &mut Context<'_>, body: Setroot) {
        let Some(monitor) = self.monitors.get_mut(&body.namespace) else { return };
        if monitor.root.as_ref().is_some_and(|(seq, _)| *seq >= body.rootseq) {
            return;
        }
        monitor.owner = Some(body.owner);
        monitor.root = Some((body.rootseq, body.rootref.clone()));
        let mut due: BTreeMap<u64, bool> = monitor.full.iter().map(|id| (*id, false)).collect();
        for key in body.keys.keys() {
            for id in monitor.by_key.get(key).into_iter().flatten() {
                due.insert(*id, true);
            }
            // Who waits for a key is told of its parents and children as well: they make it.
            let related = ancestors(key)
                .filter_map(|parent| monitor.by_key.get_key_value(parent))
                .chain(monitor.by_key.range(format!("{key}.")..format!("{key}/")));
            for id in related.flat_map(|(_, ids)| ids) {
                if self.watchers.get(id).is_some_and(|watcher| !watcher.answered) {
                    due.entry(*id).or_insert(true);
                }
            }
        }
        self.show(cx, due, body.rootseq, &body.rootref);
    }

    /// Shows a version to watchers, each with whether the event named its key.
    fn show(&mut self, cx: &mut Context<'_>, due: BTreeMap<u64, bool>, seq: i64, rootref: &str) {
        for (id, listed) in due {
            let Some(watcher) = self.watchers.get_mut(&id) else { continue };
            let version = Version { seq, rootref: rootref.to_string(), listed };
            match &watcher.state {
                State::NoNamespace => {}
                _ if watcher.queue.len() >= MAX_BEHIND => {
                    let text = format!("kvs-watch: key '{}' changes too fast", watcher.key);
                    self.end(cx, id, RpcError::new(Errno::EOVERFLOW, text));
                }
                State::Idle { absent } => {
                    let absent = *absent;
                    watcher.queue.push_back(version);
                    self.go_on(cx, id, absent);
                }
                _ => watcher.queue.push_back(version),
            }
        }
    }
}

/// The parents of a key, nearest first.
fn ancestors(key: &str) -> impl Iterator<Item = &str> {
    let mut rest = key;
    std::iter::from_fn(move || {
        rest =
            rest.rsplit_once('.').map(|(parent, _)| parent).filter(|parent| !parent.is_empty())?;
        Some(rest)
    })
}

impl Service for WatchService {
    type Api = KvsWatch;
    type Wait = WatchWait;

    fn on_call(&mut self, cx: &mut Context<'_>, call: KvsWatch) {
        match call {
            KvsWatch::WatchLookup(call) => self.watch(cx, call),
            KvsWatch::WatchCancel(call) => {
                let found = self.watchers.iter().find(|(_, watcher)| {
                    watcher.answer.matchtag() == call.request.matchtag
                        && watcher.answer.same_sender(call.answer.head())
                });
                if let Some(id) = found.map(|(id, _)| *id) {
                    self.end(cx, id, Errno::ENODATA);
                }
                call.answer.forget();
            }
        }
    }

    fn on_reply(&mut self, cx: &mut Context<'_>, wait: WatchWait, reply: Reply) {
        match wait {
            WatchWait::Lookup(id) => self.looked_up(cx, id, &reply),
            WatchWait::Piece(id, round, at) => self.piece(cx, (id, round, at), &reply),
            WatchWait::Renew(id) => self.renewed(cx, id, &reply),
            WatchWait::Resync(name) => self.resynced(cx, &name, &reply),
            WatchWait::Retry(_) => {}
            WatchWait::Getroot(name) => {
                match reply.decode::<Getroot>() {
                    Ok(root) => self.appeared(cx, root),
                    // Its watchers hear of it from their own lookups.
                    Err(error) => cx.log(
                        flux_svc::Level::Debug,
                        format!("root of namespace '{name}': {error}"),
                    ),
                }
            }
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, wait: WatchWait) {
        if let WatchWait::Retry(id) = wait {
            self.retry(cx, id);
        }
    }

    fn on_event(&mut self, cx: &mut Context<'_>, event: &Message) {
        self.told(cx, event);
    }

    fn on_way(&mut self, cx: &mut Context<'_>, way: Way) {
        if way == Way::Back {
            self.resync(cx);
        }
    }

    fn on_disconnect(&mut self, cx: &mut Context<'_>, message: &Message) {
        let left: Vec<u64> = self
            .watchers
            .iter()
            .filter(|(_, watcher)| watcher.answer.same_sender(message))
            .map(|(id, _)| *id)
            .collect();
        for id in left {
            if let Some(watcher) = self.take(cx, id) {
                watcher.answer.forget();
            }
        }
    }

    fn on_drain(&mut self, cx: &mut Context<'_>) {
        let ids: Vec<u64> = self.watchers.keys().copied().collect();
        for id in ids {
            let text = "kvs-watch: the service is shutting down";
            self.end(cx, id, RpcError::new(Errno::ENOSYS, text));
        }
        cx.drained();
    }

    fn stats(&self) -> Option<Value> {
        let namespaces: Map<String, Value> = self
            .monitors
            .iter()
            .map(|(name, monitor)| {
                let (seq, rootref) = monitor.root.clone().unwrap_or((-1, String::new()));
                let stats = json!({
                    "owner": monitor.owner.map_or(-1, i64::from),
                    "rootseq": seq,
                    "rootref": rootref,
                    "watchers": monitor.watchers.len(),
                });
                (name.clone(), stats)
            })
            .collect();
        Some(json!({
            "watchers": self.watchers.len(),
            "namespace-count": self.monitors.len(),
            "namespaces": namespaces,
        }))
    }
}

#[cfg(test)]
mod tests;
