//! Dependencies (RFC 26): `after*` on other jobs, `singleton`, `begin-time`.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use flux_api::job::manager::NewJob;
use flux_id::JobId;
use flux_model::job_event::JobState;
use flux_svc::Cx;
use serde_json::{Value, json};

use crate::inactive::Record;
use crate::job::Job;
use crate::service::{JobManager, Wait};
use crate::submit::system;

/// Longest time a `begin-time` timer is armed for, since the wall clock may be set meanwhile.
const TIMER_MAX_US: f64 = 60e6;

/// What a job waits for in another job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// Its `start` event.
    Start,
    /// Its end.
    Finish,
    /// A good end.
    Success,
    /// An end that is not good.
    Failure,
    /// An end by exception.
    Except,
}

/// A dependency of a new job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dependency {
    description: String,
    kind: Kind,
    deprecated: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Job(u64, On),
    Singleton,
    Time(f64),
}

impl Dependency {
    /// Whether a warning is due.
    pub(crate) fn is_deprecated(&self) -> bool {
        self.deprecated
    }
}

/// What an ended or running job means for a dependency.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Met,
    Never,
    NeverStarted,
}

impl On {
    fn outcome(self, record: &Record) -> Outcome {
        let met = |met: bool| if met { Outcome::Met } else { Outcome::Never };
        match self {
            Self::Finish => Outcome::Met,
            Self::Start if record.started => Outcome::Met,
            Self::Success if record.success => Outcome::Met,
            _ if !record.ran => Outcome::NeverStarted,
            Self::Start => Outcome::NeverStarted,
            Self::Success => Outcome::Never,
            Self::Failure => met(!record.success),
            Self::Except => met(record.exception),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Start => "after-start",
            Self::Finish => "after-finish",
            Self::Success => "after-success",
            Self::Failure => "after-failure",
            Self::Except => "after-except",
        }
    }
}

fn scheme_of(scheme: &str) -> Option<On> {
    Some(match scheme {
        "after" | "afterstart" => On::Start,
        "afterany" => On::Finish,
        "afterok" => On::Success,
        "afternotok" => On::Failure,
        "afterexcept" => On::Except,
        _ => return None,
    })
}

/// How a job that waits for others of its name says so.
pub(crate) const SINGLETON: &str = "singleton";

/// The name a user gave to a job.
pub(crate) fn given_name(jobspec: &Value) -> Option<Rc<str>> {
    system(jobspec, "job")?.get("name")?.as_str().map(Rc::from)
}

/// Active jobs of one user and name.
#[derive(Debug, Default)]
struct Group {
    plain: BTreeSet<u64>,
    singletons: BTreeSet<u64>,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    on: On,
    description: String,
}

/// Who waits for whom.
#[derive(Debug, Default)]
pub struct Dependencies {
    on_jobs: BTreeMap<u64, Vec<Waiting>>,
    names: BTreeMap<(u32, Rc<str>), Group>,
}

impl Dependencies {
    /// An active job: it counts for singletons of its name.
    pub(crate) fn enter(&mut self, job: &Job) {
        if let Some(name) = &job.name {
            let key = (job.status.userid, name.clone());
            self.names.entry(key).or_default().plain.insert(job.id);
        }
    }

    fn make_singleton(&mut self, job: &Job) {
        if let Some(name) = &job.name {
            let key = (job.status.userid, name.clone());
            let group = self.names.entry(key).or_default();
            group.plain.remove(&job.id);
            group.singletons.insert(job.id);
        }
    }

    /// The singleton of this name that may run, if any.
    fn singleton(&self, userid: u32, name: &Rc<str>) -> Option<u64> {
        let group = self.names.get(&(userid, name.clone()))?;
        if group.plain.is_empty() { group.singletons.first().copied() } else { None }
    }

    /// A job is active no longer.
    pub(crate) fn leave(&mut self, job: &Job) {
        let Some(name) = &job.name else { return };
        let key = (job.status.userid, name.clone());
        if let Some(group) = self.names.get_mut(&key) {
            group.plain.remove(&job.id);
            group.singletons.remove(&job.id);
            if group.plain.is_empty() && group.singletons.is_empty() {
                self.names.remove(&key);
            }
        }
    }

    fn wait_for(&mut self, target: u64, waiting: Waiting) {
        self.on_jobs.entry(target).or_default().push(waiting);
    }
}

impl JobManager {
    /// The dependencies that a new job has to wait for.
    pub(crate) fn parse_dependencies(
        &self,
        cx: &Cx<'_, Wait>,
        new: &NewJob,
    ) -> Result<Vec<Dependency>, String> {
        let owner = new.userid == cx.owner();
        self.read_dependencies(new.id, new.userid, owner, &new.jobspec)
            .into_iter()
            .filter_map(Result::transpose)
            .collect()
    }

    /// Reads the dependencies of a jobspec; `None` for one that is met already.
    fn read_dependencies(
        &self,
        id: u64,
        userid: u32,
        owner: bool,
        jobspec: &Value,
    ) -> Vec<Result<Option<Dependency>, String>> {
        let list = system(jobspec, "dependencies").and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .map(|entry| {
                let text = |key: &str| entry.get(key).and_then(Value::as_str);
                let (Some(scheme), Some(value)) = (text("scheme"), text("value")) else {
                    return Err("dependency without scheme or value".to_string());
                };
                match scheme {
                    "singleton" => {
                        if given_name(jobspec).is_none() {
                            return Err("singleton jobs require a job name".to_string());
                        }
                        let description = SINGLETON.to_string();
                        Ok(Some(Dependency {
                            description,
                            kind: Kind::Singleton,
                            deprecated: false,
                        }))
                    }
                    "begin-time" => {
                        let time = value.parse::<f64>().ok().filter(|t| t.is_finite() && *t >= 0.0);
                        let Some(time) = time else {
                            return Err(format!("Invalid begin-time={value}"));
                        };
                        let description = format!("begin-time={time:.3}");
                        let kind = Kind::Time(time);
                        Ok(Some(Dependency { description, kind, deprecated: false }))
                    }
                    _ => {
                        let Some(on) = scheme_of(scheme) else {
                            return Err(format!("dependency scheme \"{scheme}\" not supported"));
                        };
                        self.read_job_dependency((id, userid, owner), scheme, on, value)
                    }
                }
            })
            .collect()
    }

    fn read_job_dependency(
        &self,
        (id, userid, owner): (u64, u32, bool),
        scheme: &str,
        on: On,
        value: &str,
    ) -> Result<Option<Dependency>, String> {
        let Ok(JobId(target)) = value.parse::<JobId>() else {
            return Err(format!("dependency: {scheme}: \"{value}\" is not a valid jobid"));
        };
        let not_found = || format!("dependency: {scheme}: id {value}: job not found");
        let (target_user, record) = match self.jobs.get(&target) {
            Some(_) if target == id => return Err(not_found()),
            Some(job) => {
                let ended =
                    job.state() == JobState::Inactive || (on == On::Start && job.status.started);
                (job.status.userid, ended.then(|| Record::of(&job.status)))
            }
            None => {
                let record = self.finished(target).ok_or_else(not_found)?;
                (record.userid, Some(*record))
            }
        };
        if !owner && target_user != userid {
            return Err(format!("{scheme}: Permission denied for job {value}"));
        }
        let outcome = record.map(|record| on.outcome(&record));
        let problem = match (outcome, on) {
            (Some(Outcome::Met), _) => return Ok(None),
            (None, _) => {
                return Ok(Some(Dependency {
                    description: format!("{}={value}", on.word()),
                    kind: Kind::Job(target, on),
                    deprecated: scheme == "after",
                }));
            }
            (Some(_), On::Start) => format!("{value} never started"),
            (Some(_), On::Success) => format!("job {value} failed or was canceled"),
            (Some(Outcome::NeverStarted), _) => format!("job {value} never started"),
            (Some(_), On::Failure) => format!("job {value} succeeded"),
            (Some(_), _) => format!("job {value}: no exception"),
        };
        Err(format!("dependency: {scheme}: {problem}"))
    }

    /// Records and watches the dependencies of a new job.
    pub(crate) fn add_dependencies(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        wanted: Vec<Dependency>,
    ) {
        for dependency in wanted {
            let known = self
                .jobs
                .get(&id)
                .is_some_and(|job| job.status.dependencies.contains(&dependency.description));
            if known {
                continue;
            }
            let data = json!({ "description": dependency.description });
            self.post(cx, id, "dependency-add", data);
            self.watch(cx, id, dependency);
        }
    }

    fn watch(&mut self, cx: &mut Cx<'_, Wait>, id: u64, dependency: Dependency) {
        match dependency.kind {
            Kind::Job(target, on) => {
                let description = dependency.description;
                self.dependencies.wait_for(target, Waiting { id, on, description });
            }
            Kind::Singleton => {
                if let Some(job) = self.jobs.get(&id) {
                    self.dependencies.make_singleton(job);
                    self.touched_names.insert(id);
                }
            }
            Kind::Time(_) => self.begin_time(cx, id),
        }
    }

    /// Removes the `begin-time` dependencies whose time has come, and waits for the next one.
    pub(crate) fn begin_time(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        let wall = cx.wall();
        let mut next: Option<f64> = None;
        let mut due = Vec::new();
        for description in &job.status.dependencies {
            let Some(time) = description.strip_prefix("begin-time=") else { continue };
            let time = time.parse::<f64>().unwrap_or(0.0);
            if time <= wall {
                due.push(description.clone());
            } else {
                next = Some(next.map_or(time, |next| next.min(time)));
            }
        }
        for description in due {
            self.remove_dependency(cx, id, &description);
        }
        if let Some(next) = next {
            let after = ((next - wall) * 1e6).clamp(1_000.0, TIMER_MAX_US);
            cx.timer(after as u64, Wait::BeginTime(id));
        }
    }

    fn remove_dependency(&mut self, cx: &mut Cx<'_, Wait>, id: u64, description: &str) {
        let waits = self.jobs.get(&id).is_some_and(|job| {
            matches!(job.state(), JobState::New | JobState::Depend)
                && job.status.dependencies.iter().any(|known| known == description)
        });
        if waits {
            self.post(cx, id, "dependency-remove", json!({ "description": description }));
        }
    }

    /// Lets singletons go whose turn it is.
    pub(crate) fn settle_names(&mut self, cx: &mut Cx<'_, Wait>) {
        while let Some(id) = self.touched_names.pop_first() {
            let Some(job) = self.jobs.get(&id) else { continue };
            let (userid, name) = (job.status.userid, job.name.clone());
            if let Some(name) = name
                && self.dependencies.singleton(userid, &name) == Some(id)
            {
                self.remove_dependency(cx, id, SINGLETON);
            }
        }
    }

    /// A job has posted `start`.
    pub(crate) fn dependency_started(&mut self, cx: &mut Cx<'_, Wait>, target: u64) {
        let Some(waiting) = self.dependencies.on_jobs.get_mut(&target) else { return };
        let met: Vec<Waiting> = waiting.extract_if(.., |one| one.on == On::Start).collect();
        for one in met {
            self.remove_dependency(cx, one.id, &one.description);
        }
    }

    /// A job has come to its end: resolves everything that waits for it.
    pub(crate) fn dependency_ended(&mut self, cx: &mut Cx<'_, Wait>, target: u64) {
        let Some(job) = self.jobs.get(&target) else { return };
        let record = Record::of(&job.status);
        self.leave_name(target);
        for one in self.dependencies.on_jobs.remove(&target).unwrap_or_default() {
            self.resolve(cx, &one, &record);
        }
    }

    /// A job does not count for singletons of its name any more.
    fn leave_name(&mut self, id: u64) {
        let Some(job) = self.jobs.get(&id) else { return };
        self.dependencies.leave(job);
        if let Some(name) = &job.name
            && let Some(next) = self.dependencies.singleton(job.status.userid, name)
        {
            self.touched_names.insert(next);
        }
    }

    /// A job that is no singleton has another name.
    pub(crate) fn rename(&mut self, id: u64, name: &str) {
        self.leave_name(id);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.name = Some(name.into());
            self.dependencies.enter(job);
        }
    }

    fn resolve(&mut self, cx: &mut Cx<'_, Wait>, one: &Waiting, record: &Record) {
        let waits = self.jobs.get(&one.id).is_some_and(|job| {
            matches!(job.state(), JobState::New | JobState::Depend)
                && job.status.dependencies.contains(&one.description)
        });
        if !waits {
            return;
        }
        let note = match one.on.outcome(record) {
            Outcome::Met => return self.remove_dependency(cx, one.id, &one.description),
            Outcome::Never => format!("dependency {} can never be satisfied", one.description),
            Outcome::NeverStarted => format!("dependency {} job never started", one.description),
        };
        self.raise(cx, one.id, 0, "dependency", &note, None);
    }

    /// After a restart: watches again what a job in DEPEND still waits for.
    pub(crate) fn restore_dependencies(&mut self, cx: &mut Cx<'_, Wait>, id: u64, jobspec: &Value) {
        let Some(job) = self.jobs.get(&id) else { return };
        let userid = job.status.userid;
        let owner = userid == cx.owner();
        let mut left: BTreeSet<String> = job.status.dependencies.iter().cloned().collect();
        for read in self.read_dependencies(id, userid, owner, jobspec) {
            match read {
                Ok(Some(dependency)) => {
                    if left.remove(&dependency.description) {
                        self.watch(cx, id, dependency);
                    }
                }
                Ok(None) => {}
                Err(text) => {
                    let note = format!("{text} (job may be stuck in DEPEND state)");
                    self.raise(cx, id, 4, "dependency", &note, None);
                }
            }
        }
        // What is met by now leaves no trace above.
        let met: Vec<String> = left.into_iter().filter(|text| self.is_met(text)).collect();
        for description in met {
            self.remove_dependency(cx, id, &description);
        }
    }

    fn is_met(&self, description: &str) -> bool {
        let Some((word, value)) = description.split_once('=') else { return false };
        let Ok(JobId(target)) = value.parse::<JobId>() else { return false };
        let kinds = [On::Start, On::Finish, On::Success, On::Failure, On::Except];
        let Some(on) = kinds.into_iter().find(|on| on.word() == word) else { return false };
        let record = match self.jobs.get(&target) {
            Some(job) if on == On::Start && job.status.started => Some(Record::of(&job.status)),
            Some(_) => None,
            None => self.finished(target).copied(),
        };
        record.is_some_and(|record| on.outcome(&record) == Outcome::Met)
    }
}
