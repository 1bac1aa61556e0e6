//! Answers of the broker and of other shells, and what happens when broker or answers are lost.
//!
//! Nothing here gives up on a broker that is away: what failed on its way is sent again, in a form
//! that counts once however often it arrives.

use std::time::{Duration, Instant};

use flux_api::job::exec::{ShellBarrier, ShellBarrier_};
use flux_api::kvs::{Commit, Lookup, LookupRequest, LookupResponse, RootResponse, TREEOBJ};
use flux_api::{Body, RpcError, rpc};
use flux_client::To;
use flux_model::treeobj::Treeobj;
use flux_proto::{Errno, Message};

use super::{Shell, Waiting, due};
use crate::job;
use crate::log::Level;
use crate::pmi::Keys;
use crate::recorder::{Doubt, Found};

/// Time until something that failed on its way is tried again.
const SETTLE: Duration = Duration::from_millis(500);
/// The parent of a fence is gone when its broker has known no such shell for so long.
const GONE: Duration = Duration::from_secs(30);

/// Whether an error says that somebody on the way is away, starting, or out of space: all of it
/// may pass.
pub(super) fn may_pass(errno: Errno) -> bool {
    [
        Errno::EHOSTUNREACH,
        Errno::ETIMEDOUT,
        Errno::ECONNRESET,
        Errno::EAGAIN,
        Errno::ENOSYS,
        Errno::ENOSPC,
        Errno::EIO,
        Errno::ECANCELED,
    ]
    .contains(&errno)
}

impl Shell {
    pub(super) fn on_answer(&mut self, what: Waiting, answer: Result<Message, RpcError>) {
        let soon = Some(Instant::now() + SETTLE);
        match (what, answer) {
            (Waiting::Commit, Ok(_)) => self.recorder.committed(),
            // Whether it took effect is not known; it is asked for when things have settled.
            (Waiting::Commit | Waiting::Fenced | Waiting::Doubt(_), Err(error))
                if may_pass(error.errno) =>
            {
                self.again.commit = soon;
            }
            (Waiting::Commit | Waiting::Fenced, Err(error)) => self.commit_failed(&error),
            (Waiting::Fenced, Ok(message)) => self.ask_what_is_stored(&message),
            (Waiting::Doubt(doubt), answer) => self.settle(&doubt, answer),
            (Waiting::Barrier, Ok(_)) => self.announce_start(),
            (Waiting::Barrier, Err(error)) => self.barrier_failed(&error),
            (Waiting::Running(shell), answer) => self.runs(shell, answer),
            (Waiting::Register(1), Ok(_)) => self.subscribed = true,
            (Waiting::Raise(_) | Waiting::Kill | Waiting::Register(_), Ok(_)) => {}
            (Waiting::Raise(body), Err(error)) if may_pass(error.errno) => {
                self.unraised.push(body);
                self.again.raise = soon;
            }
            (Waiting::Raise(_), Err(error)) => {
                // The exit code still ends the job as failed.
                self.code = self.code.max(1);
                self.log(Level::Error, "", &format!("raising an exception failed: {error}"));
            }
            (Waiting::Kill, Err(error)) => {
                self.log(Level::Warn, "signal", &format!("sending a signal failed: {error}"));
            }
            (Waiting::Register(which), Err(_)) => {
                // The broker may not have noticed yet that the connection before is gone.
                self.again.register[which] = soon;
            }
            (Waiting::Letter(to, number), Ok(_)) => {
                if let Some(outbox) = self.outboxes.get_mut(&to) {
                    outbox.acknowledged(number);
                }
            }
            (Waiting::Letter(to, _), Err(error)) => self.letter_failed(to, &error),
            (Waiting::Fence(round), Ok(message)) => match message.json::<Keys>() {
                Ok(keys) => {
                    let step = self.fence.answer(round, keys);
                    self.fence_step(step);
                }
                Err(error) => self.fence_failed(&error.to_string()),
            },
            (Waiting::Fence(round), Err(error)) => self.keys_failed(round, &error),
        }
    }

    fn commit_failed(&mut self, error: &RpcError) {
        // The namespace is full, or gone: nothing can be recorded any more.
        self.recorder.committed();
        if error.errno == Errno::EDQUOT && !std::mem::replace(&mut self.quota_told, true) {
            return self.fatal(1, "", &format!("output cannot be stored: {error}"));
        }
        self.code = self.code.max(1);
        let text = format!("commit failed: {error}");
        crate::complain(&crate::log::line(Some(self.rank), Level::Error, "eventlog", &text));
    }

    fn barrier_failed(&mut self, error: &RpcError) {
        if error.errno == Errno::EIO {
            // Another shell has ended: its tasks were done, and the answer for this one got lost
            // with rank 0, or the execution service ends the job.
            self.announce_start();
        } else if may_pass(error.errno) || error.errno == Errno::ENOENT && !self.local_done() {
            // Restarted, the execution service may not know the job again yet.
            self.again.barrier = Some(Instant::now() + SETTLE);
        } else if error.errno == Errno::ENOENT {
            self.announce_start();
        } else {
            self.fatal(1, "", &format!("shell_barrier: {error}"));
        }
    }

    fn letter_failed(&mut self, to: u32, error: &RpcError) {
        let Some(outbox) = self.outboxes.get_mut(&to) else { return };
        if !outbox.failed(error.errno, Instant::now()) {
            return;
        }
        outbox.clear();
        // A leader ends when it has every letter, so that at the end only acknowledgements are
        // missing; before that, nobody will record what this shell says.
        if to == 0 && !self.ended {
            let text = format!("the leader of the job is gone: {error}");
            crate::complain(&crate::log::line(Some(self.rank), Level::Error, "", &text));
            self.code = self.code.max(1);
        }
    }

    fn keys_failed(&mut self, round: u64, error: &RpcError) {
        if self.fence.unanswered().is_none_or(|up| up.round != round) {
            return;
        }
        let now = Instant::now();
        let unknown = error.errno == Errno::ENOSYS;
        let since = *self.again.fence_unknown.get_or_insert(now);
        if !unknown {
            self.again.fence_unknown = None;
        }
        if !may_pass(error.errno) || (unknown && now.saturating_duration_since(since) > GONE) {
            self.fence_failed(&error.message());
        } else {
            self.again.fence = Some(now + SETTLE);
        }
    }

    /// The connection is lost: the tasks run on.
    pub(super) fn connection_lost(&mut self, lost: Vec<Waiting>, now: Instant) {
        self.patience.lost(now);
        let pause = self.patience.pause();
        self.link.retry_after(now, pause);
        self.log(Level::Warn, "", &format!("broker: {}", Errno::ECONNRESET.text()));
        // Nobody can be answered over this connection any more.
        self.fence_waiting.clear();
        self.subscribed = false;
        self.terminals_unseen();
        for outbox in self.outboxes.values_mut() {
            outbox.set_stalled(true);
        }
        for what in lost {
            match what {
                Waiting::Raise(body) => self.unraised.push(body),
                Waiting::Kill => self.warning = Some(now),
                Waiting::Barrier => self.again.barrier = Some(now),
                // Sent again, or asked for, as soon as there is a connection.
                Waiting::Commit
                | Waiting::Fenced
                | Waiting::Doubt(_)
                | Waiting::Letter(..)
                | Waiting::Fence(_)
                | Waiting::Register(_) => {}
                Waiting::Running(shell) => drop(self.asked.remove(&shell)),
            }
        }
    }

    /// Tries to connect; if that works, registers and sends what is unanswered.
    pub(super) fn connect_again(&mut self, now: Instant) {
        if self.link.open().is_err() {
            let pause = self.patience.pause();
            self.link.retry_after(now, pause);
            return;
        }
        self.patience.found();
        self.again.register = [Some(now); 2];
        self.again.commit = Some(now);
        self.again.fence = Some(now);
        self.again.raise = Some(now);
        for outbox in self.outboxes.values_mut() {
            outbox.restart(now);
        }
        self.log(Level::Notice, "", "broker: reconnected");
    }

    /// Does again what failed and whose time has come.
    pub(super) fn try_again(&mut self, now: Instant) {
        for which in 0..self.again.register.len() {
            if due(&mut self.again.register[which], now) {
                let [service, events] = job::registration(self.job.id, &self.job.service);
                let message = if which == 0 { service } else { events };
                drop(self.link.ask(Waiting::Register(which), To::Any, message));
            }
        }
        if due(&mut self.again.commit, now)
            && let Some(fence) = self.recorder.fence()
        {
            let message = rpc::request::<Commit>(&fence);
            drop(self.link.ask(Waiting::Fenced, To::Any, message));
        }
        if due(&mut self.again.fence, now)
            && let Some(up) = self.fence.unanswered().cloned()
        {
            self.send_keys(&up);
        }
        if due(&mut self.again.raise, now) {
            for body in std::mem::take(&mut self.unraised) {
                self.send_raise(body);
            }
        }
        if due(&mut self.again.barrier, now) {
            self.ask_barrier();
        }
    }

    /// Enters the second barrier.
    pub(super) fn ask_barrier(&mut self) {
        let node = &self.layout.nodes[self.rank as usize];
        let request = ShellBarrier { id: self.job.id.0, rank: node.broker_rank, passed: Some(1) };
        let message = rpc::request::<ShellBarrier_>(&request);
        if self.link.ask(Waiting::Barrier, To::Any, message).is_err() {
            self.again.barrier = Some(Instant::now());
        }
    }

    /// Asks what is stored, after everything that was sent before is done with.
    fn ask_what_is_stored(&mut self, fence: &Message) {
        let Some(doubt) = self.recorder.doubt() else { return };
        let request = LookupRequest {
            key: doubt.key.to_string(),
            flags: if doubt.counted { TREEOBJ } else { 0 },
            namespace: Some(format!("job-{}", self.job.id.dec())),
            rootdir: None,
            rootseq: RootResponse::take(fence).ok().map(|root| root.rootseq),
            userid: None,
        };
        let message = rpc::request::<Lookup>(&request);
        if self.link.ask(Waiting::Doubt(doubt), To::Any, message).is_err() {
            self.again.commit = Some(Instant::now());
        }
    }

    fn settle(&mut self, doubt: &Doubt, answer: Result<Message, RpcError>) {
        let object = match answer {
            Ok(message) => LookupResponse::take(&message)
                .ok()
                .and_then(|object| Treeobj::from_value(&object.val).ok()),
            Err(error) if error.errno == Errno::ENOENT => None,
            Err(error) => return self.commit_failed(&error),
        };
        let empty = Vec::new();
        let found = match &object {
            None if doubt.counted => Found::Pieces(0),
            Some(Treeobj::Valref(pieces)) => Found::Pieces(pieces.len()),
            Some(_) if doubt.counted => Found::Pieces(1),
            Some(Treeobj::Val(data)) => Found::Text(data),
            _ => Found::Text(&empty),
        };
        if let Some(request) = self.recorder.settle(doubt, found, Instant::now()) {
            self.send_commit(&request);
        }
    }
}
