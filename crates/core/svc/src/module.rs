//! The seam between a service and the broker that holds it.

use std::collections::VecDeque;

use flux_proto::{Message, RouteId};
use serde_json::{Map, Value};

use crate::cx::Level;

/// What time it is, told by the host or the simulator with every input.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Clock {
    /// Monotonic time in microseconds since some start.
    pub mono_us: u64,
    /// Wall clock in seconds since the epoch.
    pub wall: f64,
}

/// One effect of a module.
#[derive(Debug)]
pub enum Out {
    /// A message: a request, a response or an event to publish.
    Send(Message),
    /// Deliver events whose topic begins so.
    Subscribe(String),
    /// Undo one such subscription.
    Unsubscribe(String),
    /// Register another service name for this module.
    AddService(String),
    /// Give it up.
    RemoveService(String),
    /// A line for the broker's log.
    Log(Level, String),
    /// The module is up.
    Ready,
    /// The module could not start or go on: the broker fails with this reason.
    Failed(String),
    /// The module has settled and may be stopped.
    Drained,
}

/// The way from a follower up to the leader, whichever of its links is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is broken: what is asked above fails at once, and no event comes.
    Lost,
    /// It is whole again. Events were missed meanwhile, and who is above may be a new process: what
    /// follows the leader must be compared with it, and what it was told must be told again.
    Back,
}

/// What a module sees of the broker, and its effects.
#[derive(Debug)]
pub struct Port {
    /// Time of the current input.
    pub clock: Clock,
    /// Rank of this broker.
    pub rank: u32,
    /// Number of brokers.
    pub size: u32,
    /// User id of the instance owner.
    pub owner: u32,
    /// The module's own route id.
    pub id: RouteId,
    /// State of the random sequence (split mix), seeded by the host.
    pub seed: u64,
    /// Effects, in order.
    pub out: VecDeque<Out>,
    /// Debug bits set by `M.debug`.
    pub debug: u32,
}

impl Port {
    /// A port for a module of `rank`.
    #[must_use]
    pub fn new(rank: u32, size: u32, owner: u32, id: RouteId, seed: u64) -> Self {
        Self {
            clock: Clock::default(),
            rank,
            size,
            owner,
            id,
            seed,
            out: VecDeque::new(),
            debug: 0,
        }
    }
}

/// A service as the broker holds it.
pub trait Module {
    /// Name of the module.
    fn name(&self) -> &'static str;
    /// Names of the services it provides.
    fn services(&self) -> &'static [&'static str];
    /// The configuration before start, then the start.
    fn start(&mut self, port: &mut Port, config: &Map<String, Value>);
    /// A request, response or event for it.
    fn deliver(&mut self, port: &mut Port, message: Message);
    /// The way to the leader was lost, or is back. Never at rank 0.
    fn way(&mut self, port: &mut Port, way: Way) {
        let _ = (port, way);
    }
    /// Runs timers that are due.
    fn tick(&mut self, port: &mut Port);
    /// When it wants the next tick, in monotonic microseconds.
    fn next_deadline(&self) -> Option<u64>;
    /// The broker goes down.
    fn drain(&mut self, port: &mut Port);
    /// What it waits for, for people: one line each, with its age in seconds.
    fn waits(&self, now_us: u64) -> Vec<String>;
}
