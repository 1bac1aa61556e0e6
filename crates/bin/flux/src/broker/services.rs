//! What runs on which rank.

use flux_content::{CACHE_BYTES, ContentService};
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
use flux_resource::{ResourceService, ResourceSettings};
use flux_sched::{SchedService, SchedSettings};
use flux_svc::{Module, Runner, Service};
use serde_json::{Map, Value};

/// What the services of one broker need to know at the start.
pub(crate) struct Plan {
    /// Own rank.
    pub(crate) rank: u32,
    /// Hash of the content store.
    pub(crate) hash: HashAlg,
    /// Attributes.
    pub(crate) attributes: Attributes,
    /// Configuration as this broker read it.
    pub(crate) config: Map<String, Value>,
    /// How the broker lives.
    pub(crate) life: Settings,
    /// What the resource service cannot find out itself.
    pub(crate) resources: ResourceSettings,
    /// Program and first arguments of the job shell.
    pub(crate) shell: Vec<String>,
    /// Crontab files: names and texts.
    pub(crate) crontabs: Vec<(String, String)>,
    /// Command that prints what the privileged launcher reads for a job; the job id follows.
    pub(crate) imp_helper: String,
    /// Finished jobs go to an archive: there is a driver for it.
    pub(crate) archive: bool,
    /// The store is looked into: jobs are neither placed nor run.
    pub(crate) recovery: bool,
}

fn module<S: Service>(service: S) -> Box<dyn Module> {
    Box::new(Runner::new(service))
}

/// Modules that run from the first moment on.
///
/// # Errors
/// The sentence to show for a wrong attribute.
pub(crate) fn builtins(plan: &Plan) -> Result<Vec<Box<dyn Module>>, String> {
    let log = LogSettings::from_attributes(&plan.attributes)?;
    Ok(vec![
        module(AttributeService::new(plan.attributes.clone())),
        module(LogService::new(log)),
        module(ConfigService::new(plan.rank, plan.config.clone())),
        module(GroupsService::default()),
        module(StateMachineService::new(plan.life.clone())),
    ])
}

/// Modules that rc1 starts, in this order.
pub(crate) fn modules(plan: &Plan) -> Vec<Box<dyn Module>> {
    let leader = plan.rank == 0;
    let mut modules = vec![
        module(HeartbeatService::default()),
        module(ContentService::new(plan.hash, CACHE_BYTES)),
        module(KvsService::new(plan.hash)),
        module(WatchService::new()),
        module(ResourceService::new(plan.resources.clone())),
    ];
    if leader {
        modules.push(module(if plan.archive {
            JobManager::with_archive()
        } else {
            JobManager::default()
        }));
    }
    modules.push(module(InfoService::default()));
    if leader {
        modules.push(module(if plan.archive {
            ListService::with_archive()
        } else {
            ListService::default()
        }));
    }
    modules.push(module(IngestService::default()));
    if leader && !plan.recovery {
        let mut settings = flux_exec::settings::Settings::new(plan.shell.clone());
        settings.helper.clone_from(&plan.imp_helper);
        if plan.resources.ranks_return {
            settings = settings.with_return();
        }
        modules.push(module(ExecService::new(settings)));
        modules.push(module(SchedService::new(SchedSettings::default())));
        modules.push(module(CronService::new(plan.crontabs.clone())));
    }
    modules
}

/// One of those modules, made anew: it was removed before.
pub(crate) fn module_named(plan: &Plan, name: &str) -> Option<Box<dyn Module>> {
    modules(plan).into_iter().find(|module| module.name() == name)
}
