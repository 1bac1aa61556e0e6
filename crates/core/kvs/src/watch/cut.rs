//! Watchers of a follower while the way to the leader is lost, and when it is back.
//!
//! Events were missed then, so that each namespace is compared with the leader's. What changed
//! several times meanwhile is shown as it is now; of what was appended nothing is left out.

use std::collections::BTreeMap;

use flux_api::kvs::{Getroot, NamespaceRequest, Root, WAITCREATE, WATCH};
use flux_api::{Body, RpcError};
use flux_proto::{Errno, Message};
use flux_svc::{Level, Reply, To};

use super::{Context, State, WatchService, WatchWait, Watcher};

/// Time after which what failed for want of a way is tried again, in microseconds: in case nobody
/// tells that the way is back.
pub(super) const RETRY_US: u64 = 2_000_000;

/// Whether an error means that the leader could not be reached.
pub(super) fn is_cut(error: &RpcError) -> bool {
    matches!(error.errno, Errno::EHOSTUNREACH | Errno::EAGAIN)
}

impl Watcher {
    /// Whether it waits when the leader cannot be reached. Who asked just now hears of it instead.
    pub(super) fn endures(&self) -> bool {
        self.has(WATCH | WAITCREATE) && self.seq.is_some()
    }
}

impl WatchService {
    /// A lookup of a watcher did not reach the leader.
    pub(super) fn park(cx: &mut Context<'_>, id: u64, watcher: &mut Watcher) {
        watcher.state = State::Cut;
        cx.timer(RETRY_US, WatchWait::Retry(id));
    }

    /// The way to the leader is back: compares every namespace, and goes on with what was cut.
    pub(super) fn resync(&mut self, cx: &mut Context<'_>) {
        for (name, monitor) in &mut self.monitors {
            let known = monitor.root.as_ref().map_or(-1, |(seq, _)| *seq);
            monitor.behind = Some(monitor.behind.map_or(known, |behind| behind.min(known)));
            // Not the store of this rank, which asks at the same time.
            let body = NamespaceRequest { namespace: name.clone(), flags: 0 };
            cx.call::<Getroot>(To::Rank(0), &body, WatchWait::Resync(name.clone()));
        }
        let ids: Vec<u64> = self.watchers.keys().copied().collect();
        for id in ids {
            self.retry(cx, id);
        }
    }

    /// Tries again what was cut.
    pub(super) fn retry(&mut self, cx: &mut Context<'_>, id: u64) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        match &watcher.state {
            State::Cut => {
                let known = self.monitors.get(&watcher.namespace).and_then(|it| it.root.as_ref());
                let Some((seq, rootref)) = known.cloned() else {
                    return self.first_lookup(cx, id);
                };
                // Everything up to the newest version in one go.
                watcher.queue.clear();
                watcher.seq = Some(seq);
                Self::read_at(cx, id, watcher, false, seq, &rootref);
            }
            State::Loading(_) => self.load_again(cx, id),
            _ => {}
        }
    }

    /// Where the leader stands with a namespace.
    pub(super) fn resynced(&mut self, cx: &mut Context<'_>, name: &str, reply: &Reply) {
        let root = match reply.decode::<Getroot>() {
            Ok(root) => root,
            Err(error) if error.errno == Errno::EOPNOTSUPP => return self.removed(cx, name),
            Err(error) => return cx.log(Level::Debug, format!("root of '{name}': {error}")),
        };
        let Some(monitor) = self.monitors.get_mut(name) else { return };
        let Some(behind) = monitor.behind.take() else { return };
        if behind > root.rootseq {
            // It was removed, and made again.
            self.removed(cx, name);
        }
        self.appeared(cx, root);
        // Events of later versions may have been faster than this answer, or than the word that the
        // way is back, and did not tell what changed before them: so everybody looks.
        let Some(monitor) = self.monitors.get(name) else { return };
        let Some((seq, rootref)) = monitor.root.clone() else { return };
        let due: BTreeMap<u64, bool> = monitor.watchers.iter().map(|id| (*id, false)).collect();
        self.show(cx, due, seq, &rootref);
    }

    /// An event, as it comes from the leader.
    pub(super) fn told(&mut self, cx: &mut Context<'_>, event: &Message) {
        let topic = event.topic();
        if topic.ends_with("-setroot") {
            if let Ok(body) = flux_api::kvs::Setroot::take(event) {
                self.changed(cx, body);
            }
        } else if topic.ends_with("-created") {
            if let Ok(root) = Root::take(event) {
                self.appeared(cx, root);
            }
        } else if topic.ends_with("-removed")
            && let Ok(body) = NamespaceRequest::take(event)
        {
            self.removed(cx, &body.namespace);
        }
    }
}
