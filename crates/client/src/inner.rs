//! What the handles of one connection share: the wire, and a slot for each request in flight.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use flux_api::RpcError;
use flux_proto::{Cred, Errno, Flags, Message, MsgType};

use crate::wire::{Wire, Woken};

/// Events that are kept for [`crate::Client::next_event`]; with more the connection is given up,
/// since none may be lost.
const EVENTS_MAX: usize = 1 << 20;

/// What [`crate::Client::wait`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ready {
    /// A response or event can be taken.
    pub messages: bool,
    /// Which of the extra descriptors can be read (or are at their end).
    pub extra: Vec<bool>,
    /// A signal came.
    pub interrupted: bool,
    /// The time is up.
    pub timed_out: bool,
}

/// Responses of one request.
#[derive(Debug, Default)]
struct Slot {
    ready: VecDeque<Message>,
    /// The last response has arrived.
    ended: bool,
    /// Nobody wants the responses; the tag stays taken until the last one.
    abandoned: bool,
}

#[derive(Debug)]
pub(crate) struct Inner {
    wire: Wire,
    slots: BTreeMap<u32, Slot>,
    free: BTreeSet<u32>,
    /// Tags with responses that somebody can take.
    filled: BTreeSet<u32>,
    next: u32,
    events: VecDeque<Message>,
    requests: VecDeque<Message>,
    /// Messages that somebody can take.
    unread: usize,
    /// Why the connection is of no use any more.
    dead: Option<RpcError>,
    /// Credentials put in every message, for tests.
    pub(crate) cred: Cred,
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Inner {
    pub(crate) fn new(wire: Wire, cred: Cred) -> Self {
        Self {
            wire,
            slots: BTreeMap::new(),
            free: BTreeSet::new(),
            filled: BTreeSet::new(),
            next: 1,
            events: VecDeque::new(),
            requests: VecDeque::new(),
            unread: 0,
            dead: None,
            cred,
            attributes: BTreeMap::new(),
        }
    }

    fn fail(&mut self, error: &io::Error) {
        let text = match error.kind() {
            io::ErrorKind::InvalidData => format!("connection to the broker is broken: {error}"),
            _ => "connection to the broker was lost".to_string(),
        };
        self.dead.get_or_insert_with(|| RpcError::new(Errno::ECONNRESET, text));
    }

    fn check(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.fail(&error);
        }
    }

    /// Sends a message as it is, sooner or later.
    pub(crate) fn push(&mut self, mut message: Message) {
        if self.dead.is_none() {
            message.cred = self.cred;
            let result = self.wire.push(&message);
            self.check(result);
        }
    }

    /// Writes what the socket takes now.
    pub(crate) fn flush(&mut self) {
        if self.dead.is_none() {
            let result = self.wire.flush();
            self.check(result);
        }
    }

    /// Sends a request with the lowest free tag.
    pub(crate) fn request(&mut self, mut message: Message) -> u32 {
        let tag = self.free.pop_first().unwrap_or_else(|| {
            let tag = self.next;
            // 4 billion requests in flight do not fit into memory.
            self.next = self.next.wrapping_add(1).max(1);
            tag
        });
        self.slots.insert(tag, Slot::default());
        message.set_matchtag(tag);
        self.push(message);
        tag
    }

    /// Takes a response that is there; the second value says whether it was the last.
    pub(crate) fn take(&mut self, tag: u32) -> Option<(Message, bool)> {
        let slot = self.slots.get_mut(&tag)?;
        let message = slot.ready.pop_front()?;
        self.unread -= 1;
        if slot.ready.is_empty() {
            self.filled.remove(&tag);
        }
        let last = slot.ended && slot.ready.is_empty();
        if last {
            self.slots.remove(&tag);
            self.free.insert(tag);
        }
        Some((message, last))
    }

    /// Nobody wants the responses of this request any more. True when more are to come.
    pub(crate) fn abandon(&mut self, tag: u32) -> bool {
        let Some(slot) = self.slots.get_mut(&tag) else {
            return false;
        };
        self.unread -= slot.ready.len();
        slot.ready.clear();
        self.filled.remove(&tag);
        slot.abandoned = true;
        if slot.ended {
            self.slots.remove(&tag);
            self.free.insert(tag);
            return false;
        }
        self.dead.is_none()
    }

    pub(crate) fn take_event(&mut self) -> Option<Message> {
        let event = self.events.pop_front()?;
        self.unread -= 1;
        Some(event)
    }

    pub(crate) fn take_request(&mut self) -> Option<Message> {
        let request = self.requests.pop_front()?;
        self.unread -= 1;
        Some(request)
    }

    /// Why nothing more can come.
    pub(crate) fn dead(&self) -> Option<RpcError> {
        self.dead.clone()
    }

    fn sort(&mut self, message: Message) {
        match message.kind {
            MsgType::Response => {
                let tag = message.matchtag();
                let Some(slot) = self.slots.get_mut(&tag) else {
                    return;
                };
                let streaming = message.flags.contains(Flags::STREAMING);
                slot.ended |= !streaming || !message.errnum().is_ok();
                if !slot.abandoned {
                    slot.ready.push_back(message);
                    self.filled.insert(tag);
                    self.unread += 1;
                } else if slot.ended {
                    self.slots.remove(&tag);
                    self.free.insert(tag);
                }
            }
            MsgType::Event | MsgType::Request => {
                let queue = match message.kind {
                    MsgType::Event => &mut self.events,
                    _ => &mut self.requests,
                };
                if queue.len() >= EVENTS_MAX {
                    let text = format!("more than {EVENTS_MAX} messages were not taken");
                    self.dead.get_or_insert_with(|| RpcError::new(Errno::ENOBUFS, text));
                    return;
                }
                queue.push_back(message);
                self.unread += 1;
            }
            MsgType::Control => {}
        }
    }

    /// Takes what has arrived, without waiting.
    pub(crate) fn receive(&mut self) {
        while self.dead.is_none() && self.receive_once(false) {}
    }

    /// Reads once, and may `wait` for something to read; whether there may be more.
    fn receive_once(&mut self, wait: bool) -> bool {
        let mut messages = Vec::new();
        let got = self.wire.receive(wait, |message| messages.push(message));
        for message in messages {
            self.sort(message);
        }
        match got {
            Ok(more) => more,
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    /// Sends what is to be sent and waits for messages alone; true when the time is up.
    pub(crate) fn turn_for_messages(&mut self, deadline: Option<Instant>) -> bool {
        self.flush();
        if deadline.is_none() && self.dead.is_none() && !self.wire.has_unsent() {
            // One system call in place of two.
            if self.receive_once(true) {
                self.receive();
            }
            return false;
        }
        self.turn(&[], deadline).timed_out
    }

    /// Sends what is to be sent and waits once for anything to happen.
    pub(crate) fn turn(&mut self, extra: &[BorrowedFd<'_>], deadline: Option<Instant>) -> Woken {
        self.flush();
        if self.dead.is_some() {
            return Woken { extra: vec![false; extra.len()], ..Woken::default() };
        }
        match self.wire.wait(extra, deadline) {
            Ok(woken) => {
                if !woken.timed_out && !woken.interrupted {
                    self.receive();
                }
                woken
            }
            Err(error) => {
                self.fail(&error);
                Woken { extra: vec![false; extra.len()], ..Woken::default() }
            }
        }
    }

    pub(crate) fn filled(&self) -> &BTreeSet<u32> {
        &self.filled
    }

    pub(crate) fn has_unread(&self) -> bool {
        self.unread > 0
    }

    pub(crate) fn wire(&self) -> &Wire {
        &self.wire
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A cancel or an event that was sent last: the socket nearly always takes it at once.
        self.flush();
    }
}
