//! A bench for one service: scripted peers in, a transcript of effects out.
//!
//! ```ignore
//! let mut rig = Rig::new(Echo::default());
//! let tag = rig.request("echo.say", json!({"text": "hi"}));
//! assert_eq!(rig.response(tag).unwrap(), json!({"text": "hi"}));
//! rig.finish();
//! ```

use std::collections::VecDeque;

use flux_api::RpcError;
use flux_proto::{Cred, Flags, Message, MsgType, Rolemask, RouteId};
use serde_json::{Map, Value};

use crate::cx::Level;
use crate::module::{Clock, Module, Out, Port, Way};
use crate::runner::Runner;
use crate::service::Service;

/// One service on the bench.
#[derive(Debug)]
pub struct Rig<S: Service> {
    runner: Runner<S>,
    port: Port,
    next_tag: u32,
    /// Responses of the service, oldest first.
    pub responses: VecDeque<Message>,
    /// Requests of the service, oldest first.
    pub requests: VecDeque<Message>,
    /// Events it published, oldest first.
    pub events: VecDeque<Message>,
    /// Log lines.
    pub logs: Vec<(Level, String)>,
    /// Whether it said ready.
    pub ready: bool,
    /// Why it failed, if it did.
    pub failed: Option<String>,
    /// Whether it said drained.
    pub drained: bool,
}

impl<S: Service> Rig<S> {
    /// Starts a service on rank 0 of 1, without configuration.
    pub fn new(service: S) -> Self {
        Self::with(service, 0, 1, &Map::new())
    }

    /// Starts a service on a rank with a configuration. The owner's user id is 1000.
    pub fn with(service: S, rank: u32, size: u32, config: &Map<String, Value>) -> Self {
        let mut port = Port::new(rank, size, 1000, RouteId::from("module-under-test"), 1);
        port.clock = Clock { mono_us: 1_000_000, wall: 1_700_000_000.0 };
        let mut rig = Self {
            runner: Runner::new(service),
            port,
            next_tag: 1,
            responses: VecDeque::new(),
            requests: VecDeque::new(),
            events: VecDeque::new(),
            logs: Vec::new(),
            ready: false,
            failed: None,
            drained: false,
        };
        rig.runner.start(&mut rig.port, config);
        rig.collect();
        rig
    }

    /// The service inside.
    pub fn service(&self) -> &S {
        self.runner.service()
    }

    fn collect(&mut self) {
        while let Some(out) = self.port.out.pop_front() {
            match out {
                Out::Send(message) => match message.kind {
                    MsgType::Request => self.requests.push_back(message),
                    MsgType::Response => self.responses.push_back(message),
                    MsgType::Event | MsgType::Control => self.events.push_back(message),
                },
                Out::Log(level, text) => self.logs.push((level, text)),
                Out::Ready => self.ready = true,
                Out::Failed(reason) => self.failed = Some(reason),
                Out::Drained => self.drained = true,
                Out::Subscribe(_)
                | Out::Unsubscribe(_)
                | Out::AddService(_)
                | Out::RemoveService(_) => {}
            }
        }
    }

    /// Delivers any message.
    pub fn deliver(&mut self, message: Message) {
        self.runner.deliver(&mut self.port, message);
        self.collect();
    }

    /// A request of the owner; returns its matchtag.
    pub fn request(&mut self, topic: &str, body: Value) -> u32 {
        self.request_as(self.owner(), topic, body, false)
    }

    /// A streaming request of the owner.
    pub fn stream(&mut self, topic: &str, body: Value) -> u32 {
        self.request_as(self.owner(), topic, body, true)
    }

    /// The owner's credentials.
    #[must_use]
    pub fn owner(&self) -> Cred {
        Cred { userid: 1000, rolemask: Rolemask(Rolemask::OWNER.0 | Rolemask::LOCAL.0) }
    }

    /// A guest's credentials.
    #[must_use]
    pub fn guest(&self, userid: u32) -> Cred {
        Cred { userid, rolemask: Rolemask(Rolemask::USER.0 | Rolemask::LOCAL.0) }
    }

    /// A request of anybody, from a client named after the user id.
    pub fn request_as(&mut self, cred: Cred, topic: &str, body: Value, streaming: bool) -> u32 {
        let tag = self.next_tag;
        self.next_tag += 1;
        let mut message = Message::request(topic);
        message.cred = cred;
        message.set_matchtag(tag);
        if !body.is_null() {
            message = message.with_json(&body);
        }
        if streaming {
            message.flags.insert(Flags::STREAMING);
        }
        message.push_route(RouteId::from(format!("client-{}", cred.userid).as_str()));
        self.deliver(message);
        tag
    }

    /// Takes the oldest response to the request with this tag: its JSON (null without payload),
    /// or its error.
    ///
    /// # Panics
    /// When there is none.
    pub fn response(&mut self, tag: u32) -> Result<Value, RpcError> {
        self.try_response(tag).unwrap_or_else(|| panic!("no response to tag {tag}"))
    }

    /// Takes the oldest response to the request with this tag, if there is one.
    pub fn try_response(&mut self, tag: u32) -> Option<Result<Value, RpcError>> {
        let at = self.responses.iter().position(|message| message.matchtag() == tag)?;
        let message = self.responses.remove(at)?;
        Some(match RpcError::of(&message) {
            Some(error) => Err(error),
            None if !message.has_payload() => Ok(Value::Null),
            None => Ok(message.json().unwrap_or(Value::Null)),
        })
    }

    /// Takes the service's oldest request, which must have this topic.
    ///
    /// # Panics
    /// When there is none, or another topic comes first.
    pub fn expect(&mut self, topic: &str) -> Message {
        let message =
            self.requests.pop_front().unwrap_or_else(|| panic!("no request, wanted {topic}"));
        assert_eq!(message.topic(), topic, "the service's next request");
        message
    }

    /// Answers a request of the service.
    pub fn reply(&mut self, request: &Message, body: Value) {
        let mut message = Message::response_to(request);
        if !body.is_null() {
            message = message.with_json(&body);
        }
        self.deliver(message);
    }

    /// Answers a request of the service with raw bytes.
    pub fn reply_raw(&mut self, request: &Message, body: impl Into<bytes::Bytes>) {
        let mut message = Message::response_to(request);
        message = message.with_raw(body);
        self.deliver(message);
    }

    /// Fails a request of the service.
    pub fn fail(&mut self, request: &Message, error: impl Into<RpcError>) {
        self.deliver(flux_api::rpc::refusal(request, &error.into()));
    }

    /// Delivers an event.
    pub fn event(&mut self, topic: &str, body: Value) {
        let mut message = Message::event(topic);
        if !body.is_null() {
            message = message.with_json(&body);
        }
        message.cred = self.owner();
        self.deliver(message);
    }

    /// The client of these credentials goes away.
    pub fn disconnect(&mut self, cred: Cred, service: &str) {
        let mut message = Message::request(format!("{service}.disconnect"));
        message.cred = cred;
        message.flags.insert(Flags::NORESPONSE);
        message.push_route(RouteId::from(format!("client-{}", cred.userid).as_str()));
        self.deliver(message);
    }

    /// The way to the leader was lost, or is back.
    pub fn way(&mut self, way: Way) {
        self.runner.way(&mut self.port, way);
        self.collect();
    }

    /// Lets time pass, firing timers in order at their own time.
    pub fn advance(&mut self, us: u64) {
        let end = self.port.clock.mono_us + us;
        while let Some(at) = self.runner.next_deadline().filter(|at| *at <= end) {
            self.step_to(at);
        }
        self.step_to(end);
    }

    /// Sets the wall clock by so many seconds; monotonic time goes on.
    pub fn set_clock(&mut self, seconds: f64) {
        self.port.clock.wall += seconds;
    }

    fn step_to(&mut self, at: u64) {
        let at = at.max(self.port.clock.mono_us);
        self.port.clock.wall += (at - self.port.clock.mono_us) as f64 / 1e6;
        self.port.clock.mono_us = at;
        self.runner.tick(&mut self.port);
        self.collect();
    }

    /// Whether a timer is armed.
    #[must_use]
    pub fn has_timer(&self) -> bool {
        self.runner.next_deadline().is_some()
    }

    /// The broker goes down.
    pub fn drain(&mut self) {
        self.runner.drain(&mut self.port);
        self.collect();
    }

    /// Ends the test: nothing unread, no answer forgotten.
    ///
    /// # Panics
    /// When a response, request or event was not looked at, or an answer was dropped.
    pub fn finish(self) {
        let Self { responses, requests, events, runner, .. } = self;
        let topics = |queue: &VecDeque<Message>| -> Vec<String> {
            queue.iter().map(|message| message.topic().to_string()).collect()
        };
        assert!(responses.is_empty(), "unread responses: {:?}", topics(&responses));
        assert!(requests.is_empty(), "unread requests: {:?}", topics(&requests));
        assert!(events.is_empty(), "unread events: {:?}", topics(&events));
        let leaked = flux_api::rpc::leaked_answers();
        assert!(leaked.is_empty(), "answers dropped: {leaked:?}");
        std::mem::forget(runner);
    }
}
