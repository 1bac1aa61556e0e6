//! The supervisor: one small process that is the parent of all shells of a broker, and outlives it.
//!
//! A single thread around one `epoll`: the socket, the broker's connection, SIGCHLD, and what the
//! shells write on their own stdout and stderr. It leads a session of its own, inherits no
//! descriptor, and ignores signals but SIGTERM and SIGKILL.
//!
//! | what happens | what it does |
//! |---|---|
//! | a broker connects | tells what is on record; a broker that was connected is let go |
//! | the broker is gone | the shells go on; after the grace of an instance that cannot come back they are killed |
//! | SIGTERM without a broker: the node goes down | the shells are told to end, and killed after 5 s; they are lost |
//! | a shell ends | kills what the job has left behind, then records and tells the status |
//! | no shell, no broker | exits |
//! | it was killed | its successor kills the shells of the journal, and reports them as lost |
//!
//! What belongs to a job: everything that comes from its shell, and of the processes that lost
//! their parent (they become children of the supervisor, which is their reaper) those in the
//! shell's process group, or with the job's id in their environment. What belongs to none is
//! killed when no shell is left.

mod ending;
mod fork;
mod link;
mod shell;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{Timespec, epoll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::process::{Pid, set_child_subreaper, setsid};

use crate::journal::{self, End, Journal, Record};
use crate::proc;
use crate::protocol::{Event, Order, VERSION};
use flux_proc::descriptors;
use fork::Fork;
pub use fork::Inside;
use link::Link;
use shell::Shell;
pub(crate) use shell::shell_input;

/// Name of the socket in the directory.
pub const SOCKET: &str = "socket";
/// Name of the lock in the directory.
const LOCK: &str = "lock";

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const LINK: u64 = 2;
/// Tokens from here on are streams of shells.
const STREAMS: u64 = 16;

/// A status that nobody took for so long is synced.
const SYNC_AFTER: Duration = Duration::from_secs(1);
/// Between looks at processes that are to be gone.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between looks for processes that belong to no job.
const STRAYS: Duration = Duration::from_secs(10);
/// Descriptors that it may have, if it is allowed so many.
const DESCRIPTORS: u64 = 65_536;
/// Until shells of a node that goes down are killed.
const LAST: Duration = Duration::from_secs(5);
/// A supervisor that nobody connects to.
const FIRST_CONTACT: Duration = Duration::from_secs(30);

/// A path of any length below an open directory, short enough for a socket's name.
pub(crate) fn below(directory: &OwnedFd, name: &str) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}/{name}", directory.as_raw_fd())
}

/// Opens the directory of a supervisor.
pub(crate) fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Everything the supervisor knows.
struct Supervisor {
    epoll: OwnedFd,
    listener: UnixListener,
    signals: SignalFd,
    link: Option<Link>,
    journal: Journal,
    records: BTreeMap<u64, Record>,
    shells: BTreeMap<u64, Shell>,
    /// Those that have ended and may have left something behind.
    leaving: BTreeSet<u64>,
    /// Jobs whose end is on record.
    ended: BTreeSet<u64>,
    /// Shells that were not reaped yet, by process id.
    pids: BTreeMap<i32, u64>,
    /// Programs that send signals to processes of other users.
    helpers: BTreeSet<i32>,
    streams: BTreeMap<u64, (u64, usize)>,
    next_stream: u64,
    env: BTreeMap<String, String>,
    fork: Option<Fork>,
    /// The kernel spares this process when memory is short; shells are not to be spared.
    spared: bool,
    /// The broker speaks the same protocol.
    same_version: bool,
    /// Shells of a predecessor that was killed, if there are any, are still to be ended.
    inherited: bool,
    grace: Option<f64>,
    /// The broker has said farewell for ever.
    parting: bool,
    /// The node goes down, and everything with it, since then.
    going_down: Option<Instant>,
    /// Without a broker since then.
    alone: Instant,
    met: bool,
    /// Statuses that were not synced, since then.
    unsynced: Option<Instant>,
    /// Ends that the disk did not take.
    unwritten: Vec<u64>,
    strays_at: Instant,
    buffer: Vec<u8>,
}

/// Runs the supervisor of a directory, until there is neither a shell nor a broker. Says one line
/// on stdout when it can be connected to. Shells that are `inside` of this program need no exec.
///
/// The process must have no other threads.
///
/// # Errors
/// When it cannot begin.
pub fn run(path: &Path, inside: Inside) -> io::Result<()> {
    // A leader of a process group cannot lead a session; then it has been made for us already.
    let _ = setsid();
    set_child_subreaper(Some(Pid::INIT))?;
    // Two for each shell: more than a user has by default, where a node runs many. With fewer the
    // shells beyond them are refused, with a reason.
    descriptors::raise(DESCRIPTORS);
    let directory = directory(path)?;
    let lock = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(below(&directory, LOCK))?;
    // A predecessor that ends lets go of it in a moment; one that does not is in use.
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK || Instant::now() > deadline {
            return Err(error.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut mask = SigSet::all();
    mask.remove(Signal::SIGKILL);
    mask.thread_block()?;
    let mut wanted = SigSet::empty();
    wanted.add(Signal::SIGCHLD);
    wanted.add(Signal::SIGTERM);
    let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let socket = below(&directory, SOCKET);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&socket)?;
    listener.set_nonblocking(true)?;
    let mut supervisor = Supervisor::new(path, listener, signals, Fork::new(inside))?;
    announce()?;
    let result = supervisor.serve();
    // Who connects from here on is told at once that nobody is here, and starts another.
    std::fs::remove_file(&socket).ok();
    result
}

/// Says that it can be connected to, and lets go of stdout.
fn announce() -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(b"\n")?;
    out.flush()?;
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(())
}

impl Supervisor {
    fn new(
        path: &Path,
        listener: UnixListener,
        signals: SignalFd,
        fork: Option<Fork>,
    ) -> io::Result<Self> {
        let (mut records, boot) = journal::read(path)?;
        let now = proc::boot_id();
        for record in records.values_mut().filter(|record| record.end.is_none()) {
            if boot != now {
                record.end = Some(End::Lost("the node was restarted".to_string()));
            }
        }
        let ended = records.iter().filter(|(_, record)| record.end.is_some());
        let ended = ended.map(|(id, _)| *id).collect();
        let journal = Journal::begin(path, &now, &records)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let add = |fd: &dyn AsFd, token| {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
        };
        add(&listener, LISTENER)?;
        add(&signals, SIGNALS)?;
        Ok(Self {
            epoll,
            listener,
            signals,
            link: None,
            journal,
            records,
            shells: BTreeMap::new(),
            leaving: BTreeSet::new(),
            ended,
            pids: BTreeMap::new(),
            helpers: BTreeSet::new(),
            streams: BTreeMap::new(),
            next_stream: STREAMS,
            env: BTreeMap::new(),
            fork,
            spared: proc::is_spared(),
            same_version: false,
            inherited: true,
            grace: None,
            parting: false,
            going_down: None,
            alone: Instant::now(),
            met: false,
            unsynced: None,
            unwritten: Vec::new(),
            strays_at: Instant::now() + STRAYS,
            buffer: vec![0; 64 << 10],
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
        while !self.is_over() {
            let timeout = self.timeout().map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    SIGNALS => self.children_changed(),
                    LINK => self.link_ready(event.flags),
                    token => self.stream_ready(token),
                }
            }
            self.due();
            self.flush();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let waiting = !self.met && self.alone.elapsed() < FIRST_CONTACT;
        (self.link.is_none() || self.parting || self.going_down.is_some())
            && self.pids.is_empty()
            && !self.is_leaving()
            && !waiting
    }

    /// Time until something is due without an event.
    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let mut by = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        if !self.met {
            by(self.alone + FIRST_CONTACT);
        }
        if self.is_leaving() || !self.unwritten.is_empty() {
            by(now + LOOK_AGAIN);
        }
        if let Some(since) = self.unsynced {
            by(since + SYNC_AFTER);
        }
        if !self.pids.is_empty() {
            by(self.strays_at);
            if let Some(at) = self.doom() {
                by(at.max(now + LOOK_AGAIN));
            }
        }
        next.map(|at| at.saturating_duration_since(now))
    }

    /// When shells must end because no broker has come back.
    fn doom(&self) -> Option<Instant> {
        if self.parting {
            return Some(self.alone);
        }
        if let Some(since) = self.going_down {
            return Some(since + LAST);
        }
        let grace = self.grace.filter(|_| self.link.is_none())?;
        Some(self.alone + Duration::from_secs_f64(grace.clamp(0.0, 1e6)))
    }

    /// What the clock asks for.
    fn due(&mut self) {
        let now = Instant::now();
        if self.doom().is_some_and(|at| now >= at) {
            for id in self.pids.values().copied().collect::<Vec<u64>>() {
                self.kill_all(id, rustix::process::Signal::KILL.as_raw());
            }
        }
        if self.is_leaving() {
            self.look_at_leaving();
        }
        if now >= self.strays_at {
            self.strays_at = now + STRAYS;
            self.kill_strays();
        }
        for id in std::mem::take(&mut self.unwritten) {
            self.write_end(id);
        }
        if self.unsynced.is_some_and(|since| now >= since + SYNC_AFTER) {
            self.unsynced = None;
            // A disk that fails is said by the next write.
            drop(self.journal.sync());
        }
    }

    /// Writes down how a shell has ended.
    fn write_end(&mut self, id: u64) {
        let Some(end) = self.records.get(&id).and_then(|record| record.end.clone()) else { return };
        match self.journal.ended(id, &end) {
            Ok(()) => {
                self.unsynced.get_or_insert_with(Instant::now);
            }
            Err(_) => self.unwritten.push(id),
        }
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Hello { version, grace, env } => {
                self.same_version = version == VERSION;
                self.grace = grace;
                self.env = env;
                if std::mem::take(&mut self.inherited) {
                    self.end_inherited();
                }
                self.tell_everything();
            }
            Order::Start(request) => self.start(&request),
            Order::Kill { seq, id, signum, all } => {
                let errno = self.signal(id, signum, all);
                self.tell(&Event::Killed { seq, errno });
            }
            Order::Forget(ids) => self.forget(&ids),
            Order::Bye => {
                // The broker waits for the end of the connection: when all are gone.
                self.parting = true;
            }
        }
    }

    /// What is on record, for a broker that has just come.
    fn tell_everything(&mut self) {
        let mut events = Vec::new();
        for (&id, record) in &self.records {
            events.push(Event::Started { id, pid: record.pid });
            if let Some(shell) = self.shells.get(&id) {
                events.extend(shell.said(id));
            }
            match &record.end {
                Some(End::Exited(status, left)) => {
                    events.push(Event::Finished { id, status: *status, left: *left });
                }
                Some(End::Lost(note)) => events.push(Event::Lost { id, note: note.clone() }),
                None => {}
            }
        }
        events.push(Event::Ready { version: VERSION });
        for event in &events {
            self.tell(event);
        }
    }

    fn forget(&mut self, ids: &[u64]) {
        for id in ids {
            if !self.ended.contains(id) {
                continue;
            }
            // A line that cannot be written leaves the record for the next time.
            if self.journal.gone(*id).is_ok() {
                self.records.remove(id);
                self.ended.remove(id);
                self.drop_shell(*id);
            }
        }
        if self.ended.is_empty() {
            self.unsynced = None;
        }
        if self.journal.is_long(self.records.len()) {
            // Without room for a second journal the first one serves.
            drop(self.journal.rewrite(&self.records));
        }
    }
}

/// Reads what there is; true at the end of the stream.
fn drain(fd: &mut File, buffer: &mut [u8], mut take: impl FnMut(&[u8])) -> bool {
    loop {
        match fd.read(buffer) {
            Ok(0) => return true,
            Ok(count) => take(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}
