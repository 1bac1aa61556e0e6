//! How long a shell goes on without its broker, and what it does then.
//!
//! | since the loss | the shell |
//! |---|---|
//! | at once | tasks run on; tries to connect after 50 ms, then in growing steps up to every second |
//! | time limit of the job and [`LIMIT_GRACE`] are over | ends the tasks as the time limit would |
//! | [`Patience::limit`] is over | ends the tasks, and itself when they have ended |
//!
//! The limit is given by who started the shell: long where the broker is expected back, short in
//! an instance that goes with its broker.

use std::time::{Duration, Instant};

use flux_id::fsd;

/// Environment variable: how long to go on without broker, a duration (RFC 23).
pub const LIMIT_VARIABLE: &str = "FLUX_SHELL_BROKER_TIMEOUT";
/// Environment variable: a file that names the URI of the broker of this node, as it is now.
pub const URI_FILE_VARIABLE: &str = "FLUX_SHELL_URI_FILE";

/// Where the variable says nothing.
const LIMIT: Duration = Duration::from_secs(60);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
/// The execution service ends jobs at their time limit; the shell does so only when it has had no
/// broker for so long after it. The limit may have been moved meanwhile.
pub const LIMIT_GRACE: Duration = Duration::from_secs(300);
/// Between the signals that end the tasks.
const STEP: Duration = Duration::from_secs(5);

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
const SIGALRM: i32 = 14;

/// Patience with a broker that is away.
#[derive(Debug, Clone)]
pub struct Patience {
    limit: Duration,
    since: Option<Instant>,
    pause: Duration,
    /// The time limit of the job, by a clock that nobody sets.
    deadline: Option<Instant>,
    /// When the tasks are ended, by a time limit that nobody else watches.
    expires: Option<Instant>,
    ending: Option<(i32, Instant)>,
}

impl Patience {
    /// Patience up to `limit`.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, since: None, pause: RETRY_FIRST, deadline: None, expires: None, ending: None }
    }

    /// As the environment says.
    #[must_use]
    pub fn of_environment() -> Self {
        let text = std::env::var(LIMIT_VARIABLE).ok();
        let seconds = text.and_then(|text| fsd::parse(&text).ok());
        Self::new(
            seconds.map_or(LIMIT, |s| Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX)),
        )
    }

    /// How long it lasts.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The job begins now and has got its resources for the time between these two, in seconds since
    /// 1970, if it has a limit. The clock is looked at this once: it may be set later.
    #[must_use]
    pub fn with_limit(mut self, now: Instant, wall: f64, (start, end): (f64, f64)) -> Self {
        let whole = if start > 0.0 { end - start } else { f64::INFINITY };
        let left = if start > wall { whole } else { (end - wall).clamp(0.0, whole.max(0.0)) };
        let left = Duration::try_from_secs_f64(left).ok().filter(|_| end > 0.0);
        self.deadline = left.and_then(|left| now.checked_add(left));
        self
    }

    /// The broker is away.
    pub fn lost(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        self.pause = RETRY_FIRST;
        self.expires = self.deadline.and_then(|at| at.max(now).checked_add(LIMIT_GRACE));
    }

    /// The broker is back.
    pub fn found(&mut self) {
        (self.since, self.expires, self.ending) = (None, None, None);
        self.pause = RETRY_FIRST;
    }

    /// The pause until the next attempt to connect.
    pub fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(RETRY_LONGEST);
        pause
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= self.limit)
    }

    fn end(&self) -> Option<Instant> {
        let limit = self.since?.checked_add(self.limit);
        match (limit, self.expires) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// When [`Patience::act`] is to be asked.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.ending.map(|(_, at)| at).or_else(|| self.end())
    }

    /// The signal that the tasks get now, while they run.
    pub fn act(&mut self, now: Instant) -> Option<i32> {
        if self.due()? > now {
            return None;
        }
        let signal = match self.ending {
            None if self.expires.is_some_and(|at| at <= now) => SIGALRM,
            None => SIGTERM,
            Some((SIGALRM, _)) => SIGTERM,
            Some(_) => SIGKILL,
        };
        self.ending = Some((signal, now + STEP));
        Some(signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempts_are_quick() {
        let mut patience = Patience::new(LIMIT);
        patience.lost(Instant::now());
        let pauses: Vec<u128> = (0..7).map(|_| patience.pause().as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
        patience.found();
        assert_eq!(patience.pause(), RETRY_FIRST);
    }

    #[test]
    fn tasks_are_ended_when_it_is_over() {
        let now = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(100));
        assert_eq!((patience.act(now), patience.due()), (None, None));
        patience.lost(now);
        assert_eq!(patience.act(now + Duration::from_secs(99)), None);
        let over = now + Duration::from_secs(100);
        assert!(patience.is_over(over));
        assert_eq!(patience.act(over), Some(SIGTERM));
        assert_eq!(patience.act(over), None);
        assert_eq!(patience.act(over + STEP), Some(SIGKILL));
        assert_eq!(patience.act(over + STEP * 2), Some(SIGKILL));
    }

    #[test]
    fn a_time_limit_is_kept_in_the_end() {
        let now = Instant::now();
        let limit = (1_000.0, 1_060.0);
        let patience = Patience::new(Duration::from_secs(100_000));
        let mut patience = patience.with_limit(now, 1_000.0, limit);
        patience.lost(now);
        let at = now + Duration::from_secs(60) + LIMIT_GRACE;
        assert_eq!((patience.due(), patience.act(now)), (Some(at), None));
        assert_eq!(patience.act(at), Some(SIGALRM));
        assert_eq!(patience.act(at + STEP), Some(SIGTERM));
        assert_eq!(patience.act(at + STEP * 2), Some(SIGKILL));
        assert!(!patience.is_over(at));
        patience.found();
        assert_eq!(patience.due(), None);
    }

    #[test]
    fn a_clock_that_was_set_gives_a_shell_without_broker_no_other_limit() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let with = |wall: f64, limit| {
            let mut patience = Patience::new(seconds(1_000_000)).with_limit(now, wall, limit);
            patience.lost(now + seconds(100));
            patience.due().map(|at| (at - now).as_secs())
        };
        let limit = (1_700_000_000.0, 1_700_007_200.0);
        let day = |hours: u64| hours * 3600;
        // The limit counts from the start, whatever the clock says when the broker goes.
        assert_eq!(with(1_700_000_010.0, limit), Some(day(2) - 10 + 300));
        // The clock of the node is behind the leader's: the whole of it.
        assert_eq!(with(1_699_990_000.0, limit), Some(day(2) + 300));
        // Without an end there is none but that of patience.
        assert_eq!(with(1_700_000_010.0, (1_700_000_000.0, 0.0)), Some(1_000_100));
    }
}
