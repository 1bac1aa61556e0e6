//! The processes of a server, found by id, label, stream and client.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use flux_api::RpcError;
use flux_proto::{Errno, RouteId};

use crate::process::Process;

/// Whose request a stream of responses answers: its client and matchtag.
pub(crate) type StreamKey = (Option<RouteId>, u32);

#[derive(Debug, Default)]
pub(crate) struct Table {
    processes: BTreeMap<i32, Rc<Process>>,
    labels: BTreeMap<String, i32>,
    streams: BTreeMap<StreamKey, BTreeSet<i32>>,
}

impl Table {
    pub(crate) fn has_label(&self, label: &str) -> bool {
        self.labels.contains_key(label)
    }

    pub(crate) fn insert(&mut self, process: Rc<Process>) {
        if let Some(label) = &process.cmd.label {
            self.labels.insert(label.clone(), process.pid);
        }
        self.processes.insert(process.pid, process);
    }

    pub(crate) fn remove(&mut self, process: &Process) {
        self.processes.remove(&process.pid);
        if let Some(label) = &process.cmd.label {
            self.labels.remove(label);
        }
    }

    pub(crate) fn bind(&mut self, key: StreamKey, pid: i32) {
        self.streams.entry(key).or_default().insert(pid);
    }

    pub(crate) fn unbind(&mut self, key: &StreamKey, pid: i32) {
        if let Some(pids) = self.streams.get_mut(key) {
            pids.remove(&pid);
            if pids.is_empty() {
                self.streams.remove(key);
            }
        }
    }

    /// The process of a label, or else of an id.
    pub(crate) fn find(
        &self,
        pid: i32,
        label: Option<&str>,
        missing: Errno,
    ) -> Result<Rc<Process>, RpcError> {
        let (pid, name) = match label {
            Some(label) => (self.labels.get(label), format!("label {label}")),
            None => (Some(&pid), format!("pid {pid}")),
        };
        pid.and_then(|pid| self.processes.get(pid)).cloned().ok_or_else(|| {
            RpcError::new(missing, format!("{name} does not belong to any subprocess"))
        })
    }

    pub(crate) fn of_stream(&self, key: &StreamKey) -> Vec<Rc<Process>> {
        let pids = self.streams.get(key).into_iter().flatten();
        pids.filter_map(|pid| self.processes.get(pid)).cloned().collect()
    }

    /// Processes whose responses, or whose wait status, go to a client.
    pub(crate) fn of_client(&self, client: Option<&RouteId>) -> Vec<Rc<Process>> {
        let first = (client.cloned(), 0);
        let streams = self.streams.range(first..);
        let pids = streams
            .take_while(|((other, _), _)| other.as_ref() == client)
            .flat_map(|(_, pids)| pids);
        pids.filter_map(|pid| self.processes.get(pid)).cloned().collect()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Rc<Process>> {
        self.processes.values()
    }
}
