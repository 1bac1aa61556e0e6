//! Streams: many responses to one request (RFC 6).

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use flux_api::{Rpc, RpcError};
use flux_proto::{Errno, Message};
use serde_json::json;

use crate::pending::{RawPending, body};

/// Methods whose cancel request has a topic of its own, the method's with `-cancel`; for others
/// it is `<service>.cancel`.
const OWN_CANCEL: [&str; 5] = [
    "job-info.eventlog-watch",
    "job-info.update-watch",
    "job-manager.events-journal",
    "resource.acquire",
    "resource.journal",
];

/// The items of a streaming request. As an iterator it waits for each item and ends with the
/// stream; an error is its last item. Dropping it cancels what is still to come.
#[derive(Debug)]
pub struct Stream<R: Rpc> {
    raw: RawPending,
    cancelled: bool,
    ended: bool,
    rpc: PhantomData<fn() -> R>,
}

impl<R: Rpc> Stream<R> {
    pub(crate) fn new(raw: RawPending) -> Self {
        Self { raw, cancelled: false, ended: false, rpc: PhantomData }
    }

    fn item(&mut self, result: Result<Message, RpcError>) -> Option<Result<R::Response, RpcError>> {
        // A service without the stream form answers once, without the streaming flag.
        self.ended = self.raw.is_done();
        match result {
            Err(error) if error.errno == Errno::ENODATA => None,
            Err(error) => Some(Err(error)),
            Ok(message) => Some(body::<R>(&message)),
        }
    }

    /// Whether the stream has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// The next item if it is there, without waiting. `None`: not yet, or ended, as
    /// [`Stream::is_ended`] says.
    pub fn try_next(&mut self) -> Option<Result<R::Response, RpcError>> {
        if self.ended {
            return None;
        }
        let result = self.raw.try_next()?;
        self.item(result)
    }

    /// Waits for the next item, but not longer than `time`; `Ok(None)` at the end.
    ///
    /// # Errors
    /// ETIMEDOUT (the stream goes on), or the error that ends the stream.
    pub fn next_within(&mut self, time: Duration) -> Result<Option<R::Response>, RpcError> {
        if self.ended {
            return Ok(None);
        }
        let result = self.raw.next_until(Instant::now().checked_add(time));
        if let Err(error) = &result
            && error.errno == Errno::ETIMEDOUT
            && !self.raw.is_done()
        {
            return Err(error.clone());
        }
        self.item(result).transpose()
    }

    /// Asks the service to end the stream. Items that are on their way, and the end, still come.
    pub fn cancel(&mut self) {
        if self.ended || std::mem::replace(&mut self.cancelled, true) {
            return;
        }
        let topic = self.raw.topic();
        let cancel = if OWN_CANCEL.contains(&topic) {
            format!("{topic}-cancel")
        } else {
            let service = topic.split_once('.').map_or(topic, |(service, _)| service);
            format!("{service}.cancel")
        };
        let request = Message::request(cancel)
            .with_no_response()
            .with_nodeid(self.raw.nodeid())
            .with_json(&json!({ "matchtag": self.raw.matchtag() }));
        self.raw.send_other(request);
    }

    /// The request's matchtag.
    #[must_use]
    pub fn matchtag(&self) -> u32 {
        self.raw.matchtag()
    }
}

impl<R: Rpc> Iterator for Stream<R> {
    type Item = Result<R::Response, RpcError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let result = self.raw.next_until(None);
        self.item(result)
    }
}

impl<R: Rpc> Drop for Stream<R> {
    fn drop(&mut self) {
        self.cancel();
    }
}
