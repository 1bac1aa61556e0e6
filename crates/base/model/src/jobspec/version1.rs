//! What version 1 (RFC 25) allows of RFC 14.
//!
//! Two deviations, both because the command line needs them: the count of a node or slot may be a
//! range, and `exclusive` may stand on the node (prose of the RFC) or the slot (its schema). The
//! limits of `total` against the number of slots are not checked: an example of the RFC breaks
//! them.

use serde_json::Value;

use super::count::Count;
use super::error::JobspecError;
use super::resource::Vertex;
use super::task::TaskCount;
use super::{Jobspec, VERSION_1};

/// Checks the rules of version 1 on a jobspec that is valid by RFC 14.
pub(super) fn check(jobspec: &Jobspec) -> Result<(), JobspecError> {
    resources(&jobspec.resources)?;
    let [task] = jobspec.tasks.as_slice() else {
        return Err(at("tasks", format!("expected one task, got {}", jobspec.tasks.len())));
    };
    match task.count {
        TaskCount::PerSlot(1) | TaskCount::Total(_) => {}
        TaskCount::PerSlot(n) => {
            return Err(at("tasks[0].count.per_slot", format!("expected 1, got {n}")));
        }
        TaskCount::PerResource { .. } => {
            return Err(at("tasks[0].count", "per_resource is not part of version 1"));
        }
    }
    for (key, there) in
        [("distribution", task.distribution.is_some()), ("attributes", task.attributes.is_some())]
    {
        if there {
            return Err(at(&format!("tasks[0].{key}"), "not part of version 1"));
        }
    }
    if jobspec.system().is_none() {
        return Err(at("attributes.system", "missing"));
    }
    match jobspec.get("attributes.system.duration") {
        Some(Value::Number(_)) => Ok(()),
        _ => Err(at("attributes.system.duration", "missing (seconds, 0 for no limit)")),
    }
}

/// Checks the resource graph: one of the four forms of RFC 25.
pub(super) fn resources(list: &[Vertex]) -> Result<(), JobspecError> {
    let [top] = list else {
        return Err(at("resources", format!("expected one resource, got {}", list.len())));
    };
    let (slot, path) = match (top.kind.as_str(), top.with.as_slice()) {
        ("slot", _) => (top, "resources[0]".to_owned()),
        ("node", [slot]) if slot.is_slot() => (slot, "resources[0].with[0]".to_owned()),
        ("node", _) => return Err(at("resources[0].with", "expected one slot below the node")),
        (kind, _) => {
            return Err(at("resources[0].type", format!("expected node or slot, got '{kind}'")));
        }
    };
    if top.kind == "node" {
        only(top, "resources[0]", &[])?;
    }
    only(slot, &path, &["label"])?;
    let mut cores = 0;
    let mut gpus = 0;
    for (i, vertex) in slot.with.iter().enumerate() {
        let path = format!("{path}.with[{i}]");
        match vertex.kind.as_str() {
            "core" => cores += 1,
            "gpu" => gpus += 1,
            kind => {
                return Err(at(
                    &format!("{path}.type"),
                    format!("expected core or gpu below a slot, got '{kind}'"),
                ));
            }
        }
        only(vertex, &path, &[])?;
        if !vertex.with.is_empty() {
            return Err(at(&format!("{path}.with"), "core and gpu contain nothing in version 1"));
        }
        if vertex.exclusive.is_some() {
            return Err(at(&format!("{path}.exclusive"), "only allowed on node and slot"));
        }
        if !matches!(vertex.count, Count::Fixed(_)) {
            return Err(at(&format!("{path}.count"), "expected a positive integer in version 1"));
        }
    }
    if cores != 1 || gpus > 1 {
        return Err(at(
            &format!("{path}.with"),
            format!("expected one core and at most one gpu entry, got {cores} and {gpus}"),
        ));
    }
    Ok(())
}

/// Refuses the optional keys `label` and `id` where version 1 has no place for them.
fn only(vertex: &Vertex, path: &str, allowed: &[&str]) -> Result<(), JobspecError> {
    for (key, there) in [("label", vertex.label.is_some()), ("id", vertex.id.is_some())] {
        if there && !allowed.contains(&key) {
            let problem = format!("not allowed on a {} in version {VERSION_1}", vertex.kind);
            return Err(at(&format!("{path}.{key}"), problem));
        }
    }
    Ok(())
}

fn at(path: &str, problem: impl Into<String>) -> JobspecError {
    JobspecError::at(path, problem)
}
