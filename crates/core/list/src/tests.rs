//! The service by transcript: a journal in, answers out.

use flux_svc::Rig;

use super::*;

mod archive;
mod constraints;
mod following;
mod life;
mod scale;

/// A service with a journal that is open.
struct Bench {
    rig: Rig<ListService>,
    journal: Message,
}

fn jobspec(name: &str, nnodes: u64, ntasks: u64) -> Value {
    json!({
        "version": 1,
        "resources": [{"type": "node", "count": nnodes, "with": [
            {"type": "slot", "label": "task", "count": ntasks / nnodes, "with": [
                {"type": "core", "count": 1}]}]}],
        "tasks": [{"command": [format!("/bin/{name}"), "x"], "slot": "task",
            "count": {"per_slot": 1}}],
        "attributes": {"system": {"duration": 60.0, "cwd": "/home/u", "environment": {"A": "b"}}},
    })
}

fn r(ranks: &str, hosts: &str) -> Value {
    json!({"version": 1, "execution": {
        "R_lite": [{"rank": ranks, "children": {"core": "0-3"}}],
        "nodelist": [hosts], "starttime": 10.0, "expiration": 70.0}})
}

fn event(time: f64, name: &str, context: Value) -> Value {
    let mut event = json!({"timestamp": time, "name": name});
    if !context.is_null() {
        event["context"] = context;
    }
    event
}

/// Events of a job up to and with `last`, one second apart from `start`.
fn history(start: f64, user: u32, priority: u32, status: i64, last: &str) -> Vec<Value> {
    let mut events = Vec::new();
    for (name, context) in [
        ("submit", json!({"userid": user, "urgency": 16, "flags": 0, "version": 1})),
        ("validate", Value::Null),
        ("depend", Value::Null),
        ("priority", json!({"priority": priority})),
        ("alloc", json!({"annotations": {"sched": {"resource_summary": "rank0/core0"}}})),
        ("start", Value::Null),
        ("finish", json!({"status": status})),
        ("release", json!({"ranks": "all", "final": true})),
        ("free", Value::Null),
        ("clean", Value::Null),
    ] {
        events.push(event(start + events.len() as f64, name, context));
        if name == last {
            break;
        }
    }
    events
}

impl Bench {
    fn new(config: Value) -> Self {
        let config = config.as_object().unwrap().clone();
        let mut rig = Rig::with(ListService::default(), 0, 1, &config);
        let journal = rig.expect("job-manager.events-journal");
        assert_eq!(journal.json::<Value>().unwrap(), json!({"full": true}));
        Self { rig, journal }
    }

    /// With an empty past.
    fn synced() -> Self {
        let mut bench = Self::new(json!({}));
        bench.sentinel();
        bench
    }

    fn sentinel(&mut self) {
        self.rig.reply(&self.journal.clone(), json!({"id": -1, "events": []}));
    }

    fn tell(&mut self, id: u64, events: &[Value]) {
        self.rig.reply(&self.journal.clone(), json!({"id": id, "events": events}));
    }

    /// A job with documents.
    fn job(&mut self, id: u64, events: &[Value], jobspec: &Value, r: Option<&Value>) {
        let mut body = json!({"id": id, "events": events, "jobspec": jobspec});
        if let Some(r) = r {
            body["R"] = r.clone();
        }
        self.rig.reply(&self.journal.clone(), body);
    }

    fn list(&mut self, body: Value) -> Value {
        let tag = self.rig.request("job-list.list", body);
        self.rig.response(tag).unwrap()["jobs"].clone()
    }

    fn list_error(&mut self, body: Value) -> RpcError {
        let tag = self.rig.request("job-list.list", body);
        self.rig.response(tag).unwrap_err()
    }

    /// Ids that a constraint means.
    fn ids(&mut self, constraint: Value) -> Vec<u64> {
        let body = json!({"max_entries": 0, "attrs": [], "constraint": constraint});
        ids_of(&self.list(body))
    }

    fn all(&mut self, id: u64) -> Value {
        let tag = self.rig.request("job-list.list-id", json!({"id": id, "attrs": ["all"]}));
        self.rig.response(tag).unwrap()["job"].clone()
    }
}

fn ids_of(jobs: &Value) -> Vec<u64> {
    jobs.as_array().unwrap().iter().map(|job| job["id"].as_u64().unwrap()).collect()
}

fn keys_of(job: &Value) -> Vec<&str> {
    job.as_object().unwrap().keys().map(String::as_str).collect()
}
