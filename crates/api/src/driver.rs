//! Drivers: what the host does for the services, behind topics like any service.
//!
//! The simulator answers the same topics. `rexec` (processes) and `content-backing` (the store)
//! are drivers too, declared in their own files.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::body::{AnyObject, Empty, Text};

bodies! {
    /// Body of `console.rusage`.
    pub struct RusageRequest {
        /// `self`, `children` or `thread`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub who: Option<String>,
    }

    /// The configuration as read from the files now.
    pub struct ConfigFiles {
        /// The merged tables.
        pub config: Map<String, Value>,
        /// Keys that nobody knows, a sentence each with file and line.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub warnings: Vec<String>,
        /// `FILE:LINE` of each key, by its dotted path.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        pub places: BTreeMap<String, String>,
    }

    /// Body of `topo.read`.
    pub struct ReadResources {
        /// Path, fully qualified.
        pub path: String,
        /// It is a directory with hwloc XML files named `RANK.xml`, not R.
        #[serde(default)]
        pub xml: bool,
    }

    /// Answer of `topo.read`.
    pub struct ResourcesRead {
        /// R (RFC 20), from a file of it.
        #[serde(rename = "R", default, skip_serializing_if = "Option::is_none")]
        pub r: Option<Value>,
        /// Ranks and what they have, from XML.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub hosts: Vec<(u32, HostResources)>,
    }

    /// What the host found on this node (`topo.get`).
    pub struct HostResources {
        /// Host name.
        pub hostname: String,
        /// Idset of core ids, in logical order.
        pub cores: String,
        /// Idset of gpu ids; may be empty.
        pub gpus: String,
    }

    /// Body of `users.numbers`.
    pub struct NamesRequest {
        /// Login names.
        pub users: Vec<String>,
        /// Names of groups.
        pub groups: Vec<String>,
    }

    /// The numbers of users and groups; a name that this host does not know is missing.
    pub struct Numbers {
        /// User ids by login name.
        pub users: BTreeMap<String, u32>,
        /// Group ids by name.
        pub groups: BTreeMap<String, u32>,
    }

    /// Body of `users.groups`.
    pub struct PersonRequest {
        /// User id.
        pub userid: u32,
    }

    /// A user of this host (`users.groups`).
    pub struct Person {
        /// Login name; none for a number that nobody has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
        /// The groups the user is in, primary and supplementary.
        pub groups: Vec<u32>,
    }
}

api! {
    /// The broker process: its stderr, its service manager, its configuration files.
    pub enum Console("console") {
        /// Writes one line to the broker's stderr.
        Write = "console.write", owner, silent, Text => Empty;
        /// Tells the service manager (`READY=1`, `STATUS=…`).
        Notify = "console.notify", owner, silent, Text => Empty;
        /// Reads the configuration files again.
        ReadConfig = "console.read-config", owner, unary, Empty => ConfigFiles;
        /// Resource use of the broker process (getrusage).
        Rusage = "console.rusage", owner, unary, RusageRequest => AnyObject;
    }
}

api! {
    /// The hardware of this node.
    pub enum Topo("topo") {
        /// Cores and gpus that this broker may use.
        Get = "topo.get", owner, unary, Empty => HostResources;
        /// Reads the resources of an instance from a file of this node, or from XML files.
        Read = "topo.read", owner, unary, ReadResources => ResourcesRead;
        /// The topology as hwloc XML.
        Xml = "topo.xml", owner, unary, Empty => Text;
    }
}

api! {
    /// Users and groups as this host knows them: files, or a directory service.
    pub enum Users("users") {
        /// The numbers that belong to names.
        Numbers_ = "users.numbers", owner, unary, NamesRequest => Numbers;
        /// Name and groups of a user id.
        Groups = "users.groups", owner, unary, PersonRequest => Person;
    }
}
