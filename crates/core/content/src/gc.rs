//! When the store collects what nothing refers to any more.
//!
//! A young pass is due when the store has grown by a tenth of what lives; it looks only at what
//! was stored lately, where most of the garbage is. A thorough one is due when what young passes
//! have left standing is a sixth of what lives, sooner where it costs next to nothing, and now and
//! then while there are commits; the pass that deletes what it has not reached follows. Passes are
//! at least two seconds apart: a blob outlives its last reference by that time at least, since it
//! is deleted by the second pass that does not reach it. A blob that was stored by itself is kept
//! for the grace time.
//!
//! Pure bookkeeping: the service asks it what to do next.

use std::collections::BTreeMap;

use flux_api::content::{Collect, Collected, GcInfo, Pin};
use flux_api::{Answer, RpcError};
use flux_id::fsd;
use flux_proto::Errno;
use serde_json::{Map, Value};

/// When to collect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GcSettings {
    /// Whether passes are made without being asked for (`[content] gc`).
    pub auto: bool,
    /// How long a blob is kept that no commit refers to yet, in microseconds (`[content]
    /// gc-grace`). Passes are not further apart than this by themselves.
    pub grace_us: u64,
    /// Bytes by which the store must have grown before a pass is worth its work.
    pub growth: u64,
    /// Commits after which a pass is made whatever the growth, 0 for none (`[kvs] gc-threshold`).
    pub commits: u64,
}

impl Default for GcSettings {
    fn default() -> Self {
        Self { auto: true, grace_us: 10_000_000, growth: 512 << 10, commits: 0 }
    }
}

/// A young pass is due when the growth is one part in so many of what lives.
const GROWTH_PART: u64 = 10;

/// A thorough pass is due when what young ones have left is one part in so many of what lives.
const SETTLED_PART: u64 = 6;
/// So it is at one part in so many, when the last one began so many times as long ago as it took.
const SETTLED_PART_EASY: u64 = 24;
const EASY_TIMES: u64 = 20;

/// The store is looked at when one part in so many of the least growth was written.
const LOOKS: u64 = 4;

/// Least time between the begins of two passes, in microseconds, unless the grace time is shorter.
const APART_US: u64 = 2_000_000;

/// While there are commits a thorough pass is made after this time, in microseconds, or after so
/// many times the time that the last one took: where jobs are purged, little is written.
const THOROUGH_US: u64 = 60_000_000;
const THOROUGH_TIMES: u64 = 100;

/// Time before a pass that could not be made is tried again, in microseconds.
const RETRY_US: u64 = 5_000_000;

impl GcSettings {
    /// These settings as the configuration changes them.
    ///
    /// # Errors
    /// EINVAL when a value makes no sense.
    pub fn configured(mut self, config: &Map<String, Value>) -> Result<Self, RpcError> {
        let wrong = |text: &str| RpcError::new(Errno::EINVAL, text.to_string());
        if let Some(value) = lookup(config, "content", "gc") {
            self.auto =
                value.as_bool().ok_or_else(|| wrong("content.gc: must be true or false"))?;
        }
        if let Some(value) = lookup(config, "content", "gc-grace") {
            let text = "content.gc-grace: must be a duration of at most a day, as \"10s\"";
            let seconds = value.as_str().and_then(|text| fsd::parse(text).ok());
            let seconds = seconds.filter(|seconds| (0.0..=86_400.0).contains(seconds));
            self.grace_us = (seconds.ok_or_else(|| wrong(text))? * 1e6) as u64;
        }
        if let Some(value) = lookup(config, "kvs", "gc-threshold") {
            self.commits = value
                .as_u64()
                .ok_or_else(|| wrong("kvs.gc-threshold: must be a number of commits"))?;
        }
        Ok(self)
    }
}

fn lookup<'a>(config: &'a Map<String, Value>, table: &str, key: &str) -> Option<&'a Value> {
    config.get(table)?.get(key)
}

/// Somebody who asked for a collection.
#[derive(Debug)]
struct Wanted {
    answer: Answer<Collect>,
    /// Passes that are still to be made.
    passes: u32,
    sum: Option<Collected>,
}

/// What goes on.
#[derive(Debug, Default)]
pub(crate) struct Gc {
    pub(crate) settings: GcSettings,
    /// Bytes and commits that went to the store since it was last looked at.
    written: u64,
    commits: u64,
    /// A look at the store, or a pass, is on its way.
    busy: bool,
    /// Who is served by the pass that is on its way.
    served: Vec<Wanted>,
    /// Who waits for the next one.
    wanted: Vec<Wanted>,
    /// When the last pass began.
    begun_us: Option<u64>,
    /// When the next timer goes off, if one is set.
    armed_us: Option<u64>,
    /// A pass is due.
    due: bool,
    /// The next pass is to be thorough.
    thorough_due: bool,
    /// The pass that is on its way is thorough.
    thorough: bool,
    /// When the last thorough pass began, or the first commit was made before any.
    thorough_us: Option<u64>,
    /// How long it took.
    took_us: u64,
    /// There were commits since it began.
    stirred: bool,
    /// The store is damaged: nothing is collected unless somebody asks for it.
    broken: bool,
    /// The last pass could not be made.
    failed: bool,
    /// A pass came to its end since the start.
    passed: bool,
    /// Roots of readers, by number.
    pub(crate) pins: BTreeMap<u64, (Answer<Pin>, String)>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    /// Ask how large the store is.
    Look,
    /// Make a pass, thorough or not.
    Pass(bool),
    /// Ask again after so many microseconds.
    Later(u64),
}

impl Gc {
    /// Blobs went to the store.
    pub(crate) fn wrote(&mut self, bytes: u64, commit: bool) {
        self.written += bytes;
        self.commits += u64::from(commit);
        self.stirred |= commit;
    }

    pub(crate) fn want(&mut self, answer: Answer<Collect>, thorough: bool) {
        let passes = if thorough { 2 } else { 1 };
        self.wanted.push(Wanted { answer, passes, sum: None });
    }

    /// What is to be done now; it is taken to be done.
    pub(crate) fn next(&mut self, now_us: u64) -> Next {
        if self.busy {
            return Next::Nothing;
        }
        let may = self.settings.auto && !self.broken;
        if may && self.settings.commits > 0 && self.commits >= self.settings.commits {
            (self.due, self.thorough_due) = (true, true);
        }
        let begun = if self.stirred { *self.thorough_us.get_or_insert(now_us) } else { now_us };
        let thorough_at = begun + THOROUGH_US.max(self.took_us * THOROUGH_TIMES);
        if may && self.stirred && now_us >= thorough_at {
            (self.due, self.thorough_due) = (true, true);
        }
        if !self.wanted.is_empty() || (self.due && may) {
            let since = self.begun_us.map_or(u64::MAX, |begun| now_us.saturating_sub(begun));
            let apart = self.settings.grace_us.min(APART_US);
            let apart = apart.max(if self.failed { RETRY_US } else { 0 });
            if since < apart {
                return self.later(now_us, apart - since);
            }
            self.busy = true;
            self.due = false;
            self.thorough = !self.wanted.is_empty() || self.thorough_due;
            if self.thorough {
                self.thorough_due = false;
                self.thorough_us = Some(now_us);
                self.stirred = false;
            }
            self.commits = 0;
            self.written = 0;
            self.begun_us = Some(now_us);
            self.served = std::mem::take(&mut self.wanted);
            return Next::Pass(self.thorough);
        }
        if may && self.written >= self.settings.growth / LOOKS {
            self.busy = true;
            self.written = 0;
            return Next::Look;
        }
        if may && self.stirred {
            return self.later(now_us, thorough_at - now_us);
        }
        Next::Nothing
    }

    /// Asks for a timer, unless one goes off before that.
    fn later(&mut self, now_us: u64, us: u64) -> Next {
        if self.armed_us.is_some_and(|at| at <= now_us + us) {
            return Next::Nothing;
        }
        self.armed_us = Some(now_us + us);
        Next::Later(us)
    }

    /// A timer of [`Next::Later`].
    pub(crate) fn rang(&mut self) {
        self.armed_us = None;
    }

    /// The size of the store came.
    pub(crate) fn looked(&mut self, now_us: u64, info: Result<GcInfo, RpcError>) {
        self.busy = false;
        let Ok(info) = info else { return };
        self.due |= if info.current_epoch == 0 {
            info.file_bytes >= self.settings.growth
        } else {
            info.added_bytes >= self.settings.growth
                && info.added_bytes >= info.live_bytes / GROWTH_PART
        };
        let easy = self
            .thorough_us
            .is_none_or(|begun| now_us.saturating_sub(begun) >= self.took_us * EASY_TIMES);
        let part = if easy { SETTLED_PART_EASY } else { SETTLED_PART };
        if info.settled_bytes >= self.settings.growth
            && info.settled_bytes >= info.live_bytes / part
        {
            (self.due, self.thorough_due) = (true, true);
        }
    }

    /// A pass is over; who asked for it, with what they are told.
    pub(crate) fn passed(
        &mut self,
        now_us: u64,
        result: &Result<Collected, RpcError>,
    ) -> Vec<(Answer<Collect>, Result<Collected, RpcError>)> {
        self.busy = false;
        let trouble = result.as_ref().err().map(|error| error.errno);
        // Something else went on, or the disk is full: later.
        self.failed = matches!(trouble, Some(Errno::EBUSY | Errno::ENOSPC));
        // The first pass since the start, and a thorough one, delete nothing that is old, so that
        // another follows it.
        let first = self.thorough && self.served.is_empty() || !self.passed;
        self.due |= self.failed || (trouble.is_none() && first);
        self.thorough_due |= self.failed && self.thorough;
        if self.thorough {
            self.took_us = now_us.saturating_sub(self.thorough_us.unwrap_or(now_us));
        }
        self.passed |= trouble.is_none();
        self.broken = trouble.is_some() && !self.failed;
        let mut over = Vec::new();
        for mut wanted in std::mem::take(&mut self.served) {
            let done = match result {
                Err(error) => {
                    over.push((wanted.answer, Err(error.clone())));
                    continue;
                }
                Ok(done) => done,
            };
            let mut sum = done.clone();
            if let Some(before) = wanted.sum.take() {
                sum.deleted += before.deleted;
                sum.before = before.before;
            }
            wanted.passes -= 1;
            if wanted.passes == 0 {
                over.push((wanted.answer, Ok(sum)));
            } else {
                wanted.sum = Some(sum);
                self.wanted.push(wanted);
            }
        }
        over
    }

    /// Drops whoever this message's sender is.
    pub(crate) fn disconnect(&mut self, message: &flux_proto::Message) {
        for list in [&mut self.wanted, &mut self.served] {
            let mut kept = Vec::new();
            for wanted in list.drain(..) {
                if wanted.answer.same_sender(message) {
                    wanted.answer.forget();
                } else {
                    kept.push(wanted);
                }
            }
            *list = kept;
        }
        let left: Vec<u64> = self
            .pins
            .iter()
            .filter(|(_, (answer, _))| answer.same_sender(message))
            .map(|(number, _)| *number)
            .collect();
        for number in left {
            if let Some((answer, _)) = self.pins.remove(&number) {
                answer.forget();
            }
        }
    }

    /// Everybody who waits.
    pub(crate) fn end(&mut self) -> (Vec<Answer<Collect>>, Vec<Answer<Pin>>) {
        let mut waiting: Vec<Answer<Collect>> = Vec::new();
        for list in [&mut self.wanted, &mut self.served] {
            waiting.extend(list.drain(..).map(|wanted| wanted.answer));
        }
        let pins = std::mem::take(&mut self.pins);
        (waiting, pins.into_values().map(|(answer, _)| answer).collect())
    }
}
