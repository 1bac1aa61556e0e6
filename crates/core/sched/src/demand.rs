//! What a jobspec asks of a scheduler, reduced to numbers per node.

use std::collections::BTreeMap;

use flux_model::constraint::{ConstraintError, node::NodeConstraint};
use flux_model::jobspec::{Count, JobspecError, Layout, Request, Vertex};
use serde_json::Value;

use crate::special::is_special;

/// Why a request can never be met.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DemandError {
    /// The jobspec does not say what it wants.
    #[error("cannot parse jobspec: {0}")]
    Jobspec(String),
    /// A stepped range or a set of counts.
    #[error(
        "{0} count specifies discrete valid values that this scheduler does not support; use a \
         simple min-max range instead"
    )]
    Discrete(&'static str),
    /// The constraint is wrong.
    #[error("invalid constraint: {0}")]
    Constraint(#[from] ConstraintError),
    /// There will never be enough.
    #[error("unsatisfiable request: {0}")]
    Unsatisfiable(String),
}

impl From<JobspecError> for DemandError {
    fn from(error: JobspecError) -> Self {
        Self::Jobspec(error.to_string())
    }
}

/// What is counted when nodes are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nodes that no other job uses, with at least so much.
    WholeNode,
    /// Nodes with at least so much free.
    Node,
    /// Slots, as many on each node as fit.
    Slot,
}

/// How much there is of types other than cores and gpus; none of which there is nothing.
pub type Types = BTreeMap<String, u32>;

/// A request in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// What `min` and `max` count.
    pub unit: Unit,
    /// Fewest units, at least 1.
    pub min: u64,
    /// Most units; `None` for as many as there are.
    pub max: Option<u64>,
    /// Slots of each unit.
    pub slots: u64,
    /// Units of each slot, for slots that hold nodes; else 1.
    pub units_per_slot: u64,
    /// Cores of each unit.
    pub cores: u32,
    /// Gpus of each unit.
    pub gpus: u32,
    /// Other types than nodes, slots, cores and gpus are asked for, too.
    pub special: bool,
    /// Other types of each unit.
    pub types: Types,
}

impl Demand {
    /// Reads the request of a jobspec.
    ///
    /// # Errors
    /// A jobspec without resources or with counts that are not supported.
    pub fn of(jobspec: &Value) -> Result<Self, DemandError> {
        Self::among(jobspec, |_| false)
    }

    /// As [`Demand::of`], where some types beside cores and gpus are counted at nodes. Others, and
    /// any that are to contain something, are looked for in the graph.
    ///
    /// # Errors
    /// As [`Demand::of`].
    pub fn among(jobspec: &Value, counted: impl Fn(&str) -> bool) -> Result<Self, DemandError> {
        let vertices = resources(jobspec)?;
        let mut request =
            Request::of(&vertices).map_err(|error| match error.to_string().as_str() {
                "resources: contains no slot" => {
                    DemandError::Jobspec("Unable to determine slot count".to_string())
                }
                _ => error.into(),
            })?;
        let mut kinds = request.types_per_slot.keys().chain(request.types_per_node.keys());
        let special =
            is_special(&vertices) && (request.type_elsewhere || !kinds.all(|kind| counted(kind)));
        if special {
            // Who asks for such things has whole nodes.
            request.exclusive = true;
            request.types_per_slot.clear();
            request.types_per_node.clear();
        }
        Ok(Self { special, ..Self::from_request(&request)? })
    }

    /// Reduces a request to numbers per node or slot.
    ///
    /// # Errors
    /// Counts that are not supported, and slots without cores that share nodes.
    pub fn from_request(request: &Request) -> Result<Self, DemandError> {
        if let Some(nodes) = &request.nodes {
            simple(nodes, "node")?;
        }
        simple(&request.slots, "slot")?;
        if request.cores_per_slot == 0 && !request.exclusive {
            return Err(DemandError::Jobspec("Unable to determine slot size".to_string()));
        }
        let (cores, gpus) = (request.cores_per_slot, request.gpus_per_slot);
        let node = if request.exclusive { Unit::WholeNode } else { Unit::Node };
        let per_node = request.slots.min();
        let demand = match (request.layout, &request.nodes) {
            (Layout::SlotsOnNodes, Some(nodes)) => Self {
                unit: node,
                min: nodes.min(),
                max: nodes.max(),
                slots: per_node,
                units_per_slot: 1,
                cores: narrow(cores.saturating_mul(per_node)),
                gpus: narrow(gpus.saturating_mul(per_node)),
                special: false,
                types: types(&request.types_per_slot, |count| count.saturating_mul(per_node)),
            },
            (Layout::NodesInSlots, Some(nodes)) => {
                let each = nodes.min().max(1);
                let total = request.total_nodes().unwrap_or((each, Some(each)));
                Self {
                    unit: node,
                    min: total.0,
                    max: total.1,
                    slots: 1,
                    units_per_slot: each,
                    cores: narrow(cores.div_ceil(each)),
                    gpus: narrow(gpus.div_ceil(each)),
                    special: false,
                    types: types(&request.types_per_slot, |count| count.div_ceil(each)),
                }
            }
            _ => Self {
                unit: if request.exclusive { Unit::WholeNode } else { Unit::Slot },
                min: request.slots.min(),
                max: request.slots.max(),
                slots: 1,
                units_per_slot: 1,
                cores: narrow(cores),
                gpus: narrow(gpus),
                special: false,
                types: types(&request.types_per_slot, |count| count),
            },
        };
        Ok(demand.with_types(&request.types_per_node))
    }

    /// With this much more of each unit, which is a node where there is something.
    fn with_types(mut self, more: &BTreeMap<String, u64>) -> Self {
        for (kind, count) in types(more, |count| count) {
            let sum = self.types.entry(kind).or_insert(0);
            *sum = sum.saturating_add(count);
        }
        self
    }

    /// For the log: nodes (0 for any), slots and cores of each slot, and gpus if there are any.
    #[must_use]
    pub fn spec(&self) -> String {
        let (nodes, slots) = match self.unit {
            Unit::Slot => (0, self.min),
            Unit::Node | Unit::WholeNode => {
                (self.min, self.min.saturating_mul(self.slots) / self.units_per_slot.max(1))
            }
        };
        let cores = u64::from(self.cores) * self.units_per_slot.max(1) / self.slots.max(1);
        let gpus = if self.gpus > 0 { format!(" gpus={}", self.gpus) } else { String::new() };
        let types: String =
            self.types.iter().map(|(kind, count)| format!(" {kind}={count}")).collect();
        format!("spec={{{nodes},{slots},{cores}}}{gpus}{types}")
    }

    /// How many units a node gives that has so much free of other types.
    #[must_use]
    pub fn fit_types(&self, free: &Types) -> u64 {
        let of = |(kind, each): (&String, &u32)| {
            u64::from(free.get(kind).copied().unwrap_or(0).checked_div(*each).unwrap_or(u32::MAX))
        };
        self.types.iter().map(of).min().unwrap_or(u64::MAX)
    }

    /// How many units a node gives that has so much free, of so much in all.
    #[must_use]
    pub fn fit(&self, free: (u32, u32), all: (u32, u32)) -> u64 {
        let enough = free.0 >= self.cores && free.1 >= self.gpus;
        match self.unit {
            _ if !enough => 0,
            Unit::WholeNode => u64::from(free == all),
            Unit::Node => 1,
            Unit::Slot => {
                let by = |free: u32, each: u32| free.checked_div(each).unwrap_or(u32::MAX);
                u64::from(by(free.0, self.cores).min(by(free.1, self.gpus)))
            }
        }
    }

    /// Why `units` units can never be enough, where there are so many of a type in all.
    #[must_use]
    pub fn denial_of(&self, kind: &str, each: u32, units: u64, total: u64) -> DemandError {
        let need = self.min;
        DemandError::Unsatisfiable(match (total, self.unit) {
            (0, _) => format!("need '{kind}', of which there is none"),
            (_, Unit::Slot) => format!(
                "need {need} slot(s) with {each} '{kind}' each, only {units} available (total \
                 '{kind}': {total})"
            ),
            _ => format!("need {need} node(s) with {each} '{kind}' each, only {units} eligible"),
        })
    }

    /// Why `units` units, with so many cores and gpus in all, can never be enough.
    #[must_use]
    pub fn denial(&self, units: u64, by_cores: u64, cores: u64, gpus: u64) -> DemandError {
        let need = self.min;
        DemandError::Unsatisfiable(match self.unit {
            Unit::WholeNode => format!("need {need} exclusive node(s), only {units} eligible"),
            Unit::Node => {
                let gpus =
                    if self.gpus > 0 { format!(" and {} GPUs", self.gpus) } else { String::new() };
                format!(
                    "need {need} node(s) with {} cores{gpus} each, only {units} eligible",
                    self.cores
                )
            }
            Unit::Slot if by_cores < need || self.gpus == 0 => format!(
                "need {need} slot(s) of {} core(s), only {by_cores} such slot(s) available \
                 (total cores: {cores})",
                self.cores
            ),
            Unit::Slot => format!(
                "need {need} slot(s) with {} GPU(s) each, only {units} available (total GPUs: \
                 {gpus})",
                self.gpus
            ),
        })
    }
}

fn simple(count: &Count, what: &'static str) -> Result<(), DemandError> {
    if count.is_simple() { Ok(()) } else { Err(DemandError::Discrete(what)) }
}

/// The resources that a jobspec asks for.
///
/// # Errors
/// A jobspec without resources, or with some that make no sense.
pub fn resources(jobspec: &Value) -> Result<Vec<Vertex>, DemandError> {
    let resources = jobspec
        .get("resources")
        .filter(|list| list.as_array().is_some_and(|list| !list.is_empty()))
        .ok_or_else(|| DemandError::Jobspec("jobspec has no resources".to_string()))?;
    Vertex::list_from_value(resources).map_err(DemandError::from)
}

/// Counts by type, each changed by `f`; none of zero.
fn types(counts: &BTreeMap<String, u64>, f: impl Fn(u64) -> u64) -> Types {
    let counts = counts.iter().filter(|(_, count)| **count > 0);
    counts.map(|(kind, count)| (kind.clone(), narrow(f(*count)))).collect()
}

/// More than fits is more than any node has.
fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Time limit of a jobspec in seconds; 0 for none.
///
/// # Errors
/// A jobspec without `attributes.system.duration`, or where it is no number of seconds.
pub fn duration(jobspec: &Value) -> Result<f64, DemandError> {
    let missing = |what: &str| {
        DemandError::Jobspec(format!("getting duration: Object item not found: {what}"))
    };
    let attributes = jobspec.get("attributes").ok_or_else(|| missing("attributes"))?;
    let system = attributes.get("system").ok_or_else(|| missing("system"))?;
    let duration = system.get("duration").ok_or_else(|| missing("duration"))?;
    duration.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0).ok_or_else(|| {
        DemandError::Jobspec("getting duration: expected a number of seconds".to_string())
    })
}

/// The constraint of a jobspec, if it has one that says something.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn constraint(jobspec: &Value) -> Result<Option<(String, NodeConstraint)>, DemandError> {
    let found = jobspec
        .get("attributes")
        .and_then(|attributes| attributes.get("system")?.get("constraints"))
        .filter(|value| value.as_object().is_none_or(|map| !map.is_empty()));
    match found {
        None => Ok(None),
        Some(value) => Ok(Some((value.to_string(), NodeConstraint::decode(value)?))),
    }
}
