//! The tasks of this shell: output, input, PMI, ends.

use std::io::Write;
use std::time::{Duration, Instant};

use flux_client::To;
use flux_model::wait_status;
use flux_pmi::Action;
use flux_proto::Message;
use serde_json::{Value, json};

use super::{Shell, Waiting};
use crate::exit::Exit;
use crate::log::Level;
use crate::outbox::Letter;
use crate::output::Stream;
use crate::pmi::{Keys, Step, Up};
use crate::poller::Source;
use crate::task;

/// Most bytes of input that wait for one task.
const FEED_MAX: usize = 32 << 20;
/// How long the streams of a task that was killed with SIGKILL are waited for.
const ORPHANS: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;

impl Shell {
    pub(super) fn on_output(&mut self, at: usize, stream: Stream) {
        let Some(task) = self.tasks.get_mut(at) else { return };
        let (fd, pieces) = match stream {
            Stream::Out => (&mut task.process.stdout, &mut task.out),
            Stream::Err => (&mut task.process.stderr, &mut task.err),
        };
        let (Some(open), Some(held)) = (fd.as_ref(), pieces.as_mut()) else { return };
        let Some(data) = task::read(open) else { return };
        let rank = task.rank;
        if data.is_empty() {
            let rest = held.finish();
            (*fd, *pieces) = (None, None);
            self.output(stream, rank, rest, true);
        } else {
            let data = held.feed(&data);
            if !data.is_empty() {
                self.output(stream, rank, data, false);
            }
        }
        self.report_end(at);
    }

    pub(super) fn on_exit(&mut self, at: usize) {
        let Some(task) = self.tasks.get_mut(at) else { return };
        let status = match task.process.reap() {
            Ok(Some(status)) => status,
            Ok(None) => return,
            // Somebody else has waited for it: nobody knows the status.
            Err(_) => 1 << 8,
        };
        self.poller.remove(&task.process.exit);
        task.status = Some(status);
        task.process.stdin = None;
        let pid = task.process.pid.as_raw_nonzero().get();
        let (rank, index) = (task.rank, task.index);
        task.orphaned =
            (wait_status::signal(status) == Some(SIGKILL)).then(|| Instant::now() + ORPHANS);
        self.code = self.code.max(wait_status::exit_code(status));
        self.drain_terminal(at);
        self.on_pmi(at);
        let context = json!({
            "localid": index,
            "rank": rank,
            "state": "Exited",
            "pid": pid,
            "wait_status": status,
            "signaled": wait_status::signal(status).unwrap_or(0),
            "exitcode": if wait_status::signal(status).is_some() { -1 } else { wait_status::code(status) },
        });
        let host = self.tags.host.clone();
        if self.is_leader() {
            self.ended_task(context, Exit { rank, host, wait_status: status, shell: false });
        } else if let Value::Object(mut body) = context {
            body.insert("host".to_string(), host.into());
            self.report(Letter::Doom, body);
        }
        self.report_end(at);
    }

    /// Waits no longer for streams of tasks that were killed. What holds them is ended with the
    /// shell, by whoever started that.
    pub(super) fn leave_orphans(&mut self, now: Instant) {
        for at in 0..self.tasks.len() {
            let task = &mut self.tasks[at];
            if task.orphaned.take_if(|at| *at <= now).is_none() || task.is_done() {
                continue;
            }
            let rank = task.rank;
            let streams = [
                (Stream::Out, task.process.stdout.take(), task.out.take()),
                (Stream::Err, task.process.stderr.take(), task.err.take()),
            ];
            for (stream, fd, held) in streams {
                if let Some(fd) = fd {
                    self.poller.remove(&fd);
                }
                if let Some(mut held) = held {
                    let rest = held.finish();
                    self.output(stream, rank, rest, true);
                }
            }
            let text = format!(
                "task {rank} was killed; processes that it has left are ended, {} s later",
                ORPHANS.as_secs()
            );
            self.log(Level::Warn, "", &text);
            if let Some(terminal) = self.tasks[at].process.terminal.take() {
                self.poller.remove(&terminal);
            }
            self.report_end(at);
        }
    }

    /// On the leader: a task of the job has ended.
    pub(super) fn ended_task(&mut self, context: Value, exit: Exit) {
        let (first, verdict) = self.policy.exited(exit, Instant::now());
        if first {
            self.event("shell.task-exit", context);
        }
        if let Some(verdict) = verdict {
            self.raise(&verdict.note, Some(verdict.wait_status));
        }
    }

    /// Says to terminal clients that a task has ended, once.
    pub(super) fn report_end(&mut self, at: usize) {
        let Some(task) = self.tasks.get_mut(at) else { return };
        if task.is_done() && !task.reported {
            task.reported = true;
            let status = task.status.unwrap_or_default();
            self.close_terminal(at, status);
        }
    }

    /// Gives bytes to the tasks of this shell that they are for.
    pub(super) fn give(&mut self, ranks: Option<&flux_id::Idset>, data: &[u8], eof: bool) {
        for at in 0..self.tasks.len() {
            let task = &mut self.tasks[at];
            if ranks.is_some_and(|ranks| !ranks.contains(task.rank)) {
                continue;
            }
            if task.process.terminal.is_some() {
                self.type_in(at, data);
                continue;
            }
            if task.process.stdin.is_none() {
                continue;
            }
            if task.feed.queue.len() + data.len() > FEED_MAX {
                let text = format!("task {}: buffer full, closing stdin", task.rank);
                task.process.stdin = None;
                self.log(Level::Warn, "input", &text);
                continue;
            }
            task.feed.queue.extend(data);
            task.feed.eof |= eof;
            self.feed(at);
        }
    }

    /// Writes what a task's stdin takes now.
    pub(super) fn feed(&mut self, at: usize) {
        let Some(task) = self.tasks.get_mut(at) else { return };
        let Some(fd) = task.process.stdin.as_ref() else { return };
        while !task.feed.queue.is_empty() {
            match rustix::io::write(fd, task.feed.queue.as_slices().0) {
                Ok(count) => drop(task.feed.queue.drain(..count)),
                Err(rustix::io::Errno::AGAIN) => {
                    if !task.feed.watched {
                        task.feed.watched = self.poller.add(fd, Source::Stdin(at)).is_ok();
                    }
                    return;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    // The task reads no more.
                    task.feed.queue.clear();
                    task.feed.eof = true;
                }
            }
        }
        if task.feed.watched {
            task.feed.watched = false;
            self.poller.remove(fd);
        }
        if task.feed.eof {
            task.process.stdin = None;
        }
    }

    /// Reads and serves PMI requests of a task.
    pub(super) fn on_pmi(&mut self, at: usize) {
        loop {
            let Some(task) = self.tasks.get_mut(at) else { return };
            let (Some(socket), Some(lines)) = (&task.process.pmi, &mut task.pmi) else { return };
            let rank = task.rank;
            match task::read(socket) {
                None => return,
                Some(data) if data.is_empty() => {
                    (task.pmi, task.process.pmi) = (None, None);
                    return;
                }
                Some(data) => lines.feed(&data),
            }
            loop {
                let Some(lines) = self.tasks.get_mut(at).and_then(|task| task.pmi.as_mut()) else {
                    return;
                };
                let next = lines.next_line();
                let Some(server) = &mut self.pmi else { return };
                let actions = match next {
                    Ok(Some(line)) => server.on_line(rank, &line),
                    Ok(None) => break,
                    Err(error) => server.on_bad_line(rank, error),
                };
                let broken =
                    actions.iter().any(|action| matches!(action, Action::ProtocolError { .. }));
                self.pmi_actions(actions);
                if broken {
                    let task = &mut self.tasks[at];
                    (task.pmi, task.process.pmi) = (None, None);
                    return;
                }
            }
        }
    }

    fn pmi_actions(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Reply { rank, line } => {
                    let task = self.tasks.iter().find(|task| task.rank == rank);
                    if let Some(mut socket) = task.and_then(|task| task.process.pmi.as_ref()) {
                        // A task has one request open, so that its socket has room for the reply;
                        // one that has gone is noticed elsewhere.
                        drop(socket.write_all(line.as_bytes()));
                    }
                }
                Action::BarrierEnter { keys } => {
                    let step = self.fence.enter(keys);
                    self.fence_step(step);
                }
                Action::Abort { msg, .. } => {
                    self.pmi_aborted = true;
                    let note = match msg.as_str() {
                        "" => "PMI_Abort".to_string(),
                        msg => format!("PMI_Abort: {msg}"),
                    };
                    self.raise(&note, None);
                }
                Action::ProtocolError { .. } if self.pmi_aborted => {}
                Action::ProtocolError { msg, .. } => {
                    self.log(Level::Debug, "pmi-simple", &msg);
                    self.fatal(1, "pmi-simple", "PMI-1 wire protocol error");
                }
            }
        }
    }

    pub(super) fn fence_step(&mut self, step: Option<Step>) {
        match step {
            None => {}
            Some(Step::Up(up)) => self.send_keys(&up),
            Some(Step::Done(keys)) => self.fence_done(keys),
        }
    }

    /// Sends keys to the parent; without a connection they go when there is one again.
    pub(super) fn send_keys(&mut self, up: &Up) {
        let Some(node) = self.layout.nodes.get(up.parent as usize) else { return };
        let body = json!({"from": self.rank, "round": up.round, "keys": up.keys});
        let message =
            Message::request(format!("{}.pmi-exchange", self.job.service)).with_json(&body);
        drop(self.link.ask(Waiting::Fence(up.round), To::Rank(node.broker_rank), message));
    }

    pub(super) fn fence_done(&mut self, keys: Keys) {
        for (_, request) in std::mem::take(&mut self.fence_waiting) {
            self.link.post(Message::response_to(&request).with_json(&keys));
        }
        if let Some(server) = &mut self.pmi {
            let actions = server.barrier_done(keys);
            self.pmi_actions(actions);
        }
    }

    pub(super) fn fence_failed(&mut self, text: &str) {
        self.log(Level::Error, "pmi-simple", &format!("exchange: {text}"));
        for (_, request) in std::mem::take(&mut self.fence_waiting) {
            let response = Message::error_to(&request, flux_proto::Errno::EIO, Some(text));
            self.link.post(response);
        }
        if let Some(server) = &mut self.pmi {
            let actions = server.barrier_failed(text);
            self.pmi_actions(actions);
        }
    }
}
