//! Readiness of the shell's own descriptors: one epoll descriptor that the broker connection can
//! wait for together with its socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Signals to the shell.
    Signals,
    /// The end of a task's process.
    Exit(usize),
    /// A task's stdout.
    Stdout(usize),
    /// A task's stderr.
    Stderr(usize),
    /// A task's stdin can be written.
    Stdin(usize),
    /// A task's PMI requests.
    Pmi(usize),
    /// A task's terminal.
    Terminal(usize),
}

impl Source {
    fn token(self) -> u64 {
        let (kind, index) = match self {
            Source::Signals => (0, 0),
            Source::Exit(i) => (1, i),
            Source::Stdout(i) => (2, i),
            Source::Stderr(i) => (3, i),
            Source::Stdin(i) => (4, i),
            Source::Pmi(i) => (5, i),
            Source::Terminal(i) => (6, i),
        };
        (index as u64) << 3 | kind
    }

    fn of(token: u64) -> Self {
        let index = (token >> 3) as usize;
        match token & 7 {
            1 => Source::Exit(index),
            2 => Source::Stdout(index),
            3 => Source::Stderr(index),
            4 => Source::Stdin(index),
            5 => Source::Pmi(index),
            6 => Source::Terminal(index),
            _ => Source::Signals,
        }
    }
}

/// A set of descriptors.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Watches a descriptor, for being writable if it is a stdin, else readable.
    ///
    /// # Errors
    /// When the system refuses; EEXIST when it is watched already.
    pub fn add(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        let flags = match source {
            Source::Stdin(_) => epoll::EventFlags::OUT,
            _ => epoll::EventFlags::IN,
        };
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(source.token()), flags)?)
    }

    /// Watches it no more; one that is not watched is ignored.
    pub fn remove(&self, fd: impl AsFd) {
        // ENOENT when it was not watched.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// What is ready now, or within `time`.
    ///
    /// # Errors
    /// When the system fails; a signal is no failure.
    pub fn ready(&self, time: Option<Duration>) -> io::Result<Vec<Source>> {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 64];
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        match epoll::wait(&self.epoll, &mut events, time.as_ref()) {
            Ok(count) => {
                Ok(events[..count].iter().map(|event| Source::of(event.data.u64())).collect())
            }
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The descriptor that is readable while something is ready.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
