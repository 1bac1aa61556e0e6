//! Links to the parent and to children.
//!
//! Each connection runs on a task of its own, with its TLS state. What they receive comes together
//! in one queue, in order per link; its bound holds back peers that send faster than the engine
//! takes.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use flux_proto::Message;
use flux_svc::engine::{Input, LinkId};
use flux_wire::{ConnectError, ConnectOptions, Connection, Endpoint, Inbox, Listener};
use flux_wire::{Peer, PublicKey};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use crate::hub::{Hub, write_stderr};
use crate::options::{Bind, HostOptions, LinkKeys};

/// Messages received and not yet given to the engine, of all links together.
const RECEIVED_MAX: usize = 4096;
/// Messages given to the engine in one go.
const BATCH: usize = 256;
/// How long to accept nobody when the system gives no connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(10);

/// Longest try to connect to a parent that was lost.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Something that happened on a link. `serial` tells a link from an earlier one of the same
/// number that was closed.
#[derive(Debug)]
pub(crate) struct LinkEvent {
    id: LinkId,
    serial: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Message(Message),
    Down(String),
}

#[derive(Debug)]
struct Open {
    serial: u64,
    /// What is put here is sent; none while the connection is still being made.
    sender: Option<mpsc::Sender<Message>>,
    task: Option<JoinHandle<()>>,
}

/// The links of a broker.
#[derive(Debug)]
pub(crate) struct Links {
    open: BTreeMap<LinkId, Open>,
    /// Links that were closed and still send what was queued.
    closing: Vec<JoinHandle<()>>,
    events: mpsc::Sender<LinkEvent>,
    parents: BTreeMap<u32, Endpoint>,
    keys: Option<LinkKeys>,
    options: ConnectOptions,
    queue: usize,
    next: u64,
    /// The parent has been reached before.
    connected: bool,
}

impl Links {
    pub(crate) fn new(options: &mut HostOptions) -> (Self, mpsc::Receiver<LinkEvent>) {
        let (events, received) = mpsc::channel(RECEIVED_MAX);
        let links = Self {
            open: BTreeMap::new(),
            closing: Vec::new(),
            events,
            parents: std::mem::take(&mut options.parents),
            keys: options.keys.take(),
            options: options.link,
            queue: options.link_queue.max(1),
            next: 1,
            connected: false,
        };
        (links, received)
    }

    fn serial(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Queues a message; a link that does not take what it is sent is closed.
    pub(crate) fn send(&mut self, hub: &Rc<Hub>, id: LinkId, message: Message) {
        let Some(Open { serial, sender: Some(sender), .. }) = self.open.get(&id) else {
            return;
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = sender.try_send(message) {
            let serial = *serial;
            let reason = format!("{} messages could not be sent", self.queue);
            drop(tokio::task::spawn_local(fail(Rc::clone(hub), id, serial, reason)));
        }
    }

    /// Ends a link after what is queued. Nothing more is told of it.
    pub(crate) fn close(&mut self, id: LinkId) {
        self.closing.retain(|task| !task.is_finished());
        let Some(open) = self.open.remove(&id) else {
            return;
        };
        match (open.sender, open.task) {
            (Some(_), Some(task)) => self.closing.push(task),
            (None, Some(task)) => task.abort(),
            _ => {}
        }
    }

    /// Ends all links; the tasks to wait for.
    pub(crate) fn close_all(&mut self) -> Vec<JoinHandle<()>> {
        while let Some((&id, _)) = self.open.first_key_value() {
            self.close(id);
        }
        std::mem::take(&mut self.closing)
    }

    /// Begins to connect to a rank as the parent, in place of any former link.
    pub(crate) fn connect_parent(&mut self, hub: &Rc<Hub>, rank: u32) {
        self.close(LinkId::PARENT);
        let serial = self.serial();
        let (hub, parent) = (Rc::clone(hub), self.parents.get(&rank).cloned());
        let (keys, mut options) = (self.keys.clone(), self.options);
        if self.connected {
            // A host that has gone does not refuse: when it is back, the wait must be short.
            options.timeout =
                Some(options.timeout.map_or(REJOIN_TIMEOUT, |t| t.min(REJOIN_TIMEOUT)));
        }
        let task = tokio::task::spawn_local(async move {
            let connected = match &parent {
                None => Err(format!("no endpoint of rank {rank} is known")),
                Some(endpoint) => {
                    let tls = keys.as_ref().map(|keys| &keys.client);
                    let connected = flux_wire::connect(endpoint, tls, &options).await;
                    connected.map_err(|error| error.to_string())
                }
            };
            match connected {
                Ok(connection) => run_link(hub, LinkId::PARENT, serial, connection).await,
                Err(reason) => fail(hub, LinkId::PARENT, serial, reason).await,
            }
        });
        let open = Open { serial, sender: None, task: Some(task) };
        self.open.insert(LinkId::PARENT, open);
    }

    /// Connections are made with these public keys only, from now on.
    pub(crate) fn trust(&mut self, keys: &[String]) {
        let Some(known) = &self.keys else { return };
        let mut trusted: Vec<PublicKey> = Vec::new();
        for text in keys {
            match text.parse() {
                Ok(key) => trusted.push(key),
                Err(error) => write_stderr(&format!("overlay: key '{text}': {error}")),
            }
        }
        known.trusted.replace(trusted);
    }

    /// A number for a link from a child.
    fn add_child(&mut self) -> (LinkId, u64) {
        let serial = self.serial();
        let id = LinkId(serial);
        self.open.insert(id, Open { serial, sender: None, task: None });
        (id, serial)
    }

    fn current(&mut self, id: LinkId, serial: u64) -> Option<&mut Open> {
        self.open.get_mut(&id).filter(|open| open.serial == serial)
    }

    /// Whether an event still counts; a link that is down is forgotten.
    fn accept(&mut self, event: LinkEvent) -> Option<Input> {
        self.current(event.id, event.serial)?;
        Some(match event.what {
            What::Message(message) => Input::Link(event.id, message),
            What::Down(reason) => {
                self.open.remove(&event.id);
                Input::LinkDown(event.id, reason)
            }
        })
    }
}

/// A link could not be made or used: tells the engine, unless it has closed the link.
async fn fail(hub: Rc<Hub>, id: LinkId, serial: u64, reason: String) {
    let events = hub.with_links(|links| links.events.clone());
    // The queue ends with the broker.
    drop(events.send(LinkEvent { id, serial, what: What::Down(reason) }).await);
}

/// Tells the engine of an established link, then carries its messages until it ends.
async fn run_link(hub: Rc<Hub>, id: LinkId, serial: u64, connection: Connection) {
    let Some((events, outbox)) = hub.with_links(|links| {
        let (sender, outbox) = mpsc::channel(links.queue);
        let events = links.events.clone();
        links.current(id, serial)?.sender = Some(sender);
        links.connected |= id == LinkId::PARENT;
        Some((events, outbox))
    }) else {
        return;
    };
    if let Peer::Key { key, .. } = connection.peer() {
        hub.feed_one(Input::LinkKey(id, key.to_string()));
    }
    hub.feed_one(Input::LinkUp(id));
    let mark = move |message| LinkEvent { id, serial, what: What::Message(message) };
    let reason = connection.run(Inbox::new(events, mark), outbox).await;
    fail(hub, id, serial, reason.to_string()).await;
}

/// Gives what links receive to the engine.
pub(crate) async fn carry(hub: Rc<Hub>, mut events: mpsc::Receiver<LinkEvent>) {
    let mut batch = Vec::with_capacity(BATCH);
    while events.recv_many(&mut batch, BATCH).await > 0 {
        hub.feed_links(batch.drain(..));
    }
}

impl Hub {
    /// An input may close a link, and what came in behind it is then not told: so each event is
    /// looked at when its turn comes.
    fn feed_links(self: &Rc<Self>, events: impl Iterator<Item = LinkEvent>) {
        self.feed_with(events, |links, event| links.accept(event));
    }
}

/// Binds the endpoints for children.
pub(crate) async fn bind(options: &mut HostOptions) -> Result<Vec<Listener>, ConnectError> {
    let tls = options.keys.as_ref().map(|keys| keys.server.clone());
    let link = &options.link;
    let mut listeners = Vec::new();
    for bind in std::mem::take(&mut options.bind) {
        listeners.push(match bind {
            Bind::Endpoint(endpoint) => Listener::bind(&endpoint, tls.as_ref(), link).await?,
            Bind::Unix(listener, path) => Listener::from_unix(listener, &path, link)?,
            Bind::Tcp(listener) => match &tls {
                Some(tls) => Listener::from_tcp(listener, tls, link)?,
                None => return Err(ConnectError::NoCert { endpoint: Endpoint::any_port("*") }),
            },
        });
    }
    Ok(listeners)
}

/// Binds the endpoint for children of a broker that had none when it started.
pub(crate) async fn bind_later(
    endpoint: &Endpoint,
    keys: Option<&LinkKeys>,
    link: &ConnectOptions,
) -> Option<Listener> {
    let tls = keys.map(|keys| keys.server.clone());
    match Listener::bind(endpoint, tls.as_ref(), link).await {
        Ok(listener) => Some(listener),
        Err(error) => {
            write_stderr(&format!("overlay: no children can connect: {error}"));
            None
        }
    }
}

/// A peer that is refused for the same reason is told of so often.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Peers whose refusal is remembered.
const TOLD_MAX: usize = 256;

/// Who was refused, why, and when that was told.
#[derive(Debug, Default)]
struct Refusals {
    told: BTreeMap<(String, String), Instant>,
}

impl Refusals {
    /// Whether this refusal is news. A port of the peer says nothing: it differs each time.
    fn is_news(&mut self, origin: &str, reason: &str, now: Instant) -> bool {
        let host = origin.rsplit_once(':').map_or(origin, |(host, _)| host);
        let key = (host.to_string(), reason.to_string());
        if self.told.get(&key).is_some_and(|at| now.duration_since(*at) < TELL_AGAIN) {
            return false;
        }
        self.told.retain(|_, at| now.duration_since(*at) < TELL_AGAIN);
        if self.told.len() >= TOLD_MAX {
            // Somebody floods: one line a minute has said so.
            return false;
        }
        self.told.insert(key, now);
        true
    }
}

/// Peers of one host that may be in the middle of a handshake, and of all hosts together. Anybody
/// who reaches the port can begin one.
const STRANGERS: (usize, usize) = (256, 2048);

/// Peers that have not shown yet who they are, by host, the oldest first.
#[derive(Debug, Default)]
struct Strangers {
    hosts: BTreeMap<String, VecDeque<(u64, AbortHandle)>>,
    all: usize,
    /// Number of the newest.
    newest: u64,
}

/// One of them; it is counted until this goes.
struct Stranger {
    host: String,
    number: u64,
    of: Rc<RefCell<Strangers>>,
}

impl Strangers {
    /// The host that has the most.
    fn crowd(&self) -> Option<String> {
        let most = self.hosts.iter().max_by_key(|(_, waiting)| waiting.len());
        most.map(|(host, _)| host.clone())
    }

    /// Makes room for one more of a host: where there are too many the oldest goes. A broker is done
    /// with its handshake soon, though somebody on its host begins many and ends none.
    fn make_room(&mut self, host: &str) -> bool {
        let mine = self.hosts.get(host).map_or(0, VecDeque::len);
        let crowd = if mine >= STRANGERS.0 {
            Some(host.to_string())
        } else if self.all >= STRANGERS.1 {
            self.crowd()
        } else {
            None
        };
        let Some(crowd) = crowd else { return false };
        if let Some(waiting) = self.hosts.get_mut(&crowd)
            && let Some((_, task)) = waiting.pop_front()
        {
            task.abort();
            self.all -= 1;
        }
        true
    }

    fn leave(&mut self, host: &str, number: u64) {
        let Some(waiting) = self.hosts.get_mut(host) else { return };
        // Who had to make room is not there any more.
        if let Some(at) = waiting.iter().position(|(other, _)| *other == number) {
            drop(waiting.remove(at));
            self.all -= 1;
        }
        if waiting.is_empty() {
            self.hosts.remove(host);
        }
    }
}

impl Stranger {
    /// What counts the next one of a host; and whether another had to make room for it.
    fn next(of: &Rc<RefCell<Strangers>>, origin: &str) -> (Self, bool) {
        let host = origin.rsplit_once(':').map_or(origin, |(host, _)| host).to_string();
        let mut strangers = of.borrow_mut();
        let crowded = strangers.make_room(&host);
        strangers.newest += 1;
        (Self { host, number: strangers.newest, of: Rc::clone(of) }, crowded)
    }

    /// From here on it is counted.
    fn enter(of: &Rc<RefCell<Strangers>>, host: String, number: u64, task: AbortHandle) {
        let mut strangers = of.borrow_mut();
        strangers.all += 1;
        strangers.hosts.entry(host).or_default().push_back((number, task));
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.of.borrow_mut().leave(&self.host, self.number);
    }
}

/// Accepts children until aborted.
pub(crate) async fn accept_children(hub: Rc<Hub>, listener: Listener) {
    let refusals = Rc::new(RefCell::new(Refusals::default()));
    let strangers = Rc::new(RefCell::new(Strangers::default()));
    loop {
        let Ok(incoming) = listener.accept().await else {
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
            continue;
        };
        let origin = incoming.origin();
        let tell = |refusals: &RefCell<Refusals>, origin: &str, reason: &str| {
            if refusals.borrow_mut().is_news(origin, reason, Instant::now()) {
                write_stderr(&format!("overlay: refused {origin}: {reason}"));
            }
        };
        let (stranger, crowded) = Stranger::next(&strangers, &origin);
        if crowded {
            tell(&refusals, &origin, "too many connections without a handshake: the oldest goes");
        }
        let (host, number) = (stranger.host.clone(), stranger.number);
        let (hub, refusals) = (Rc::clone(&hub), Rc::clone(&refusals));
        let task = tokio::task::spawn_local(async move {
            let established = incoming.establish().await;
            drop(stranger);
            match established {
                Ok(connection) => {
                    let (id, serial) = hub.with_links(Links::add_child);
                    let task = run_link(Rc::clone(&hub), id, serial, connection);
                    let task = tokio::task::spawn_local(task);
                    hub.with_links(|links| {
                        if let Some(open) = links.current(id, serial) {
                            open.task = Some(task);
                        }
                    });
                }
                Err(error) => tell(&refusals, &origin, &error.to_string()),
            }
        });
        Stranger::enter(&strangers, host, number, task.abort_handle());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_of_one_host_leave_room_for_others() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let strangers = Rc::new(RefCell::new(Strangers::default()));
        let enter = |host: &str, port: usize| {
            let (stranger, crowded) = Stranger::next(&strangers, &format!("{host}:{port}"));
            let (host, number) = (stranger.host.clone(), stranger.number);
            let task = runtime.spawn(std::future::pending::<()>());
            Stranger::enter(&strangers, host, number, task.abort_handle());
            (stranger, task, crowded)
        };
        let turn = || (0..1000).for_each(|_| runtime.block_on(tokio::task::yield_now()));
        let held: Vec<_> = (0..STRANGERS.0).map(|port| enter("10.0.0.9", port)).collect();
        assert!(held.iter().all(|(.., crowded)| !crowded));
        let other = enter("10.0.0.4", 1);
        // The oldest of the same host makes room, and nobody else.
        let next = enter("10.0.0.9", 9999);
        turn();
        assert!(next.2 && held[0].1.is_finished() && !held[1].1.is_finished());
        assert!(!other.2 && !other.1.is_finished());
        assert_eq!(strangers.borrow().all, STRANGERS.0 + 1);
        // Where all hosts together have too many, one of the host with most goes.
        let hosts = STRANGERS.1 / 100;
        let many: Vec<_> =
            (0..hosts * 100).map(|at| enter(&format!("10.1.0.{}", at % hosts), at)).collect();
        turn();
        assert_eq!(strangers.borrow().all, STRANGERS.1);
        assert!(held[1].1.is_finished() && !other.1.is_finished());
        assert!(strangers.borrow().hosts["10.0.0.9"].len() <= 100);
        drop((held, other, next, many));
        assert_eq!(strangers.borrow().all, 0);
        assert!(strangers.borrow().hosts.is_empty());
    }

    #[test]
    fn a_peer_that_tries_again_and_again_is_told_of_once_a_minute() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        assert!(refusals.is_news("10.0.0.4:6001", "wrong key", now));
        assert!(!refusals.is_news("10.0.0.4:6002", "wrong key", now + TELL_AGAIN / 2));
        assert!(refusals.is_news("10.0.0.4:6003", "not TLS", now));
        assert!(refusals.is_news("10.0.0.5:6001", "wrong key", now));
        assert!(refusals.is_news("10.0.0.4:6004", "wrong key", now + TELL_AGAIN));
        for host in 0..2 * TOLD_MAX {
            refusals.is_news(&format!("h{host}:1"), "wrong key", now + TELL_AGAIN);
        }
        assert_eq!(refusals.told.len(), TOLD_MAX);
    }
}
