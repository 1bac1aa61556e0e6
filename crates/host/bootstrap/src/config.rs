//! The `[bootstrap]` table: who is which rank, and where.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flux_host::{Bind, LinkKeys};
use flux_id::{Hostlist, Idset};
use flux_wire::{Cert, Endpoint, PublicKey, TlsClient, TlsServer, TrustedKeys};
use serde::Deserialize;
use serde_json::Value;

use crate::boot::{Boot, BootError, Place, TreeOf};

/// Most brokers of an instance.
const SIZE_MAX: usize = 1 << 20;

/// Why the `[bootstrap]` table cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Config file error [bootstrap]: {0}")]
pub struct ConfigError(String);

fn error<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    curve_cert: Option<PathBuf>,
    default_port: Option<i64>,
    default_bind: Option<String>,
    default_connect: Option<String>,
    #[serde(default)]
    enable_ipv6: bool,
    hosts: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    host: String,
    bind: Option<String>,
    connect: Option<String>,
    parent: Option<String>,
    removed: Option<bool>,
    key: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Host {
    /// The last entry that says something of it.
    entry: usize,
    bind: Option<String>,
    connect: Option<String>,
    parent: Option<String>,
    removed: bool,
    key: Option<String>,
}

/// The `[bootstrap]` table, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigBootstrap {
    cert: Option<PathBuf>,
    names: Vec<String>,
    places: BTreeMap<String, usize>,
    hosts: Vec<Host>,
    /// Whether IPv6 addresses may be used.
    pub enable_ipv6: bool,
}

/// Replaces `%h` by the host, `%p` by the port, `%%` by a percent sign; keeps the rest.
fn substitute(text: &str, host: &str, port: Option<u16>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match (chars.next(), port) {
            (Some('%'), _) => out.push('%'),
            (Some('h'), _) => out.push_str(host),
            (Some('p'), Some(port)) => out.push_str(&port.to_string()),
            (Some(other), _) => out.extend(['%', other]),
            (None, _) => out.push('%'),
        }
    }
    out
}

/// Checks an endpoint; IPv6 addresses must be allowed.
fn endpoint(text: &str, ipv6: bool) -> Result<(), ConfigError> {
    let found = Endpoint::parse(text).map_err(|e| ConfigError(e.to_string()))?;
    match found {
        // No name and no IPv4 address has a colon.
        Endpoint::Tcp { host, .. } if host.contains(':') && !ipv6 => {
            error(format!("{text} is an IPv6 address: set enable_ipv6 to true to use it"))
        }
        _ => Ok(()),
    }
}

/// Whether a name is made of domain labels (RFC 1123): letters, digits, inner hyphens, dots.
fn is_domain_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 255 && name.split('.').all(label)
}

impl ConfigBootstrap {
    /// Reads the `[bootstrap]` table; `table` is its value.
    ///
    /// # Errors
    /// [`ConfigError`] at the first rule that is broken.
    pub fn parse(table: &Value) -> Result<Self, ConfigError> {
        let table = Table::deserialize(table).map_err(|e| ConfigError(e.to_string()))?;
        let port = match table.default_port {
            None => None,
            Some(port) => match u16::try_from(port) {
                Ok(port) => Some(port),
                Err(_) => return error("default_port must be within the range 0..65535"),
            },
        };
        let mut names: Vec<String> = Vec::new();
        let mut hosts: Vec<Host> = Vec::new();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for (index, value) in table.hosts.unwrap_or_default().iter().enumerate() {
            let invalid = |text: String| ConfigError(format!("invalid hosts[{index}]: {text}"));
            let entry = Entry::deserialize(value).map_err(|e| invalid(e.to_string()))?;
            let list: Hostlist =
                entry.host.parse().map_err(|e| invalid(format!("{}: {e}", entry.host)))?;
            let list = list.expand(SIZE_MAX).map_err(|e| invalid(e.to_string()))?;
            if list.is_empty() {
                return Err(invalid("host is empty".into()));
            }
            for name in list {
                if !is_domain_name(&name) {
                    return Err(invalid(format!("{name} is not a valid host name")));
                }
                let uri = |own: &Option<String>| match own {
                    None => Ok(None),
                    Some(text) => {
                        let text = substitute(text, &name, port);
                        endpoint(&text, table.enable_ipv6).map_err(|e| invalid(e.0))?;
                        Ok(Some(text))
                    }
                };
                let (bind, connect) = (uri(&entry.bind)?, uri(&entry.connect)?);
                let place = *places.entry(name.clone()).or_insert_with(|| {
                    names.push(name.clone());
                    hosts.push(Host::default());
                    hosts.len() - 1
                });
                if hosts.len() > SIZE_MAX {
                    return Err(invalid(format!("more than {SIZE_MAX} hosts")));
                }
                let host = &mut hosts[place];
                host.entry = index;
                host.bind = bind.or(host.bind.take());
                host.connect = connect.or(host.connect.take());
                if let Some(key) = &entry.key {
                    key.parse::<PublicKey>().map_err(|e| invalid(format!("key: {e}")))?;
                    host.key = Some(key.clone());
                }
                host.removed = entry.removed.unwrap_or(host.removed);
                host.parent = entry.parent.clone().or(host.parent.take());
                if host.parent.as_ref() == Some(&name) {
                    return Err(invalid("parent key refers to self".into()));
                }
            }
            if let Some(parent) = &entry.parent
                && !is_domain_name(parent)
            {
                return Err(invalid(format!("{parent} is not a valid host name")));
            }
        }
        for (name, host) in names.iter().zip(&mut hosts) {
            if let Some(parent) = &host.parent
                && !places.contains_key(parent)
            {
                let index = host.entry;
                return error(format!("invalid hosts[{index}]: parent key refers to unknown host"));
            }
            for (own, default) in
                [(&mut host.bind, &table.default_bind), (&mut host.connect, &table.default_connect)]
            {
                if let (None, Some(default)) = (&own, default) {
                    let text = substitute(default, name, port);
                    endpoint(&text, table.enable_ipv6)?;
                    *own = Some(text);
                }
            }
        }
        let cert = table.curve_cert;
        if names.len() > 1 && cert.is_none() {
            return error("curve_cert is required when there is more than one host");
        }
        Ok(Self { cert, names, places, hosts, enable_ipv6: table.enable_ipv6 })
    }

    /// Names of the hosts, by rank.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        &self.names
    }

    /// Number of brokers.
    #[must_use]
    pub fn size(&self) -> u32 {
        u32::try_from(self.names.len().max(1)).unwrap_or(u32::MAX)
    }

    /// Rank of a host.
    ///
    /// # Errors
    /// When it is not in the table.
    pub fn rank(&self, hostname: &str) -> Result<u32, ConfigError> {
        if self.names.is_empty() {
            return Ok(0);
        }
        match self.places.get(hostname) {
            Some(place) => Ok(u32::try_from(*place).unwrap_or(u32::MAX)),
            None => error(format!("{hostname} not found in hosts")),
        }
    }

    /// Ranks whose hosts are gone for good.
    #[must_use]
    pub fn removed(&self) -> Idset {
        let hosts = (0..).zip(&self.hosts);
        hosts.filter_map(|(rank, host)| host.removed.then_some(rank)).collect()
    }

    /// The public key of each rank, where brokers have keys of their own.
    #[must_use]
    pub fn keys(&self) -> Vec<Option<String>> {
        self.hosts.iter().map(|host| host.key.clone().filter(|_| !host.removed)).collect()
    }

    /// Parents by rank, when any host names one: hosts that do not are below rank 0.
    #[must_use]
    pub fn parents(&self) -> Option<Vec<Option<u32>>> {
        self.hosts.iter().any(|host| host.parent.is_some()).then(|| {
            let parent = |(rank, host): (usize, &Host)| match &host.parent {
                Some(parent) => self.rank(parent).ok(),
                None => (rank > 0).then_some(0),
            };
            self.hosts.iter().enumerate().map(parent).collect()
        })
    }

    /// Where a host listens (`bind`), or where its children connect (`connect`).
    ///
    /// # Errors
    /// When that is not configured.
    pub fn endpoint(&self, rank: u32, what: &str) -> Result<Endpoint, ConfigError> {
        let host = self.hosts.get(rank as usize);
        let text =
            host.and_then(|host| if what == "bind" { &host.bind } else { &host.connect }.as_ref());
        match text {
            Some(text) => Endpoint::parse(text).map_err(|e| ConfigError(e.to_string())),
            None => error(format!("{what} URI is undefined for rank {rank}")),
        }
    }

    /// Finds the place of `hostname` and everything it needs there.
    ///
    /// # Errors
    /// When the host is not in the table, an endpoint is missing, or the key file cannot be used.
    pub fn boot(&self, hostname: &str, tree_of: &TreeOf<'_>) -> Result<Boot, BootError> {
        let removed = self.removed();
        let listed = self.keys();
        let rank = self.rank(hostname)?;
        if removed.contains(rank) {
            let text = format!("{hostname} (rank {rank}) is removed from this instance");
            return Err(ConfigError(text).into());
        }
        let place =
            Place { rank: self.rank(hostname)?, size: self.size(), parents: self.parents() };
        if place.size == 1 {
            let boot = Boot::single(hostname)?;
            let later = self.endpoint(0, "bind").ok();
            let loaded = self.cert.as_deref().map(|path| load_keys(path, &listed)).transpose()?;
            let (keys, own_key) = loaded.unzip();
            return Ok(Boot { method: "config", later, keys, own_key, listed, ..boot });
        }
        let tree = tree_of(&place).map_err(BootError::Topology)?;
        let parent = tree.parent.map(|parent| self.endpoint(parent, "connect")).transpose()?;
        let mut uplinks = BTreeMap::new();
        for rank in &tree.ancestors {
            uplinks.insert(*rank, self.endpoint(*rank, "connect")?);
        }
        uplinks.extend(tree.parent.zip(parent.clone()));
        let mut bind = Vec::new();
        let mut endpoint = None;
        if !tree.children.is_empty() {
            let own = self.endpoint(place.rank, "bind")?;
            endpoint = Some(own.to_string());
            bind.push(Bind::Endpoint(own));
        }
        let later = if bind.is_empty() { self.endpoint(place.rank, "bind").ok() } else { None };
        let loaded = self.cert.as_deref().map(|path| load_keys(path, &listed)).transpose()?;
        let (keys, own_key) = loaded.unzip();
        let mut boot = Boot {
            method: "config",
            rank: place.rank,
            size: place.size,
            hostlist: Hostlist::from_hosts(&self.names)?,
            parents: place.parents,
            bind,
            endpoint,
            parent,
            uplinks,
            removed,
            later,
            keys,
            own_key,
            listed,
            attributes: BTreeMap::new(),
        };
        boot.set("broker.mapping", format!("[[0,{},1,1]]", boot.size));
        boot.set_endpoints();
        Ok(boot)
    }
}

/// The key of this host, and whom it trusts: those that are listed, else who has the same one. And
/// its own public key.
fn load_keys(path: &Path, listed: &[Option<String>]) -> Result<(LinkKeys, String), BootError> {
    let cert = Cert::load(path)?;
    let keys = cert.keys();
    let mut known = Vec::new();
    for text in listed.iter().flatten() {
        known.push(text.parse::<PublicKey>()?);
    }
    if known.is_empty() {
        known.push(keys.public());
    }
    let own = keys.public().to_string();
    let trusted = TrustedKeys::new(known);
    let keys = LinkKeys {
        trusted: trusted.clone(),
        client: TlsClient::new(keys, &trusted)?,
        server: TlsServer::new(keys, &trusted)?,
    };
    Ok((keys, own))
}

#[cfg(test)]
mod tests;
