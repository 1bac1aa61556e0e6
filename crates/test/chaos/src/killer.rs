//! Kills brokers and starts them again; suspends some, and has some shut down.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::Plan;
use crate::board::{Board, Disturbance, wall};
use crate::cluster::Cluster;
use crate::load::Load;
use crate::plan::{Dice, Extra};

/// A broker that was killed is started again within this time.
const DOWN: (Duration, Duration) = (Duration::ZERO, Duration::from_millis(1500));
/// Pause between suspensions.
const CALM: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(14));
/// How long a broker is suspended.
const STILL: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(3000));
/// Pause between shutdowns.
const SERVICE: (Duration, Duration) = (Duration::from_secs(25), Duration::from_secs(50));
/// Pause after a shutdown that failed.
const AGAIN: Duration = Duration::from_secs(8);
/// A shutdown that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command that runs, since when, and what it is.
type Running = (Child, Instant, String);

/// What is to happen.
struct Killer<'a> {
    plan: &'a Plan,
    cluster: &'a Cluster,
    board: &'a Board,
    dice: Dice,
    /// Dice of their own, so that the same brokers are killed whatever else happens.
    other: Dice,
    /// Ranks that are down, and when they are started.
    down: BTreeMap<u32, Instant>,
    /// Ranks that are suspended, and when they go on.
    still: BTreeMap<u32, Instant>,
    shutdown: Option<Running>,
    broken: Vec<String>,
}

impl Killer<'_> {
    fn one_of(dice: &mut Dice, ranks: &[u32]) -> Option<u32> {
        let at = usize::try_from(dice.below(ranks.len().max(1) as u64)).unwrap_or(0);
        ranks.get(at).copied()
    }

    fn kill(&mut self, victims: &[u32]) {
        let up: Vec<u32> =
            victims.iter().copied().filter(|rank| !self.down.contains_key(rank)).collect();
        let Some(rank) = Self::one_of(&mut self.dice, &up) else { return };
        self.cluster.kill(rank);
        self.still.remove(&rank);
        self.board.killed(rank, self.cluster.role(rank));
        self.down.insert(rank, Instant::now() + self.dice.between(DOWN));
    }

    fn start_those_due(&mut self, now: Instant) {
        let due: Vec<u32> =
            self.down.iter().filter(|(_, at)| **at <= now).map(|(rank, _)| *rank).collect();
        for rank in due {
            self.down.remove(&rank);
            // A failure shows as a broker that never comes back.
            drop(self.cluster.restart(rank));
            self.board.started(rank);
        }
    }

    fn suspend(&mut self) {
        let up: Vec<u32> = (0..self.cluster.size())
            .filter(|rank| !self.down.contains_key(rank) && !self.still.contains_key(rank))
            .collect();
        let Some(rank) = Self::one_of(&mut self.other, &up) else { return };
        let time = self.other.between(STILL);
        self.cluster.signal(rank, Signal::STOP);
        self.board.disturb(Disturbance::Suspended, wall() + time.as_secs_f64());
        self.still.insert(rank, Instant::now() + time);
    }

    fn wake_those_due(&mut self, now: Instant) {
        let cluster = self.cluster;
        self.still.retain(|rank, at| {
            if *at > now {
                return true;
            }
            cluster.signal(*rank, Signal::CONT);
            false
        });
    }

    /// All in order, jobs are kept; or one broker alone, every other time the leader.
    fn shut_down(&mut self) {
        let all = self.other.below(2) == 0;
        let up: Vec<u32> =
            (0..self.cluster.size()).filter(|rank| !self.down.contains_key(rank)).collect();
        let first = self.other.below(2) == 0 && !self.down.contains_key(&0);
        let rank = if first { Some(0) } else { Self::one_of(&mut self.other, &up) };
        let Some(rank) = rank else { return };
        let option = if all { "--keep-jobs" } else { "--alone" };
        let child = Command::new(self.cluster.flux())
            .args(["shutdown", "--quiet", option])
            .env("FLUX_URI", self.cluster.uri(rank))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(child) = child {
            let what = format!("flux shutdown {option} at rank {rank}");
            self.shutdown = Some((child, Instant::now(), what));
            self.board.disturb(Disturbance::Shutdown, wall());
        }
    }

    /// It succeeds, or fails since a broker was killed (false); but it ends.
    fn look_after_shutdown(&mut self) -> bool {
        let Some((child, since, what)) = &mut self.shutdown else { return true };
        self.board.prolong(wall());
        let done = match child.try_wait() {
            Ok(None) if since.elapsed() > PATIENCE => {
                self.broken.push(format!("{what} does not end within {} s", PATIENCE.as_secs()));
                drop(child.kill());
                drop(child.wait());
                true
            }
            Ok(None) => return true,
            Ok(Some(status)) => status.success(),
            Err(_) => false,
        };
        self.shutdown = None;
        done
    }
}

/// Kills for as long as the plan says, and until every job of the load was submitted. Returns the
/// promises that were broken.
pub fn run(plan: &Plan, cluster: &Cluster, load: &Load<'_>, board: &Board) -> Vec<String> {
    let mut killer = Killer {
        plan,
        cluster,
        board,
        dice: Dice::new(plan.seed),
        other: Dice::new(plan.seed + 300),
        down: BTreeMap::new(),
        still: BTreeMap::new(),
        shutdown: None,
        broken: Vec::new(),
    };
    let begun = Instant::now();
    let end = begun + plan.time;
    let mut next = begun + killer.dice.between(plan.pause);
    let mut suspend = begun + killer.other.between(CALM);
    let mut service = begun + killer.other.between(SERVICE);
    let victims: Vec<u32> =
        (0..cluster.size()).filter(|rank| plan.roles.contains(&cluster.role(*rank))).collect();
    loop {
        let now = Instant::now();
        let over = now >= end && (load.is_done() || now >= end + plan.patience);
        if over && killer.down.is_empty() && killer.still.is_empty() && killer.shutdown.is_none() {
            break;
        }
        if now >= next && now < end {
            next = now + killer.dice.between(plan.pause);
            killer.kill(&victims);
        }
        if now >= suspend && now < end && killer.plan.mix.contains(&Extra::Suspend) {
            suspend = now + killer.other.between(CALM);
            killer.suspend();
        }
        if now >= service
            && now < end
            && killer.shutdown.is_none()
            && killer.plan.mix.contains(&Extra::Shutdown)
        {
            service = now + killer.other.between(SERVICE);
            killer.shut_down();
        }
        killer.start_those_due(now);
        killer.wake_those_due(now);
        if !killer.look_after_shutdown() {
            service = now + AGAIN;
        }
        cluster.tend();
        std::thread::sleep(Duration::from_millis(20));
    }
    killer.broken
}
