//! The protocol: requests of the job manager, and who asks what fits.

use std::cmp::Reverse;
use std::sync::Arc;

use flux_api::resource::SchedStatus;
use flux_api::sched::{
    ALLOC_CANCEL, ALLOC_DENY, Alloc, AllocRequest, Feasibility, FreeRequest, Sched,
};
use flux_api::{Answer, Call, Empty, RpcError};
use flux_id::{Idset, JobId};
use flux_model::resource_set::ResourceSet;
use flux_proto::{Errno, Message};
use flux_svc::{Cx, Level, Reply, Service};
use serde_json::{Map, Value, json};

use crate::config::SchedSettings;
use crate::demand::{self, Demand, DemandError};
use crate::grants::response;
use crate::hello::{HelloState, Phase};
use crate::pass::Outlook;
use crate::pool::Pool;
use crate::queue::{Queue, Running, Waiting};

/// Debug bit: refuse `sched.expiration`.
const DEBUG_REFUSE_EXPIRATION: u32 = 4;
/// Debug bit: deny every request.
const DEBUG_FAIL_ALLOC: u32 = 1;
/// Most feasibility checks that wait for the resources to be known.
const MAX_CHECKS: usize = 10_000;

/// What the service waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// Changes of the resources.
    Acquire,
    /// To ask for the resources again.
    Again,
    /// Jobs that hold resources.
    Hello,
    /// To say hello again.
    HelloAgain,
    /// R of a job, some of whose ranks are free already.
    JobR(u64, Idset),
    /// Word that requests may come.
    Ready,
    /// To tell waiting jobs why they wait.
    Tell,
}

/// The services `sched` and `feasibility`.
#[derive(Debug, Default)]
pub struct SchedService {
    pub(crate) settings: SchedSettings,
    given: SchedSettings,
    pub(crate) phase: Phase,
    pub(crate) pool: Pool,
    pub(crate) has_pool: bool,
    /// When the instance ends, seconds since the epoch; 0 for never.
    pub(crate) instance_end: f64,
    pub(crate) queue: Queue,
    pub(crate) running: Running,
    pub(crate) outlook: Outlook,
    pub(crate) hello: HelloState,
    pub(crate) status: Option<SchedStatus>,
    /// A round of annotations is planned.
    pub(crate) telling: bool,
    /// How long the last wait for a peer was, in microseconds.
    pub(crate) again_us: u64,
    checks: Vec<Call<Feasibility>>,
}

impl SchedService {
    /// A scheduler; `[sched]` of the configuration overrides the settings.
    #[must_use]
    pub fn new(settings: SchedSettings) -> Self {
        Self { settings, given: settings, ..Self::default() }
    }

    /// The resources as the scheduler sees them.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whether decisions may be made now.
    pub(crate) fn can_place(&self) -> bool {
        self.phase == Phase::Ready
    }

    fn alloc(&mut self, cx: &mut Cx<'_, Wait>, request: AllocRequest, answer: Answer<Alloc>) {
        let id = request.id;
        if self.phase != Phase::Ready {
            // An error tells the manager to wait for the next hello (RFC 27).
            let text = "the scheduler has no resources at present";
            return answer.err(cx, RpcError::new(Errno::EAGAIN, text));
        }
        if self.running.contains(id) {
            let note = Some("job has resources already".to_string());
            return answer.ok(cx, &response(id, ALLOC_DENY, note));
        }
        let wanted = if cx.debug_bits() & DEBUG_FAIL_ALLOC == 0 {
            self.wanted(&request.jobspec)
        } else {
            Err(DemandError::Unsatisfiable("DEBUG_FAIL_ALLOC".to_string()))
        };
        let (demand, eligible, duration) = match wanted {
            Ok(wanted) => wanted,
            Err(DemandError::Unsatisfiable(note)) if note == "DEBUG_FAIL_ALLOC" => {
                return answer.ok(cx, &response(id, ALLOC_DENY, Some(note)));
            }
            Err(error) => {
                return answer.ok(cx, &response(id, ALLOC_DENY, Some(error.to_string())));
            }
        };
        let text = format!("req: {}: {} duration={duration:?}", JobId(id).f58(), demand.spec());
        cx.log(Level::Debug, text);
        let mask = self.pool.mask(&eligible);
        let priority = request.priority;
        let job = Waiting { answer, priority, demand, eligible, mask, duration, said: None };
        if let Some(old) = self.queue.insert(id, job) {
            // A manager that asks twice has forgotten that it asked.
            old.answer.forget();
        }
        self.arrival(cx, (Reverse(priority), id), mask);
    }

    /// Reads a jobspec and checks that it can ever be met.
    fn wanted(
        &mut self,
        jobspec: &Value,
    ) -> Result<(Demand, Arc<crate::Eligible>, f64), DemandError> {
        let demand = Demand::among(jobspec, |kind| self.pool.counts(kind))?;
        let duration = demand::duration(jobspec)?;
        let constraint = demand::constraint(jobspec)?;
        let eligible = if demand.special {
            self.pool.eligible_special(constraint, &demand::resources(jobspec)?)?
        } else {
            self.pool.eligible(constraint)
        };
        self.pool.feasible(&demand, &eligible)?;
        Ok((demand, eligible, duration))
    }

    fn free(&mut self, cx: &mut Cx<'_, Wait>, request: &FreeRequest) {
        if self.phase != Phase::Ready {
            // The next hello says what is still taken.
            return;
        }
        if !self.running.contains(request.id) {
            let f58 = JobId(request.id).f58();
            return cx.log(Level::Err, format!("free: {f58} holds no resources"));
        }
        let ranks = if request.last {
            None
        } else {
            match ResourceSet::from_value(&request.r) {
                Ok(r) => Some(r.ranks()),
                Err(error) => return cx.log(Level::Err, format!("free: {error}")),
            }
        };
        let end = if request.last { " (final)" } else { "" };
        let what = self.held_by(request.id, ranks.as_ref());
        cx.log(Level::Debug, format!("free: {}: {what}{end}", JobId(request.id).f58()));
        match ranks {
            None => self.release(request.id),
            Some(ranks) => self.release_ranks(request.id, &ranks),
        }
        self.pass(cx);
    }

    /// What a job holds, on these ranks or on all, for the log.
    fn held_by(&self, id: u64, ranks: Option<&Idset>) -> String {
        let parts = self.running.get(id).map_or(&[][..], |job| job.parts.as_slice());
        let parts = parts.iter().filter(|(rank, _)| ranks.is_none_or(|set| set.contains(*rank)));
        let set = self.pool.set().pick(parts.map(|(rank, part)| (*rank, Arc::clone(part))));
        set.map_or_else(|error| error.to_string(), |set| set.summary())
    }

    /// Takes back all that a job holds.
    pub(crate) fn release(&mut self, id: u64) {
        self.status = None;
        if let Some(job) = self.running.remove(id) {
            for (rank, part) in &job.parts {
                self.pool.give_back(*rank, part);
            }
        }
    }

    fn release_ranks(&mut self, id: u64, ranks: &Idset) {
        self.status = None;
        if let Some(job) = self.running.get_mut(id) {
            let pool = &mut self.pool;
            job.parts.retain(|(rank, part)| {
                let freed = ranks.contains(*rank);
                if freed {
                    pool.give_back(*rank, part);
                }
                !freed
            });
        }
    }

    fn cancel(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        if let Some(job) = self.queue.remove(id) {
            job.answer.ok(cx, &response(id, ALLOC_CANCEL, None));
            if self.outlook.blocked.iter().any(|blocked| blocked.turn.1 == id) {
                self.pass(cx);
            }
        }
        // What has been answered with SUCCESS meanwhile is given back by the manager.
    }

    /// Resources went for good: denies what can no longer be met.
    pub(crate) fn recheck(&mut self, cx: &mut Cx<'_, Wait>) {
        for id in self.queue.ids() {
            let Some(job) = self.queue.get(id) else { continue };
            if let Err(error) = self.pool.feasible(&job.demand, &job.eligible)
                && let Some(job) = self.queue.remove(id)
            {
                job.answer.ok(cx, &response(id, ALLOC_DENY, Some(error.to_string())));
            }
        }
    }

    fn check(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Feasibility>) {
        match self.wanted(&call.request.jobspec) {
            Ok(_) => call.answer.ok(cx, &Empty),
            Err(error) => {
                call.answer.err(cx, RpcError::new(Errno::EOVERFLOW, error.to_string()));
            }
        }
    }

    /// Answers checks that came before the resources were known.
    pub(crate) fn check_feasibility_calls(&mut self, cx: &mut Cx<'_, Wait>) {
        for call in std::mem::take(&mut self.checks) {
            self.check(cx, call);
        }
    }

    fn set_expiration(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        expiration: f64,
    ) -> Result<Empty, RpcError> {
        if cx.debug_bits() & DEBUG_REFUSE_EXPIRATION != 0 {
            let text = "Rejecting expiration update for testing";
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        if !expiration.is_finite() || expiration < 0.0 {
            let text = format!("expiration {expiration}: expected seconds >= 0");
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        let end = if expiration > 0.0 { expiration } else { f64::INFINITY };
        if !self.running.set_end(id, end) {
            let text = format!("job {} holds no resources", JobId(id).f58());
            return Err(RpcError::new(Errno::ENOENT, text));
        }
        self.outlook.forget();
        self.pass(cx);
        Ok(Empty)
    }

    fn status(&mut self) -> SchedStatus {
        let pool = &self.pool;
        self.status
            .get_or_insert_with(|| SchedStatus {
                all: pool.set().to_value(),
                down: pool.down().to_value(),
                allocated: pool.allocated().to_value(),
            })
            .clone()
    }

    /// The job manager will ask anew: nothing is owed, nothing is held.
    pub(crate) fn reset_jobs(&mut self) {
        for (_, job) in self.queue.take_all() {
            job.answer.forget();
        }
        self.running = Running::default();
        self.pool = {
            let mut pool = Pool::new(self.pool.set().clone()).with_graph(self.pool.graph());
            pool.mark(self.pool.up(), true);
            pool.bar(self.pool.barred());
            pool.hold(self.pool.held());
            pool
        };
        self.outlook = Outlook::default();
        self.status = None;
    }

    /// The resources are gone, and with them everything that was decided.
    pub(crate) fn lose_manager(&mut self) {
        self.reset_jobs();
        self.pool = Pool::default();
        self.has_pool = false;
    }
}

impl Service for SchedService {
    type Api = Sched;
    type Wait = Wait;

    fn start(&mut self, cx: &mut Cx<'_, Wait>) {
        cx.ready();
        self.acquire(cx);
    }

    fn on_call(&mut self, cx: &mut Cx<'_, Wait>, call: Sched) {
        match call {
            Sched::Alloc(call) => self.alloc(cx, call.request, call.answer),
            Sched::Free(call) => self.free(cx, &call.request),
            Sched::Cancel(call) => self.cancel(cx, call.request.id),
            Sched::Prioritize_(call) => {
                for (id, priority) in call.request.jobs {
                    self.queue.prioritize(id, priority);
                }
                self.pass(cx);
            }
            Sched::ExpirationSet(call) => {
                let result = self.set_expiration(cx, call.request.id, call.request.expiration);
                call.answer.respond(cx, result);
            }
            Sched::ResourceStatus(call) => {
                let status = self.status();
                call.answer.ok(cx, &status);
            }
            Sched::Feasibility(call) => {
                if self.has_pool {
                    self.check(cx, call);
                } else if self.checks.len() < MAX_CHECKS {
                    self.checks.push(call);
                } else {
                    call.answer.err(cx, Errno::EAGAIN);
                }
            }
        }
    }

    fn on_reply(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: Reply) {
        match wait {
            Wait::Acquire => self.acquired(cx, &reply),
            Wait::Hello => self.helloed(cx, &reply),
            Wait::JobR(id, free) => self.job_r(cx, id, &free, &reply),
            Wait::Ready => self.announced(cx, &reply),
            Wait::Again | Wait::HelloAgain | Wait::Tell => {}
        }
    }

    fn on_timer(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait) {
        match wait {
            Wait::Again => self.acquire(cx),
            Wait::HelloAgain => self.hello_again(cx),
            Wait::Tell => self.tell(cx),
            Wait::Acquire | Wait::Hello | Wait::JobR(..) | Wait::Ready => {}
        }
    }

    fn on_disconnect(&mut self, _cx: &mut Cx<'_, Wait>, message: &Message) {
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.checks)
            .into_iter()
            .partition(|call| call.answer.same_sender(message));
        self.checks = kept;
        for call in gone {
            call.answer.forget();
        }
    }

    fn on_config(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        let before = self.settings;
        self.settings = self.given.configured(config)?;
        self.outlook.settled = false;
        if self.phase == Phase::Ready && before != self.settings {
            if before.queue_depth != self.settings.queue_depth {
                // The job manager learns of it as from a new scheduler.
                self.reset_jobs();
                self.phase = Phase::Acquire;
                self.hello_again(cx);
            } else {
                self.pass(cx);
            }
        }
        Ok(())
    }

    fn on_drain(&mut self, cx: &mut Cx<'_, Wait>) {
        self.phase = Phase::Stopped;
        // Whoever waits hears from the broker that the scheduler is gone.
        let waiting: Vec<_> = self.queue.take().collect();
        waiting.into_iter().for_each(|job| job.answer.forget());
        std::mem::take(&mut self.checks).into_iter().for_each(|call| call.answer.forget());
        cx.drained();
    }

    fn stats(&self) -> Option<Value> {
        Some(json!({
            "pending_jobs": self.queue.len(),
            "running_jobs": self.running.len(),
            "nodes_examined": self.pool.examined,
            "policy": self.settings.policy.name(),
            "queue-depth": self.settings.queue_depth,
        }))
    }
}
