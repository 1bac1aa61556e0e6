//! One process: who follows it, and the task that reads what it writes and waits for its end.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::watch::watched;
use flux_api::rexec::{Exec, ExecResponse, Io, Wait, WaitResponse};
use flux_api::{Answer, RpcError};
use flux_host::driver::DriverHandle;
use flux_model::subprocess::{Command, ExecFlags};
use flux_proto::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use serde_json::Map;
use tokio::io::Interest;

use crate::input::{Input, Overrun};
use crate::output::{self, Retained};
use crate::spawn;

/// Most messages that may wait for the loop while a process writes more.
const UNSENT_MAX: usize = 128;

/// Most bytes of one message of output.
pub(crate) const CHUNK: usize = 64 << 10;

/// The client that gets the responses.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) answer: Answer<Exec>,
    pub(crate) flags: ExecFlags,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) cmd: Command,
    pub(crate) own_group: bool,
    pub(crate) background: bool,
    pub(crate) waitable: bool,
    pub(crate) rank: Rc<str>,
    pub(crate) back: DriverHandle,
    pub(crate) follower: RefCell<Option<Follower>>,
    pub(crate) waiter: RefCell<Option<Answer<Wait>>>,
    pub(crate) retained: RefCell<Retained>,
    /// Streams that can be forwarded, and whether they have ended.
    pub(crate) streams: RefCell<Vec<(String, bool)>>,
    pub(crate) inputs: Vec<Rc<Input>>,
    /// It has ended and all its output is read.
    pub(crate) ended: Cell<bool>,
    /// Why its responses end in an error although it ran.
    failure: RefCell<Option<RpcError>>,
}

pub(crate) fn response(kind: &str) -> ExecResponse {
    ExecResponse {
        kind: kind.to_owned(),
        pid: None,
        io: None,
        status: None,
        channels: None,
        cmd: None,
    }
}

/// The flag that selects a stream.
fn selector(stream: &str) -> ExecFlags {
    match stream {
        "stdout" => ExecFlags::STDOUT,
        "stderr" => ExecFlags::STDERR,
        _ => ExecFlags::CHANNEL,
    }
}

impl Process {
    pub(crate) fn new(
        pid: i32,
        cmd: Command,
        (own_group, background, waitable): (bool, bool, bool),
        rank: Rc<str>,
        back: DriverHandle,
        follower: Option<Follower>,
        streams: Vec<String>,
        inputs: Vec<Rc<Input>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            pid,
            cmd,
            own_group,
            background,
            waitable,
            rank,
            back,
            follower: RefCell::new(follower),
            waiter: RefCell::default(),
            retained: RefCell::default(),
            streams: RefCell::new(streams.into_iter().map(|name| (name, false)).collect()),
            inputs,
            ended: Cell::new(false),
            failure: RefCell::default(),
        })
    }

    /// Sends a response to who follows.
    pub(crate) fn tell(&self, item: &ExecResponse) {
        if let Some(follower) = &*self.follower.borrow() {
            follower.answer.item(&mut self.back.clone(), item);
        }
    }

    fn tell_io(&self, io: Io) {
        self.tell(&ExecResponse { pid: Some(self.pid), io: Some(io), ..response("output") });
    }

    fn follows(&self, stream: &str) -> bool {
        let follower = self.follower.borrow();
        follower.as_ref().is_some_and(|follower| follower.flags.contains(selector(stream)))
    }

    /// Output has been read; true when it was sent.
    fn produced(&self, stream: &str, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return false;
        }
        if self.follows(stream) {
            self.tell_io(output::data(stream, &self.rank, bytes));
            return true;
        }
        if self.background && self.follower.borrow().is_none() {
            self.retained.borrow_mut().push(stream, bytes);
        }
        false
    }

    fn stream_ended(&self, stream: &str) {
        for (name, ended) in &mut *self.streams.borrow_mut() {
            if name == stream {
                *ended = true;
            }
        }
        if self.follows(stream) {
            self.tell_io(output::end(stream, &self.rank));
        }
    }

    /// A client begins to follow: what was kept for it, and the ends that it missed.
    pub(crate) fn catch_up(&self) {
        let (mut sent, mut kept) = (Vec::new(), Retained::default());
        for (stream, bytes) in self.retained.borrow_mut().take() {
            if self.follows(&stream) {
                sent.push((stream, bytes));
            } else {
                kept.push(&stream, &bytes);
            }
        }
        *self.retained.borrow_mut() = kept;
        for (stream, bytes) in sent {
            self.tell_io(output::data(&stream, &self.rank, &bytes));
        }
        for (stream, ended) in &*self.streams.borrow() {
            if *ended && self.follows(stream) {
                self.tell_io(output::end(stream, &self.rank));
            }
        }
    }

    /// Input buffers have more space.
    pub(crate) fn credit(&self, channels: impl IntoIterator<Item = (String, usize)>) {
        let follower = self.follower.borrow();
        let Some(follower) = &*follower else { return };
        if follower.flags.contains(ExecFlags::WRITE_CREDIT) {
            let channels: Map<_, _> =
                channels.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
            let item = ExecResponse { channels: Some(channels), ..response("add-credit") };
            follower.answer.item(&mut self.back.clone(), &item);
        }
    }

    /// The client writes to a channel; channels that do not exist are ignored.
    pub(crate) fn write(self: &Rc<Self>, stream: &str, data: &[u8], eof: bool) {
        let Some(input) = self.inputs.iter().find(|input| input.name == stream) else { return };
        let process = Rc::downgrade(self);
        let credit = move |name: &str, bytes| {
            if let Some(process) = process.upgrade() {
                process.credit([(name.to_owned(), bytes)]);
            }
        };
        if input.write(data, eof, credit) == Err(Overrun) {
            let text = format!("input of {stream} of pid {} exceeds its buffer", self.pid);
            *self.failure.borrow_mut() = Some(RpcError::new(Errno::ENOSPC, text));
            input.close();
            // It cannot go on without what was sent. That it has ended already is no matter.
            let _ = self.kill(rustix::process::Signal::KILL.as_raw());
        }
    }

    pub(crate) fn kill(&self, signum: i32) -> Result<(), Errno> {
        spawn::kill(self.pid, self.own_group, signum)
    }

    /// Whether it has ended; its status is left to be collected.
    pub(crate) fn has_exited(&self) -> bool {
        self.ended.get() || exited(self.pid)
    }

    /// The last responses, with the wait status.
    pub(crate) fn finish(&self, status: i32) {
        if let Some(Follower { answer, .. }) = self.follower.borrow_mut().take() {
            let mut out = self.back.clone();
            answer.item(&mut out, &ExecResponse { status: Some(status), ..response("finished") });
            match self.failure.borrow_mut().take() {
                Some(error) => answer.err(&mut out, error),
                None => answer.end(&mut out),
            }
        }
        if let Some(answer) = self.waiter.borrow_mut().take() {
            let output: Vec<Io> = self
                .retained
                .borrow_mut()
                .take()
                .map(|(stream, bytes)| output::data(&stream, &self.rank, &bytes))
                .collect();
            let output = (!output.is_empty()).then_some(output);
            answer.ok(&mut self.back.clone(), &WaitResponse { status, output });
        }
    }
}

fn exited(pid: i32) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // A process that is no child any more has ended.
    Pid::from_raw(pid).is_none_or(|pid| !matches!(waitid(WaitId::Pid(pid), options), Ok(None)))
}

/// Waits until a process has ended, without collecting its status.
pub(crate) async fn exit_of(pid: i32) {
    if exited(pid) {
        return;
    }
    let watched = Pid::from_raw(pid)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .and_then(|fd| watched(fd, Interest::READABLE).ok());
    match watched {
        Some(fd) => drop(fd.readable().await),
        // Without a descriptor to spare there is only looking again.
        None => {
            while !exited(pid) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
}

/// Reads a stream to its end. The descriptor must not block.
pub(crate) async fn pump(
    process: Rc<Process>,
    stream: String,
    fd: OwnedFd,
    buffer: Rc<RefCell<Vec<u8>>>,
) {
    let Ok(fd) = watched(fd, Interest::READABLE) else {
        return process.stream_ended(&stream);
    };
    // The beginning of a character whose rest has not come.
    let mut held: Vec<u8> = Vec::new();
    loop {
        let Ok(mut ready) = fd.readable().await else { break };
        let sent = {
            let mut buffer = buffer.borrow_mut();
            let kept = held.len();
            buffer[..kept].copy_from_slice(&held);
            match rustix::io::read(fd.get_ref(), &mut buffer[kept..]) {
                Ok(0) => break,
                Ok(count) => {
                    let bytes = &buffer[..kept + count];
                    let (whole, rest) = bytes.split_at(bytes.len() - output::unfinished(bytes));
                    held.clear();
                    held.extend_from_slice(rest);
                    process.produced(&stream, whole)
                }
                Err(rustix::io::Errno::INTR) => false,
                Err(rustix::io::Errno::AGAIN) => {
                    ready.clear_ready();
                    false
                }
                Err(_) => break,
            }
        };
        if sent {
            process.back.room(UNSENT_MAX).await;
        }
    }
    process.produced(&stream, &held);
    process.stream_ended(&stream);
}
