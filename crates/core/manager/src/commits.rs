//! Group commit: while one KVS commit is on its way, what happens next gathers for the following
//! one. Answers and actions wait here for the commit that carries what they promise.

use std::collections::{BTreeMap, VecDeque};

use flux_api::job::manager::{
    Memo, PostJobEvent_, QueueEnable_, QueueStart_, Raise, RaiseAll, Submit, SubmitErrors, Update,
    Urgency,
};
use flux_api::kvs::{APPEND, Commit, CommitRequest, Dirent, Operation, PRIMARY, PRUNE};
use flux_api::{Answer, Empty, RpcError};
use flux_id::JobId;
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use flux_svc::{Cx, Level, To};

use crate::active_index::ActiveIndex;
use crate::pieces::pieces;
use crate::purge::Asker;
use crate::service::{JobManager, Wait};

/// How long events that nobody waits for may gather, in microseconds.
pub const GATHER_US: u64 = 1_000;
/// How long the index of active jobs may be behind, when nothing else is stored, in microseconds.
pub const INDEX_US: u64 = 500_000;
/// Bytes of a commit, roughly; what is beyond waits for the next one.
pub const BATCH_BYTES: usize = 4 << 20;
/// Longest eventlog that is written once more as a whole, in bytes.
pub const WHOLE_MAX: usize = 16 << 10;
/// How long to wait after a failed commit, in microseconds.
pub const RETRY_US: u64 = 1_000_000;

/// What is to be done once a commit is durable.
#[derive(Debug)]
pub(crate) enum After {
    /// Answer ingest, and let these jobs go on.
    Submitted(Answer<Submit>, Vec<u64>, SubmitErrors),
    /// The job's alloc event is durable: it may start.
    Allocated(u64),
    /// The job's clean event is durable: it is history.
    Retire(u64),
    Urgency(Answer<Urgency>, u32),
    Raise(Answer<Raise>),
    RaiseAll(Answer<RaiseAll>, u64, u64),
    Update(Answer<Update>),
    Memo(Answer<Memo>),
    QueueEnable(Answer<QueueEnable_>),
    QueueStart(Answer<QueueStart_>),
    Post(Answer<PostJobEvent_>),
    /// These jobs are out of the KVS: what follows of a purge.
    Purged(Vec<u64>, Asker),
    /// A scheduler has said hello.
    Greeting,
}

impl After {
    /// Says that it cannot be done.
    fn refuse(self, cx: &mut Cx<'_, Wait>, error: &RpcError) {
        match self {
            Self::Submitted(answer, ..) => answer.err(cx, error.clone()),
            Self::Urgency(answer, _) => answer.err(cx, error.clone()),
            Self::Raise(answer) => answer.err(cx, error.clone()),
            Self::RaiseAll(answer, ..) => answer.err(cx, error.clone()),
            Self::Update(answer) => answer.err(cx, error.clone()),
            Self::Memo(answer) => answer.err(cx, error.clone()),
            Self::QueueEnable(answer) => answer.err(cx, error.clone()),
            Self::QueueStart(answer) => answer.err(cx, error.clone()),
            Self::Post(answer) => answer.err(cx, error.clone()),
            Self::Purged(_, asker) => asker.answer(cx, Err(error.clone())),
            Self::Allocated(_) | Self::Retire(_) | Self::Greeting => {}
        }
    }
}

#[derive(Debug, Default)]
struct Batch {
    logs: BTreeMap<u64, String>,
    /// Logs that are complete: they replace the pieces they were written in.
    whole: BTreeMap<u64, String>,
    puts: BTreeMap<String, Dirent>,
    /// What follows a put of the same key.
    more: BTreeMap<String, Vec<Treeobj>>,
    after: Vec<After>,
    /// Somebody waits.
    urgent: bool,
    /// Of what is to be written, roughly.
    bytes: usize,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.logs.is_empty()
            && self.whole.is_empty()
            && self.puts.is_empty()
            && self.after.is_empty()
    }

    /// Adds what gathered after this batch.
    fn extend(&mut self, next: Self) {
        for (id, text) in next.whole {
            self.logs.remove(&id);
            self.whole.insert(id, text);
        }
        for (id, text) in next.logs {
            self.append(id, &text);
        }
        self.puts.extend(next.puts);
        self.more.extend(next.more);
        self.after.extend(next.after);
        self.urgent |= next.urgent;
        self.bytes += next.bytes;
    }

    fn append(&mut self, id: u64, text: &str) {
        let whole = self.whole.get_mut(&id);
        whole.unwrap_or_else(|| self.logs.entry(id).or_default()).push_str(text);
    }

    fn operations(&self) -> Vec<Operation> {
        let whole = self.whole.iter().map(|(id, text)| Operation {
            key: format!("{}.eventlog", JobId(*id).kvs()),
            flags: 0,
            dirent: Treeobj::val(text.as_bytes()).into(),
        });
        let appends = self.logs.iter().map(|(id, text)| Operation {
            key: format!("{}.eventlog", JobId(*id).kvs()),
            flags: APPEND,
            dirent: Treeobj::val(text.as_bytes()).into(),
        });
        let puts = self.puts.iter().map(|(key, value)| Operation {
            key: key.clone(),
            flags: if *value == Dirent::Nothing { PRUNE } else { 0 },
            dirent: value.clone(),
        });
        let more = self.more.iter().flat_map(|(key, values)| {
            let append = |object: &Treeobj| Operation {
                key: key.clone(),
                flags: APPEND,
                dirent: object.clone().into(),
            };
            values.iter().map(append)
        });
        whole.chain(appends).chain(puts).chain(more).collect()
    }
}

/// What is stored next, and what is being stored.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    next: Batch,
    /// Batches that are full, before `next`.
    full: VecDeque<Batch>,
    flight: Option<Batch>,
    armed: bool,
    /// Which jobs are active, for a restart. Its changes go with whatever is stored next.
    pub(crate) index: ActiveIndex,
    index_armed: bool,
    /// Why nothing can be stored, since the last commit failed.
    pub(crate) failure: Option<String>,
}

impl Commits {
    /// Adds lines to a job's eventlog.
    pub(crate) fn append(&mut self, id: u64, text: &str) {
        self.next.bytes += text.len();
        self.next.append(id, text);
    }

    /// Nothing will be added to the eventlog of a job any more: it becomes one value, which takes
    /// less room than its pieces. A long one stays as it is.
    pub(crate) fn complete(&mut self, id: u64, log: &str) {
        if log.len() <= WHOLE_MAX {
            self.next.bytes += log.len();
            self.next.logs.remove(&id);
            self.next.whole.insert(id, log.to_string());
        }
    }

    /// Between two jobs: what follows may go into another commit, if this one is large.
    pub(crate) fn split(&mut self) {
        if self.next.bytes >= BATCH_BYTES {
            self.full.push_back(std::mem::take(&mut self.next));
        }
    }

    /// Removes a key and what is below it.
    pub(crate) fn remove(&mut self, key: String) {
        self.next.puts.insert(key, Dirent::Nothing);
    }

    fn has_next(&self) -> bool {
        !self.next.is_empty() || !self.full.is_empty()
    }

    fn is_urgent(&self) -> bool {
        self.next.urgent || !self.full.is_empty()
    }

    /// Sets or removes a key.
    pub(crate) fn put(&mut self, key: String, dirent: impl Into<Dirent>) {
        let dirent = dirent.into();
        if let Dirent::Object(Treeobj::Val(data)) = &dirent {
            self.next.bytes += data.len();
        }
        self.next.puts.insert(key, dirent);
    }

    /// Sets a key to a value that has much in common with others.
    pub(crate) fn put_pieces(&mut self, key: String, text: &str) {
        let mut pieces = pieces(text).into_iter().map(Treeobj::val);
        self.next.bytes += text.len();
        let more = pieces.next().map(|first| {
            self.next.puts.insert(key.clone(), first.into());
            pieces.collect::<Vec<Treeobj>>()
        });
        if let Some(more) = more.filter(|more| !more.is_empty()) {
            self.next.more.insert(key, more);
        }
    }

    /// Adds what waits for everything recorded up to now.
    pub(crate) fn after(&mut self, after: After) {
        self.next.urgent |= !matches!(after, After::Retire(_));
        self.next.after.push(after);
    }

    /// Whether everything is durable.
    pub(crate) fn is_idle(&self) -> bool {
        self.flight.is_none() && !self.has_next()
    }

    /// Refuses what would change a job while nothing can be stored.
    pub(crate) fn check(&self) -> Result<(), RpcError> {
        match &self.failure {
            None => Ok(()),
            Some(failure) => Err(RpcError::new(Errno::ENOSPC, failure.clone())),
        }
    }
}

impl JobManager {
    /// Ends an input: stores what it recorded, at once if somebody waits for it.
    pub(crate) fn flush(&mut self, cx: &mut Cx<'_, Wait>) {
        if self.commits.flight.is_some() || self.commits.armed || !self.commits.has_next() {
            if self.commits.is_urgent() && self.commits.failure.is_none() {
                self.commit(cx);
            }
            if self.draining && self.commits.failure.is_none() {
                self.commit(cx);
            }
            if self.commits.index.is_pending() && !self.commits.index_armed {
                self.commits.index_armed = true;
                cx.timer(INDEX_US, Wait::FlushIndex);
            }
            return;
        }
        if self.commits.is_urgent() {
            self.commit(cx);
        } else {
            self.commits.armed = true;
            cx.timer(GATHER_US, Wait::Flush);
        }
    }

    /// The index has been behind for long enough.
    pub(crate) fn flush_index(&mut self, cx: &mut Cx<'_, Wait>) {
        self.commits.index_armed = false;
        if self.commits.failure.is_none() {
            self.commit(cx);
        }
    }

    /// The time to gather, or to wait after a failure, is over.
    pub(crate) fn flush_now(&mut self, cx: &mut Cx<'_, Wait>) {
        self.commits.armed = false;
        if !self.commits.has_next() {
            // Nothing to try it with: the next request will.
            self.commits.failure = None;
        }
        self.commit(cx);
    }

    fn commit(&mut self, cx: &mut Cx<'_, Wait>) {
        let commits = &mut self.commits;
        if commits.flight.is_some() || !(commits.has_next() || commits.index.is_pending()) {
            return;
        }
        let batch = commits.full.pop_front().unwrap_or_else(|| std::mem::take(&mut commits.next));
        let mut ops = batch.operations();
        ops.extend(commits.index.operation());
        self.commits.flight = Some(batch);
        if ops.is_empty() {
            // Only promises: everything they need is durable already.
            return self.committed(cx, Ok(()));
        }
        let request = CommitRequest { namespace: PRIMARY.to_string(), flags: 0, ops };
        cx.hand::<Commit>(To::Any, request, Wait::Commit);
    }

    /// A commit came back.
    pub(crate) fn committed(&mut self, cx: &mut Cx<'_, Wait>, result: Result<(), RpcError>) {
        let Some(batch) = self.commits.flight.take() else { return };
        match result {
            Ok(()) => {
                if self.commits.failure.take().is_some() {
                    cx.log(Level::Notice, "job events can be stored again");
                }
                for after in batch.after {
                    self.fulfill(cx, after);
                }
                self.drain_waiters(cx);
                self.migration_done(cx);
            }
            Err(error) => self.failed(cx, batch, &error),
        }
    }

    fn failed(&mut self, cx: &mut Cx<'_, Wait>, mut batch: Batch, error: &RpcError) {
        let failure = format!("cannot store job events: {error}");
        if self.commits.failure.is_none() {
            cx.log(Level::Err, format!("{failure}; new jobs are refused until it works again"));
        }
        // Nothing of it is stored, so it comes before what has gathered since.
        self.commits.index.write_anew();
        for full in std::mem::take(&mut self.commits.full) {
            batch.extend(full);
        }
        batch.extend(std::mem::take(&mut self.commits.next));
        batch.urgent = true;
        let mut kept = Vec::new();
        for after in std::mem::take(&mut batch.after) {
            match after {
                After::Submitted(answer, ids, mut errors) => {
                    for id in ids {
                        batch.logs.remove(&id);
                        batch.whole.remove(&id);
                        let dir = JobId(id).kvs();
                        batch.puts.remove(&format!("{dir}.J"));
                        batch.more.remove(&format!("{dir}.J"));
                        batch.puts.remove(&format!("{dir}.jobspec"));
                        self.disown(cx, id);
                        errors.errors.push((id, format!("job submission is disabled: {failure}")));
                    }
                    answer.ok(cx, &errors);
                }
                other => kept.push(other),
            }
        }
        batch.after = kept;
        self.commits.next = batch;
        self.commits.failure = Some(failure);
        if !self.commits.armed {
            self.commits.armed = true;
            cx.timer(RETRY_US, Wait::Flush);
        }
    }

    /// The service goes down: stores what is left, then says so.
    pub(crate) fn settle_down(&mut self, cx: &mut Cx<'_, Wait>) {
        self.draining = true;
        self.commits.next.urgent = true;
        self.flush(cx);
        if self.commits.failure.is_none() {
            self.commit(cx);
        }
        self.drained_if_idle(cx);
    }

    /// Says drained once nothing is left to store, or nothing can be stored.
    pub(crate) fn drained_if_idle(&mut self, cx: &mut Cx<'_, Wait>) {
        if !self.draining {
            return;
        }
        if let Some(failure) = self.commits.failure.clone() {
            let error = RpcError::new(Errno::ENOSPC, failure);
            for after in std::mem::take(&mut self.commits.next.after) {
                after.refuse(cx, &error);
            }
            self.refuse_greeting(cx, &error);
        } else if !self.commits.is_idle() || self.commits.index.is_pending() {
            return;
        }
        self.draining = false;
        cx.drained();
    }

    fn fulfill(&mut self, cx: &mut Cx<'_, Wait>, after: After) {
        match after {
            After::Submitted(answer, ids, errors) => {
                answer.ok(cx, &errors);
                for id in ids {
                    if let Some(job) = self.jobs.get_mut(&id) {
                        job.entered = true;
                        self.touch(id);
                    }
                }
            }
            After::Allocated(id) => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.alloc_durable = true;
                    job.r_pending = false;
                    self.touch(id);
                }
            }
            After::Retire(id) => self.retire(cx, id),
            After::Greeting => self.greet_waiting(cx),
            After::Urgency(answer, old_urgency) => {
                answer.ok(cx, &flux_api::job::manager::UrgencyResponse { old_urgency });
            }
            After::Raise(answer) => answer.ok(cx, &Empty),
            After::RaiseAll(answer, count, errors) => {
                answer.ok(cx, &flux_api::job::manager::CountResponse { count, errors });
            }
            After::Update(answer) => answer.ok(cx, &Empty),
            After::Memo(answer) => answer.ok(cx, &Empty),
            After::QueueEnable(answer) => answer.ok(cx, &Empty),
            After::QueueStart(answer) => answer.ok(cx, &Empty),
            After::Post(answer) => answer.ok(cx, &Empty),
            After::Purged(ids, asker) => self.purged(cx, ids, asker),
        }
    }
}
