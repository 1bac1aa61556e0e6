//! Drivers: services that the host answers.

use flux_api::RpcError;
use flux_proto::{Cred, Errno, Message, MsgType, Rolemask, RouteId};
use flux_svc::defaults;
use flux_svc::engine::Output;

use crate::ids::Peer;
use crate::node::Node;
use crate::track::{Disconnects, MAX_DISCONNECTS, Tracker};

/// One driver.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) name: &'static str,
    id: RouteId,
    disconnects: Disconnects,
    /// Requests that it was given and has not answered.
    pub(crate) serving: Tracker,
}

impl Node {
    pub(crate) fn add_driver(&mut self, name: &'static str) {
        let peer = Peer::Driver(self.drivers.len());
        let id = self.ids.make(peer);
        self.drivers.push(Driver {
            name,
            id,
            disconnects: Disconnects::default(),
            serving: Tracker::default(),
        });
        self.registry.insert(name.to_string(), peer);
    }

    pub(crate) fn give_driver(&mut self, at: usize, message: Message) {
        if let Some(driver) = self.drivers.get_mut(at) {
            if message.kind == MsgType::Request {
                driver.serving.request(&message, self.clock.mono_us);
            }
            self.out.push_back(Output::Driver(driver.name, message));
        }
    }

    /// A driver speaks, as a module does.
    pub(crate) fn take_driver(&mut self, name: &'static str, mut message: Message) {
        let cred = self.own_cred();
        let Some(driver) = self.drivers.iter_mut().find(|driver| driver.name == name) else {
            return;
        };
        if message.cred == Cred::UNKNOWN {
            message.cred = cred;
        }
        match message.kind {
            MsgType::Request => {
                message.push_route(driver.id.clone());
                driver.disconnects.arm(&message, MAX_DISCONNECTS);
                self.route_request(message);
            }
            MsgType::Response => {
                driver.serving.response(&message);
                self.route_response(message);
            }
            MsgType::Event => {
                self.publish(message);
            }
            MsgType::Control => {}
        }
    }

    /// Resource use of the broker process, which is that of each of its services: the console
    /// driver knows.
    pub(crate) fn rusage(&mut self, mut message: Message) {
        let user = Rolemask::OWNER | Rolemask::USER;
        if !message.cred.rolemask.allows(user) {
            return self.refuse(&message, defaults::denied(user));
        }
        let Some(console) = self.registry.get("console").copied() else {
            let text = format!("{}: this host does not measure resource use", message.topic());
            return self.refuse(&message, RpcError::new(Errno::ENOSYS, text));
        };
        message.set_topic(Some("console.rusage".into()));
        if !message.has_payload() {
            message = message.with_json_text("{}");
        }
        message.cred = self.own_cred();
        self.serve_by(console, message);
    }
}
