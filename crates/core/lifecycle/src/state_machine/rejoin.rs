//! A follower whose parent is lost, and is back.
//!
//! Where the instance outlives its brokers it waits in the state it is in, its services and
//! processes untouched, until it has joined the parent again; the overlay decides whether and how
//! long (`overlay.rejoin`). Elsewhere, and when it cannot go on as it is, it goes down in order.

use flux_api::Empty;
use flux_api::body::AnyObject;
use flux_api::lifecycle::{ConfigGet, Monitor, MonitorRequest};
use flux_api::overlay::Rejoin;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};

use super::state::{State, parent_event};
use super::{StateMachineService, Wait};

impl StateMachineService {
    /// Follows the parent's states.
    pub(super) fn follow_parent(&mut self, cx: &mut Cx<'_, Wait>) {
        let request = MonitorRequest { last: Some(State::Shutdown as i32) };
        cx.stream::<Monitor>(To::Upstream, &request, Wait::Parent);
    }

    /// The parent does not answer any more.
    pub(super) fn parent_lost(&mut self, cx: &mut Cx<'_, Wait>) {
        self.parent = None;
        if (State::Join..=State::Run).contains(&self.state) && !self.rejoining {
            self.rejoining = true;
            self.status(cx, "Waiting for the parent to come back");
            cx.call::<Rejoin>(To::Rank(cx.rank()), &Empty, Wait::Rejoin);
        }
    }

    /// The parent is back, or is not waited for.
    pub(super) fn rejoined(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        self.rejoining = false;
        if self.state > State::Run {
            return;
        }
        let Some(error) = reply.error() else {
            if self.state == State::Run {
                self.running(cx);
            }
            return self.follow_parent(cx);
        };
        cx.log(Level::Err, format!("overlay.rejoin: {error}"));
        // It has to start again, and those below it need not.
        self.leaving |= error.errno == Errno::ESTALE;
        if error.errno == Errno::ESHUTDOWN && self.state == State::Run {
            // It goes down in order, and so does this broker.
            return self.post(cx, "shutdown", false);
        }
        if let Some(event) = parent_event(self.state, None) {
            self.abort_init(cx);
            self.post(cx, event, true);
        }
    }

    /// The configuration did not come.
    pub(super) fn sync_failed(&mut self, cx: &mut Cx<'_, Wait>, error: &flux_api::RpcError) {
        if cx.rank() > 0 && matches!(error.errno, Errno::EHOSTUNREACH | Errno::EAGAIN) {
            // The parent was lost, which ends this state if it is not to come back.
            self.sync_again = true;
            return;
        }
        cx.log(Level::Err, format!("config.get: {error}"));
        self.post(cx, "sync-fail", true);
    }

    /// Asks for the configuration again, when the parent has come back and can tell it.
    pub(super) fn resume_sync(&mut self, cx: &mut Cx<'_, Wait>) {
        let up = matches!(self.parent, Some(State::Quorum | State::Run));
        if up && self.state == State::ConfigSync && std::mem::take(&mut self.sync_again) {
            cx.call::<ConfigGet>(To::Rank(cx.rank()), &AnyObject::default(), Wait::Sync);
        }
    }
}
