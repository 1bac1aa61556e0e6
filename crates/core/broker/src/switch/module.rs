//! Modules: what they are given and what they do.

use flux_api::RpcError;
use flux_proto::{Cred, Errno, Message, MsgType};
use flux_svc::{Level, Module, Out, Port, Way};

use crate::ids::Peer;
use crate::node::{Node, Work};
use crate::switch::seat::{Phase, Seat};
use crate::track::{Disconnects, MAX_DISCONNECTS, Tracker};

impl Node {
    /// Gives a module its place; it is not started yet. Its services are known from now on, so
    /// that what is asked of them waits in order behind its start.
    pub(crate) fn seat(&mut self, module: Box<dyn Module>, builtin: bool) -> usize {
        let at = self.seats.len();
        let peer = Peer::Module(at);
        let id = self.ids.make(peer);
        let (rank, size, owner) = (self.cfg.rank, self.cfg.size(), self.cfg.owner);
        let port = Port::new(rank, size, owner, id.clone(), self.ids.random());
        let name = module.name().to_string();
        let services = module.services();
        // Default methods are found under the module's name, whatever else it serves.
        if !services.contains(&name.as_str()) && !self.registry.contains_key(&name) {
            self.registry.insert(name.clone(), peer);
        }
        self.seats.push(Seat {
            module: Some(module),
            name: name.clone(),
            id,
            port,
            phase: Phase::Starting,
            builtin,
            spoke: self.clock.mono_us,
            disconnects: Disconnects::default(),
            serving: Tracker::default(),
            loading: None,
            removing: Vec::new(),
        });
        let cred = self.own_cred();
        for service in services {
            if let Err(error) = self.add_service(peer, cred, service) {
                self.log(&name, Level::Err, error.message());
            }
        }
        at
    }

    /// Calls a module, then carries out what it wants done.
    fn with_module(&mut self, at: usize, f: impl FnOnce(&mut dyn Module, &mut Port)) {
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        let Some(module) = seat.module.as_mut() else {
            return;
        };
        seat.port.clock = self.clock;
        f(module.as_mut(), &mut seat.port);
        if seat.port.out.is_empty() {
            return;
        }
        seat.spoke = self.clock.mono_us;
        let mut effects = std::mem::take(&mut seat.port.out);
        while let Some(effect) = effects.pop_front() {
            self.effect(at, effect);
        }
        // The buffer goes back, so that the next call need not grow one.
        if let Some(seat) = self.seats.get_mut(at) {
            seat.port.out = effects;
        }
    }

    pub(crate) fn start_seat(&mut self, at: usize) {
        // A copy, because what the module does at once may change the configuration.
        let config = self.config.clone();
        self.with_module(at, |module, port| module.start(port, &config));
    }

    pub(crate) fn tell_seat(&mut self, at: usize, way: Way) {
        self.with_module(at, |module, port| module.way(port, way));
    }

    pub(crate) fn give(&mut self, at: usize, message: Message) {
        if self.seats.get(at).is_none_or(|seat| seat.module.is_none()) {
            // What has a tag was answered when the module left.
            if message.kind == MsgType::Request && message.matchtag() == 0 {
                self.no_service(&message);
            }
            return;
        }
        self.seen_at_module(at, true, &message);
        self.with_module(at, |module, port| module.deliver(port, message));
    }

    pub(crate) fn tick_seat(&mut self, at: usize) {
        let due = self.seats.get(at).and_then(Seat::deadline);
        if due.is_some_and(|due| due <= self.clock.mono_us) {
            self.with_module(at, |module, port| module.tick(port));
        }
    }

    pub(crate) fn drain_seat(&mut self, at: usize) {
        self.with_module(at, |module, port| module.drain(port));
    }

    fn effect(&mut self, at: usize, effect: Out) {
        let peer = Peer::Module(at);
        match effect {
            Out::Send(message) => self.take_module(at, message),
            Out::Subscribe(prefix) => self.events.subscribe(peer, &prefix),
            Out::Unsubscribe(prefix) => {
                if self.events.unsubscribe(peer, &prefix).is_err() {
                    let text = format!("not subscribed to '{prefix}'");
                    self.module_log(at, Level::Debug, &text);
                }
            }
            Out::AddService(name) => {
                if let Err(error) = self.add_service(peer, self.own_cred(), &name) {
                    self.module_log(at, Level::Err, &error.message());
                }
            }
            Out::RemoveService(name) => {
                if let Err(error) = self.remove_service(peer, self.own_cred(), &name) {
                    self.module_log(at, Level::Debug, &error.message());
                }
            }
            Out::Log(level, text) => self.module_log(at, level, &text),
            Out::Ready => self.module_ready(at),
            Out::Failed(reason) => self.module_failed(at, &reason),
            Out::Drained => self.module_drained(at),
        }
    }

    fn module_log(&mut self, at: usize, level: Level, text: &str) {
        let name = self.seats.get(at).map(|seat| seat.name.clone()).unwrap_or_default();
        // The life of the broker is its own news; that a module keeps it is nobody's business.
        let app = if name == "state-machine" { "broker" } else { &name };
        self.log(app, level, text);
    }

    fn take_module(&mut self, at: usize, mut message: Message) {
        if message.cred == Cred::UNKNOWN {
            message.cred = self.own_cred();
        }
        self.seen_at_module(at, false, &message);
        match message.kind {
            MsgType::Request => {
                let Some(seat) = self.seats.get_mut(at) else {
                    return;
                };
                message.push_route(seat.id.clone());
                seat.disconnects.arm(&message, MAX_DISCONNECTS);
                self.route_request(message);
            }
            MsgType::Response => {
                if let Some(seat) = self.seats.get_mut(at) {
                    seat.serving.response(&message);
                }
                self.route_response(message);
            }
            MsgType::Event => {
                self.publish(message);
            }
            MsgType::Control => {}
        }
    }

    fn module_ready(&mut self, at: usize) {
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        if seat.phase != Phase::Starting {
            return;
        }
        seat.phase = Phase::Running;
        if let Some(answer) = seat.loading.take() {
            self.reply(answer, Ok(flux_api::Empty));
        }
        if self.boot.starting == Some(at) {
            self.boot.starting = None;
            self.work.push_back(Work::Boot);
        }
    }

    /// A module cannot start or go on. Before it was up, who started it is told; later, or when
    /// nobody started it, this is a panic of the broker.
    fn module_failed(&mut self, at: usize, reason: &str) {
        let reason = flux_api::config::with_place(&self.cfg.places, reason);
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        if seat.phase == Phase::Exited {
            return;
        }
        let (phase, builtin, name) = (seat.phase, seat.builtin, seat.name.clone());
        let loading = seat.loading.take();
        let text = format!("{name}: {reason}");
        let error = RpcError::new(Errno::EINVAL, text.clone());
        // First it leaves, lest the log service is told of its own end.
        self.leave_seat(at);
        self.log(&name, Level::Crit, format!("module failed: {reason}"));
        if let Some(answer) = loading {
            return self.reply(answer, Err(error));
        }
        if self.boot.starting == Some(at) {
            self.boot.starting = None;
            return self.boot_failed(&error);
        }
        if builtin && phase == Phase::Starting {
            self.out.push_back(flux_svc::engine::Output::Stderr(Level::Crit, text));
            self.exit = Some(1);
            return;
        }
        if phase == Phase::Finishing {
            return self.seat_is_empty(at);
        }
        if !self.panic() {
            self.exit = Some(1);
        }
    }

    fn module_drained(&mut self, at: usize) {
        if self.seats.get(at).is_some_and(|seat| seat.phase == Phase::Finishing) {
            self.leave_seat(at);
            self.seat_is_empty(at);
        }
    }

    /// The module is gone: nobody serves its names, and whom it asked is told.
    fn leave_seat(&mut self, at: usize) {
        let peer = Peer::Module(at);
        self.drop_services(peer);
        self.events.drop_peer(peer);
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        seat.phase = Phase::Exited;
        seat.module = None;
        let id = seat.id.clone();
        let farewells = seat.disconnects.take();
        let loading = seat.loading.take();
        let unanswered = seat.serving.take();
        self.ids.remove(&id, peer);
        for message in farewells {
            self.route_request(message);
        }
        for request in unanswered {
            self.refuse(&request, RpcError::new(Errno::EHOSTUNREACH, "module disconnect"));
        }
        if let Some(answer) = loading {
            let error = RpcError::new(Errno::ECANCELED, "module was removed before it was up");
            self.reply(answer, Err(error));
        }
    }

    /// Tells who waits for the end of a module.
    fn seat_is_empty(&mut self, at: usize) {
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        for answer in std::mem::take(&mut seat.removing) {
            self.reply(answer, Ok(flux_api::Empty));
        }
        if self.boot.starting == Some(at) {
            self.boot.starting = None;
            let error = RpcError::new(Errno::ECANCELED, "module was removed before it was up");
            self.boot_failed(&error);
        }
        if self.stop.draining == Some(at) {
            self.stop.draining = None;
            self.work.push_back(Work::Stop);
        }
    }
}
