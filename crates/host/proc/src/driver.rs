//! The driver: takes requests, starts processes, keeps track of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use flux_api::rexec::{Attach, Exec, ExecResponse, Kill, List, Wait, Write};
use flux_api::{Answer, Call, Rpc, RpcError};
use flux_host::driver::{Driver, DriverHandle};
use flux_model::subprocess::{ExecFlags, LocalFlags};
use flux_proto::{Errno, Message, MsgType, Rolemask};
use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::environment::{Base, RexecHandle};
use crate::input::{CREDIT, Input};
use crate::launch::{Direct, Launch, Launcher, Stdio, errno};
use crate::launching::{Launching, Threaded};
use crate::process::{CHUNK, Follower, Process, exit_of, pump, response};
use crate::request::{Order, refuse_signed};
use crate::table::{StreamKey, Table};

/// Auxiliary channels of one process.
const CHANNELS_MAX: usize = 64;

/// What a [`RexecDriver`] begins with.
#[derive(Debug, Clone, Default)]
pub struct RexecOptions {
    /// Rank of the broker.
    pub rank: u32,
    /// URI of the local socket, `FLUX_URI` of every process.
    pub local_uri: String,
    /// Environment of processes that bring none.
    pub env: BTreeMap<String, String>,
}

/// Serves `rexec.*` (RFC 42). Needs a tokio [`LocalSet`](tokio::task::LocalSet) with I/O and time.
///
/// Foreground processes end with their client (SIGKILL); background processes go on, with stdin at
/// its end and the newest 8192 bytes of output kept. Dropping the driver ends no process.
pub struct RexecDriver {
    server: Rc<Server>,
}

impl fmt::Debug for RexecDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RexecDriver").field("rank", &self.server.rank).finish_non_exhaustive()
    }
}

pub(crate) struct Server {
    pub(crate) rank: u32,
    rank_text: Rc<str>,
    base: Rc<Base>,
    launcher: Threaded,
    /// Processes that are being started, and messages that come after them.
    launching: RefCell<Launching>,
    /// Requests from other brokers are refused.
    local_only: Cell<bool>,
    pub(crate) table: RefCell<Table>,
    /// What processes write is read into this, by one at a time.
    buffer: Rc<RefCell<Vec<u8>>>,
    /// A task listens for stopped children.
    pub(crate) sees_stops: Cell<bool>,
}

impl RexecDriver {
    /// A driver whose processes are children of this one.
    #[must_use]
    pub fn new(options: RexecOptions) -> Self {
        Self::with_launcher(options, Arc::new(Direct))
    }

    /// A driver that starts processes in another way.
    #[must_use]
    pub fn with_launcher(options: RexecOptions, launcher: Arc<dyn Launcher>) -> Self {
        let RexecOptions { rank, local_uri, env } = options;
        let base = Base { env: RefCell::new(env), local_uri, closed: Cell::new(false) };
        let server = Server {
            rank,
            rank_text: rank.to_string().into(),
            base: Rc::new(base),
            launcher: Threaded::new(launcher),
            launching: RefCell::default(),
            local_only: Cell::new(false),
            table: RefCell::default(),
            buffer: Rc::new(RefCell::new(vec![0; CHUNK])),
            sees_stops: Cell::new(false),
        };
        Self { server: Rc::new(server) }
    }

    /// The same driver, refusing requests from other brokers (rank 0 of a multi-user instance).
    #[must_use]
    pub fn local_only(self) -> Self {
        self.server.local_only.set(true);
        self
    }

    /// The means to change the environment and to stop starting processes.
    #[must_use]
    pub fn handle(&self) -> RexecHandle {
        RexecHandle(Rc::clone(&self.server.base))
    }
}

impl Driver for RexecDriver {
    fn name(&self) -> &'static str {
        "rexec"
    }

    fn deliver(&mut self, message: Message, back: &DriverHandle) {
        if message.kind != MsgType::Request {
            return;
        }
        // What a client sends after an exec request is about the process that it started.
        let message = if message.topic() == Exec::TOPIC {
            Some(message)
        } else {
            self.server.launching.borrow_mut().pass(message)
        };
        if let Some(message) = message {
            self.server.serve(message, back);
        }
    }
}

/// Decodes a request, or refuses it.
fn with<R: Rpc>(message: Message, back: &DriverHandle, serve: impl FnOnce(Call<R>)) {
    match Call::decode(message) {
        Ok(call) => serve(call),
        Err((message, error)) => {
            let text = format!("failed to unpack request: {error}");
            back.refuse(&message, &RpcError::new(error.errno, text));
        }
    }
}

fn launch_error(errno: Errno) -> RpcError {
    RpcError::new(errno, format!("error launching process: {}", errno.text()))
}

pub(crate) fn stream_key<R: Rpc>(answer: &Answer<R>) -> StreamKey {
    (answer.client().cloned(), answer.matchtag())
}

/// The ends that stay here of the channels of a process, by stream, with what goes there.
#[derive(Default)]
struct Ends {
    inputs: Vec<Rc<Input>>,
    outputs: Vec<(String, OwnedFd)>,
    /// Name and descriptor there.
    named: Vec<(String, i32)>,
    given: Vec<OwnedFd>,
}

impl Server {
    fn serve(self: &Rc<Self>, message: Message, back: &DriverHandle) {
        if message.method() == "disconnect" {
            return self.disconnect(&message);
        }
        if let Err(error) = self.admit(&message) {
            return back.refuse(&message, &error);
        }
        match message.topic() {
            Exec::TOPIC => self.exec(message, back),
            Write::TOPIC => self.write(&message),
            Kill::TOPIC => with(message, back, |call| self.kill(call, back)),
            List::TOPIC => with(message, back, |call| self.list(call, back)),
            Wait::TOPIC => with(message, back, |call| self.wait(call, back)),
            Attach::TOPIC if !message.is_streaming() => {
                let text = "attach request is missing STREAMING flag";
                back.refuse(&message, &RpcError::new(Errno::EPROTO, text));
            }
            Attach::TOPIC => with(message, back, |call| self.attach(call, back)),
            _ => back.refuse_unknown(&message),
        }
    }

    fn admit(&self, message: &Message) -> Result<(), RpcError> {
        let roles = message.cred.rolemask;
        if !roles.allows(Rolemask::OWNER) {
            return Err(RpcError::new(Errno::EPERM, "Request requires owner credentials"));
        }
        if self.local_only.get() && !roles.contains(Rolemask::LOCAL) {
            let text = "Remote rexec requests are not allowed on rank 0";
            return Err(RpcError::new(Errno::EPERM, text));
        }
        refuse_signed(message)
    }

    fn exec(self: &Rc<Self>, mut message: Message, back: &DriverHandle) {
        let order = match Order::read(&message) {
            Ok(order) => order,
            Err(error) => return back.refuse(&message, &error),
        };
        message.set_payload(None);
        let answer = Answer::<Exec>::new(message);
        let (launch, ends) = match self.prepare(&order) {
            Ok(ready) => ready,
            Err(error) => return answer.err(&mut back.clone(), error),
        };
        let label = order.cmd.label.clone();
        let client = answer.client().cloned();
        let ticket = self.launching.borrow_mut().begin(client.clone(), label.clone());
        let launched = self.launcher.launch(launch);
        let (server, back) = (Rc::clone(self), back.clone());
        back.clone().spawn_local(async move {
            let result = launched.await;
            let follow = match result {
                Ok(pid) => Some(server.started(pid, order, answer, &back, ends)),
                Err(errno) => {
                    answer.err(&mut back.clone(), launch_error(errno));
                    None
                }
            };
            let held = server.launching.borrow_mut().end(&client, label.as_deref(), ticket);
            for message in held {
                server.serve(message, &back);
            }
            if let Some((process, outputs)) = follow {
                server.follow(process, outputs).await;
            }
        });
    }

    /// Takes care of a process that runs now.
    fn started(
        self: &Rc<Self>,
        pid: i32,
        order: Order,
        answer: Answer<Exec>,
        back: &DriverHandle,
        ends: Ends,
    ) -> (Rc<Process>, Vec<(String, OwnedFd)>) {
        let Order { cmd, flags, local, background } = order;
        let own_group = !local.contains(LocalFlags::NO_SETPGRP);
        let kinds = (own_group, background, flags.contains(ExecFlags::WAITABLE));
        let started = ExecResponse { pid: Some(pid), ..response("started") };
        let key = stream_key(&answer);
        let follower = if background {
            answer.ok(&mut back.clone(), &started);
            None
        } else {
            answer.item(&mut back.clone(), &started);
            Some(Follower { answer, flags })
        };
        let streams = ends.outputs.iter().map(|(name, _)| name.clone()).collect();
        let rank = Rc::clone(&self.rank_text);
        let process =
            Process::new(pid, cmd, kinds, rank, back.clone(), follower, streams, ends.inputs);
        if !process.inputs.is_empty() {
            process.credit(process.inputs.iter().map(|input| (input.name.clone(), CREDIT)));
        }
        let mut table = self.table.borrow_mut();
        if !background {
            table.bind(key, pid);
        }
        table.insert(Rc::clone(&process));
        drop(table);
        self.see_stops(back);
        (process, ends.outputs)
    }

    /// Opens what a process needs.
    fn prepare(&self, order: &Order) -> Result<(Launch, Ends), RpcError> {
        if self.base.closed.get() {
            return Err(RpcError::new(Errno::ENOSYS, "subprocess server is shutting down"));
        }
        let cmd = &order.cmd;
        if cmd.label.as_ref().is_some_and(|label| {
            self.table.borrow().has_label(label) || self.launching.borrow().has_label(label)
        }) {
            return Err(RpcError::new(Errno::EINVAL, "command label is not unique"));
        }
        if cmd.channels.len() > CHANNELS_MAX {
            let text = format!("more than {CHANNELS_MAX} auxiliary channels");
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        let mut ends = Ends::default();
        let failed = |error| launch_error(errno(error));
        let stdio = if order.local.contains(LocalFlags::STDIO_FALLTHROUGH) {
            Stdio::Inherit
        } else {
            Stdio::Given(standard(order, &mut ends).map_err(failed)?)
        };
        for name in &cmd.channels {
            channel(name, &mut ends).map_err(failed)?;
        }
        let text =
            |text: &String| CString::new(text.as_str()).map_err(|_| launch_error(Errno::EINVAL));
        let launch = Launch {
            argv: cmd.cmdline.iter().map(text).collect::<Result<_, _>>()?,
            env: self.base.of_process(&cmd.env, &ends.named),
            cwd: cmd.cwd.as_ref().map(text).transpose()?,
            stdio,
            channels: std::mem::take(&mut ends.given),
            own_group: !order.local.contains(LocalFlags::NO_SETPGRP),
            limits: Vec::new(),
        };
        Ok((launch, ends))
    }

    /// The task of a process: all its output, then its end.
    async fn follow(self: Rc<Self>, process: Rc<Process>, outputs: Vec<(String, OwnedFd)>) {
        let mut outputs = outputs.into_iter();
        let read = |(stream, fd): (String, OwnedFd)| {
            pump(Rc::clone(&process), stream, fd, Rc::clone(&self.buffer))
        };
        let (first, second) = (outputs.next().map(&read), outputs.next().map(&read));
        let others: Vec<_> = outputs.map(|output| tokio::task::spawn_local(read(output))).collect();
        tokio::join!(maybe(first), maybe(second));
        for other in others {
            // A pump neither panics nor is cancelled while the loop runs.
            drop(other.await);
        }
        exit_of(process.pid).await;
        process.ended.set(true);
        let attended = process.follower.borrow().is_some() || process.waiter.borrow().is_some();
        if attended || !process.waitable {
            self.conclude(&process);
        }
    }

    /// Collects the status of a process that has ended, tells who wants it, forgets the process.
    pub(crate) fn conclude(&self, process: &Process) {
        // Somebody else's wait took it: nothing is known but that it ended.
        let status = self.launcher.collect(process.pid).ok().flatten().unwrap_or(0);
        self.unbind(process);
        self.table.borrow_mut().remove(process);
        process.inputs.iter().for_each(|input| input.close());
        process.finish(status);
    }

    fn unbind(&self, process: &Process) {
        let mut table = self.table.borrow_mut();
        if let Some(follower) = &*process.follower.borrow() {
            table.unbind(&stream_key(&follower.answer), process.pid);
        }
        if let Some(answer) = &*process.waiter.borrow() {
            table.unbind(&stream_key(answer), process.pid);
        }
    }
}

async fn maybe(future: Option<impl Future<Output = ()>>) {
    if let Some(future) = future {
        future.await;
    }
}

/// Standard streams of a process: a pipe for each that somebody may want, else `/dev/null`.
fn standard(order: &Order, ends: &mut Ends) -> Result<[OwnedFd; 3], rustix::io::Errno> {
    let null = || open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let mut output = |name: &str, flag| {
        if !order.background && !order.flags.contains(flag) {
            return null();
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setfl(&read, OFlags::NONBLOCK)?;
        ends.outputs.push((name.to_owned(), read));
        Ok(write)
    };
    let stdout = output("stdout", ExecFlags::STDOUT)?;
    let stderr = output("stderr", ExecFlags::STDERR)?;
    let stdin = if order.background {
        null()?
    } else {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setfl(&write, OFlags::NONBLOCK)?;
        ends.inputs.push(Input::new("stdin", write, false));
        read
    };
    Ok([stdin, stdout, stderr])
}

/// An auxiliary channel: a socket pair, written and read here.
fn channel(name: &str, ends: &mut Ends) -> Result<(), rustix::io::Errno> {
    let flags = SocketFlags::CLOEXEC;
    let (here, there) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fcntl_setfl(&here, OFlags::NONBLOCK)?;
    let reader = rustix::io::fcntl_dupfd_cloexec(&here, 3)?;
    ends.inputs.push(Input::new(name, here, true));
    ends.outputs.push((name.to_owned(), reader));
    ends.named.push((name.to_owned(), there.as_raw_fd()));
    ends.given.push(there);
    Ok(())
}

#[cfg(test)]
mod tests;
