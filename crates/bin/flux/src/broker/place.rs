//! Rank, size and neighbours of a broker.

use std::cell::RefCell;
use std::path::Path;

use flux_bootstrap::boot::{Place, Tree};
use flux_bootstrap::config::ConfigBootstrap;
use flux_bootstrap::pmi::{PmiEnv, PmiOptions};
use flux_bootstrap::{Boot, BootError};
use flux_broker::Topology;

use super::options::BrokerOptions;

/// The host's name, or the one it shall have.
pub(crate) fn hostname(options: &BrokerOptions) -> Result<String, String> {
    if let Some(name) = options.attributes.get("hostname") {
        return Ok(name.to_string());
    }
    let name = nix::unistd::gethostname().map_err(|error| format!("gethostname: {error}"))?;
    Ok(name.to_string_lossy().into_owned())
}

/// `tbon.topo`: the command line, then the configuration, then the default.
fn topo(options: &BrokerOptions) -> String {
    if let Some(topo) = options.attributes.get("tbon.topo") {
        return topo.to_string();
    }
    if let Some(fanout) = options.attributes.get("tbon.fanout") {
        return format!("kary:{fanout}");
    }
    let configured = options.config.get("tbon").and_then(|table| table.get("topo"));
    match configured.and_then(serde_json::Value::as_str) {
        Some(topo) => topo.to_string(),
        None if options.config.contains_key("bootstrap") => "auto".to_string(),
        None => "kary:32".to_string(),
    }
}

/// Finds the place of this broker; sets the attributes that follow from it. The last is the shape
/// of the tree as it was asked for.
///
/// # Errors
/// The sentence to show.
pub(crate) fn find(
    options: &mut BrokerOptions,
    hostname: &str,
    rundir: &Path,
) -> Result<(Boot, Topology, String), String> {
    let uri = topo(options);
    let reparent = super::links::reparent(&options.attributes, &options.config)?;
    let found: RefCell<Option<Topology>> = RefCell::new(None);
    let tree_of = |place: &Place| -> Result<Tree, String> {
        let custom = place.parents.clone().unwrap_or_default();
        let topology =
            Topology::parse(&uri, place.size, &custom).map_err(|error| error.to_string())?;
        let (ancestors, visitors) = match reparent {
            Some(_) => beyond(&topology, place.rank),
            None => Default::default(),
        };
        let tree = Tree {
            parent: topology.parent(place.rank),
            children: topology.children(place.rank).to_vec(),
            ancestors,
            visitors,
        };
        *found.borrow_mut() = Some(topology);
        Ok(tree)
    };
    let boot = boot(options, hostname, rundir, &tree_of).map_err(|error| error.to_string())?;
    let topology = match found.into_inner() {
        Some(topology) => topology,
        None => Topology::parse(&uri, boot.size, boot.parents.as_deref().unwrap_or_default())
            .map_err(|error| error.to_string())?,
    };
    let attributes = &mut options.attributes;
    for (name, value) in &boot.attributes {
        attributes.set(name, value.clone());
    }
    let rank = boot.rank;
    let parents = boot.parents.as_deref().unwrap_or_default();
    attributes.set("tbon.topo", Topology::resolve(&uri, boot.size, parents));
    attributes.set("tbon.level", topology.level(rank).to_string());
    attributes.set("tbon.maxlevel", topology.maxlevel().to_string());
    attributes.set("tbon.descendants", topology.descendants(rank).to_string());
    attributes.set("broker.boot-method", boot.method);
    attributes.set("rank", rank.to_string());
    attributes.set("size", boot.size.to_string());
    attributes.set("hostlist", boot.hostlist.to_string());
    attributes.set("hostname", hostname);
    Ok((boot, topology, uri))
}

/// Those above the parent of a rank, and those below its children.
fn beyond(topology: &Topology, rank: u32) -> (Vec<u32>, Vec<u32>) {
    let mut above = Vec::new();
    let mut at = topology.parent(rank);
    while let Some(next) = at.and_then(|rank| topology.parent(rank)) {
        above.push(next);
        at = Some(next);
    }
    let mut below: Vec<u32> = Vec::new();
    let mut at = 0;
    for child in topology.children(rank) {
        below.extend_from_slice(topology.children(*child));
        while let Some(next) = below.get(at) {
            below.extend_from_slice(topology.children(*next));
            at += 1;
        }
    }
    (above, below)
}

fn boot(
    options: &BrokerOptions,
    hostname: &str,
    rundir: &Path,
    tree_of: &flux_bootstrap::boot::TreeOf<'_>,
) -> Result<Boot, BootError> {
    let method = options.attributes.get("broker.boot-method");
    let configured =
        options.config.get("bootstrap").filter(|_| matches!(method, None | Some("config")));
    if let Some(table) = configured {
        return ConfigBootstrap::parse(table)?.boot(hostname, tree_of);
    }
    if matches!(method, None | Some("simple"))
        && let Some(pmi) = PmiEnv::from_env(|name| std::env::var(name).ok())?
    {
        let pmi_options = PmiOptions {
            hostname: hostname.to_string(),
            rundir: rundir.to_path_buf(),
            prefer_tcp: options.attributes.is_on("tbon.prefertcp"),
            interface_hint: options.attributes.get("tbon.interface-hint").map(str::to_string),
        };
        return pmi.boot(&pmi_options, tree_of);
    }
    match method {
        None | Some("single") => Boot::single(hostname),
        Some(other) => Err(BootError::Environment(format!(
            "boot method '{other}' is not available here: use config, simple or single"
        ))),
    }
}
