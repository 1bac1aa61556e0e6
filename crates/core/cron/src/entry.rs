//! What an entry says, and what it remembers.

use std::collections::VecDeque;

use flux_api::cron::CronCreate;
use flux_svc::TimerId;
use serde_json::{Map, Value, json};

use crate::schedule::Schedule;
use crate::task::Task;

/// Most runs that are remembered.
pub const HISTORY_MAX: u64 = 64;

/// Counters of an entry.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Created, started, and last run: seconds since the epoch.
    pub ctime: f64,
    /// When it was started last.
    pub starttime: f64,
    /// When it ran last; 0 for never.
    pub lastrun: f64,
    /// Runs and failures since it was started.
    pub count: u64,
    /// Failures since it was started.
    pub failcount: u64,
    /// Runs of all time.
    pub total: u64,
    /// Runs that succeeded.
    pub success: u64,
    /// Runs that failed.
    pub failure: u64,
    /// Runs that waited for the sync event.
    pub deferred: u64,
}

/// An entry.
#[derive(Debug)]
pub struct Entry {
    /// Id, from 1.
    pub id: u64,
    /// What was asked for.
    pub request: CronCreate,
    /// From a crontab file: not kept in the KVS.
    pub from_file: bool,
    /// When it runs.
    pub schedule: Schedule,
    /// It runs no more until it is started.
    pub stopped: bool,
    /// Counters.
    pub stats: Stats,
    /// The run that is under way or waits.
    pub task: Option<Task>,
    /// Finished runs, newest first.
    pub finished: VecDeque<Task>,
    /// Armed for the next run.
    pub timer: Option<TimerId>,
}

impl Entry {
    /// The name for people.
    #[must_use]
    pub fn name(&self) -> &str {
        if self.request.name.is_empty() { &self.request.command } else { &self.request.name }
    }

    /// Remembers a finished run.
    pub fn remember(&mut self, task: Task) {
        let keep = self.request.history.unwrap_or(1).clamp(1, HISTORY_MAX);
        self.finished.push_front(task);
        self.finished.truncate(usize::try_from(keep).unwrap_or(1));
    }

    /// The entry as it is shown.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        let stats = &self.stats;
        let tasks: Vec<Value> =
            self.task.iter().chain(&self.finished).map(Task::to_value).collect();
        let mut map = Map::new();
        map.insert("id".into(), self.id.into());
        map.insert("rank".into(), self.request.rank.into());
        map.insert("name".into(), self.name().into());
        map.insert("command".into(), self.request.command.as_str().into());
        map.insert("repeat".into(), self.request.repeat.into());
        map.insert("stopped".into(), self.stopped.into());
        map.insert("type".into(), self.request.kind.as_str().into());
        if let Some(timeout) = self.request.timeout {
            map.insert("timeout".into(), timeout.into());
        }
        let counters = json!({
            "ctime": stats.ctime, "starttime": stats.starttime, "lastrun": stats.lastrun,
            "count": stats.count, "failcount": stats.failcount, "total": stats.total,
            "success": stats.success, "failure": stats.failure, "deferred": stats.deferred,
        });
        map.insert("stats".into(), counters);
        map.insert("typedata".into(), self.schedule.to_value());
        map.insert("tasks".into(), tasks.into());
        map
    }
}
