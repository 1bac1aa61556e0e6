//! What goes wrong, and that it ends.

use flux_api::overlay::{DisconnectSubtree, RankRequest};
use flux_proto::Errno;

use super::{Phase, Purpose, Run, Task};
use crate::world::SEC;

/// Faults do not keep an instance from its start for ever.
const EARLY: u64 = 60 * SEC;

impl Run {
    pub(super) fn begin_faults(&mut self) {
        if self.scenario.faults.early {
            // Nothing heals while an instance boots, so that the disk must not be left broken.
            self.world.disk.fails = None;
        }
        if self.again {
            self.ring(self.scenario.length() / 2, Task::Stop);
        } else {
            self.ring(self.scenario.length(), Task::Look);
        }
        if !self.scenario.faults.early {
            let after = self.rng.range(SEC, 5 * SEC);
            self.ring(after, Task::Fault);
        }
    }

    fn follower(&mut self) -> Option<u32> {
        (self.scenario.size > 1).then(|| self.rng.rank(1, self.scenario.size))
    }

    /// Kills a broker, or its node.
    fn strike(&mut self, rank: u32) {
        if self.scenario.faults.power && self.rng.chance(40) {
            self.world.cut_power(rank);
            self.count("power cuts");
        } else {
            self.world.kill(rank);
        }
    }

    /// Does one thing that this run may see.
    pub(super) fn fault(&mut self) {
        let faults = self.scenario.faults;
        let booting = faults.early && self.phase == Phase::Boot;
        let late = self.world.now > self.phase_began + EARLY;
        if self.phase > Phase::Load || (booting && late) {
            return;
        }
        let most = if faults.storm { 2 * SEC } else { 15 * SEC };
        let after = self.rng.range(SEC / 20, most);
        self.ring(after, Task::Fault);
        if self.phase == Phase::Boot && !booting {
            return;
        }
        match self.rng.range(0, 9) {
            0 if faults.links => {
                if let Some(rank) = self.follower()
                    && self.world.break_uplink(rank)
                {
                    self.disturbed(0);
                    self.count("links broken");
                }
            }
            1 if faults.partitions => {
                if let Some(rank) = self.follower() {
                    let us = if self.rng.chance(50) {
                        self.rng.range(SEC / 10, 5 * SEC)
                    } else {
                        self.rng.range(20 * SEC, 40 * SEC)
                    };
                    self.world.partition(rank, us);
                    self.disturbed(us);
                    self.count("partitions");
                }
            }
            2 if faults.followers => {
                if let Some(rank) = self.follower()
                    && self.world.is_alive(rank)
                {
                    self.strike(rank);
                    // Where its subtree goes elsewhere, long enough for that.
                    let most = if self.scenario.reparent.is_some() { 40 * SEC } else { 10 * SEC };
                    let after = self.rng.range(SEC / 10, most);
                    self.world.start_after(after, rank);
                    self.disturbed(after);
                    self.count("followers killed");
                }
            }
            3 if faults.leader && self.world.is_alive(0) => {
                self.strike(0);
                let after = self.rng.range(SEC / 10, 5 * SEC);
                self.world.start_after(after, 0);
                self.leader_killed();
                self.order_leader_gone();
                self.count("leaders killed");
            }
            4 if faults.full => {
                self.world.disk.fails = Some(Errno::ENOSPC);
                let after = self.rng.range(SEC / 100, 5 * SEC);
                self.ring(after, Task::DiskHeals);
                self.disturbed(after);
                self.count("disk full");
            }
            5 if faults.broken => {
                self.world.disk.fails = Some(Errno::EIO);
                let after = self.rng.range(SEC / 100, 3 * SEC);
                self.ring(after, Task::DiskHeals);
                self.disturbed(after);
                self.count("disk errors");
            }
            6 if faults.followers => {
                // As the service manager stops it; the instance goes on without.
                if faults.leader && self.world.is_alive(0) && self.rng.chance(25) {
                    self.world.signal(0, 15);
                    self.leaving = true;
                    self.disturbed(0);
                    self.count("leaders stopped");
                } else if let Some(rank) = self.follower()
                    && self.world.is_alive(rank)
                {
                    self.world.signal(rank, 15);
                    self.disturbed(0);
                    self.count("followers stopped");
                }
            }
            7 if faults.partitions => {
                let rank = self.rng.rank(0, self.scenario.size);
                let us = self.rng.range(SEC / 10, 60 * SEC);
                self.world.freeze(rank, us);
                self.disturbed(us);
                self.count("processes suspended");
            }
            8 if faults.links => self.disconnect(),
            _ => {}
        }
    }

    /// Somebody declares a broker dead that is not.
    fn disconnect(&mut self) {
        let (Some(rank), Some(caller)) = (self.follower(), self.auditor) else { return };
        let Some(parent) = self.world.shape.topology.parent(rank) else { return };
        let request = RankRequest { rank };
        let tag = self.world.call::<DisconnectSubtree>(caller, Some(parent), &request);
        self.purposes.insert((caller, tag), Purpose::Ignored);
        self.disturbed(0);
        self.count("disconnects");
    }
}
