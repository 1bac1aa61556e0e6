//! The `topo` driver: the hardware of this node.

use flux_api::driver::{HostResources, Topo as Api};
use flux_api::{Api as _, RpcError, Text};
use flux_proto::{Errno, Message, MsgType};
use flux_topo::{HostTopology, Topology};

use crate::driver::{Driver, DriverHandle};

/// Serves `topo.*`. The hardware is looked at when it is first asked for, and again after a
/// failure.
pub struct Topo {
    source: Box<dyn Topology>,
    found: Option<HostTopology>,
    name: Option<String>,
}

impl std::fmt::Debug for Topo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Topo({:?})", self.found)
    }
}

impl Topo {
    /// A driver that reports what `source` finds.
    #[must_use]
    pub fn new(source: Box<dyn Topology>) -> Self {
        Self { source, found: None, name: None }
    }

    /// Calls this host by the name that the instance has for it, if that is not its own.
    #[must_use]
    pub fn named(mut self, name: Option<&str>) -> Self {
        self.name = name.map(str::to_string);
        self
    }

    fn host(&mut self) -> Result<&HostTopology, RpcError> {
        if self.found.is_none() {
            let found = self.source.discover();
            let mut found = found.map_err(|error| RpcError::new(Errno::EIO, error.to_string()))?;
            if let Some(name) = &self.name {
                found.hostname.clone_from(name);
            }
            self.found = Some(found);
        }
        self.found.as_ref().ok_or_else(|| Errno::EIO.into())
    }
}

/// The idset of `0..count`, empty for none.
fn first(count: u32) -> String {
    match count {
        0 => String::new(),
        1 => "0".to_string(),
        count => format!("0-{}", count - 1),
    }
}

impl Driver for Topo {
    fn name(&self) -> &'static str {
        "topo"
    }

    fn deliver(&mut self, message: Message, back: &DriverHandle) {
        if message.kind != MsgType::Request {
            return;
        }
        let mut out = back.clone();
        match Api::decode(message) {
            Err((message, error)) => back.refuse(&message, &error),
            Ok(Api::Get(call)) => {
                let found = self.host().map(|host| HostResources {
                    hostname: host.hostname.clone(),
                    cores: first(host.cores().end),
                    gpus: first(host.gpu_count()),
                });
                call.answer.respond(&mut out, found);
            }
            Ok(Api::Xml(call)) => {
                let xml = self.host().map(|host| Text(host.to_xml()));
                call.answer.respond(&mut out, xml);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flux_topo::Sysfs;

    #[test]
    fn this_host_has_cores() {
        let mut driver = Topo::new(Box::new(Sysfs::default())).named(Some("n7"));
        let (handle, mut take) = DriverHandle::detached("topo");
        driver.deliver(Message::request("topo.get"), &handle);
        driver.deliver(Message::request("topo.xml"), &handle);
        driver.deliver(Message::request("topo.else"), &handle);
        let answers = take();
        let found: HostResources = answers[0].json().unwrap();
        assert!(found.cores.starts_with('0') && found.hostname == "n7");
        assert!(answers[1].text().unwrap().contains("<topology"));
        assert_eq!(answers[2].errnum(), Errno::ENOSYS);
        assert_eq!([first(0), first(1), first(3)], ["", "0", "0-2"]);
    }
}
