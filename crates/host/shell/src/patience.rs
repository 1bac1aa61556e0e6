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
    /// When the tasks are ended, by a time limit that nobody else watches.
    expires: Option<Instant>,
    ending: Option<(i32, Instant)>,
}

impl Patience {
    /// Patience up to `limit`.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, since: None, pause: RETRY_FIRST, expires: None, ending: None }
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

    /// The broker is away. `left`: time to the job's limit, if it has one.
    pub fn lost(&mut self, now: Instant, left: Option<Duration>) {
        self.since.get_or_insert(now);
        self.pause = RETRY_FIRST;
        self.expires = left.and_then(|left| now.checked_add(left + LIMIT_GRACE));
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
        patience.lost(Instant::now(), None);
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
        patience.lost(now, None);
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
        let mut patience = Patience::new(Duration::from_secs(100_000));
        patience.lost(now, Some(Duration::from_secs(60)));
        let at = now + Duration::from_secs(60) + LIMIT_GRACE;
        assert_eq!((patience.due(), patience.act(now)), (Some(at), None));
        assert_eq!(patience.act(at), Some(SIGALRM));
        assert_eq!(patience.act(at + STEP), Some(SIGTERM));
        assert_eq!(patience.act(at + STEP * 2), Some(SIGKILL));
        assert!(!patience.is_over(at));
        patience.found();
        assert_eq!(patience.due(), None);
    }
}
