//! What guests may ask for: how much at once, how large, and under which names.
//!
//! A guest pays for what it holds: each of these bounds is far beyond what one user needs, and what
//! all users together can hold within them a broker can bear.

use flux_api::RpcError;
use flux_proto::{Errno, Message, MsgType, RouteId};
use flux_svc::engine::ClientId;

use crate::node::Node;

/// Requests of one guest, over all its connections, that wait for their last answer.
pub(crate) const OPEN: u32 = 1 << 16;
/// Longest request that is not a job or data of one, in bytes.
pub(crate) const REQUEST: usize = 1 << 20;
/// Longest payload of an event of a guest, in bytes: each goes to every broker.
pub(crate) const EVENT: usize = 64 << 10;
/// Different subscriptions of one connection.
pub(crate) const SUBSCRIPTIONS: usize = 1024;
/// Service names of one guest.
pub(crate) const SERVICES: usize = 4096;
/// Longest name of a service or an event.
pub(crate) const NAME: usize = 255;
/// Places, that is services and ranks, that one connection asks.
const PLACES: usize = 4096;
/// Hops that may lie behind a guest: proxies of its own.
const HOPS: usize = 16;
/// Longest name of such a hop.
const HOP: usize = 64;

/// Jobs and their data are as large as their users make them, within the bound of a message.
fn may_be_large(topic: &str) -> bool {
    matches!(topic, "job-ingest.submit" | "kvs.commit")
}

fn prefix(userid: u32) -> String {
    format!("{userid}/")
}

/// Names the hops behind a guest so that they cannot be taken for clients of any broker. False when
/// there are too many.
pub(crate) fn name_hops(message: &mut Message, userid: u32) -> bool {
    if message.routes.is_empty() {
        return true;
    }
    if message.routes.len() > HOPS || message.routes.iter().any(|id| id.as_bytes().len() > HOP) {
        return false;
    }
    let prefix = prefix(userid);
    for id in &mut message.routes {
        let mut name = prefix.clone().into_bytes();
        name.extend_from_slice(id.as_bytes());
        *id = RouteId::from_bytes(&name);
    }
    true
}

/// Gives those hops their own names back, in a response.
fn restore_hops(message: &mut Message, userid: u32) {
    let prefix = prefix(userid);
    for id in &mut message.routes {
        if let Some(name) = id.as_bytes().strip_prefix(prefix.as_bytes()) {
            *id = RouteId::from_bytes(name);
        }
    }
}

/// EMSGSIZE for an event of a guest that is too large for all brokers.
pub(crate) fn check_event(message: &Message) -> Result<(), RpcError> {
    let len = message.bytes().map_or(0, |payload| payload.len());
    if message.cred.is_owner() || (len <= EVENT && message.topic().len() <= NAME) {
        return Ok(());
    }
    let text = format!("an event of a guest has at most {EVENT} bytes");
    Err(RpcError::new(Errno::EMSGSIZE, text))
}

impl Node {
    /// Counts a request of a guest, whatever becomes of it: its answer is counted, too. EAGAIN when
    /// too many wait.
    pub(crate) fn guest_waits(&mut self, id: ClientId, message: &Message) -> Result<(), RpcError> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        if message.no_response() || message.matchtag() == 0 {
            return Ok(());
        }
        let userid = client.cred.userid;
        let open = self.guests_open.entry(userid).or_default();
        *open += 1;
        client.open += 1;
        if *open > OPEN {
            let text = format!("user {userid} waits for {OPEN} answers already: try again later");
            return Err(RpcError::new(Errno::EAGAIN, text));
        }
        Ok(())
    }

    /// Whether a request of a guest is within the other bounds.
    pub(crate) fn guest_asks(&mut self, id: ClientId, message: &Message) -> Result<(), RpcError> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        let len = message.bytes().map_or(0, |payload| payload.len());
        let own = message.service().starts_with(&format!("{}-", message.cred.userid));
        if len > REQUEST && !own && !may_be_large(message.topic()) {
            let text =
                format!("{}: a guest's request has at most {REQUEST} bytes", message.topic());
            return Err(RpcError::new(Errno::EMSGSIZE, text));
        }
        if !client.disconnects.arm(message, PLACES) {
            let text = "too many different services and ranks are asked over one connection";
            return Err(RpcError::new(Errno::EAGAIN, text));
        }
        Ok(())
    }

    /// Something goes out to a guest: the last answer to a request gives its place free.
    pub(crate) fn guest_is_told(&mut self, id: ClientId, message: &mut Message) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.cred.is_owner() || message.kind != MsgType::Response {
            return;
        }
        restore_hops(message, client.cred.userid);
        let last = !message.is_streaming() || message.errnum().0 != 0;
        if last && message.matchtag() != 0 && client.open > 0 {
            client.open -= 1;
            let userid = client.cred.userid;
            self.guest_gives_back(userid, 1);
        }
    }

    /// So many requests of a guest wait no more.
    pub(crate) fn guest_gives_back(&mut self, userid: u32, count: u32) {
        if let Some(open) = self.guests_open.get_mut(&userid) {
            *open = open.saturating_sub(count);
            if *open == 0 {
                self.guests_open.remove(&userid);
            }
        }
    }

    /// Whether a guest may subscribe once more.
    pub(crate) fn guest_subscribes(&self, id: ClientId, prefix: &str) -> Result<(), RpcError> {
        let guest = self.clients.get(&id).is_some_and(|client| !client.cred.is_owner());
        let count = self.events.subscriptions(crate::ids::Peer::Client(id));
        if guest && (count >= SUBSCRIPTIONS || prefix.len() > NAME) {
            let text = format!("a connection has at most {SUBSCRIPTIONS} subscriptions");
            return Err(RpcError::new(Errno::ENOSPC, text));
        }
        Ok(())
    }

    /// Whether a guest may register this name besides those that it has.
    pub(crate) fn guest_serves(&self, userid: u32, name: &str) -> Result<(), RpcError> {
        let prefix = format!("{userid}-");
        let own = self.registry.range(prefix.clone()..);
        let count = own.take_while(|(name, _)| name.starts_with(&prefix)).count();
        if count >= SERVICES || name.len() > NAME {
            let text = format!(
                "a guest has at most {SERVICES} services on a broker, with names of {NAME} bytes"
            );
            return Err(RpcError::new(Errno::ENOSPC, text));
        }
        Ok(())
    }
}
