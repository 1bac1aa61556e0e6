//! Watchers whose version was collected before they had read all of it.
//!
//! A version that is no longer the newest is kept for seconds only. Whoever is slower goes on with
//! a later one: of what was appended nothing is left out, and nothing is shown twice. What is gone
//! from the newest version is an error.

use flux_api::RpcError;
use flux_api::kvs::{Getroot, NamespaceRequest};
use flux_proto::Errno;
use flux_svc::{Reply, To};

use super::append::Seen;
use super::{Context, State, WatchService, WatchWait, Watcher, no_namespace};

/// Versions, each the newest then, that a watcher tries one after the other, before what it lacks
/// is taken to be lost: where others commit all the time there is always a newer one.
const TRIES: u32 = 8;

impl Watcher {
    /// What it was shown, when the pieces that are on their way are given up.
    fn give_up_pieces(&mut self) {
        let State::Loading(loading) = &mut self.state else { return };
        let before = std::mem::replace(&mut loading.before, Seen::Nothing);
        let shown = self.lengths.len();
        self.seen = match std::mem::replace(&mut self.seen, Seen::Nothing) {
            // Of a stream each piece is shown by itself.
            Seen::Refs(mut names) if loading.stream && !loading.joined => {
                names.truncate(shown);
                if names.is_empty() { Seen::Nothing } else { Seen::Refs(names) }
            }
            _ => before,
        };
    }
}

impl WatchService {
    /// Something of the version that a watcher reads is gone.
    pub(super) fn gone(&mut self, cx: &mut Context<'_>, id: u64, error: RpcError) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        if watcher.seq.is_none() {
            return self.end(cx, id, error);
        }
        watcher.give_up_pieces();
        let listed = cx.rank() == 0 && matches!(watcher.state, State::Reading { listed: true });
        if watcher.queue.iter().any(|version| Some(version.seq) > watcher.seq) {
            return self.next_version(cx, id, false);
        }
        watcher.misses += 1;
        if watcher.misses > TRIES {
            return self.end(cx, id, error);
        }
        let newest = self.monitors.get(&watcher.namespace).and_then(|it| it.root.clone());
        if let Some((seq, rootref)) = newest.filter(|(seq, _)| Some(*seq) > watcher.seq) {
            watcher.seq = Some(seq);
            return Self::read_at(cx, id, watcher, listed, seq, &rootref);
        }
        // The leader must have a newer one, whose event is on its way; else it is damage.
        watcher.state = State::Stale { listed, error };
        let body = NamespaceRequest { namespace: watcher.namespace.clone(), flags: 0 };
        cx.call::<Getroot>(To::Rank(0), &body, WatchWait::Renew(id));
    }

    /// Where the leader stands with the namespace of a watcher whose version is gone.
    pub(super) fn renewed(&mut self, cx: &mut Context<'_>, id: u64, reply: &Reply) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let State::Stale { listed, error } = &watcher.state else { return };
        let (listed, error) = (*listed, error.clone());
        match reply.decode::<Getroot>() {
            Ok(root) if Some(root.rootseq) > watcher.seq => {
                watcher.seq = Some(root.rootseq);
                Self::read_at(cx, id, watcher, listed, root.rootseq, &root.rootref);
            }
            Err(lost) if lost.errno == Errno::EOPNOTSUPP => {
                let name = watcher.namespace.clone();
                self.end(cx, id, no_namespace(&name));
            }
            // It cannot be asked now.
            Err(_) if watcher.endures() && cx.rank() > 0 => Self::park(cx, id, watcher),
            _ => self.end(cx, id, error),
        }
    }
}
