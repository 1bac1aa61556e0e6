//! Reading keys of a job.

use flux_api::job::info::{CURRENT, JSON_DECODE, Lookup as InfoLookupRpc, UpdateLookup};
use flux_api::kvs;
use flux_api::{Answer, RpcError};
use flux_proto::{Cred, Errno, Message, Rolemask};
use flux_svc::{Cx, Reply, To};
use serde_json::{Map, Value};

use crate::{InfoService, Missing, Wait, primary, text_of, updates};

/// Keys that one request may name.
const KEYS_MAX: usize = 64;

/// Who asked.
#[derive(Debug)]
pub(crate) enum Target {
    /// `job-info.lookup`.
    Info(Answer<InfoLookupRpc>),
    /// `job-info.update-lookup`.
    Update(Answer<UpdateLookup>),
}

/// A lookup on its way.
#[derive(Debug)]
pub(crate) struct Lookup {
    pub(crate) id: u64,
    /// What was looked for a second time.
    pub(crate) looked: Vec<Missing>,
    /// Which attempt the keys are read in.
    attempt: u32,
    keys: Vec<String>,
    flags: u32,
    values: Vec<Option<String>>,
    missing: usize,
    target: Target,
}

impl Target {
    fn cred(&self) -> Cred {
        match self {
            Self::Info(answer) => answer.cred(),
            Self::Update(answer) => answer.cred(),
        }
    }

    fn same_sender(&self, message: &Message) -> bool {
        match self {
            Self::Info(answer) => answer.same_sender(message),
            Self::Update(answer) => answer.same_sender(message),
        }
    }

    fn respond(self, cx: &mut Cx<'_, Wait>, result: Result<Map<String, Value>, RpcError>) {
        match self {
            Self::Info(answer) => answer.respond(cx, result),
            Self::Update(answer) => answer.respond(cx, result),
        }
    }
}

impl Lookup {
    pub(crate) fn cred(&self) -> Cred {
        self.target.cred()
    }

    /// Whether the sender of a disconnect had asked; its keys then arrive for nobody.
    pub(crate) fn drop_if(&mut self, message: &Message) -> bool {
        if !self.target.same_sender(message) {
            return false;
        }
        match &mut self.target {
            Target::Info(answer) => answer.disown(),
            Target::Update(answer) => answer.disown(),
        }
        true
    }
}

impl InfoService {
    pub(crate) fn look_up(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        mut keys: Vec<String>,
        flags: u32,
        target: Target,
    ) {
        let refusal = if flags & !(JSON_DECODE | CURRENT) != 0 {
            Some(RpcError::new(Errno::EPROTO, "lookup request rejected with invalid flag"))
        } else if keys.len() > KEYS_MAX {
            Some(RpcError::new(Errno::EINVAL, "too many keys"))
        } else {
            None
        };
        if let Some(error) = refusal {
            return target.respond(cx, Err(error));
        }
        keys.dedup();
        // Updates and ownership are in the eventlog.
        let needs_log = flags & CURRENT != 0 && !keys.iter().any(|key| key == "eventlog");
        if needs_log {
            keys.push("eventlog".to_string());
        }
        let owner = target.cred().rolemask.contains(Rolemask::OWNER);
        let ticket = self.ticket();
        let values = vec![None; keys.len()];
        let missing = keys.len();
        let looked = Vec::new();
        let lookup = Lookup { id, looked, attempt: 0, keys, flags, values, missing, target };
        self.lookups.insert(ticket, lookup);
        if owner {
            self.read_keys(cx, ticket);
        } else {
            Self::ask_owner(cx, ticket, id);
        }
    }

    pub(crate) fn read_keys(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64) {
        let Some(lookup) = self.lookups.get_mut(&ticket) else { return };
        if lookup.keys.is_empty() {
            return self.finish_lookup(cx, ticket);
        }
        lookup.attempt += 1;
        lookup.values = vec![None; lookup.keys.len()];
        lookup.missing = lookup.keys.len();
        let attempt = lookup.attempt;
        let here = To::Rank(cx.rank());
        for (at, key) in lookup.keys.iter().enumerate() {
            cx.call::<kvs::Lookup>(
                here,
                &primary(lookup.id, key, 0),
                Wait::Key(ticket, attempt, at),
            );
        }
    }

    pub(crate) fn key_read(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        (ticket, attempt, at): (u64, u32, usize),
        reply: &Reply,
    ) {
        let current = |lookup: &&mut Lookup| lookup.attempt == attempt;
        let Some(lookup) = self.lookups.get_mut(&ticket).filter(current) else { return };
        match reply.decode::<kvs::Lookup>().and_then(|response| text_of(&response.val)) {
            Ok(text) => {
                lookup.values[at] = Some(text);
                lookup.missing -= 1;
                if lookup.missing == 0 {
                    self.finish_lookup(cx, ticket);
                }
            }
            Err(error) => {
                let name = lookup.keys[at].clone();
                // What else comes of this attempt is not looked at.
                lookup.attempt += 1;
                if self.look_again(cx, ticket, Missing::Keys, &error) {
                    return;
                }
                let error = if error.errno == Errno::ENOENT {
                    RpcError::new(Errno::ENOENT, format!("{name}: key not found"))
                } else {
                    error
                };
                self.fail_lookup(cx, ticket, &error);
            }
        }
    }

    pub(crate) fn fail_lookup(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, error: &RpcError) {
        if let Some(lookup) = self.lookups.remove(&ticket) {
            lookup.target.respond(cx, Err(error.clone()));
        }
    }

    fn finish_lookup(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64) {
        let Some(lookup) = self.lookups.remove(&ticket) else { return };
        let mut body = Map::new();
        body.insert("id".to_string(), Value::from(lookup.id));
        let log_at = lookup.keys.iter().position(|key| key == "eventlog");
        let eventlog = log_at.and_then(|at| lookup.values[at].clone()).unwrap_or_default();
        for (key, value) in lookup.keys.iter().zip(&lookup.values) {
            let text = value.clone().unwrap_or_default();
            let is_object = matches!(key.as_str(), "R" | "jobspec");
            if !is_object || lookup.flags == 0 {
                body.insert(key.clone(), Value::String(text));
                continue;
            }
            let mut object: Value = match serde_json::from_str(&text) {
                Ok(object) => object,
                Err(error) => {
                    let error = RpcError::new(Errno::EPROTO, format!("{key}: {error}"));
                    return lookup.target.respond(cx, Err(error));
                }
            };
            if lookup.flags & CURRENT != 0 {
                updates::apply_all(key, &mut object, &eventlog);
            }
            let value = if lookup.flags & JSON_DECODE == 0 {
                Value::String(object.to_string())
            } else {
                object
            };
            body.insert(key.clone(), value);
        }
        lookup.target.respond(cx, Ok(body));
    }
}
