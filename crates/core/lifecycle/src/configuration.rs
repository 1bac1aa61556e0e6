//! `config`: rank 0 holds the configuration, the others follow it through the tree.
//!
//! A change is offered to every module in turn (`M.config-reload`). The first that refuses ends
//! it, and those that took it get the former one back.

use std::collections::BTreeMap;

use flux_api::broker::ModuleList_;
use flux_api::config::{pending, with_place};
use flux_api::driver::{ConfigFiles, ReadConfig};
use flux_api::lifecycle::{Config, ConfigGet, ConfigLoad, ConfigReload};
use flux_api::{Answer, Empty, RpcError, body::AnyObject};
use flux_proto::{Errno, Message};
use flux_svc::{Cx, Level, Reply, Service, To, Way};
use serde_json::{Map, Value};

/// What the service waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// The parent's configuration, now and after each change.
    Parent,
    /// The files, read again.
    Files,
    /// The names of modules that a change must be offered to.
    Modules,
    /// A module's word on the change.
    Offer,
    /// A module that got the former configuration back.
    Restore,
}

/// Who asked for a change.
#[derive(Debug)]
enum Asker {
    Load(Answer<ConfigLoad>),
    Reload(Box<Asked>),
    Parent,
}

/// A reload, and what is known of the files.
#[derive(Debug)]
struct Asked {
    answer: Answer<ConfigReload>,
    /// Told with the answer.
    warnings: Vec<String>,
    /// `FILE:LINE` of each key.
    places: BTreeMap<String, String>,
}

impl Asker {
    fn answer(self, cx: &mut Cx<'_, Wait>, result: Result<(), RpcError>) {
        match self {
            Self::Load(answer) => answer.respond(cx, result.map(|()| Empty)),
            Self::Reload(asked) => {
                let Asked { answer, warnings, places } = *asked;
                let located = |error: RpcError| {
                    RpcError::new(error.errno, with_place(&places, &error.message()))
                };
                let mut said = AnyObject::default();
                if !warnings.is_empty() {
                    said.0.insert("warnings".to_string(), warnings.into());
                }
                answer.respond(cx, result.map(|()| said).map_err(located));
            }
            Self::Parent => {
                if let Err(error) = result {
                    cx.log(Level::Err, format!("configuration of the leader: {error}"));
                }
            }
        }
    }
}

/// A change on its way through the modules.
#[derive(Debug)]
struct Change {
    asker: Asker,
    next: Map<String, Value>,
    waiting: Vec<String>,
    current: String,
    took: Vec<String>,
}

/// The `config` service.
#[derive(Debug)]
pub struct ConfigService {
    config: Option<Map<String, Value>>,
    change: Option<Change>,
    queue: Vec<(Asker, Map<String, Value>)>,
    readers: Vec<Answer<ConfigReload>>,
    early: Vec<Answer<ConfigGet>>,
    streams: Vec<Answer<ConfigGet>>,
    /// The parent's configuration is being followed.
    following: bool,
    /// On rank 0: what the instance was started with.
    at_start: Map<String, Value>,
}

/// Changes that may wait for the one in progress.
const QUEUE_MAX: usize = 64;

/// The service by which the broker takes `[access]` and `[tbon]`; it is no module.
const BROKER: &str = "connector-local";

impl ConfigService {
    /// With the configuration read at start; a follower's own is replaced by the leader's.
    #[must_use]
    pub fn new(rank: u32, config: Map<String, Value>) -> Self {
        Self {
            config: (rank == 0).then_some(config.clone()),
            change: None,
            queue: Vec::new(),
            readers: Vec::new(),
            early: Vec::new(),
            streams: Vec::new(),
            following: false,
            at_start: config,
        }
    }

    fn follow(&mut self, cx: &mut Cx<'_, Wait>) {
        self.following = true;
        cx.stream::<ConfigGet>(To::Upstream, &AnyObject::default(), Wait::Parent);
    }

    fn begin(&mut self, cx: &mut Cx<'_, Wait>, asker: Asker, next: Map<String, Value>) {
        // Who asks for a reload may have changed a file that the configuration names.
        let reload = matches!(asker, Asker::Reload(_));
        if !reload && self.config.as_ref() == Some(&next) {
            return asker.answer(cx, Ok(()));
        }
        if self.config.is_none() {
            // The first configuration of a follower: modules are started with it.
            self.adopt(cx, next);
            return asker.answer(cx, Ok(()));
        }
        if self.change.is_some() {
            if self.queue.len() >= QUEUE_MAX {
                let text = "too many configuration changes at once";
                return asker.answer(cx, Err(RpcError::new(Errno::EBUSY, text)));
            }
            self.queue.push((asker, next));
            return;
        }
        let waiting = Vec::new();
        self.change =
            Some(Change { asker, next, waiting, current: String::new(), took: Vec::new() });
        let rank = cx.rank();
        cx.call::<ModuleList_>(To::Rank(rank), &AnyObject::default(), Wait::Modules);
    }

    fn adopt(&mut self, cx: &mut Cx<'_, Wait>, config: Map<String, Value>) {
        for answer in self.early.drain(..) {
            if answer.is_streaming() {
                self.streams.push(answer);
            } else {
                answer.ok(cx, &config);
            }
        }
        for stream in &self.streams {
            stream.item(cx, &config);
        }
        self.config = Some(config);
    }

    fn offer_next(&mut self, cx: &mut Cx<'_, Wait>) {
        let Some(change) = &mut self.change else { return };
        let Some(module) = change.waiting.pop() else {
            return self.finish(cx, Ok(()));
        };
        let message = Message::request(format!("{module}.config-reload")).with_json(&change.next);
        change.current = module;
        let rank = cx.rank();
        cx.request(To::Rank(rank), message, Wait::Offer);
    }

    fn offered(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        let Some(change) = &mut self.change else { return };
        let module = std::mem::take(&mut change.current);
        match reply.error() {
            None => change.took.push(module),
            Some(error) if error.errno == Errno::ENOSYS => {}
            Some(error) => {
                let text = format!("error updating {module}: {}", error.message());
                let error = RpcError::new(error.errno, text);
                return self.finish(cx, Err(error));
            }
        }
        self.offer_next(cx);
    }

    fn finish(&mut self, cx: &mut Cx<'_, Wait>, result: Result<(), RpcError>) {
        let Some(mut change) = self.change.take() else { return };
        let rank = cx.rank();
        if result.is_ok() {
            if rank == 0 {
                for key in pending(&self.at_start, &change.next) {
                    let text = format!("{key} has changed: it takes effect with a restart");
                    cx.log(Level::Warning, text.clone());
                    if let Asker::Reload(asked) = &mut change.asker {
                        asked.warnings.push(with_place(&asked.places, &text));
                    }
                }
            }
            self.adopt(cx, change.next);
        } else if let Some(former) = &self.config {
            for module in change.took {
                let message = Message::request(format!("{module}.config-reload")).with_json(former);
                cx.request(To::Rank(rank), message, Wait::Restore);
            }
        }
        change.asker.answer(cx, result);
        if !self.queue.is_empty() {
            let (asker, next) = self.queue.remove(0);
            self.begin(cx, asker, next);
        }
    }
}

impl Service for ConfigService {
    type Api = Config;
    type Wait = Wait;

    fn start(&mut self, cx: &mut Cx<'_, Wait>) {
        cx.ready();
    }

    fn on_call(&mut self, cx: &mut Cx<'_, Wait>, call: Config) {
        match call {
            Config::ConfigGet(call) => match &self.config {
                Some(config) => {
                    if call.answer.is_streaming() {
                        call.answer.item(cx, config);
                        self.streams.push(call.answer);
                    } else {
                        call.answer.ok(cx, config);
                    }
                }
                None => {
                    // The first question of this rank starts the following of the parent.
                    if !self.following {
                        self.follow(cx);
                    }
                    self.early.push(call.answer);
                }
            },
            Config::ConfigLoad(call) => {
                if cx.rank() > 0 {
                    return call.answer.err(cx, only_leader());
                }
                self.begin(cx, Asker::Load(call.answer), call.request);
            }
            Config::ConfigReload(call) => {
                if cx.rank() > 0 {
                    return call.answer.err(cx, only_leader());
                }
                self.readers.push(call.answer);
                cx.call::<ReadConfig>(To::Rank(0), &Empty, Wait::Files);
            }
        }
    }

    fn on_reply(&mut self, cx: &mut Cx<'_, Wait>, wait: Wait, reply: Reply) {
        match wait {
            Wait::Parent => match reply.decode::<ConfigGet>() {
                Ok(config) => self.begin(cx, Asker::Parent, config),
                Err(error) => {
                    self.following = false;
                    for answer in self.early.drain(..) {
                        answer.err(cx, error.clone());
                    }
                }
            },
            Wait::Files => {
                let answer = self.readers.remove(0);
                match reply.decode::<ReadConfig>() {
                    Ok(ConfigFiles { config, warnings, places }) => {
                        let asked = Asked { answer, warnings, places };
                        self.begin(cx, Asker::Reload(Box::new(asked)), config);
                    }
                    Err(error) => answer.err(cx, error),
                }
            }
            Wait::Modules => match reply.decode::<ModuleList_>() {
                Ok(list) => {
                    if let Some(change) = &mut self.change {
                        // The broker itself, which admits clients and keeps links, comes last.
                        change.waiting = list
                            .mods
                            .into_iter()
                            .map(|module| module.name)
                            .filter(|name| name != "config")
                            .chain([BROKER.to_string()])
                            .rev()
                            .collect();
                    }
                    self.offer_next(cx);
                }
                Err(error) => self.finish(cx, Err(error)),
            },
            Wait::Offer => self.offered(cx, &reply),
            Wait::Restore => {}
        }
    }

    fn on_timer(&mut self, _cx: &mut Cx<'_, Wait>, _wait: Wait) {}

    fn on_way(&mut self, cx: &mut Cx<'_, Wait>, way: Way) {
        // The stream ended with the way; what changed meanwhile comes first.
        if way == Way::Back && !self.following && (self.config.is_some() || !self.early.is_empty())
        {
            self.follow(cx);
        }
    }

    fn on_disconnect(&mut self, _cx: &mut Cx<'_, Wait>, message: &Message) {
        for list in [&mut self.streams, &mut self.early] {
            let mut kept = Vec::new();
            for answer in list.drain(..) {
                if answer.same_sender(message) {
                    answer.forget();
                } else {
                    kept.push(answer);
                }
            }
            *list = kept;
        }
    }

    fn on_drain(&mut self, cx: &mut Cx<'_, Wait>) {
        for stream in self.streams.drain(..) {
            stream.end(cx);
        }
        cx.drained();
    }
}

fn only_leader() -> RpcError {
    RpcError::new(Errno::EINVAL, "configuration can only be changed on rank 0")
}

#[cfg(test)]
mod tests {
    use flux_svc::Rig;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_broker_itself_takes_a_change_too() {
        let mut rig = Rig::new(ConfigService::new(0, Map::new()));
        let load = rig.request("config.load", json!({"access": {"allow-guest-user": true}}));
        modules(&mut rig);
        for service in ["kvs", "resource", "connector-local"] {
            let offer = rig.expect(&format!("{service}.config-reload"));
            assert_eq!(
                offer.json::<Value>().unwrap(),
                json!({"access": {"allow-guest-user": true}})
            );
            rig.reply(&offer, Value::Null);
        }
        rig.response(load).unwrap();
        rig.finish();
    }

    #[test]
    fn a_key_that_needs_a_restart_is_told_when_it_changes() {
        let given = json!({"tbon": {"keepalive_idle": 30}});
        let mut rig = Rig::new(ConfigService::new(0, given.as_object().unwrap().clone()));
        let load = rig.request("config.load", json!({"tbon": {"keepalive_idle": 5}}));
        modules(&mut rig);
        for service in ["kvs", "resource", "connector-local"] {
            let offer = rig.expect(&format!("{service}.config-reload"));
            rig.reply(&offer, Value::Null);
        }
        rig.response(load).unwrap();
        let said = "tbon.keepalive_idle has changed: it takes effect with a restart";
        assert_eq!(rig.logs.last().unwrap().1, said);
        rig.finish();
    }

    fn modules(rig: &mut Rig<ConfigService>) {
        let list = rig.expect("module.list");
        let entry = |name: &str| {
            json!({"name": name, "path": "builtin", "idle": 0, "status": 1, "services": [name],
                   "sendqueue": 0, "recvqueue": 0})
        };
        rig.reply(&list, json!({"mods": [entry("config"), entry("kvs"), entry("resource")]}));
    }

    #[test]
    fn a_refused_change_is_undone_where_it_was_taken() {
        let mut rig = Rig::new(ConfigService::new(0, Map::new()));
        let load = rig.request("config.load", json!({"kvs": {}}));
        modules(&mut rig);
        let kvs = rig.expect("kvs.config-reload");
        rig.reply(&kvs, Value::Null);
        let resource = rig.expect("resource.config-reload");
        rig.fail(&resource, RpcError::new(Errno::EINVAL, "no"));
        let restore = rig.expect("kvs.config-reload");
        assert_eq!(restore.json::<Value>().unwrap(), json!({}));
        let error = rig.response(load).unwrap_err();
        assert_eq!(error.message(), "error updating resource: no");
        rig.finish();
    }

    #[test]
    fn who_asks_for_a_reload_is_told_what_is_odd_and_where() {
        let given = json!({"tbon": {"keepalive_idle": 30}});
        let mut rig = Rig::new(ConfigService::new(0, given.as_object().unwrap().clone()));
        let files = json!({
            "config": {"tbon": {"keepalive_idle": 5}, "resource": {"exclude": "x"}},
            "warnings": ["b.toml:2: tbon.odd: unknown key"],
            "places": {"tbon.keepalive_idle": "b.toml:1", "resource.exclude": "r.toml:4"},
        });
        for refused in [true, false] {
            let reload = rig.request("config.reload", json!({}));
            let read = rig.expect("console.read-config");
            rig.reply(&read, files.clone());
            modules(&mut rig);
            let kvs = rig.expect("kvs.config-reload");
            rig.reply(&kvs, Value::Null);
            let resource = rig.expect("resource.config-reload");
            if refused {
                let error = RpcError::new(Errno::EINVAL, "resource.exclude 'x': invalid hosts: x");
                rig.fail(&resource, error);
                rig.expect("kvs.config-reload");
                let error = rig.response(reload).unwrap_err();
                let text =
                    "error updating resource: resource.exclude 'x': invalid hosts: x (r.toml:4)";
                assert_eq!(error.message(), text);
                continue;
            }
            rig.reply(&resource, Value::Null);
            let broker = rig.expect("connector-local.config-reload");
            rig.reply(&broker, Value::Null);
            let restart = "tbon.keepalive_idle has changed: it takes effect with a restart";
            let warnings =
                json!(["b.toml:2: tbon.odd: unknown key", format!("{restart} (b.toml:1)")]);
            assert_eq!(rig.response(reload), Ok(json!({ "warnings": warnings })));
        }
        rig.finish();
    }

    #[test]
    fn a_follower_takes_the_parents_configuration() {
        let mut rig = Rig::with(ConfigService::new(1, Map::new()), 1, 2, &Map::new());
        let get = rig.request("config.get", json!({}));
        let parent = rig.expect("config.get");
        assert!(parent.upstream());
        rig.reply(&parent, json!({"a": 1}));
        assert_eq!(rig.response(get), Ok(json!({"a": 1})));
        let load = rig.request("config.load", json!({}));
        assert_eq!(rig.response(load).unwrap_err().errno, Errno::EINVAL);
        rig.finish();
    }

    #[test]
    fn a_follower_follows_again_when_the_way_up_is_back() {
        let mut rig = Rig::with(ConfigService::new(1, Map::new()), 1, 2, &Map::new());
        let get = rig.request("config.get", json!({}));
        let parent = rig.expect("config.get");
        rig.reply(&parent, json!({"a": 1}));
        assert_eq!(rig.response(get), Ok(json!({"a": 1})));
        rig.way(Way::Lost);
        rig.fail(&parent, Errno::EHOSTUNREACH);
        rig.way(Way::Back);
        let parent = rig.expect("config.get");
        assert!(parent.is_streaming());
        rig.reply(&parent, json!({"a": 2}));
        modules(&mut rig);
        rig.expect("kvs.config-reload");
        rig.finish();
    }
}
