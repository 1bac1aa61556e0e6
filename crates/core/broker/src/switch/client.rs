//! Clients of the local socket: what is done to their messages before and after the switch.

use flux_api::broker::{ServiceRequest, SubscribeRequest};
use flux_api::rpc::refusal;
use flux_api::{Body, RpcError};
use flux_proto::{Cred, Errno, Message, MsgType, Rolemask, RouteId, USERID_UNKNOWN};
use flux_svc::engine::{ClientId, Output};
use serde_json::{Value, json};

use crate::ids::Peer;
use crate::node::Node;
use crate::switch::guest;
use crate::track::{Disconnects, MAX_DISCONNECTS, Tracker};

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: RouteId,
    pub(crate) cred: Cred,
    pub(crate) pid: i32,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) disconnects: Disconnects,
    /// Requests of a guest that wait for their last answer.
    pub(crate) open: u32,
    /// Requests that it serves.
    pub(crate) serving: Tracker,
}

impl Client {
    /// The owner may speak in another's name; everybody else is who the kernel says.
    fn stamp(&self, message: &mut Message) {
        if self.cred.is_owner() {
            if message.cred.userid == USERID_UNKNOWN {
                message.cred.userid = self.cred.userid;
            }
            if message.cred.rolemask == Rolemask::NONE {
                message.cred.rolemask = self.cred.rolemask;
            }
        } else {
            message.cred = self.cred;
        }
    }
}

impl Node {
    pub(crate) fn client_joined(&mut self, client: ClientId, cred: Cred, pid: i32) {
        let id = self.ids.make(Peer::Client(client));
        let (disconnects, serving) = (Disconnects::default(), Tracker::default());
        let state = Client { id, cred, pid, received: 0, sent: 0, disconnects, open: 0, serving };
        self.clients.insert(client, state);
        self.connects += 1;
    }

    /// A connection ended: its services and subscriptions end, who serves it is told, and whom
    /// it served is told.
    pub(crate) fn client_left(&mut self, client: ClientId) {
        let Some(mut state) = self.clients.remove(&client) else {
            return;
        };
        let peer = Peer::Client(client);
        self.ids.remove(&state.id, peer);
        self.drop_services(peer);
        self.guest_gives_back(state.cred.userid, state.open);
        self.events.drop_peer(peer);
        for mut message in state.disconnects.take() {
            message.push_route(self.connector.clone());
            self.route_request(message);
        }
        // What a request that comes a moment later hears: to a caller it must not matter whether
        // the server, which may have ended as planned, was gone before or after it had asked.
        for request in state.serving.take() {
            self.no_service(&request);
        }
    }

    pub(crate) fn take_client(&mut self, id: ClientId, mut message: Message) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        client.received += 1;
        client.stamp(&mut message);
        if message.topic.is_none() {
            return;
        }
        // Behind a guest there may be a proxy with clients of its own, but nobody of this broker.
        let forged = |id: &RouteId| self.ids.get(id).is_some();
        let guest = !client.cred.is_owner();
        if guest
            && message.kind == MsgType::Request
            && (message.routes.iter().any(forged)
                || !guest::name_hops(&mut message, client.cred.userid))
        {
            return;
        }
        match message.kind {
            MsgType::Request => {
                message.push_route(client.id.clone());
                let waits = if guest { self.guest_waits(id, &message) } else { Ok(()) };
                match message.topic() {
                    "event.subscribe" | "event.unsubscribe" | "service.add" | "service.remove" => {
                        return self.connector_request(id, &message);
                    }
                    _ => {}
                }
                let asks = waits.and_then(|()| self.client_asks(id, guest, &message));
                message.push_route(self.connector.clone());
                match asks {
                    Err(error) => self.refuse(&message, error),
                    Ok(()) if self.passes(&message) => self.route_request(message),
                    Ok(()) => {}
                }
            }
            MsgType::Response => {
                // A client may only answer what it was asked, and only who has asked; what has no
                // tag nobody remembers.
                let untold = message.matchtag() == 0 && client.cred.is_owner();
                if client.serving.response(&message) || untold {
                    self.route_response(message);
                }
            }
            MsgType::Event => {
                // There is no answer to say why.
                if guest::check_event(&message).is_ok() {
                    self.publish(message);
                }
            }
            MsgType::Control => {}
        }
    }

    fn client_asks(&mut self, id: ClientId, guest: bool, it: &Message) -> Result<(), RpcError> {
        if guest {
            return self.guest_asks(id, it);
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.disconnects.arm(it, MAX_DISCONNECTS);
        }
        Ok(())
    }

    /// A request for a service of a client.
    pub(crate) fn request_to_client(&mut self, id: ClientId, mut message: Message) {
        message.push_route(self.cfg.uuid.clone());
        if let Some(client) = self.clients.get_mut(&id) {
            client.serving.request(&message, self.clock.mono_us);
            self.send_client(id, message);
        }
    }

    /// Writes a message to a connection.
    pub(crate) fn send_client(&mut self, id: ClientId, mut message: Message) {
        self.guest_is_told(id, &mut message);
        if let Some(client) = self.clients.get_mut(&id) {
            client.sent += 1;
            self.out.push_back(Output::Client(id, message));
        }
    }

    /// What `connector-local.stats-get` tells: who is connected, and who may. Guests see their own
    /// connections.
    pub(crate) fn connector_stats(&self, cred: Cred) -> Value {
        let entry = |client: &Client| {
            json!({
                "uuid": client.id.to_str_lossy(),
                "userid": client.cred.userid,
                "pid": client.pid,
                "txcount": client.sent,
                "rxcount": client.received,
            })
        };
        let clients: Vec<Value> = self
            .clients
            .values()
            .filter(|it| cred.may_act_for(it.cred.userid))
            .map(entry)
            .collect();
        json!({
            "server": { "clients": clients, "connects": self.connects },
            "allow_guest_user": self.access.allow_guest_user,
            "allow_root_owner": self.access.allow_root_owner,
        })
    }

    /// Subscriptions and services are the client's own affair: they are answered before the
    /// switch, whatever nodeid the request has.
    fn connector_request(&mut self, id: ClientId, message: &Message) {
        let result = self.connector_result(id, message);
        if message.no_response() {
            return;
        }
        let mut response = match result {
            Ok(()) => Message::response_to(message),
            Err(error) => refusal(message, &error),
        };
        response.cred = Cred { userid: USERID_UNKNOWN, rolemask: Rolemask::OWNER };
        response.pop_route();
        self.send_client(id, response);
    }

    fn connector_result(&mut self, id: ClientId, message: &Message) -> Result<(), RpcError> {
        let peer = Peer::Client(id);
        let wrong = |text: String| RpcError::new(Errno::EPROTO, text);
        match message.topic() {
            "event.subscribe" => {
                let body = SubscribeRequest::take(message).map_err(wrong)?;
                self.guest_subscribes(id, &body.topic)?;
                self.events.subscribe(peer, &body.topic);
                Ok(())
            }
            "event.unsubscribe" => {
                let body = SubscribeRequest::take(message).map_err(wrong)?;
                self.events.unsubscribe(peer, &body.topic).map_err(RpcError::bare)
            }
            "service.add" => {
                let body = ServiceRequest::take(message).map_err(wrong)?;
                self.add_service(peer, message.cred, &body.service)
            }
            _ => {
                let body = ServiceRequest::take(message).map_err(wrong)?;
                self.remove_service(peer, message.cred, &body.service)
            }
        }
    }
}
