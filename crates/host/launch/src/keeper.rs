//! What keeps the shells, as the driver sees it: orders in, events out.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::journal;
use crate::protocol::{Event, Lines, Order, line};
use crate::supervisor::{SOCKET, below, directory};

/// A future on the loop's thread.
pub type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Attempts to connect, and the time between them.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);
/// How long the end of a broker waits for its supervisor to end.
const FAREWELL: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// A connection to what keeps the shells.
pub struct Channel {
    /// Orders, in order. Dropped: the broker goes, the shells stay.
    pub orders: UnboundedSender<Order>,
    /// What happens; its end is the end of the keeper.
    pub events: UnboundedReceiver<Event>,
    /// Says farewell and waits until the shells are gone: for the end of an instance that will
    /// not come back.
    pub farewell: Box<dyn FnOnce()>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channel")
    }
}

/// Keeps shells beyond the life of the broker.
pub trait Keeper {
    /// Whether something may be on record. When not, nothing is connected to only to be told so.
    fn may_know(&self) -> bool;
    /// Connects to it; starts it first when it is not there.
    fn connect(&self) -> Local<'_, io::Result<Channel>>;
}

/// The supervisor process of a directory, see [`crate::supervisor`].
#[derive(Debug, Clone)]
pub struct Supervised {
    /// Program and arguments that run it; the directory follows.
    pub program: Vec<String>,
    /// Where journal and socket are. It is made with mode 0700 when it is not there.
    pub directory: PathBuf,
}

/// Makes a directory, with those above it.
fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl Supervised {
    async fn open(&self) -> io::Result<UnixStream> {
        make(&self.directory).map_err(|error| named(&self.directory, &error))?;
        let directory = directory(&self.directory)?;
        let mut last = io::Error::other("no supervisor");
        for attempt in 0..ATTEMPTS {
            match UnixStream::connect(below(&directory, SOCKET)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
            // One that is just ending is given the time to.
            if attempt % 10 == 0 {
                self.launch().await?;
            } else {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Err(last)
    }

    /// Starts it, and waits until it can be connected to or has ended.
    async fn launch(&self) -> io::Result<()> {
        let Some((program, words)) = self.program.split_first() else {
            return Err(io::Error::other("no program for the supervisor"));
        };
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .map_err(|error| named(&self.directory, &error))?;
        let mut command = Command::new(program);
        descriptors_given(&mut command);
        let mut child = command
            .args(words)
            .arg(&self.directory)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| named(Path::new(program), &error))?;
        if let Some(mut out) = child.stdout.take() {
            let mut byte = [0];
            // At its end it could not begin: the next attempt to connect says so.
            drop(out.read(&mut byte).await);
        }
        // The runtime collects it when it ends before us.
        drop(child);
        Ok(())
    }
}

/// Shells are to have the limit that the broker was given, whatever it has raised its own to.
#[expect(unsafe_code, reason = "a limit of a child can only be set between fork and exec")]
fn descriptors_given(command: &mut Command) {
    // SAFETY: between fork and exec two system calls are made; nothing is allocated and no lock is
    // taken.
    unsafe { command.pre_exec(flux_proc::descriptors::give_back) };
}

impl Keeper for Supervised {
    fn may_know(&self) -> bool {
        journal::read(&self.directory).map_or(true, |(records, _)| !records.is_empty())
    }

    fn connect(&self) -> Local<'_, io::Result<Channel>> {
        Box::pin(async {
            let stream = Rc::new(self.open().await?);
            let (orders, to_send) = unbounded_channel();
            let (told, events) = unbounded_channel();
            drop(tokio::task::spawn_local(send(Rc::downgrade(&stream), to_send)));
            drop(tokio::task::spawn_local(receive(Rc::downgrade(&stream), told)));
            Ok(Channel { orders, events, farewell: Box::new(move || farewell(&stream)) })
        })
    }
}

async fn send(stream: std::rc::Weak<UnixStream>, mut orders: UnboundedReceiver<Order>) {
    while let Some(first) = orders.recv().await {
        let mut bytes = line(&first);
        while let Ok(next) = orders.try_recv() {
            bytes.extend(line(&next));
        }
        let Some(stream) = stream.upgrade() else { return };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match stream.try_write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stream.writable().await.is_err() {
                        return;
                    }
                }
                // The reader sees the end.
                Err(_) => return,
            }
        }
    }
}

async fn receive(stream: std::rc::Weak<UnixStream>, told: UnboundedSender<Event>) {
    let mut buffer = vec![0; 64 << 10];
    let mut lines = Lines::default();
    let Some(stream) = stream.upgrade() else { return };
    loop {
        match stream.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if !lines.push(buffer.get(..count).unwrap_or_default()) {
                    return;
                }
                while let Some(text) = lines.take() {
                    let Ok(event) = serde_json::from_slice(text) else { return };
                    if told.send(event).is_err() {
                        return;
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let ended = tokio::select! {
                    ready = stream.ready(Interest::READABLE) => ready.is_err(),
                    () = told.closed() => true,
                };
                if ended {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The loop has ended: what is said here is said at once.
fn farewell(stream: &UnixStream) {
    if stream.try_write(&line(&Order::Bye)).is_err() {
        return;
    }
    // Its end of the connection closes when it has heard, and it ends with its last shell.
    let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)];
    let mut sink = [0; 4096];
    while poll(&mut fds, Some(&FAREWELL)).is_ok_and(|ready| ready > 0) {
        match rustix::io::read(stream.as_fd(), &mut sink) {
            Ok(count) if count > 0 => {}
            _ => return,
        }
    }
}
