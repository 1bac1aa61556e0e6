//! The centre of the loop: inputs to the engine, its outputs to where they belong.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use flux_api::RpcError;
use flux_proto::{Errno, Message, MsgType, Rolemask};
use flux_svc::Clock;
use flux_svc::engine::{Admission, ClientId, Engine, Input, Output};
use nix::unistd::{Group, Uid, User};
use tokio::sync::Notify;

use crate::client::{Client, Flushed, WRITE_EARLY};
use crate::driver::{Driver, DriverHandle, Inbox};
use crate::links::Links;
use crate::options::{ClientLimits, HostError, HostOptions};
use crate::quota::Quota;

/// After this many messages from drivers, others come first.
const DRIVER_BATCH: usize = 4096;

/// Everything of one broker, shared by the tasks of its thread.
pub(crate) struct Hub {
    core: RefCell<Core>,
    options: HostOptions,
    start: Instant,
    pub(crate) inbox: Arc<Inbox>,
    /// The engine wants a tick earlier than before.
    pub(crate) earlier: Notify,
    /// The broker is done, or listening changed.
    pub(crate) changed: Notify,
    panicked: Cell<bool>,
    pub(crate) quota: Quota,
}

struct Core {
    engine: Box<dyn Engine>,
    clients: BTreeMap<ClientId, Client>,
    next_client: u64,
    dirty: Vec<ClientId>,
    /// Clients that are gone and whose engine has not been told.
    left: Vec<ClientId>,
    drivers: BTreeMap<&'static str, (Box<dyn Driver>, DriverHandle)>,
    links: Links,
    /// The tick that the loop waits for, monotonic microseconds.
    armed: Option<u64>,
    listening: bool,
    /// Children are accepted, too.
    adopting: bool,
    /// Children are expected where there were none.
    grown: bool,
    exit: Option<i32>,
}

impl Hub {
    pub(crate) fn new(
        engine: Box<dyn Engine>,
        options: HostOptions,
        drivers: Vec<Box<dyn Driver>>,
        links: Links,
    ) -> Result<Rc<Self>, HostError> {
        let inbox = Arc::new(Inbox::default());
        let mut table = BTreeMap::new();
        for driver in drivers {
            let name = driver.name();
            let handle = DriverHandle::new(name, Arc::clone(&inbox));
            if table.insert(name, (driver, handle)).is_some() {
                return Err(HostError::DuplicateDriver(name));
            }
        }
        let core = Core {
            engine,
            clients: BTreeMap::new(),
            next_client: 1,
            dirty: Vec::new(),
            left: Vec::new(),
            drivers: table,
            links,
            armed: None,
            listening: false,
            adopting: false,
            grown: false,
            exit: None,
        };
        Ok(Rc::new(Self {
            core: RefCell::new(core),
            quota: Quota::new(options.guests),
            options,
            start: Instant::now(),
            inbox,
            earlier: Notify::new(),
            changed: Notify::new(),
            panicked: Cell::new(false),
        }))
    }

    pub(crate) fn limits(&self) -> ClientLimits {
        self.options.limits
    }

    /// The longest message that is taken from a guest, in bytes.
    pub(crate) fn guest_message(&self) -> usize {
        self.options.guests.message
    }

    fn clock(&self) -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mono = self.start.elapsed().as_micros();
        Clock { mono_us: u64::try_from(mono).unwrap_or(u64::MAX), wall: wall.as_secs_f64() }
    }

    /// The moment of a monotonic time.
    pub(crate) fn instant(&self, mono_us: u64) -> Instant {
        self.start
            .checked_add(std::time::Duration::from_micros(mono_us))
            .unwrap_or_else(|| Instant::now() + std::time::Duration::from_secs(1 << 25))
    }

    pub(crate) fn admit(&self, userid: u32) -> Admission {
        let core = self.core.borrow();
        let mut cred = core.engine.admit(userid)?;
        let administrators = core.engine.administrators();
        // Names are looked up where they matter only: that may ask a directory service.
        if !cred.is_owner()
            && !administrators.is_empty()
            && let Ok(Some(user)) = User::from_uid(Uid::from_raw(userid))
            && administrators.include(&user.name, members)
        {
            cred.rolemask.insert(Rolemask::ADMIN);
        }
        Ok(cred)
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.core.borrow().listening
    }

    /// Whether children may connect.
    pub(crate) fn is_adopting(&self) -> bool {
        self.core.borrow().adopting
    }

    /// Whether children are expected where there were none.
    pub(crate) fn has_grown(&self) -> bool {
        self.core.borrow().grown
    }

    /// Applies `f` to the links.
    pub(crate) fn with_links<T>(&self, f: impl FnOnce(&mut Links) -> T) -> T {
        f(&mut self.core.borrow_mut().links)
    }

    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.core.borrow().exit
    }

    pub(crate) fn has_panicked(&self) -> bool {
        self.panicked.get()
    }

    /// The tick to wait for; called when the loop is about to wait for it.
    pub(crate) fn arm(&self) -> Option<u64> {
        let mut core = self.core.borrow_mut();
        core.armed = core.engine.next_deadline();
        core.armed
    }

    pub(crate) fn start(self: &Rc<Self>) {
        self.turn(|_, core, clock| core.engine.start(clock));
    }

    pub(crate) fn feed_one(self: &Rc<Self>, input: Input) {
        self.feed(std::iter::once(input));
    }

    /// Tells the engine what happened, and does everything that follows from it.
    pub(crate) fn feed(self: &Rc<Self>, inputs: impl Iterator<Item = Input>) {
        self.turn(|hub, core, clock| {
            for input in inputs {
                core.engine.input(clock, input);
                hub.carry_out(core);
            }
        });
    }

    /// As [`Hub::feed`], where each input is made just before its turn, if it still counts.
    pub(crate) fn feed_with<T>(
        self: &Rc<Self>,
        items: impl Iterator<Item = T>,
        make: impl Fn(&mut Links, T) -> Option<Input>,
    ) {
        self.turn(|hub, core, clock| {
            for item in items {
                if let Some(input) = make(&mut core.links, item) {
                    core.engine.input(clock, input);
                    hub.carry_out(core);
                }
            }
        });
    }

    /// One turn of the loop: `act`, then the answers of drivers, then one write per client.
    fn turn(self: &Rc<Self>, act: impl FnOnce(&Rc<Self>, &mut Core, Clock)) {
        let guard = PanicGuard(self);
        self.inbox.wake_up();
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        if core.exit.is_none() {
            let clock = self.clock();
            act(self, core, clock);
            self.carry_out(core);
            self.settle(core, clock);
        }
        if core.engine.next_deadline().is_some_and(|at| core.armed.is_none_or(|armed| at < armed)) {
            self.earlier.notify_one();
        }
        drop(guard);
    }

    /// Answers of drivers, writes, and clients that left: until nothing is left to do.
    fn settle(self: &Rc<Self>, core: &mut Core, clock: Clock) {
        let mut budget = DRIVER_BATCH;
        loop {
            for (name, message) in self.inbox.take() {
                budget = budget.saturating_sub(1);
                core.engine.input(clock, Input::Driver(name, message));
                self.carry_out(core);
            }
            while let Some(id) = core.dirty.pop() {
                if let Some(client) = core.clients.get_mut(&id) {
                    client.dirty = false;
                    self.flush(core, id);
                }
            }
            while let Some(id) = core.left.pop() {
                core.engine.input(clock, Input::ClientLeft(id));
                self.carry_out(core);
            }
            if !core.dirty.is_empty() || !core.left.is_empty() {
                continue;
            }
            if !self.inbox.fall_asleep() {
                return;
            }
            if budget == 0 {
                self.inbox.arrived.notify_one();
                return;
            }
            self.inbox.wake_up();
        }
    }

    /// Takes all outputs of the engine.
    fn carry_out(self: &Rc<Self>, core: &mut Core) {
        while let Some(output) = core.engine.poll() {
            match output {
                Output::Client(id, message) => self.send(core, id, &message),
                Output::CloseClient(id) => {
                    if let Some(client) = core.clients.get_mut(&id) {
                        client.closing = true;
                        mark_dirty(client, id, &mut core.dirty);
                    }
                }
                Output::Driver(name, message) => match core.drivers.get_mut(name) {
                    Some((driver, handle)) => driver.deliver(message, handle),
                    None => self.no_driver(name, &message),
                },
                Output::Listen => {
                    core.listening = true;
                    core.adopting = true;
                    self.changed.notify_one();
                }
                Output::Stderr(_, line) => write_stderr(&line),
                Output::Notify(text) => crate::console::notify_manager(&text),
                Output::Exit(code) => {
                    core.exit.get_or_insert(code);
                    self.changed.notify_one();
                }
                Output::Link(id, message) => core.links.send(self, id, message),
                Output::CloseLink(id) => core.links.close(id),
                Output::ConnectParent(rank) => core.links.connect_parent(self, rank),
                Output::Trust(keys) => core.links.trust(&keys),
                Output::Adopt => {
                    core.grown = true;
                    self.changed.notify_one();
                }
                Output::StopListening => {
                    core.adopting = false;
                    self.changed.notify_one();
                }
            }
        }
    }

    fn no_driver(&self, name: &'static str, message: &Message) {
        if message.kind == MsgType::Request {
            let text = format!("No service matching {} is registered", message.topic());
            DriverHandle::new(name, Arc::clone(&self.inbox))
                .refuse(message, &RpcError::new(Errno::ENOSYS, text));
        }
    }

    fn send(self: &Rc<Self>, core: &mut Core, id: ClientId, message: &Message) {
        let Some(client) = core.clients.get_mut(&id) else {
            return;
        };
        if client.closing {
            return;
        }
        if client.backlog() > self.options.limits.disconnect {
            write_stderr(&format!(
                "local socket: client {} disconnected: {} bytes unread",
                id.0,
                client.backlog()
            ));
            remove(core, id);
            return;
        }
        client.push(message);
        if client.is_exceeded() {
            remove(core, id);
            return;
        }
        if client.backlog() > WRITE_EARLY {
            self.flush(core, id);
        } else {
            mark_dirty(client, id, &mut core.dirty);
        }
    }

    fn flush(self: &Rc<Self>, core: &mut Core, id: ClientId) -> Flushed {
        let Some(client) = core.clients.get_mut(&id) else {
            return Flushed::Gone;
        };
        let flushed = client.flush();
        client.unpause(self.options.limits.pause_reading);
        match flushed {
            Flushed::Full => client.await_room(self, id),
            Flushed::All if !client.closing => {}
            Flushed::All | Flushed::Gone => remove(core, id),
        }
        flushed
    }

    pub(crate) fn add_client(&self, client: Client) -> ClientId {
        let mut core = self.core.borrow_mut();
        let id = ClientId(core.next_client);
        core.next_client += 1;
        core.clients.insert(id, client);
        id
    }

    /// Applies `f` to a client that is still there.
    pub(crate) fn with_client<T>(
        &self,
        id: ClientId,
        f: impl FnOnce(&mut Client) -> T,
    ) -> Option<T> {
        self.core.borrow_mut().clients.get_mut(&id).map(f)
    }

    /// The connection of a client ended.
    pub(crate) fn drop_client(self: &Rc<Self>, id: ClientId) {
        if self.exit_code().is_some() {
            self.core.borrow_mut().clients.remove(&id);
            self.changed.notify_one();
        } else {
            self.turn(|_, core, _| remove(core, id));
        }
    }

    /// The socket of a client takes more. Anything but `Full` ends the task that waits for that.
    pub(crate) fn flush_client(self: &Rc<Self>, id: ClientId) -> Flushed {
        let mut flushed = Flushed::Gone;
        if self.exit_code().is_some() {
            // After the end of the engine, what was sent before still goes out.
            let mut core = self.core.borrow_mut();
            flushed = core.clients.get_mut(&id).map_or(Flushed::Gone, Client::flush);
            if flushed != Flushed::Full {
                core.clients.remove(&id);
                self.changed.notify_one();
            }
            return flushed;
        }
        self.turn(|hub, core, _| {
            if let Some(client) = core.clients.get_mut(&id) {
                flushed = client.flush();
                if flushed == Flushed::Full {
                    client.unpause(hub.options.limits.pause_reading);
                } else {
                    client.writer_done();
                    hub.flush(core, id);
                }
            }
        });
        flushed
    }

    /// How many clients have not taken everything that was sent to them.
    pub(crate) fn unflushed(&self) -> usize {
        self.core.borrow().clients.values().filter(|client| client.backlog() > 0).count()
    }

    /// Closes every connection.
    pub(crate) fn close_clients(&self) {
        let clients = std::mem::take(&mut self.core.borrow_mut().clients);
        drop(clients);
    }
}

fn mark_dirty(client: &mut Client, id: ClientId, dirty: &mut Vec<ClientId>) {
    if !client.dirty {
        client.dirty = true;
        dirty.push(id);
    }
}

fn remove(core: &mut Core, id: ClientId) {
    if let Some(client) = core.clients.remove(&id) {
        drop(client);
        core.left.push(id);
    }
}

/// A line on stderr; when that is gone there is nobody to tell.
pub(crate) fn write_stderr(line: &str) {
    let mut text = String::with_capacity(line.len() + 1);
    text.push_str(line);
    if !line.ends_with('\n') {
        text.push('\n');
    }
    drop(std::io::stderr().lock().write_all(text.as_bytes()));
}

/// A panic in the engine ends the whole broker, not just the task it happened in.
struct PanicGuard<'a>(&'a Hub);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.set(true);
            self.0.changed.notify_one();
        }
    }
}

/// The members that a group lists; primary members are not among them.
fn members(group: &str) -> Vec<String> {
    match Group::from_name(group) {
        Ok(Some(group)) => group.mem,
        _ => Vec::new(),
    }
}
