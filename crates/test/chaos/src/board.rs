//! What is known of the brokers while the storm goes on, and how long they were away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flux_api::kvs::{Commit, CommitRequest, PRIMARY};
use flux_client::{Client, To};

use crate::cluster::{Cluster, Role};

/// A disturbance counts for so many seconds more.
const AFTERMATH: f64 = 2.0;

/// Seconds since the epoch.
#[must_use]
pub fn wall() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A broker was killed.
#[derive(Debug, Clone)]
pub struct Kill {
    /// Its rank.
    pub rank: u32,
    /// Its role.
    pub role: Role,
    /// When, in seconds since the epoch.
    pub at: f64,
    /// When it was started again.
    pub started: Option<f64>,
    /// From its start to when it served as before.
    pub recovered: Option<Duration>,
    /// The leader: from its start to when all nodes were there for the scheduler that can be.
    pub nodes_back: Option<Duration>,
    /// The leader: killed again before that, after this time.
    pub cut_short: Option<Duration>,
}

/// What else than kills happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// A broker was suspended.
    Suspended,
    /// A broker, or all, were shut down.
    Shutdown,
}

#[derive(Debug, Default)]
struct Known {
    kills: Vec<Kill>,
    /// Killed, and not started again.
    down: BTreeSet<u32>,
    /// Started, and not ready yet: when, and which kill it was.
    starting: BTreeMap<u32, (Instant, usize)>,
    last: BTreeMap<u32, usize>,
    /// The leader was started, and not all nodes were back since.
    leader: Option<(Instant, usize)>,
    drained: BTreeSet<u32>,
    disturbances: Vec<(Disturbance, f64, f64)>,
}

/// What is known.
#[derive(Debug, Default)]
pub struct Board(Mutex<Known>);

/// All of it, in the end.
#[derive(Debug, Default)]
pub struct Record {
    /// In their order.
    pub kills: Vec<Kill>,
    /// What else happened, from when to when.
    pub disturbances: Vec<(Disturbance, f64, f64)>,
}

impl Record {
    /// Whether something else than a kill happened between two times.
    #[must_use]
    pub fn disturbed(&self, from: f64, to: f64) -> bool {
        self.disturbances.iter().any(|(_, begin, end)| *begin < to && end + AFTERMATH > from)
    }

    /// How often it happened.
    #[must_use]
    pub fn count(&self, what: Disturbance) -> usize {
        self.disturbances.iter().filter(|(kind, _, _)| *kind == what).count()
    }

    /// Who was away between two times, as text.
    #[must_use]
    pub fn away(&self, from: f64, to: f64) -> String {
        let kills = self.kills.iter().filter(|kill| {
            let back = kill.recovered.unwrap_or_default().as_secs_f64();
            kill.at < to && kill.started.map_or(f64::MAX, |at| at + back) > from
        });
        let kills = kills.map(|kill| {
            let started =
                kill.started.map_or("never".to_string(), |at| format!("{:+.2}", at - from));
            let ready = match (kill.started, kill.recovered) {
                (Some(at), Some(time)) => format!("{:+.2}", at + time.as_secs_f64() - from),
                _ => "-".to_string(),
            };
            format!(
                "{} {} killed {:+.2}, started {started}, ready {ready}",
                kill.role,
                kill.rank,
                kill.at - from
            )
        });
        let others = self
            .disturbances
            .iter()
            .filter(|(_, begin, end)| *begin < to && end + AFTERMATH > from)
            .map(|(what, begin, end)| {
                format!("{what:?} {:+.2} to {:+.2}", begin - from, end - from)
            });
        kills.chain(others).collect::<Vec<_>>().join("; ")
    }
}

impl Board {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A broker was killed.
    pub fn killed(&self, rank: u32, role: Role) {
        let mut known = self.known();
        known.starting.remove(&rank);
        known.down.insert(rank);
        if rank == 0
            && let Some((since, kill)) = known.leader.take()
        {
            known.kills[kill].cut_short = Some(since.elapsed());
        }
        let number = known.kills.len();
        known.last.insert(rank, number);
        known.kills.push(Kill {
            rank,
            role,
            at: wall(),
            started: None,
            recovered: None,
            nodes_back: None,
            cut_short: None,
        });
    }

    /// It was started again.
    pub fn started(&self, rank: u32) {
        let mut known = self.known();
        known.down.remove(&rank);
        let Some(kill) = known.last.get(&rank).copied() else { return };
        known.kills[kill].started = Some(wall());
        known.starting.insert(rank, (Instant::now(), kill));
        if rank == 0 {
            known.leader = Some((Instant::now(), kill));
        }
    }

    /// Something else happens until a time.
    pub fn disturb(&self, what: Disturbance, until: f64) {
        self.known().disturbances.push((what, wall(), until));
    }

    /// The last shutdown goes on.
    pub fn prolong(&self, until: f64) {
        let mut known = self.known();
        let last = known.disturbances.iter_mut().rev().find(|it| it.0 == Disturbance::Shutdown);
        if let Some((_, _, end)) = last {
            *end = until;
        }
    }

    /// A node is drained, or may be; or not any more.
    pub fn drain(&self, rank: u32, drained: bool) {
        let mut known = self.known();
        match drained {
            true => known.drained.insert(rank),
            false => known.drained.remove(&rank),
        };
    }

    /// Nodes that must be there for the scheduler: what is not drained, where nobody is away from
    /// there up to the leader.
    fn expected(&self, cluster: &Cluster) -> u32 {
        let known = self.known();
        let here = |rank: u32| !known.down.contains(&rank) && !known.starting.contains_key(&rank);
        let there = (0..cluster.size()).filter(|rank| {
            let mut above = *rank;
            while above != 0 && here(above) {
                above = cluster.parent(above);
            }
            above == 0 && !known.drained.contains(rank)
        });
        u32::try_from(there.count()).unwrap_or(u32::MAX)
    }

    /// Looks whether brokers that were started are ready, until told to stop.
    pub fn watch_brokers(&self, cluster: &Cluster, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let starting = self.known().starting.clone();
            for (rank, (since, kill)) in starting {
                if serves(cluster, rank) {
                    let mut known = self.known();
                    if known.starting.get(&rank).is_some_and(|(_, other)| *other == kill) {
                        known.starting.remove(&rank);
                        known.kills[kill].recovered = Some(since.elapsed());
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Looks whether all nodes are back after a start of the leader, until told to stop.
    pub fn watch_nodes(&self, cluster: &Cluster, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let waits = self.known().leader;
            if let Some((since, kill)) = waits
                && let Some(up) = cluster.nodes_up()
                && up >= self.expected(cluster)
            {
                let mut known = self.known();
                if known.leader.is_some_and(|(_, other)| other == kill) {
                    known.leader = None;
                    known.kills[kill].nodes_back = Some(since.elapsed());
                }
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// All of it.
    #[must_use]
    pub fn record(self) -> Record {
        let known = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        Record { kills: known.kills, disturbances: known.disturbances }
    }
}

/// Whether a broker serves requests that need the whole instance.
fn serves(cluster: &Cluster, rank: u32) -> bool {
    let Ok(client) = Client::open_once(&cluster.uri(rank), Duration::from_millis(200)) else {
        return false;
    };
    // Empty, but it goes to rank 0 and waits for the disk.
    let request = CommitRequest { namespace: PRIMARY.to_string(), flags: 0, ops: Vec::new() };
    client.send::<Commit>(To::Any, &request).wait_within(Duration::from_millis(500)).is_ok()
}
