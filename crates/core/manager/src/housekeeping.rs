//! Housekeeping: what the administrator runs on the nodes of a job after it, while the job itself
//! is over (`[job-manager.housekeeping]`). Its resources are free for others when it has ended on
//! their node: all at once, or node by node when `release-after` says so.
//!
//! Where it fails the log says so; whether such a node is fit for work is for the script to say, by
//! draining it. What is held is on record: when the leader goes down in the middle of it, it runs
//! again from its beginning, on the nodes that are not given back. A node that is away is waited
//! for.

use std::collections::BTreeMap;

use flux_api::job::manager::HousekeepingKill_;
use flux_api::{Call, Empty, RpcError};
use flux_id::{Idset, JobId};
use flux_model::resource_set::ResourceSet;
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use flux_svc::Cx;
use serde_json::{Map, Value, json};

use crate::procedure::{Procedure, Run, Stage, bad_r};
use crate::service::{JobManager, Wait};

/// The configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Housekeeping {
    /// What runs, on every rank.
    pub procedure: Procedure,
    /// Seconds from the first rank that is done until ranks are given back one by one; `None`:
    /// all at the end.
    pub release_after: Option<f64>,
}

/// The allocation of a job that is over.
#[derive(Debug)]
pub(crate) struct Allocation {
    userid: u32,
    priority: u32,
    t_submit: f64,
    /// When housekeeping began, seconds since the epoch.
    t_start: f64,
    r: ResourceSet,
    /// Ranks that are given back.
    free: Idset,
    /// The time to wait for others is over, or runs.
    waited: Waited,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    No,
    Runs,
    Over,
}

/// Directory of what is held, by decimal job id.
pub(crate) const HELD: &str = "checkpoint.housekeeping";

fn key(id: u64) -> String {
    format!("{HELD}.{id}")
}

impl Allocation {
    fn to_value(&self) -> Value {
        json!({
            "userid": self.userid, "priority": self.priority, "t_submit": self.t_submit,
            "t_start": self.t_start, "R": self.r.to_value(), "free": self.free.to_string(),
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let number = |key: &str| {
            let number = value[key].as_u64().and_then(|number| u32::try_from(number).ok());
            number.ok_or_else(|| format!("{key} is not a number"))
        };
        let time = |key: &str| value[key].as_f64().ok_or_else(|| format!("{key} is not a time"));
        let free = value["free"].as_str().unwrap_or_default();
        Ok(Self {
            userid: number("userid")?,
            priority: number("priority")?,
            t_submit: time("t_submit")?,
            t_start: time("t_start")?,
            r: ResourceSet::from_value(&value["R"]).map_err(|error| error.to_string())?,
            free: free.parse().map_err(|error| format!("free: {error}"))?,
            waited: Waited::No,
        })
    }
}

/// All that is held, by job id.
pub(crate) type Allocations = BTreeMap<u64, Allocation>;

impl JobManager {
    /// Begins, if that is configured; false when the resources are to be given back now.
    pub(crate) fn begin_housekeeping(&mut self, cx: &mut Cx<'_, Wait>, id: u64, r: &str) -> bool {
        let Some(settings) = self.settings.housekeeping.clone() else { return false };
        let Some(job) = self.jobs.get(&id) else { return false };
        let r = match ResourceSet::parse(r) {
            Ok(r) => r,
            Err(error) => {
                cx.log(flux_svc::Level::Err, bad_r(id, error).to_string());
                return false;
            }
        };
        let userid = job.status.userid;
        let allocation = Allocation {
            userid,
            priority: job.priority(),
            t_submit: job.status.t_submit,
            t_start: cx.wall(),
            r: r.clone(),
            free: Idset::new(),
            waited: Waited::No,
        };
        self.hold(id, &allocation);
        self.housekeeping.insert(id, allocation);
        let f58 = JobId(id).f58();
        cx.log(flux_svc::Level::Debug, format!("housekeeping: {f58} started"));
        self.begin_procedure(cx, (id, Stage::Housekeeping), userid, &settings.procedure, r);
        true
    }

    fn hold(&mut self, id: u64, allocation: &Allocation) {
        let text = allocation.to_value().to_string();
        self.commits.put(key(id), Treeobj::val(text));
    }

    /// What an earlier run held, as it is on record.
    pub(crate) fn restore_held(&mut self, id: u64, text: &str) -> Result<(), String> {
        self.housekeeping.insert(id, Allocation::parse(text)?);
        Ok(())
    }

    /// Takes up what an earlier run has not finished; where housekeeping is no longer wanted the
    /// resources are free.
    pub(crate) fn resume_housekeeping(&mut self, cx: &mut Cx<'_, Wait>) {
        let Some(settings) = self.settings.housekeeping.clone() else {
            for id in std::mem::take(&mut self.housekeeping).into_keys() {
                self.commits.remove(key(id));
            }
            return;
        };
        let held: Vec<(u64, u32, ResourceSet)> = self
            .housekeeping
            .iter()
            .map(|(id, held)| (*id, held.userid, held.r.without_ranks(&held.free)))
            .collect();
        for (id, userid, r) in held {
            let text = format!("housekeeping: {} is taken up again", JobId(id).f58());
            cx.log(flux_svc::Level::Info, text);
            self.begin_procedure(cx, (id, Stage::Housekeeping), userid, &settings.procedure, r);
        }
    }

    /// A rank is done, others are not.
    pub(crate) fn housekeeping_left(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let after = self.settings.housekeeping.as_ref().and_then(|set| set.release_after);
        let Some(allocation) = self.housekeeping.get_mut(&id) else { return };
        match (allocation.waited, after) {
            (Waited::Over, _) => self.release_done(cx, id),
            (Waited::No, Some(seconds)) => {
                allocation.waited = Waited::Runs;
                cx.timer((seconds * 1e6) as u64, Wait::HousekeepingRelease(id));
            }
            _ => {}
        }
    }

    /// The time to wait for others is over.
    pub(crate) fn housekeeping_release(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        if let Some(allocation) = self.housekeeping.get_mut(&id) {
            allocation.waited = Waited::Over;
            self.release_done(cx, id);
        }
    }

    /// Gives back the ranks that are done.
    fn release_done(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(run) = self.procedures.get(&(id, Stage::Housekeeping)) else { return };
        let Some(allocation) = self.housekeeping.get_mut(&id) else { return };
        let mut done = run.ranks.difference(&run.active());
        done.remove_all(&allocation.free);
        if done.is_empty() {
            return;
        }
        allocation.free.insert_all(&done);
        let part = allocation.r.copy_ranks(&done).to_value().to_string();
        let text = allocation.to_value().to_string();
        self.commits.put(key(id), Treeobj::val(text));
        self.send_free(cx, id, &part, false);
    }

    /// Every rank is done.
    pub(crate) fn housekeeping_ended(&mut self, cx: &mut Cx<'_, Wait>, id: u64, run: &Run) {
        let Some(allocation) = self.housekeeping.remove(&id) else { return };
        self.commits.remove(key(id));
        let f58 = JobId(id).f58();
        for (what, ranks) in &run.failed {
            let hosts = run.r.hosts_of(ranks);
            let text = format!("housekeeping: {hosts} (rank {ranks}) {f58}: {what}");
            cx.log(flux_svc::Level::Err, text);
        }
        cx.log(flux_svc::Level::Debug, format!("housekeeping: {f58} complete"));
        let rest = allocation.r.without_ranks(&allocation.free).to_value().to_string();
        self.send_free(cx, id, &rest, true);
    }

    /// What a new scheduler is told of allocations in housekeeping: id, priority, user, time of
    /// submission, ranks that are free already.
    pub(crate) fn housekeeping_held(&self) -> impl Iterator<Item = (u64, u32, u32, f64, &Idset)> {
        self.housekeeping
            .iter()
            .map(|(id, held)| (*id, held.priority, held.userid, held.t_submit, &held.free))
    }

    /// Resources that are held by housekeeping.
    pub(crate) fn housekeeping_sets(&self) -> impl Iterator<Item = ResourceSet> {
        self.housekeeping.values().map(|held| held.r.without_ranks(&held.free))
    }

    /// `job-manager.housekeeping-kill`.
    pub(crate) fn housekeeping_kill(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        call: Call<HousekeepingKill_>,
    ) {
        let request = &call.request;
        let ranks: Option<Idset> = match request.ranks.as_deref().map(str::parse).transpose() {
            Ok(ranks) => ranks,
            Err(error) => {
                let text = format!("housekeeping-kill: ranks: {error}");
                return call.answer.err(cx, RpcError::new(Errno::EINVAL, text));
            }
        };
        if let Some(id) = request.jobid
            && !self.housekeeping.contains_key(&id)
        {
            let text = format!("{} is not in housekeeping", JobId(id).f58());
            return call.answer.err(cx, RpcError::new(Errno::ENOENT, text));
        }
        let ids: Vec<u64> = self.housekeeping.keys().copied().collect();
        for id in ids.into_iter().filter(|id| request.jobid.is_none_or(|wanted| wanted == *id)) {
            let Some(run) = self.procedures.get(&(id, Stage::Housekeeping)) else { continue };
            let active = run.active();
            let targets = ranks.as_ref().map_or(active.clone(), |some| active.intersection(some));
            let targets = targets.ids().collect();
            self.signal_procedure(cx, id, Stage::Housekeeping, request.signum, &targets);
            self.abandon_away(cx, id, Stage::Housekeeping, &targets);
        }
        call.answer.ok(cx, &Empty);
    }

    /// For `flux housekeeping list`.
    pub(crate) fn housekeeping_stats(&self) -> Value {
        let running: Map<String, Value> = self
            .housekeeping
            .iter()
            .map(|(id, held)| {
                let active = self
                    .procedures
                    .get(&(*id, Stage::Housekeeping))
                    .map_or_else(Idset::new, Run::active);
                let allocated = held.r.ranks().difference(&held.free);
                let value = json!({
                    "t_start": held.t_start,
                    "pending": active.to_string(),
                    "allocated": allocated.to_string(),
                });
                (JobId(*id).f58(), value)
            })
            .collect();
        let config = match &self.settings.housekeeping {
            None => json!({}),
            Some(settings) => json!({
                "release-after": settings.release_after.unwrap_or(-1.0),
                "command": settings.procedure.command.join(" "),
            }),
        };
        json!({ "running": running, "config": config })
    }
}
