//! The connection: bytes in, bytes out, messages at its ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use flux_proto::codec::HEADER_LEN;
use flux_proto::{Decoder, Message};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{RecvFlags, SendFlags, recv, send};

const READ_MIN: usize = 16 << 10;
const READ_MAX: usize = 256 << 10;
/// What the system shall take at once of long messages, if its limits allow that.
const SEND_BUFFER: usize = 1 << 20;
/// Most room that is made for a message because its header announces it.
const ANNOUNCED_MAX: usize = 4 << 20;
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

/// How many bytes of the first message in `buf` have not arrived yet, if that is known.
fn missing(buf: &BytesMut) -> usize {
    match buf.get(..HEADER_LEN) {
        Some(&[_, _, _, _, a, b, c, d]) => {
            let total = HEADER_LEN + u32::from_be_bytes([a, b, c, d]) as usize;
            total.saturating_sub(buf.len()).min(ANNOUNCED_MAX)
        }
        _ => 0,
    }
}

/// A stream of messages. The socket itself blocks; each call says whether it may.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: UnixStream,
    decoder: Decoder,
    /// What is read comes here first.
    scratch: Vec<u8>,
    input: BytesMut,
    output: BytesMut,
    want: usize,
    /// The system was asked to take more at once.
    widened: bool,
}

impl Wire {
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        Ok(Self {
            socket,
            decoder: Decoder::new(),
            scratch: Vec::new(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            want: READ_MIN,
            widened: false,
        })
    }

    pub(crate) fn push(&mut self, message: &Message) -> io::Result<()> {
        flux_proto::encode_into(message, &mut self.output);
        if self.output.len() > WRITE_EARLY { self.flush() } else { Ok(()) }
    }

    /// Writes what the socket takes now.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match send(&self.socket, &self.output, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.output.advance(sent),
                Err(rustix::io::Errno::INTR) => {}
                // A long message: the fewer pieces, the less both sides wait for each other.
                Err(rustix::io::Errno::AGAIN) if !self.widened => {
                    self.widened = true;
                    let _ = set_socket_send_buffer_size(&self.socket, SEND_BUFFER);
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.output.clear();
        Ok(())
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads once and gives every complete message to `take`; true when there may be more to read.
    /// When nothing is there it returns at once, unless it is to `wait`.
    pub(crate) fn receive(
        &mut self,
        wait: bool,
        mut take: impl FnMut(Message),
    ) -> io::Result<bool> {
        // Room that is not cleared: of a short message a process touches no more pages than it has.
        self.scratch.clear();
        self.scratch.reserve(self.want);
        let room = self.scratch.capacity();
        let flags = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        let got = match recv(&self.socket, spare_capacity(&mut self.scratch), flags) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((got, _)) => got,
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            // The caller goes round.
            Err(rustix::io::Errno::INTR) => return Ok(!wait),
            Err(error) => return Err(error.into()),
        };
        self.input.extend_from_slice(&self.scratch);
        let more = got == room;
        self.want = if more { READ_MAX } else { READ_MIN };
        loop {
            match self.decoder.next(&mut self.input) {
                Ok(Some(message)) => take(message),
                Ok(None) => break,
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        // Room for the rest of a long message at once.
        self.input.reserve(missing(&self.input));
        Ok(more)
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
