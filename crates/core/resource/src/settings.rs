//! What the program gives the service at start.

use serde_json::Value;

/// What the service cannot find out itself.
#[derive(Debug, Clone, Default)]
pub struct ResourceSettings {
    /// Host name of each rank, in rank order.
    pub hosts: Vec<String>,
    /// Brokers below this one in the tree.
    pub descendants: u32,
    /// Brokers go to their grandparent when their parent is lost: who reports through whom is not
    /// known, so that each report goes up as it comes.
    pub reparent: bool,
    /// R of the job this instance runs in, if it runs in one.
    pub inherited: Option<Value>,
    /// R read from the file `resource.path`, if that is set.
    pub config_r: Option<Value>,
    /// The object read from the file `resource.scheduling`, if that is set.
    pub scheduling: Option<Value>,
    /// There is a table `[bootstrap]`: ranks of a configured R follow its hosts.
    pub has_bootstrap: bool,
    /// Ranks that leave are expected back, so that they stay part of the inventory.
    pub ranks_return: bool,
    /// All ranks count as online from the start.
    pub monitor_force_up: bool,
    /// Hardware is not compared with the inventory.
    pub noverify: bool,
}
