//! The connection: bytes in, bytes out, messages at its ends.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use flux_proto::{Decoder, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const READ_MIN: usize = 16 << 10;
const READ_MAX: usize = 1 << 20;
/// A send buffer longer than this is offered to the socket before anything is waited for.
const WRITE_EARLY: usize = 64 << 10;

/// What a wait found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Woken {
    /// Which of the extra descriptors have something.
    pub(crate) extra: Vec<bool>,
    /// A signal came.
    pub(crate) interrupted: bool,
    /// The time is up.
    pub(crate) timed_out: bool,
}

/// A stream of messages on a non-blocking socket.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: UnixStream,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    want: usize,
}

impl Wire {
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            decoder: Decoder::new(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            want: READ_MIN,
        })
    }

    pub(crate) fn push(&mut self, message: &Message) -> io::Result<()> {
        flux_proto::encode_into(message, &mut self.output);
        if self.output.len() > WRITE_EARLY { self.flush() } else { Ok(()) }
    }

    /// Writes what the socket takes now.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.output.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        Ok(())
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads once and gives every complete message to `take`; true when there may be more to read.
    pub(crate) fn receive(&mut self, mut take: impl FnMut(Message)) -> io::Result<bool> {
        let start = self.input.len();
        self.input.resize(start + self.want, 0);
        let got = loop {
            match self.socket.read(&mut self.input[start..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                got => break got,
            }
        };
        self.input.truncate(start + got.as_ref().map_or(0, |got| *got));
        let more = match got {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => got == self.want,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        self.want = if more { READ_MAX } else { READ_MIN };
        loop {
            match self.decoder.next(&mut self.input) {
                Ok(Some(message)) => take(message),
                Ok(None) => return Ok(more),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }

    /// Waits until the socket can be read, or written if something is unsent, or an extra
    /// descriptor can be read, or `deadline`, or a signal.
    pub(crate) fn wait(
        &self,
        extra: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<Woken> {
        let mut flags = PollFlags::IN;
        flags.set(PollFlags::OUT, self.has_unsent());
        let mut fds = Vec::with_capacity(1 + extra.len());
        fds.push(PollFd::from_borrowed_fd(self.socket.as_fd(), flags));
        fds.extend(extra.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        // A time beyond what the system can express is as good as none.
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => {
                Ok(Woken { timed_out: true, extra: vec![false; extra.len()], ..Woken::default() })
            }
            Ok(_) => {
                let extra = fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
                Ok(Woken { extra, ..Woken::default() })
            }
            Err(rustix::io::Errno::INTR) => {
                Ok(Woken { interrupted: true, extra: vec![false; extra.len()], ..Woken::default() })
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
