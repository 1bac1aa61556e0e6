//! `cron`: commands that the instance owner has run at times, at intervals and after events.

use serde_json::{Map, Value};

use crate::body::AnyObject;

bodies! {
    /// Body of `cron.create`.
    pub struct CronCreate {
        /// `interval`, `event` or `datetime`.
        #[serde(rename = "type")]
        pub kind: String,
        /// A name for people; the command when empty.
        #[serde(default)]
        pub name: String,
        /// Run by `/bin/sh -c`.
        pub command: String,
        /// By type: `{interval, after?}` in seconds; `{topic, nth?, after?, min_interval?}`;
        /// `{second?, minute?, hour?, mday?, month?, year?, weekday?}` as in crontab(5).
        #[serde(default)]
        pub args: Map<String, Value>,
        /// Environment; that of the broker when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub environ: Option<Map<String, Value>>,
        /// Working directory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub cwd: Option<String>,
        /// Runs until the entry is stopped; 0 for no end.
        #[serde(default)]
        pub repeat: u64,
        /// Rank to run on.
        #[serde(default)]
        pub rank: u32,
        /// Finished runs to remember, 1 to 64.
        #[serde(default, rename = "task-history-count", skip_serializing_if = "Option::is_none")]
        pub history: Option<u64>,
        /// Failures until the entry is stopped; 0 for no end.
        #[serde(default, rename = "stop-on-failure")]
        pub stop_on_failure: u64,
        /// Seconds until a run is ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub timeout: Option<f64>,
    }

    /// Body of `cron.delete`.
    pub struct CronDelete {
        /// Id.
        pub id: u64,
        /// End a run that is under way.
        #[serde(default)]
        pub kill: bool,
    }

    /// Body of `cron.stop` and `cron.start`.
    pub struct CronId {
        /// Id.
        pub id: u64,
    }

    /// Answer of `cron.list`.
    pub struct CronList {
        /// Entries, by id.
        pub entries: Vec<Value>,
    }

    /// Body of `cron.sync`.
    pub struct CronSync {
        /// Runs wait for the next event of this topic.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub topic: Option<String>,
        /// Runs wait for nothing.
        #[serde(default)]
        pub disable: bool,
        /// Seconds after the event in which a run need not wait for the next.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub sync_epsilon: Option<f64>,
    }
}

api! {
    /// Commands at times, at intervals, after events; rank 0.
    pub enum Cron("cron") {
        /// Adds an entry; answers with it. It is kept when the instance restarts.
        Create = "cron.create", owner, unary, CronCreate => Map<String, Value>;
        /// All entries.
        List = "cron.list", owner, unary, AnyObject => CronList;
        /// Removes an entry; answers with it.
        Delete = "cron.delete", owner, unary, CronDelete => Map<String, Value>;
        /// Stops an entry.
        Stop = "cron.stop", owner, unary, CronId => Map<String, Value>;
        /// Starts it again, with its counters at zero.
        Start = "cron.start", owner, unary, CronId => Map<String, Value>;
        /// Asks for, or changes, the event that runs are aligned to.
        Sync = "cron.sync", owner, unary, CronSync => Map<String, Value>;
    }
}

bodies! {
    /// Body of `calendar.next`.
    pub struct CalendarNext {
        /// Seven fields of crontab(5) with seconds and year: `second minute hour mday month
        /// weekday year`.
        pub pattern: String,
        /// Seconds since the epoch.
        pub after: f64,
    }

    /// Answer of `calendar.next`.
    pub struct CalendarTime {
        /// Seconds since the epoch.
        pub time: f64,
    }
}

api! {
    /// A driver: the calendar in the time zone of the broker's host.
    pub enum Calendar("calendar") {
        /// The first second after a time that fits a pattern; EINVAL for a bad pattern, ENOENT
        /// when there is none.
        CalendarNext_ = "calendar.next", owner, unary, CalendarNext => CalendarTime;
    }
}
