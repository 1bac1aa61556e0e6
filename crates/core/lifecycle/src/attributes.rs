//! `attr`: named text values of a broker.

use std::collections::{BTreeMap, BTreeSet};

use flux_api::lifecycle::{Attr, AttrNames, AttrSet, AttrValue, Set, Setattr};
use flux_api::{Answer, Empty, RpcError};
use flux_id::Hostlist;
use flux_model::roster::Roster;
use flux_proto::Errno;
use flux_svc::{Cx, Reply, Service, To};
use serde_json::{Map, Value};

/// Not settable on the command line.
pub const READ_ONLY: u8 = 1;
/// Immutable once set; clients may keep the value.
pub const IMMUTABLE: u8 = 2;
/// May be changed while running.
pub const RUNTIME: u8 = 4;

/// Every attribute that exists, with its flags and default.
pub const TABLE: &[(&str, u8, Option<&str>)] = &[
    ("rank", READ_ONLY | IMMUTABLE, None),
    ("size", READ_ONLY | IMMUTABLE, None),
    ("version", READ_ONLY, None),
    ("rundir", 0, None),
    ("job-rundir", IMMUTABLE, None),
    ("rundir-cleanup", IMMUTABLE, None),
    ("statedir", 0, None),
    ("statedir-cleanup", IMMUTABLE, None),
    ("security.owner", READ_ONLY | IMMUTABLE, None),
    ("local-uri", IMMUTABLE, None),
    ("parent-uri", READ_ONLY | IMMUTABLE, None),
    ("instance-level", READ_ONLY | IMMUTABLE, Some("0")),
    ("jobid", READ_ONLY | IMMUTABLE, None),
    ("jobid-path", READ_ONLY | IMMUTABLE, Some("/")),
    ("parent-kvs-namespace", READ_ONLY | IMMUTABLE, None),
    ("hostlist", IMMUTABLE, None),
    ("hostname", IMMUTABLE, None),
    ("broker.mapping", READ_ONLY | IMMUTABLE, None),
    ("broker.critical-ranks", IMMUTABLE, None),
    ("broker.boot-method", IMMUTABLE, None),
    ("broker.pid", READ_ONLY | IMMUTABLE, None),
    ("broker.uuid", READ_ONLY | IMMUTABLE, None),
    ("broker.starttime", READ_ONLY | IMMUTABLE, None),
    ("broker.quorum", IMMUTABLE, None),
    ("broker.quorum-warn", IMMUTABLE, Some("1m")),
    ("broker.quorum-timeout", 0, None),
    ("broker.shutdown-warn", IMMUTABLE, Some("1m")),
    ("broker.shutdown-timeout", IMMUTABLE, Some("none")),
    ("broker.cleanup-timeout", 0, Some("none")),
    ("broker.rc1_path", 0, None),
    ("broker.rc3_path", 0, None),
    ("broker.rc2_none", 0, None),
    ("broker.rc2_pgrp", 0, None),
    ("broker.exit-norestart", 0, None),
    ("broker.sd-notify", 0, None),
    ("broker.sd-stop-timeout", 0, None),
    ("broker.module-nopanic", 0, None),
    ("broker.recovery-mode", 0, None),
    ("cron.directory", 0, None),
    ("conf.shell_initrc", RUNTIME, None),
    ("conf.shell_pluginpath", RUNTIME, None),
    ("config.path", IMMUTABLE, None),
    ("tbon.topo", 0, None),
    ("tbon.descendants", READ_ONLY, None),
    ("tbon.level", READ_ONLY, None),
    ("tbon.maxlevel", READ_ONLY, None),
    ("tbon.endpoint", READ_ONLY, None),
    ("tbon.parent-endpoint", READ_ONLY, None),
    ("tbon.prefertcp", 0, Some("0")),
    ("tbon.interface-hint", RUNTIME | IMMUTABLE, Some("default-route")),
    ("tbon.torpid_min", 0, Some("5s")),
    ("tbon.torpid_max", 0, Some("30s")),
    ("tbon.tcp_user_timeout", 0, Some("20s")),
    ("tbon.connect_timeout", 0, Some("30s")),
    ("tbon.keepalive_idle", 0, None),
    ("tbon.keepalive_interval", 0, None),
    ("tbon.keepalive_count", 0, None),
    ("tbon.rejoin-timeout", 0, None),
    ("tbon.reparent", 0, Some("0")),
    ("tbon.reparent-timeout", 0, Some("5s")),
    ("tbon.zmqdebug", 0, Some("0")),
    ("tbon.zmq_io_threads", 0, Some("1")),
    ("tbon.child_rcvhwm", 0, Some("0")),
    ("tbon.fanout", 0, None),
    ("log-ring-size", IMMUTABLE, Some("1024")),
    ("log-forward-level", IMMUTABLE, Some("3")),
    ("log-critical-level", IMMUTABLE, Some("2")),
    ("log-level", IMMUTABLE, Some("7")),
    ("log-stderr-level", RUNTIME, Some("3")),
    ("log-stderr-mode", IMMUTABLE, Some("leader")),
    ("content.backing-module", 0, None),
    ("content.backing-path", 0, None),
    ("content.dump", 0, None),
    ("content.hash", IMMUTABLE, Some("sha1")),
    ("content.restore", 0, None),
];

/// Prefixes of attributes that need no entry in the table: flags of each.
const PREFIXES: &[(&str, u8)] = &[
    ("test.", RUNTIME),
    ("test-ro.", READ_ONLY),
    ("test-nr.", 0),
    ("test-im.", IMMUTABLE),
    ("vendor.", RUNTIME | IMMUTABLE),
];

fn flags_of(name: &str) -> Option<u8> {
    TABLE.iter().find(|entry| entry.0 == name).map(|entry| entry.1).or_else(|| {
        PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, flags)| *flags)
    })
}

/// The attributes of one broker.
#[derive(Debug, Clone)]
pub struct Attributes {
    values: BTreeMap<String, String>,
    /// Those that the command line has set.
    given: BTreeSet<String>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self::new()
    }
}

impl Attributes {
    /// Every attribute at its default.
    #[must_use]
    pub fn new() -> Self {
        let values = TABLE
            .iter()
            .filter_map(|(name, _, default)| {
                default.map(|value| (name.to_string(), value.to_string()))
            })
            .collect();
        Self { values, given: BTreeSet::new() }
    }

    /// Sets one from the command line (`-S NAME=VALUE`).
    ///
    /// # Errors
    /// The sentence to show: it does not exist, or is not for the command line.
    pub fn set_option(&mut self, name: &str, value: &str) -> Result<(), String> {
        match flags_of(name) {
            None => Err(format!("setattr: {name}: unknown attribute")),
            Some(flags) if flags & READ_ONLY != 0 => {
                Err(format!("setattr: {name}: attribute may not be set on the command line"))
            }
            Some(_) => {
                self.set(name, value);
                self.given.insert(name.to_string());
                Ok(())
            }
        }
    }

    /// Whether there is an attribute of that name.
    #[must_use]
    pub fn is_known(name: &str) -> bool {
        flags_of(name).is_some()
    }

    /// Reads one that the command line has set.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|_| self.given.contains(name))
    }

    /// Sets one, whatever its flags: for the broker itself.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.values.insert(name.to_string(), value.into());
    }

    /// Reads one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether a flag-like attribute is set and not 0.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value != "0")
    }

    fn change(&mut self, name: &str, value: &str, force: bool) -> Result<(), RpcError> {
        let flags =
            flags_of(name).ok_or_else(|| RpcError::new(Errno::ENOENT, "unknown attribute"))?;
        let is_set = self.values.contains_key(name);
        if is_set && flags & IMMUTABLE != 0 {
            return Err(RpcError::new(Errno::EPERM, "attribute may not be updated"));
        }
        if is_set && flags & RUNTIME == 0 && !force {
            return Err(RpcError::new(Errno::EINVAL, "attribute may not be updated"));
        }
        self.values.insert(name.to_string(), value.to_string());
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), RpcError> {
        if flags_of(name).is_some_and(|flags| flags & IMMUTABLE != 0)
            && self.values.contains_key(name)
        {
            return Err(RpcError::bare(Errno::EPERM));
        }
        self.values.remove(name);
        Ok(())
    }
}

/// What the service waits for: the log's approval of a change.
#[derive(Debug, Clone)]
pub struct Approval {
    id: u64,
}

/// The `attr` service.
#[derive(Debug)]
pub struct AttributeService {
    attributes: Attributes,
    approvals: BTreeMap<u64, (AttrSet, Answer<Set>)>,
    next: u64,
}

impl AttributeService {
    /// Serves these attributes.
    #[must_use]
    pub fn new(attributes: Attributes) -> Self {
        Self { attributes, approvals: BTreeMap::new(), next: 0 }
    }
}

impl Service for AttributeService {
    type Api = Attr;
    type Wait = Approval;

    fn on_call(&mut self, cx: &mut Cx<'_, Approval>, call: Attr) {
        match call {
            Attr::Get(call) => {
                let name = &call.request.name;
                let result = match self.attributes.get(name) {
                    Some(value) => {
                        let immutable = flags_of(name).is_some_and(|flags| flags & IMMUTABLE != 0);
                        Ok(AttrValue { value: value.to_string(), flags: u32::from(immutable) })
                    }
                    None => Err(RpcError::bare(Errno::ENOENT)),
                };
                call.answer.respond(cx, result);
            }
            Attr::List(call) => {
                let names = self.attributes.values.keys().cloned().collect();
                call.answer.ok(cx, &AttrNames { names });
            }
            Attr::Set(call) if call.request.name == "log-stderr-level" && !call.request.force => {
                let id = self.next;
                self.next += 1;
                let rank = cx.rank();
                cx.call::<Setattr>(To::Rank(rank), &call.request, Approval { id });
                self.approvals.insert(id, (call.request, call.answer));
            }
            Attr::Set(call) => {
                let AttrSet { name, value, force } = &call.request;
                let result = self.attributes.change(name, value, *force).map(|()| Empty);
                call.answer.respond(cx, result);
            }
            Attr::Rm(call) => {
                let result = self.attributes.remove(&call.request.name).map(|()| Empty);
                call.answer.respond(cx, result);
            }
        }
    }

    fn on_reply(&mut self, cx: &mut Cx<'_, Approval>, wait: Approval, reply: Reply) {
        if let Some((request, answer)) = self.approvals.remove(&wait.id) {
            let result = reply
                .decode::<Setattr>()
                .and_then(|_| self.attributes.change(&request.name, &request.value, request.force))
                .map(|()| Empty);
            answer.respond(cx, result);
        }
    }

    fn on_timer(&mut self, _cx: &mut Cx<'_, Approval>, _wait: Approval) {}

    fn on_config(
        &mut self,
        _cx: &mut Cx<'_, Approval>,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        if self.attributes.get("broker.boot-method") != Some("config") {
            return Ok(());
        }
        let invalid = |text: String| RpcError::new(Errno::EINVAL, text);
        let roster = Roster::of(config).map_err(|error| invalid(error.to_string()))?;
        if let Some(roster) = roster {
            let list = Hostlist::from_hosts(&roster.names);
            let list = list.map_err(|error| invalid(format!("bootstrap.hosts: {error}")))?;
            let size = roster.size();
            self.attributes.set("size", size.to_string());
            self.attributes.set("hostlist", list.to_string());
            self.attributes.set("broker.mapping", format!("[[0,{size},1,1]]"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flux_svc::Rig;
    use serde_json::json;

    use super::*;

    fn rig() -> Rig<AttributeService> {
        let mut attributes = Attributes::new();
        attributes.set("rank", "0");
        Rig::new(AttributeService::new(attributes))
    }

    #[test]
    fn immutable_and_unknown_attributes_are_refused() {
        let mut rig = rig();
        let get = rig.request("attr.get", json!({"name": "rank"}));
        assert_eq!(rig.response(get), Ok(json!({"value": "0", "flags": 1})));
        let set = rig.request("attr.set", json!({"name": "rank", "value": "1"}));
        assert_eq!(rig.response(set).unwrap_err().errno, Errno::EPERM);
        let set = rig.request("attr.set", json!({"name": "nope", "value": "1"}));
        assert_eq!(rig.response(set).unwrap_err().message(), "unknown attribute");
        let get = rig.request("attr.get", json!({"name": "nope"}));
        assert_eq!(rig.response(get).unwrap_err().errno, Errno::ENOENT);
        rig.finish();
    }

    #[test]
    fn the_log_approves_its_levels() {
        let mut rig = rig();
        let set = rig.request("attr.set", json!({"name": "log-stderr-level", "value": "7"}));
        let ask = rig.expect("log.setattr");
        rig.reply(&ask, json!({}));
        assert_eq!(rig.response(set), Ok(json!(null)));
        rig.finish();
    }
}
