//! Turns a typed [`Service`] into a [`Module`]: decodes and checks requests, keeps the waits and
//! timers, and serves the default methods that every module has (`ping`, `stats-get`, …).

use flux_api::{Api, Outbox, RpcError, rpc};
use flux_proto::{Errno, Message, MsgType, Rolemask};
use serde_json::{Map, Value, json};

use crate::cx::Cx;
use crate::defaults;
use crate::module::{Module, Port, Way};
use crate::reply::Reply;
use crate::service::Service;
use crate::wait::{Alarm, Timers, Waits};

/// Messages received and sent, by type.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    request: u64,
    response: u64,
    event: u64,
}

/// A service with its waits, timers and counters.
#[derive(Debug)]
pub struct Runner<S: Service> {
    service: S,
    waits: Waits<S::Wait>,
    timers: Timers<S::Wait>,
    received: Counters,
}

impl<S: Service> Runner<S> {
    /// Wraps a service.
    pub fn new(service: S) -> Self {
        Self { service, waits: Waits::new(), timers: Timers::new(), received: Counters::default() }
    }

    /// The service inside, for checks.
    pub fn service(&self) -> &S {
        &self.service
    }

    fn with<T>(&mut self, port: &mut Port, f: impl FnOnce(&mut S, &mut Cx<'_, S::Wait>) -> T) -> T {
        let mut cx = Cx { port, waits: &mut self.waits, timers: &mut self.timers };
        f(&mut self.service, &mut cx)
    }

    fn request(&mut self, port: &mut Port, message: Message) {
        let method = S::Api::method(message.topic());
        if let Some(method) = method {
            if !message.cred.rolemask.allows(method.role) {
                let error = defaults::denied(method.role);
                return self.with(port, |_, cx| cx.refuse(&message, &error));
            }
            return match S::Api::decode(message) {
                Ok(call) => self.with(port, |service, cx| service.on_call(cx, call)),
                Err((message, error)) => self.with(port, |_, cx| cx.refuse(&message, &error)),
            };
        }
        match message.method() {
            "disconnect" => self.with(port, |service, cx| service.on_disconnect(cx, &message)),
            "ping" => self.ping(port, &message),
            "stats-get" => self.stats(port, &message),
            "stats-clear" => self.owner_only(port, &message, |runner, _, _| {
                runner.received = Counters::default();
                Ok(None)
            }),
            "debug" => self.owner_only(port, &message, |_, port, message| {
                defaults::debug(&mut port.debug, message).map(Some)
            }),
            "config-reload" | "config-sync" => {
                self.owner_only(port, &message, |runner, port, message| {
                    let config: Map<String, Value> = message
                        .json()
                        .map_err(|error| RpcError::new(Errno::EPROTO, error.to_string()))?;
                    runner.with(port, |service, cx| service.on_config(cx, &config)).map(|()| None)
                });
            }
            _ => self.with(port, |service, cx| service.on_other(cx, message)),
        }
    }

    fn owner_only(
        &mut self,
        port: &mut Port,
        message: &Message,
        f: impl FnOnce(&mut Self, &mut Port, &Message) -> Result<Option<Value>, RpcError>,
    ) {
        let result = if message.cred.rolemask.allows(Rolemask::OWNER) {
            f(self, port, message)
        } else {
            Err(defaults::denied(Rolemask::OWNER))
        };
        if message.no_response() {
            return;
        }
        let response = match result {
            Ok(value) => {
                let response = Message::response_to(message);
                match value {
                    Some(value) => response.with_json(&value),
                    None => response,
                }
            }
            Err(error) => rpc::refusal(message, &error),
        };
        self.with(port, |_, cx| cx.send(response));
    }

    fn ping(&mut self, port: &mut Port, message: &Message) {
        let response = defaults::ping(message, &port.id, port.rank);
        self.with(port, |_, cx| cx.send(response));
    }

    fn stats(&mut self, port: &mut Port, message: &Message) {
        let stats = self.service.stats().unwrap_or_else(|| {
            json!({
                "tx": { "request": self.waits.pending.len(), "response": 0, "event": 0, "control": 0 },
                "rx": {
                    "request": self.received.request,
                    "response": self.received.response,
                    "event": self.received.event,
                    "control": 0,
                },
            })
        });
        let response = Message::response_to(message).with_json(&stats);
        self.with(port, |_, cx| cx.send(response));
    }

    fn response(&mut self, port: &mut Port, message: Message) {
        let tag = message.matchtag();
        let Some(pending) = self.waits.pending.get(&tag) else {
            if tag == 0 {
                self.with(port, |service, cx| service.on_other(cx, message));
            }
            return;
        };
        let wait = pending.wait.clone();
        let error = RpcError::of(&message);
        let last = !pending.streaming || error.is_some();
        if last
            && let Some(pending) = self.waits.pending.remove(&tag)
            && let Some(timer) = pending.deadline
        {
            self.timers.cancel(timer);
        }
        let result = error.map_or(Ok(message), Err);
        self.with(port, |service, cx| service.on_reply(cx, wait, Reply { tag, result, last }));
    }
}

impl<S: Service> Module for Runner<S> {
    fn name(&self) -> &'static str {
        self.service.name()
    }

    fn services(&self) -> &'static [&'static str] {
        S::Api::SERVICES
    }

    fn start(&mut self, port: &mut Port, config: &Map<String, Value>) {
        self.with(port, |service, cx| match service.on_config(cx, config) {
            Ok(()) => service.start(cx),
            Err(error) => cx.fail(error.message()),
        });
    }

    fn deliver(&mut self, port: &mut Port, message: Message) {
        match message.kind {
            MsgType::Request => {
                self.received.request += 1;
                self.request(port, message);
            }
            MsgType::Response => {
                self.received.response += 1;
                self.response(port, message);
            }
            MsgType::Event => {
                self.received.event += 1;
                self.with(port, |service, cx| service.on_event(cx, &message));
            }
            MsgType::Control => {}
        }
    }

    fn way(&mut self, port: &mut Port, way: Way) {
        self.with(port, |service, cx| service.on_way(cx, way));
    }

    fn tick(&mut self, port: &mut Port) {
        while let Some(alarm) = self.timers.due(port.clock.mono_us) {
            match alarm {
                Alarm::Service(wait) => self.with(port, |service, cx| service.on_timer(cx, wait)),
                Alarm::Deadline(tag) => {
                    if let Some(pending) = self.waits.pending.remove(&tag) {
                        let text = format!("{}: no answer in time", pending.topic);
                        let result = Err(RpcError::new(Errno::ETIMEDOUT, text));
                        let reply = Reply { tag, result, last: true };
                        self.with(port, |service, cx| service.on_reply(cx, pending.wait, reply));
                    }
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        self.timers.next_deadline()
    }

    fn drain(&mut self, port: &mut Port) {
        self.with(port, |service, cx| service.on_drain(cx));
    }

    fn waits(&self, now_us: u64) -> Vec<String> {
        let requests = self.waits.pending.iter().map(|(tag, pending)| {
            let age = now_us.saturating_sub(pending.since) as f64 / 1e6;
            format!("{} tag {tag} for {age:.3}s: {:?}", pending.topic, pending.wait)
        });
        let timers = self.timers.armed.iter().map(|((at, _), alarm)| {
            let left = at.saturating_sub(now_us) as f64 / 1e6;
            format!("timer in {left:.3}s: {alarm:?}")
        });
        requests.chain(timers).collect()
    }
}
