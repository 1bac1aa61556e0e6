//! Kills brokers and starts them again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flux_api::kvs::{Commit, CommitRequest, PRIMARY};
use flux_client::{Client, To};

use crate::Plan;
use crate::cluster::{Cluster, Role};
use crate::load::Load;
use crate::plan::Dice;

/// A broker that was killed is started again within this time.
const DOWN: (Duration, Duration) = (Duration::ZERO, Duration::from_millis(1500));

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
}

/// What is to happen to brokers that are away.
#[derive(Debug, Default)]
struct Away {
    /// Ranks that are down, and when they are started.
    down: BTreeMap<u32, Instant>,
    /// Ranks that were started: when, and which kill it was.
    starting: BTreeMap<u32, (Instant, usize)>,
    last: BTreeMap<u32, usize>,
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

fn wall() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Kills for as long as the plan says, and until every job of the load was submitted.
pub fn run(plan: &Plan, cluster: &Cluster, load: &Load<'_>) -> Vec<Kill> {
    let mut dice = Dice::new(plan.seed);
    let mut kills: Vec<Kill> = Vec::new();
    let mut away = Away::default();
    let begun = Instant::now();
    let end = begun + plan.time;
    let mut next = begun + dice.between(plan.pause);
    let victims: Vec<u32> =
        (0..cluster.size()).filter(|rank| plan.roles.contains(&cluster.role(*rank))).collect();
    loop {
        let now = Instant::now();
        let over = now >= end && (load.is_done() || now >= end + plan.patience);
        if over && away.down.is_empty() {
            break;
        }
        if now >= next && now < end {
            next = now + dice.between(plan.pause);
            let up: Vec<u32> =
                victims.iter().copied().filter(|rank| !away.down.contains_key(rank)).collect();
            if !up.is_empty() {
                let at = usize::try_from(dice.below(up.len() as u64)).unwrap_or(0);
                let rank = up[at];
                cluster.kill(rank);
                away.starting.remove(&rank);
                away.last.insert(rank, kills.len());
                away.down.insert(rank, Instant::now() + dice.between(DOWN));
                let role = cluster.role(rank);
                kills.push(Kill { rank, role, at: wall(), started: None, recovered: None });
            }
        }
        let ready: Vec<u32> =
            away.down.iter().filter(|(_, at)| **at <= now).map(|(rank, _)| *rank).collect();
        for rank in ready {
            away.down.remove(&rank);
            // A failure shows as a broker that never comes back.
            drop(cluster.restart(rank));
            if let Some(kill) = away.last.get(&rank) {
                kills[*kill].started = Some(wall());
                away.starting.insert(rank, (Instant::now(), *kill));
            }
        }
        away.starting.retain(|rank, (since, kill)| {
            if !serves(cluster, *rank) {
                return true;
            }
            kills[*kill].recovered = Some(since.elapsed());
            false
        });
        cluster.tend();
        std::thread::sleep(Duration::from_millis(20));
    }
    kills
}
