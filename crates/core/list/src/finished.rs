//! Jobs that are over, kept small: a record of fixed size and strings that jobs share.
//!
//! They are in the archive on disk too ([`crate::archive`]), which gives the same views.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use flux_model::job_event::{JobResult, JobState};

use crate::intern::{Interner, Symbol};
use crate::view::{ExceptionView, JobView, Json};

/// A finished job. NaN stands for a time that is not known.
#[derive(Debug)]
struct Record {
    t_submit: f64,
    t_depend: f64,
    t_priority: f64,
    t_sched: f64,
    t_run: f64,
    t_cleanup: f64,
    t_inactive: f64,
    expiration: f64,
    duration: f64,
    ntasks: Option<u64>,
    ncores: Option<u64>,
    userid: u32,
    nnodes: Option<u32>,
    priority: Option<u32>,
    waitstatus: Option<i32>,
    name: Option<Symbol>,
    cwd: Option<Symbol>,
    queue: Option<Symbol>,
    project: Option<Symbol>,
    bank: Option<Symbol>,
    ranks: Option<Symbol>,
    nodelist: Option<Symbol>,
    exception_type: Option<Symbol>,
    exception_note: Option<Symbol>,
    annotations: Option<Symbol>,
    dependencies: Option<Symbol>,
    exception_severity: u8,
    urgency: u8,
    result: JobResult,
    started: bool,
    fatal: bool,
}

fn known(time: f64) -> Option<f64> {
    (!time.is_nan()).then_some(time)
}

/// Orders as the time does.
pub(crate) fn order(time: f64) -> u64 {
    let bits = time.to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

/// All finished jobs, by id and by the time they ended.
#[derive(Debug, Default)]
pub struct Finished {
    jobs: BTreeMap<u64, Box<Record>>,
    /// Newest first.
    by_end: BTreeSet<Reverse<(u64, u64)>>,
    strings: Interner,
}

impl Finished {
    /// Number of jobs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Keeps a job that is over; one of the same id is replaced.
    pub fn insert(&mut self, job: &JobView<'_>) {
        self.remove(job.id);
        let strings = &mut self.strings;
        let mut keep = |text: Option<&str>| text.and_then(|text| strings.keep(text));
        let time = |time: Option<f64>| time.unwrap_or(f64::NAN);
        let record = Record {
            t_submit: job.t_submit,
            t_depend: time(job.t_depend),
            t_priority: time(job.t_priority),
            t_sched: time(job.t_sched),
            t_run: time(job.t_run),
            t_cleanup: time(job.t_cleanup),
            t_inactive: time(job.t_inactive),
            expiration: time(job.expiration),
            duration: time(job.duration),
            ntasks: job.ntasks,
            ncores: job.ncores,
            userid: job.userid,
            nnodes: job.nnodes.map(|nodes| u32::try_from(nodes).unwrap_or(u32::MAX)),
            priority: job.priority,
            waitstatus: job.waitstatus,
            name: keep(job.name),
            cwd: keep(job.cwd),
            queue: keep(job.queue),
            project: keep(job.project),
            bank: keep(job.bank),
            ranks: keep(job.ranks),
            nodelist: keep(job.nodelist),
            exception_type: keep(job.exception.map(|e| e.kind)),
            exception_note: keep(job.exception.map(|e| e.note)),
            annotations: keep(json_text(job.annotations).as_deref()),
            dependencies: keep(json_text(job.dependencies).as_deref()),
            exception_severity: job.exception.map_or(0, |e| e.severity),
            urgency: job.urgency,
            result: job.result.unwrap_or(JobResult::Failed),
            started: job.started,
            fatal: job.fatal,
        };
        self.by_end.insert(Reverse((order(record.t_inactive), job.id)));
        self.jobs.insert(job.id, Box::new(record));
    }

    /// Forgets a job; false when it was not known.
    pub fn remove(&mut self, id: u64) -> bool {
        let Some(record) = self.jobs.remove(&id) else { return false };
        self.by_end.remove(&Reverse((order(record.t_inactive), id)));
        let symbols = [
            record.name,
            record.cwd,
            record.queue,
            record.project,
            record.bank,
            record.ranks,
            record.nodelist,
            record.exception_type,
            record.exception_note,
            record.annotations,
            record.dependencies,
        ];
        for symbol in symbols.into_iter().flatten() {
            self.strings.release(symbol);
        }
        true
    }

    /// One job.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<JobView<'_>> {
        self.jobs.get(&id).map(|record| self.view(id, record))
    }

    /// All jobs that ended after `since`, newest first; each costs a look-up by id.
    pub fn newest(&self, since: f64) -> impl Iterator<Item = JobView<'_>> {
        self.by_end
            .iter()
            .filter_map(|Reverse((_, id))| self.get(*id))
            .take_while(move |job| job.t_inactive.is_none_or(|ended| ended > since))
    }

    fn view<'a>(&'a self, id: u64, record: &'a Record) -> JobView<'a> {
        let text = |symbol: Option<Symbol>| symbol.map(|symbol| self.strings.text(symbol));
        JobView {
            id,
            userid: record.userid,
            urgency: record.urgency,
            priority: record.priority,
            t_submit: record.t_submit,
            t_depend: known(record.t_depend),
            t_priority: known(record.t_priority),
            t_sched: known(record.t_sched),
            t_run: known(record.t_run),
            t_cleanup: known(record.t_cleanup),
            t_inactive: known(record.t_inactive),
            state: JobState::Inactive,
            name: text(record.name),
            cwd: text(record.cwd),
            queue: text(record.queue),
            project: text(record.project),
            bank: text(record.bank),
            ntasks: record.ntasks,
            ncores: record.ncores,
            duration: known(record.duration),
            nnodes: record.nnodes.map(u64::from),
            ranks: text(record.ranks),
            nodelist: text(record.nodelist),
            result: Some(record.result),
            exception: text(record.exception_type).map(|kind| ExceptionView {
                kind,
                severity: record.exception_severity,
                note: text(record.exception_note).unwrap_or(""),
            }),
            expiration: known(record.expiration),
            annotations: text(record.annotations).map(Json::Text),
            waitstatus: record.waitstatus,
            dependencies: text(record.dependencies).map(Json::Text),
            started: record.started,
            fatal: record.fatal,
        }
    }

    /// Bytes of memory, roughly.
    #[must_use]
    pub fn footprint(&self) -> usize {
        // Trees that are filled in rising order are half full; an allocation has a head.
        const EACH: usize = size_of::<Record>()
            + 16
            + 2 * size_of::<(u64, Box<Record>)>()
            + 2 * size_of::<Reverse<(u64, u64)>>();
        self.jobs.len() * EACH + self.strings.footprint()
    }
}

/// A JSON as text.
pub(crate) fn json_text(json: Option<Json<'_>>) -> Option<String> {
    let mut text = String::new();
    match json? {
        Json::Text(kept) => text.push_str(kept),
        Json::Object(object) => text = serde_json::to_string(object).ok()?,
        Json::Strings(list) => {
            let _ = write!(text, "{}", serde_json::Value::from(list));
        }
    }
    Some(text)
}
