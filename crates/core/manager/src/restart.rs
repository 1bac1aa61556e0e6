//! After a restart: reads every job back from the KVS and goes on where it was.
//!
//! With an archive, only the jobs of the index of active jobs are read. Without one, or when the
//! index or the archive is not there (an instance of a former release, a lost file), all jobs are
//! looked at once. Of a finished job only the eventlog is read; an active one needs its jobspec and
//! R too. A job that cannot be replayed is moved aside.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use flux_api::RpcError;
use flux_api::archive::{
    ArchiveGet, ArchiveIds, ArchiveInfo, ArchiveInfo_, ArchiveRemove, CHUNK_MAX,
};
use flux_api::body::AnyObject;
use flux_api::kvs::{Lookup, LookupRequest, READDIR, TREEOBJ};
use flux_id::JobId;
use flux_model::eventlog::Eventlog;
use flux_model::job_event::{FLAG_WAITABLE, JobState, JobStatus};
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};
use serde_json::Value;

use crate::active_index::{self, Stored};
use crate::housekeeping::HELD;
use crate::inactive::Record;
use crate::job::{Job, StartState};
use crate::journal::{Part, lookup, text_of};
use crate::queue_admin::CHECKPOINT;
use crate::service::{JobManager, Wait};
use crate::submit::system;

/// Lookups in flight.
const LOOKUPS_MAX: usize = 64;
/// Jobs in one question to the archive.
const CHUNK: usize = CHUNK_MAX as usize;
/// Levels of directories between `job` and a job's own.
const LEVELS: usize = 4;
/// Why queues are stopped when the configuration wants it so.
const STOP_REASON: &str = "Automatically stopped due to restart";

#[derive(Debug)]
enum Step {
    List(String, usize),
    Read(u64, Part),
    Lost(u64),
    Held(u64),
}

/// Reading jobs back.
#[derive(Debug, Default)]
pub struct Restart {
    todo: VecDeque<Step>,
    in_flight: usize,
    /// Active jobs whose parts are still missing.
    jobs: BTreeMap<u64, Job>,
    /// Active jobs that are read.
    replayed: Vec<u64>,
    /// What the index says, and what the archive is.
    index: Option<Result<Stored, String>>,
    info: Option<ArchiveInfo>,
    /// The jobs to read are those of the index.
    indexed: bool,
    /// Jobs of the index that are not in the KVS: their purge was not finished.
    purged: Vec<u64>,
    /// The archive was asked for jobs that others depend on.
    asked: bool,
}

fn read(cx: &mut Cx<'_, Wait>, key: String, flags: u32, wait: Wait) {
    let request = LookupRequest {
        key,
        flags,
        namespace: Some(flux_api::kvs::PRIMARY.to_string()),
        rootdir: None,
        rootseq: None,
        userid: None,
    };
    cx.call::<Lookup>(To::Any, &request, wait);
}

impl JobManager {
    /// Begins to read.
    pub(crate) fn restart(&mut self, cx: &mut Cx<'_, Wait>) {
        let mut restart = Restart { in_flight: 2, ..Restart::default() };
        read(cx, CHECKPOINT.to_string(), 0, Wait::Checkpoint);
        read(cx, HELD.to_string(), READDIR, Wait::HeldList);
        if self.archive {
            restart.in_flight = 4;
            read(cx, active_index::KEY.to_string(), 0, Wait::Index);
            cx.call::<ArchiveInfo_>(To::Any, &AnyObject::default(), Wait::ArchiveInfo);
        } else {
            restart.todo.push_back(Step::List("job".to_string(), 0));
        }
        self.restarting = Some(restart);
        self.restart_work(cx);
    }

    fn restart_work(&mut self, cx: &mut Cx<'_, Wait>) {
        let Some(restart) = &mut self.restarting else { return };
        while restart.in_flight < LOOKUPS_MAX {
            // What was found last is read first, so that the list of what to read stays short.
            let Some(step) = restart.todo.pop_back() else { break };
            restart.in_flight += 1;
            match step {
                Step::List(key, depth) => {
                    read(cx, key.clone(), READDIR, Wait::Directory { key, depth });
                }
                Step::Read(id, part) => lookup(cx, id, part, Wait::Replay { id, part }),
                Step::Held(id) => read(cx, format!("{HELD}.{id}"), 0, Wait::Held(id)),
                Step::Lost(id) => read(cx, JobId(id).kvs(), TREEOBJ, Wait::Lost(id)),
            }
        }
        if restart.in_flight > 0 {
            return;
        }
        if !restart.purged.is_empty() {
            for ids in std::mem::take(&mut restart.purged).chunks(CHUNK) {
                restart.in_flight += 1;
                let ids = ids.to_vec();
                let request = ArchiveIds { ids: ids.clone() };
                cx.call::<ArchiveRemove>(To::Any, &request, Wait::Unfinished(ids));
            }
            return;
        }
        if self.archive && !restart.asked {
            restart.asked = true;
            let targets = self.unknown_targets();
            if let Some(restart) = &mut self.restarting
                && !targets.is_empty()
            {
                for ids in targets.chunks(CHUNK) {
                    restart.in_flight += 1;
                    let request = ArchiveIds { ids: ids.to_vec() };
                    cx.call::<ArchiveGet>(To::Any, &request, Wait::Targets);
                }
                return;
            }
        }
        self.restarted(cx);
    }

    /// Jobs whose purge was not finished are out of the archive, or still there.
    pub(crate) fn unfinished(&mut self, cx: &mut Cx<'_, Wait>, ids: Vec<u64>, reply: &Reply) {
        match reply.error() {
            None => ids.iter().for_each(|id| self.commits.index.remove(*id)),
            Some(error) => {
                cx.log(Level::Err, format!("cannot purge jobs from the archive: {error}"));
                self.still_archived(cx, ids);
            }
        }
        // How many are left in it?
        cx.call::<ArchiveInfo_>(To::Any, &AnyObject::default(), Wait::ArchiveInfo);
    }

    /// Finished jobs that the archive may have: those that jobs in DEPEND wait for, and those that
    /// were just read, since a crash may have come before the index was told.
    fn unknown_targets(&self) -> Vec<u64> {
        let Some(restart) = &self.restarting else { return Vec::new() };
        let waiting = restart.jobs.values().filter(|job| job.state() == JobState::Depend);
        let ids: BTreeSet<u64> = waiting
            .flat_map(|job| &job.status.dependencies)
            .filter_map(|description| description.split_once('=')?.1.parse::<JobId>().ok())
            .map(|id| id.0)
            .filter(|id| !restart.jobs.contains_key(id))
            .chain(self.inactive.ids())
            .collect();
        ids.into_iter().collect()
    }

    /// The archive told of such jobs.
    pub(crate) fn targets_read(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        match reply.decode::<ArchiveGet>() {
            Ok(found) => {
                for job in &found.jobs {
                    let here = self.inactive.get(job.id);
                    if here.is_some_and(|record| record.t_inactive == job.t_inactive) {
                        self.let_go(job.id);
                        // It was counted with the archive.
                        self.archived -= 1;
                    }
                    self.recall.found.insert(job.id, Record::from(job));
                }
            }
            Err(error) => return cx.fail(format!("cannot read the archive of jobs: {error}")),
        }
        self.next_step(cx, []);
    }

    /// The index of active jobs.
    pub(crate) fn index_read(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        let index = match text_of(reply) {
            Ok(text) => Stored::parse(&text),
            Err(error) if error.errno == Errno::ENOENT => Err("there is none".to_string()),
            Err(error) => {
                let text = format!("cannot read {}: {error}", active_index::KEY);
                return cx.fail(text);
            }
        };
        if let Some(restart) = &mut self.restarting {
            restart.index = Some(index);
        }
        self.choose(cx);
    }

    /// What the archive is.
    pub(crate) fn archive_read(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        match reply.decode::<ArchiveInfo_>() {
            Ok(info) => {
                if let Some(restart) = &mut self.restarting {
                    if restart.indexed {
                        self.archived = info.count;
                    }
                    restart.info = Some(info);
                }
                self.choose(cx);
            }
            Err(error) => cx.fail(format!("cannot read the archive of jobs: {error}")),
        }
    }

    /// Once it is known which jobs have to be read: those.
    fn choose(&mut self, cx: &mut Cx<'_, Wait>) {
        let Some(restart) = &mut self.restarting else { return };
        let mut steps = Vec::new();
        if let (Some(info), Some(_)) = (&restart.info, &restart.index) {
            self.archived = info.count;
            self.max_jobid = self.max_jobid.max(info.max_id);
            match (restart.index.take(), info.complete) {
                (Some(Ok(stored)), true) => {
                    self.max_jobid = self.max_jobid.max(stored.max);
                    steps.extend(stored.ids.iter().map(|id| Step::Read(*id, Part::Log)));
                    restart.indexed = true;
                    self.commits.index.resume(stored);
                }
                (index, _) => {
                    if let Some(Err(error)) = index
                        && info.complete
                    {
                        let text = format!("index of active jobs: {error}: all jobs are read");
                        cx.log(Level::Warning, text);
                    }
                    steps.push(Step::List("job".to_string(), 0));
                    self.migrating = true;
                    self.commits.index.write_anew();
                }
            }
        }
        self.next_step(cx, steps);
    }

    fn next_step(&mut self, cx: &mut Cx<'_, Wait>, steps: impl IntoIterator<Item = Step>) {
        if let Some(restart) = &mut self.restarting {
            restart.in_flight -= 1;
            restart.todo.extend(steps);
        }
        self.restart_work(cx);
    }

    /// The checkpoint.
    pub(crate) fn checkpoint_read(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        match text_of(reply) {
            Ok(text) => match serde_json::from_str::<Value>(&text) {
                Ok(value) => {
                    let max = value.get("max_jobid").and_then(Value::as_u64).unwrap_or(0);
                    self.max_jobid = self.max_jobid.max(max);
                    if let Some(queues) = value.get("queue").and_then(Value::as_array) {
                        self.queues.restore(queues);
                    }
                }
                Err(error) => cx.log(Level::Err, format!("{CHECKPOINT}: {error}")),
            },
            Err(error) if error.errno == Errno::ENOENT => {}
            Err(error) => return cx.fail(format!("cannot read {CHECKPOINT}: {error}")),
        }
        self.next_step(cx, []);
    }

    /// Which resources housekeeping held.
    pub(crate) fn held_list(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        let steps: Vec<Step> = match reply.decode::<Lookup>() {
            Ok(response) => match Treeobj::from_value(&response.val) {
                Ok(Treeobj::Dir(entries)) => {
                    entries.keys().filter_map(|name| name.parse().ok()).map(Step::Held).collect()
                }
                _ => Vec::new(),
            },
            Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR) => Vec::new(),
            // To go on would give nodes to jobs before they are tidied.
            Err(error) => return cx.fail(format!("cannot read {HELD}: {error}")),
        };
        self.next_step(cx, steps);
    }

    /// What it held of one job.
    pub(crate) fn held_read(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        let read = text_of(reply).map_err(|error| error.to_string());
        if let Err(error) = read.and_then(|text| self.restore_held(id, &text)) {
            cx.log(Level::Err, format!("{HELD}.{id}: {error}; its nodes are free"));
        }
        self.next_step(cx, []);
    }

    /// A directory between `job` and the jobs.
    pub(crate) fn directory_read(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        key: &str,
        depth: usize,
        reply: &Reply,
    ) {
        let entries = match reply.decode::<Lookup>() {
            Ok(response) => match Treeobj::from_value(&response.val) {
                Ok(Treeobj::Dir(entries)) => entries,
                Ok(_) => BTreeMap::new(),
                Err(error) => return cx.fail(format!("cannot read {key}: {error}")),
            },
            Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR) => BTreeMap::new(),
            // To go on without jobs that may be there would lose them.
            Err(error) => return cx.fail(format!("cannot read {key}: {error}")),
        };
        let mut steps = Vec::new();
        for name in entries.keys() {
            let key = format!("{key}.{name}");
            if depth + 1 < LEVELS {
                steps.push(Step::List(key, depth + 1));
            } else if let Ok(JobId(id)) = key.parse::<JobId>() {
                self.max_jobid = self.max_jobid.max(id);
                steps.push(Step::Read(id, Part::Log));
            }
        }
        self.next_step(cx, steps);
    }

    /// A part of a job.
    pub(crate) fn replay_read(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        (id, part): (u64, Part),
        reply: &Reply,
    ) {
        let text = text_of(reply);
        if let Err(error) = &text
            && !matches!(error.errno, Errno::ENOENT | Errno::EPROTO)
        {
            return cx.fail(format!("cannot read {}.{}: {error}", JobId(id).kvs(), part.key()));
        }
        if let Err(error) = &text
            && error.errno == Errno::ENOENT
            && part == Part::Log
            && self.restarting.as_ref().is_some_and(|restart| restart.indexed)
        {
            // It was purged, or is in the index before it is there, or was taken away by hand.
            if let Some(restart) = &mut self.restarting {
                restart.purged.push(id);
            }
            return self.next_step(cx, []);
        }
        let next = text
            .map_err(|error: RpcError| format!("{}: {error}", part.key()))
            .and_then(|text| self.replay(id, part, text));
        let step = match next {
            Ok(part) => part.map(|part| Step::Read(id, part)),
            Err(reason) => {
                let text = format!("job {} not replayed: {reason}", JobId(id).f58());
                cx.log(Level::Err, text);
                if let Some(restart) = &mut self.restarting {
                    restart.jobs.remove(&id);
                }
                Some(Step::Lost(id))
            }
        };
        self.next_step(cx, step);
    }

    /// Takes a part over; the part to read next, if any.
    fn replay(&mut self, id: u64, part: Part, text: String) -> Result<Option<Part>, String> {
        let Some(restart) = &mut self.restarting else { return Ok(None) };
        if part == Part::Log {
            let log = Eventlog::parse(&text).map_err(|error| error.to_string())?;
            let status = JobStatus::replay(log.events()).map_err(|error| error.to_string())?;
            if status.state == JobState::New {
                return Err("still in state NEW".to_string());
            }
            self.history.insert(id, status.userid);
            self.commits.index.add(id);
            if status.is_inactive() {
                self.inactive.insert(id, &status);
                if restart.indexed && status.flags & FLAG_WAITABLE != 0 {
                    self.waiting.restore(id, &status);
                }
                return Ok(None);
            }
            let mut job = Job::new(id, status, "null".into());
            job.log = text;
            job.entered = true;
            // What is allocated from now on is as durable as its own commit, not as this log.
            job.alloc_durable = job.status.has_resources;
            restart.jobs.insert(id, job);
            return Ok(Some(Part::Jobspec));
        }
        let Some(job) = restart.jobs.get_mut(&id) else { return Ok(None) };
        let mut value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if part == Part::Jobspec {
            for (path, new) in &job.status.jobspec_updates {
                crate::update::set_path(&mut value, path, new.clone())?;
            }
            job.queue = system(&value, "queue").and_then(Value::as_str).map(Rc::from);
            job.name = crate::dependency::given_name(&value);
            job.jobspec = value.to_string().into();
            // The signed request has another copy of it, and is not read.
            job.size = 2 * job.jobspec.len() as u64;
            if job.status.has_resources {
                return Ok(Some(Part::Resources));
            }
        } else {
            if let (Some(expiration), Some(execution)) =
                (job.status.expiration, value.get_mut("execution").and_then(Value::as_object_mut))
            {
                execution.insert("expiration".into(), expiration.into());
            }
            if let Some(r) = value.as_object_mut() {
                r.shift_remove("scheduling");
            }
            job.r = Some(value.to_string().into());
        }
        restart.replayed.push(id);
        Ok(None)
    }

    /// The directory of a job that cannot be replayed: it moves.
    pub(crate) fn lost_read(&mut self, cx: &mut Cx<'_, Wait>, id: u64, reply: &Reply) {
        self.history.remove(id);
        self.commits.index.remove(id);
        if let Ok(response) = reply.decode::<Lookup>() {
            let place = format!("job-lost+found.job.{}", JobId(id).f58());
            self.commits.put(place, response.val);
            self.commits.put(JobId(id).kvs(), Value::Null);
        }
        self.next_step(cx, []);
    }

    /// Everything is read.
    fn restarted(&mut self, cx: &mut Cx<'_, Wait>) {
        let Some(mut restart) = self.restarting.take() else { return };
        if self.settings.stop_queues_on_restart {
            self.queues.stop_all(STOP_REASON);
            self.checkpoint();
        }
        restart.replayed.sort_unstable();
        for id in &restart.replayed {
            let Some(mut job) = restart.jobs.remove(id) else { continue };
            job.queue = job.queue.filter(|_| self.queues.is_named());
            job.replayed = job.status.has_resources;
            if matches!(job.state(), JobState::Run | JobState::Cleanup) {
                self.running += 1;
            }
            let status = &job.status;
            // Shells may run: execution must find them, or say that they are gone.
            if job.state() == JobState::Cleanup && status.has_resources && !status.released {
                job.start = StartState::Lost;
            }
            if job.has_flag(FLAG_WAITABLE) {
                self.waiting.expect(*id);
            }
            self.dependencies.enter(&job);
            self.guests.enter(&job);
            self.jobs.insert(*id, job);
        }
        for id in restart.replayed {
            let Some(job) = self.jobs.get(&id) else { continue };
            match job.state() {
                JobState::Depend => {
                    let jobspec = serde_json::from_str(&job.jobspec).unwrap_or(Value::Null);
                    self.restore_dependencies(cx, id, &jobspec);
                }
                JobState::Sched => self.post(cx, id, "flux-restart", Value::Null),
                _ => {}
            }
            self.touch(id);
        }
        self.recall.found.clear();
        self.resume_housekeeping(cx);
        let inactive = self.archived + self.inactive.len() as u64;
        let active = self.jobs.len();
        cx.log(Level::Info, format!("restart: {active} active and {inactive} inactive jobs"));
        self.up(cx);
    }
}
