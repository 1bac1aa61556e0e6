//! What a resource graph asks for, in numbers a scheduler and a shell can use.

use std::collections::BTreeMap;

use super::count::Count;
use super::error::JobspecError;
use super::resource::Vertex;

/// How nodes and slots contain each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// No nodes are mentioned: slots go anywhere.
    Slots,
    /// Each node holds a number of slots.
    SlotsOnNodes,
    /// Each slot holds a number of nodes.
    NodesInSlots,
}

/// Counts of a request. Resource types other than node, slot, core and gpu are counted where they
/// contain nothing; where they do, they are transparent: their count multiplies what is below them.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// How nodes and slots contain each other.
    pub layout: Layout,
    /// Nodes: in all, or per slot for [`Layout::NodesInSlots`]; `None` for [`Layout::Slots`].
    pub nodes: Option<Count>,
    /// Slots: in all, or per node for [`Layout::SlotsOnNodes`].
    pub slots: Count,
    /// Cores of each slot, at least; 0 when the slot asks for none (whole nodes).
    pub cores_per_slot: u64,
    /// Gpus of each slot, at least.
    pub gpus_per_slot: u64,
    /// Other types of each slot, at least.
    pub types_per_slot: BTreeMap<String, u64>,
    /// Other types of each node, beside its slots.
    pub types_per_node: BTreeMap<String, u64>,
    /// Whether another type is asked for outside of nodes and slots, or is to contain something.
    pub type_elsewhere: bool,
    /// Whether nodes must not be shared with other jobs.
    pub exclusive: bool,
}

/// A count of something in the units in which it is counted at nodes: memory in GiB, rounded up.
///
/// # Errors
/// A unit that memory is not measured in.
pub fn units(kind: &str, count: u64, unit: Option<&str>) -> Result<u64, JobspecError> {
    let unit = unit.unwrap_or_default();
    if kind != "memory" {
        return Ok(count);
    }
    let bytes = |shift: u32| count.div_ceil(1 << (30 - shift));
    Ok(match unit.to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" if unit.is_empty() => count,
        "" => bytes(0),
        "k" => bytes(10),
        "m" => bytes(20),
        "g" => count,
        "t" => count.saturating_mul(1 << 10),
        "p" => count.saturating_mul(1 << 20),
        _ => return Err(JobspecError::at("unit", format!("memory is not measured in '{unit}'"))),
    })
}

impl Request {
    /// Reads the counts of a resource graph. Where a type occurs more than once the last one
    /// counts.
    ///
    /// # Errors
    /// A graph without slot, and discrete counts below a multiplied resource.
    pub fn of(resources: &[Vertex]) -> Result<Self, JobspecError> {
        let mut walk = Walk::default();
        for vertex in resources {
            walk.visit(vertex, 1, Place::default())?;
        }
        let Some(slots) = walk.slots else {
            return Err(JobspecError::at("resources", "contains no slot"));
        };
        Ok(Self {
            layout: walk.layout.unwrap_or(Layout::Slots),
            nodes: walk.nodes,
            slots,
            cores_per_slot: walk.cores,
            gpus_per_slot: walk.gpus,
            types_per_slot: walk.types_per_slot,
            types_per_node: walk.types_per_node,
            type_elsewhere: walk.type_elsewhere,
            exclusive: walk.exclusive,
        })
    }

    /// Least and greatest number of nodes (`None` inside: no upper bound); `None` if nodes are not
    /// part of the request.
    pub fn total_nodes(&self) -> Option<(u64, Option<u64>)> {
        let nodes = bounds(self.nodes.as_ref()?);
        Some(match self.layout {
            Layout::NodesInSlots => product(nodes, bounds(&self.slots)),
            Layout::Slots | Layout::SlotsOnNodes => nodes,
        })
    }

    /// Least and greatest number of slots.
    pub fn total_slots(&self) -> (u64, Option<u64>) {
        let slots = bounds(&self.slots);
        match (&self.nodes, self.layout) {
            (Some(nodes), Layout::SlotsOnNodes) => product(slots, bounds(nodes)),
            _ => slots,
        }
    }

    /// Least and greatest number of cores in slots.
    pub fn total_cores(&self) -> (u64, Option<u64>) {
        product(self.total_slots(), (self.cores_per_slot, Some(self.cores_per_slot)))
    }

    /// Least and greatest number of gpus in slots.
    pub fn total_gpus(&self) -> (u64, Option<u64>) {
        product(self.total_slots(), (self.gpus_per_slot, Some(self.gpus_per_slot)))
    }
}

fn bounds(count: &Count) -> (u64, Option<u64>) {
    (count.min(), count.max())
}

fn product(a: (u64, Option<u64>), b: (u64, Option<u64>)) -> (u64, Option<u64>) {
    let max = a.1.zip(b.1).map(|(a, b)| a.saturating_mul(b));
    (a.0.saturating_mul(b.0), max)
}

/// What encloses a vertex.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    in_slot: bool,
    in_node: bool,
}

#[derive(Debug, Default)]
struct Walk {
    layout: Option<Layout>,
    nodes: Option<Count>,
    slots: Option<Count>,
    cores: u64,
    gpus: u64,
    types_per_slot: BTreeMap<String, u64>,
    types_per_node: BTreeMap<String, u64>,
    type_elsewhere: bool,
    exclusive: bool,
}

impl Walk {
    /// `factor` is how many of `vertex`'s parent there are in the nearest node or slot above; in a
    /// slot it is how many there are in the slot.
    fn visit(&mut self, vertex: &Vertex, factor: u64, place: Place) -> Result<(), JobspecError> {
        let below = factor.saturating_mul(vertex.count.min());
        let mut inner = place;
        let mut inner_factor = below;
        match vertex.kind.as_str() {
            "node" => {
                self.nodes = Some(vertex.count.times(factor)?);
                inner.in_node = true;
                if place.in_slot {
                    self.layout = Some(Layout::NodesInSlots);
                    self.exclusive |= vertex.exclusive.unwrap_or(true);
                } else {
                    self.layout = Some(Layout::SlotsOnNodes);
                    self.exclusive |= vertex.exclusive.unwrap_or(false);
                    inner_factor = 1;
                }
            }
            "slot" => {
                self.slots = Some(vertex.count.times(factor)?);
                self.exclusive |= vertex.exclusive.unwrap_or(false);
                inner.in_slot = true;
                inner_factor = 1;
            }
            "core" if place.in_slot => self.cores = below,
            "gpu" if place.in_slot => self.gpus = below,
            "core" | "gpu" => {}
            kind if vertex.with.is_empty() && (place.in_slot || place.in_node) => {
                let count = units(kind, below, vertex.unit.as_deref())?;
                let into =
                    if place.in_slot { &mut self.types_per_slot } else { &mut self.types_per_node };
                let sum = into.entry(kind.to_owned()).or_insert(0);
                *sum = sum.saturating_add(count);
            }
            _ => self.type_elsewhere = true,
        }
        for child in &vertex.with {
            self.visit(child, inner_factor, inner)?;
        }
        Ok(())
    }
}
