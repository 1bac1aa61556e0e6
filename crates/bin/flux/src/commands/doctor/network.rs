//! Names, addresses, the key, and the ports.

use std::net::{IpAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use flux_bootstrap::config::ConfigBootstrap;
use flux_broker::Topology;
use serde_json::Value;

use super::Site;
use super::finding::Report;

/// This node among the others.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) rank: u32,
    pub(crate) hosts: Vec<String>,
    parent: Option<String>,
    children: usize,
    /// Where it listens, and where its parent does: host or interface, and port.
    bind: Option<(String, u16)>,
    connect: Option<(String, u16)>,
}

const WAIT: Duration = Duration::from_secs(3);

/// Finds this node in `[bootstrap]`.
pub(crate) fn place(site: &Site, report: &mut Report) -> Option<Place> {
    const NAME: &str = "hosts";
    let Some(table) = site.config.get("bootstrap") else {
        if !site.config.is_empty() {
            let advice = "write the table [bootstrap], the same on all nodes";
            report.fail(NAME, "there is no table [bootstrap]", advice);
        }
        return None;
    };
    let found = ConfigBootstrap::parse(table).and_then(|config| {
        let rank = config.rank(&site.host)?;
        Ok((config, rank))
    });
    let (config, rank) = match found {
        Ok(found) => found,
        Err(error) => {
            let advice = "hosts must name this node as `hostname` does, and every other one";
            report.fail(NAME, error.to_string(), advice);
            return None;
        }
    };
    let hosts = config.hosts().to_vec();
    let uri = site.text("tbon.topo").unwrap_or("auto");
    let topology = match Topology::parse(uri, config.size(), &config.parents().unwrap_or_default())
    {
        Ok(topology) => topology,
        Err(error) => {
            report.fail(NAME, error.to_string(), "correct tbon.topo, or the parents of hosts");
            return None;
        }
    };
    report.ok(NAME, format!("{} is rank {rank} of {}", site.host, config.size()));
    let endpoint = |rank: u32, what: &str| match config.endpoint(rank, what) {
        Ok(flux_wire::Endpoint::Tcp { host, port }) => Some((host, port)),
        _ => None,
    };
    let parent = topology.parent(rank);
    Some(Place {
        rank,
        parent: parent.and_then(|parent| hosts.get(parent as usize).cloned()),
        children: topology.children(rank).len(),
        bind: endpoint(rank, "bind"),
        connect: parent.and_then(|parent| endpoint(parent, "connect")),
        hosts,
    })
}

/// Every name has an address that others can use.
pub(crate) fn names(place: &Place, report: &mut Report) {
    const NAME: &str = "names";
    let mut unknown = Vec::new();
    for host in &place.hosts {
        match (host.as_str(), 0).to_socket_addrs() {
            Ok(addresses) => {
                let all: Vec<IpAddr> = addresses.map(|address| address.ip()).collect();
                if place.hosts.len() > 1 && all.iter().all(IpAddr::is_loopback) {
                    let text = format!("{host} is {}: no other node gets there", all[0]);
                    let advice = "give it its real address in /etc/hosts or DNS";
                    report.warn(NAME, text, advice);
                }
            }
            Err(_) => unknown.push(host.as_str()),
        }
    }
    if unknown.is_empty() {
        report.ok(NAME, format!("all {} hosts have an address", place.hosts.len()));
    } else {
        let text = format!("no address of {}", unknown.join(", "));
        report.fail(NAME, text, "add them to /etc/hosts or DNS, or set connect of these hosts");
    }
}

/// The key is there, belongs to the owner, and is nobody else's.
pub(crate) fn key(site: &Site, place: &Place, report: &mut Report) {
    const NAME: &str = "key";
    if place.hosts.len() < 2 {
        return;
    }
    let Some(path) = site.text("bootstrap.curve_cert") else { return };
    let make = format!("make it once with: sudo -u {} flux keygen {path}; copy it", site.user);
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) => return report.fail(NAME, format!("{path}: {error}"), &make),
    };
    if let Some(owner) = &site.owner
        && found.uid() != owner.uid.as_raw()
    {
        let advice = format!("chown {} {path}", site.user);
        return report.fail(NAME, format!("{path} belongs to user {}", found.uid()), &advice);
    }
    if found.mode() & 0o077 != 0 {
        let text = format!("{path} has mode {:o}", found.mode() & 0o777);
        return report.fail(NAME, text, &format!("chmod 600 {path}; others may know the key"));
    }
    if found.len() == 0 {
        return report.fail(NAME, format!("{path} is empty"), &make);
    }
    let me = nix::unistd::geteuid();
    if !me.is_root() && found.uid() != me.as_raw() {
        return report.ok(NAME, format!("{path} is the owner's alone"));
    }
    match flux_wire::Cert::load_of(Path::new(path), found.uid()) {
        Ok(cert) => report.ok(NAME, format!("{path}: public key {}", cert.public())),
        Err(error) => report.fail(NAME, error.to_string(), &make),
    }
}

/// Children can come here, and the parent can be reached.
pub(crate) fn ports(site: &Site, place: &Place, report: &mut Report) {
    const NAME: &str = "ports";
    if place.children > 0 {
        match &place.bind {
            None => {
                let advice = "set bootstrap.default_bind";
                report.fail(
                    NAME,
                    "this node has children and does not know where to listen",
                    advice,
                );
            }
            Some((host, port)) => listen(site, host, *port, report),
        }
    }
    let (Some(parent), Some((host, port))) = (&place.parent, &place.connect) else { return };
    let address = (host.as_str(), *port).to_socket_addrs().ok().and_then(|mut all| all.next());
    let Some(address) = address else { return };
    match TcpStream::connect_timeout(&address, WAIT) {
        Ok(_) => report.ok(NAME, format!("the parent {parent} answers at {address}")),
        Err(error) => {
            let text = format!("the parent {parent} does not answer at {address}: {error}");
            let advice = "start flux there; if it runs, look for a firewall in between";
            report.warn(NAME, text, advice);
        }
    }
}

fn listen(site: &Site, host: &str, port: u16, report: &mut Report) {
    const NAME: &str = "ports";
    let address = match host {
        "*" => IpAddr::from([0, 0, 0, 0]),
        _ => match host.parse().or_else(|_| flux_bootstrap::interface::address(host, host)) {
            Ok(address) => address,
            Err(_) => match (host, port).to_socket_addrs().ok().and_then(|mut all| all.next()) {
                Some(address) => address.ip(),
                None => {
                    let text = format!("{host} is no address, interface or host here");
                    return report.fail(NAME, text, "correct bootstrap.default_bind");
                }
            },
        },
    };
    if site.runs {
        return report.ok(NAME, format!("the broker listens at {address} port {port}"));
    }
    match TcpListener::bind((address, port)) {
        Ok(_) => report.ok(NAME, format!("{address} port {port} is free")),
        Err(error) => {
            let text = format!("{address} port {port}: {error}");
            let advice = "choose another bootstrap.default_port, or end what uses it (ss -ltnp)";
            report.fail(NAME, text, advice);
        }
    }
}

/// Whether a host list of R names a host: for the check of resources.
pub(crate) fn names_host(r: &Value, host: &str) -> Option<flux_model::resource_set::Children> {
    let set = flux_model::resource_set::ResourceSet::from_value(r).ok()?;
    set.iter().find(|(_, name, _)| *name == host).map(|(_, _, children)| children.clone())
}
