//! Questions about jobs, answered from memory.

use flux_api::job::manager::{Getattr, Getinfo, List, ListResponse, ManagerInfo, ManagerResources};
use flux_api::{Call, RpcError};
use flux_id::JobId;
use flux_model::job_event::JobState;
use flux_model::resource_set::ResourceSet;
use flux_proto::{Errno, Rolemask};
use flux_svc::{Cx, Level};
use serde_json::{Map, Value, json};

use crate::exception::may_touch;
use crate::job::Job;
use crate::service::{JobManager, Wait};

fn entry(job: &Job) -> Value {
    let mut entry = Map::new();
    entry.insert("id".into(), job.id.into());
    entry.insert("userid".into(), job.status.userid.into());
    entry.insert("urgency".into(), job.status.urgency.into());
    entry.insert("priority".into(), job.priority().into());
    entry.insert("t_submit".into(), job.status.t_submit.into());
    entry.insert("state".into(), job.state().bit().into());
    if !job.status.annotations.is_empty() {
        entry.insert("annotations".into(), Value::Object(job.status.annotations.clone()));
    }
    if !job.status.dependencies.is_empty() {
        entry.insert("dependencies".into(), json!(job.status.dependencies));
    }
    Value::Object(entry)
}

/// A slice as in Python: `[start]:[stop][:step]`, without the brackets or with them, of a list of
/// `len` items. The indexes it picks, in order.
pub(crate) fn slice(text: &str, len: usize) -> Option<Vec<usize>> {
    let text = text.trim();
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let parts: Vec<Option<i64>> = text
        .split(':')
        .map(|part| match part.trim() {
            "" => Some(None),
            part => part.parse::<i64>().ok().map(Some),
        })
        .collect::<Option<_>>()?;
    let len = i64::try_from(len).ok()?;
    let (start, stop, step) = match parts[..] {
        [Some(index)] => {
            let index = if index < 0 { index + len } else { index };
            let there = (0..len).contains(&index);
            return Some(usize::try_from(index).ok().filter(|_| there).into_iter().collect());
        }
        [start, stop] => (start, stop, 1),
        [start, stop, step] => (start, stop, step.unwrap_or(1)),
        _ => return None,
    };
    if step == 0 {
        return None;
    }
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let place =
        |index: i64| (if index < 0 { index.saturating_add(len) } else { index }).clamp(low, high);
    let mut at = start.map_or(if step > 0 { low } else { high }, place);
    let stop = stop.map_or(if step > 0 { high } else { low }, place);
    let mut picked = Vec::new();
    while if step > 0 { at < stop } else { at > stop } {
        picked.push(usize::try_from(at).ok()?);
        at = at.saturating_add(step);
    }
    Some(picked)
}

/// How many of the newest jobs a slice can pick from; `None` when it may need all of them.
pub(crate) fn history_need(text: &str) -> Option<u64> {
    let text = text.trim();
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let mut parts = text.split(':').map(str::trim);
    let (first, second) = (parts.next()?, parts.next());
    if parts.next().is_some() {
        return None;
    }
    let start = if first.is_empty() { 0 } else { first.parse::<u64>().ok()? };
    match second {
        None if first.is_empty() => None,
        None => start.checked_add(1),
        Some(stop) => stop.parse::<u64>().ok(),
    }
}

impl JobManager {
    /// `job-manager.getinfo`.
    pub(crate) fn getinfo(&self, cx: &mut Cx<'_, Wait>, call: Call<Getinfo>) {
        let owner = call.answer.cred().rolemask.contains(Rolemask::OWNER);
        if self.settings.private_mode && !owner {
            return call.answer.err(cx, Errno::EPERM);
        }
        call.answer.ok(cx, &ManagerInfo { max_jobid: self.max_jobid });
    }

    /// `job-manager.list`.
    pub(crate) fn list(&self, cx: &mut Cx<'_, Wait>, call: Call<List>) {
        let max = match call.request.max_entries {
            0 => usize::MAX,
            max => max as usize,
        };
        let waiting = self.alloc.asked().chain(self.alloc.queued());
        let first = waiting.filter_map(|id| self.jobs.get(&id));
        let in_queue = |job: &&Job| {
            matches!(
                job.alloc,
                crate::job::AllocState::Pending(_) | crate::job::AllocState::Queued(_)
            )
        };
        let others =
            self.jobs.values().filter(|job| !in_queue(job) && job.state() != JobState::Inactive);
        let jobs = first.chain(others).take(max).map(entry).collect();
        call.answer.ok(cx, &ListResponse { jobs });
    }

    /// `job-manager.getattr`.
    pub(crate) fn getattr(&self, cx: &mut Cx<'_, Wait>, call: Call<Getattr>) {
        let Some(job) = self.jobs.get(&call.request.id) else {
            return call.answer.err(cx, RpcError::new(Errno::EINVAL, "unknown job"));
        };
        if !may_touch(call.answer.cred(), job.status.userid) {
            let text = "access is restricted to job/instance owner";
            return call.answer.err(cx, RpcError::new(Errno::EPERM, text));
        }
        let json = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
        let mut found = Map::new();
        for attr in &call.request.attrs {
            let value = match attr.as_str() {
                "jobspec" => Ok(json(&job.jobspec)),
                "R" => job.r.as_deref().map(json).ok_or_else(|| "R is NULL".to_string()),
                "eventlog" => Ok(job.log.as_str().into()),
                other => Err(format!("unknown attr {other}")),
            };
            match value {
                Ok(value) => drop(found.insert(attr.clone(), value)),
                Err(text) => return call.answer.err(cx, RpcError::new(Errno::ENOENT, text)),
            }
        }
        call.answer.ok(cx, &found);
    }

    /// `job-manager.resource-status`.
    pub(crate) fn resource_status(
        &self,
        cx: &mut Cx<'_, Wait>,
        call: Call<flux_api::job::manager::ResourceStatus>,
    ) {
        let mut all = ResourceSet::new();
        for job in self.jobs.values().filter(|job| job.status.has_resources) {
            let Some(r) = &job.r else { continue };
            let union = ResourceSet::parse(r).and_then(|r| all.union(&r));
            match union {
                Ok(union) => all = union,
                Err(error) => cx.log(Level::Err, format!("R of {}: {error}", JobId(job.id).f58())),
            }
        }
        for held in self.housekeeping_sets() {
            match all.union(&held) {
                Ok(union) => all = union,
                Err(error) => cx.log(Level::Err, format!("R in housekeeping: {error}")),
            }
        }
        let response = ManagerResources { allocated: all.to_value() };
        call.answer.ok(cx, &response);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_as_many_jobs_are_fetched_as_a_slice_needs() {
        assert_eq!(history_need("[0]"), Some(1));
        assert_eq!(history_need(":3"), Some(3));
        assert_eq!(history_need("1:9"), Some(9));
        for all in [":", "-1", "1:", "::2", "-3:2", ""] {
            assert_eq!(history_need(all), None, "{all}");
        }
    }

    #[test]
    fn slices_pick_as_python_does() {
        assert_eq!(slice(":", 3), Some(vec![0, 1, 2]));
        assert_eq!(slice("[0]", 3), Some(vec![0]));
        assert_eq!(slice("-1", 3), Some(vec![2]));
        assert_eq!(slice("5", 3), Some(vec![]));
        assert_eq!(slice("1:9", 3), Some(vec![1, 2]));
        assert_eq!(slice("::-1", 3), Some(vec![2, 1, 0]));
        assert_eq!(slice("-2:", 3), Some(vec![1, 2]));
        assert_eq!(slice("::0", 3), None);
        assert_eq!(slice("", 3), None);
        assert_eq!(slice("a:b", 3), None);
    }
}
