//! What a broker is told when it is made.

use std::collections::BTreeMap;
use std::sync::Arc;

use flux_id::Idset;
use flux_proto::RouteId;
use serde_json::{Map, Value};

use crate::topology::Topology;

/// Identity, place and surroundings of one broker.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Rank of this broker, below the size of the topology.
    pub rank: u32,
    /// The tree, and with it the number of brokers.
    pub topology: Topology,
    /// Identity of this incarnation: a UUID as text.
    pub uuid: RouteId,
    /// User id of the instance owner.
    pub owner: u32,
    /// Major, minor and patch of the interface that the program speaks, as flux-core counts it.
    /// Brokers of one major.minor work together.
    pub version: (u32, u32, u32),
    /// Major, minor and patch of the program. Brokers work together when the major numbers are
    /// equal and the minor numbers differ by one at most.
    pub release: (u32, u32, u32),
    /// Host name of each rank; may be empty when names are not known.
    pub hostlist: Arc<[String]>,
    /// The configuration at start; `[access]` and `[tbon]` are read here.
    pub config: Map<String, Value>,
    /// `FILE:LINE` of its keys, for sentences about them (rank 0).
    pub places: BTreeMap<String, String>,
    /// Services that the host answers itself.
    pub drivers: Vec<&'static str>,
    /// Seed of everything random in this broker. Must differ between brokers and incarnations.
    pub seed: u64,
    /// Identity of the instance, when its state outlives its leader's process; rank 0 only.
    pub instance: Option<String>,
    /// The parent's address does not change when it is started again (bootstrap from
    /// configuration).
    pub fixed_parent: bool,
    /// A broker whose parent is lost for so many seconds goes to its grandparent
    /// (`tbon.reparent`); nothing: it waits for its parent.
    pub reparent: Option<f64>,
    /// `tbon.topo`, where hosts may come and go while the instance runs: it is configured.
    pub topo_uri: Option<String>,
    /// Ranks whose hosts are gone for good (`bootstrap.hosts`, `removed = true`).
    pub removed: Idset,
    /// The public key of this broker on links to other hosts.
    pub own_key: Option<String>,
    /// The public key of each rank, where brokers have keys of their own (`bootstrap.hosts.key`).
    pub keys: Vec<Option<String>>,
    /// Settings of `[tbon]` from the command line, over those of the configuration.
    pub tbon: Map<String, Value>,
    /// Seconds of idle time on the link to the parent before a heartbeat is sent.
    pub torpid_min: f64,
    /// Seconds of silence before a child counts as torpid; 0 for never.
    pub torpid_max: f64,
    /// Environment of the broker process (`broker.getenv`).
    pub env: BTreeMap<String, String>,
    /// Installed paths (`broker.conf-builtin`).
    pub builtin_paths: BTreeMap<String, String>,
}

impl NodeConfig {
    /// A broker with nothing special about it.
    #[must_use]
    pub fn new(rank: u32, topology: Topology, uuid: RouteId, owner: u32) -> Self {
        Self {
            rank,
            topology,
            uuid,
            owner,
            version: (0, 88, 0),
            release: (0, 0, 0),
            hostlist: Arc::from(Vec::new()),
            config: Map::new(),
            places: BTreeMap::new(),
            drivers: Vec::new(),
            seed: u64::from(rank) + 1,
            instance: None,
            fixed_parent: false,
            reparent: None,
            topo_uri: None,
            removed: Idset::new(),
            own_key: None,
            keys: Vec::new(),
            tbon: Map::new(),
            torpid_min: 5.0,
            torpid_max: 30.0,
            env: BTreeMap::new(),
            builtin_paths: BTreeMap::new(),
        }
    }

    /// Number of brokers.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.topology.size()
    }

    /// The version as it travels in a hello.
    #[must_use]
    pub fn version_number(&self) -> u32 {
        pack(self.version)
    }

    /// The release as it travels in a hello.
    #[must_use]
    pub fn release_number(&self) -> u32 {
        pack(self.release)
    }

    /// Whether a broker of that release may join; one that does not tell it may.
    #[must_use]
    pub fn works_with(&self, release: Option<u32>) -> bool {
        let (major, minor, _) = self.release;
        release
            .is_none_or(|other| other >> 16 == major && ((other >> 8) & 0xff).abs_diff(minor) <= 1)
    }

    /// Host name of a rank; `rankN` when it is not known.
    #[must_use]
    pub fn host(&self, rank: u32) -> String {
        match self.hostlist.get(rank as usize) {
            Some(name) => name.clone(),
            None => format!("rank{rank}"),
        }
    }
}

/// Three numbers of a version as one.
fn pack((major, minor, patch): (u32, u32, u32)) -> u32 {
    (major << 16) | (minor << 8) | patch
}
