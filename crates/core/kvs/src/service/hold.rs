//! What clients refer to without bringing it along: a tree object that was read some time ago may
//! name blobs that were collected since. Such a commit waits until the store has said that all of it
//! is there and stays, or is refused.

use flux_api::Call;
use flux_api::content::{BackingHold, HoldRequest};
use flux_api::kvs::NamespaceCreate_;
use flux_model::blobref::Blobref;
use flux_svc::{Reply, To};

use super::{Context, KvsService, Wait};
use crate::error::KvsError;
use crate::space::Txn;

fn texts<'a>(blobrefs: impl Iterator<Item = &'a Blobref>) -> Vec<String> {
    blobrefs.map(Blobref::to_string).collect()
}

impl KvsService {
    /// Whether this is the newest root of a namespace: it lives, with all that hangs from it.
    fn is_top(&self, blobref: &Blobref) -> bool {
        let space = self.tops.get(blobref).and_then(|name| self.spaces.get(name));
        space.is_some_and(|space| !space.work.dying && space.work.durable.blobref == *blobref)
    }

    /// A namespace has this root now, in place of another one.
    pub(super) fn new_top(&mut self, name: &str, old: Blobref, new: Blobref) {
        if self.tops.get(&old).is_some_and(|of| of == name) {
            self.tops.remove(&old);
        }
        self.tops.insert(new, name.to_string());
    }

    /// What a transaction refers to, and is not known to be there.
    pub(super) fn unsure(&mut self, txn: &Txn) -> Option<HoldRequest> {
        if txn.sure || txn.failed.is_some() {
            return None;
        }
        let mut request = HoldRequest::default();
        for op in &txn.ops {
            // Everybody knows the empty directory: it goes along with the next commit.
            self.store_empty |= op.refs.dirs.contains(&self.empty);
            let dirs = op.refs.dirs.iter();
            let dirs = dirs.filter(|blobref| **blobref != self.empty && !self.is_top(blobref));
            request.dirs.extend(texts(dirs));
            request.data.extend(texts(op.refs.data.iter()));
        }
        (!request.dirs.is_empty() || !request.data.is_empty()).then_some(request)
    }

    /// The transaction waits, as the first of its namespace, for word of what it refers to.
    pub(super) fn hold(
        &mut self,
        cx: &mut Context<'_>,
        name: &str,
        txn: Txn,
        request: &HoldRequest,
    ) {
        let stall = self.ticket();
        let Some(space) = self.spaces.get_mut(name) else { return };
        space.work.stall = Some((stall, 1));
        space.work.queue.push_front(txn);
        cx.call::<BackingHold>(To::Rank(0), request, Wait::Hold(name.to_string(), stall));
    }

    /// What a transaction refers to is there, or is not.
    pub(super) fn held(&mut self, cx: &mut Context<'_>, name: &str, stall: u64, reply: &Reply) {
        let Some(work) = self.spaces.get_mut(name).map(|space| &mut space.work) else { return };
        if work.stall.is_none_or(|(number, _)| number != stall) {
            return;
        }
        work.stall = None;
        if let Some(txn) = work.queue.front_mut() {
            match reply.error() {
                None => txn.sure = true,
                Some(error) => {
                    let refs = |op: &&crate::apply::Op| {
                        !op.refs.dirs.is_empty() || !op.refs.data.is_empty()
                    };
                    let mut keys = txn.ops.iter().filter(refs).map(|op| format!("'{}'", op.key));
                    let some: Vec<String> = keys.by_ref().take(3).collect();
                    let more = if keys.next().is_some() { " and others" } else { "" };
                    let keys = some.join(", ") + more;
                    txn.failed = Some(KvsError::Dangling { keys, error: error.clone() });
                }
            }
        }
        self.advance(cx, name);
        self.urgent = true;
        self.flush(cx);
    }

    /// Makes a namespace that begins with a root of the client's choice, once that is known to be
    /// there. Gives back a call that need not wait.
    pub(super) fn hold_root(
        &mut self,
        cx: &mut Context<'_>,
        call: Call<NamespaceCreate_>,
        root: Blobref,
    ) -> Option<Call<NamespaceCreate_>> {
        if root == self.empty || self.is_top(&root) {
            return Some(call);
        }
        let ticket = self.ticket();
        self.creates.insert(ticket, call);
        let request = HoldRequest { dirs: vec![root.to_string()], data: Vec::new() };
        cx.call::<BackingHold>(To::Rank(0), &request, Wait::HoldRoot(ticket));
        None
    }

    /// The root of a new namespace is there, or is not.
    pub(super) fn root_held(&mut self, cx: &mut Context<'_>, ticket: u64, reply: &Reply) {
        let Some(call) = self.creates.remove(&ticket) else { return };
        match reply.error() {
            None => self.create_sure(cx, call),
            Some(error) => {
                let keys = format!("the root of namespace '{}'", call.request.namespace);
                call.answer.err(cx, KvsError::Dangling { keys, error: error.clone() });
            }
        }
        self.settle_drain(cx);
    }
}
