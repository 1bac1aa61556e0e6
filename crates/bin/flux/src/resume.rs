//! Going on where it was, when the broker or the leader of the instance was away meanwhile.
//!
//! A log of a job only grows, so that whoever follows it again from its beginning knows by their
//! number which entries it has seen. A command that follows jobs therefore waits by default: it
//! says within seconds what happened, goes on when the instance is back, and gives up after
//! [`LIMIT_VARIABLE`] (ten minutes where it says nothing; `0` fails at once), or as soon as the
//! instance has ended and removed its socket.

use std::path::Path;
use std::time::{Duration, Instant};

use flux_api::RpcError;
use flux_api::job::info::{EventlogEntry, EventlogWatch, EventlogWatch_, InfoLookup, Lookup};
use flux_client::{Client, OpenError, Stream, To};
use flux_id::fsd;
use flux_model::eventlog::Event;
use flux_proto::Errno;

use crate::output;

/// Environment variable: how long to wait for an instance that is away, a duration (RFC 23).
pub(crate) const LIMIT_VARIABLE: &str = "FLUX_RECONNECT_TIMEOUT";

const LIMIT: Duration = Duration::from_secs(600);
/// A shorter absence is not worth a word.
const SILENT: Duration = Duration::from_secs(2);
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// Before a log that may have been cut short is followed again.
const DOUBT: Duration = Duration::from_millis(500);
/// The log of the job itself.
const JOB_LOG: &str = "eventlog";

/// Whether an error says that somebody on the way is away or starting, which may pass.
pub(crate) fn may_pass(error: &RpcError) -> bool {
    [Errno::EHOSTUNREACH, Errno::ETIMEDOUT, Errno::ECONNRESET, Errno::EAGAIN, Errno::ENOSYS]
        .contains(&error.errno)
}

/// The time during which the instance cannot be reached.
#[derive(Debug)]
pub(crate) struct Outage {
    limit: Duration,
    since: Option<Instant>,
    reason: String,
    told: bool,
    pause: Duration,
}

impl Outage {
    /// None yet; the limit is that of the environment.
    pub(crate) fn new() -> Self {
        let text = std::env::var(LIMIT_VARIABLE).ok();
        let seconds = text.and_then(|text| fsd::parse(&text).ok());
        let limit =
            seconds.map_or(LIMIT, |s| Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX));
        Self { limit, since: None, reason: String::new(), told: false, pause: PAUSE_FIRST }
    }

    /// The instance cannot be reached. Returns the pause before the next attempt, or the reason
    /// once it has been away for too long.
    pub(crate) fn begin(&mut self, reason: &str, now: Instant) -> Result<Duration, String> {
        let since = *self.since.get_or_insert(now);
        self.reason = reason.to_string();
        if now.saturating_duration_since(since) >= self.limit {
            return Err(self.reason.clone());
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_LONGEST);
        Ok(pause)
    }

    /// It is back; what to say about that.
    pub(crate) fn end(&mut self) -> Option<&'static str> {
        self.since = None;
        self.pause = PAUSE_FIRST;
        std::mem::take(&mut self.told).then_some("the instance is back")
    }

    /// What to say about it, once.
    pub(crate) fn news(&mut self, now: Instant) -> Option<String> {
        let since = self.since.filter(|since| now.saturating_duration_since(*since) >= SILENT)?;
        if std::mem::replace(&mut self.told, true) {
            return None;
        }
        let left = self.limit.saturating_sub(now.saturating_duration_since(since));
        let left = match left.as_secs() {
            _ if self.limit == Duration::MAX => String::new(),
            seconds => format!(" for up to {}", fsd::format(seconds as f64)),
        };
        Some(format!("the instance cannot be reached ({}), waiting for it{left}", self.reason))
    }

    /// When there is something to say.
    pub(crate) fn news_at(&self) -> Option<Instant> {
        self.since.filter(|_| !self.told).map(|since| since + SILENT)
    }
}

/// Connects again, if the broker is there.
///
/// # Errors
/// Why not; `true` when waiting is of no use.
pub(crate) fn connect() -> Result<Client, (String, bool)> {
    let uri = flux_client::own_uri();
    match Client::open_once(&uri, Duration::from_secs(1)) {
        Ok(client) => Ok(client),
        Err(OpenError::NotFound { path }) => {
            // A broker that was killed leaves its socket behind; an instance that ends does not,
            // nor the directory.
            let ended = Path::new(&path).parent().is_some_and(|dir| !dir.is_dir());
            Err((if ended { "the instance has ended".into() } else { "no broker".into() }, ended))
        }
        Err(error) => Err((error.errno().text().to_string(), false)),
    }
}

/// A log of a job that is followed.
#[derive(Debug)]
pub(crate) struct Log {
    request: EventlogWatch,
    stream: Option<Stream<EventlogWatch_>>,
    /// Entries that were taken.
    taken: usize,
    /// Of the stream there is now, so many are known.
    known: usize,
    again: Option<Instant>,
    ended: bool,
    /// Something came since it was followed last.
    alive: bool,
}

/// What comes of a log.
#[derive(Debug)]
pub(crate) enum Next {
    /// An entry.
    Entry(EventlogEntry),
    /// It cannot be followed at the moment.
    Away(RpcError),
    /// It cannot be followed.
    Failed(RpcError),
}

impl Log {
    /// Follows a log.
    pub(crate) fn new(client: &Client, request: EventlogWatch) -> Self {
        let mut log = Self {
            request,
            stream: None,
            taken: 0,
            known: 0,
            again: None,
            ended: false,
            alive: false,
        };
        log.follow(client);
        log
    }

    /// Follows it again, from what is known on.
    pub(crate) fn follow(&mut self, client: &Client) {
        if self.ended {
            return;
        }
        self.again = None;
        self.known = self.taken;
        self.stream = Some(client.stream::<EventlogWatch_>(To::Any, &self.request));
    }

    /// Follows it again at a time.
    pub(crate) fn follow_at(&mut self, at: Instant) {
        self.again = Some(at);
    }

    /// It ended although there must be more: follows it again at a time.
    pub(crate) fn doubt(&mut self, at: Instant) {
        self.ended = false;
        self.again = Some(at);
    }

    /// When [`Log::retry`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.again
    }

    /// Follows it again if it is time.
    pub(crate) fn retry(&mut self, client: &Client, now: Instant) {
        if self.again.is_some_and(|at| at <= now) {
            self.follow(client);
        }
    }

    /// The next thing that is there.
    pub(crate) fn next(&mut self) -> Option<Next> {
        loop {
            let stream = self.stream.as_mut()?;
            let item = stream.try_next();
            let ended = stream.is_ended();
            match item {
                Some(Ok(entry)) => {
                    self.alive = true;
                    if entry.event.is_some() {
                        if self.known > 0 {
                            self.known -= 1;
                            continue;
                        }
                        self.taken += 1;
                    }
                    return Some(Next::Entry(entry));
                }
                Some(Err(error)) => {
                    self.stream = None;
                    if may_pass(&error) {
                        return Some(Next::Away(error));
                    }
                    self.ended = true;
                    return Some(Next::Failed(error));
                }
                None => {
                    if ended {
                        self.ended = true;
                        self.alive = true;
                        self.stream = None;
                    }
                    return None;
                }
            }
        }
    }

    /// Whether it is at its end.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether something came since this was asked last.
    pub(crate) fn was_alive(&mut self) -> bool {
        std::mem::take(&mut self.alive)
    }

    /// The matchtag of the request that follows it now.
    pub(crate) fn matchtag(&self) -> Option<u32> {
        self.stream.as_ref().map(Stream::matchtag)
    }
}

/// One log of a job, entry by entry, whatever goes away meanwhile.
#[derive(Debug)]
pub(crate) struct Entries {
    program: &'static str,
    client: Client,
    request: EventlogWatch,
    stream: Stream<EventlogWatch_>,
    /// Since when it is followed as it is now.
    since: Instant,
    /// Entries that were taken.
    taken: usize,
    /// Of the stream there is now, so many are known.
    known: usize,
    /// The last event of the job was seen: its log is whole.
    clean: bool,
    /// The job was at its end before the log was followed.
    last: bool,
    outage: Outage,
}

impl Entries {
    /// Follows a log; `program` begins the lines about the instance.
    pub(crate) fn new(program: &'static str, client: Client, request: EventlogWatch) -> Self {
        let stream = client.stream::<EventlogWatch_>(To::Any, &request);
        Self {
            program,
            client,
            request,
            stream,
            since: Instant::now(),
            taken: 0,
            known: 0,
            clean: false,
            last: false,
            outage: Outage::new(),
        }
    }

    /// The next entry; `None` at the end of the log.
    ///
    /// # Errors
    /// ETIMEDOUT at the deadline; else why the log cannot be followed, now or any more.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Result<Option<String>, RpcError> {
        loop {
            let item = match deadline {
                None => self.stream.next().transpose(),
                Some(at) => self.stream.next_within(at.saturating_duration_since(Instant::now())),
            };
            let late = deadline.is_some_and(|at| at <= Instant::now());
            match item {
                Ok(Some(entry)) => {
                    self.back();
                    let Some(line) = entry.event else { continue };
                    if self.known > 0 {
                        self.known -= 1;
                        continue;
                    }
                    self.taken += 1;
                    self.clean |= Event::decode(&line).is_ok_and(|event| event.name == "clean");
                    return Ok(Some(line));
                }
                Ok(None) if self.is_whole() => return Ok(None),
                _ if late => return Err(Errno::ETIMEDOUT.into()),
                // A broker that went away has cut it short.
                Ok(None) => {
                    if !self.last {
                        Self::pause(DOUBT, deadline);
                    }
                    self.follow();
                }
                Err(error) if may_pass(&error) => self.again(error, deadline)?,
                Err(error) => return Err(error),
            }
        }
    }

    fn pause(time: Duration, deadline: Option<Instant>) {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        std::thread::sleep(left.map_or(time, |left| left.min(time)));
    }

    fn back(&mut self) {
        if let Some(text) = self.outage.end() {
            output::error_line(&format!("{}: {text}", self.program));
        }
    }

    fn follow(&mut self) {
        self.known = self.taken;
        self.since = Instant::now();
        self.stream = self.client.stream::<EventlogWatch_>(To::Any, &self.request);
    }

    /// Follows the log again after a pause.
    fn again(&mut self, error: RpcError, deadline: Option<Instant>) -> Result<(), RpcError> {
        if self.since.elapsed() > SILENT {
            // It was well since the last time, only that nothing came.
            self.back();
        }
        let now = Instant::now();
        let Ok(pause) = self.outage.begin(&error.message(), now) else { return Err(error) };
        if let Some(text) = self.outage.news(now) {
            output::error_line(&format!("{}: {text}", self.program));
        }
        Self::pause(pause, deadline);
        if self.client.is_lost() {
            match connect() {
                Ok(client) => self.client = client,
                Err((why, true)) => {
                    return Err(RpcError::new(error.errno, format!("{}: {why}", error.message())));
                }
                // The next attempt finds the same connection, lost.
                Err(_) => {}
            }
        }
        self.follow();
        Ok(())
    }

    /// Whether the end of the stream is the end of the log.
    fn is_whole(&mut self) -> bool {
        if self.clean || self.last {
            return true;
        }
        if self.request.path == JOB_LOG {
            return false;
        }
        let request = InfoLookup { id: self.request.id, keys: vec![JOB_LOG.to_string()], flags: 0 };
        let log = self.client.call::<Lookup>(To::Any, &request).ok();
        let log = log.as_ref().and_then(|found| found.get(JOB_LOG)?.as_str());
        // What was cut short is read once more, when all is there for certain.
        self.last = log.is_some_and(|log| {
            let last = log.lines().next_back();
            last.and_then(|line| Event::decode(line).ok())
                .is_some_and(|event| event.name == "clean")
        });
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_outage_is_not_worth_a_word_and_a_long_one_ends_the_wait() {
        let now = Instant::now();
        let mut outage = Outage { limit: Duration::from_secs(60), ..Outage::new() };
        assert_eq!(outage.begin("gone", now), Ok(PAUSE_FIRST));
        assert_eq!(outage.news(now), None);
        assert_eq!(outage.end(), None);
        assert_eq!(outage.begin("gone", now), Ok(PAUSE_FIRST));
        assert!(outage.begin("gone", now + SILENT).is_ok());
        let news = outage.news(now + SILENT).unwrap();
        assert_eq!(news, "the instance cannot be reached (gone), waiting for it for up to 58s");
        assert_eq!(outage.news(now + SILENT), None);
        assert_eq!(outage.begin("gone", now + Duration::from_secs(60)), Err("gone".into()));
        assert_eq!(outage.end(), Some("the instance is back"));
    }
}
