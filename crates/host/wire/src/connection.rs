//! A link that runs over a socket.
//!
//! One task drives both directions, since they share the TLS state. It reads only as fast as
//! messages are taken from it, takes messages to send only as fast as the socket accepts them,
//! and one direction that waits never holds up the other.

use std::io;
use std::time::Duration;

use flux_proto::Message;
use rustix::process::{Pid, RawUid};
use tokio::io::Interest;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::endpoint::Endpoint;
use crate::key::{KeyDigest, PublicKey};
use crate::link::{Link, LinkError, LinkLimits};
use crate::socket::Socket;

/// Bytes that are read in one go.
const READ_STEP: usize = 64 * 1024;

/// Messages that are taken from the queue in one go.
const BATCH: usize = 256;

/// Bytes that wait in the link before messages stay in the queue.
const QUEUED_ENOUGH: usize = 256 * 1024;

/// How long the peer may take to end its side after we have ended ours.
const LINGER: Duration = Duration::from_secs(1);

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// A holder of a trusted key.
    Key {
        /// The key.
        key: PublicKey,
        /// Its digest, the identity of the peer.
        digest: KeyDigest,
        /// Where it connects from or is connected to.
        address: std::net::SocketAddr,
    },
    /// A process of this host.
    Local {
        /// Its effective user at the time of connecting.
        uid: RawUid,
        /// Its process id, when it is visible here.
        pid: Option<Pid>,
    },
}

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side has ended it.
    #[error("closed here")]
    Local,
    /// The peer has ended it in order.
    #[error("closed by the peer")]
    Peer,
    /// The link has failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The socket has failed: reset, timed out, unreachable.
    #[error("lost connection: {0}")]
    Io(#[from] io::Error),
}

/// Where a connection puts the messages it receives.
///
/// A host with many peers has them all put what they receive into one queue, each with its own
/// mark.
#[derive(Debug)]
pub struct Inbox<T, F> {
    queue: mpsc::Sender<T>,
    mark: F,
}

impl<T, F: FnMut(Message) -> T> Inbox<T, F> {
    /// Messages go through `mark` into `queue`.
    pub fn new(queue: mpsc::Sender<T>, mark: F) -> Inbox<T, F> {
        Inbox { queue, mark }
    }
}

/// A connection that runs on a task of its own.
#[derive(Debug)]
pub struct SpawnedLink {
    /// What is put here is sent; dropping it ends the connection after what is queued.
    pub sender: mpsc::Sender<Message>,
    /// What is received; ends with the connection.
    pub receiver: mpsc::Receiver<Message>,
    /// Ends with the reason.
    pub task: JoinHandle<CloseReason>,
}

/// An established connection to a peer.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    link: Link,
    peer: Peer,
    remote: Endpoint,
}

/// What the connection waited for has come.
enum Step {
    Socket(tokio::io::Ready),
    Delivered,
    InboxGone,
    Queued(usize),
}

impl Connection {
    pub(crate) fn new(socket: Socket, link: Link, peer: Peer, remote: Endpoint) -> Connection {
        Connection { socket, link, peer, remote }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The endpoint this connection was made to or came in at.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.remote
    }

    /// Runs the connection on a task of its own; each queue holds `depth` messages.
    #[must_use]
    pub fn spawn(self, depth: usize) -> SpawnedLink {
        let (sender, outbox) = mpsc::channel(depth);
        let (inbox, receiver) = mpsc::channel(depth);
        let task = tokio::spawn(self.run(Inbox::new(inbox, |message| message), outbox));
        SpawnedLink { sender, receiver, task }
    }

    /// Carries messages until one side ends the connection or it fails: this side by dropping
    /// every sender of `outbox`, which sends what is queued first, or the receiver of `inbox`.
    pub async fn run<T, F: FnMut(Message) -> T>(
        mut self,
        mut inbox: Inbox<T, F>,
        mut outbox: mpsc::Receiver<Message>,
    ) -> CloseReason {
        let reason = self.exchange(&mut inbox, &mut outbox).await;
        // Nothing may be put into queues that nobody reads while the farewell takes its time.
        drop((inbox, outbox));
        self.farewell(&reason).await;
        reason
    }

    async fn exchange<T, F: FnMut(Message) -> T>(
        &mut self,
        inbox: &mut Inbox<T, F>,
        outbox: &mut mpsc::Receiver<Message>,
    ) -> CloseReason {
        let mut buf = vec![0; READ_STEP];
        let mut batch = Vec::with_capacity(BATCH);
        let mut next = None;
        let mut ended = false;
        loop {
            // Deliver what has arrived, as far as there is room.
            loop {
                if next.is_none() {
                    next = match self.link.next_message() {
                        Ok(message) => message,
                        Err(error) => return error.into(),
                    };
                }
                if next.is_none() {
                    break;
                }
                match inbox.queue.try_reserve() {
                    Ok(permit) => {
                        if let Some(message) = next.take() {
                            permit.send((inbox.mark)(message));
                        }
                    }
                    Err(mpsc::error::TrySendError::Full(())) => break,
                    Err(mpsc::error::TrySendError::Closed(())) => return CloseReason::Local,
                }
            }
            if next.is_none() && (ended || self.link.peer_closed()) {
                return match self.link.end_of_input() {
                    Ok(()) => CloseReason::Peer,
                    Err(error) => error.into(),
                };
            }
            let waiting = !self.link.output().is_empty();
            let interest = match (next.is_none() && !ended, waiting) {
                (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
                (true, false) => Some(Interest::READABLE),
                (false, true) => Some(Interest::WRITABLE),
                (false, false) => None,
            };
            let room = self.link.queued_bytes() < QUEUED_ENOUGH;
            let step = tokio::select! {
                ready = self.socket.ready(interest.unwrap_or(Interest::READABLE)),
                    if interest.is_some() => match ready {
                        Ok(ready) => Step::Socket(ready),
                        Err(error) => return error.into(),
                    },
                permit = inbox.queue.reserve(), if next.is_some() => match permit {
                    Ok(permit) => {
                        // At once: others may want the room in a queue that is shared.
                        if let Some(message) = next.take() {
                            permit.send((inbox.mark)(message));
                        }
                        Step::Delivered
                    }
                    Err(_) => Step::InboxGone,
                },
                () = inbox.queue.closed(), if next.is_none() => Step::InboxGone,
                count = outbox.recv_many(&mut batch, BATCH), if room => Step::Queued(count),
            };
            match step {
                Step::Delivered => {}
                Step::InboxGone | Step::Queued(0) => return CloseReason::Local,
                Step::Queued(_) => {
                    for message in batch.drain(..) {
                        // The link has no bound of its own: see `limits`.
                        if let Err(full) = self.link.queue(&message) {
                            return io::Error::new(io::ErrorKind::OutOfMemory, full).into();
                        }
                    }
                    if let Err(error) = self.write_some() {
                        return error.into();
                    }
                }
                Step::Socket(ready) => {
                    if ready.is_writable()
                        && let Err(error) = self.write_some()
                    {
                        return self.reason_behind(error, &mut buf);
                    }
                    if ready.is_readable() && next.is_none() {
                        match self.socket.try_read(&mut buf) {
                            Ok(0) => ended = true,
                            Ok(count) => {
                                if let Err(error) = self.link.receive(&buf[..count]) {
                                    return error.into();
                                }
                            }
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            Err(error) => return error.into(),
                        }
                    }
                }
            }
        }
    }

    /// A peer that refuses us says so before it goes; that tells more than the broken pipe.
    fn reason_behind(&mut self, error: io::Error, buf: &mut [u8]) -> CloseReason {
        while let Ok(count) = self.socket.try_read(buf) {
            if count == 0 {
                break;
            }
            if let Err(error) = self.link.receive(&buf[..count]) {
                return error.into();
            }
        }
        error.into()
    }

    /// Writes as much as the socket takes without waiting.
    fn write_some(&mut self) -> io::Result<()> {
        loop {
            let output = self.link.output();
            if output.is_empty() {
                return Ok(());
            }
            match self.socket.try_write(output) {
                Ok(count) => self.link.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends what is left, be it messages or the alert that tells the peer why, and lets the
    /// peer read it: a socket closed with unread bytes is reset, and what it sent is lost.
    async fn farewell(&mut self, reason: &CloseReason) {
        if matches!(reason, CloseReason::Io(_)) {
            return;
        }
        self.link.close();
        // An error or a slow peer here changes nothing: the connection has ended.
        let _ended = linger(&self.socket, &mut self.link).await;
    }
}

/// The limits of a link that a connection drives: what waits is bounded by what the connection
/// takes from its queue, one batch beyond [`QUEUED_ENOUGH`] at most.
pub(crate) fn limits(max_body: usize) -> LinkLimits {
    LinkLimits { max_queued: usize::MAX, max_body }
}

/// Writes all output of `link`, ends the sending side, and waits for the peer to do the same.
/// Gives up when [`LINGER`] passes and the peer takes nothing.
pub(crate) async fn linger(socket: &Socket, link: &mut Link) -> io::Result<()> {
    while !link.output().is_empty() {
        timeout(LINGER, socket.ready(Interest::WRITABLE)).await??;
        match socket.try_write(link.output()) {
            Ok(count) => link.advance(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    socket.shutdown_write()?;
    timeout(LINGER, end_of_input(socket)).await?
}

async fn end_of_input(socket: &Socket) -> io::Result<()> {
    let mut rest = vec![0; 4096];
    loop {
        socket.ready(Interest::READABLE).await?;
        match socket.try_read(&mut rest) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
