//! Signals from `flux job kill` for shells that cannot hear them.
//!
//! A signal is an event with a number of its own. A shell that has just been started, whose node is
//! away, or that has not subscribed again since, misses it; so each shell of which that is possible
//! is told the signals of its job as well, until it says that it has heard them and will hear the
//! next. It takes each number once. What is told so is in the execution log too, for a leader that
//! is restarted before the shell is back.

use std::collections::BTreeMap;

use flux_api::job::exec::{Signal as ToShells, Signalled};
use flux_api::kvs::{Commit, CommitRequest};
use flux_api::{Answer, Empty};
use flux_proto::{Errno, Message};
use flux_svc::{Cx, Reply, To};
use serde_json::{Value, json};

use crate::job::{Job, Stage, Step};
use crate::ranks::is_away;
use crate::{ExecService, Wait, append};

/// Most signals of a job that are kept; older ones were heard, or nobody is left to hear them.
const KEPT: usize = 64;
/// Until a shell that could not be told is told again, in microseconds.
const TELL_AGAIN: u64 = 500_000;
/// So often a shell is told. One that its broker does not know for so long has ended.
const TRIES: u32 = 240;

/// A signal to all tasks of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// Its number among all signals.
    pub n: u64,
    /// The signal.
    pub signum: i32,
}

/// Who is answered when a signal is on record, by ticket.
#[derive(Debug, Default)]
pub struct Asked {
    next: u64,
    answers: BTreeMap<u64, Answer<ToShells>>,
}

impl Asked {
    fn keep(&mut self, answer: Answer<ToShells>) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.answers.insert(ticket, answer);
        ticket
    }
}

/// Puts a signal on record in the execution log.
fn record(cx: &mut Cx<'_, Wait>, namespace: String, signal: &Signal, ticket: u64) {
    let context = json!({"n": signal.n, "signum": signal.signum});
    let ops = vec![append(cx, "exec.eventlog", &[("signal", context)])];
    let request = CommitRequest { namespace, flags: 0, ops };
    cx.call::<Commit>(To::Rank(0), &request, Wait::SignalKept(ticket));
}

impl Signal {
    /// From an event of the execution log.
    pub(crate) fn read(body: &Value) -> Option<Self> {
        let signum = body.get("signum")?.as_i64()?.try_into().ok()?;
        Some(Self { n: body.get("n")?.as_u64()?, signum })
    }
}

impl Asked {
    /// The service stops: whoever waits hears from the broker that it is gone.
    pub(crate) fn forget(&mut self) {
        std::mem::take(&mut self.answers).into_values().for_each(Answer::forget);
    }
}

impl ExecService {
    /// An event for the shells of a job was published.
    pub(crate) fn signalled(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        request: &Signalled,
        answer: Answer<ToShells>,
    ) {
        let Signalled { id, n, signum } = *request;
        let signal = Signal { n, signum };
        let running = |job: &&mut Job| job.step <= Step::Running && !job.is_mock();
        let Some(job) = self.jobs.get_mut(&id).filter(running) else {
            return answer.ok(cx, &Empty);
        };
        if job.signals.len() >= KEPT {
            job.signals.remove(0);
        }
        job.signals.push(signal.clone());
        if job.step < Step::Starting {
            // Its log is not there yet, or was not read.
            let ticket = self.asked.keep(answer);
            job.early.push((ticket, signal));
            return;
        }
        let deaf: Vec<u32> = job
            .shells
            .iter()
            .filter(|(_, shell)| !shell.listens && !shell.has_exited())
            .map(|(rank, _)| *rank)
            .collect();
        if deaf.is_empty() {
            answer.ok(cx, &Empty);
        } else {
            let namespace = job.namespace();
            let ticket = self.asked.keep(answer);
            record(cx, namespace, &signal, ticket);
        }
        for rank in deaf {
            self.tell_signals(cx, id, rank, 0);
        }
    }

    /// Puts the signals on record that came before there was a log.
    pub(crate) fn record_early(&mut self, cx: &mut Cx<'_, Wait>, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let namespace = job.namespace();
        for (ticket, signal) in std::mem::take(&mut job.early) {
            record(cx, namespace.clone(), &signal, ticket);
        }
    }

    /// The job is over: nobody is left to hear what came early.
    pub(crate) fn answer_early(&mut self, cx: &mut Cx<'_, Wait>, job: &mut Job) {
        for (ticket, _) in std::mem::take(&mut job.early) {
            if let Some(answer) = self.asked.answers.remove(&ticket) {
                answer.ok(cx, &Empty);
            }
        }
    }

    /// A signal is on record, or cannot be.
    pub(crate) fn signal_kept(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, reply: &Reply) {
        let Some(answer) = self.asked.answers.remove(&ticket) else { return };
        match reply.error() {
            Some(error) => answer.err(cx, error.clone()),
            None => answer.ok(cx, &Empty),
        }
    }

    /// Tells a shell that runs the signals that it may have missed, if there are any.
    pub(crate) fn tell_signals(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, tries: u32) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| !job.signals.is_empty()) else {
            return;
        };
        let Some(shell) = job.shells.get_mut(&rank) else { return };
        let runs = matches!(shell.stage, Stage::Running(_));
        // Once at a time: what comes meanwhile is told after that.
        if !runs || shell.listens || shell.telling || tries >= TRIES {
            return;
        }
        shell.telling = true;
        let signals: Vec<Value> = job
            .signals
            .iter()
            .map(|signal| json!({"n": signal.n, "signum": signal.signum}))
            .collect();
        let topic = format!("{}-shell-{}.kill", job.userid, job.id.f58plain());
        let message = Message::request(topic).with_json(&json!({ "signals": signals }));
        let last = job.signals.last().map_or(0, |signal| signal.n);
        cx.request(To::Rank(rank), message, Wait::Heard { id, rank, last, tries });
    }

    /// A shell has heard what it was told, or could not be told.
    pub(crate) fn heard(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: &Reply) {
        let Wait::Heard { id, rank, last, tries } = wait else { return };
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let missed = job.signals.last().is_some_and(|signal| signal.n != last);
        let Some(shell) = job.shells.get_mut(&rank) else { return };
        match reply.error() {
            Some(error)
                if is_away(error) || matches!(error.errno, Errno::ENOSYS | Errno::EAGAIN) =>
            {
                cx.timer(TELL_AGAIN, Wait::Heard { id, rank, last, tries: tries + 1 });
            }
            // One that came meanwhile may have been published before the shell could hear it.
            None if missed => {
                shell.telling = false;
                self.tell_signals(cx, id, rank, tries);
            }
            // A shell of another version cannot be told.
            _ => (shell.listens, shell.telling) = (true, false),
        }
    }

    /// Time to tell a shell again.
    pub(crate) fn tell_signals_again(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        rank: u32,
        tries: u32,
    ) {
        if let Some(shell) = self.jobs.get_mut(&id).and_then(|job| job.shells.get_mut(&rank)) {
            shell.telling = false;
        }
        self.tell_signals(cx, id, rank, tries);
    }
}
