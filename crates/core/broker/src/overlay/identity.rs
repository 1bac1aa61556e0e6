//! Keys of single brokers: with `bootstrap.hosts.key` a broker must have the key of its rank.

use flux_svc::Level;
use flux_svc::engine::{LinkId, Output};

use crate::node::Node;
use crate::overlay::Visitor;
use crate::overlay::status::Status;

impl Node {
    /// Whether the other end of a link may be this rank. Within a host there are no keys: who is
    /// there is the same user.
    pub(crate) fn may_be(&self, link: LinkId, rank: u32) -> bool {
        let Some(key) = self.overlay.keys.get(&link) else { return true };
        if self.cfg.keys.iter().all(Option::is_none) {
            return true;
        }
        let listed = self.cfg.keys.get(rank as usize).and_then(Option::as_ref);
        listed == Some(key)
    }

    /// The keys are these from now on: links whose other end has another are dropped.
    pub(crate) fn take_keys(&mut self, keys: Vec<Option<String>>) {
        if self.cfg.keys == keys {
            return;
        }
        let mut trusted: Vec<String> = keys.iter().flatten().cloned().collect();
        if trusted.is_empty() {
            trusted.extend(self.cfg.own_key.clone());
        }
        self.cfg.keys = keys;
        self.out.push_back(Output::Trust(trusted));
        let links: Vec<(LinkId, u32)> = self
            .overlay
            .links
            .iter()
            .filter_map(|(link, visitor)| match visitor {
                Visitor::Child(rank) => Some((*link, *rank)),
                _ => None,
            })
            .collect();
        for (link, rank) in links {
            if self.may_be(link, rank) {
                continue;
            }
            let host = self.cfg.host(rank);
            let text = format!("{host} (rank {rank}): its key is not listed any more");
            self.log("overlay", Level::Err, text);
            self.turn_away(link);
            self.child_gone(rank, Status::Lost, "its key is not listed any more");
        }
        if self.overlay.parent.is_joined() && !self.may_be(LinkId::PARENT, self.overlay.parent.rank)
        {
            self.disconnect_parent("the key of the parent is not listed any more");
        }
    }
}
