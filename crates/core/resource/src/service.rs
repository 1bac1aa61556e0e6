//! The service: its state, and who asks for what.

use flux_api::body::AnyObject;
use flux_api::driver::Xml;
use flux_api::resource::{
    Get, Resource, ResourceGet, ResourceStatus, SchedStatus, SchedStatus_, TopoGet,
};
use flux_api::sched::ResourceStatus as AskScheduler;
use flux_api::{Answer, Call, Empty, RpcError};
use flux_id::Idset;
use flux_model::resource_set::ResourceSet;
use flux_model::roster::Roster;
use flux_proto::{Errno, Message};
use flux_svc::{Cx, Reply, Service, To, Way};
use serde_json::{Map, Value, json};

use crate::acquire::Acquirer;
use crate::config::{ResourceConfig, rules_to_value};
use crate::define::exclusion;
use crate::drain::{DrainState, Hosts};
use crate::growth::Growth;
use crate::inventory::Inventory;
use crate::journal::EventJournal;
use crate::parts::PartState;
use crate::settings::ResourceSettings;
use crate::topology::Reduction;
use crate::writer::{Change, Writer};

/// Events in the KVS above which the log is written anew at start.
pub(crate) const COMPACT_AT: usize = 1000;

/// Event by which rank 0 tells that R is another one than before.
pub(crate) const CHANGED: &str = "resource.changed";

/// Requests that may wait for a new R.
const STALE_MAX: usize = 1024;

/// What the service waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The log of an earlier run.
    Eventlog,
    /// R of an earlier run.
    StoredR,
    /// Hardware of this node.
    Topology,
    /// Topology as XML, for this request.
    Xml(u64),
    /// Another inventory, for this request.
    Read(u64),
    /// R, from the parent.
    ParentR,
    /// To ask the parent again.
    AskParent,
    /// Word that this rank is drained.
    SelfDrain,
    /// Who is online.
    Online,
    /// Who is torpid.
    Torpid,
    /// Word that events are durable.
    Commit,
    /// To store again what could not be.
    WriteAgain,
    /// The scheduler's view.
    Scheduler,
    /// The file `resource.path`, read again.
    File,
}

/// The `resource` service of any rank.
#[derive(Debug, Default)]
pub struct ResourceService {
    pub(crate) settings: ResourceSettings,
    pub(crate) config: ResourceConfig,
    started: bool,
    pub(crate) stopping: bool,
    // Hardware.
    pub(crate) own: Option<ResourceSet>,
    pub(crate) reduction: Reduction,
    pub(crate) ask_again_us: u64,
    pub(crate) copy: Option<ResourceGet>,
    /// The copy is an old one, and the parent is asked for the new; who waits for it.
    pub(crate) stale: Option<Vec<Answer<Get>>>,
    xmls: std::collections::BTreeMap<u64, Answer<TopoGet>>,
    /// Rank 0: who wants another inventory, which the host reads.
    pub(crate) reloads: std::collections::BTreeMap<u64, Call<flux_api::resource::Reload>>,
    pub(crate) next: u64,
    // Rank 0: start.
    pub(crate) eventlog: Option<String>,
    pub(crate) history_len: usize,
    pub(crate) stored: Option<ResourceSet>,
    pub(crate) stored_read: bool,
    pub(crate) loaded: bool,
    pub(crate) discovering: bool,
    pub(crate) found: Option<ResourceSet>,
    // Rank 0: what is.
    pub(crate) hosts: Hosts,
    pub(crate) inventory: Option<Inventory>,
    pub(crate) drained: DrainState,
    pub(crate) parts: PartState,
    pub(crate) excluded: Idset,
    pub(crate) online: Idset,
    pub(crate) torpid: Idset,
    pub(crate) forced_down: Idset,
    /// Ranks that left and do not come back.
    pub(crate) lost: Idset,
    pub(crate) journal: EventJournal,
    pub(crate) writer: Writer,
    pub(crate) postponed: Vec<Change>,
    pub(crate) acquirer: Option<Acquirer>,
    /// Ranks that leave are not gone for good: the instance stops.
    pub(crate) muted: bool,
    pub(crate) waitups: Vec<Call<flux_api::resource::MonitorWaitup>>,
    sched_status: Vec<Answer<SchedStatus_>>,
    pub(crate) growth: Growth,
}

fn only_rank_0() -> RpcError {
    RpcError::new(Errno::EPROTO, "this RPC only works on rank 0")
}

impl ResourceService {
    /// The service, with what the program knows.
    #[must_use]
    pub fn new(settings: ResourceSettings) -> Self {
        Self { settings, ..Self::default() }
    }

    fn get(&self, rank: u32) -> Result<ResourceGet, RpcError> {
        let own = if rank == 0 {
            self.inventory.as_ref().map(|inventory| ResourceGet {
                r: inventory.r.to_value(),
                method: inventory.method.to_string(),
                verify: Some(self.rules(inventory.method).map_or(false.into(), rules_to_value)),
            })
        } else {
            self.copy.clone()
        };
        let own = own.filter(|_| !self.growth.reading);
        own.ok_or_else(|| RpcError::new(Errno::ENOENT, "R is not known yet"))
    }

    fn status(&self, size: u32) -> ResourceStatus {
        let r = self.inventory.as_ref().map(|inventory| inventory.r.without_scheduling());
        ResourceStatus {
            r: r.unwrap_or_default().to_value(),
            drain: self.drained.to_map(),
            online: self.online.to_string(),
            offline: Idset::first_n(size)
                .difference(&self.online)
                .difference(&self.growth.removed)
                .to_string(),
            exclude: self.excluded.to_string(),
            torpid: self.torpid.to_string(),
            drain_parts: self.parts.list(),
        }
    }

    /// The scheduler's view, without ranks that are excluded or lost.
    fn sched_status(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        let hidden = self.excluded.union(&self.lost);
        let cut = |value: &Value| -> Result<Value, RpcError> {
            ResourceSet::from_value(value)
                .map(|set| set.without_scheduling().without_ranks(&hidden).to_value())
                .map_err(|error| RpcError::new(Errno::EPROTO, error.to_string()))
        };
        let result = match reply.decode::<AskScheduler>() {
            Ok(view) if hidden.is_empty() => Ok(view),
            Ok(view) => cut(&view.all).and_then(|all| {
                Ok(SchedStatus { all, down: cut(&view.down)?, allocated: cut(&view.allocated)? })
            }),
            // Without a scheduler nothing can be used.
            Err(error) if error.errno == Errno::ENOSYS => {
                let r = self.inventory.as_ref().map(|i| i.r.without_scheduling());
                let all = r.unwrap_or_default().without_ranks(&hidden).to_value();
                let allocated = ResourceSet::new().to_value();
                Ok(SchedStatus { down: all.clone(), all, allocated })
            }
            Err(error) => Err(error),
        };
        for answer in std::mem::take(&mut self.sched_status) {
            answer.respond(cx, result.clone());
        }
    }

    /// A call that only rank 0 serves.
    fn lead(&mut self, cx: &mut Cx<'_, Wait>, call: Resource) {
        match call {
            Resource::Acquire(call) => self.acquire(cx, call),
            Resource::AcquireCancel(call) => {
                let tag = call.request.matchtag;
                let mine = |a: &Acquirer| {
                    a.answer.matchtag() == tag && a.answer.same_sender(call.answer.head())
                };
                if self.acquirer.as_ref().is_some_and(mine)
                    && let Some(acquirer) = self.acquirer.take()
                {
                    acquirer.answer.err(cx, Errno::ECANCELED);
                }
            }
            Resource::AcquireMute(call) => {
                self.muted = true;
                call.answer.ok(cx, &Empty);
            }
            Resource::Status(call) => {
                let status = self.status(cx.size());
                call.answer.ok(cx, &status);
            }
            Resource::SchedStatus_(call) => {
                self.sched_status.push(call.answer);
                if self.sched_status.len() == 1 {
                    let body = AnyObject::default();
                    cx.call::<AskScheduler>(To::Rank(0), &body, Wait::Scheduler);
                }
            }
            Resource::Drain(call) => self.want(cx, Change::Drain(call)),
            Resource::Undrain(call) => self.want(cx, Change::Undrain(call)),
            Resource::ExpirationUpdate(call) => self.want(cx, Change::Expiration(call)),
            Resource::Reload(call) => {
                self.reload(cx, call);
            }
            Resource::Journal(call) => {
                let r = self.inventory.as_ref().map(|inventory| inventory.r.to_value());
                self.journal.follow(cx, call.answer, r.as_ref());
            }
            Resource::JournalCancel(call) => {
                self.journal.cancel(cx, call.request.matchtag, call.answer.head());
            }
            Resource::MonitorWaitup(call) => self.waitup(cx, call),
            Resource::MonitorForceDown(call) => match call.request.ranks.parse::<Idset>() {
                Ok(ranks) => {
                    self.forced_down.insert_all(&ranks);
                    let online = self.online.difference(&ranks);
                    self.set_online(cx, online);
                    call.answer.ok(cx, &Empty);
                }
                Err(error) => {
                    call.answer.err(cx, RpcError::new(Errno::EINVAL, error.to_string()));
                }
            },
            Resource::Get(_) | Resource::TopoGet(_) | Resource::TopoReduce_(_) => {}
        }
    }

    /// Says so when the service has settled what it owed.
    pub(crate) fn finish_drain(&mut self, cx: &mut Cx<'_, Wait>) {
        if self.stopping && self.writer.is_idle() {
            cx.drained();
        }
    }
}

/// Refuses a call on a rank that does not serve it.
fn refuse(cx: &mut Cx<'_, Wait>, call: Resource) {
    match call {
        Resource::Acquire(call) => call.answer.err(cx, only_rank_0()),
        Resource::AcquireMute(call) => call.answer.err(cx, only_rank_0()),
        Resource::Status(call) => call.answer.err(cx, only_rank_0()),
        Resource::SchedStatus_(call) => call.answer.err(cx, only_rank_0()),
        Resource::Drain(call) => call.answer.err(cx, only_rank_0()),
        Resource::Undrain(call) => call.answer.err(cx, only_rank_0()),
        Resource::ExpirationUpdate(call) => call.answer.err(cx, only_rank_0()),
        Resource::Journal(call) => call.answer.err(cx, only_rank_0()),
        Resource::MonitorWaitup(call) => call.answer.err(cx, only_rank_0()),
        Resource::MonitorForceDown(call) => call.answer.err(cx, only_rank_0()),
        Resource::Reload(call) => {
            let text = "resource.reload is only available on rank 0";
            call.answer.err(cx, RpcError::new(Errno::ENOSYS, text));
        }
        Resource::AcquireCancel(_)
        | Resource::JournalCancel(_)
        | Resource::Get(_)
        | Resource::TopoGet(_)
        | Resource::TopoReduce_(_) => {}
    }
}

impl Service for ResourceService {
    type Api = Resource;
    type Wait = Wait;

    fn start(&mut self, cx: &mut Cx<'_, Wait>) {
        self.started = true;
        cx.ready();
        self.look(cx);
        if cx.rank() == 0 {
            self.load(cx);
        } else {
            cx.subscribe(CHANGED);
        }
    }

    fn on_event(&mut self, cx: &mut Cx<'_, Wait>, event: &Message) {
        if event.topic() == CHANGED {
            self.refresh(cx);
        }
    }

    fn on_call(&mut self, cx: &mut Cx<'_, Wait>, call: Resource) {
        match call {
            Resource::Get(call) => match &mut self.stale {
                Some(waiting) if waiting.len() < STALE_MAX => waiting.push(call.answer),
                _ => call.answer.respond(cx, self.get(cx.rank())),
            },
            Resource::TopoGet(call) => {
                self.next += 1;
                self.xmls.insert(self.next, call.answer);
                cx.call::<Xml>(To::Rank(cx.rank()), &Empty, Wait::Xml(self.next));
            }
            Resource::TopoReduce_(call) => self.reduced(cx, &call.request),
            other if cx.rank() == 0 => self.lead(cx, other),
            other => refuse(cx, other),
        }
    }

    fn on_reply(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: Reply) {
        match wait {
            Wait::Eventlog => self.loaded(cx, true, &reply),
            Wait::StoredR => self.loaded(cx, false, &reply),
            Wait::Topology => self.looked(cx, &reply),
            Wait::Xml(ticket) => {
                if let Some(answer) = self.xmls.remove(&ticket) {
                    answer.respond(cx, reply.decode::<Xml>());
                }
            }
            Wait::ParentR => self.parent_r(cx, &reply),
            Wait::Online => self.group_changed(cx, true, &reply),
            Wait::Torpid => self.group_changed(cx, false, &reply),
            Wait::Commit => self.committed(cx, reply.result.map(drop)),
            Wait::Scheduler => self.sched_status(cx, &reply),
            Wait::SelfDrain => {
                if let Some(error) = reply.error() {
                    let text = format!("cannot drain rank {}: {error}", cx.rank());
                    cx.log(flux_svc::Level::Err, text);
                }
            }
            Wait::Read(ticket) => self.reloaded(cx, ticket, &reply),
            Wait::File => self.file_read(cx, &reply),
            Wait::AskParent | Wait::WriteAgain => {}
        }
    }

    fn on_timer(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait) {
        match wait {
            Wait::AskParent if !self.stopping => self.ask_parent(cx),
            Wait::WriteAgain => self.write_again(cx),
            Wait::Eventlog => self.look_up(cx, true),
            Wait::StoredR => self.look_up(cx, false),
            Wait::Online => self.watch_group(cx, true),
            Wait::Torpid => self.watch_group(cx, false),
            _ => {}
        }
    }

    fn on_way(&mut self, cx: &mut Cx<'_, Wait>, way: Way) {
        if way == Way::Back {
            self.report_again(cx);
            // R may be another one by now.
            if self.copy.is_some() {
                self.refresh(cx);
            }
        }
    }

    fn on_disconnect(&mut self, _cx: &mut Cx<'_, Wait>, message: &Message) {
        self.journal.disconnect(message);
        if self.acquirer.as_ref().is_some_and(|a| a.answer.same_sender(message))
            && let Some(acquirer) = self.acquirer.take()
        {
            acquirer.answer.forget();
        }
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waitups)
            .into_iter()
            .partition(|call| call.answer.same_sender(message));
        self.waitups = kept;
        let gone_reloads: Vec<u64> = self
            .reloads
            .iter()
            .filter(|(_, call)| call.answer.same_sender(message))
            .map(|(ticket, _)| *ticket)
            .collect();
        for call in gone_reloads.into_iter().filter_map(|ticket| self.reloads.remove(&ticket)) {
            call.answer.forget();
        }
        for call in gone {
            call.answer.forget();
        }
    }

    fn on_config(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        let hosts = self.next_hosts(config)?;
        let path = config.get("resource").and_then(|table| table.get("path"));
        let path = path.and_then(Value::as_str).map(str::to_string);
        let config = ResourceConfig::read(config)?;
        let names = hosts.as_ref().map_or(&self.settings.hosts, |roster| &roster.names);
        let size = hosts.as_ref().map_or(cx.size(), Roster::size);
        let excluded = match &self.inventory {
            Some(inventory) => {
                Some(exclusion(config.exclude.as_deref(), &inventory.r, size, names)?)
            }
            None => None,
        };
        if let Some(inventory) = &self.inventory {
            let queues = inventory.r.check_queues(&config.queues, names);
            queues.map_err(|text| RpcError::new(Errno::EINVAL, text))?;
        }
        if let Some(set) = &config.config
            && self.started
        {
            self.check_config(set, names)?;
        }
        self.journal.set_max(config.journal_max);
        // The rest needs a restart.
        if !self.started {
            self.config = config;
        } else {
            self.config.exclude = config.exclude;
            self.config.config = config.config;
            self.config.queues = config.queues;
            self.take_hosts(cx, hosts, path);
        }
        if let Some(excluded) = excluded.filter(|excluded| *excluded != self.excluded) {
            cx.log(
                flux_svc::Level::Info,
                format!("excluded ranks: '{}' -> '{excluded}'", self.excluded),
            );
            self.excluded.clone_from(&excluded);
            self.tell_scheduler(cx, &Idset::new());
            self.want(cx, Change::Exclude(excluded));
        }
        Ok(())
    }

    fn on_drain(&mut self, cx: &mut Cx<'_, Wait>) {
        self.stopping = true;
        let error = RpcError::new(Errno::ECANCELED, "the resource module was unloaded");
        if let Some(acquirer) = self.acquirer.take() {
            acquirer.answer.err(cx, error.clone());
        }
        self.journal.end(cx);
        for call in std::mem::take(&mut self.waitups) {
            call.answer.err(cx, error.clone());
        }
        for answer in self.stale.take().unwrap_or_default() {
            answer.err(cx, error.clone());
        }
        if !self.loaded {
            self.abandon_changes(cx);
        }
        self.finish_drain(cx);
    }

    fn stats(&self) -> Option<Value> {
        Some(json!({
            "method": self.inventory.as_ref().map(|inventory| inventory.method),
            "online": self.online.to_string(),
            "drained": self.drained.ranks().to_string(),
            "drained-parts": self.parts.list(),
            "journal-max": self.journal.max(),
        }))
    }
}
