//! Input of a process: a buffer in front of a pipe or socket, that gives credit as it empties.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use crate::watch::watched;
use tokio::io::Interest;

/// Buffer of each channel in bytes: the credit that a client begins with.
pub(crate) const CREDIT: usize = 64 << 10;
/// Most bytes that wait for a process whose client minds no credit.
pub(crate) const INPUT_MAX: usize = 4 << 20;

/// The client sent more than may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overrun;

#[derive(Debug)]
enum Port {
    /// Not known to the reactor: most input fits into the pipe at once.
    Plain(OwnedFd),
    /// A task waits for room.
    Waiting,
    Closed,
}

#[derive(Debug)]
struct State {
    port: Port,
    /// Shut down rather than closed at its end, since it is read as well.
    socket: bool,
    waiting: VecDeque<u8>,
    eof: bool,
}

/// One channel into a process.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) name: String,
    state: RefCell<State>,
}

impl Input {
    /// Input through a descriptor that does not block.
    pub(crate) fn new(name: &str, fd: OwnedFd, socket: bool) -> Rc<Self> {
        let state = State { port: Port::Plain(fd), socket, waiting: VecDeque::new(), eof: false };
        Rc::new(Self { name: name.to_owned(), state: RefCell::new(state) })
    }

    /// Takes data; `credit` is told of every byte that left the buffer.
    pub(crate) fn write(
        self: &Rc<Self>,
        data: &[u8],
        eof: bool,
        credit: impl Fn(&str, usize) + 'static,
    ) -> Result<(), Overrun> {
        let mut state = self.state.borrow_mut();
        if state.eof {
            return Ok(());
        }
        if state.waiting.len() + data.len() > INPUT_MAX {
            return Err(Overrun);
        }
        state.waiting.extend(data);
        state.eof = eof;
        match std::mem::replace(&mut state.port, Port::Waiting) {
            Port::Plain(fd) => {
                let (sent, full) = state.send(fd.as_fd());
                let done = state.is_done();
                if full {
                    drop(state);
                    let task = Rc::clone(self).send_rest(fd, credit, sent);
                    drop(tokio::task::spawn_local(task));
                    return Ok(());
                }
                state.port = if done { state.close(fd) } else { Port::Plain(fd) };
                drop(state);
                if sent > 0 {
                    credit(&self.name, sent);
                }
            }
            Port::Waiting => {}
            Port::Closed => {
                state.port = Port::Closed;
                let lost = state.waiting.len();
                state.waiting.clear();
                drop(state);
                if lost > 0 {
                    credit(&self.name, lost);
                }
            }
        }
        Ok(())
    }

    /// Waits for room and sends, until nothing is left.
    async fn send_rest(self: Rc<Self>, fd: OwnedFd, credit: impl Fn(&str, usize), sent: usize) {
        if sent > 0 {
            credit(&self.name, sent);
        }
        let Ok(fd) = watched(fd, Interest::WRITABLE) else {
            self.state.borrow_mut().port = Port::Closed;
            return;
        };
        loop {
            let Ok(mut ready) = fd.writable().await else { break };
            let (sent, full) = {
                let mut state = self.state.borrow_mut();
                state.send(fd.get_ref().as_fd())
            };
            if sent > 0 {
                credit(&self.name, sent);
            }
            if full {
                ready.clear_ready();
                continue;
            }
            // Nothing waits any more; nothing happens between this and the next look.
            break;
        }
        let fd = fd.into_inner();
        let mut state = self.state.borrow_mut();
        state.port = if state.is_done() { state.close(fd) } else { Port::Plain(fd) };
    }

    /// No more input is taken.
    pub(crate) fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.eof = true;
        state.waiting.clear();
        state.port = match std::mem::replace(&mut state.port, Port::Closed) {
            Port::Plain(fd) => state.close(fd),
            other => other,
        };
    }
}

impl State {
    fn is_done(&self) -> bool {
        self.eof && self.waiting.is_empty()
    }

    fn close(&self, fd: OwnedFd) -> Port {
        if self.socket {
            // It fails only when the other end is gone already.
            let _ = rustix::net::shutdown(&fd, rustix::net::Shutdown::Write);
        }
        drop(fd);
        Port::Closed
    }

    /// Sends what is taken: how much left the buffer, and whether there is no room for the rest.
    fn send(&mut self, fd: impl AsFd) -> (usize, bool) {
        let mut sent = 0;
        while !self.waiting.is_empty() {
            match rustix::io::write(&fd, self.waiting.as_slices().0) {
                Ok(count) => {
                    self.waiting.drain(..count);
                    sent += count;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) if io::Error::from(error).kind() == io::ErrorKind::WouldBlock => {
                    return (sent, true);
                }
                Err(_) => {
                    // Nobody reads: what the client sends is taken and dropped.
                    sent += self.waiting.len();
                    self.waiting.clear();
                }
            }
        }
        (sent, false)
    }
}
