//! What a service may do.

use flux_api::{Body, Outbox, Rpc, RpcError, rpc};
use flux_proto::{Cred, Errno, Flags, Message, NODEID_ANY, Rolemask, RouteId};

use crate::module::{Out, Port};
use crate::wait::{Alarm, Pending, Tag, TimerId, Timers, Waits};

/// Severity of a log line (RFC 5424 numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// System is unusable.
    Emerg = 0,
    /// Act at once.
    Alert = 1,
    /// Critical.
    Crit = 2,
    /// Something failed.
    Err = 3,
    /// Something is odd.
    Warning = 4,
    /// Normal but significant.
    Notice = 5,
    /// Informational.
    Info = 6,
    /// For developers.
    Debug = 7,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// The first instance of the service from here to the root.
    Any,
    /// One rank.
    Rank(u32),
    /// The first instance above this rank.
    Upstream,
}

/// The context of one input: time, identity, and every effect a service may have.
pub struct Cx<'a, W> {
    pub(crate) port: &'a mut Port,
    pub(crate) waits: &'a mut Waits<W>,
    pub(crate) timers: &'a mut Timers<W>,
}

impl<W> Outbox for Cx<'_, W> {
    fn send(&mut self, message: Message) {
        self.port.out.push_back(Out::Send(message));
    }
}

impl<W> std::fmt::Debug for Cx<'_, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cx(rank {})", self.port.rank)
    }
}

impl<W> Cx<'_, W> {
    /// Monotonic time in microseconds.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.port.clock.mono_us
    }

    /// Wall clock in seconds since the epoch; may jump.
    #[must_use]
    pub fn wall(&self) -> f64 {
        self.port.clock.wall
    }

    /// Rank of this broker.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.port.rank
    }

    /// Number of brokers.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.port.size
    }

    /// User id of the instance owner.
    #[must_use]
    pub fn owner(&self) -> u32 {
        self.port.owner
    }

    /// This module's route id, as responders see it in the oldest route.
    #[must_use]
    pub fn id(&self) -> &RouteId {
        &self.port.id
    }

    /// Debug bits set by `flux module debug`.
    #[must_use]
    pub fn debug_bits(&self) -> u32 {
        self.port.debug
    }

    /// Clears debug bits (for bits that act once).
    pub fn clear_debug_bits(&mut self, bits: u32) {
        self.port.debug &= !bits;
    }

    /// The next number of this module's random sequence.
    pub fn random(&mut self) -> u64 {
        self.port.seed = self.port.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.port.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Credentials of the broker itself: the owner, local.
    #[must_use]
    pub fn own_cred(&self) -> Cred {
        Cred { userid: self.port.owner, rolemask: Rolemask(Rolemask::OWNER.0 | Rolemask::LOCAL.0) }
    }

    fn address(&self, message: &mut Message, to: To) {
        match to {
            To::Any => message.set_nodeid(NODEID_ANY),
            To::Rank(rank) => message.set_nodeid(rank),
            To::Upstream => {
                message.set_nodeid(self.port.rank);
                message.flags.insert(Flags::UPSTREAM);
            }
        }
    }

    /// Sends a request and remembers `wait` until its (last) response. A stream is asked for when
    /// the RPC is streaming.
    pub fn call<R: Rpc>(&mut self, to: To, body: &R::Request, wait: W) -> Tag {
        self.request(to, rpc::request::<R>(body), wait)
    }

    /// Like [`Cx::call`], with a body that need not become bytes where it stays within the broker.
    pub fn hand<R: Rpc>(&mut self, to: To, body: R::Request, wait: W) -> Tag {
        self.request(to, rpc::handed::<R>(body), wait)
    }

    /// Like [`Cx::call`], with ETIMEDOUT in place of the response after `within_us`.
    pub fn call_within<R: Rpc>(
        &mut self,
        to: To,
        body: &R::Request,
        within_us: u64,
        wait: W,
    ) -> Tag {
        let tag = self.call::<R>(to, body, wait);
        let timer = self.timers.arm(self.port.clock.mono_us + within_us, Alarm::Deadline(tag));
        if let Some(pending) = self.waits.pending.get_mut(&tag) {
            pending.deadline = Some(timer);
        }
        tag
    }

    /// Asks for a stream where the RPC offers both.
    pub fn stream<R: Rpc>(&mut self, to: To, body: &R::Request, wait: W) -> Tag {
        let mut message = rpc::request::<R>(body);
        message.flags.insert(Flags::STREAMING);
        self.request(to, message, wait)
    }

    /// Sends a request that wants no response.
    pub fn notify<R: Rpc>(&mut self, to: To, body: &R::Request) {
        let mut message = rpc::request::<R>(body);
        message.flags.insert(Flags::NORESPONSE);
        self.send_request(to, message);
    }

    /// Sends a ready-made request (for topics made at run time) and remembers `wait`.
    /// Unknown credentials become the broker's own.
    pub fn request(&mut self, to: To, mut message: Message, wait: W) -> Tag {
        let tag = self.waits.insert(Pending {
            wait,
            streaming: message.is_streaming(),
            topic: message.topic.clone().unwrap_or_else(|| "".into()),
            deadline: None,
            since: self.port.clock.mono_us,
        });
        message.set_matchtag(tag);
        self.send_request(to, message);
        tag
    }

    /// Sends a ready-made request with its matchtag as it is (0: responses are not matched by
    /// tag and reach [`crate::Service::on_other`]).
    pub fn send_request(&mut self, to: To, mut message: Message) {
        self.address(&mut message, to);
        if message.cred == Cred::UNKNOWN {
            message.cred = self.own_cred();
        }
        self.send(message);
    }

    /// Forgets an outstanding request: its responses are dropped from now on.
    pub fn forget(&mut self, tag: Tag) {
        if let Some(pending) = self.waits.pending.remove(&tag)
            && let Some(timer) = pending.deadline
        {
            self.timers.cancel(timer);
        }
    }

    /// Publishes an event; `private` limits it to the owner and the publishing user.
    pub fn publish(&mut self, topic: &str, body: &impl Body, private: bool) {
        self.publish_as(self.own_cred(), topic, body, private);
    }

    /// Publishes an event in the name of a user, who then may see it though it is private.
    pub fn publish_as(&mut self, cred: Cred, topic: &str, body: &impl Body, private: bool) {
        let mut message = Message::event(topic);
        body.put(&mut message);
        message.cred = cred;
        if private {
            message.flags.insert(Flags::PRIVATE);
        }
        self.send(message);
    }

    /// Delivers events whose topic begins with `prefix` to [`crate::Service::on_event`].
    pub fn subscribe(&mut self, prefix: &str) {
        self.port.out.push_back(Out::Subscribe(prefix.to_string()));
    }

    /// Undoes one [`Cx::subscribe`].
    pub fn unsubscribe(&mut self, prefix: &str) {
        self.port.out.push_back(Out::Unsubscribe(prefix.to_string()));
    }

    /// Serves another name; its requests reach [`crate::Service::on_other`] unless declared.
    pub fn add_service(&mut self, name: &str) {
        self.port.out.push_back(Out::AddService(name.to_string()));
    }

    /// Stops serving that name.
    pub fn remove_service(&mut self, name: &str) {
        self.port.out.push_back(Out::RemoveService(name.to_string()));
    }

    /// Arms a timer.
    pub fn timer(&mut self, after_us: u64, wait: W) -> TimerId {
        self.timers.arm(self.port.clock.mono_us.saturating_add(after_us), Alarm::Service(wait))
    }

    /// Disarms a timer; false when it has fired or was disarmed before.
    pub fn cancel_timer(&mut self, id: TimerId) -> bool {
        self.timers.cancel(id)
    }

    /// Writes a line to the broker's log, under the module's name.
    pub fn log(&mut self, level: Level, text: impl Into<String>) {
        self.port.out.push_back(Out::Log(level, text.into()));
    }

    /// The service is up.
    pub fn ready(&mut self) {
        self.port.out.push_back(Out::Ready);
    }

    /// The service cannot start or go on; the broker ends with this reason.
    pub fn fail(&mut self, reason: impl Into<String>) {
        self.port.out.push_back(Out::Failed(reason.into()));
    }

    /// The service has settled what it owed.
    pub fn drained(&mut self) {
        self.port.out.push_back(Out::Drained);
    }

    /// Answers a request that nobody knows (ENOSYS).
    pub fn refuse_unknown(&mut self, message: &Message) {
        let text = format!("Unknown service method '{}'", message.topic());
        self.refuse(message, &RpcError::new(Errno::ENOSYS, text));
    }

    /// Answers a raw request with an error, if it wants an answer.
    pub fn refuse(&mut self, message: &Message, error: &RpcError) {
        if !message.no_response() {
            self.send(rpc::refusal(message, error));
        }
    }
}
