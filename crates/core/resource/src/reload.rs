//! `resource.reload`: another inventory, from a file that the host of rank 0 reads.

use flux_api::driver::{Read, ReadResources, ResourcesRead};
use flux_api::resource::Reload;
use flux_api::{Call, RpcError};
use flux_model::resource_set::ResourceSet;
use flux_proto::Errno;
use flux_svc::{Cx, Reply, To};

use crate::define::exclusion;
use crate::inventory::Inventory;
use crate::service::{ResourceService, Wait};
use crate::topology::own_set;
use crate::writer::Change;

/// How the eventlog names where R came from.
const METHOD: &str = "reload";

impl ResourceService {
    /// The scheduler must not be there: it would go on with what it was told.
    fn is_free(&self) -> Result<(), RpcError> {
        match self.acquirer {
            None => Ok(()),
            Some(_) => Err(RpcError::new(Errno::EBUSY, "resources are busy (unload scheduler?)")),
        }
    }

    /// Somebody wants another inventory.
    pub(crate) fn reload(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Reload>) {
        if let Err(error) = self.is_free() {
            return call.answer.err(cx, error);
        }
        self.next += 1;
        let request = ReadResources { path: call.request.path.clone(), xml: call.request.xml };
        cx.call::<Read>(To::Rank(cx.rank()), &request, Wait::Read(self.next));
        self.reloads.insert(self.next, call);
    }

    /// What the host has read.
    pub(crate) fn reloaded(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, reply: &Reply) {
        let Some(call) = self.reloads.remove(&ticket) else { return };
        let size = cx.size();
        let read = reply.decode::<Read>().and_then(|read| {
            self.is_free()?;
            let r = resources(&read, call.request.xml).map_err(|error| {
                RpcError::new(error.errno, format!("{}: {error}", call.request.path))
            })?;
            if !call.request.force && r.ranks().ids().any(|rank| rank >= size) {
                let text = format!(
                    "resource object contains ranks execeeding size={size} (override with -f))"
                );
                return Err(RpcError::new(Errno::EINVAL, text));
            }
            let excluded =
                exclusion(self.config.exclude.as_deref(), &r, size, &self.settings.hosts)?;
            let r = r.with_queues(&self.config.queues);
            Ok((Inventory { r, method: METHOD }, excluded))
        });
        match read {
            Ok((inventory, excluded)) => {
                self.growth.wanted = Some(inventory.clone());
                self.want(cx, Change::Reload(Box::new(inventory), excluded, call.answer));
            }
            Err(error) => call.answer.err(cx, error),
        }
    }
}

fn resources(read: &ResourcesRead, xml: bool) -> Result<ResourceSet, RpcError> {
    let invalid = |text: String| RpcError::new(Errno::EINVAL, text);
    match &read.r {
        Some(value) => {
            let mut r =
                ResourceSet::from_value(value).map_err(|error| invalid(error.to_string()))?;
            r.add_graph_types();
            Ok(r)
        }
        None => {
            let parts: Result<Vec<_>, _> =
                read.hosts.iter().map(|(rank, found)| own_set(*rank, found)).collect();
            parts
                .and_then(|parts| ResourceSet::union_all(parts).map_err(|error| error.to_string()))
                .map_err(|text| {
                    let from = if xml { "hwloc XML" } else { "file" };
                    invalid(format!("error building R from {from}: {text}"))
                })
        }
    }
}

#[cfg(test)]
mod tests {
    use flux_api::driver::HostResources;
    use flux_id::Idset;
    use serde_json::json;

    use super::*;

    #[test]
    fn r_is_taken_as_it_is_or_made_from_hosts() {
        let hosts = (0..2)
            .map(|rank| {
                let hostname = format!("n{rank}");
                (rank, HostResources { hostname, cores: "0-3".into(), gpus: String::new() })
            })
            .collect();
        let read = ResourcesRead { r: None, hosts };
        let r = resources(&read, true).unwrap();
        assert_eq!(r.ranks(), Idset::from_range(0..=1));
        let again = ResourcesRead { r: Some(r.to_value()), hosts: Vec::new() };
        assert_eq!(resources(&again, false).unwrap(), r);
        let wrong = ResourcesRead { r: Some(json!({ "version": 1 })), hosts: Vec::new() };
        assert_eq!(resources(&wrong, false).unwrap_err().errno, Errno::EINVAL);
    }
}
