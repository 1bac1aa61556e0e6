//! Messages that wish no good, made at random from the catalogue: each begins as a request that
//! decodes, and is then changed.

use std::collections::BTreeSet;

use flux_api::catalogue;
use flux_api::rpc::Method;
use flux_proto::{Cred, Flags, Message, MsgType, Rolemask, RouteId};
use serde_json::{Map, Value, json};

/// Random numbers (xorshift64*); the same for the same seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Numbers of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below a bound, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() >> 33).unwrap_or(0) % bound
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    ///
    /// # Panics
    /// When there is none.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Where the bodies of requests are declared: all their fields, also those that may be left out.
const SOURCES: [&str; 14] = [
    include_str!("../../../api/src/broker.rs"),
    include_str!("../../../api/src/overlay.rs"),
    include_str!("../../../api/src/lifecycle.rs"),
    include_str!("../../../api/src/content.rs"),
    include_str!("../../../api/src/kvs.rs"),
    include_str!("../../../api/src/resource.rs"),
    include_str!("../../../api/src/sched.rs"),
    include_str!("../../../api/src/rexec.rs"),
    include_str!("../../../api/src/cron.rs"),
    include_str!("../../../api/src/job/ingest.rs"),
    include_str!("../../../api/src/job/manager.rs"),
    include_str!("../../../api/src/job/exec.rs"),
    include_str!("../../../api/src/job/info.rs"),
    include_str!("../../../api/src/job/list.rs"),
];

/// Names of the fields of all bodies.
fn fields() -> Vec<&'static str> {
    let mut found = BTreeSet::from(["type", "J", "R", "constraint", "matchtag", "sender"]);
    for source in SOURCES {
        for line in source.lines() {
            let Some(rest) = line.trim().strip_prefix("pub ") else { continue };
            let Some((name, _)) = rest.split_once(':') else { continue };
            if !name.is_empty() && name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()) {
                found.insert(name);
            }
        }
    }
    found.into_iter().collect()
}

/// What a field may be taken for.
fn plausible() -> Vec<Value> {
    vec![
        json!(0),
        json!(""),
        json!(false),
        json!([]),
        json!({}),
        json!(0.5),
        json!(null),
        json!("0"),
        json!([0]),
        json!(["a"]),
        json!([[0, "a"]]),
        json!([{}]),
    ]
}

fn encode(topic: &str, body: &Map<String, Value>) -> Message {
    Message::request(topic).with_json(body).with_streaming()
}

/// The name in "missing field `x`".
fn missing(text: &str) -> Option<&str> {
    text.split_once("missing field `")?.1.split('`').next()
}

/// A body with which a request decodes, found by what is said to be missing.
fn body(method: &Method) -> Map<String, Value> {
    let mut body = Map::new();
    for _ in 0..64 {
        let Err(error) = catalogue::check(encode(method.topic, &body)) else { break };
        let text = error.message();
        let Some(name) = missing(&text).map(str::to_string) else { break };
        // The first with which it is something else that is wrong, or nothing.
        for value in plausible() {
            body.insert(name.clone(), value);
            match catalogue::check(encode(method.topic, &body)) {
                Ok(()) => break,
                Err(error) if missing(&error.message()).is_some_and(|other| other != name) => break,
                Err(_) => {}
            }
        }
    }
    body
}

/// Values that somebody may not have thought of.
fn nasty() -> Vec<Value> {
    let deep = (0..120).fold(json!(0), |inner, _| json!([inner]));
    let deep_constraint =
        (0..100).fold(json!({"hostlist": ["a"]}), |inner, _| json!({"not": [inner]}));
    let mut values = vec![
        json!(u64::MAX),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u32::MAX),
        json!(-1),
        json!(1e308),
        json!(-0.0),
        json!(5e-324),
        json!(16_777_216),
        json!(true),
        deep,
        deep_constraint,
        json!({"and": []}),
        json!({"or": [{"not": [{"and": [{}]}]}]}),
        json!({"hostlist": ["a[0-99999999]b[0-99999999]"]}),
        json!({"ranks": ["0-4294967295"]}),
        json!({"t_submit": [">1e400"]}),
        json!({"states": ["bogus", 4_294_967_295_u64]}),
        json!({"properties": ["^a", "a&b", ""]}),
        json!({"data": ["AA=="], "type": "val", "ver": 1}),
        json!({"data": ["sha1-0000000000000000000000000000000000000000"], "type": "dirref", "ver": 1}),
        json!({"data": {"a": {"data": "..", "type": "symlink", "ver": 1}}, "type": "dir", "ver": 1}),
        json!([{"key": "a.b.c", "flags": 0, "dirent": null}]),
        json!([{"key": ".", "flags": 3, "dirent": {"data": "AA==", "type": "val", "ver": 1}}]),
        json!({"cmdline": ["sh"], "env": {}, "opts": {}, "channels": []}),
        json!([0, [1, [2]]]),
    ];
    for text in [
        "",
        ".",
        "..",
        "a..b",
        "/",
        "job",
        "primary",
        "job.0000.0000.0000.0000",
        "0-4294967294",
        "0-1000000000000",
        "[0-",
        "4294967295",
        "all",
        "-1",
        "1e400s",
        "1e-400d",
        "inf",
        "nan",
        "2026-99-99T00:00:00Z",
        "\u{1f603}\u{0}\u{202e}",
        "%n%s{{{{id}}}}",
        "a=b\nc",
        "*",
        "/((((a*)*)*)*)*b/",
        "not not not (host:a[0-9] and -rank:0-9)",
        "shell-1.kill",
        "job-exception",
        "kvs.setroot-primary",
        "kvs.stats-get",
        "sha1-",
        "eyJ9.eyJ9.none",
        "dmVyc2lvbgBpMQB1c2VyaWQAaTY1MDAxAG1lY2hhbmlzbQBzbm9uZQA.e30.none",
        "{\"timestamp\":1,\"name\":\"x\"}\n",
    ] {
        values.push(json!(text));
    }
    values.push(json!("x".repeat(70_000)));
    values.push(json!("a.".repeat(5_000)));
    values.push(Value::Array(vec![json!(1); 5_000]));
    values
}

/// What messages are made of.
#[derive(Debug)]
pub struct Arsenal {
    requests: Vec<(&'static Method, Map<String, Value>)>,
    fields: Vec<&'static str>,
    nasty: Vec<Value>,
    /// Ids of jobs that there are.
    pub jobs: Vec<u64>,
    /// Signed requests that count.
    pub signed: Vec<String>,
}

impl Default for Arsenal {
    fn default() -> Self {
        // What guests may ask is most of what they ask.
        let often = |method: &Method| if method.role.allows(Rolemask::USER) { 6 } else { 1 };
        let requests = catalogue::methods()
            .flat_map(|method| std::iter::repeat_n((method, body(method)), often(method)))
            .collect();
        Self { requests, fields: fields(), nasty: nasty(), jobs: vec![1], signed: Vec::new() }
    }
}

impl Arsenal {
    /// Requests whose unchanged body decodes, of all that there are.
    #[must_use]
    pub fn understood(&self) -> (usize, usize) {
        let good = |(method, body): &&(&'static Method, Map<String, Value>)| {
            catalogue::check(encode(method.topic, body)).is_ok()
        };
        (self.requests.iter().filter(good).count(), self.requests.len())
    }

    fn value(&self, dice: &mut Dice) -> Value {
        match dice.below(8) {
            0 => json!(dice.roll()),
            1 => json!(dice.below(40)),
            2 | 3 => json!(*dice.one(&self.jobs)),
            4 => json!(*dice.one(&self.fields)),
            5 => json!([*dice.one(&self.fields), *dice.one(&self.fields)]),
            _ => dice.one(&self.nasty).clone(),
        }
    }

    /// Changes something in an object, or in one inside it.
    fn change(&self, dice: &mut Dice, body: &mut Map<String, Value>) {
        let names: Vec<String> = body.keys().cloned().collect();
        match dice.below(6) {
            0 if !names.is_empty() => {
                body.remove(dice.one(&names));
            }
            1 => {
                let name = (*dice.one(&self.fields)).to_string();
                body.insert(name, self.value(dice));
            }
            2 if !names.is_empty() => {
                let name = dice.one(&names).clone();
                if let Some(Value::Object(inner)) = body.get_mut(&name) {
                    self.change(dice, inner);
                } else if let Some(Value::Array(list)) = body.get_mut(&name) {
                    let value = self.value(dice);
                    list.push(value);
                }
            }
            _ if !names.is_empty() => {
                let name = dice.one(&names).clone();
                body.insert(name, self.value(dice));
            }
            _ => {}
        }
    }

    fn payload(&self, dice: &mut Dice, body: &Map<String, Value>) -> Option<Vec<u8>> {
        let mut body = body.clone();
        // Half of them mean what they say: a job's id, and all else as it should be.
        for name in ["id", "ids"] {
            if body.contains_key(name) {
                let id = json!(*dice.one(&self.jobs));
                body.insert(name.to_string(), if name == "id" { id } else { json!([id]) });
            }
        }
        if body.contains_key("J") && !self.signed.is_empty() {
            body.insert("J".to_string(), json!(dice.one(&self.signed)));
        }
        for _ in 0..dice.below(4) {
            self.change(dice, &mut body);
        }
        let mut text = Value::Object(body).to_string().into_bytes();
        match dice.below(24) {
            0 => return None,
            1 => text.truncate(dice.below(text.len() + 1)),
            2 => {
                let at = dice.below(text.len());
                text[at] = u8::try_from(dice.below(256)).unwrap_or(0);
            }
            3 => text = (0..dice.below(300)).map(|_| (dice.roll() >> 56) as u8).collect(),
            4 => text = b"[".repeat(dice.below(100_000)),
            5 => text = br#"{"a":"#.repeat(dice.below(50_000)),
            6 => return Some(text),
            _ => {}
        }
        text.push(0);
        Some(text)
    }

    fn topic(&self, dice: &mut Dice, topic: &str) -> String {
        match dice.below(16) {
            0 => format!("{topic}.{}", dice.one(&["cancel", "disconnect", "stats-get", "", "x"])),
            1 => {
                let service = topic.split('.').next().unwrap_or_default();
                let method = dice.one(&[
                    "cancel",
                    "disconnect",
                    "stats-get",
                    "stats-clear",
                    "ping",
                    "rusage",
                    "config-reload",
                    "shutdown",
                    "debug",
                    "",
                ]);
                format!("{service}.{method}")
            }
            2 => topic.chars().rev().collect(),
            3 => "x.".repeat(dice.below(300)),
            _ => topic.to_string(),
        }
    }

    /// The next message.
    pub fn message(&self, dice: &mut Dice) -> Message {
        let (method, body) = dice.one(&self.requests);
        let topic = self.topic(dice, method.topic);
        let mut message = Message::request(topic);
        message.set_payload(self.payload(dice, body).map(Into::into));
        message.set_matchtag(match dice.below(8) {
            0 => 0,
            1 => u32::MAX,
            2 => u32::try_from(dice.roll() >> 32).unwrap_or(0),
            // Often the same: there is one to cancel, or to answer twice.
            _ => u32::try_from(dice.below(30)).unwrap_or(0),
        });
        let other = [0, 0, 1, 7, u32::MAX - 1];
        message.set_nodeid(if dice.once_in(4) { *dice.one(&other) } else { u32::MAX });
        if dice.once_in(3) {
            message.set_streaming();
        }
        if dice.once_in(12) {
            message.flags = Flags((dice.roll() >> 56) as u8);
        }
        if dice.once_in(4) {
            let userid = *dice.one(&[0, 64_500, 65_001, 65_002, u32::MAX]);
            message = message.with_cred(Cred::new(userid, Rolemask((dice.roll() >> 60) as u32)));
        }
        if dice.once_in(8) {
            for _ in 0..dice.below(6) {
                let id =
                    *dice.one(&["", "0", "1", "00000000-0000-0000-0000-000000000000", "\u{0}"]);
                message.push_route(RouteId::from_bytes(id.as_bytes()));
            }
        }
        if dice.once_in(12) {
            message.kind =
                *dice.one(&[MsgType::Response, MsgType::Event, MsgType::Control, MsgType::Event]);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_every_request_of_the_catalogue_is_made_so_that_it_decodes() {
        let arsenal = Arsenal::default();
        let (good, all) = arsenal.understood();
        let bad: Vec<&str> = arsenal
            .requests
            .iter()
            .filter(|(method, body)| catalogue::check(encode(method.topic, body)).is_err())
            .map(|(method, _)| method.topic)
            .collect();
        assert!(good * 20 >= all * 19, "{good} of {all}, not {bad:?}");
        assert!(arsenal.fields.len() > 100, "{:?}", arsenal.fields);
    }

    #[test]
    fn no_message_upsets_a_decoder_of_the_catalogue() {
        let arsenal = Arsenal::default();
        let mut dice = Dice::new(7);
        for _ in 0..3_000 {
            let message = arsenal.message(&mut dice);
            drop(catalogue::check(message.clone()));
            let bytes = flux_proto::encode(&message);
            assert!(bytes.len() > 8);
        }
        drop(flux_api::rpc::leaked_answers());
    }
}
