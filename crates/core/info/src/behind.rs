//! What is not found on a follower may be there already: its root follows the leader's, and lags
//! behind while the way to it is lost. Before a job is said not to exist the leader is asked how far
//! it is, and what was not found is looked for again there.

use flux_api::RpcError;
use flux_api::kvs::{self, NamespaceRequest, WaitVersion};
use flux_proto::Errno;
use flux_svc::{Cx, Reply, To};

use crate::{InfoService, Wait};

/// How long a follower may take to get as far as the leader, in microseconds.
const PATIENCE: u64 = 10_000_000;

/// What was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The eventlog, which names the owner.
    Owner,
    /// Keys of a lookup.
    Keys,
    /// The main eventlog of a watch.
    Main,
    /// The object of an update watch.
    Base,
    /// A guest eventlog where it stays.
    Rest,
}

impl InfoService {
    /// Whether it is looked for again, after this follower has caught up with the leader. Done once
    /// for each.
    pub(crate) fn look_again(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        ticket: u64,
        what: Missing,
        error: &RpcError,
    ) -> bool {
        // A link to a namespace that is gone is ENOTSUP.
        if cx.rank() == 0 || !matches!(error.errno, Errno::ENOENT | Errno::ENOTSUP) {
            return false;
        }
        let looked = match (self.lookups.get_mut(&ticket), self.watches.get_mut(&ticket)) {
            (Some(lookup), _) => &mut lookup.looked,
            (None, Some(watch)) => &mut watch.looked,
            (None, None) => return false,
        };
        if looked.contains(&what) {
            return false;
        }
        looked.push(what);
        let request = NamespaceRequest { namespace: kvs::PRIMARY.to_string(), flags: 0 };
        cx.call_within::<kvs::Getroot>(To::Rank(0), &request, PATIENCE, Wait::Newest(ticket, what));
        true
    }

    /// How far the leader is.
    pub(crate) fn newest_known(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        ticket: u64,
        what: Missing,
        reply: &Reply,
    ) {
        match reply.decode::<kvs::Getroot>() {
            Ok(root) => {
                let rootseq = root.rootseq;
                let request = WaitVersion { rootseq, namespace: kvs::PRIMARY.to_string() };
                let here = To::Rank(cx.rank());
                let wait = Wait::CaughtUp(ticket, what);
                cx.call_within::<kvs::WaitVersion_>(here, &request, PATIENCE, wait);
            }
            Err(error) => self.cannot_look(cx, ticket, error),
        }
    }

    /// This follower is as far as the leader was.
    pub(crate) fn caught_up(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        ticket: u64,
        what: Missing,
        reply: &Reply,
    ) {
        if let Err(error) = reply.decode::<kvs::WaitVersion_>() {
            return self.cannot_look(cx, ticket, error);
        }
        match what {
            Missing::Owner => {
                let lookup = self.lookups.get(&ticket).map(|lookup| lookup.id);
                let id = lookup.or_else(|| self.watches.get(&ticket).map(|watch| watch.id()));
                if let Some(id) = id {
                    Self::ask_owner(cx, ticket, id);
                }
            }
            Missing::Keys => self.read_keys(cx, ticket),
            Missing::Main => self.watch_again(cx, ticket),
            Missing::Base => self.read_base(cx, ticket),
            Missing::Rest => self.ask_rest(cx, ticket),
        }
    }

    fn cannot_look(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, error: RpcError) {
        if self.lookups.contains_key(&ticket) {
            self.fail_lookup(cx, ticket, &error);
        } else {
            self.end_watch(cx, ticket, Err(error));
        }
    }
}
