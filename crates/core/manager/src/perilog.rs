//! Prolog and epilog: what the administrator runs on the nodes of a job before its start and after
//! its end (RFC 21, `[job-manager.prolog]`, `[job-manager.epilog]`).
//!
//! A prolog that fails ends the job before it starts, and drains the nodes where it failed. An
//! epilog that fails is told by an exception that ends nothing, and drains likewise. After a
//! restart in the middle of one it runs again from its beginning.

use flux_api::resource::{Drain, DrainRequest};
use flux_id::JobId;
use flux_model::resource_set::ResourceSet;
use flux_svc::{Cx, Level, Reply, To};
use serde_json::{Value, json};

use crate::job::{Job, StartState};
use crate::procedure::{Halt, Procedure, Run, Stage, bad_r};
use crate::service::{JobManager, Wait};

/// The configuration of both, and of what is not logged.
#[derive(Debug, Clone, Default)]
pub struct Perilog {
    /// Before the start.
    pub prolog: Option<Procedure>,
    /// After the end.
    pub epilog: Option<Procedure>,
    /// Lines of output that match one of these are not logged.
    pub log_ignore: Vec<regex_lite::Regex>,
}

impl Perilog {
    pub(crate) fn is_ignored(&self, line: &str) -> bool {
        self.log_ignore.iter().any(|pattern| pattern.is_match(line))
    }

    fn of(&self, stage: Stage) -> Option<&Procedure> {
        match stage {
            Stage::Prolog => self.prolog.as_ref(),
            Stage::Epilog => self.epilog.as_ref(),
            Stage::Housekeeping => None,
        }
    }
}

/// The description in the events.
fn description(stage: Stage) -> String {
    format!("job-manager.{stage}")
}

/// Whether the job's log has the start of that stage. Strings in the log cannot look like it:
/// their quotes are escaped.
fn has_begun(job: &Job, stage: Stage) -> bool {
    job.log.contains(&format!("\"name\":\"{stage}-start\""))
}

impl JobManager {
    /// A job in RUN with durable resources: whether it waits for its prolog, which is started if
    /// need be.
    pub(crate) fn prolog_first(&mut self, cx: &mut Cx<'_, Wait>, id: u64) -> bool {
        let Some(job) = self.jobs.get(&id) else { return false };
        if job.status.started || job.start != StartState::Idle {
            return false;
        }
        self.stage_first(cx, id, Stage::Prolog)
    }

    /// A job in CLEANUP that holds resources: whether it waits for its epilog.
    pub(crate) fn epilog_first(&mut self, cx: &mut Cx<'_, Wait>, id: u64) -> bool {
        let Some(job) = self.jobs.get(&id) else { return false };
        if !job.status.has_resources || (self.draining && job.status.epilogs.is_empty()) {
            return !job.status.epilogs.is_empty();
        }
        self.stage_first(cx, id, Stage::Epilog)
    }

    fn stage_first(&mut self, cx: &mut Cx<'_, Wait>, id: u64, stage: Stage) -> bool {
        let Some(job) = self.jobs.get(&id) else { return false };
        let open = if stage == Stage::Prolog { &job.status.prologs } else { &job.status.epilogs };
        let own = open.contains(&description(stage));
        if self.procedures.contains_key(&(id, stage)) || self.draining_nodes(id, stage) {
            return true;
        }
        let begun = has_begun(job, stage);
        let procedure = self.settings.perilog.of(stage).filter(|_| own || !begun).cloned();
        let ended = stage == Stage::Prolog && job.status.fatal_exception.is_some();
        match procedure {
            Some(procedure) if !ended => match job.r.as_deref().map(ResourceSet::parse) {
                Some(Ok(r)) => {
                    let userid = job.status.userid;
                    if !own {
                        let data = json!({ "description": description(stage) });
                        self.post(cx, id, &format!("{stage}-start"), data);
                    }
                    self.begin_procedure(cx, (id, stage), userid, &procedure, r);
                }
                Some(Err(error)) => cx.log(Level::Err, bad_r(id, error).to_string()),
                None => {}
            },
            // Open after a restart, and no longer wanted.
            _ if own => self.post_finish(cx, id, stage, 0),
            _ => {}
        }
        self.jobs.get(&id).is_some_and(|job| {
            !if stage == Stage::Prolog { &job.status.prologs } else { &job.status.epilogs }
                .is_empty()
        })
    }

    fn draining_nodes(&self, id: u64, stage: Stage) -> bool {
        self.perilog_drains.contains_key(&(id, stage))
    }

    fn post_finish(&mut self, cx: &mut Cx<'_, Wait>, id: u64, stage: Stage, status: i32) {
        let data = json!({ "description": description(stage), "status": status });
        self.post(cx, id, &format!("{stage}-finish"), data);
    }

    /// A fatal exception was raised on a job: its prolog (or epilog) may have to stop.
    pub(crate) fn perilog_exception(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        for stage in [Stage::Prolog, Stage::Epilog] {
            let configured = self.settings.perilog.of(stage);
            if configured.is_some_and(|procedure| procedure.cancel_on_exception) {
                self.halt_procedure(cx, id, stage, Halt::Canceled);
            }
        }
    }

    /// It has ended on every rank.
    pub(crate) fn perilog_ended(&mut self, cx: &mut Cx<'_, Wait>, id: u64, stage: Stage, run: Run) {
        // A prolog that was told to stop has not failed, unless it did not stop.
        let mut bad = run.to_drain();
        if run.halt == Some(Halt::Canceled) {
            let stuck = run.failed.get("canceled then timed out");
            bad = bad.intersection(&stuck.cloned().unwrap_or_default());
        }
        if bad.is_empty() {
            return self.perilog_done(cx, id, stage, &run);
        }
        let how = if run.failed.contains_key("timed out") {
            "timed out"
        } else if run.failed.contains_key("canceled then timed out") {
            "canceled then timed out"
        } else {
            "failed"
        };
        let request = DrainRequest {
            targets: bad.to_string(),
            reason: Some(format!("{stage} {how} for job {}", JobId(id).f58())),
            mode: Some("update".to_string()),
        };
        self.perilog_drains.insert((id, stage), run);
        cx.call::<Drain>(To::Any, &request, Wait::PerilogDrain(id, stage));
    }

    /// The nodes where it failed are drained.
    pub(crate) fn perilog_drained(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        stage: Stage,
        reply: &Reply,
    ) {
        if let Some(error) = reply.error() {
            let f58 = JobId(id).f58();
            cx.log(Level::Err, format!("{f58}: nodes are not drained after its {stage}: {error}"));
        }
        if let Some(run) = self.perilog_drains.remove(&(id, stage)) {
            self.perilog_done(cx, id, stage, &run);
        }
    }

    fn perilog_done(&mut self, cx: &mut Cx<'_, Wait>, id: u64, stage: Stage, run: &Run) {
        let canceled = run.halt == Some(Halt::Canceled);
        if !run.failed.is_empty() && !canceled {
            let severity = if stage == Stage::Prolog { 0 } else { 2 };
            let owner = cx.owner();
            let note = run.sentence(stage);
            self.raise(cx, id, severity, stage.name(), &note, Some(owner));
        }
        self.post_finish(cx, id, stage, run.status);
    }

    /// For `flux jobtap query perilog.so`.
    pub(crate) fn perilog_query(&self) -> Value {
        let conf = |procedure: &Option<Procedure>| {
            procedure.as_ref().map_or(Value::Null, Procedure::to_value)
        };
        let procs: serde_json::Map<String, Value> = self
            .procedures
            .iter()
            .filter(|((_, stage), _)| *stage != Stage::Housekeeping)
            .map(|((id, stage), run)| {
                let state = match run.halt {
                    None => "running",
                    Some(Halt::Late) => "timeout",
                    Some(Halt::Canceled) => "canceled",
                };
                let active = run.active();
                let value = json!({
                    "name": stage.name(), "state": state, "total": run.ranks.len(),
                    "active": active.len(), "active_ranks": active.to_string(),
                });
                (JobId(*id).f58(), value)
            })
            .collect();
        json!({
            "name": crate::plugins::PERILOG, "path": "builtin",
            "conf": {
                "prolog": conf(&self.settings.perilog.prolog),
                "epilog": conf(&self.settings.perilog.epilog),
            },
            "procs": procs,
        })
    }
}
