//! One broker.

use std::collections::{BTreeMap, VecDeque};

use flux_api::rpc::{Answer, refusal};
use flux_api::{Rpc, RpcError};
use flux_proto::{Cred, Message, Rolemask};
use flux_svc::engine::{Administrators, Admission, ClientId, Engine, Input, LinkId, Output};
use flux_svc::{Clock, Level, Module, Way};
use serde_json::{Map, Value};

use crate::access::Access;
use crate::config::NodeConfig;
use crate::ids::{Ids, Peer};
use crate::overlay::Overlay;
use crate::switch::client::Client;
use crate::switch::driver::Driver;
use crate::switch::event::Events;
use crate::switch::lifecycle::{Boot, Stop};
use crate::switch::seat::Seat;
use crate::switch::trace::Tracers;

/// Makes a module of this program by name, with its arguments, for `module.load`.
pub type Loader = Box<dyn Fn(&str, &[String]) -> Option<Box<dyn Module>>>;

/// Something that calls a module; done one after the other, so that modules never nest.
#[derive(Debug)]
pub(crate) enum Work {
    /// Gives a message to the module in a seat.
    Deliver(usize, Message),
    /// Starts it.
    Start(usize),
    /// Tells it of the way to the leader.
    Way(usize, Way),
    /// Tells it to settle.
    Drain(usize),
    /// Starts the next module, or answers that all are up.
    Boot,
    /// Stops the next module, or answers that all are down.
    Stop,
}

/// One broker: an engine that routes between clients, modules, drivers and other brokers.
pub struct Node {
    pub(crate) cfg: NodeConfig,
    pub(crate) clock: Clock,
    pub(crate) out: VecDeque<Output>,
    pub(crate) work: VecDeque<Work>,
    pub(crate) config: Map<String, Value>,
    pub(crate) access: Access,
    pub(crate) ids: Ids,
    /// Who serves a name.
    pub(crate) registry: BTreeMap<String, Peer>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) drivers: Vec<Driver>,
    pub(crate) connector: flux_proto::RouteId,
    pub(crate) clients: BTreeMap<ClientId, Client>,
    /// Connections there have been.
    pub(crate) connects: u64,
    /// Requests of guests that wait for their last answer, by user.
    pub(crate) guests_open: BTreeMap<u32, u32>,
    pub(crate) tracers: Tracers,
    pub(crate) events: Events,
    pub(crate) overlay: Overlay,
    pub(crate) boot: Boot,
    pub(crate) stop: Stop,
    pub(crate) loader: Option<Loader>,
    /// Requests from outside are served (the INIT state was reached).
    pub(crate) online: bool,
    pub(crate) debug: u32,
    pub(crate) exit: Option<i32>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node(rank {})", self.cfg.rank)
    }
}

impl Node {
    /// A broker that will hold these modules: the builtins from the start, the others when
    /// `broker.start-modules` asks for them.
    #[must_use]
    pub fn new(
        cfg: NodeConfig,
        builtins: Vec<Box<dyn Module>>,
        modules: Vec<Box<dyn Module>>,
    ) -> Self {
        // Every rank draws its own ids, also when a host gives all the same seed.
        let mut ids = Ids::new(cfg.seed ^ u64::from(cfg.rank).wrapping_mul(0x2545_f491_4f6c_dd1d));
        ids.insert(cfg.uuid.clone(), Peer::Own);
        let connector = ids.make(Peer::Connector);
        let registry = ["broker", "event", "service", "module", "overlay", "connector-local"]
            .map(|name| (name.to_string(), Peer::Own));
        let mut node = Self {
            clock: Clock::default(),
            out: VecDeque::new(),
            work: VecDeque::new(),
            config: cfg.config.clone(),
            access: Access::default(),
            ids,
            registry: BTreeMap::from(registry),
            seats: Vec::new(),
            drivers: Vec::new(),
            connector,
            clients: BTreeMap::new(),
            connects: 0,
            guests_open: BTreeMap::new(),
            tracers: Tracers::default(),
            events: Events::default(),
            overlay: Overlay::new(&cfg),
            boot: Boot::new(modules),
            stop: Stop::default(),
            loader: None,
            online: false,
            debug: 0,
            exit: None,
            cfg,
        };
        for name in node.cfg.drivers.clone() {
            node.add_driver(name);
        }
        for module in builtins {
            node.seat(module, true);
        }
        node
    }

    /// Lets `module.load` make modules.
    #[must_use]
    pub fn with_loader(mut self, loader: Loader) -> Self {
        self.loader = Some(loader);
        self
    }

    /// Identity and place of this broker.
    #[must_use]
    pub fn config(&self) -> &NodeConfig {
        &self.cfg
    }

    /// The environment for processes, as changed by `broker.setenv`.
    #[must_use]
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.cfg.env
    }

    /// The policy of the local socket, as last configured.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Number of requests that wait for other brokers; for tests of leaks.
    #[must_use]
    pub fn tracked(&self) -> usize {
        self.overlay.tracked()
    }

    pub(crate) fn own_cred(&self) -> Cred {
        Cred { userid: self.cfg.owner, rolemask: Rolemask::OWNER | Rolemask::LOCAL }
    }

    /// Sends a response that this broker gives itself.
    pub(crate) fn respond(&mut self, mut message: Message) {
        if message.cred == Cred::UNKNOWN {
            message.cred = self.own_cred();
        }
        self.route_response(message);
    }

    /// Refuses a request, if it wants an answer.
    pub(crate) fn refuse(&mut self, request: &Message, error: impl Into<RpcError>) {
        if !request.no_response() {
            self.respond(refusal(request, &error.into()));
        }
    }

    /// The final response of a call to this broker.
    pub(crate) fn reply<R: Rpc>(
        &mut self,
        answer: Answer<R>,
        result: Result<R::Response, RpcError>,
    ) {
        let mut messages = Vec::new();
        answer.respond(&mut messages, result);
        for message in messages {
            self.respond(message);
        }
    }

    /// One item of a stream from this broker.
    pub(crate) fn item<R: Rpc>(&mut self, answer: &Answer<R>, item: &R::Response) {
        let mut messages = Vec::new();
        answer.item(&mut messages, item);
        for message in messages {
            self.respond(message);
        }
    }

    /// Does what has piled up, until nothing is left to do now.
    fn settle(&mut self) {
        while let Some(work) = self.work.pop_front() {
            match work {
                Work::Deliver(seat, message) => self.give(seat, message),
                Work::Start(seat) => self.start_seat(seat),
                Work::Way(seat, way) => self.tell_seat(seat, way),
                Work::Drain(seat) => self.drain_seat(seat),
                Work::Boot => self.boot_next(),
                Work::Stop => self.stop_next(),
            }
        }
        if let Some(code) = self.exit.take() {
            self.forget_answers();
            self.out.push_back(Output::Exit(code));
        }
    }
}

impl Drop for Node {
    /// A broker that dies owes nothing any more.
    fn drop(&mut self) {
        self.forget_answers();
    }
}

impl Engine for Node {
    fn start(&mut self, clock: Clock) {
        self.clock = clock;
        let now = clock.mono_us;
        self.overlay.begin(now);
        match Access::from_config(&self.config) {
            Ok(access) => self.access = access,
            Err(error) => {
                self.log("connector-local", Level::Err, error.to_string());
                self.exit = Some(1);
            }
        }
        if let Err(error) = self.configure_overlay() {
            self.log("overlay", Level::Err, error.message());
            self.exit = Some(1);
        }
        self.out.push_back(Output::Listen);
        for seat in 0..self.seats.len() {
            self.work.push_back(Work::Start(seat));
        }
        self.settle();
    }

    fn input(&mut self, clock: Clock, input: Input) {
        self.clock = clock;
        match input {
            Input::ClientJoined { client, cred, pid } => self.client_joined(client, cred, pid),
            Input::Client(client, message) => self.take_client(client, message),
            Input::ClientLeft(client) => self.client_left(client),
            Input::Driver(name, message) => self.take_driver(name, message),
            Input::LinkKey(link, key) => drop(self.overlay.keys.insert(link, key)),
            Input::LinkUp(LinkId::PARENT) => self.parent_up(),
            Input::LinkUp(link) => self.child_link_up(link),
            Input::Link(LinkId::PARENT, message) => self.take_parent(message),
            Input::Link(link, message) => self.take_child_link(link, message),
            Input::LinkDown(LinkId::PARENT, reason) => self.parent_down(&reason),
            Input::LinkDown(link, reason) => self.child_link_down(link, &reason),
            Input::Signal(number) => self.signal(number),
            Input::Tick => {}
        }
        // Whatever the input was, timers that are due have waited long enough.
        self.overlay_tick();
        for seat in 0..self.seats.len() {
            self.tick_seat(seat);
        }
        self.settle();
    }

    fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn next_deadline(&self) -> Option<u64> {
        let modules = self.seats.iter().filter_map(Seat::deadline).min();
        [modules, self.overlay_deadline()].into_iter().flatten().min()
    }

    fn admit(&self, userid: u32) -> Admission {
        self.access.admit(self.cfg.owner, userid)
    }

    fn administrators(&self) -> Administrators<'_> {
        Administrators { users: &self.access.admin_users, groups: &self.access.admin_groups }
    }
}
