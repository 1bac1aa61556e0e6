//! Appends to the job's eventlogs, many in one commit, at most one commit on its way.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use flux_api::kvs::{APPEND, CommitRequest, Operation};
use flux_model::treeobj::Treeobj;

use crate::spool::{Bounds, Record, Spool};

/// Most bytes in one commit.
const COMMIT_BYTES: usize = 4 << 20;
/// A commit without answer for so long is taken for one that will not be answered soon.
const SLOW: Duration = Duration::from_secs(2);

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

    fn of(tag: u8) -> Self {
        match tag {
            0 => Log::Exec,
            1 => Log::Output,
            _ => Log::Input,
        }
    }
}

/// Commits that appended to each log.
type Counts = BTreeMap<Log, usize>;

/// The commit that is on its way.
#[derive(Debug, Clone, PartialEq)]
struct Batch {
    texts: BTreeMap<Log, String>,
}

/// What must be read to learn whether a commit whose answer was lost took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// Key to read.
    pub key: &'static str,
    /// Only how many pieces there are is of interest, not what they say.
    pub counted: bool,
    log: Log,
}

/// What was found there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// So many pieces, each of one append.
    Pieces(usize),
    /// This text.
    Text(&'a [u8]),
}

/// The queue of appends.
#[derive(Debug)]
pub struct Recorder {
    namespace: String,
    queue: Spool,
    due: Option<Instant>,
    sent: Option<Batch>,
    sent_at: Option<Instant>,
    stored: Counts,
}

impl Recorder {
    /// An empty queue for a namespace; what does not fit into memory goes to a file in `dir`.
    #[must_use]
    pub fn new(namespace: String, dir: PathBuf) -> Self {
        Self {
            namespace,
            queue: Spool::new(dir, Bounds::default()),
            due: None,
            sent: None,
            sent_at: None,
            stored: Counts::new(),
        }
    }

    /// Appends an event, to be committed within `delay`.
    pub fn append(&mut self, log: Log, line: String, now: Instant, delay: Duration) {
        self.queue.push(Record { tag: log as u8, text: line });
        self.hurry(now, delay);
    }

    /// Whether commits are not answered: what waits may go to disk.
    pub fn set_stalled(&mut self, stalled: bool, now: Instant) {
        let slow = self.sent_at.is_some_and(|at| now.saturating_duration_since(at) > SLOW);
        self.queue.set_spilling(stalled || slow);
    }

    /// What could not be kept, to be said once.
    pub fn take_loss(&mut self) -> Option<String> {
        self.queue.take_loss()
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
        self.queue.is_full()
    }

    /// The next commit, if it is time.
    pub fn take(&mut self, now: Instant) -> Option<CommitRequest> {
        let due = self.due()?;
        if due > now && self.queue.bytes() < COMMIT_BYTES as u64 {
            return None;
        }
        let mut texts: BTreeMap<Log, String> = BTreeMap::new();
        let mut size = 0;
        loop {
            // One that is larger than a commit goes alone.
            let room = if size == 0 { usize::MAX } else { COMMIT_BYTES.saturating_sub(size) };
            let Some(record) = self.queue.pop(room) else { break };
            size += record.text.len();
            match texts.entry(Log::of(record.tag)) {
                Entry::Vacant(entry) => drop(entry.insert(record.text)),
                Entry::Occupied(mut entry) => entry.get_mut().push_str(&record.text),
            }
        }
        self.due = (!self.queue.is_empty()).then_some(now);
        if texts.is_empty() {
            return None;
        }
        let batch = Batch { texts };
        let request = self.request(&batch);
        self.sent = Some(batch);
        self.sent_at = Some(now);
        Some(request)
    }

    fn request(&self, batch: &Batch) -> CommitRequest {
        let ops = batch
            .texts
            .iter()
            .map(|(log, text)| Operation {
                key: log.key().to_string(),
                flags: APPEND,
                dirent: Treeobj::val(text.as_bytes()).into(),
            })
            .collect();
        CommitRequest { namespace: self.namespace.clone(), flags: 0, ops }
    }

    /// The commit on its way is stored.
    pub fn committed(&mut self) {
        self.sent_at = None;
        if let Some(batch) = self.sent.take() {
            for (log, _) in batch.texts {
                *self.stored.entry(log).or_default() += 1;
            }
        }
    }

    /// What is empty but comes after every commit that was sent before: once it is answered, the
    /// one whose answer was lost is stored, or will never be.
    #[must_use]
    pub fn fence(&self) -> Option<CommitRequest> {
        self.sent.as_ref()?;
        Some(CommitRequest { namespace: self.namespace.clone(), flags: 0, ops: Vec::new() })
    }

    /// The answer of the commit on its way was lost: what to read to find out. A log that only
    /// this shell writes is told by the number of its pieces, another by its text.
    #[must_use]
    pub fn doubt(&self) -> Option<Doubt> {
        let log = *self.sent.as_ref()?.texts.keys().next_back()?;
        Some(Doubt { key: log.key(), counted: log != Log::Exec, log })
    }

    /// Settles a doubt with what is stored now; returns the commit to send again if it is not
    /// there.
    pub fn settle(
        &mut self,
        doubt: &Doubt,
        found: Found<'_>,
        now: Instant,
    ) -> Option<CommitRequest> {
        let batch = self.sent.as_ref()?;
        let text = batch.texts.get(&doubt.log)?;
        let there = match found {
            Found::Pieces(count) => count > self.stored.get(&doubt.log).copied().unwrap_or(0),
            Found::Text(content) => contains(content, text.as_bytes()),
        };
        if there {
            self.committed();
            return None;
        }
        let request = self.request(batch);
        self.sent_at = Some(now);
        Some(request)
    }
}

/// Whether `part`, which begins with a line, is in `content`.
fn contains(content: &[u8], part: &[u8]) -> bool {
    let Some(first) = part.split_inclusive(|byte| *byte == b'\n').next() else { return true };
    let mut at = 0;
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line == first && content[at..].starts_with(part) {
            return true;
        }
        at += line.len();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_millis(500);

    fn text(request: &CommitRequest) -> Vec<(String, String)> {
        let op = |op: &Operation| match op.dirent.clone().into_object().unwrap().unwrap() {
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
        let mut recorder = Recorder::new("job-1".into(), PathBuf::from("/tmp"));
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
        let mut recorder = Recorder::new("job-1".into(), PathBuf::from("/tmp"));
        recorder.append(Log::Output, "a\n".into(), now, Duration::ZERO);
        assert!(recorder.take(now).is_some());
        recorder.committed();
        recorder.append(Log::Output, "b\n".into(), now, Duration::ZERO);
        assert!(recorder.take(now).is_some());
        let doubt = recorder.doubt().unwrap();
        let again = recorder.settle(&doubt, Found::Pieces(1), now).unwrap();
        assert_eq!(text(&again), own(&[("output", "b\n")]));
        assert!(recorder.settle(&doubt, Found::Pieces(2), now).is_none());
        assert!(recorder.is_idle());
    }

    #[test]
    fn a_log_with_other_writers_is_searched() {
        let now = Instant::now();
        let mut recorder = Recorder::new("job-1".into(), PathBuf::from("/tmp"));
        recorder.append(Log::Exec, "{x}\n".into(), now, Duration::ZERO);
        assert!(recorder.take(now).is_some());
        let doubt = recorder.doubt().unwrap();
        assert!(recorder.settle(&doubt, Found::Text(b"{init}\n{other}\n"), now).is_some());
        assert!(recorder.settle(&doubt, Found::Text(b"{init}\n{x}\n{y}\n"), now).is_none());
        assert!(recorder.is_idle());
    }
}
