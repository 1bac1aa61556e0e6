//! When the leader comes back and nothing else is wrong, every node may get work again 5 s later.

use std::collections::BTreeSet;

use flux_api::Body;
use flux_api::resource::{ResourceStatus, SchedStatus, SchedStatus_, Status};
use flux_id::Idset;
use flux_model::resource_set::ResourceSet;
use flux_proto::{Errno, Message};
use serde_json::Value;

use super::{Phase, Purpose, Run, Task};
use crate::clients::Caller;
use crate::world::SEC;

/// From the start of a leader until all nodes are back for its scheduler.
const BACK: u64 = 5 * SEC;

/// So long before the leader went nothing may have been wrong: followers are where they belong.
const SETTLED: u64 = 15 * SEC;

/// What is known of what is wrong, and of a look at the nodes.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// Until then something else may be wrong than that the leader is gone.
    trouble: u64,
    /// Faults so far, without those of the leader.
    faults: u64,
    /// When the leader was killed.
    killed: Option<u64>,
    /// Ranks that somebody keeps from work.
    drained: BTreeSet<u32>,
    /// Ranks that are down for the scheduler.
    down: Option<Idset>,
}

/// One of the questions of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Drained,
    Down,
    /// Once more: somebody may have drained a node meanwhile.
    DrainedThen,
}

impl Run {
    /// Something is wrong for so long; the leader is not meant.
    pub(super) fn disturbed(&mut self, us: u64) {
        self.returns.faults += 1;
        self.returns.trouble = self.returns.trouble.max(self.world.now + us);
    }

    pub(super) fn leader_killed(&mut self) {
        self.returns.killed = Some(self.world.now);
    }

    /// A leader begins.
    pub(super) fn leader_back(&mut self) {
        let Some(killed) = self.returns.killed.take() else { return };
        let calm = self.returns.trouble + SETTLED <= killed;
        let all = (0..self.scenario.size).all(|rank| self.world.is_alive(rank));
        if self.phase == Phase::Load && calm && all {
            self.ring(BACK, Task::Returned(self.world.leaders, self.returns.faults));
        }
    }

    /// Whether nothing else is wrong since, and nobody ends the instance: that unloads its
    /// scheduler, and without one no node can be used.
    fn undisturbed(&self, leader: u64, faults: u64) -> bool {
        let ends = matches!(self.phase, Phase::Stopping | Phase::Shutdown | Phase::Over);
        let same = self.world.leaders == leader && self.returns.faults == faults;
        same && !ends && self.world.is_alive(0)
    }

    /// It is time that all nodes are back.
    pub(super) fn returned(&mut self, leader: u64, faults: u64) {
        let Some(caller) = self.auditor else { return };
        if !self.undisturbed(leader, faults) {
            return;
        }
        self.returns.drained.clear();
        self.returns.down = None;
        self.ask_drained(caller, Question::Drained);
        let tag = self.world.call::<SchedStatus_>(caller, Some(0), &Default::default());
        let purpose = Purpose::Returned(Question::Down, leader, faults);
        self.purposes.insert((caller, tag), purpose);
    }

    fn ask_drained(&mut self, caller: Caller, question: Question) {
        let (leader, faults) = (self.world.leaders, self.returns.faults);
        let tag = self.world.call::<Status>(caller, Some(0), &Default::default());
        self.purposes.insert((caller, tag), Purpose::Returned(question, leader, faults));
    }

    pub(super) fn returned_says(
        &mut self,
        caller: Caller,
        (question, leader, faults): (Question, u64, u64),
        message: &Message,
    ) {
        if !self.undisturbed(leader, faults) {
            return;
        }
        if message.errnum() != Errno::OK {
            let text = format!("nodes after a return: {}", message.error_text());
            return self.world.violation(text);
        }
        match question {
            Question::Drained | Question::DrainedThen => {
                if let Ok(status) = ResourceStatus::take(message) {
                    let ranks = status.drain.keys().filter_map(|ranks| ranks.parse::<Idset>().ok());
                    self.returns
                        .drained
                        .extend(ranks.flat_map(|ranks| ranks.ids().collect::<Vec<_>>()));
                }
            }
            Question::Down => {
                let ranks = |r: &Value| ResourceSet::from_value(r).map(|r| r.ranks());
                if let Ok(status) = SchedStatus::take(message) {
                    let all = ranks(&status.all).unwrap_or_default();
                    let mut missing = Idset::first_n(self.scenario.size).difference(&all);
                    missing.insert_all(&ranks(&status.down).unwrap_or_default());
                    self.returns.down = Some(missing);
                }
                self.ask_drained(caller, Question::DrainedThen);
            }
        }
        if question == Question::DrainedThen
            && let Some(down) = self.returns.down.take()
        {
            let away: Vec<u32> =
                down.ids().filter(|rank| !self.returns.drained.contains(rank)).collect();
            if !away.is_empty() {
                let text = format!("5 s after the leader's return ranks {away:?} are down");
                return self.world.violation(text);
            }
            self.count("returns with all nodes within 5 s");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Faults, Scenario};
    use crate::world::MS;

    /// An instance of one node with a slow disk, whose leader was killed and is back.
    fn back(seed: u64) -> Run {
        let mut scenario = Scenario::of(seed);
        scenario.size = 1;
        scenario.sessions = 1;
        scenario.jobs = 30;
        scenario.seconds = 90;
        scenario.pace.disk = (100 * MS, 700 * MS);
        scenario.faults = Faults { restart: true, ..Faults::default() };
        let mut run = Run::new(scenario, false);
        run.start_all();
        until(&mut run, |run| run.phase == Phase::Load);
        let settled = run.world.now + SETTLED;
        until(&mut run, |run| run.world.now >= settled);
        run.world.kill(0);
        run.leader_killed();
        run.world.start_after(SEC, 0);
        until(&mut run, |run| run.world.is_alive(0));
        run
    }

    fn until(run: &mut Run, end: impl Fn(&Run) -> bool) {
        while !end(run) {
            assert!(run.turn(), "{:?}", run.world.violations);
        }
    }

    fn looks(run: &Run) -> u64 {
        run.counts.get("returns with all nodes within 5 s").copied().unwrap_or(0)
    }

    #[test]
    fn all_nodes_are_back_5_s_after_a_leader_that_stays() {
        let mut run = back(0);
        let then = run.world.now + BACK + SEC;
        until(&mut run, |run| run.world.now >= then);
        assert_eq!((run.phase, looks(&run)), (Phase::Load, 1));
    }

    #[test]
    fn a_node_that_is_away_when_all_must_be_back_is_a_broken_law() {
        // Too soon: the leader has only just begun.
        let mut run = back(0);
        run.returned(run.world.leaders, run.returns.faults);
        while run.turn() && looks(&run) == 0 {}
        let said = &run.world.violations[..];
        assert!(matches!(said, [one] if one.ends_with("ranks [0] are down")), "{said:?}");
    }

    #[test]
    fn no_node_has_to_be_back_while_the_instance_is_shut_down() {
        // First the scheduler is gone for a while, and then in one of these also who is asked.
        for seed in [2, 28] {
            let mut run = back(seed);
            let soon = run.world.now + 3 * SEC;
            until(&mut run, |run| run.world.now >= soon);
            run.stop();
            // The look may come at any time.
            let (leader, faults) = (run.world.leaders, run.returns.faults);
            for ms in (0..20_000).step_by(20) {
                run.ring(ms * MS, Task::Returned(leader, faults));
            }
            until(&mut run, |run| !run.world.is_alive(0));
            assert_eq!((run.phase, looks(&run)), (Phase::Boot, 0));
        }
    }
}
