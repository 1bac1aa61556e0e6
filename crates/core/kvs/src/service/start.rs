//! The start of rank 0: the newest durable roots.

use std::sync::Arc;

use flux_api::body::AnyObject;
use flux_api::content::CheckpointGet;
use flux_api::kvs::PRIMARY;
use flux_model::blobref::Blobref;
use flux_proto::Errno;
use flux_svc::{Reply, To};

use super::{Context, KvsService, Phase, Wait, Waiter};
use crate::dir::Dir;
use crate::space::{Root, Space};

impl KvsService {
    pub(super) fn load_checkpoint(&mut self, cx: &mut Context<'_>) {
        cx.call::<CheckpointGet>(To::Rank(0), &AnyObject::default(), Wait::Checkpoint);
    }

    pub(super) fn checkpoint(&mut self, cx: &mut Context<'_>, reply: &Reply) {
        let newest = match reply.decode::<CheckpointGet>() {
            Ok(list) => list.value.into_iter().next(),
            // A new store, or none.
            Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOSYS) => None,
            Err(error) => return cx.fail(format!("kvs: cannot read the checkpoint: {error}")),
        };
        let Some(newest) = newest else {
            self.store_empty = true;
            let root = Root { seq: 0, blobref: self.empty };
            self.spaces.insert(PRIMARY.into(), Space::new(cx.owner(), 0, root));
            return self.up(cx);
        };
        if newest.version != 1 {
            let text = format!("kvs: checkpoint version {} is unknown", newest.version);
            return cx.fail(text);
        }
        let root = match newest.rootref.parse::<Blobref>() {
            Ok(blobref) if blobref.alg() == self.hash => Root { seq: newest.sequence, blobref },
            _ => {
                let text = format!(
                    "kvs: the checkpoint's root '{}' is no {} blobref; \
                     start with the content.hash the store was made with",
                    newest.rootref,
                    self.hash.name()
                );
                return cx.fail(text);
            }
        };
        self.spaces.insert(PRIMARY.into(), Space::new(cx.owner(), 0, root));
        match newest.namespaces.map(|text| text.parse::<Blobref>()) {
            None => self.up(cx),
            Some(Ok(table)) => {
                self.phase = Phase::Starting(1);
                self.load(cx, table, Waiter::Table);
            }
            Some(Err(error)) => cx.fail(format!("kvs: the table of namespaces: {error}")),
        }
    }

    /// One part of the table of namespaces came.
    pub(super) fn restore(
        &mut self,
        cx: &mut Context<'_>,
        blobref: Blobref,
        whole: bool,
        dir: Result<Arc<Dir>, String>,
    ) {
        let Phase::Starting(missing) = self.phase else { return };
        let mut missing = missing - 1;
        let result = dir.and_then(|dir| {
            if whole {
                let shards = self.table.restore(blobref, &dir)?;
                missing += shards.len();
                self.phase = Phase::Starting(missing);
                for shard in shards {
                    self.load(cx, shard, Waiter::Shard);
                }
            } else {
                self.spaces.extend(self.table.restore_shard(&dir)?);
                self.phase = Phase::Starting(missing);
            }
            Ok(())
        });
        match result {
            Err(reason) => cx.fail(format!("kvs: cannot restore the namespaces: {reason}")),
            Ok(()) if missing == 0 => self.up(cx),
            Ok(()) => {}
        }
    }

    fn up(&mut self, cx: &mut Context<'_>) {
        self.phase = Phase::Up;
        cx.ready();
        for call in std::mem::take(&mut self.early) {
            self.dispatch(cx, call);
        }
    }
}
