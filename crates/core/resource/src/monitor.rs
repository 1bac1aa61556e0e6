//! Who is online and who is torpid, from the groups of the brokers.

use flux_api::lifecycle::{GroupGet, GroupName};
use flux_api::resource::MonitorWaitup;
use flux_api::{Call, Empty, RpcError};
use flux_id::Idset;
use flux_model::eventlog::{Context, Event};
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};

use crate::define::PEER_US;
use crate::service::{ResourceService, Wait};

/// Group of brokers that are up.
const ONLINE: &str = "broker.online";
/// Group of brokers that were not heard of for a while.
const TORPID: &str = "broker.torpid";

impl ResourceService {
    /// Follows the groups.
    pub(crate) fn watch_groups(&mut self, cx: &mut Cx<'_, Wait>) {
        if self.settings.monitor_force_up {
            let all = Idset::first_n(self.brokers(cx.size()));
            self.set_online(cx, all);
        } else {
            self.watch_group(cx, true);
        }
        self.watch_group(cx, false);
    }

    /// Follows one of the two groups.
    pub(crate) fn watch_group(&mut self, cx: &mut Cx<'_, Wait>, online: bool) {
        let (name, wait) = if online { (ONLINE, Wait::Online) } else { (TORPID, Wait::Torpid) };
        cx.stream::<GroupGet>(To::Rank(0), &GroupName { name: name.to_string() }, wait);
    }

    /// A group has changed.
    pub(crate) fn group_changed(&mut self, cx: &mut Cx<'_, Wait>, online: bool, reply: &Reply) {
        let (name, wait) = if online { (ONLINE, Wait::Online) } else { (TORPID, Wait::Torpid) };
        if reply.error().is_some_and(|error| error.errno == Errno::ENOSYS) && !self.stopping {
            // The groups start beside this service.
            cx.timer(PEER_US, wait);
            return;
        }
        let members = reply
            .decode::<GroupGet>()
            .map_err(|error| error.to_string())
            .and_then(|group| group.members.parse::<Idset>().map_err(|error| error.to_string()));
        match members {
            Ok(members) if online => {
                let members = members.difference(&self.forced_down);
                self.set_online(cx, members);
            }
            Ok(members) => self.set_torpid(cx, members),
            Err(_) if self.stopping => {}
            Err(error) => cx.log(Level::Err, format!("group {name}: {error}")),
        }
    }

    /// The set of online ranks is now this.
    pub(crate) fn set_online(&mut self, cx: &mut Cx<'_, Wait>, members: Idset) {
        let joined = members.difference(&self.online);
        let left = self.online.difference(&members);
        self.online = members;
        self.post_ids(cx, "online", &joined);
        self.post_ids(cx, "offline", &left);
        // Without a configuration nobody knows that a rank which left would come back.
        let configured = self.settings.ranks_return
            || self.inventory.as_ref().is_none_or(|inventory| inventory.method == "configuration");
        let lost = if configured || self.muted || self.stopping { Idset::new() } else { left };
        self.lost.insert_all(&lost);
        self.tell_scheduler(cx, &lost);
        self.answer_waitups(cx);
    }

    fn set_torpid(&mut self, cx: &mut Cx<'_, Wait>, members: Idset) {
        let slow = members.difference(&self.torpid);
        let lively = self.torpid.difference(&members);
        self.torpid = members;
        self.post_ids(cx, "torpid", &slow);
        self.post_ids(cx, "lively", &lively);
        self.tell_scheduler(cx, &Idset::new());
    }

    fn post_ids(&mut self, cx: &mut Cx<'_, Wait>, name: &str, ids: &Idset) {
        if !ids.is_empty() {
            let mut context = Context::new();
            context.insert("idset".to_string(), ids.to_string().into());
            let event = Event::new(cx.wall(), name).with_context(context);
            self.journal.post(cx, event, None);
        }
    }

    /// Answers when exactly so many ranks are online.
    pub(crate) fn waitup(&mut self, cx: &mut Cx<'_, Wait>, call: Call<MonitorWaitup>) {
        if call.request.up > cx.size() {
            let text = format!("up={} is more than the {} brokers", call.request.up, cx.size());
            return call.answer.err(cx, RpcError::new(Errno::EINVAL, text));
        }
        self.waitups.push(call);
        self.answer_waitups(cx);
    }

    fn answer_waitups(&mut self, cx: &mut Cx<'_, Wait>) {
        let online = self.online.len();
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waitups)
            .into_iter()
            .partition(|call| u64::from(call.request.up) == online);
        self.waitups = rest;
        for call in due {
            call.answer.ok(cx, &Empty);
        }
    }
}
