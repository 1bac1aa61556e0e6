//! Recording events, and the action of each state (RFC 21).

use flux_api::RpcError;
use flux_model::eventlog::{Context, Event};
use flux_model::job_event::JobState;
use flux_proto::{Cred, Errno, Rolemask};
use flux_svc::{Cx, Level};
use serde_json::{Value, json};

use crate::commits::After;
use crate::job::{AllocState, Job, StartState};
use crate::service::{JobManager, Wait};

/// The context of an event from `json!({..})`; anything but an object is no context.
pub(crate) fn context(value: Value) -> Option<Context> {
    match value {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

/// Jobs that run or are being cleaned up.
fn is_running(state: JobState) -> bool {
    matches!(state, JobState::Run | JobState::Cleanup)
}

/// Beyond this many bytes guests add nothing to the eventlog of a job.
const GUEST_LOG: usize = 1 << 20;

impl JobManager {
    /// Marks a job whose state may allow another action.
    pub(crate) fn touch(&mut self, id: u64) {
        self.touched.insert(id);
    }

    /// Records an event that goes to the eventlog.
    pub(crate) fn post(&mut self, cx: &mut Cx<'_, Wait>, id: u64, name: &str, data: Value) {
        let mut event = Event::new(cx.wall(), name);
        event.context = context(data);
        self.record(cx, id, &event, true);
    }

    /// Whether somebody may still add to the eventlog of a job: it is kept in memory and on disk,
    /// and what guests write there has a bound. EDQUOT beyond it.
    pub(crate) fn has_room(&self, id: u64, cred: Cred) -> Result<(), RpcError> {
        let full = self.jobs.get(&id).is_some_and(|job| job.log.len() + job.volatile > GUEST_LOG);
        if full && !cred.rolemask.contains(Rolemask::OWNER) {
            let text = format!("the eventlog of {} is full", flux_id::JobId(id).f58());
            return Err(RpcError::new(Errno::EDQUOT, text));
        }
        Ok(())
    }

    /// Records an event that only the journal sees.
    pub(crate) fn post_volatile(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        name: &str,
        data: Value,
    ) {
        let mut event = Event::new(cx.wall(), name);
        event.context = context(data);
        self.record(cx, id, &event, false);
    }

    /// Records an event of an active job: status, log, store and journal.
    pub(crate) fn record(&mut self, cx: &mut Cx<'_, Wait>, id: u64, event: &Event, durable: bool) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let before = job.state();
        if let Err(error) = job.status.apply(event) {
            let text = format!("{}: event not recorded: {error}", flux_id::JobId(id).f58());
            return cx.log(Level::Err, text);
        }
        let line = event.encode();
        if durable {
            job.log.push_str(&line);
            self.commits.append(id, &line);
        } else {
            job.volatile += line.len();
        }
        let after = job.state();
        match (is_running(before), is_running(after)) {
            (false, true) => self.running += 1,
            (true, false) => self.running -= 1,
            _ => {}
        }
        self.journal.event(cx, job, &event.name, &line);
        if durable && event.name == "prolog-finish" && job.alloc_durable {
            // After a crash nobody must think that the prolog runs when there are shells already.
            job.alloc_durable = false;
            self.commits.after(After::Allocated(id));
        }
        self.touch(id);
    }

    /// Takes every action that recorded events allow, then stores what was recorded.
    pub(crate) fn finish(&mut self, cx: &mut Cx<'_, Wait>) {
        loop {
            self.settle_names(cx);
            while let Some(id) = self.touched.pop_first() {
                self.settle(cx, id);
            }
            self.send_allocs(cx);
            self.flush(cx);
            if self.touched.is_empty() && self.touched_names.is_empty() {
                self.journal.flush(cx);
                self.answer_idle(cx);
                return self.drained_if_idle(cx);
            }
        }
    }

    fn settle(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        while let Some(job) = self.jobs.get(&id) {
            match job.state() {
                JobState::New | JobState::Inactive => break,
                JobState::Depend => {
                    if !job.status.dependencies.is_empty() {
                        break;
                    }
                    self.post(cx, id, "depend", Value::Null);
                }
                JobState::Priority => {
                    let priority = crate::priority::of(job);
                    self.post(cx, id, "priority", json!({ "priority": priority }));
                }
                JobState::Sched => {
                    self.want_alloc(cx, id);
                    break;
                }
                JobState::Run => {
                    self.want_start(cx, id);
                    break;
                }
                JobState::Cleanup => {
                    if !self.clean_up(cx, id) {
                        break;
                    }
                }
            }
        }
        self.touched.remove(&id);
    }

    /// One step of cleaning up; false when it must wait or is done.
    fn clean_up(&mut self, cx: &mut Cx<'_, Wait>, id: u64) -> bool {
        self.withdraw_alloc(cx, id);
        let runs = self.needs_execution(cx, id);
        let Some(job) = self.jobs.get(&id) else { return false };
        if !job.status.prologs.is_empty() && self.prolog_first(cx, id) {
            return false;
        }
        let Some(job) = self.jobs.get(&id) else { return false };
        if runs && job.status.finish_status.is_none() {
            return false;
        }
        // The tasks are gone: the epilog need not wait for the rest of their execution.
        if self.epilog_first(cx, id) || runs {
            return false;
        }
        let Some(job) = self.jobs.get(&id) else { return false };
        if job.status.has_resources {
            self.free(cx, id);
            self.post(cx, id, "free", Value::Null);
            return true;
        }
        if job.alloc != AllocState::Idle || job.start == StartState::Lost {
            return false;
        }
        self.post(cx, id, "clean", Value::Null);
        self.cleaned(cx, id);
        false
    }

    /// The log of a job is complete: what depends on its end happens now, the rest when it is
    /// durable.
    fn cleaned(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        if let Some(job) = self.jobs.get(&id) {
            self.commits.complete(id, &job.log);
        }
        self.drop_held_signals(cx, id);
        self.dependency_ended(cx, id);
        self.commits.after(After::Retire(id));
    }

    /// A new job whose first events could not be stored never was.
    pub(crate) fn disown(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        self.post_volatile(cx, id, "invalidate", Value::Null);
        self.touched.remove(&id);
        if let Some(job) = self.jobs.remove(&id) {
            self.forget_active(&job);
        }
        self.history.remove(id);
        self.commits.index.remove(id);
    }

    /// Takes an active job out of the indexes of active jobs.
    pub(crate) fn forget_active(&mut self, job: &Job) {
        if let AllocState::Queued(priority) = job.alloc {
            self.alloc.dequeue(job.id, priority);
        }
        self.dependencies.leave(job);
        self.guests.leave(job);
        self.waiting.forget_job(job.id);
        if is_running(job.state()) {
            self.running -= 1;
        }
    }

    /// A job is history: only a record of it stays.
    pub(crate) fn retire(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.remove(&id) else { return };
        self.waited(cx, &job);
        self.forget_active(&job);
        self.inactive.insert(id, &job.status);
        if self.settings.guests.finished.is_some() && job.status.userid != cx.owner() {
            self.purges.guests.insert(job.status.userid);
        }
        if job.archived {
            self.let_go(id);
        }
        self.journal.retired(id);
        self.journal_work(cx);
    }
}
