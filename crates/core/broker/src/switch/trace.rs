//! Who wants to see the messages that pass: to and from modules, and over links.

use flux_api::RpcError;
use flux_api::broker::{ModuleTrace, ModuleTraceRequest};
use flux_api::overlay::{OverlayTrace, OverlayTraceRequest, TraceLine};
use flux_api::rpc::{Answer, Call, Rpc};
use flux_proto::{Errno, Message, MsgType};
use serde_json::Value;

use crate::node::Node;
use crate::overlay::control;
use crate::overlay::status::Status;

/// So many may look at the same time.
const MAX: usize = 16;
/// A multicast, and all peers.
const ALL: i64 = -1;

/// Somebody who looks.
#[derive(Debug)]
struct Tracer<R: Rpc> {
    answer: Answer<R>,
    types: u32,
    glob: String,
    full: bool,
    /// Modules, empty for all; not for links.
    names: Vec<String>,
    /// Peer, or all of them; not for modules.
    nodeid: i64,
}

/// Everybody who looks.
#[derive(Debug, Default)]
pub(crate) struct Tracers {
    modules: Vec<Tracer<ModuleTrace>>,
    links: Vec<Tracer<OverlayTrace>>,
}

/// Whether `*` and `?` of a pattern fit a topic. Time grows with the product of the lengths at
/// most.
fn fits(pattern: &str, topic: &str) -> bool {
    let (pattern, topic) = (pattern.as_bytes(), topic.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < topic.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == topic[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

fn topic_of(message: &Message) -> String {
    if message.kind != MsgType::Control {
        return message.topic().to_string();
    }
    let status = message.control_status();
    match message.control_type() {
        control::HEARTBEAT => format!("heartbeat {status}"),
        control::STATUS => {
            let name = Status::from_number(status).map_or("unknown", Status::name);
            format!("status {name}")
        }
        control::DISCONNECT => format!("disconnect {status}"),
        other => format!("control {other}"),
    }
}

fn line(message: &Message, at: f64, sent: bool, full: bool) -> TraceLine {
    let payload = if full { message.json::<Value>().ok().filter(Value::is_object) } else { None };
    let errnum = if message.kind == MsgType::Response { message.errnum().0 } else { 0 };
    TraceLine {
        timestamp: at,
        prefix: if sent { "tx" } else { "rx" }.to_string(),
        rank: ALL,
        name: None,
        kind: message.kind.bit().into(),
        topic: topic_of(message),
        payload_size: message.bytes().map_or(0, |payload| payload.len() as u64),
        payload,
        errnum,
        errstr: (errnum != 0).then(|| Errno(errnum).text().to_string()),
    }
}

impl<R: Rpc> Tracer<R> {
    fn wants(&self, message: &Message, topic: &str) -> bool {
        // Otherwise each line over a link would make another.
        let own = matches!(message.topic(), "overlay.trace" | "module.trace");
        !own && self.types & u32::from(message.kind.bit()) != 0
            && (self.glob.is_empty() || fits(&self.glob, topic))
    }
}

impl Node {
    fn may_trace<R: Rpc>(answer: &Answer<R>, count: usize) -> Result<(), RpcError> {
        if !answer.is_streaming() {
            let text = "trace request rejected without streaming RPC flag";
            return Err(RpcError::new(Errno::EPROTO, text));
        }
        if count >= MAX {
            return Err(RpcError::new(Errno::EAGAIN, format!("{MAX} traces are running already")));
        }
        Ok(())
    }

    pub(crate) fn trace_modules(&mut self, call: Call<ModuleTrace>) {
        let Call { request, answer } = call;
        if let Err(error) = Self::may_trace(&answer, self.tracers.modules.len()) {
            return self.reply(answer, Err(error));
        }
        let ModuleTraceRequest { names, typemask, topic_glob, full } = request;
        let absent = names.iter().find(|name| !self.seats.iter().any(|seat| seat.name == **name));
        if let Some(name) = absent {
            let error = RpcError::new(Errno::ENOENT, format!("{name}: no such module"));
            return self.reply(answer, Err(error));
        }
        let (types, glob) = (typemask, topic_glob);
        self.tracers.modules.push(Tracer { answer, types, glob, full, names, nodeid: ALL });
    }

    pub(crate) fn trace_links(&mut self, call: Call<OverlayTrace>) {
        let Call { request, answer } = call;
        if let Err(error) = Self::may_trace(&answer, self.tracers.links.len()) {
            return self.reply(answer, Err(error));
        }
        let OverlayTraceRequest { typemask: types, topic_glob: glob, nodeid, full } = request;
        let names = Vec::new();
        self.tracers.links.push(Tracer { answer, types, glob, full, names, nodeid });
    }

    /// A message goes to a module, or comes from it.
    pub(crate) fn seen_at_module(&mut self, at: usize, sent: bool, message: &Message) {
        if self.tracers.modules.is_empty() {
            return;
        }
        let (topic, now) = (topic_of(message), self.clock.wall);
        let Some(name) = self.seats.get(at).map(|seat| seat.name.clone()) else { return };
        let mut out = Vec::new();
        for tracer in &self.tracers.modules {
            if (tracer.names.is_empty() || tracer.names.contains(&name))
                && tracer.wants(message, &topic)
            {
                let line =
                    TraceLine { name: Some(name.clone()), ..line(message, now, sent, tracer.full) };
                tracer.answer.item(&mut out, &line);
            }
        }
        out.into_iter().for_each(|message| self.respond(message));
    }

    /// A message goes over a link, or came over it; `rank` is -1 for all children.
    pub(crate) fn seen_at_link(&mut self, rank: i64, sent: bool, message: &Message) {
        if self.tracers.links.is_empty() {
            return;
        }
        let (topic, now) = (topic_of(message), self.clock.wall);
        let mut out = Vec::new();
        for tracer in &self.tracers.links {
            let peer = tracer.nodeid == ALL || rank == ALL || tracer.nodeid == rank;
            if peer && tracer.wants(message, &topic) {
                let line = TraceLine { rank, ..line(message, now, sent, tracer.full) };
                tracer.answer.item(&mut out, &line);
            }
        }
        out.into_iter().for_each(|message| self.respond(message));
    }

    /// The same for the parent.
    pub(crate) fn seen_at_parent(&mut self, sent: bool, message: &Message) {
        self.seen_at_link(self.overlay.parent.rank.into(), sent, message);
    }

    /// A client that may have looked is gone.
    pub(crate) fn trace_disconnect(&mut self, message: &Message) {
        fn drop_of<R: Rpc>(tracers: &mut Vec<Tracer<R>>, message: &Message) {
            let gone = tracers.extract_if(.., |tracer| tracer.answer.same_sender(message));
            gone.for_each(|tracer| tracer.answer.forget());
        }
        match message.service() {
            "module" => drop_of(&mut self.tracers.modules, message),
            "overlay" => drop_of(&mut self.tracers.links, message),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_stars_and_question_marks() {
        for (pattern, topic) in [
            ("*", ""),
            ("*", "a.b"),
            ("kvs.*", "kvs.get"),
            ("*.get", "kvs.get"),
            ("k?s.get", "kvs.get"),
            ("*a*b*", "xaxxbx"),
            ("a**", "a"),
            ("", ""),
        ] {
            assert!(fits(pattern, topic), "{pattern} {topic}");
        }
        for (pattern, topic) in
            [("kvs.*", "kvs"), ("?", ""), ("a", "ab"), ("*a", "ab"), ("", "a"), ("*a*a", "a")]
        {
            assert!(!fits(pattern, topic), "{pattern} {topic}");
        }
        assert!(!fits(&"*a".repeat(1000), &"b".repeat(10_000)));
    }
}
