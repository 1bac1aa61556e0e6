//! The services of the broker itself: `broker`, `event`, `service`, `module`, and the default
//! methods of these and of `overlay`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flux_api::broker::{
    Broker, BuiltinValues, EnvValues, ModuleEntry, ModuleList, PublishRequest, PublishResponse,
    WaitList,
};
use flux_api::overlay::Overlay;
use flux_api::rpc::{Answer, Rpc};
use flux_api::{Api, Empty, RpcError};
use flux_proto::{Cred, Errno, Flags, Message, Rolemask};
use flux_svc::defaults;
use serde_json::{Map, Value, json};

use crate::access::Access;
use crate::ids::Peer;
use crate::node::Node;
use crate::switch::guest;
use crate::switch::seat::Phase;

impl Node {
    /// A request to one of the broker's own services.
    pub(crate) fn serve(&mut self, message: Message) {
        let topic = message.topic();
        let method = Broker::method(topic).or_else(|| Overlay::method(topic));
        let Some(method) = method else {
            return self.default_method(message);
        };
        if !message.cred.rolemask.allows(method.role) {
            return self.refuse(&message, defaults::denied(method.role));
        }
        if message.service() == "overlay" {
            match Overlay::decode(message) {
                Ok(call) => self.overlay_call(call),
                Err((message, error)) => self.refuse(&message, error),
            }
        } else {
            match Broker::decode(message) {
                Ok(call) => self.broker_call(call),
                Err((message, error)) => self.refuse(&message, error),
            }
        }
    }

    fn broker_call(&mut self, call: Broker) {
        match call {
            Broker::StartModules(call) => self.start_modules(call.request.0, call.answer),
            Broker::StopModules(call) => self.stop_modules(call.answer),
            Broker::Exit(call) => {
                self.exit = Some(call.request.code);
                call.answer.forget();
            }
            Broker::Getenv(call) => {
                let found = call.request.names.into_iter().filter_map(|name| {
                    let value = self.cfg.env.get(&name)?.clone();
                    Some((name, Value::String(value)))
                });
                let env = found.collect();
                self.reply(call.answer, Ok(EnvValues { env }));
            }
            Broker::Setenv(call) => {
                let result = self.setenv(call.request.env);
                self.reply(call.answer, result);
            }
            Broker::ConfBuiltin(call) => {
                let result = self.builtin_paths(&call.request.keys);
                self.reply(call.answer, result);
            }
            Broker::Waits(call) => {
                let waits = self.waits();
                self.reply(call.answer, Ok(WaitList { waits }));
            }
            Broker::ModuleTrace(call) => self.trace_modules(call),
            Broker::Health(call) => {
                let report = self.health_report(call.request.older);
                self.reply(call.answer, Ok(report));
            }
            Broker::Publish(call) => {
                let result = self.publish_call(call.request, call.answer.cred());
                self.reply(call.answer, result);
            }
            Broker::Subscribe(call) => {
                let result = self.local_sender(&call.answer).map(|peer| {
                    self.events.subscribe(peer, &call.request.topic);
                    Empty
                });
                self.reply(call.answer, result);
            }
            Broker::Unsubscribe(call) => {
                let topic = &call.request.topic;
                let result = self.local_sender(&call.answer).and_then(|peer| {
                    self.events.unsubscribe(peer, topic).map_err(RpcError::bare).map(|()| Empty)
                });
                self.reply(call.answer, result);
            }
            Broker::ServiceAdd(call) => {
                let cred = call.answer.cred();
                let result = self.local_sender(&call.answer).and_then(|peer| {
                    self.add_service(peer, cred, &call.request.service).map(|()| Empty)
                });
                self.reply(call.answer, result);
            }
            Broker::ServiceRemove(call) => {
                let cred = call.answer.cred();
                let result = self.local_sender(&call.answer).and_then(|peer| {
                    self.remove_service(peer, cred, &call.request.service).map(|()| Empty)
                });
                self.reply(call.answer, result);
            }
            Broker::ModuleList_(call) => {
                let mods = self.module_list();
                self.reply(call.answer, Ok(ModuleList { mods }));
            }
            Broker::ModuleLoad_(call) => self.load_module(&call.request, call.answer),
            Broker::ModuleRemove(call) => self.remove_module(&call.request.name, call.answer),
        }
    }

    /// The module or driver that sent a request, which must be on this rank.
    fn local_sender<R: Rpc>(&self, answer: &Answer<R>) -> Result<Peer, RpcError> {
        match answer.head().last_route().and_then(|id| self.ids.get(id)) {
            Some(peer @ (Peer::Module(_) | Peer::Driver(_))) => Ok(peer),
            _ => Err(RpcError::new(Errno::ENOENT, "requestor is not local")),
        }
    }

    fn setenv(&mut self, values: Map<String, Value>) -> Result<Empty, RpcError> {
        for (name, value) in &values {
            if !(value.is_string() || value.is_null()) || name.is_empty() || name.contains('=') {
                let text = format!("environment variable '{name}': not a name and a string");
                return Err(RpcError::new(Errno::EPROTO, text));
            }
        }
        for (name, value) in values {
            match value {
                Value::String(value) => self.cfg.env.insert(name, value),
                _ => self.cfg.env.remove(&name),
            };
        }
        Ok(Empty)
    }

    fn builtin_paths(&self, keys: &[String]) -> Result<BuiltinValues, RpcError> {
        let mut values = Map::new();
        for key in keys {
            let Some(value) = self.cfg.builtin_paths.get(key) else {
                return Err(RpcError::new(Errno::EINVAL, format!("{key}: invalid key")));
            };
            values.insert(key.clone(), Value::String(value.clone()));
        }
        Ok(BuiltinValues { values })
    }

    fn publish_call(
        &mut self,
        request: PublishRequest,
        cred: Cred,
    ) -> Result<PublishResponse, RpcError> {
        let wrong = |text: &str| RpcError::new(Errno::EPROTO, text);
        if self.cfg.rank != 0 {
            return Err(wrong("this service is only available on rank 0"));
        }
        if request.flags & !u32::from(Flags::PRIVATE.0) != 0 {
            return Err(wrong("event.publish: flags must be 0 or 32"));
        }
        let mut message = Message::event(request.topic);
        if let Some(text) = request.payload {
            let bytes = STANDARD.decode(text).map_err(|error| {
                wrong(&format!("event.publish: payload is not base64: {error}"))
            })?;
            message = message.with_raw(Bytes::from(bytes));
        }
        if request.flags != 0 {
            message.flags.insert(Flags::PRIVATE);
        }
        message.cred = cred;
        guest::check_event(&message)?;
        Ok(PublishResponse { seq: self.publish(message) })
    }

    fn module_list(&self) -> Vec<ModuleEntry> {
        let now = self.clock.mono_us;
        let present = self.seats.iter().enumerate().filter(|(_, seat)| seat.phase != Phase::Exited);
        let entry = |(at, seat): (usize, &crate::switch::seat::Seat)| ModuleEntry {
            name: seat.name.clone(),
            path: "builtin".to_string(),
            idle: now.saturating_sub(seat.spoke) / 1_000_000,
            status: seat.phase as u32,
            services: self.services_of(Peer::Module(at)),
            sendqueue: 0,
            recvqueue: seat.serving.len() as u64,
        };
        present.map(entry).collect()
    }

    fn waits(&self) -> Map<String, Value> {
        let now = self.clock.mono_us;
        let mut waits = Map::new();
        for seat in &self.seats {
            let lines = seat.module.as_ref().map(|module| module.waits(now)).unwrap_or_default();
            if !lines.is_empty() {
                waits.insert(seat.name.clone(), json!(lines));
            }
        }
        waits
    }

    /// The methods that every service has.
    fn default_method(&mut self, message: Message) {
        match message.method() {
            "ping" => {
                let response = defaults::ping(&message, &self.cfg.uuid, self.cfg.rank);
                if !message.no_response() {
                    self.respond(response);
                }
            }
            "disconnect" => {
                self.overlay_disconnect(&message);
                self.trace_disconnect(&message);
            }
            "rusage" => self.rusage(message),
            "stats-get" if message.service() == "connector-local" => {
                let body = self.connector_stats(message.cred);
                self.respond(Message::response_to(&message).with_json(&body));
            }
            "stats-get" => {
                let body =
                    json!({ "clients": self.clients.len(), "services": self.registry.len() });
                self.respond(Message::response_to(&message).with_json(&body));
            }
            "stats-clear" | "debug" | "config-reload" | "config-sync" => {
                let result = if message.cred.rolemask.allows(Rolemask::OWNER) {
                    self.owner_method(&message)
                } else {
                    Err(defaults::denied(Rolemask::OWNER))
                };
                match result {
                    Err(error) => self.refuse(&message, error),
                    Ok(_) if message.no_response() => {}
                    Ok(None) => self.respond(Message::response_to(&message)),
                    Ok(Some(body)) => {
                        self.respond(Message::response_to(&message).with_json(&body));
                    }
                }
            }
            _ => {
                let text = format!("Unknown service method '{}'", message.topic());
                self.refuse(&message, RpcError::new(Errno::ENOSYS, text));
            }
        }
    }

    /// Takes a configuration, or refuses it and keeps the one it has.
    pub(crate) fn configure(&mut self, config: Map<String, Value>) -> Result<(), RpcError> {
        let access = Access::from_config(&config)
            .map_err(|error| RpcError::new(Errno::EINVAL, error.to_string()))?;
        let growth = self.plan_growth(&config)?;
        let former = std::mem::replace(&mut self.config, config);
        if let Err(error) = self.configure_overlay() {
            self.config = former;
            return Err(error);
        }
        self.access = access;
        if let Some((roster, topology)) = growth {
            self.grow(roster, topology);
        }
        Ok(())
    }

    fn owner_method(&mut self, message: &Message) -> Result<Option<Value>, RpcError> {
        match message.method() {
            "debug" => defaults::debug(&mut self.debug, message).map(Some),
            "config-reload" | "config-sync" => {
                let config: Map<String, Value> = message
                    .json()
                    .map_err(|error| RpcError::new(Errno::EPROTO, error.to_string()))?;
                self.configure(config).map(|()| None)
            }
            _ => Ok(None),
        }
    }
}
