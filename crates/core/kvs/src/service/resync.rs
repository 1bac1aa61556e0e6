//! A follower after the way to the leader was lost: its roots may be old, since changes were told
//! by events that it did not get.

use flux_api::kvs::{Getroot, NamespaceRequest, PRIMARY};
use flux_proto::Errno;
use flux_svc::{Level, Reply, To};

use super::{Context, KvsService, Wait};

impl KvsService {
    /// Asks rank 0 for the root of every namespace that is known here.
    pub(super) fn resync(&mut self, cx: &mut Context<'_>) {
        for (name, space) in &self.spaces {
            let request = NamespaceRequest { namespace: name.clone(), flags: 0 };
            // Events of the new leader may be faster than its answer.
            let wait = Wait::Resync(name.clone(), space.root.seq);
            cx.call::<Getroot>(To::Rank(0), &request, wait);
        }
        if !self.spaces.contains_key(PRIMARY) {
            self.ask_root(cx, PRIMARY);
        }
    }

    /// Where rank 0 stands.
    pub(super) fn resynced(&mut self, cx: &mut Context<'_>, name: &str, known: i64, reply: &Reply) {
        let root = match reply.decode::<Getroot>() {
            Ok(root) => root,
            Err(error) if error.errno == Errno::EOPNOTSUPP && name != PRIMARY => {
                // Removed meanwhile.
                return self.drop_space(cx, name);
            }
            // Lost again: the next return asks again.
            Err(error) => return cx.log(Level::Debug, format!("root of '{name}': {error}")),
        };
        if root.rootseq < known {
            if name == PRIMARY {
                // What this rank has shown is gone there: no answer of it can be trusted.
                return cx.fail(format!(
                    "the leader's version {} of the store is older than version {known}, which is \
                     known here: starting again",
                    root.rootseq
                ));
            }
            // Another namespace of that name.
            self.drop_space(cx, name);
        }
        if let Err(error) = self.learn(cx, &root) {
            cx.log(Level::Err, format!("root of '{name}': {error}"));
        }
    }
}
