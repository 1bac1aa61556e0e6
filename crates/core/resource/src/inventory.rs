//! Where R comes from: configuration, an earlier run, the enclosing job, or what is found.

use flux_api::RpcError;
use flux_id::Hostlist;
use flux_model::resource_set::ResourceSet;
use flux_proto::Errno;

use crate::config::ResourceConfig;
use crate::settings::ResourceSettings;

/// R, with how it was found.
#[derive(Debug, Clone)]
pub(crate) struct Inventory {
    pub(crate) r: ResourceSet,
    pub(crate) method: &'static str,
}

/// Chooses the first source that applies; `None` when R must be discovered.
///
/// # Errors
/// A configured R that does not fit this instance.
pub(crate) fn choose(
    settings: &ResourceSettings,
    config: &ResourceConfig,
    stored: Option<ResourceSet>,
    size: u32,
) -> Result<Option<Inventory>, RpcError> {
    if let Some(r) = configured(settings, config)? {
        return Ok(Some(Inventory { r, method: "configuration" }));
    }
    if let Some(r) = stored {
        return Ok(Some(Inventory { r, method: "kvs" }));
    }
    if config.rediscover {
        return Ok(None);
    }
    Ok(inherited(settings)?
        .filter(|r| r.nnodes() == size as usize)
        .map(|r| Inventory { r: renumbered(&r, &settings.hosts), method: "job-info" }))
}

pub(crate) fn configured(
    settings: &ResourceSettings,
    config: &ResourceConfig,
) -> Result<Option<ResourceSet>, RpcError> {
    let invalid = |text: String| RpcError::new(Errno::EINVAL, text);
    let mut r = match (&config.config, &settings.config_r) {
        (Some(r), _) => r.clone(),
        (None, Some(value)) => ResourceSet::from_value(value)
            .map_err(|error| invalid(format!("resource.path: {error}")))?,
        (None, None) => return Ok(None),
    };
    if let Some(scheduling) = &settings.scheduling {
        r.scheduling = Some(scheduling.clone());
    }
    r.add_graph_types();
    if settings.has_bootstrap {
        let hosts = Hostlist::from_hosts(&settings.hosts)
            .map_err(|error| invalid(format!("error reranking R: {error}")))?;
        r = r.rerank(&hosts).map_err(|error| invalid(format!("error reranking R: {error}")))?;
    }
    Ok(Some(r))
}

/// R of the enclosing job.
///
/// # Errors
/// It does not decode.
pub(crate) fn inherited(settings: &ResourceSettings) -> Result<Option<ResourceSet>, RpcError> {
    settings
        .inherited
        .as_ref()
        .map(|value| ResourceSet::from_value(value).map(ResourceSet::without_local_properties))
        .transpose()
        .map_err(|error| RpcError::new(Errno::EINVAL, format!("R of the job: {error}")))
}

/// Ranks of an enclosing job become those of this instance.
fn renumbered(r: &ResourceSet, hosts: &[String]) -> ResourceSet {
    let r = r.remap();
    if r.distinct_hosts().len() < r.nnodes() {
        return r;
    }
    let list = Hostlist::from_hosts(hosts).unwrap_or_default();
    r.rerank(&list).unwrap_or(r)
}
