//! `broker`, `event`, `service`, `module`: what the message switch itself serves.

use serde_json::{Map, Value};

use crate::body::{AnyObject, Empty};

bodies! {
    /// Body of `broker.exit`.
    pub struct ExitRequest {
        /// Exit code of the broker process, 0..=255.
        pub code: i32,
    }

    /// Body of `broker.getenv`.
    pub struct EnvNames {
        /// Variable names.
        pub names: Vec<String>,
    }

    /// Environment variables; on `broker.setenv` null unsets one.
    pub struct EnvValues {
        /// Values by name.
        pub env: Map<String, Value>,
    }

    /// Body of `broker.conf-builtin`.
    pub struct BuiltinKeys {
        /// Keys, such as `shell_path`.
        pub keys: Vec<String>,
    }

    /// Installed paths by key.
    pub struct BuiltinValues {
        /// Values by key.
        pub values: Map<String, Value>,
    }

    /// Body of `event.publish`.
    pub struct PublishRequest {
        /// Topic of the event.
        pub topic: String,
        /// 0, or 0x20 for a private event.
        pub flags: u32,
        /// Base64 of the raw payload.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub payload: Option<String>,
    }

    /// The event's place in the one order of events.
    pub struct PublishResponse {
        /// Sequence number, from 1.
        pub seq: u32,
    }

    /// Body of `event.subscribe` and `event.unsubscribe`.
    pub struct SubscribeRequest {
        /// Prefix of the topics; empty for all.
        pub topic: String,
    }

    /// Body of `service.add` and `service.remove`.
    pub struct ServiceRequest {
        /// Name without a dot; a guest's begins with `<uid>-`.
        pub service: String,
    }

    /// One module of a broker.
    pub struct ModuleEntry {
        /// Name.
        pub name: String,
        /// Where it came from; `builtin` here.
        pub path: String,
        /// Whole seconds since its last message.
        pub idle: u64,
        /// 0 starting, 1 running, 2 finishing, 3 exited.
        pub status: u32,
        /// Names it serves.
        pub services: Vec<String>,
        /// Messages waiting to be sent.
        pub sendqueue: u64,
        /// Messages waiting to be received.
        pub recvqueue: u64,
    }

    /// Answer of `module.list`.
    pub struct ModuleList {
        /// Every module.
        pub mods: Vec<ModuleEntry>,
    }

    /// Body of `module.load`.
    pub struct ModuleLoad {
        /// Name of a module of this program.
        pub path: String,
        /// Its arguments.
        #[serde(default)]
        pub args: Vec<String>,
        /// Another name for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
    }

    /// Body of `module.remove`.
    pub struct ModuleName {
        /// Name of the module.
        pub name: String,
    }

    /// Body of `module.trace`.
    pub struct ModuleTraceRequest {
        /// Names of modules; empty for all.
        pub names: Vec<String>,
        /// Kinds of messages: request 1, response 2, event 4, control 8.
        pub typemask: u32,
        /// Pattern of topics, with `*` and `?`; empty for all.
        pub topic_glob: String,
        /// With payloads that are JSON objects.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub full: bool,
    }

    /// Body of `module.health`.
    pub struct HealthRequest {
        /// Seconds that a request must have waited for to count.
        pub older: f64,
    }

    /// A service that owes an answer.
    pub struct Busy {
        /// Module, driver, or name registered by a client.
        pub name: String,
        /// Topic of its oldest unanswered request.
        pub topic: String,
        /// Seconds that it has waited for.
        pub oldest: f64,
        /// Unanswered requests in all, streams included.
        pub depth: u64,
    }

    /// Answer of `module.health`.
    pub struct HealthReport {
        /// Rank of the broker.
        pub rank: u32,
        /// Services whose oldest request has waited so long, the oldest first.
        pub services: Vec<Busy>,
    }

    /// What the services of a broker wait for, and since when.
    pub struct WaitList {
        /// One line per outstanding request and armed timer, by module.
        pub waits: Map<String, Value>,
    }
}

api! {
    /// The message switch: modules, services, events, and the end of the process.
    pub enum Broker("broker", "event", "service", "module") {
        /// Starts the modules that are not builtin with this configuration; answered when all are up,
        /// or with why not.
        StartModules = "broker.start-modules", owner, unary, AnyObject => Empty;
        /// Lets those modules settle, last started first; answered when all have.
        StopModules = "broker.stop-modules", owner, unary, Empty => Empty;
        /// Ends the broker process with a code, after everything queued was sent.
        Exit = "broker.exit", owner, silent, ExitRequest => Empty;
        /// Environment of the broker.
        Getenv = "broker.getenv", owner, unary, EnvNames => EnvValues;
        /// Changes the environment that the broker gives to processes.
        Setenv = "broker.setenv", owner, unary, EnvValues => Empty;
        /// Installed paths.
        ConfBuiltin = "broker.conf-builtin", any, unary, BuiltinKeys => BuiltinValues;
        /// What every service waits for.
        Waits = "broker.waits", owner, unary, AnyObject => WaitList;
        /// Publishes an event; rank 0 only.
        Publish = "event.publish", user, unary, PublishRequest => PublishResponse;
        /// Delivers events with this prefix to the sender.
        Subscribe = "event.subscribe", user, unary, SubscribeRequest => Empty;
        /// Undoes one subscription.
        Unsubscribe = "event.unsubscribe", user, unary, SubscribeRequest => Empty;
        /// Registers a service name for the sender.
        ServiceAdd = "service.add", user, unary, ServiceRequest => Empty;
        /// Gives a service name up.
        ServiceRemove = "service.remove", user, unary, ServiceRequest => Empty;
        /// Lists modules.
        ModuleList_ = "module.list", user, unary, AnyObject => ModuleList;
        /// Starts a module of this program that is not running.
        ModuleLoad_ = "module.load", owner, unary, ModuleLoad => Empty;
        /// Stops a module.
        ModuleRemove = "module.remove", owner, unary, ModuleName => Empty;
        /// Shows messages to and from modules as they pass.
        ModuleTrace = "module.trace", owner, streaming, ModuleTraceRequest => crate::overlay::TraceLine;
        /// Services of this broker that have owed an answer for long.
        Health = "module.health", user, unary, HealthRequest => HealthReport;
    }
}
