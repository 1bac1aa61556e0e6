//! Answers that are on their way.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use flux_api::{Body, Rpc, RpcError};
use flux_proto::{Errno, Message};

use crate::inner::Inner;

/// The error for a time that is up.
pub(crate) fn timed_out(topic: &str) -> RpcError {
    RpcError::new(Errno::ETIMEDOUT, format!("{topic}: no answer in time"))
}

/// The responses to one request, as messages. Dropping it leaves the request to run its course:
/// its responses are thrown away when they come.
#[derive(Debug)]
pub struct RawPending {
    inner: Rc<RefCell<Inner>>,
    topic: std::sync::Arc<str>,
    nodeid: u32,
    tag: u32,
    /// The last response has been taken.
    done: bool,
}

impl RawPending {
    pub(crate) fn new(inner: Rc<RefCell<Inner>>, message: Message) -> Self {
        let topic = message.topic.clone().unwrap_or_else(|| "".into());
        let nodeid = message.nodeid();
        let tag = inner.borrow_mut().request(message);
        Self { inner, topic, nodeid, tag, done: false }
    }

    /// The request's matchtag, as `cancel` requests name it.
    #[must_use]
    pub fn matchtag(&self) -> u32 {
        self.tag
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    pub(crate) fn nodeid(&self) -> u32 {
        self.nodeid
    }

    /// Whether the last response has been taken.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Sends another message on the same connection.
    pub(crate) fn send_other(&self, message: Message) {
        let mut inner = self.inner.borrow_mut();
        inner.push(message);
        inner.flush();
    }

    /// The next response if it is there, without waiting. A failed response is an error; so is a
    /// lost connection, and asking for more after the last response (ENODATA).
    pub fn try_next(&mut self) -> Option<Result<Message, RpcError>> {
        if self.done {
            return Some(Err(Errno::ENODATA.into()));
        }
        let mut inner = self.inner.borrow_mut();
        if let Some(result) = Self::ready(&mut inner, self.tag, &mut self.done) {
            return Some(result);
        }
        inner.flush();
        inner.receive();
        Self::ready(&mut inner, self.tag, &mut self.done)
    }

    /// The next response if it is there, without waiting, where a lost connection is no response:
    /// [`crate::Client::wait`] tells of it.
    pub fn try_answer(&mut self) -> Option<Result<Message, RpcError>> {
        if self.done {
            return None;
        }
        let mut inner = self.inner.borrow_mut();
        let mut taken = inner.take(self.tag);
        if taken.is_none() {
            inner.flush();
            inner.receive();
            taken = inner.take(self.tag);
        }
        let (message, last) = taken?;
        self.done = last;
        Some(RpcError::of(&message).map_or(Ok(message), Err))
    }

    fn ready(inner: &mut Inner, tag: u32, done: &mut bool) -> Option<Result<Message, RpcError>> {
        if let Some((message, last)) = inner.take(tag) {
            *done = last;
            return Some(RpcError::of(&message).map_or(Ok(message), Err));
        }
        let error = inner.dead()?;
        inner.abandon(tag);
        *done = true;
        Some(Err(error))
    }

    /// The next response; waits for it until `deadline`.
    ///
    /// # Errors
    /// As [`RawPending::try_next`]; ETIMEDOUT when the time is up.
    pub fn next_until(&mut self, deadline: Option<Instant>) -> Result<Message, RpcError> {
        if self.done {
            return Err(Errno::ENODATA.into());
        }
        let mut inner = self.inner.borrow_mut();
        loop {
            if let Some(result) = Self::ready(&mut inner, self.tag, &mut self.done) {
                return result;
            }
            if inner.turn_for_messages(deadline) {
                return Err(timed_out(&self.topic));
            }
        }
    }

    /// The next response; waits for it until one of the `extra` descriptors can be read or a signal
    /// comes, which is `None`. Sleeps while messages for others are there that nobody takes.
    pub fn next_or(&mut self, extra: &[BorrowedFd<'_>]) -> Option<Result<Message, RpcError>> {
        if self.done {
            return Some(Err(Errno::ENODATA.into()));
        }
        let mut inner = self.inner.borrow_mut();
        loop {
            if let Some(result) = Self::ready(&mut inner, self.tag, &mut self.done) {
                return Some(result);
            }
            let woken = inner.turn(extra, None);
            if woken.interrupted || woken.extra.contains(&true) {
                return Self::ready(&mut inner, self.tag, &mut self.done);
            }
        }
    }
}

impl Drop for RawPending {
    fn drop(&mut self) {
        if !self.done {
            self.inner.borrow_mut().abandon(self.tag);
        }
    }
}

/// Reads the body of a response.
pub(crate) fn body<R: Rpc>(message: &Message) -> Result<R::Response, RpcError> {
    R::Response::take(message).map_err(|text| {
        RpcError::new(Errno::EPROTO, format!("{}: unexpected response: {text}", R::TOPIC))
    })
}

/// The one answer to a request. Dropping it leaves the request to run its course.
#[derive(Debug)]
#[must_use = "an answer that nobody waits for hides its error"]
pub struct Pending<R: Rpc> {
    raw: RawPending,
    rpc: PhantomData<fn() -> R>,
}

impl<R: Rpc> Pending<R> {
    pub(crate) fn new(raw: RawPending) -> Self {
        Self { raw, rpc: PhantomData }
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// The error that was answered; ECONNRESET when the connection is lost; EPROTO for an answer
    /// of the wrong form.
    pub fn wait(mut self) -> Result<R::Response, RpcError> {
        body::<R>(&self.raw.next_until(None)?)
    }

    /// Waits for the answer, but not longer than `time`.
    ///
    /// # Errors
    /// As [`Pending::wait`], and ETIMEDOUT.
    pub fn wait_within(mut self, time: Duration) -> Result<R::Response, RpcError> {
        body::<R>(&self.raw.next_until(Instant::now().checked_add(time))?)
    }

    /// The answer if it is there, without waiting. To be asked no more after that.
    pub fn try_take(&mut self) -> Option<Result<R::Response, RpcError>> {
        self.raw.try_next().map(|result| result.and_then(|message| body::<R>(&message)))
    }

    /// The request's matchtag.
    #[must_use]
    pub fn matchtag(&self) -> u32 {
        self.raw.matchtag()
    }
}
