//! Start: the resources, then the jobs that hold some of them, then ready (RFC 27, RFC 28).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use flux_api::job::manager::{
    Raise, RaiseRequest, SchedHello, SchedHello_, SchedHelloJob, SchedReady, SchedReady_,
};
use flux_api::kvs::{Lookup, LookupRequest, LookupResponse};
use flux_api::resource::{Acquire, AcquireResponse, HeldPart};
use flux_api::{Empty, RpcError};
use flux_id::{Idset, JobId};
use flux_model::resource_set::{Children, ResourceSet};
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};

use crate::graph::Graph;
use crate::pool::Pool;
use crate::queue::Holding;
use crate::service::{SchedService, Wait};

/// Lookups at once.
const LOOKUPS: usize = 256;
/// How long to wait before a peer that was not there is asked again, in microseconds: at first
/// (services start one after the other), and at most.
const AGAIN_US: (u64, u64) = (5_000, 1_000_000);

/// How far the scheduler has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Phase {
    /// Asks for resources.
    #[default]
    Acquire,
    /// Learns which are taken.
    Hello,
    /// Says that it is ready.
    Announce,
    /// Takes requests.
    Ready,
    /// The broker goes down.
    Stopped,
}

/// Jobs that hold resources and are not entered yet.
#[derive(Debug, Default)]
pub(crate) struct HelloState {
    jobs: VecDeque<(u64, Idset)>,
    looking: usize,
    ended: bool,
}

impl SchedService {
    /// Asks for the resources of the instance.
    pub(crate) fn acquire(&mut self, cx: &mut Cx<'_, Wait>) {
        self.phase = Phase::Acquire;
        cx.call::<Acquire>(To::Rank(0), &Empty, Wait::Acquire);
    }

    /// A response of the resource service.
    pub(crate) fn acquired(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        match reply.decode::<Acquire>() {
            Ok(response) => {
                if let Err(text) = self.apply(cx, response) {
                    cx.log(Level::Err, format!("resource.acquire response: {text}"));
                }
            }
            Err(_) if self.phase == Phase::Stopped => {}
            Err(error) => {
                let text = format!(
                    "resource update failure: [Errno {}] {error}; asking again",
                    error.errno.0
                );
                cx.log(severity(&error), text);
                self.lose_manager();
                self.phase = Phase::Acquire;
                self.again(cx, Wait::Again);
            }
        }
    }

    fn apply(&mut self, cx: &mut Cx<'_, Wait>, response: AcquireResponse) -> Result<(), String> {
        self.status = None;
        if let Some(value) = &response.resources {
            let set = ResourceSet::from_value(value).map_err(|error| error.to_string())?;
            if self.has_pool {
                // Others than before: the manager says anew who holds what, and who waits.
                self.reset_jobs();
            }
            self.instance_end = set.expiration;
            let graph = Graph::of(&set).unwrap_or_else(|error| {
                let text = format!("R: {error}; resources are nodes, cores and gpus only");
                cx.log(Level::Warning, text);
                None
            });
            self.pool = Pool::new(set).with_graph(graph.map(Arc::new));
            self.has_pool = true;
        }
        let ids = |text: &Option<String>| {
            text.as_deref().map(str::parse::<Idset>).transpose().map_err(|error| error.to_string())
        };
        let (up, down, gone) = (ids(&response.up)?, ids(&response.down)?, ids(&response.shrink)?);
        if let Some(down) = down {
            self.pool.mark(&down, false);
        }
        if let Some(up) = up {
            self.pool.mark(&up, true);
        }
        if let Some(excluded) = ids(&response.exclude)? {
            self.pool.bar(&excluded);
        }
        if let Some(parts) = &response.hold {
            self.pool.hold(held(parts)?);
        }
        if let Some(gone) = gone {
            self.pool.shrink(&gone);
            self.recheck(cx);
        }
        if let Some(expiration) = response.expiration {
            self.instance_end = expiration;
        }
        self.outlook.forget();
        if response.resources.is_some() {
            self.check_feasibility_calls(cx);
            self.hello(cx);
        } else {
            self.pass(cx);
        }
        Ok(())
    }

    fn again(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait) {
        let after = self.again_us.max(AGAIN_US.0);
        self.again_us = (after * 2).min(AGAIN_US.1);
        cx.timer(after, wait);
    }

    fn hello(&mut self, cx: &mut Cx<'_, Wait>) {
        self.phase = Phase::Hello;
        self.hello = HelloState::default();
        cx.call::<SchedHello_>(To::Any, &SchedHello { partial_ok: true }, Wait::Hello);
    }

    /// A response of the job manager to hello.
    pub(crate) fn helloed(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        if reply.is_end() {
            self.hello.ended = true;
        } else {
            match reply.decode::<SchedHello_>() {
                Ok(SchedHelloJob { id, free, .. }) => {
                    let free = free.and_then(|text| text.parse().ok()).unwrap_or_default();
                    self.hello.jobs.push_back((id, free));
                }
                Err(error) => {
                    cx.log(severity(&error), format!("hello: {error}; trying again"));
                    self.phase = Phase::Acquire;
                    self.again(cx, Wait::HelloAgain);
                    return;
                }
            }
        }
        self.look_up(cx);
    }

    /// Says hello once more, after the job manager was not there.
    pub(crate) fn hello_again(&mut self, cx: &mut Cx<'_, Wait>) {
        if self.phase == Phase::Acquire && self.has_pool {
            self.reset_jobs();
            self.hello(cx);
        }
    }

    fn look_up(&mut self, cx: &mut Cx<'_, Wait>) {
        while self.hello.looking < LOOKUPS
            && let Some((id, free)) = self.hello.jobs.pop_front()
        {
            self.hello.looking += 1;
            let request = LookupRequest {
                key: format!("{}.R", JobId(id).kvs()),
                flags: 0,
                namespace: Some(flux_api::kvs::PRIMARY.to_string()),
                rootdir: None,
                rootseq: None,
                userid: None,
            };
            cx.call::<Lookup>(To::Any, &request, Wait::JobR(id, free));
        }
        if self.hello.ended && self.hello.looking == 0 && self.phase == Phase::Hello {
            self.phase = Phase::Announce;
            let (mode, limit) = match self.settings.queue_depth {
                None => ("unlimited", None),
                Some(limit) => ("limited", Some(limit)),
            };
            let request = SchedReady { mode: mode.to_string(), limit };
            cx.call::<SchedReady_>(To::Any, &request, Wait::Ready);
        }
    }

    /// R of a running job, or why there is none.
    pub(crate) fn job_r(&mut self, cx: &mut Cx<'_, Wait>, id: u64, free: &Idset, reply: &Reply) {
        if self.phase != Phase::Hello || self.running.contains(id) {
            // Of a round that was given up.
            return;
        }
        self.hello.looking = self.hello.looking.saturating_sub(1);
        let entered = reply
            .decode::<Lookup>()
            .map_err(|error: RpcError| error.to_string())
            .and_then(|found| self.enter(id, free, &found));
        if let Err(why) = entered {
            let f58 = JobId(id).f58();
            cx.log(Level::Err, format!("hello: failed to reallocate R of {f58}: {why}"));
            let request = RaiseRequest {
                id,
                severity: 0,
                kind: "scheduler-restart".to_string(),
                note: Some("failed to reallocate R for running job".to_string()),
                wait_status: None,
            };
            cx.notify::<Raise>(To::Any, &request);
        }
        self.look_up(cx);
    }

    fn enter(&mut self, id: u64, free: &Idset, found: &LookupResponse) -> Result<(), String> {
        let Ok(Treeobj::Val(bytes)) = Treeobj::from_value(&found.val) else {
            return Err("R is not a value".to_string());
        };
        let text = String::from_utf8(bytes).map_err(|_| "R is not text".to_string())?;
        let r = ResourceSet::parse(&text).map_err(|error| error.to_string())?;
        let parts: Vec<(u32, Arc<Children>)> = r
            .iter()
            .filter(|(rank, _, _)| !free.contains(*rank))
            .map(|(rank, _, part)| (rank, Arc::new(part.clone())))
            .collect();
        self.pool.take(&parts).map_err(|error| error.to_string())?;
        let end = if r.expiration > 0.0 { r.expiration } else { f64::INFINITY };
        self.running.insert(id, Holding { parts, end });
        Ok(())
    }

    /// The job manager sends requests from now on.
    pub(crate) fn announced(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        match reply.decode::<SchedReady_>() {
            Ok(_) => {
                self.phase = Phase::Ready;
                self.again_us = 0;
                let depth = self
                    .settings
                    .queue_depth
                    .map_or_else(|| "unlimited".to_string(), |depth| depth.to_string());
                let text = format!(
                    "ready: queue-depth={depth} {}",
                    self.pool.set().without_ranks(self.pool.barred()).summary()
                );
                cx.log(Level::Info, text);
                self.pass(cx);
            }
            Err(error) => {
                cx.log(Level::Err, format!("sched-ready: {error}; saying hello again"));
                self.reset_jobs();
                self.phase = Phase::Acquire;
                self.again(cx, Wait::HelloAgain);
            }
        }
    }
}

/// What is kept from jobs, by rank.
fn held(parts: &[HeldPart]) -> Result<BTreeMap<u32, Children>, String> {
    let ids = |text: &str| text.parse::<Idset>().map_err(|error| error.to_string());
    let mut held: BTreeMap<u32, Children> = BTreeMap::new();
    for part in parts {
        let (cores, gpus) = (ids(&part.cores)?, ids(&part.gpus)?);
        for rank in ids(&part.ranks)?.ids() {
            let own = held.entry(rank).or_default();
            own.cores.insert_all(&cores);
            own.gpus.insert_all(&gpus);
        }
    }
    Ok(held)
}

/// A peer that has not started, or has stopped, is no error.
fn severity(error: &RpcError) -> Level {
    match error.errno {
        Errno::ENOSYS | Errno::ECANCELED => Level::Debug,
        _ => Level::Err,
    }
}
