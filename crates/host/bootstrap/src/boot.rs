//! What every method comes to.

use std::collections::BTreeMap;
use std::io;

use flux_host::{Bind, LinkKeys};
use flux_id::{Hostlist, Idset};
use flux_wire::Endpoint;

use crate::config::ConfigError;

/// A broker among the others, before the shape of the tree is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Own rank.
    pub rank: u32,
    /// Number of brokers.
    pub size: u32,
    /// Parents by rank as the configuration names them; none when it names none.
    pub parents: Option<Vec<Option<u32>>>,
}

/// A broker's neighbours in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    /// The parent; none at rank 0.
    pub parent: Option<u32>,
    /// Direct children.
    pub children: Vec<u32>,
    /// Those above the parent, where this broker may go to one of them: nearest first.
    pub ancestors: Vec<u32>,
    /// Those below the children, where they may come here.
    pub visitors: Vec<u32>,
}

/// Decides the shape of the tree; the error is for the operator.
pub type TreeOf<'a> = dyn Fn(&Place) -> Result<Tree, String> + 'a;

/// Result of a bootstrap.
#[derive(Debug)]
pub struct Boot {
    /// `config`, `simple` or `single`.
    pub method: &'static str,
    /// Own rank.
    pub rank: u32,
    /// Number of brokers.
    pub size: u32,
    /// Host of each rank.
    pub hostlist: Hostlist,
    /// Parents by rank as the configuration names them.
    pub parents: Option<Vec<Option<u32>>>,
    /// Where children connect; empty on leaves.
    pub bind: Vec<Bind>,
    /// Endpoint for children as told to them; the attribute `tbon.endpoint`.
    pub endpoint: Option<String>,
    /// Where the parent is.
    pub parent: Option<Endpoint>,
    /// Where the parent is, and those above it to whom this broker may go, by rank.
    pub uplinks: BTreeMap<u32, Endpoint>,
    /// Ranks whose hosts are gone for good.
    pub removed: Idset,
    /// Where children connect that this broker may have later.
    pub later: Option<Endpoint>,
    /// The public key of this host.
    pub own_key: Option<String>,
    /// The public key of each rank, where brokers have keys of their own.
    pub listed: Vec<Option<String>>,
    /// Keys for TCP links.
    pub keys: Option<LinkKeys>,
    /// Attributes learned: `jobid` (the launcher's name for the job), `instance-level`,
    /// `broker.mapping`, `tbon.interface-hint`, `tbon.endpoint`, `tbon.parent-endpoint`.
    pub attributes: BTreeMap<String, String>,
}

/// Why a broker cannot find its place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tree has no such shape.
    #[error("topology: {0}")]
    Topology(String),
    /// The launcher does not answer as it should.
    #[error("pmi: {0}")]
    Pmi(#[from] flux_pmi::SessionError),
    /// The environment set by the launcher makes no sense.
    #[error("pmi: {0}")]
    Environment(String),
    /// A peer's business card is wrong.
    #[error("business card of rank {rank}: {text}")]
    Card {
        /// The peer.
        rank: u32,
        /// What is wrong.
        text: String,
    },
    /// A key file cannot be used.
    #[error(transparent)]
    Cert(#[from] flux_wire::CertError),
    /// No key can be made.
    #[error(transparent)]
    Key(#[from] flux_wire::KeyError),
    /// The keys cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] flux_wire::TlsError),
    /// Children cannot be given an endpoint.
    #[error("bind {what}: {source}")]
    Bind {
        /// Path or address.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// The host names of the instance make no host list.
    #[error("hostlist: {0}")]
    Hostlist(#[from] flux_id::HostlistError),
}

impl Boot {
    /// One broker on its own.
    ///
    /// # Errors
    /// When the host name cannot be in a host list.
    pub fn single(hostname: &str) -> Result<Self, BootError> {
        let mut boot = Self {
            method: "single",
            rank: 0,
            size: 1,
            hostlist: Hostlist::from_hosts([hostname])?,
            parents: None,
            bind: Vec::new(),
            endpoint: None,
            parent: None,
            uplinks: BTreeMap::new(),
            removed: Idset::new(),
            later: None,
            own_key: None,
            listed: Vec::new(),
            keys: None,
            attributes: BTreeMap::new(),
        };
        boot.set("broker.mapping", "[[0,1,1,1]]");
        Ok(boot)
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.attributes.insert(name.to_string(), value.into());
    }

    pub(crate) fn set_endpoints(&mut self) {
        if let Some(endpoint) = self.endpoint.clone() {
            self.set("tbon.endpoint", endpoint);
        }
        if let Some(parent) = &self.parent {
            let parent = parent.to_string();
            self.set("tbon.parent-endpoint", parent);
        }
    }
}
