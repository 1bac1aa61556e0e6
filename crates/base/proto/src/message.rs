//! The message: what every part of an instance sends and receives (RFC 3).

use std::sync::Arc;

use bytes::Bytes;

use crate::carried::Carried;
use crate::cred::Cred;
use crate::errno::Errno;
use crate::flags::Flags;
use crate::route::RouteId;

/// The nodeid of a request that any rank may handle.
pub const NODEID_ANY: u32 = 0xffff_ffff;

/// The four kinds of message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MsgType {
    /// Asks a service for something.
    Request,
    /// Answers a request.
    Response,
    /// Published to all subscribers.
    Event,
    /// Between neighbour brokers only.
    Control,
}

impl MsgType {
    /// The bit that stands for this kind on the wire.
    #[must_use]
    pub const fn bit(self) -> u8 {
        match self {
            MsgType::Request => 1,
            MsgType::Response => 2,
            MsgType::Event => 4,
            MsgType::Control => 8,
        }
    }

    /// The kind of a wire bit; nothing when not exactly one known bit is set.
    #[must_use]
    pub const fn from_bit(bit: u8) -> Option<MsgType> {
        match bit {
            1 => Some(MsgType::Request),
            2 => Some(MsgType::Response),
            4 => Some(MsgType::Event),
            8 => Some(MsgType::Control),
            _ => None,
        }
    }

    /// Lower case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            MsgType::Request => "request",
            MsgType::Response => "response",
            MsgType::Event => "event",
            MsgType::Control => "control",
        }
    }
}

/// A message.
///
/// `aux1` and `aux2` are what the kind makes of them; the accessors have names for it. The
/// constructors and setters keep the presence bits of `flags` in step with the fields; the
/// encoder goes by the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Kind.
    pub kind: MsgType,
    /// Flags.
    pub flags: Flags,
    /// Sender.
    pub cred: Cred,
    /// Request: nodeid. Response: error number. Event: sequence. Control: control type.
    pub aux1: u32,
    /// Request and response: matchtag. Event: 0. Control: status.
    pub aux2: u32,
    /// Hops that the message has taken, **oldest first**: push and pop at the end.
    pub routes: Vec<RouteId>,
    /// Topic.
    pub topic: Option<Arc<str>>,
    /// Payload, unless a body goes along in its place.
    pub payload: Option<Bytes>,
    /// What the payload says, not yet in bytes.
    pub body: Option<Carried>,
}

impl Message {
    fn new(kind: MsgType, topic: Option<Arc<str>>, aux1: u32, aux2: u32) -> Message {
        let mut flags = Flags::ROUTE;
        flags.set(Flags::TOPIC, topic.is_some());
        Message {
            kind,
            flags,
            cred: Cred::UNKNOWN,
            aux1,
            aux2,
            routes: Vec::new(),
            topic,
            payload: None,
            body: None,
        }
    }

    /// A request for any rank, with matchtag 0 and an empty route stack.
    #[must_use]
    pub fn request(topic: impl Into<Arc<str>>) -> Message {
        Message::new(MsgType::Request, Some(topic.into()), NODEID_ANY, 0)
    }

    /// A successful response to `request`: same topic, matchtag and route stack, no payload.
    #[must_use]
    pub fn response_to(request: &Message) -> Message {
        let copied = Flags::TOPIC
            .union(Flags::ROUTE)
            .union(Flags::STREAMING)
            .union(Flags::UPSTREAM)
            .union(Flags::USER1);
        Message {
            kind: MsgType::Response,
            flags: request.flags.intersection(copied),
            cred: Cred::UNKNOWN,
            aux1: 0,
            aux2: request.matchtag(),
            routes: request.routes.clone(),
            topic: request.topic.clone(),
            payload: None,
            body: None,
        }
    }

    /// A failed response to `request`, with a text when there is more to say than the error
    /// number does.
    #[must_use]
    pub fn error_to(request: &Message, errno: Errno, text: Option<&str>) -> Message {
        let mut response = Message::response_to(request);
        response.set_errnum(errno);
        match text {
            Some(text) if !text.is_empty() => response.with_text(text),
            _ => response,
        }
    }

    /// An event with sequence 0.
    #[must_use]
    pub fn event(topic: impl Into<Arc<str>>) -> Message {
        Message::new(MsgType::Event, Some(topic.into()), 0, 0)
    }

    /// A control message.
    #[must_use]
    pub fn control(control_type: u32, status: u32) -> Message {
        Message::new(MsgType::Control, None, control_type, status)
    }

    /// The topic; empty when there is none.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.topic.as_deref().unwrap_or_default()
    }

    /// Sets or removes the topic.
    pub fn set_topic(&mut self, topic: Option<Arc<str>>) {
        self.flags.set(Flags::TOPIC, topic.is_some());
        self.topic = topic;
    }

    /// The topic up to the first dot: the name of the service.
    #[must_use]
    pub fn service(&self) -> &str {
        let topic = self.topic();
        topic.split_once('.').map_or(topic, |(service, _)| service)
    }

    /// The topic after the first dot; empty when there is none.
    #[must_use]
    pub fn method(&self) -> &str {
        self.topic().split_once('.').map_or("", |(_, method)| method)
    }

    /// Sets or removes the payload.
    pub fn set_payload(&mut self, payload: Option<Bytes>) {
        self.flags.set(Flags::PAYLOAD, payload.is_some());
        self.payload = payload;
        self.body = None;
    }

    /// Lets a body go along in place of the payload.
    pub fn set_body(&mut self, body: Carried) {
        self.flags.insert(Flags::PAYLOAD);
        self.payload = None;
        self.body = Some(body);
    }

    /// The payload, or that of the body that goes along.
    #[must_use]
    pub fn bytes(&self) -> Option<&Bytes> {
        self.payload.as_ref().or_else(|| self.body.as_ref().map(Carried::bytes))
    }

    /// Whether there is a payload, in bytes or not.
    #[must_use]
    pub fn has_payload(&self) -> bool {
        self.payload.is_some() || self.body.is_some()
    }

    /// The rank that a request is for; [`NODEID_ANY`] for other kinds.
    #[must_use]
    pub fn nodeid(&self) -> u32 {
        if self.kind == MsgType::Request { self.aux1 } else { NODEID_ANY }
    }

    /// Sets the rank that a request is for. No effect on other kinds.
    pub fn set_nodeid(&mut self, nodeid: u32) {
        if self.kind == MsgType::Request {
            self.aux1 = nodeid;
        }
    }

    /// The same request for a rank.
    #[must_use]
    pub fn with_nodeid(mut self, nodeid: u32) -> Message {
        self.set_nodeid(nodeid);
        self
    }

    /// The same request, to be handled above `rank`, the rank of the sender.
    #[must_use]
    pub fn with_upstream(mut self, rank: u32) -> Message {
        self.set_nodeid(rank);
        self.flags.insert(Flags::UPSTREAM);
        self
    }

    /// The error number of a response; 0 for other kinds.
    #[must_use]
    pub fn errnum(&self) -> Errno {
        if self.kind == MsgType::Response { Errno(self.aux1) } else { Errno::OK }
    }

    /// Sets the error number of a response. No effect on other kinds.
    pub fn set_errnum(&mut self, errno: Errno) {
        if self.kind == MsgType::Response {
            self.aux1 = errno.0;
        }
    }

    /// The matchtag of a request or response, 0 being none; 0 for other kinds.
    #[must_use]
    pub fn matchtag(&self) -> u32 {
        match self.kind {
            MsgType::Request | MsgType::Response => self.aux2,
            MsgType::Event | MsgType::Control => 0,
        }
    }

    /// Sets the matchtag of a request or response. No effect on other kinds.
    pub fn set_matchtag(&mut self, matchtag: u32) {
        if matches!(self.kind, MsgType::Request | MsgType::Response) {
            self.aux2 = matchtag;
        }
    }

    /// The sequence number of an event; 0 for other kinds.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        if self.kind == MsgType::Event { self.aux1 } else { 0 }
    }

    /// Sets the sequence number of an event. No effect on other kinds.
    pub fn set_sequence(&mut self, sequence: u32) {
        if self.kind == MsgType::Event {
            self.aux1 = sequence;
        }
    }

    /// The type of a control message; 0 for other kinds.
    #[must_use]
    pub fn control_type(&self) -> u32 {
        if self.kind == MsgType::Control { self.aux1 } else { 0 }
    }

    /// The status of a control message; 0 for other kinds.
    #[must_use]
    pub fn control_status(&self) -> u32 {
        if self.kind == MsgType::Control { self.aux2 } else { 0 }
    }

    /// Whether several responses are expected, or this is one of a stream.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.flags.contains(Flags::STREAMING)
    }

    /// Whether the sender of a request wants no response.
    #[must_use]
    pub fn no_response(&self) -> bool {
        self.flags.contains(Flags::NORESPONSE)
    }

    /// Whether the rank in nodeid must not handle the request itself.
    #[must_use]
    pub fn upstream(&self) -> bool {
        self.flags.contains(Flags::UPSTREAM)
    }

    /// Whether an event is for the instance owner and its publisher only.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.flags.contains(Flags::PRIVATE)
    }

    /// The same request, expecting several responses.
    #[must_use]
    pub fn with_streaming(mut self) -> Message {
        self.set_streaming();
        self
    }

    /// Marks a request as one that expects several responses.
    pub fn set_streaming(&mut self) {
        self.flags.remove(Flags::NORESPONSE);
        self.flags.insert(Flags::STREAMING);
    }

    /// The same request, expecting no response.
    #[must_use]
    pub fn with_no_response(mut self) -> Message {
        self.set_no_response();
        self
    }

    /// Marks a request as one that expects no response.
    pub fn set_no_response(&mut self) {
        self.flags.remove(Flags::STREAMING);
        self.flags.insert(Flags::NORESPONSE);
    }

    /// The same message from another sender.
    #[must_use]
    pub fn with_cred(mut self, cred: Cred) -> Message {
        self.cred = cred;
        self
    }

    /// The oldest hop: the client that made the request.
    #[must_use]
    pub fn first_route(&self) -> Option<&RouteId> {
        self.routes.first()
    }

    /// The newest hop: where a response goes next.
    #[must_use]
    pub fn last_route(&self) -> Option<&RouteId> {
        self.routes.last()
    }

    /// Adds a hop.
    pub fn push_route(&mut self, id: RouteId) {
        self.flags.insert(Flags::ROUTE);
        self.routes.push(id);
    }

    /// Takes the newest hop away.
    pub fn pop_route(&mut self) -> Option<RouteId> {
        self.routes.pop()
    }

    /// The hops as text, oldest first: the first 8 characters of each, joined with `!`.
    #[must_use]
    pub fn route_string(&self) -> String {
        self.routes.iter().map(RouteId::short).collect::<Vec<_>>().join("!")
    }
}
