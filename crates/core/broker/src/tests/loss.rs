//! Fixtures of tests in which brokers lose their parents.

use std::cell::RefCell;
use std::rc::Rc;

use flux_proto::{Errno, Message};
use flux_svc::Way;
use serde_json::json;

use super::cluster::{Cluster, OWNER, Shared, standard};
use crate::NodeConfig;

/// The name under which a leader keeps its state.
pub(crate) type Instance = Rc<RefCell<Option<String>>>;

impl Cluster {
    /// A cluster that outlives its leader, which keeps its state under the name in the cell;
    /// `change` has the last word on the configuration of each.
    pub(crate) fn durable(
        uri: &str,
        size: u32,
        change: impl Fn(&mut NodeConfig) + 'static,
    ) -> (Cluster, Instance) {
        let instance = Rc::new(RefCell::new(Some("one".to_string())));
        let named = Rc::clone(&instance);
        let maker = move |mut cfg: NodeConfig, notes: &Shared| {
            if cfg.rank == 0 {
                cfg.instance.clone_from(&named.borrow());
            }
            cfg.fixed_parent = true;
            change(&mut cfg);
            standard(cfg, notes)
        };
        let cluster = Cluster::with(uri, size, Box::new(maker));
        // Here services start before those above are up, which a state machine prevents.
        for notes in &cluster.notes {
            notes.borrow_mut().ways.clear();
        }
        (cluster, instance)
    }

    /// The same, whose brokers go elsewhere after two seconds.
    pub(crate) fn movable(uri: &str, size: u32) -> Cluster {
        Cluster::durable(uri, size, |cfg| cfg.reparent = Some(2.0)).0
    }

    /// Does what the state machine of a broker does that has lost its parent; the answer comes to
    /// its notes.
    pub(crate) fn rejoin(&mut self, rank: u32) {
        let caller = self.client(rank, OWNER);
        let body = json!({ "topic": "overlay.rejoin" });
        self.ask_with(caller, "state-machine.do", rank, body, Message::with_no_response);
    }

    /// How that ended, each time.
    pub(crate) fn rejoined(&self, rank: usize) -> Vec<Result<(), Errno>> {
        let notes = self.notes[rank].borrow();
        notes.rejoined.iter().map(|result| result.clone().map(drop).map_err(|e| e.errno)).collect()
    }

    /// What its services were told of the way to the leader.
    pub(crate) fn ways(&self, rank: usize) -> Vec<Way> {
        self.notes[rank].borrow().ways.clone()
    }
}
