//! Placement against a naive oracle, and the protocol by transcript.

mod placement;
mod protocol;
mod special;

use serde_json::{Value, json};

/// R of `nodes` nodes with `cores` cores and `gpus` gpus each.
pub(crate) fn r(nodes: u32, cores: u32, gpus: u32) -> Value {
    let mut children = json!({"core": format!("0-{}", cores - 1)});
    if gpus > 0 {
        children["gpu"] = format!("0-{}", gpus - 1).into();
    }
    json!({"version": 1, "execution": {
        "R_lite": [{"rank": format!("0-{}", nodes - 1), "children": children}],
        "nodelist": [format!("n[0-{}]", nodes - 1)],
        "starttime": 0.0, "expiration": 0.0,
    }})
}

/// A jobspec that asks for slots of cores, anywhere.
pub(crate) fn slots(slots: u32, cores: u32, duration: f64) -> Value {
    jobspec(
        json!({"type": "slot", "count": slots, "label": "task",
               "with": [{"type": "core", "count": cores}]}),
        duration,
    )
}

/// A jobspec that asks for nodes with slots.
pub(crate) fn nodes(nodes: Value, slots: u32, cores: u32, exclusive: bool, duration: f64) -> Value {
    jobspec(
        json!({"type": "node", "count": nodes, "exclusive": exclusive, "with": [
            {"type": "slot", "count": slots, "label": "task",
             "with": [{"type": "core", "count": cores}]}]}),
        duration,
    )
}

pub(crate) fn jobspec(resource: Value, duration: f64) -> Value {
    json!({"version": 1, "resources": [resource],
        "tasks": [{"command": ["true"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": {"duration": duration}}})
}
