//! One client of the local socket: what it sends goes to the engine, what it is sent goes out.

use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use bytes::{Buf, BytesMut};
use flux_proto::codec::HEADER_LEN;
use flux_proto::{Cred, Decoder, Message, MsgType};
use flux_svc::engine::{ClientId, Input};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::hub::Hub;
use crate::quota::Lease;
use crate::watch;

/// Room for one read of a client that sends little.
const READ_MIN: usize = 16 << 10;
/// Room for one read of a client that sends much.
const READ_MAX: usize = 1 << 20;
/// What the system shall take at once of long messages to the owner, if its limits allow that.
const SEND_BUFFER: usize = 1 << 20;
/// Nothing more is read from a guest while more than this waits to be sent to it.
const GUEST_PAUSE: usize = 8 << 20;
/// A send buffer larger than this is given back when it is empty.
const KEEP_BUFFER: usize = 256 << 10;
/// With more than this in the send buffer, writing does not wait for the end of the batch.
pub(crate) const WRITE_EARLY: usize = 256 << 10;

/// The sending side of a client, as the hub keeps it.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Rc<UnixStream>,
    out: BytesMut,
    /// In the hub's list of clients with something to send.
    pub(crate) dirty: bool,
    /// To be closed once everything is sent.
    pub(crate) closing: bool,
    /// Reading has been paused until the send buffer is shorter.
    paused: bool,
    /// The system was asked to take more at once.
    widened: bool,
    resume: Rc<Notify>,
    reader: Option<AbortHandle>,
    writer: Option<AbortHandle>,
    /// What it holds counts for its user, if that is a guest.
    lease: Option<Lease>,
}

/// What the reader of a client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Read,
    Wait,
    Leave,
}

/// What became of an attempt to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Everything is sent.
    All,
    /// The socket is full.
    Full,
    /// The client is gone.
    Gone,
}

impl Client {
    /// Bytes waiting to be sent.
    pub(crate) fn backlog(&self) -> usize {
        self.out.len()
    }

    pub(crate) fn push(&mut self, message: &Message) {
        flux_proto::encode_into(message, &mut self.out);
        self.account();
    }

    fn account(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.set_out(self.out.len());
        }
    }

    /// Whether its user holds too much, and this connection has a part in it.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.lease.as_ref().is_some_and(Lease::is_exceeded)
    }

    /// Writes as much as the socket takes.
    pub(crate) fn flush(&mut self) -> Flushed {
        let flushed = self.write_out();
        self.account();
        flushed
    }

    fn write_out(&mut self) -> Flushed {
        while !self.out.is_empty() {
            match send(&self.socket, &self.out, SendFlags::NOSIGNAL) {
                Ok(0) => return Flushed::Gone,
                Ok(sent) => self.out.advance(sent),
                // A long message: the fewer pieces, the less both sides wait for each other.
                // Guests have no more of the system's memory than they have anyway.
                Err(rustix::io::Errno::AGAIN) if !self.widened && self.lease.is_none() => {
                    self.widened = true;
                    let _ = set_socket_send_buffer_size(&self.socket, SEND_BUFFER);
                }
                Err(rustix::io::Errno::AGAIN) => return Flushed::Full,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Flushed::Gone,
            }
        }
        if self.out.capacity() > KEEP_BUFFER {
            self.out = BytesMut::new();
        } else {
            self.out.clear();
        }
        Flushed::All
    }

    /// Makes sure a task waits for the socket to take more.
    pub(crate) fn await_room(&mut self, hub: &Rc<Hub>, id: ClientId) {
        if self.writer.is_none() {
            let task = write_rest(Rc::clone(hub), id, Rc::clone(&self.socket));
            self.writer = Some(tokio::task::spawn_local(task).abort_handle());
        }
    }

    pub(crate) fn writer_done(&mut self) {
        self.writer = None;
    }

    /// Whether more is to be read, when this much of a message has come; that it is not is
    /// remembered until [`Client::unpause`].
    fn next(&mut self, limit: usize, partial: usize) -> Next {
        let limit = self.pause_limit(limit);
        if let Some(lease) = &mut self.lease {
            lease.set_partial(partial);
            if lease.is_exceeded() {
                return Next::Leave;
            }
        }
        self.paused = self.backlog() > limit;
        if self.paused { Next::Wait } else { Next::Read }
    }

    fn pause_limit(&self, limit: usize) -> usize {
        if self.lease.is_some() { limit.min(GUEST_PAUSE) } else { limit }
    }

    /// Lets reading go on once the backlog is half of `limit` or less.
    pub(crate) fn unpause(&mut self, limit: usize) {
        if self.paused && self.backlog() <= self.pause_limit(limit) / 2 {
            self.paused = false;
            self.resume.notify_one();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        for task in self.reader.take().into_iter().chain(self.writer.take()) {
            task.abort();
        }
        // The tasks let go of it when they are next looked at; the peer is told at once. It may
        // have gone already.
        let _ = shutdown(&self.socket, Shutdown::Write);
    }
}

/// Begins to serve an accepted connection.
pub(crate) fn join(hub: &Rc<Hub>, stream: UnixStream, cred: Cred, lease: Option<Lease>, pid: i32) {
    let decoder = match &lease {
        Some(_) => Decoder::with_max_body(hub.guest_message()),
        None => Decoder::new(),
    };
    let socket = Rc::new(stream);
    // For reading only: else each message that the peer takes would wake the loop, to say that
    // there is room for more.
    let Ok(read) = watch::stream(Rc::clone(&socket), Interest::READABLE) else { return };
    let resume = Rc::new(Notify::new());
    let id = hub.add_client(Client {
        socket,
        out: BytesMut::new(),
        dirty: false,
        closing: false,
        paused: false,
        widened: false,
        resume: Rc::clone(&resume),
        reader: None,
        writer: None,
        lease,
    });
    hub.feed_one(Input::ClientJoined { client: id, cred, pid });
    let task = tokio::task::spawn_local(serve(Rc::clone(hub), id, read, decoder, resume));
    let reader = task.abort_handle();
    hub.with_client(id, |client| client.reader = Some(reader.clone()))
        .unwrap_or_else(|| reader.abort());
}

/// Hands everything a client sends to the engine, until it leaves.
async fn serve(
    hub: Rc<Hub>,
    id: ClientId,
    socket: AsyncFd<Rc<UnixStream>>,
    mut decoder: Decoder,
    resume: Rc<Notify>,
) {
    let mut buf = BytesMut::new();
    let mut want = READ_MIN;
    let limit = hub.limits().pause_reading;
    loop {
        match hub.with_client(id, |client| client.next(limit, buf.len())) {
            None => return,
            Some(Next::Leave) => break,
            Some(Next::Wait) => {
                resume.notified().await;
                continue;
            }
            Some(Next::Read) => {}
        }
        let Ok(mut ready) = socket.readable().await else { break };
        buf.reserve(want.max(missing(&buf).min(4 * READ_MAX)));
        let room = buf.capacity() - buf.len();
        let got = match watch::append(socket.get_ref(), &mut buf) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready.clear_ready();
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        if got < room {
            // It was emptied: what comes later is told again.
            ready.clear_ready();
        }
        let mut broken = false;
        let messages = std::iter::from_fn(|| {
            loop {
                match decoder.next(&mut buf) {
                    Ok(Some(message)) if !sensible(&message) => {}
                    Ok(message) => return message,
                    Err(_) => {
                        broken = true;
                        return None;
                    }
                }
            }
        });
        hub.feed(messages.map(|message| Input::Client(id, message)));
        if broken {
            break;
        }
        if got == room {
            // More is waiting: others first.
            want = (want * 4).min(READ_MAX);
            tokio::task::yield_now().await;
        } else if buf.is_empty() {
            want = READ_MIN;
        }
    }
    hub.drop_client(id);
}

/// How many bytes of the first message in `buf` have not arrived yet, if that is known.
fn missing(buf: &BytesMut) -> usize {
    match buf.get(..HEADER_LEN) {
        Some(&[_, _, _, _, a, b, c, d]) => {
            let total = HEADER_LEN + u32::from_be_bytes([a, b, c, d]) as usize;
            total.saturating_sub(buf.len())
        }
        _ => 0,
    }
}

/// Control messages, and requests and events without a topic, are ignored.
fn sensible(message: &Message) -> bool {
    match message.kind {
        MsgType::Control => false,
        MsgType::Request | MsgType::Event => message.topic.is_some(),
        MsgType::Response => true,
    }
}

/// Sends what the socket did not take at once.
async fn write_rest(hub: Rc<Hub>, id: ClientId, socket: Rc<UnixStream>) {
    // The descriptor itself is watched for reading.
    let watched =
        socket.try_clone().and_then(|socket| watch::stream(Rc::new(socket), Interest::WRITABLE));
    let Ok(watched) = watched else {
        hub.drop_client(id);
        return;
    };
    loop {
        let Ok(mut ready) = watched.writable().await else {
            hub.drop_client(id);
            return;
        };
        // Before the attempt, so that room that comes after it is told.
        ready.clear_ready();
        if hub.flush_client(id) != Flushed::Full {
            return;
        }
    }
}
