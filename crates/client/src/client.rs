//! The handle of a connection.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use flux_api::broker::{Subscribe, SubscribeRequest, Unsubscribe};
use flux_api::{Body, Rpc, RpcError, rpc};
use flux_proto::{Cred, Errno, Flags, Message, Rolemask};
use serde_json::Value;

use crate::connect::{OpenError, connect, connect_once, errno_of};
use crate::inner::{Inner, Ready};
use crate::pending::{Pending, RawPending, timed_out};
use crate::stream::Stream;
use crate::uri::{self, Target};
use crate::wire::Wire;

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum To {
    /// The first instance of the service from the broker to the root.
    #[default]
    Any,
    /// One rank.
    Rank(u32),
    /// The first instance above the broker.
    Upstream,
}

/// A connection to a broker. Clones share it; it belongs to one thread.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Rc<RefCell<Inner>>,
}

impl Client {
    /// Connects to `uri`: a URI, a path among enclosing instances (`/`, `..`), or by default the
    /// current instance (`FLUX_URI`, else the system instance). A broker that does not listen yet
    /// is tried for half a second.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(uri: Option<&str>) -> Result<Self, OpenError> {
        let mut target = match uri {
            Some(text) => uri::parse(text)?,
            None => uri::parse(&uri::own_uri())?,
        };
        if matches!(target, Target::Top | Target::Up(_)) {
            target = uri::parse(&uri::resolve(uri)?)?;
        }
        Self::from_stream(connect(&target)?).map_err(|error| OpenError::Refused(errno_of(&error)))
    }

    /// Connects to a broker of this host, once and within `time`: for programs that have other
    /// things to do until it listens again.
    ///
    /// # Errors
    /// See [`OpenError`]; EAGAIN or ETIMEDOUT when the broker accepts connections but says nothing.
    pub fn open_once(uri: &str, time: Duration) -> Result<Self, OpenError> {
        Self::from_stream(connect_once(&uri::parse(uri)?, time)?)
            .map_err(|error| OpenError::Refused(errno_of(&error)))
    }

    /// A client on a stream whose authentication byte has been read.
    ///
    /// # Errors
    /// When the stream cannot be made non-blocking.
    pub fn from_stream(stream: UnixStream) -> io::Result<Self> {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| prefixed(&text));
        let mut cred = Cred::UNKNOWN;
        cred.userid = number("FLUX_HANDLE_USERID").unwrap_or(cred.userid);
        cred.rolemask = number("FLUX_HANDLE_ROLEMASK").map_or(cred.rolemask, Rolemask);
        let inner = Inner::new(Wire::new(stream)?, cred);
        Ok(Self { inner: Rc::new(RefCell::new(inner)) })
    }

    pub(crate) fn inner(&self) -> &RefCell<Inner> {
        &self.inner
    }

    fn address(&self, mut message: Message, to: To) -> Result<Message, RpcError> {
        match to {
            To::Any => {}
            To::Rank(rank) => message.set_nodeid(rank),
            To::Upstream => message = message.with_upstream(self.rank()?),
        }
        Ok(message)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The error that was answered; ECONNRESET when the connection is lost.
    pub fn call<R: Rpc>(&self, to: To, request: &R::Request) -> Result<R::Response, RpcError> {
        self.send::<R>(to, request).wait()
    }

    /// Asks and waits for the answer, but not longer than `time`.
    ///
    /// # Errors
    /// As [`Client::call`], and ETIMEDOUT.
    pub fn call_within<R: Rpc>(
        &self,
        to: To,
        request: &R::Request,
        time: Duration,
    ) -> Result<R::Response, RpcError> {
        self.send::<R>(to, request).wait_within(time)
    }

    /// Asks; the answer is waited for later. The request leaves with the next wait or
    /// [`Client::flush`], together with all others made until then.
    pub fn send<R: Rpc>(&self, to: To, request: &R::Request) -> Pending<R> {
        let mut message = rpc::request::<R>(request);
        message.flags.remove(Flags::NORESPONSE);
        Pending::new(self.start(to, message))
    }

    /// Asks for a stream of answers.
    #[must_use]
    pub fn stream<R: Rpc>(&self, to: To, request: &R::Request) -> Stream<R> {
        let message = rpc::request::<R>(request).with_streaming();
        Stream::new(self.start(to, message))
    }

    /// Asks for something that is not answered, at once.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn notify<R: Rpc>(&self, to: To, request: &R::Request) -> Result<(), RpcError> {
        let message = self.address(rpc::request::<R>(request).with_no_response(), to)?;
        self.post(message)
    }

    /// Asks with any topic and a JSON object, and waits for the answer; one without payload is
    /// null.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn rpc(&self, topic: &str, to: To, body: Option<&Value>) -> Result<Value, RpcError> {
        let mut message = Message::request(topic);
        if let Some(body) = body {
            message = message.with_json(body);
        }
        let answer = self.start(to, message).next_until(None)?;
        if answer.payload.is_none() {
            return Ok(Value::Null);
        }
        answer.json().map_err(|error| {
            RpcError::new(Errno::EPROTO, format!("{topic}: unexpected response: {error}"))
        })
    }

    /// Sends a request message, whose responses are taken as messages. Its matchtag is set here.
    #[must_use]
    pub fn start(&self, to: To, message: Message) -> RawPending {
        // When the own rank is not to be had, the connection is lost, and the request finds out.
        let message = self.address(message.clone(), to).unwrap_or(message);
        RawPending::new(Rc::clone(&self.inner), message)
    }

    /// Sends a message that needs no answer as it is, at once: an event, a response of a service
    /// of this client, a request with NORESPONSE.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn post(&self, message: Message) -> Result<(), RpcError> {
        let mut inner = self.inner.borrow_mut();
        inner.push(message);
        inner.flush();
        inner.dead().map_or(Ok(()), Err)
    }

    /// Publishes an event without waiting for its sequence number. See
    /// [`flux_api::broker::Publish`] for the acknowledged way.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn publish(&self, topic: &str, body: &impl Body, private: bool) -> Result<(), RpcError> {
        let mut event = Message::event(topic);
        body.put(&mut event);
        if private {
            event.flags.insert(Flags::PRIVATE);
        }
        self.post(event)
    }

    /// Asks for events whose topic begins with `prefix`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn subscribe(&self, prefix: &str) -> Result<(), RpcError> {
        let request = SubscribeRequest { topic: prefix.to_string() };
        self.call::<Subscribe>(To::Any, &request).map(drop)
    }

    /// Undoes one [`Client::subscribe`]. Events that have arrived already stay.
    ///
    /// # Errors
    /// ENOENT when not subscribed.
    pub fn unsubscribe(&self, prefix: &str) -> Result<(), RpcError> {
        let request = SubscribeRequest { topic: prefix.to_string() };
        self.call::<Unsubscribe>(To::Any, &request).map(drop)
    }

    /// Waits for the next event, but not longer than `time` if that is given.
    ///
    /// # Errors
    /// ETIMEDOUT, or that the connection is lost.
    pub fn next_event(&self, time: Option<Duration>) -> Result<Message, RpcError> {
        self.next_of(time, "event", Inner::take_event)
    }

    /// Waits for the next request to a service that this client has registered.
    ///
    /// # Errors
    /// ETIMEDOUT, or that the connection is lost.
    pub fn next_request(&self, time: Option<Duration>) -> Result<Message, RpcError> {
        self.next_of(time, "request", Inner::take_request)
    }

    fn next_of(
        &self,
        time: Option<Duration>,
        what: &str,
        take: impl Fn(&mut Inner) -> Option<Message>,
    ) -> Result<Message, RpcError> {
        let deadline = time.and_then(|time| Instant::now().checked_add(time));
        let mut inner = self.inner.borrow_mut();
        loop {
            if let Some(message) = take(&mut inner) {
                return Ok(message);
            }
            if let Some(error) = inner.dead() {
                return Err(error);
            }
            if inner.turn_for_messages(deadline) {
                return Err(timed_out(what));
            }
        }
    }

    /// The next event if it is there, without waiting.
    #[must_use]
    pub fn try_event(&self) -> Option<Message> {
        let mut inner = self.inner.borrow_mut();
        inner.take_event().or_else(|| {
            inner.receive();
            inner.take_event()
        })
    }

    /// Waits until a response or event can be taken, or one of the `extra` descriptors can be
    /// read, or a signal comes, or `time` is up. Returns at once while responses or events that
    /// arrived before have not been taken: take all, with the `try_…` methods, before waiting.
    ///
    /// # Errors
    /// When the connection is lost and everything that came before was taken.
    pub fn wait(
        &self,
        extra: &[BorrowedFd<'_>],
        time: Option<Duration>,
    ) -> Result<Ready, RpcError> {
        let mut deadline = time.and_then(|time| Instant::now().checked_add(time));
        let mut inner = self.inner.borrow_mut();
        loop {
            let unread = inner.has_unread();
            if unread {
                // Only a look at the descriptors.
                deadline = Some(Instant::now());
            } else if let Some(error) = inner.dead() {
                return Err(error);
            }
            let woken = inner.turn(extra, deadline);
            let ready = Ready {
                messages: inner.has_unread(),
                timed_out: woken.timed_out && !unread,
                extra: woken.extra,
                interrupted: woken.interrupted,
            };
            if ready.messages || ready.timed_out || ready.interrupted || ready.extra.contains(&true)
            {
                return Ok(ready);
            }
        }
    }

    /// Matchtags of the requests whose responses have arrived and can be taken, ascending: which of
    /// many streams to ask after [`Client::wait`].
    #[must_use]
    pub fn ready_tags(&self) -> Vec<u32> {
        self.inner.borrow().filled().iter().copied().collect()
    }

    /// Writes what was sent and is not yet written, as far as the socket takes it now.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn flush(&self) -> Result<(), RpcError> {
        let mut inner = self.inner.borrow_mut();
        inner.flush();
        inner.dead().map_or(Ok(()), Err)
    }

    /// Whether the connection is lost. What came before can still be taken.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.inner.borrow().dead().is_some()
    }

    /// The descriptor of the connection, for programs with an event loop of their own.
    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.inner.borrow().wire().as_fd().as_raw_fd()
    }
}

/// A number with the prefixes of C: `0x` hexadecimal, `0` octal.
fn prefixed(text: &str) -> Option<u32> {
    let text = text.trim();
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        u32::from_str_radix(digits, 16).ok()
    } else if text.len() > 1 && text.starts_with('0') {
        u32::from_str_radix(&text[1..], 8).ok()
    } else {
        text.parse().ok()
    }
}
