//! What comes to a running instance from outside: clocks that are set, a disk that stands still,
//! a configuration that changes.
//!
//! Of a sequence of its own, so that older seeds pick what they picked before.

use flux_api::body::AnyObject;
use flux_api::lifecycle::{ConfigGet, ConfigReload};
use flux_proto::{Errno, Message};
use serde_json::{Map, Value};

use super::{Phase, Purpose, Run, Task};
use crate::clients::Caller;
use crate::world::SEC;

/// Farthest that a clock is set from the true time, in seconds.
const HOUR: f64 = 3600.0;

/// The configuration, as it was changed so far.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Changes of the files.
    made: u64,
    /// The newest that the leader has said to have taken.
    taken: u64,
}

impl Run {
    pub(super) fn begin_trouble(&mut self) {
        let faults = self.scenario.faults;
        if faults.clocks || faults.stalls || faults.reloads {
            self.ring(SEC, Task::Trouble);
        }
    }

    pub(super) fn trouble(&mut self) {
        if self.phase != Phase::Load {
            return;
        }
        let after = self.elsewhere.range(SEC / 10, 6 * SEC);
        self.ring(after, Task::Trouble);
        let faults = self.scenario.faults;
        match self.elsewhere.range(0, 3) {
            0 if faults.clocks => self.set_clocks(),
            1 if faults.stalls => {
                let most = if self.elsewhere.chance(20) { 20 * SEC } else { 3 * SEC };
                let us = self.elsewhere.range(SEC / 10, most);
                self.world.stalled = self.world.now + us;
                self.disturbed(us);
                self.count("disk stalls");
            }
            2 if faults.reloads => self.reload(),
            _ => {}
        }
    }

    /// Sets the clock of a node, or of all alike, forward or back.
    fn set_clocks(&mut self) {
        let far = self.elsewhere.range(0, 7_200_001) as f64 / 1e3 - HOUR;
        let near = self.elsewhere.range(0, 2_001) as f64 / 1e3 - 1.0;
        let skew = *self.elsewhere.pick(&[far, far, near, -HOUR, HOUR]).unwrap_or(&far);
        let rank = self.elsewhere.rank(0, self.scenario.size);
        let all = self.elsewhere.chance(40);
        for at in 0..self.scenario.size {
            if all || at == rank {
                self.world.set_clock(at, skew);
            }
        }
        self.disturbed(0);
        self.count("clocks set");
    }

    /// Changes the files, and has them read.
    fn reload(&mut self) {
        self.changes.made += 1;
        let made = self.changes.made;
        self.world.shape.config = self.scenario.config(made);
        self.count("configurations changed");
        let Some(caller) = self.auditor else { return };
        let tag = self.world.call::<ConfigReload>(caller, Some(0), &AnyObject::default());
        self.purposes.insert((caller, tag), Purpose::Reload(made));
    }

    pub(super) fn reloaded(&mut self, made: u64, message: &Message) {
        match message.errnum() {
            Errno::OK => self.changes.taken = self.changes.taken.max(made),
            // It was refused, though nothing is wrong with it.
            Errno::EINVAL | Errno::EPROTO => {
                let text = format!("config.reload: {}", message.error_text());
                self.world.violation(text);
            }
            _ => {}
        }
    }

    /// Asks every broker for its configuration.
    pub(super) fn ask_configurations(&mut self, caller: Caller) {
        for rank in 0..self.scenario.size {
            let tag = self.world.call::<ConfigGet>(caller, Some(rank), &AnyObject::default());
            self.purposes.insert((caller, tag), Purpose::Configuration(rank));
        }
    }

    /// In the end every broker has what the leader has taken, or something newer.
    pub(super) fn configured(&mut self, rank: u32, message: &Message) {
        let config: Map<String, Value> = message.json().unwrap_or_default();
        let Changes { made, taken } = self.changes;
        if !(taken..=made).any(|changes| self.scenario.config(changes) == config) {
            let text = format!(
                "configuration of rank {rank}: {config:?}; change {taken} of {made} was taken"
            );
            self.world.violation(text);
        }
    }
}
