//! Which service name is served by whom.

use flux_api::RpcError;
use flux_proto::{Cred, Errno};

use crate::ids::Peer;
use crate::node::Node;

impl Node {
    /// Registers a name. Guests may only take names that begin with their user id and a dash.
    pub(crate) fn add_service(
        &mut self,
        peer: Peer,
        cred: Cred,
        name: &str,
    ) -> Result<(), RpcError> {
        if name.is_empty() || name.contains('.') {
            let text = format!("service name '{name}' is empty or contains a dot");
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        if !cred.is_owner() && !name.starts_with(&format!("{}-", cred.userid)) {
            let text =
                format!("service name '{name}' of a guest must begin with '{}-'", cred.userid);
            return Err(RpcError::new(Errno::EPERM, text));
        }
        if self.registry.contains_key(name) {
            let text = format!("service '{name}' is already registered");
            return Err(RpcError::new(Errno::EEXIST, text));
        }
        if !cred.is_owner() {
            self.guest_serves(cred.userid, name)?;
        }
        self.registry.insert(name.to_string(), peer);
        Ok(())
    }

    /// Gives a name up again.
    pub(crate) fn remove_service(
        &mut self,
        peer: Peer,
        cred: Cred,
        name: &str,
    ) -> Result<(), RpcError> {
        match self.registry.get(name) {
            None => Err(RpcError::new(Errno::ENOENT, format!("{name} is not registered"))),
            Some(server) if *server != peer => match peer {
                // To a client, what others registered does not exist.
                Peer::Client(_) => {
                    Err(RpcError::new(Errno::ENOENT, format!("{name} is not registered")))
                }
                _ => {
                    let text = format!("requestor did not register {name}");
                    Err(RpcError::new(Errno::EINVAL, text))
                }
            },
            Some(_) if !cred.is_owner() && !name.starts_with(&format!("{}-", cred.userid)) => {
                Err(RpcError::bare(Errno::EPERM))
            }
            Some(_) => {
                self.registry.remove(name);
                Ok(())
            }
        }
    }

    /// Gives up every name of a peer.
    pub(crate) fn drop_services(&mut self, peer: Peer) {
        self.registry.retain(|_, server| *server != peer);
    }

    /// The names that a peer serves.
    pub(crate) fn services_of(&self, peer: Peer) -> Vec<String> {
        let of_peer = self.registry.iter().filter(|(_, server)| **server == peer);
        of_peer.map(|(name, _)| name.clone()).collect()
    }
}
