//! One large instance without faults: boot, a job on every rank, shutdown.

use flux_api::job::FLAG_WAITABLE;
use flux_api::job::ingest::{Submit, SubmitRequest};
use flux_api::job::manager::{Wait, WaitRequest};
use flux_api::lifecycle::{ShutdownRequest, ShutdownStart, WaitRun};
use flux_broker::Topology;
use flux_model::sign::wrap_none;
use flux_proto::{Errno, Message};
use serde_json::{Value, json};

use crate::brokers::{OWNER, Shape};
use crate::world::{Notice, Pace, SEC, World};

/// Virtual seconds of each part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// From the start of the first broker to the run state of rank 0, with all ranks online.
    pub boot: f64,
    /// From the submission of a job with a task on every rank to its end; the task takes a second.
    pub job: f64,
    /// From the request to the end of the last broker.
    pub shutdown: f64,
    /// Events of the simulation.
    pub steps: u64,
}

/// Steps until something that a script may want to know happened.
fn next(world: &mut World, steps: &mut u64) -> Result<Notice, String> {
    loop {
        if let Some(law) = world.violations.first() {
            return Err(law.clone());
        }
        if let Some(notice) = world.notices.pop_front() {
            return Ok(notice);
        }
        *steps += 1;
        if !world.step() || world.now > 3600 * SEC {
            return Err("it does not come to its end".to_string());
        }
    }
}

fn answer(world: &mut World, wanted: u32, steps: &mut u64) -> Result<Message, String> {
    loop {
        if let Notice::Response { tag, message, .. } = next(world, steps)?
            && tag == wanted
        {
            if message.errnum() != Errno::OK {
                return Err(message.error_text().to_string());
            }
            return Ok(message);
        }
    }
}

/// Boots `size` brokers in a tree of this fanout, runs a job on every rank, and shuts down.
///
/// # Errors
/// What went wrong.
pub fn boot(size: u32, fanout: u32) -> Result<Figures, String> {
    let topology = Topology::kary(fanout, size).map_err(|error| error.to_string())?;
    let mut world = World::new(Shape::new(topology, 4), Pace::default(), u64::from(size));
    let mut steps = 0;
    let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / SEC as f64;
    for rank in 0..size {
        world.start_after(u64::from(rank) * 1000, rank);
    }
    let began = world.now;
    while !world.is_alive(0) && world.step() {}
    let caller = world.connect(0).ok_or("rank 0 takes no clients")?;
    let tag = world.call::<WaitRun>(caller, Some(0), &Default::default());
    answer(&mut world, tag, &mut steps)?;
    let up = world.now;
    let jobspec = json!({
        "version": 1,
        "resources": [{"type": "node", "count": size, "with": [
            {"type": "slot", "count": 1, "label": "task", "with": [{"type": "core", "count": 4}]}]}],
        "tasks": [{"command": ["sleep", "1"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": {"duration": 0}},
    });
    let j = wrap_none(jobspec.to_string().as_bytes(), OWNER);
    let request = SubmitRequest { j, urgency: 16, flags: FLAG_WAITABLE };
    let tag = world.call::<Submit>(caller, None, &request);
    let body: Value =
        answer(&mut world, tag, &mut steps)?.json().map_err(|error| error.to_string())?;
    let id = body["id"].as_u64().ok_or("no job id")?;
    let tag = world.call::<Wait>(caller, None, &WaitRequest { id });
    let ended: Value =
        answer(&mut world, tag, &mut steps)?.json().map_err(|error| error.to_string())?;
    if ended["success"] != true {
        return Err(format!("the job fails: {ended}"));
    }
    let done = world.now;
    let request = ShutdownRequest { loglevel: None, keep_jobs: false, alone: false };
    world.call::<ShutdownStart>(caller, Some(0), &request);
    let mut exits = 0;
    while exits < size {
        if let Notice::Exited(rank, code) = next(&mut world, &mut steps)? {
            if code != 0 {
                return Err(format!("rank {rank} ends with {code}"));
            }
            exits += 1;
        }
    }
    Ok(Figures {
        boot: seconds(began, up),
        job: seconds(up, done),
        shutdown: seconds(done, world.now),
        steps,
    })
}
