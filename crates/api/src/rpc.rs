//! What an RPC is (RFC 6): a topic, a role, a shape, a request and a response type.
//!
//! A service receives a [`Call`]: the request and an [`Answer`]. The answer is used up by the one
//! final response, so the type system keeps the promise that every request ends exactly once; an
//! answer that is dropped unused is counted by [`leaked_answers`], which tests check.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;

use flux_proto::{Cred, Errno, Flags, Message, Rolemask, RouteId};

use crate::body::{Body, text_payload};

/// How many responses a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One response.
    Unary,
    /// Responses until an error; ENODATA is the normal end. Without the STREAMING flag: EPROTO.
    Streaming,
    /// One response, or a stream when the request has the STREAMING flag.
    Either,
    /// No response (the sender sets NORESPONSE).
    Silent,
}

/// One line of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// Topic, `service.method`.
    pub topic: &'static str,
    /// Who may call.
    pub role: Rolemask,
    /// How many responses.
    pub shape: Shape,
    /// Name of the request type.
    pub request: &'static str,
    /// Name of the response type.
    pub response: &'static str,
    /// What it does, one sentence.
    pub doc: &'static str,
}

/// One RPC, declared by `api!`.
pub trait Rpc: 'static {
    /// Topic, `service.method`.
    const TOPIC: &'static str;
    /// Who may call.
    const ROLE: Rolemask;
    /// How many responses.
    const SHAPE: Shape;
    /// What is asked.
    type Request: Body;
    /// What is answered, once or as each item of a stream.
    type Response: Body;
}

/// The exhaustive set of requests of one service, made by `api!`.
pub trait Api: Sized {
    /// Service names (the words before the first dot of the topics).
    const SERVICES: &'static [&'static str];
    /// Every method.
    const METHODS: &'static [Method];
    /// Turns a request message into a typed call; the caller has checked the role already.
    /// `Err` gives the answer back together with what to say.
    fn decode(message: Message) -> Result<Self, (Message, RpcError)>;

    /// The declaration of a topic.
    fn method(topic: &str) -> Option<&'static Method> {
        Self::METHODS.iter().find(|method| method.topic == topic)
    }
}

/// A failed RPC: the errno on the wire and, where it helps, one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcError {
    /// Errno, never 0.
    pub errno: Errno,
    /// One sentence: the object, what failed, the next step.
    pub text: Option<String>,
}

impl RpcError {
    /// An error with a sentence.
    pub fn new(errno: Errno, text: impl Into<String>) -> Self {
        Self { errno, text: Some(text.into()) }
    }

    /// An error for which the errno says enough.
    #[must_use]
    pub fn bare(errno: Errno) -> Self {
        Self { errno, text: None }
    }

    /// What to show a person: the sentence, else the errno's standard text.
    #[must_use]
    pub fn message(&self) -> String {
        self.text.clone().unwrap_or_else(|| self.errno.text().to_string())
    }

    /// The error in a response message, if it is one.
    #[must_use]
    pub fn of(response: &Message) -> Option<Self> {
        let errno = response.errnum();
        (errno.0 != 0).then(|| Self { errno, text: response.text().ok().map(ToString::to_string) })
    }
}

impl From<Errno> for RpcError {
    fn from(errno: Errno) -> Self {
        Self::bare(errno)
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for RpcError {}

/// Where responses go: a service's context, or a test.
pub trait Outbox {
    /// Sends one message.
    fn send(&mut self, message: Message);
}

impl Outbox for Vec<Message> {
    fn send(&mut self, message: Message) {
        self.push(message);
    }
}

/// A request with the means to answer it.
#[derive(Debug)]
pub struct Call<R: Rpc> {
    /// What was asked.
    pub request: R::Request,
    /// How to answer.
    pub answer: Answer<R>,
}

impl<R: Rpc> Call<R> {
    /// Decodes a request of this RPC.
    pub fn decode(mut message: Message) -> Result<Self, (Message, RpcError)> {
        if R::SHAPE == Shape::Streaming && !message.is_streaming() {
            let error = RpcError::new(
                Errno::EPROTO,
                format!("{} request rejected without streaming RPC flag", R::TOPIC),
            );
            return Err((message, error));
        }
        match R::Request::receive(&mut message) {
            Ok(request) => {
                (message.payload, message.body) = (None, None);
                Ok(Self { request, answer: Answer::new(message) })
            }
            Err(text) => Err((message, RpcError::new(Errno::EPROTO, text))),
        }
    }
}

thread_local! {
    static LEAKED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Takes the topics of answers that were dropped unused on this thread: each is a bug.
#[must_use]
pub fn leaked_answers() -> Vec<String> {
    LEAKED.with(|leaked| std::mem::take(&mut *leaked.borrow_mut()))
}

/// The one final response owed to a request, typed by its RPC.
pub struct Answer<R: Rpc> {
    request: Message,
    owed: bool,
    rpc: PhantomData<fn() -> R>,
}

impl<R: Rpc> fmt::Debug for Answer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({} tag {})", R::TOPIC, self.request.matchtag())
    }
}

impl<R: Rpc> Drop for Answer<R> {
    fn drop(&mut self) {
        if self.owed && R::SHAPE != Shape::Silent && !self.request.no_response() {
            LEAKED.with(|leaked| leaked.borrow_mut().push(R::TOPIC.to_string()));
        }
    }
}

impl<R: Rpc> Answer<R> {
    /// An answer to `request`, whose payload is no longer needed.
    #[must_use]
    pub fn new(request: Message) -> Self {
        Self { request, owed: true, rpc: PhantomData }
    }

    /// Who asked, as stamped where the request entered.
    #[must_use]
    pub fn cred(&self) -> Cred {
        self.request.cred
    }

    /// The id of the requesting client: the oldest route.
    #[must_use]
    pub fn client(&self) -> Option<&RouteId> {
        self.request.first_route()
    }

    /// The request's matchtag.
    #[must_use]
    pub fn matchtag(&self) -> u32 {
        self.request.matchtag()
    }

    /// The request itself, without its payload.
    #[must_use]
    pub fn head(&self) -> &Message {
        &self.request
    }

    /// Whether the requester takes a stream of responses.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.request.is_streaming()
    }

    /// Whether `other`, a cancel or disconnect request, may end this request: it comes from the
    /// same client, and from the same user or the owner.
    #[must_use]
    pub fn same_sender(&self, other: &Message) -> bool {
        other.first_route() == self.request.first_route()
            && (other.cred.userid == self.request.cred.userid
                || other.cred.rolemask.contains(Rolemask::OWNER))
    }

    fn response(&self) -> Message {
        Message::response_to(&self.request)
    }

    /// The final response with a body. On a stream: the last item, then its end.
    pub fn ok(mut self, out: &mut impl Outbox, response: &R::Response) {
        self.owed = false;
        if self.request.no_response() {
            return;
        }
        let mut message = self.response();
        response.put(&mut message);
        out.send(message);
        if self.request.is_streaming() && R::SHAPE != Shape::Unary {
            let mut end = self.response();
            end.set_errnum(Errno::ENODATA);
            out.send(end);
        }
    }

    /// As [`Answer::ok`], with a body that need not become bytes where it stays within the broker.
    pub fn give(mut self, out: &mut impl Outbox, response: R::Response) {
        if self.request.is_streaming() {
            return self.ok(out, &response);
        }
        self.owed = false;
        if !self.request.no_response() {
            let mut message = self.response();
            response.hand(&mut message);
            out.send(message);
        }
    }

    /// The final response: a failure.
    pub fn err(mut self, out: &mut impl Outbox, error: impl Into<RpcError>) {
        self.owed = false;
        if self.request.no_response() {
            return;
        }
        let message = refusal(&self.request, &error.into());
        out.send(message);
    }

    /// The final response, either way.
    pub fn respond(self, out: &mut impl Outbox, result: Result<R::Response, RpcError>) {
        match result {
            Ok(response) => self.give(out, response),
            Err(error) => self.err(out, error),
        }
    }

    /// One item of a stream; more follow, or [`Answer::end`].
    pub fn item(&self, out: &mut impl Outbox, item: &R::Response) {
        if !self.request.no_response() {
            let mut message = self.response();
            item.put(&mut message);
            out.send(message);
        }
    }

    /// As [`Answer::item`], with a body that need not become bytes where it stays within the broker.
    pub fn give_item(&self, out: &mut impl Outbox, item: R::Response) {
        if !self.request.no_response() {
            let mut message = self.response();
            item.hand(&mut message);
            out.send(message);
        }
    }

    /// The normal end of a stream (ENODATA).
    pub fn end(self, out: &mut impl Outbox) {
        self.err(out, Errno::ENODATA);
    }

    /// The requester is gone, or wants no answer: nothing is owed any more.
    pub fn forget(mut self) {
        self.owed = false;
    }

    /// Like [`Answer::forget`], for an answer that stays where it is kept until that is dropped.
    pub fn disown(&mut self) {
        self.owed = false;
    }
}

/// A response to `request` that says `error`.
#[must_use]
pub fn refusal(request: &Message, error: &RpcError) -> Message {
    let mut message = Message::response_to(request);
    message.set_errnum(error.errno);
    if let Some(text) = &error.text {
        message.set_payload(Some(text_payload(text)));
    }
    message
}

/// A request message for an RPC; nodeid, matchtag and credentials are the sender's to set.
#[must_use]
pub fn request<R: Rpc>(body: &R::Request) -> Message {
    let mut message = head::<R>();
    body.put(&mut message);
    message
}

/// As [`request`], with a body that need not become bytes where it stays within the broker.
#[must_use]
pub fn handed<R: Rpc>(body: R::Request) -> Message {
    let mut message = head::<R>();
    body.hand(&mut message);
    message
}

fn head<R: Rpc>() -> Message {
    let mut message = Message::request(R::TOPIC);
    if R::SHAPE == Shape::Streaming {
        message.flags.insert(Flags::STREAMING);
    }
    if R::SHAPE == Shape::Silent {
        message.flags.insert(Flags::NORESPONSE);
    }
    message
}
