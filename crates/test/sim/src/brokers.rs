//! The brokers of a simulated instance: the same services as the real program, in the same order.

use std::sync::Arc;

use flux_broker::{Node, NodeConfig, Topology};
use flux_content::{CACHE_BYTES, ContentService, GcSettings};
use flux_cron::CronService;
use flux_exec::ExecService;
use flux_info::InfoService;
use flux_ingest::IngestService;
use flux_kvs::{KvsService, WatchService};
use flux_lifecycle::{
    AttributeService, Attributes, ConfigService, GroupsService, HeartbeatService, LogService,
    LogSettings, Settings, StateMachineService,
};
use flux_list::ListService;
use flux_manager::JobManager;
use flux_model::blobref::HashAlg;
use flux_proto::RouteId;
use flux_resource::{ResourceService, ResourceSettings};
use flux_sched::{SchedService, SchedSettings};
use flux_svc::{Module, Runner, Service};
use serde_json::{Map, Value};

/// User id of the owner of every simulated instance.
pub const OWNER: u32 = 1000;

/// User id of somebody else.
pub const GUEST: u32 = 5001;

/// Where guests have jobs: what starts their shells, and the shell.
pub(crate) const IMP: &str = "/usr/libexec/flux/flux-imp";
pub(crate) const SHELL: &str = "/usr/libexec/flux/flux-shell";

/// Hash of the content store.
pub const HASH: HashAlg = HashAlg::Sha1;

/// Collections: as often as a run can bear.
pub(crate) const GC: GcSettings =
    GcSettings { auto: true, grace_us: 2_000_000, growth: 8 << 10, commits: 0 };

/// What does not change while an instance lives.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The tree.
    pub topology: Topology,
    /// Cores of each node.
    pub cores: u32,
    /// The configuration.
    pub config: Map<String, Value>,
    /// Finished jobs go to an archive.
    pub archive: bool,
    /// Seconds after which a broker whose parent is lost goes to its grandparent.
    pub reparent: Option<f64>,
    /// Host names.
    pub hosts: Arc<[String]>,
}

impl Shape {
    /// A tree of nodes with this many cores each.
    #[must_use]
    pub fn new(topology: Topology, cores: u32) -> Self {
        let hosts: Vec<String> = (0..topology.size()).map(|rank| format!("node{rank}")).collect();
        Self {
            topology,
            cores,
            config: Map::new(),
            archive: true,
            reparent: None,
            hosts: hosts.into(),
        }
    }

    /// Number of brokers.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.topology.size()
    }
}

fn module<S: Service>(service: S) -> Box<dyn Module> {
    Box::new(Runner::new(service))
}

fn attributes(shape: &Shape, rank: u32) -> Attributes {
    let mut attributes = Attributes::new();
    for (name, value) in [
        ("rank", rank.to_string()),
        ("size", shape.size().to_string()),
        ("hostname", format!("node{rank}")),
        ("hostlist", format!("node[0-{}]", shape.size() - 1)),
        ("version", "0.88.0".to_string()),
        ("security.owner", OWNER.to_string()),
        ("local-uri", format!("local:///sim/local-{rank}")),
        ("tbon.level", shape.topology.level(rank).to_string()),
        ("tbon.maxlevel", shape.topology.maxlevel().to_string()),
        ("tbon.descendants", shape.topology.descendants(rank).to_string()),
    ] {
        attributes.set(name, value);
    }
    attributes
}

/// A broker process at its beginning.
///
/// # Panics
/// When the attributes are wrong, which would be this crate's mistake.
#[must_use]
pub fn broker(shape: &Shape, rank: u32, uuid: &str, seed: u64) -> Node {
    let attributes = attributes(shape, rank);
    let log = LogSettings::from_attributes(&attributes).expect("default log attributes are valid");
    let hosts: Vec<String> = shape.hosts.to_vec();
    let life = Settings {
        quorum: shape.size(),
        shell: "/bin/sh".to_string(),
        hosts: hosts.clone(),
        startlog: Some("0.88.0".to_string()),
        ..Settings::default()
    };
    let resources = ResourceSettings {
        hosts,
        descendants: shape.topology.descendants(rank),
        ranks_return: true,
        reparent: shape.reparent.is_some(),
        ..ResourceSettings::default()
    };
    let builtins = vec![
        module(AttributeService::new(attributes)),
        module(LogService::new(log)),
        module(ConfigService::new(rank, shape.config.clone())),
        module(GroupsService::default()),
        module(StateMachineService::new(life)),
    ];
    let leader = rank == 0;
    let mut modules = vec![
        module(HeartbeatService::default()),
        module(ContentService::new(HASH, CACHE_BYTES).with_gc(GC)),
        module(KvsService::new(HASH)),
        module(WatchService::new()),
        module(ResourceService::new(resources)),
    ];
    if leader {
        modules.push(module(if shape.archive {
            JobManager::with_archive()
        } else {
            JobManager::default()
        }));
    }
    modules.push(module(InfoService::default()));
    if leader {
        modules.push(module(if shape.archive {
            ListService::with_archive()
        } else {
            ListService::default()
        }));
    }
    modules.push(module(IngestService::default()));
    if leader {
        let shell = vec!["flux".to_string(), "shell".to_string()];
        let settings = flux_exec::settings::Settings::new(shell).with_return();
        modules.push(module(ExecService::new(settings)));
        modules.push(module(SchedService::new(SchedSettings::default())));
        modules.push(module(CronService::new(Vec::new())));
    }
    let mut config = NodeConfig::new(rank, shape.topology.clone(), RouteId::from(uuid), OWNER);
    config.hostlist = shape.hosts.clone();
    config.config.clone_from(&shape.config);
    config.drivers = vec!["console", "topo", "rexec", "launch"];
    if leader {
        config.drivers.push("content-backing");
        if shape.archive {
            config.drivers.push("archive");
        }
    }
    config.seed = seed;
    // The state on the disk outlives the leader.
    config.instance = leader.then(|| "simulated".to_string());
    config.fixed_parent = true;
    config.reparent = shape.reparent;
    Node::new(config, builtins, modules)
}
