//! A follower after the way to the leader was lost: its roots may be old, since changes were told
//! by events that it did not get.
//!
//! Until the leader has said where it stands, nothing is read at such a root: what comes from above
//! since the way is back, be it an event or an answer, may tell of what these changes did.

use flux_api::RpcError;
use flux_api::kvs::{Getroot, NamespaceRequest, PRIMARY};
use flux_proto::Errno;
use flux_svc::{Level, Reply, To};

use super::follow::Parked;
use super::{Context, Kvs, KvsService, MAX_WAITING, Wait};
use crate::error::KvsError;

/// A namespace whose root here may be older than what this rank has heard of.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// The leader is asked where it stands.
    asked: bool,
    /// What is read then.
    pub(super) parked: Vec<Parked>,
}

/// Whether the answer depends on what the newest root is. Who waits for a version gets no older one.
pub(super) fn reads_newest(call: &Kvs) -> bool {
    matches!(call, Kvs::Lookup(_) | Kvs::LookupPlus(_) | Kvs::Getroot(_))
}

impl KvsService {
    /// Asks rank 0 for the root of every namespace that is known here.
    pub(super) fn resync(&mut self, cx: &mut Context<'_>) {
        for name in self.spaces.keys().cloned().collect::<Vec<String>>() {
            self.ask_newest(cx, &name);
        }
        if !self.spaces.contains_key(PRIMARY) {
            self.ask_root(cx, PRIMARY);
        }
    }

    fn ask_newest(&mut self, cx: &mut Context<'_>, name: &str) {
        // Events of the new leader may be faster than its answer.
        let known = self.spaces.get(name).map_or(0, |space| space.root.seq);
        let request = NamespaceRequest { namespace: name.to_string(), flags: 0 };
        self.behind.entry(name.to_string()).or_default().asked = true;
        cx.call::<Getroot>(To::Rank(0), &request, Wait::Resync(name.to_string(), known));
    }

    /// Holds something back until it is known where the leader stands with a namespace.
    pub(super) fn read_newest(&mut self, cx: &mut Context<'_>, name: &str, parked: Parked) {
        if self.parked >= MAX_WAITING {
            return self.refuse_parked(cx, parked, &KvsError::Busy(MAX_WAITING).into());
        }
        let behind = self.behind.entry(name.to_string()).or_default();
        behind.parked.push(parked);
        self.parked += 1;
        if !behind.asked {
            self.ask_newest(cx, name);
        }
    }

    /// Where rank 0 stands.
    pub(super) fn resynced(&mut self, cx: &mut Context<'_>, name: &str, known: i64, reply: &Reply) {
        let parked = self.behind.remove(name).unwrap_or_default().parked;
        self.parked -= parked.len();
        match self.compare(cx, name, known, reply) {
            Ok(()) => parked.into_iter().for_each(|parked| self.resume(cx, parked)),
            Err(error) => {
                // Still behind. The next return asks again, and so does the next reader.
                if self.spaces.contains_key(name) {
                    self.behind.insert(name.to_string(), Behind::default());
                }
                for parked in parked {
                    self.refuse_parked(cx, parked, &error);
                }
            }
        }
    }

    /// Takes over where rank 0 stands; an error when that is not known.
    fn compare(
        &mut self,
        cx: &mut Context<'_>,
        name: &str,
        known: i64,
        reply: &Reply,
    ) -> Result<(), RpcError> {
        let root = match reply.decode::<Getroot>() {
            Ok(root) => root,
            Err(error) if error.errno == Errno::EOPNOTSUPP && name != PRIMARY => {
                // Removed meanwhile.
                self.drop_space(cx, name);
                return Ok(());
            }
            Err(error) => {
                // Lost again.
                cx.log(Level::Debug, format!("root of '{name}': {error}"));
                return Err(error);
            }
        };
        if root.rootseq < known {
            if name == PRIMARY {
                // What this rank has shown is gone there: no answer of it can be trusted.
                cx.fail(format!(
                    "the leader's version {} of the store is older than version {known}, which is \
                     known here: starting again",
                    root.rootseq
                ));
                return Err(KvsError::Stopping.into());
            }
            // Another namespace of that name.
            self.drop_space(cx, name);
        }
        self.learn(cx, &root).map_err(|text| {
            cx.log(Level::Err, format!("root of '{name}': {text}"));
            RpcError::new(Errno::EPROTO, text)
        })
    }
}
