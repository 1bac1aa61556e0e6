//! The `topo` driver: the hardware of this node.

use std::io::Read;
use std::path::Path;

use flux_api::driver::{HostResources, ResourcesRead, Topo as Api};
use flux_api::{Api as _, RpcError, Text};
use flux_proto::{Errno, Message, MsgType};
use flux_topo::{Allowed, HostTopology, Topology, XmlFile};

use crate::driver::{Driver, DriverHandle};

/// Longest file with R, in bytes.
const R_MAX: u64 = 256 << 20;

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

fn hardware(host: &HostTopology) -> HostResources {
    HostResources {
        hostname: host.hostname.clone(),
        cores: first(host.cores().end),
        gpus: first(host.gpu_count()),
    }
}

/// Reads a file with R.
pub(crate) fn read_r(path: &Path) -> Result<ResourcesRead, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(reason)?;
    file.take(R_MAX + 1).read_to_string(&mut text).map_err(reason)?;
    if text.len() as u64 > R_MAX {
        return Err(format!("larger than {R_MAX} bytes"));
    }
    let r = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok(ResourcesRead { r: Some(r), hosts: Vec::new() })
}

/// Reads what each rank has from `RANK.xml`.
fn read_xml(path: &Path) -> Result<ResourcesRead, String> {
    let mut hosts = Vec::new();
    for entry in std::fs::read_dir(path).map_err(reason)? {
        let path = entry.map_err(reason)?.path();
        let rank = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok());
        if let Some(rank) = rank.filter(|_| path.extension().is_some_and(|end| end == "xml")) {
            let file = XmlFile::new(&path, Allowed::All);
            let host = file.discover().map_err(|error| error.to_string())?;
            hosts.push((rank, hardware(&host)));
        }
    }
    if hosts.is_empty() {
        return Err("no files named RANK.xml".to_string());
    }
    hosts.sort_by_key(|(rank, _)| *rank);
    Ok(ResourcesRead { r: None, hosts })
}

/// What the system says, without its number.
fn reason(error: std::io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_string(),
        None => error.to_string(),
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
                let found = self.host().map(hardware);
                call.answer.respond(&mut out, found);
            }
            Ok(Api::Read(call)) => {
                let request = &call.request;
                let path = Path::new(&request.path);
                let read = if request.xml { read_xml(path) } else { read_r(path) };
                let fail = |error: String| {
                    RpcError::new(Errno::EINVAL, format!("{}: {error}", request.path))
                };
                call.answer.respond(&mut out, read.map_err(fail));
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
        let dir = tempfile::tempdir().unwrap();
        let mut read = |path: &Path, xml: bool| {
            let body = serde_json::json!({ "path": path.to_str().unwrap(), "xml": xml });
            driver.deliver(Message::request("topo.read").with_json(&body), &handle);
            take().remove(0)
        };
        let missing = read(&dir.path().join("R"), false);
        assert!(missing.error_text().ends_with("R: No such file or directory"));
        assert!(read(dir.path(), true).error_text().contains("no files named RANK.xml"));
        std::fs::write(dir.path().join("R"), "{\"version\": 1}").unwrap();
        let found: ResourcesRead = read(&dir.path().join("R"), false).json().unwrap();
        assert_eq!(found.r, Some(serde_json::json!({ "version": 1 })));
        std::fs::write(dir.path().join("3.xml"), answers[1].text().unwrap()).unwrap();
        let found: ResourcesRead = read(dir.path(), true).json().unwrap();
        assert_eq!(found.hosts.len(), 1);
        assert!(found.hosts[0].0 == 3 && found.hosts[0].1.cores.starts_with('0'));
        assert_eq!([first(0), first(1), first(3)], ["", "0", "0-2"]);
    }
}
