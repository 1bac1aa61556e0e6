//! Connections on the local sockets, and the account of every request: each gets its last
//! response once, and nothing after it.

use std::collections::BTreeMap;

use flux_api::{Method, Rpc, Shape, rpc};
use flux_proto::{Cred, Errno, Message, MsgType, NODEID_ANY, Rolemask};
use flux_svc::engine::{ClientId, Input};
use serde_json::Value;

use crate::brokers::OWNER;
use crate::run::PURGED;
use crate::world::{Due, Notice, World};

/// A connection: where, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    /// Rank of the broker.
    pub rank: u32,
    /// Number of the connection.
    pub id: ClientId,
}

/// Who uses a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    Script,
    Shell(u64),
    /// Who sends anything: of what is answered no account is kept.
    Hostile,
}

/// A request without its last response.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) topic: &'static str,
    streaming: bool,
    since: u64,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    user: User,
    guest: bool,
    incarnation: u64,
    pub(crate) open: BTreeMap<u32, Open>,
    /// When the newest message in each direction arrives.
    newest: [u64; 2],
    next_tag: u32,
    /// Number of the newest event.
    event: u32,
    /// Leaders whose events it has seen, or may have.
    leaders: u64,
}

impl World {
    /// Connects to the broker of a rank; nothing when there is none.
    pub fn connect(&mut self, rank: u32) -> Option<Caller> {
        self.connect_as(rank, User::Script)
    }

    /// Connects as a user whom the broker admits as a guest; nothing when there is no broker.
    pub fn connect_guest(&mut self, rank: u32, userid: u32) -> Option<Caller> {
        let cred = Cred { userid, rolemask: Rolemask::USER | Rolemask::LOCAL };
        self.connect_with(rank, User::Script, cred)
    }

    /// Connects as a guest who sends what [`World::throw`] is given.
    pub fn connect_hostile(&mut self, rank: u32, userid: u32) -> Option<Caller> {
        let cred = Cred { userid, rolemask: Rolemask::USER | Rolemask::LOCAL };
        self.connect_with(rank, User::Hostile, cred)
    }

    /// Sends any message.
    pub fn throw(&mut self, caller: Caller, message: Message) {
        self.client_sends(caller, |id| Input::Client(id, message));
    }

    pub(crate) fn connect_as(&mut self, rank: u32, user: User) -> Option<Caller> {
        let cred = Cred { userid: OWNER, rolemask: Rolemask::OWNER | Rolemask::LOCAL };
        self.connect_with(rank, user, cred)
    }

    /// Connects as the user whom a shell runs as.
    pub(crate) fn connect_shell(&mut self, rank: u32, pid: u64, userid: u32) -> Option<Caller> {
        let role = if userid == OWNER { Rolemask::OWNER } else { Rolemask::USER };
        let cred = Cred { userid, rolemask: role | Rolemask::LOCAL };
        self.connect_with(rank, User::Shell(pid), cred)
    }

    fn connect_with(&mut self, rank: u32, user: User, cred: Cred) -> Option<Caller> {
        if !self.is_alive(rank) {
            return None;
        }
        let id = ClientId(self.number());
        let caller = Caller { rank, id };
        let incarnation = self.incarnation(rank);
        let client = Client {
            user,
            guest: cred.userid != OWNER,
            incarnation,
            open: BTreeMap::new(),
            newest: [self.now, self.now],
            next_tag: 1,
            event: 0,
            leaders: self.leaders.saturating_sub(1),
        };
        self.clients.insert(caller, client);
        let joined = Input::ClientJoined { client: id, cred, pid: 1 };
        self.plan(self.now, incarnation, Due::Input(rank, joined));
        Some(caller)
    }

    /// Whether a connection is there still.
    #[must_use]
    pub fn is_connected(&self, caller: Caller) -> bool {
        self.clients.contains_key(&caller)
    }

    /// Whether a connection is of somebody who does not own the instance.
    #[must_use]
    pub fn is_guest(&self, caller: Caller) -> bool {
        self.clients.get(&caller).is_some_and(|client| client.guest)
    }

    fn client_sends(&mut self, caller: Caller, input: impl FnOnce(ClientId) -> Input) {
        let delay = self.rng.range(5, 60);
        let now = self.now;
        let Some(client) = self.clients.get_mut(&caller) else { return };
        let at = (now + delay).max(client.newest[0]);
        client.newest[0] = at;
        let incarnation = client.incarnation;
        self.plan(at, incarnation, Due::Input(caller.rank, input(caller.id)));
    }

    /// Sends a request to the service nearest to the root, or to one rank; its matchtag.
    pub fn call<R: Rpc>(&mut self, caller: Caller, rank: Option<u32>, body: &R::Request) -> u32 {
        self.request(caller, rank, R::TOPIC, rpc::request::<R>(body))
    }

    /// Like [`World::call`], as a stream.
    pub fn stream<R: Rpc>(&mut self, caller: Caller, rank: Option<u32>, body: &R::Request) -> u32 {
        self.request(caller, rank, R::TOPIC, rpc::request::<R>(body).with_streaming())
    }

    /// Sends a request of the catalogue with a body of the script's making.
    pub fn ask(&mut self, caller: Caller, rank: Option<u32>, method: &Method, body: &Value) -> u32 {
        let message = Message::request(method.topic).with_json(body);
        let message = match method.shape {
            Shape::Streaming => message.with_streaming(),
            _ => message,
        };
        self.request(caller, rank, method.topic, message)
    }

    fn request(
        &mut self,
        caller: Caller,
        rank: Option<u32>,
        topic: &'static str,
        mut message: Message,
    ) -> u32 {
        let now = self.now;
        let Some(client) = self.clients.get_mut(&caller) else { return 0 };
        let tag = client.next_tag;
        message.set_nodeid(rank.unwrap_or(NODEID_ANY));
        if !message.no_response() {
            client.next_tag += 1;
            message.set_matchtag(tag);
            let open = Open { topic, streaming: message.is_streaming(), since: now };
            client.open.insert(tag, open);
        }
        self.client_sends(caller, |id| Input::Client(id, message));
        tag
    }

    /// Closes a connection.
    pub fn hang_up_client(&mut self, caller: Caller) {
        self.client_sends(caller, Input::ClientLeft);
        self.clients.remove(&caller);
    }

    pub(crate) fn send_to_client(&mut self, caller: Caller, message: Message) {
        let delay = self.rng.range(5, 60);
        let now = self.now;
        let Some(client) = self.clients.get_mut(&caller) else { return };
        let at = (now + delay).max(client.newest[1]);
        client.newest[1] = at;
        let incarnation = client.incarnation;
        self.plan(at, incarnation, Due::ToClient(caller, message));
    }

    pub(crate) fn client_hears(&mut self, caller: Caller, message: Message) {
        let Some(client) = self.clients.get_mut(&caller) else { return };
        let user = client.user;
        self.trace.number(caller.id.0);
        self.trace.message(&message);
        if user == User::Hostile {
            return;
        }
        if message.kind == MsgType::Event {
            self.event_order(caller, &message);
            match user {
                User::Shell(pid) => self.shell_event(pid, &message),
                User::Script if message.topic() == PURGED => {
                    self.notices.push_back(Notice::Event(caller, message));
                }
                User::Script | User::Hostile => {}
            }
            return;
        }
        if message.kind != MsgType::Response {
            return;
        }
        let tag = message.matchtag();
        let Some(open) = client.open.get(&tag) else {
            let text = format!("{} answered once more: {:?}", message.topic(), message.errnum());
            return self.violation(text);
        };
        if message.topic() != open.topic {
            let text = format!("{} answered as {}", open.topic, message.topic());
            return self.violation(text);
        }
        if message.errnum() == Errno::ENOTRECOVERABLE {
            // Whatever a collection takes, whoever reads is shown the newest.
            let text = format!("{} of {}: {}", open.topic, caller.id.0, message.error_text());
            return self.violation(text);
        }
        let last = !open.streaming || message.errnum() != Errno::OK;
        let since = open.since;
        if last {
            client.open.remove(&tag);
        }
        self.trace.line(self.now, || {
            let took = (self.now - since) as f64 / 1e6;
            let (topic, errnum) = (message.topic(), message.errnum());
            format!("client {}: {topic} tag {tag}: {errnum:?} after {took:.6}", caller.id.0)
        });
        match user {
            User::Script => {
                self.notices.push_back(Notice::Response { caller, tag, last, message });
            }
            User::Shell(pid) => self.shell_response(pid, tag, &message),
            User::Hostile => {}
        }
    }

    /// Events come in order, each once; their numbers begin anew once with each leader.
    fn event_order(&mut self, caller: Caller, event: &Message) {
        let leaders = self.leaders;
        let Some(client) = self.clients.get_mut(&caller) else { return };
        let (last, sequence) = (client.event, event.sequence());
        client.event = sequence;
        if sequence > last {
            return;
        }
        client.leaders += 1;
        if client.leaders > leaders {
            let text = format!(
                "client {} on rank {} got event {sequence} ({}) after {last}",
                caller.id.0,
                caller.rank,
                event.topic()
            );
            self.violation(text);
        }
    }

    /// The broker closed the connection.
    pub(crate) fn client_closed(&mut self, caller: Caller) {
        let Some(client) = self.clients.remove(&caller) else { return };
        match client.user {
            User::Script => self.notices.push_back(Notice::Gone(caller)),
            User::Shell(pid) => self.shell_orphaned(pid),
            User::Hostile => {}
        }
    }

    /// A broker process is gone, and with it its connections.
    pub(crate) fn clients_end(&mut self, rank: u32) {
        let gone: Vec<Caller> = self
            .clients
            .range(Caller { rank, id: ClientId(0) }..=Caller { rank, id: ClientId(u64::MAX) })
            .map(|(caller, _)| *caller)
            .collect();
        for caller in gone {
            self.client_closed(caller);
        }
    }

    /// Requests that are not streams and have waited since before `since`: where, what, since when.
    #[must_use]
    pub fn unanswered(&self, since: u64) -> Vec<String> {
        self.clients
            .iter()
            .flat_map(|(caller, client)| client.open.values().map(move |open| (caller, open)))
            .filter(|(_, open)| !open.streaming && open.since <= since)
            .map(|(caller, open)| {
                let at = open.since as f64 / 1e6;
                format!(
                    "{} of client {} on rank {} since {at:.6}",
                    open.topic, caller.id.0, caller.rank
                )
            })
            .collect()
    }
}
