//! What a seed picks: the tree, the load, the speed of things, and which faults may happen.

use flux_broker::Topology;

use serde_json::{Map, Value, json};

use crate::brokers::{IMP, SHELL, Shape};
use crate::rng::Rng;
use crate::world::{MS, Pace, SEC};

/// Kinds of faults that a run may see, each on or off, so that some runs are of one kind only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Connections to parents break.
    pub links: bool,
    /// Ranks are cut off for a while.
    pub partitions: bool,
    /// Followers are killed.
    pub followers: bool,
    /// The leader is killed.
    pub leader: bool,
    /// Some of those that are killed lose their power, and with it their job shells.
    pub power: bool,
    /// The disk is full for a while.
    pub full: bool,
    /// The disk fails for a while.
    pub broken: bool,
    /// Clients hang up in the middle.
    pub clients: bool,
    /// Jobs are canceled or get signals.
    pub cancels: bool,
    /// Nodes are drained and given work again.
    pub drains: bool,
    /// The instance is shut down in the middle and started again.
    pub restart: bool,
    /// Faults begin before the instance runs.
    pub early: bool,
    /// Faults follow each other closely.
    pub storm: bool,
    /// The wall clocks of nodes are set, by up to an hour.
    pub clocks: bool,
    /// The disk does not answer for a while.
    pub stalls: bool,
    /// The configuration is changed and read again.
    pub reloads: bool,
    /// Somebody changes what must outlive every leader: drains, queues, holds, urgencies.
    pub settings: bool,
    /// Some of those at work do not own the instance.
    pub guests: bool,
    /// Finished jobs are purged.
    pub purges: bool,
    /// Tree objects are read, and put somewhere else later.
    pub copies: bool,
    /// Many jobs that ask for the same wait for each other.
    pub crowd: bool,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where everything random comes from.
    pub seed: u64,
    /// Number of brokers.
    pub size: u32,
    /// `tbon.topo`.
    pub tree: String,
    /// Cores of each node.
    pub cores: u32,
    /// Connections that submit jobs and change keys.
    pub sessions: u32,
    /// Jobs to submit in all.
    pub jobs: u32,
    /// Seconds of load and faults.
    pub seconds: u64,
    /// What may go wrong.
    pub faults: Faults,
    /// How fast things are.
    pub pace: Pace,
    /// Finished jobs go to an archive, as they do with a state directory that stays.
    pub archive: bool,
    /// Seconds after which a broker whose parent is lost goes to its grandparent.
    pub reparent: Option<f64>,
}

impl Scenario {
    /// What this seed picks.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5ce4_a210_0000_0000);
        let size = match rng.range(0, 10) {
            0 => 1,
            1..=7 => rng.rank(2, 9),
            _ => rng.rank(9, 20),
        };
        let trees = ["kary:2", "kary:0", "kary:1", "kary:3", "binomial", "mincrit:2"];
        let tree = (*rng.pick(&trees).unwrap_or(&"kary:2")).to_string();
        let calm = rng.chance(15);
        let crowd = Rng::new(seed ^ 0xc4a0_3d00).chance(12);
        let mut fault = |percent| !calm && rng.chance(percent);
        let faults = Faults {
            links: fault(35),
            partitions: fault(25),
            followers: fault(35),
            // What a crowd is for is that the leader goes.
            leader: fault(30) || (crowd && !calm),
            full: fault(25),
            broken: fault(15),
            clients: fault(40),
            cancels: fault(50),
            drains: fault(30),
            restart: fault(20),
            early: fault(15),
            storm: fault(25),
            // Of a sequence of its own, so that older seeds pick what they picked before.
            power: !calm && Rng::new(seed ^ 0x9031_e4c7).chance(25),
            clocks: !calm && Rng::new(seed ^ 0xc10c_4a11).chance(20),
            stalls: !calm && Rng::new(seed ^ 0x57a1_1ed0).chance(20),
            reloads: Rng::new(seed ^ 0x4e10_ad00).chance(25),
            settings: Rng::new(seed ^ 0x5e77_1495).chance(30),
            guests: Rng::new(seed ^ 0x9e57_0000).chance(25),
            purges: Rng::new(seed ^ 0x70e6_e000).chance(20),
            copies: Rng::new(seed ^ 0xc0b1_0000).chance(25),
            crowd,
        };
        let slow_link = rng.chance(20);
        let slow_disk = rng.chance(20);
        let pace = Pace {
            link: if slow_link { (MS, 80 * MS) } else { (20, 500) },
            disk: if slow_disk { (20 * MS, 700 * MS) } else { (100, 3 * MS) },
            spawn: (500, 20 * MS),
            stubborn: if rng.chance(30) { 30 } else { 0 },
            failing: if rng.chance(30) { 30 } else { 0 },
        };
        Self {
            seed,
            size,
            tree,
            cores: rng.rank(1, 5),
            sessions: rng.rank(1, 6),
            jobs: {
                let jobs = if rng.chance(8) { rng.rank(100, 250) } else { rng.rank(1, 30) };
                if faults.crowd { jobs.max(80) } else { jobs }
            },
            seconds: rng.range(20, 90),
            faults,
            pace,
            archive: Rng::new(seed ^ 0xa3c4_17e0).chance(80),
            reparent: {
                let mut rng = Rng::new(seed ^ 0x7e9a_4e17);
                let after = rng.pick(&[0.0, 0.3, 1.0, 4.0]).copied();
                after.filter(|_| rng.chance(40))
            },
        }
    }

    /// What does not change while the instance lives.
    ///
    /// # Panics
    /// When the tree has an unknown name, which none of this crate has.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let topology = Topology::parse(&self.tree, self.size, &[])
            .expect("trees of scenarios have valid names");
        let config = self.config(0);
        Shape {
            archive: self.archive,
            reparent: self.reparent,
            config,
            ..Shape::new(topology, self.cores)
        }
    }

    /// The configuration, as it is after so many changes.
    #[must_use]
    pub fn config(&self, changes: u64) -> Map<String, Value> {
        let mut config = json!({});
        if self.faults.guests {
            config["access"] = json!({"allow-guest-user": true});
            config["exec"] = json!({"imp": IMP, "job-shell": SHELL});
        }
        if self.faults.settings {
            config["queues"] = json!({"batch": {}, "debug": {}});
            config["policy"] = json!({"jobspec": {"defaults": {"system": {"queue": "batch"}}}});
        }
        if self.faults.purges && self.seed.is_multiple_of(2) {
            config["job-manager"] = json!({"inactive-num-limit": 10});
        }
        if self.faults.reloads {
            // Something that says which one it is, and something that is felt.
            config["exec"]["kill-timeout"] = json!(2.0 + changes as f64 / 1024.0);
            let period = ["1s", "2s", "3s"][usize::try_from(changes % 3).unwrap_or(0)];
            config["heartbeat"] = json!({ "period": period });
        }
        match config {
            Value::Object(config) => config,
            _ => Map::new(),
        }
    }

    /// The end of load and faults in microseconds after its begin.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.seconds * SEC
    }
}
