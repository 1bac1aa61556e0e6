//! Appends to the job's eventlogs, many in one commit, at most one commit on its way.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use flux_api::kvs::{APPEND, CommitRequest, Operation};
use flux_model::treeobj::Treeobj;

/// Most bytes in one commit.
const COMMIT_BYTES: usize = 4 << 20;
/// With more bytes than this waiting, output is taken from tasks no more.
const FULL_BYTES: usize = 32 << 20;

/// An eventlog of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Log {
    /// `exec.eventlog`.
    Exec,
    /// `output`.
    Output,
    /// `input`.
    Input,
}

impl Log {
    /// Key in the job's namespace.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Log::Exec => "exec.eventlog",
            Log::Output => "output",
            Log::Input => "input",
        }
    }
}

/// How much of the logs that only this shell writes is stored.
type Lengths = BTreeMap<Log, u64>;

/// The commit that is on its way.
#[derive(Debug, Clone, PartialEq)]
struct Batch {
    texts: BTreeMap<Log, String>,
}

/// What must be read back to learn whether a commit whose answer was lost took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// Key to read.
    pub key: &'static str,
    log: Log,
}

/// The queue of appends.
#[derive(Debug)]
pub struct Recorder {
    namespace: String,
    queue: VecDeque<(Log, String)>,
    bytes: usize,
    due: Option<Instant>,
    sent: Option<Batch>,
    stored: Lengths,
}

impl Recorder {
    /// An empty queue for a namespace.
    #[must_use]
    pub fn new(namespace: String) -> Self {
        Self {
            namespace,
            queue: VecDeque::new(),
            bytes: 0,
            due: None,
            sent: None,
            stored: Lengths::new(),
        }
    }

    /// Appends an event, to be committed within `delay`.
    pub fn append(&mut self, log: Log, line: String, now: Instant, delay: Duration) {
        self.bytes += line.len();
        self.queue.push_back((log, line));
        self.hurry(now, delay);
    }

    /// What waits shall be committed within `delay`.
    pub fn hurry(&mut self, now: Instant, delay: Duration) {
        if self.queue.is_empty() {
            return;
        }
        let at = now + delay;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When the next commit is to be made, if one waits and none is on its way.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        if self.sent.is_some() { None } else { self.due }
    }

    /// Whether everything is stored.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.sent.is_none() && self.queue.is_empty()
    }

    /// Whether tasks have to wait with their output.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes >= FULL_BYTES
    }

    /// The next commit, if it is time.
    pub fn take(&mut self, now: Instant) -> Option<CommitRequest> {
        let due = self.due()?;
        if due > now && self.bytes < COMMIT_BYTES {
            return None;
        }
        let mut texts: BTreeMap<Log, String> = BTreeMap::new();
        let mut size = 0;
        while let Some((log, line)) = self.queue.front() {
            if size > 0 && size + line.len() > COMMIT_BYTES {
                break;
            }
            size += line.len();
            texts.entry(*log).or_default().push_str(line);
            self.queue.pop_front();
        }
        self.bytes -= size;
        self.due = (!self.queue.is_empty()).then_some(now);
        if texts.is_empty() {
            return None;
        }
        let batch = Batch { texts };
        let request = self.request(&batch);
        self.sent = Some(batch);
        Some(request)
    }

    fn request(&self, batch: &Batch) -> CommitRequest {
        let ops = batch
            .texts
            .iter()
            .map(|(log, text)| Operation {
                key: log.key().to_string(),
                flags: APPEND,
                dirent: Treeobj::val(text.as_bytes()).to_value(),
            })
            .collect();
        CommitRequest { namespace: self.namespace.clone(), flags: 0, ops }
    }

    /// The commit on its way is stored.
    pub fn committed(&mut self) {
        if let Some(batch) = self.sent.take() {
            for (log, text) in batch.texts {
                *self.stored.entry(log).or_default() += text.len() as u64;
            }
        }
    }

    /// The answer of the commit on its way was lost: what to read to find out.
    #[must_use]
    pub fn doubt(&self) -> Option<Doubt> {
        let log = *self.sent.as_ref()?.texts.keys().next()?;
        Some(Doubt { key: log.key(), log })
    }

    /// Settles a doubt with what is stored now; returns the commit to send again if it is not
    /// there. A log that others write too is searched, for others the length tells.
    pub fn settle(&mut self, doubt: &Doubt, content: &[u8]) -> Option<CommitRequest> {
        let batch = self.sent.as_ref()?;
        let text = batch.texts.get(&doubt.log)?;
        let there = match doubt.log {
            Log::Exec => contains(content, text.as_bytes()),
            log => content.len() as u64 > self.stored.get(&log).copied().unwrap_or(0),
        };
        if there {
            self.committed();
            return None;
        }
        Some(self.request(batch))
    }
}

fn contains(content: &[u8], part: &[u8]) -> bool {
    content.windows(part.len().max(1)).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_millis(500);

    fn text(request: &CommitRequest) -> Vec<(String, String)> {
        let op = |op: &Operation| match Treeobj::from_value(&op.dirent).unwrap() {
            Treeobj::Val(data) => (op.key.clone(), String::from_utf8(data).unwrap()),
            other => panic!("{other:?}"),
        };
        request.ops.iter().map(op).collect()
    }

    fn own(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
    }

    #[test]
    fn appends_share_a_commit_and_the_next_waits_for_its_answer() {
        let now = Instant::now();
        let mut recorder = Recorder::new("job-1".into());
        recorder.append(Log::Output, "a\n".into(), now, LONG);
        assert!(recorder.take(now).is_none());
        recorder.append(Log::Exec, "b\n".into(), now, Duration::ZERO);
        recorder.append(Log::Output, "c\n".into(), now, LONG);
        let request = recorder.take(now).unwrap();
        assert_eq!(text(&request), own(&[("exec.eventlog", "b\n"), ("output", "a\nc\n")]));
        recorder.append(Log::Output, "d\n".into(), now, Duration::ZERO);
        assert!(recorder.take(now).is_none() && recorder.due().is_none());
        recorder.committed();
        assert_eq!(text(&recorder.take(now).unwrap()), own(&[("output", "d\n")]));
        recorder.committed();
        assert!(recorder.is_idle());
    }

    #[test]
    fn a_lost_answer_is_settled_by_what_is_stored() {
        let now = Instant::now();
        let mut recorder = Recorder::new("job-1".into());
        recorder.append(Log::Output, "a\n".into(), now, Duration::ZERO);
        assert!(recorder.take(now).is_some());
        recorder.committed();
        recorder.append(Log::Output, "b\n".into(), now, Duration::ZERO);
        assert!(recorder.take(now).is_some());
        let doubt = recorder.doubt().unwrap();
        let again = recorder.settle(&doubt, b"a\n").unwrap();
        assert_eq!(text(&again), own(&[("output", "b\n")]));
        assert!(recorder.settle(&doubt, b"a\nb\n").is_none());
        assert!(recorder.is_idle());
    }

    #[test]
    fn a_log_with_other_writers_is_searched() {
        let now = Instant::now();
        let mut recorder = Recorder::new("job-1".into());
        recorder.append(Log::Exec, "{x}\n".into(), now, Duration::ZERO);
        assert!(recorder.take(now).is_some());
        let doubt = recorder.doubt().unwrap();
        assert!(recorder.settle(&doubt, b"{init}\n{other}\n").is_some());
        assert!(recorder.settle(&doubt, b"{init}\n{x}\n{y}\n").is_none());
        assert!(recorder.is_idle());
    }
}
