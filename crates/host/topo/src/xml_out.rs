//! Writing the XML of hwloc version 2: what `resource.topo-get` answers.
//!
//! Machine, packages, NUMA nodes, cores, threads, and each GPU as a PCI device with a compute
//! device in it; caches and other devices are left out. hwloc takes such a file, since it asks
//! for no more than sets that fit into each other.

use std::fmt::Write;

use quick_xml::escape::escape;

use crate::{CpuSet, Gpu, HostTopology, NumaNode};

/// An element under construction: numbers objects, indents, and keeps to the formatter's rules.
struct Xml {
    text: String,
    depth: usize,
    objects: u32,
}

impl Xml {
    fn line(&mut self, line: &str) {
        let indent = self.depth * 2;
        // Writing to a string does not fail.
        let _infallible = writeln!(self.text, "{:indent$}{line}", "");
    }

    /// Opens an object with its attributes and a number of its own.
    fn open(&mut self, kind: &str, attributes: &str) {
        self.objects += 1;
        let id = self.objects;
        self.line(&format!("<object type=\"{kind}\"{attributes} gp_index=\"{id}\">"));
        self.depth += 1;
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.line("</object>");
    }
}

fn sets(cpus: &CpuSet, nodes: &CpuSet) -> String {
    let (cpus, nodes) = (cpus.to_mask(), nodes.to_mask());
    format!(
        " cpuset=\"{cpus}\" complete_cpuset=\"{cpus}\" nodeset=\"{nodes}\" \
         complete_nodeset=\"{nodes}\""
    )
}

impl HostTopology {
    /// This host as hwloc XML, version 2.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut xml = Xml { text: String::new(), depth: 0, objects: 0 };
        xml.line("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
        xml.line("<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">");
        xml.line("<topology version=\"2.0\">");
        xml.depth += 1;
        self.machine(&mut xml);
        xml.depth -= 1;
        xml.line("</topology>");
        xml.text
    }

    /// The NUMA nodes; hwloc wants at least one, which then has all the memory.
    fn numa_or_one(&self) -> Vec<NumaNode> {
        if self.numa.is_empty() {
            return vec![NumaNode { id: 0, cpus: self.cpus(), memory: self.memory }];
        }
        self.numa.clone()
    }

    fn machine(&self, xml: &mut Xml) {
        let numa = self.numa_or_one();
        let cpus = self.cpus();
        let all_nodes: CpuSet = numa.iter().map(|node| node.id).collect();
        let allowed = format!(
            " os_index=\"0\"{} allowed_cpuset=\"{}\" allowed_nodeset=\"{}\"",
            sets(&cpus, &all_nodes),
            cpus.to_mask(),
            all_nodes.to_mask()
        );
        xml.open("Machine", &allowed);
        let host = escape(self.hostname.as_str());
        xml.line(&format!("<info name=\"HostName\" value=\"{host}\"/>"));
        xml.line("<info name=\"Backend\" value=\"Linux\"/>");

        let packages = self.core_package.iter().max().map_or(0, |last| last + 1);
        let mut cores_of: Vec<Vec<usize>> = vec![Vec::new(); packages as usize];
        for (core, package) in self.core_package.iter().enumerate() {
            cores_of[*package as usize].push(core);
        }
        let cores_of: Vec<_> = cores_of.into_iter().filter(|cores| !cores.is_empty()).collect();
        let package_cpus: Vec<CpuSet> = cores_of
            .iter()
            .map(|cores| cores.iter().fold(CpuSet::new(), |a, c| a.union(&self.core_cpus[*c])))
            .collect();
        // A node belongs to the package that has all its cpus, else to the machine.
        let home = |node: &NumaNode| {
            let inside = |cpus: &CpuSet| !node.cpus.is_empty() && node.cpus.is_subset(cpus);
            package_cpus.iter().position(inside)
        };
        for node in numa.iter().filter(|node| home(node).is_none()) {
            numa_node(xml, node);
        }
        for (package, (cores, cpus)) in cores_of.iter().zip(&package_cpus).enumerate() {
            let near: CpuSet = numa
                .iter()
                .filter(|node| !node.cpus.intersection(cpus).is_empty())
                .map(|node| node.id)
                .collect();
            xml.open("Package", &format!(" os_index=\"{package}\"{}", sets(cpus, &near)));
            for node in numa.iter().filter(|node| home(node) == Some(package)) {
                numa_node(xml, node);
            }
            let parts = cores.iter().map(|core| Part::Core(*core, self.core_cpus[*core].clone()));
            for part in in_order(parts.collect()) {
                self.part(xml, &part, &near, &numa);
            }
            xml.close();
        }
        self.devices(xml);
        xml.close();
    }

    fn part(&self, xml: &mut Xml, part: &Part, near: &CpuSet, numa: &[NumaNode]) {
        match part {
            Part::Core(core, _) => self.core(xml, *core, near, numa),
            Part::Group(parts, cpus) => {
                let kind = " kind=\"0\" subkind=\"0\" dont_merge=\"1\"";
                xml.open("Group", &format!("{}{kind}", sets(cpus, near)));
                for part in parts {
                    self.part(xml, part, near, numa);
                }
                xml.close();
            }
        }
    }

    fn core(&self, xml: &mut Xml, core: usize, near: &CpuSet, numa: &[NumaNode]) {
        let cpus = &self.core_cpus[core];
        let own: CpuSet = numa
            .iter()
            .filter(|node| !node.cpus.intersection(cpus).is_empty())
            .map(|node| node.id)
            .collect();
        let own = if own.is_empty() { near } else { &own };
        xml.open("Core", &format!(" os_index=\"{core}\"{}", sets(cpus, own)));
        for cpu in cpus.iter() {
            let single = CpuSet::from_iter([cpu]);
            xml.open("PU", &format!(" os_index=\"{cpu}\"{}", sets(&single, own)));
            xml.close();
        }
        xml.close();
    }

    fn devices(&self, xml: &mut Xml) {
        if self.gpus.is_empty() {
            return;
        }
        for (index, gpu) in self.gpus.iter().enumerate() {
            let (subtype, name) = match gpu.pci_id.0 {
                0x1002 => ("RSMI", format!("rsmi{index}")),
                _ => ("CUDA", format!("cuda{index}")),
            };
            let device = format!(" name=\"{name}\" subtype=\"{subtype}\" osdev_type=\"5\"");
            match pci_domain(gpu) {
                Some(domain) => {
                    let (vendor, id) = gpu.pci_id;
                    xml.open(
                        "Bridge",
                        &format!(
                            " bridge_type=\"0-1\" depth=\"0\" bridge_pci=\"{domain}:[00-ff]\""
                        ),
                    );
                    let busid = escape(gpu.busid.as_str());
                    let pci = format!(
                        " pci_busid=\"{busid}\" pci_type=\"0302 [{vendor:04x}:{id:04x}] \
                         [0000:0000] 00\" pci_link_speed=\"0.000000\""
                    );
                    xml.open("PCIDev", &pci);
                    xml.open("OSDev", &device);
                    xml.close();
                    xml.close();
                    xml.close();
                }
                None => {
                    xml.open("OSDev", &device);
                    xml.close();
                }
            }
        }
    }
}

/// What a package is made of.
enum Part {
    Core(usize, CpuSet),
    Group(Vec<Part>, CpuSet),
}

impl Part {
    fn cpus(&self) -> &CpuSet {
        match self {
            Part::Core(_, cpus) | Part::Group(_, cpus) => cpus,
        }
    }
}

/// hwloc wants siblings in the order of their lowest cpus. Where logical order differs, what
/// made it so (a shared cache, a die) is not known here any longer, and groups stand in for it:
/// one for each rising run, and groups of those until they rise, too.
fn in_order(mut parts: Vec<Part>) -> Vec<Part> {
    let rises = |a: &Part, b: &Part| a.cpus().first() < b.cpus().first();
    loop {
        if parts.is_sorted_by(rises) {
            return parts;
        }
        let before = parts.len();
        let mut runs: Vec<Vec<Part>> = Vec::new();
        for part in parts {
            match runs.last_mut() {
                Some(run) if run.last().is_some_and(|last| rises(last, &part)) => run.push(part),
                _ => runs.push(vec![part]),
            }
        }
        let group = |run: Vec<Part>| {
            let cpus = run.iter().fold(CpuSet::new(), |all, part| all.union(part.cpus()));
            Part::Group(run, cpus)
        };
        parts = runs.into_iter().map(group).collect();
        // No tree has such an order; it comes from sets that overlap.
        if parts.len() == before {
            parts.sort_by_key(|part| part.cpus().first());
        }
    }
}

fn numa_node(xml: &mut Xml, node: &NumaNode) {
    let own = CpuSet::from_iter([node.id]);
    let (id, memory) = (node.id, node.memory);
    let attributes =
        format!(" os_index=\"{id}\"{} local_memory=\"{memory}\"", sets(&node.cpus, &own));
    xml.open("NUMANode", &attributes);
    xml.close();
}

/// The domain of a PCI address such as `0000:c1:00.0`.
fn pci_domain(gpu: &Gpu) -> Option<&str> {
    let (domain, rest) = gpu.busid.split_once(':')?;
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    (hex(domain) && rest.contains(':') && rest.contains('.')).then_some(domain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_xml;

    fn host() -> HostTopology {
        let set = |text: &str| text.parse::<CpuSet>().unwrap();
        HostTopology {
            hostname: "node<1>".into(),
            core_cpus: vec![set("0,4"), set("1,5"), set("2,6"), set("3,7")],
            core_package: vec![0, 0, 1, 1],
            gpus: vec![
                Gpu { busid: "0000:01:00.0".into(), pci_id: (0x10de, 0x20b0) },
                Gpu { busid: "0001:02:00.0".into(), pci_id: (0x1002, 0x740c) },
            ],
            numa: vec![
                NumaNode { id: 0, cpus: set("0-1,4-5"), memory: 1 << 30 },
                NumaNode { id: 1, cpus: set("2-3,6-7"), memory: 2 << 30 },
            ],
            memory: 3 << 30,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(parse_xml(&host().to_xml()).unwrap(), host());
    }

    #[test]
    fn a_restricted_host_keeps_its_sets_consistent() {
        let part = host().restrict(&"1,6-7".parse().unwrap());
        let read = parse_xml(&part.to_xml()).unwrap();
        assert_eq!(read.core_cpus, part.core_cpus);
        assert_eq!(read.cores(), 0..3);
        assert_eq!(read.core_package, [0, 1, 1]);
        assert_eq!(read.gpu_count(), 2);
    }

    #[test]
    fn cores_out_of_cpu_order_keep_their_order_in_groups() {
        for (order, groups) in
            [(&[0, 2, 1, 3][..], 2), (&[0, 4, 2, 6, 1, 5, 3, 7], 6), (&[0, 1, 2], 0)]
        {
            let core_cpus: Vec<_> = order.iter().map(|cpu| CpuSet::from_iter([*cpu])).collect();
            let core_package = vec![0; order.len()];
            let host = HostTopology { core_cpus, core_package, numa: vec![], ..host() };
            let text = host.to_xml();
            assert_eq!(parse_xml(&text).unwrap().core_cpus, host.core_cpus);
            assert_eq!(text.matches("type=\"Group\"").count(), groups, "{order:?}");
        }
    }

    #[test]
    fn a_host_without_numa_gets_one_node() {
        let read = parse_xml(&HostTopology { numa: vec![], ..host() }.to_xml()).unwrap();
        assert_eq!((read.numa.len(), read.numa[0].memory), (1, 3 << 30));
        assert_eq!(read.numa[0].cpus, host().cpus());
    }
}
