//! What a service writes.

use std::fmt::Debug;

use flux_api::{Api, RpcError};
use flux_proto::Message;
use serde_json::{Map, Value};

use crate::cx::Cx;
use crate::module::Way;
use crate::reply::Reply;

/// A service: a state machine whose inputs are calls, replies, timers and events, and whose
/// outputs go through its context.
///
/// Rules: never wait, never read a clock, keep every queue bounded, iterate only ordered
/// collections, and answer every call: at once, or later from a stored answer.
pub trait Service: 'static {
    /// The exhaustive enum of its requests, made by `api!`.
    type Api: Api;
    /// What it waits for, as a printable value. Cloned for each response of a stream.
    type Wait: Debug + Clone;

    /// Name shown by `flux module list` and used in log lines.
    fn name(&self) -> &'static str {
        Self::Api::SERVICES.first().copied().unwrap_or("?")
    }

    /// First input. A service that needs something before it can serve sends its requests here,
    /// keeps early calls waiting, and says [`Cx::ready`] when it is up.
    fn start(&mut self, cx: &mut Cx<'_, Self::Wait>) {
        cx.ready();
    }

    /// A request, role-checked and decoded.
    fn on_call(&mut self, cx: &mut Cx<'_, Self::Wait>, call: Self::Api);

    /// A response to a request of this service. A stream keeps its wait until its last response.
    fn on_reply(&mut self, cx: &mut Cx<'_, Self::Wait>, wait: Self::Wait, reply: Reply);

    /// A timer that was armed with `wait`.
    fn on_timer(&mut self, cx: &mut Cx<'_, Self::Wait>, wait: Self::Wait);

    /// An event that matches a subscription.
    fn on_event(&mut self, cx: &mut Cx<'_, Self::Wait>, event: &Message) {
        let _ = (cx, event);
    }

    /// The way to the leader was lost, or is back; never called at rank 0. `Back` comes after every
    /// answer to what was asked before, and what is asked then reaches the leader. A service that
    /// starts while the way is lost hears of its return only.
    fn on_way(&mut self, cx: &mut Cx<'_, Self::Wait>, way: Way) {
        let _ = (cx, way);
    }

    /// A client went away: drop what it waits for (see `Answer::same_sender`). `message` is the
    /// disconnect request; its oldest route names the client.
    fn on_disconnect(&mut self, cx: &mut Cx<'_, Self::Wait>, message: &Message) {
        let _ = (cx, message);
    }

    /// A request whose topic the API enum does not name, for services that serve names made at
    /// run time. The default refuses it with ENOSYS.
    fn on_other(&mut self, cx: &mut Cx<'_, Self::Wait>, message: Message) {
        cx.refuse_unknown(&message);
    }

    /// The configuration: at start (before [`Service::start`]) and after each change. An error
    /// refuses the change; the broker then restores the former one.
    fn on_config(
        &mut self,
        cx: &mut Cx<'_, Self::Wait>,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        let _ = (cx, config);
        Ok(())
    }

    /// The broker is going down: settle what is owed and say [`Cx::drained`].
    fn on_drain(&mut self, cx: &mut Cx<'_, Self::Wait>) {
        cx.drained();
    }

    /// State for `flux module stats`; `None` gives the message counters.
    fn stats(&self) -> Option<Value> {
        None
    }
}
