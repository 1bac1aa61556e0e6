//! The broker processes of a test instance, and the PMI server they find each other through.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;

use flux_host::{Driver, DriverHandle};
use flux_pmi::{Action, LineBuffer, Server, ServerConfig};
use flux_proto::Message;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::process::{Child, Command};

use super::TestInstance;
use super::supervisor::PROCESSES;

/// Exit code of a broker that cannot be started, as of a shell.
const CANNOT_START: i32 = 127;

/// The driver.
pub(super) struct Processes {
    instance: TestInstance,
    shared: Rc<RefCell<Shared>>,
}

/// What the tasks of the processes share.
struct Shared {
    pmi: Server,
    writers: BTreeMap<u32, Rc<OwnedWriteHalf>>,
    pids: BTreeMap<u32, Pid>,
}

impl Processes {
    pub(super) fn new(instance: TestInstance) -> Self {
        let size = u32::try_from(instance.commands.len()).unwrap_or(u32::MAX);
        let preload = instance.mapping.iter();
        let preload = preload.map(|map| ("PMI_process_mapping".to_string(), map.clone()));
        let pmi = Server::new(ServerConfig {
            kvsname: "-".to_string(),
            universe_size: size,
            appnum: 0,
            ranks: (0..size).collect(),
            preload: preload.collect(),
        });
        let shared = Shared { pmi, writers: BTreeMap::new(), pids: BTreeMap::new() };
        Self { instance, shared: Rc::new(RefCell::new(shared)) }
    }

    fn spawn(&self, rank: u32) -> io::Result<(Child, UnixStream)> {
        let Some([program, args @ ..]) =
            self.instance.commands.get(rank as usize).map(Vec::as_slice)
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let (ours, theirs) = connection()?;
        let mut command = Command::new(program);
        command
            .args(args)
            .envs(self.instance.env.iter().map(|(name, value)| (name, value)))
            .env("PMI_FD", theirs.as_raw_fd().to_string())
            .env("PMI_RANK", rank.to_string())
            .env("PMI_SIZE", self.instance.commands.len().to_string())
            .env("FLUX_START_URI", self.instance.start_uri());
        if rank > 0 {
            // The terminal belongs to the program of the leader.
            command.stdin(Stdio::null());
        }
        let child = command.spawn()?;
        drop(theirs);
        Ok((child, ours))
    }

    fn run(&self, rank: u32, back: &DriverHandle) {
        match self.spawn(rank) {
            Ok((child, pmi)) => {
                let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
                self.shared.borrow_mut().pids.insert(rank, Pid::from_raw(pid));
                tell(back, "processes.started", &json!({ "rank": rank, "pid": pid }));
                let (read, write) = pmi.into_split();
                self.shared.borrow_mut().writers.insert(rank, Rc::new(write));
                let shared = Rc::clone(&self.shared);
                back.spawn_local(wait(Rc::clone(&shared), back.clone(), rank, pid, child));
                back.spawn_local(serve(shared, back.clone(), rank, pid, read));
            }
            Err(error) => {
                let program = &self.instance.commands[rank as usize][0];
                let text = format!("cannot start {program}: {error}");
                let body = json!({ "rank": rank, "pid": 0, "code": CANNOT_START, "text": text });
                tell(back, "processes.exited", &body);
            }
        }
    }
}

/// A connection whose one end only the next process inherits: it is open while that is started.
fn connection() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty())?;
    let ours = StdStream::from(ours);
    nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

fn tell(back: &DriverHandle, topic: &str, body: &Value) {
    back.post(Message::event(topic).with_json(body));
}

/// Waits for the end of a process.
async fn wait(
    shared: Rc<RefCell<Shared>>,
    back: DriverHandle,
    rank: u32,
    pid: i32,
    mut child: Child,
) {
    let status = child.wait().await.unwrap_or_else(|_| ExitStatus::from_raw(CANNOT_START << 8));
    shared.borrow_mut().pids.remove(&rank);
    let body = json!({
        "rank": rank,
        "pid": pid,
        "code": status.code(),
        "signal": status.signal(),
    });
    tell(&back, "processes.exited", &body);
}

/// Serves the PMI requests of one process until it closes the connection.
async fn serve(
    shared: Rc<RefCell<Shared>>,
    back: DriverHandle,
    rank: u32,
    pid: i32,
    mut read: tokio::net::unix::OwnedReadHalf,
) {
    let mut lines = LineBuffer::new();
    let mut piece = vec![0; 4096];
    loop {
        match read.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(got) => lines.feed(&piece[..got]),
        }
        loop {
            let actions = match lines.next_line() {
                Ok(None) => break,
                Ok(Some(line)) => shared.borrow_mut().pmi.on_line(rank, &line),
                Err(error) => shared.borrow_mut().pmi.on_bad_line(rank, error),
            };
            if !carry_out(&shared, &back, pid, actions).await {
                return;
            }
        }
    }
}

/// Sends the replies and tells the rest; false when the connection is to be closed.
async fn carry_out(
    shared: &RefCell<Shared>,
    back: &DriverHandle,
    pid: i32,
    actions: Vec<Action>,
) -> bool {
    let mut todo: std::collections::VecDeque<Action> = actions.into();
    let mut go_on = true;
    while let Some(action) = todo.pop_front() {
        match action {
            Action::Reply { rank, line } => {
                let writer = shared.borrow().writers.get(&rank).cloned();
                if let Some(writer) = writer {
                    // A process that is gone is noticed where it is read from.
                    drop(write_all(&writer, line.as_bytes()).await);
                }
            }
            // All processes are here: there is nobody to exchange with.
            Action::BarrierEnter { keys } => {
                let released = shared.borrow_mut().pmi.barrier_done(keys);
                todo.extend(released);
            }
            Action::Abort { rank, msg, code } => {
                let text = format!("PMI abort with code {code}: {msg}");
                let body = json!({ "rank": rank, "pid": pid, "text": text });
                tell(back, "processes.abort", &body);
            }
            Action::ProtocolError { rank, msg } => {
                let text = format!("PMI protocol error: {msg}");
                let body = json!({ "rank": rank, "pid": pid, "text": text });
                tell(back, "processes.trouble", &body);
                shared.borrow_mut().writers.remove(&rank);
                go_on = false;
            }
        }
    }
    go_on
}

async fn write_all(writer: &OwnedWriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        writer.writable().await?;
        match writer.try_write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Driver for Processes {
    fn name(&self) -> &'static str {
        PROCESSES
    }

    fn deliver(&mut self, message: Message, back: &DriverHandle) {
        #[derive(Deserialize)]
        struct Request {
            rank: u32,
            #[serde(default)]
            signum: i32,
        }
        let Ok(request) = message.json::<Request>() else {
            return;
        };
        match message.topic() {
            "processes.run" => self.run(request.rank, back),
            "processes.kill" => {
                let pid = self.shared.borrow().pids.get(&request.rank).copied();
                if let (Some(pid), Ok(signal)) = (pid, Signal::try_from(request.signum)) {
                    // It may have exited just now.
                    let _gone = kill(pid, signal);
                }
            }
            _ => {}
        }
    }
}
