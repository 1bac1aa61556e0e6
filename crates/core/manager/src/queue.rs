//! Queues (RFC 33): which exist, which take jobs, which start them.

use std::collections::BTreeMap;

use flux_api::RpcError;
use flux_api::job::manager::QueueStatus;
use flux_proto::Errno;
use serde_json::{Map, Value, json};

/// One queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// Takes jobs.
    pub enable: bool,
    /// Why not.
    pub disable_reason: Option<String>,
    /// Starts jobs.
    pub start: bool,
    /// Why not.
    pub stop_reason: Option<String>,
    /// What `start` will be after a restart.
    pub sticky: bool,
    /// What `stop_reason` will be then.
    sticky_reason: Option<String>,
    /// The queue whose resources it uses.
    pub parent: Option<String>,
}

impl Queue {
    fn new(start: bool, parent: Option<String>) -> Self {
        Self {
            enable: true,
            disable_reason: None,
            start,
            stop_reason: None,
            sticky: start,
            sticky_reason: None,
            parent,
        }
    }
}

/// All queues: one without a name, or named ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Queues {
    anonymous: Option<Queue>,
    named: BTreeMap<String, Queue>,
    /// Why no job is started until a restart, whatever is said of queues meanwhile.
    ending: Option<String>,
}

impl Default for Queues {
    fn default() -> Self {
        let anonymous = Some(Queue::new(true, None));
        Self { anonymous, named: BTreeMap::new(), ending: None }
    }
}

fn invalid(text: impl Into<String>) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

fn unknown(name: &str) -> RpcError {
    invalid(format!("'{name}' is not a valid queue"))
}

impl Queues {
    /// Takes over the configured queues (name to parent); those that stay keep their state.
    pub fn configure(&mut self, queues: &BTreeMap<String, Option<String>>) {
        if queues.is_empty() {
            if self.anonymous.is_none() {
                *self = Self { ending: self.ending.take(), ..Self::default() };
            }
            return;
        }
        self.anonymous = None;
        self.named.retain(|name, _| queues.contains_key(name));
        for (name, parent) in queues {
            let queue = self.named.entry(name.clone()).or_insert_with(|| Queue::new(false, None));
            queue.parent.clone_from(parent);
        }
    }

    /// Names; none in anonymous mode.
    pub fn names(&self) -> Vec<String> {
        self.named.keys().cloned().collect()
    }

    /// Whether queues have names.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.anonymous.is_none()
    }

    fn get(&self, name: Option<&str>) -> Option<&Queue> {
        match name {
            None => self.anonymous.as_ref(),
            Some(name) => self.named.get(name),
        }
    }

    /// Whether jobs of this queue are started now. A job whose queue is no longer configured waits.
    #[must_use]
    pub fn runs(&self, name: Option<&str>) -> bool {
        if self.ending.is_some() {
            return false;
        }
        // With a single queue, a name that is left from before means nothing.
        let queue = self.anonymous.as_ref().or_else(|| self.get(name));
        let Some(queue) = queue else { return false };
        let parent = queue.parent.as_deref().and_then(|parent| self.named.get(parent));
        queue.start && parent.is_none_or(|parent| parent.start)
    }

    /// The queue of a new job, which must exist and take jobs.
    ///
    /// # Errors
    /// Why the job is refused.
    pub fn admit(&self, name: Option<&str>) -> Result<(), String> {
        let Some(queue) = self.get(name) else {
            return Err(match name {
                Some(name) => format!("'{name}' is not a valid queue"),
                None => "a named queue is required".to_string(),
            });
        };
        if queue.enable {
            return Ok(());
        }
        let to = name.map(|name| format!(" to {name}")).unwrap_or_default();
        let reason = queue.disable_reason.as_deref().unwrap_or_default();
        Err(format!("job submission{to} is disabled: {reason}"))
    }

    /// Whether a queue exists, and takes jobs.
    #[must_use]
    pub fn is_enabled(&self, name: &str) -> Option<bool> {
        self.named.get(name).map(|queue| queue.enable)
    }

    /// The status of a queue.
    ///
    /// # Errors
    /// EINVAL when there is no such queue, or the name is missing.
    pub fn status(&self, name: Option<&str>, scheduler: bool) -> Result<QueueStatus, RpcError> {
        let queue = self.get(name).ok_or_else(|| match name {
            Some(name) => unknown(name),
            None => invalid("a named queue is required"),
        })?;
        let mut status = QueueStatus {
            enable: queue.enable,
            disable_reason: queue.disable_reason.clone().filter(|_| !queue.enable),
            start: queue.start,
            stop_reason: queue.stop_reason.clone().filter(|_| !queue.start),
            blocked: None,
            parent: queue.parent.clone(),
        };
        if queue.start {
            let parent = queue.parent.as_ref();
            let stopped =
                parent.filter(|name| self.named.get(*name).is_some_and(|queue| !queue.start));
            let blocked = match (&self.ending, stopped) {
                (Some(reason), _) => Some(("shutdown", reason.clone())),
                (None, Some(parent)) => {
                    Some(("parent", format!("parent queue '{parent}' is stopped")))
                }
                (None, None) if !scheduler => {
                    Some(("scheduler", "Scheduler is offline".to_string()))
                }
                (None, None) => None,
            };
            if let Some((word, reason)) = blocked {
                status.start = false;
                status.blocked = Some(word.to_string());
                status.stop_reason = Some(reason);
            }
        }
        Ok(status)
    }

    /// The queues an administrative request means.
    fn select(&mut self, name: Option<&str>, all: bool) -> Result<Vec<&mut Queue>, RpcError> {
        match name {
            Some(name) => match self.named.get_mut(name) {
                Some(queue) => Ok(vec![queue]),
                None => Err(unknown(name)),
            },
            None if self.named.is_empty() => Ok(self.anonymous.iter_mut().collect()),
            None if all => Ok(self.named.values_mut().collect()),
            None => Err(invalid("Use --all to apply this command to all queues")),
        }
    }

    /// Lets queues take jobs, or not.
    ///
    /// # Errors
    /// EINVAL: no such queue, or no reason.
    pub fn enable(
        &mut self,
        name: Option<&str>,
        all: bool,
        enable: bool,
        reason: Option<String>,
    ) -> Result<(), RpcError> {
        let queues = self.select(name, all)?;
        if !enable && reason.is_none() {
            return Err(invalid("reason is required for disable"));
        }
        for queue in queues {
            queue.enable = enable;
            queue.disable_reason = reason.clone().filter(|_| !enable);
        }
        Ok(())
    }

    /// Lets queues start jobs, or not; `sticky` when a restart shall remember it.
    ///
    /// # Errors
    /// EINVAL: no such queue.
    pub fn start(
        &mut self,
        name: Option<&str>,
        all: bool,
        start: bool,
        reason: Option<String>,
        sticky: bool,
    ) -> Result<(), RpcError> {
        for queue in self.select(name, all)? {
            let reason = reason.clone().filter(|_| !start);
            if sticky {
                queue.sticky = start;
                queue.sticky_reason.clone_from(&reason);
            } else if !start && !queue.start {
                // It is stopped for a reason that stays.
                continue;
            }
            queue.start = start;
            queue.stop_reason = reason;
        }
        Ok(())
    }

    /// The instance ends: until it is back no job is started. What is said of queues meanwhile is
    /// remembered for then.
    pub fn end(&mut self, reason: &str) {
        self.ending = Some(reason.to_string());
    }

    /// Stops every queue that is started, for a restart that wants it so.
    pub fn stop_all(&mut self, reason: &str) {
        for queue in self.anonymous.iter_mut().chain(self.named.values_mut()) {
            if queue.start {
                queue.start = false;
                queue.stop_reason = Some(reason.to_string());
                queue.sticky = false;
                queue.sticky_reason.clone_from(&queue.stop_reason);
            }
        }
    }

    /// What a restart must remember.
    #[must_use]
    pub fn save(&self) -> Vec<Value> {
        let named = self.named.iter().map(|(name, queue)| (Some(name.as_str()), queue));
        let anonymous = self.anonymous.iter().map(|queue| (None, queue));
        anonymous.chain(named).map(|(name, queue)| save(name, queue)).collect()
    }

    /// Takes over what [`Queues::save`] wrote; queues that are not configured any more are ignored.
    pub fn restore(&mut self, saved: &[Value]) {
        for entry in saved {
            let name = entry.get("name").and_then(Value::as_str);
            let queue = match name {
                None => self.anonymous.as_mut(),
                Some(name) => self.named.get_mut(name),
            };
            let Some(queue) = queue else { continue };
            let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_string);
            if let Some(enable) = entry.get("enable").and_then(Value::as_bool) {
                queue.enable = enable;
                queue.disable_reason =
                    text("disable_reason").or_else(|| text("reason")).filter(|_| !enable);
            }
            if let Some(start) = entry.get("start").and_then(Value::as_bool) {
                queue.start = start;
                queue.sticky = start;
                queue.stop_reason = text("stop_reason").filter(|_| !start);
                queue.sticky_reason.clone_from(&queue.stop_reason);
            }
        }
    }

    /// Whether `name` is `queue` or a virtual queue of it.
    #[must_use]
    pub fn covers(&self, queue: Option<&str>, name: Option<&str>) -> bool {
        queue.is_none()
            || queue == name
            || name
                .and_then(|name| self.named.get(name))
                .is_some_and(|child| child.parent.as_deref() == queue)
    }
}

fn save(name: Option<&str>, queue: &Queue) -> Value {
    let mut entry = Map::new();
    if let Some(name) = name {
        entry.insert("name".into(), name.into());
    }
    entry.insert("enable".into(), queue.enable.into());
    entry.insert("start".into(), queue.sticky.into());
    if let Some(reason) = &queue.disable_reason {
        entry.insert("disable_reason".into(), json!(reason));
    }
    if let Some(reason) = queue.sticky_reason.as_ref().filter(|_| !queue.sticky) {
        entry.insert("stop_reason".into(), json!(reason));
    }
    Value::Object(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_that_is_not_remembered_takes_no_reason_away() {
        let mut queues = Queues::default();
        queues.start(None, false, false, Some("repair".to_string()), true).unwrap();
        queues.start(None, true, false, None, false).unwrap();
        assert_eq!(queues.status(None, true).unwrap().stop_reason.as_deref(), Some("repair"));
        let mut again = Queues::default();
        again.restore(&queues.save());
        assert_eq!(again.status(None, true).unwrap().stop_reason.as_deref(), Some("repair"));
        // One that was started starts again.
        queues.start(None, false, true, None, true).unwrap();
        queues.start(None, true, false, Some("the end".to_string()), false).unwrap();
        assert_eq!(queues.status(None, true).unwrap().stop_reason.as_deref(), Some("the end"));
        let mut again = Queues::default();
        again.restore(&queues.save());
        assert!(again.status(None, true).unwrap().start);
    }
}
