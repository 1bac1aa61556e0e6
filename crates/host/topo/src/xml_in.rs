//! Reading the XML files of hwloc, version 1 and 2.
//!
//! Taken are cores with their cpus, packages, NUMA nodes, and what computes: OS devices of CUDA,
//! ROCm SMI and OpenCL, once for each PCI device.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::{Allowed, CpuSet, Gpu, HostTopology, NumaNode, TopoError, Topology};

/// The largest file in bytes that is read; thousands of cores take some megabytes.
const FILE_MAX: u64 = 64 << 20;

/// How deep objects may be nested; real machines have about a dozen levels.
const DEPTH_MAX: usize = 256;

/// An hwloc XML file (`FLUX_HWLOC_XMLFILE`) in place of the machine.
#[derive(Debug, Clone)]
pub struct XmlFile {
    path: PathBuf,
    allowed: Allowed,
}

impl XmlFile {
    /// The file at `path`. It is taken to describe this system, so that only the cpus this
    /// process may use count; pass [`Allowed::All`] when `FLUX_HWLOC_XMLFILE_NOT_THISSYSTEM` is
    /// set.
    #[must_use]
    pub fn new(path: &Path, allowed: Allowed) -> XmlFile {
        XmlFile { path: path.to_owned(), allowed }
    }
}

impl Topology for XmlFile {
    fn discover(&self) -> Result<HostTopology, TopoError> {
        let io = |source| TopoError::Io { path: self.path.clone(), source };
        let file = std::fs::File::open(&self.path).map_err(io)?;
        let mut bytes = Vec::new();
        file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
        let content = |what: String| TopoError::Content { path: self.path.clone(), what };
        if bytes.len() as u64 > FILE_MAX {
            return Err(content(format!("larger than {FILE_MAX} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|_| content("not UTF-8 text".to_owned()))?;
        parse_xml(&text)
            .map_err(|error| content(error.to_string()))
            .and_then(|host| host.restricted(&self.allowed))
    }
}

/// The host that an hwloc XML text describes, with all its cpus. The name of the host is empty
/// when the text has none.
///
/// # Errors
/// [`TopoError::Xml`].
pub fn parse_xml(text: &str) -> Result<HostTopology, TopoError> {
    let mut reader = Reader::from_str(text);
    let mut walk = Walk::default();
    loop {
        match reader.read_event().map_err(|error| xml(&error))? {
            Event::Start(tag) => walk.open(&tag)?,
            Event::Empty(tag) => {
                walk.open(&tag)?;
                walk.close();
            }
            Event::End(_) => walk.close(),
            Event::Eof => break,
            _ => {}
        }
    }
    walk.finish()
}

fn xml(error: &dyn std::fmt::Display) -> TopoError {
    TopoError::Xml(error.to_string())
}

/// One element that is open.
#[derive(Debug)]
enum Frame {
    Pci(Gpu),
    Device { compute: bool, opencl: bool, pci: bool },
    Machine,
    Other,
}

#[derive(Debug, Default)]
struct Walk {
    stack: Vec<Frame>,
    seen_topology: bool,
    host: Option<String>,
    cores: Vec<CpuSet>,
    core_package: Vec<u32>,
    packages: u32,
    pus: Vec<(CpuSet, u32)>,
    numa: Vec<NumaNode>,
    memory: u64,
    gpus: BTreeSet<Gpu>,
    /// Devices that compute without a PCI device around them.
    loose: u32,
}

/// The attributes that matter.
#[derive(Debug, Default)]
struct Attributes {
    kind: String,
    name: String,
    value: String,
    subtype: String,
    cpuset: Option<String>,
    os_index: u32,
    local_memory: u64,
    busid: String,
    pci_type: String,
}

fn attributes(tag: &BytesStart<'_>) -> Result<Attributes, TopoError> {
    let mut found = Attributes::default();
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|error| xml(&error))?;
        let text = attribute.unescape_value().map_err(|error| xml(&error))?.into_owned();
        match attribute.key.as_ref() {
            b"type" => found.kind = text,
            b"name" => found.name = text,
            b"value" => found.value = text,
            b"subtype" => found.subtype = text,
            b"cpuset" => found.cpuset = Some(text),
            b"os_index" => found.os_index = text.parse().unwrap_or(0),
            b"local_memory" => found.local_memory = text.parse().unwrap_or(0),
            b"pci_busid" => found.busid = text,
            b"pci_type" => found.pci_type = text,
            _ => {}
        }
    }
    Ok(found)
}

impl Attributes {
    fn cpus(&self) -> Result<CpuSet, TopoError> {
        let text = self.cpuset.as_deref().unwrap_or("0x0");
        CpuSet::parse_mask(text).map_err(|error| xml(&error))
    }

    /// Vendor and device of a PCI type such as `0302 [10de:20b0] [10de:134f] a1`.
    fn pci_id(&self) -> (u16, u16) {
        let inner = self.pci_type.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let pair = inner.and_then(|(id, _)| id.split_once(':'));
        let number = |text| u16::from_str_radix(text, 16).unwrap_or(0);
        pair.map_or((0, 0), |(vendor, device)| (number(vendor), number(device)))
    }
}

fn is_compute(word: &str) -> bool {
    matches!(word, "CUDA" | "RSMI" | "OpenCL")
}

impl Walk {
    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), TopoError> {
        if self.stack.len() >= DEPTH_MAX {
            return Err(xml(&format!("more than {DEPTH_MAX} levels")));
        }
        let frame = match tag.name().as_ref() {
            b"topology" => {
                self.seen_topology = true;
                Frame::Other
            }
            b"object" => self.object(&attributes(tag)?)?,
            b"info" => {
                self.info(&attributes(tag)?);
                Frame::Other
            }
            _ => Frame::Other,
        };
        self.stack.push(frame);
        Ok(())
    }

    fn object(&mut self, object: &Attributes) -> Result<Frame, TopoError> {
        match object.kind.as_str() {
            "Machine" => {
                self.memory += object.local_memory;
                return Ok(Frame::Machine);
            }
            "Package" | "Socket" => self.packages += 1,
            "Core" => {
                self.cores.push(object.cpus()?);
                self.core_package.push(self.packages.saturating_sub(1));
            }
            "PU" => self.pus.push((object.cpus()?, self.packages.saturating_sub(1))),
            "NUMANode" => {
                self.memory += object.local_memory;
                self.numa.push(NumaNode {
                    id: object.os_index,
                    cpus: object.cpus()?,
                    memory: object.local_memory,
                });
            }
            "PCIDev" => {
                let busid = object.busid.clone();
                return Ok(Frame::Pci(Gpu { busid, pci_id: object.pci_id() }));
            }
            "OSDev" => {
                let pci = self.stack.iter().any(|frame| matches!(frame, Frame::Pci(_)));
                let old_name = ["cuda", "rsmi", "opencl"].iter().any(|prefix| {
                    let rest = object.name.strip_prefix(prefix);
                    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
                });
                let compute = is_compute(&object.subtype) || old_name;
                let opencl = object.subtype == "OpenCL" || object.name.starts_with("opencl");
                return Ok(Frame::Device { compute, opencl, pci });
            }
            _ => {}
        }
        Ok(Frame::Other)
    }

    fn info(&mut self, info: &Attributes) {
        match self.stack.last_mut() {
            Some(Frame::Machine) if info.name == "HostName" => self.host = Some(info.value.clone()),
            // Version 1 has no subtypes.
            Some(Frame::Device { compute, opencl, .. })
                if info.name == "CoProcType" || info.name == "Backend" =>
            {
                *compute |= is_compute(&info.value);
                *opencl |= info.value == "OpenCL";
            }
            _ => {}
        }
    }

    fn close(&mut self) {
        let Some(Frame::Device { compute: true, opencl, pci }) = self.stack.pop() else { return };
        let around = self.stack.iter().rev().find_map(|frame| match frame {
            Frame::Pci(gpu) => Some(gpu.clone()),
            _ => None,
        });
        match around {
            Some(gpu) => {
                self.gpus.insert(gpu);
            }
            // OpenCL also calls the cpu a device; outside of PCI it is that.
            None if !opencl && !pci => self.loose += 1,
            None => {}
        }
    }

    fn finish(mut self) -> Result<HostTopology, TopoError> {
        if !self.seen_topology {
            return Err(xml(&"no topology element"));
        }
        if !self.stack.is_empty() {
            return Err(xml(&"text ends in the middle"));
        }
        // Some systems do not tell their cores; then each thread is one.
        if self.cores.is_empty() {
            (self.cores, self.core_package) = self.pus.into_iter().unzip();
        }
        if self.cores.is_empty() {
            return Err(xml(&"no cores"));
        }
        let mut gpus: Vec<_> = self.gpus.into_iter().collect();
        let loose = Gpu { busid: String::new(), pci_id: (0, 0) };
        gpus.extend((0..self.loose).map(|_| loose.clone()));
        self.numa.sort_by_key(|node| node.id);
        Ok(HostTopology {
            hostname: self.host.unwrap_or_default(),
            core_cpus: self.cores,
            core_package: self.core_package,
            gpus,
            numa: self.numa,
            memory: self.memory,
        })
    }
}

#[cfg(test)]
mod tests;
