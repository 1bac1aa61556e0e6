//! Nodes, what is free on them, and where a job goes.
//!
//! Nodes that have the same number of cores and gpus and the same properties form a class, and
//! each class keeps its nodes in buckets by what is free. Whether a request fits follows from the
//! sizes of the buckets; only nodes that are chosen are touched.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flux_id::Idset;
use flux_model::constraint::node::NodeConstraint;
use flux_model::resource_set::{Children, ResourceSet, ResourceSetError};

use crate::demand::{Demand, DemandError, Types, Unit};
use crate::eligible::{Eligible, View, only_properties};
use crate::graph::Graph;
use crate::index::Index;

mod held;
mod special;
mod types;

/// Most classes by property; with more, classes are by size only and every constraint is worked
/// out rank by rank.
const MAX_CLASSES: usize = 64;

/// Up to so many ranks a constraint's nodes are sorted rather than searched for in the index.
const FEW: u64 = 1024;

pub(crate) use types::counts;

#[derive(Debug)]
struct Node {
    host: Arc<str>,
    all: Arc<Children>,
    /// What no job has; what is held is among it.
    left: Children,
    /// Kept from jobs.
    held: Option<Arc<Children>>,
    class: usize,
    up: bool,
    /// Not to be counted on.
    barred: bool,
}

#[derive(Debug)]
struct Class {
    /// Cores and gpus of each node.
    all: (u32, u32),
    nodes: u64,
    free: Index,
}

/// What a job gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// Cores and gpus by rank, in rank order.
    pub parts: Vec<(u32, Arc<Children>)>,
    /// Number of slots.
    pub nslots: u64,
}

/// The resources of the instance and what is free of them.
#[derive(Debug)]
pub struct Pool {
    set: ResourceSet,
    nodes: BTreeMap<u32, Node>,
    classes: Vec<Class>,
    /// Classes tell properties apart.
    by_property: bool,
    up: Idset,
    barred: Idset,
    held: BTreeMap<u32, Arc<Children>>,
    cache: BTreeMap<String, Arc<Eligible>>,
    everything: Arc<Eligible>,
    /// Resources beyond nodes, cores and gpus.
    graph: Option<Arc<Graph>>,
    /// Nodes that have some of a type other than core and gpu.
    typed: BTreeMap<String, Idset>,
    /// Nodes looked at while placing, for tests of the cost.
    pub examined: u64,
}

fn small(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Default for Pool {
    fn default() -> Self {
        Self::new(ResourceSet::new())
    }
}

impl Pool {
    /// All nodes of a set, free and down.
    #[must_use]
    pub fn new(set: ResourceSet) -> Self {
        let set = set.without_scheduling();
        let mut names: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for (name, ranks) in set.properties() {
            for rank in ranks.ids() {
                names.entry(rank).or_default().push(name);
            }
        }
        let kinds: BTreeSet<(u64, u64, Option<&Vec<&str>>)> = set
            .iter()
            .map(|(rank, _, all)| (all.cores.len(), all.gpus.len(), names.get(&rank)))
            .collect();
        let by_property = kinds.len() <= MAX_CLASSES;
        let mut classes: Vec<Class> = Vec::new();
        let mut known: BTreeMap<(u64, u64, Option<&Vec<&str>>), usize> = BTreeMap::new();
        let mut shared: BTreeMap<String, Arc<Children>> = BTreeMap::new();
        let mut typed: BTreeMap<String, Idset> = BTreeMap::new();
        let mut nodes = BTreeMap::new();
        let mut previous: Option<Arc<Children>> = None;
        for (rank, host, all) in set.iter() {
            let names = if by_property { names.get(&rank) } else { None };
            let class =
                *known.entry((all.cores.len(), all.gpus.len(), names)).or_insert_with(|| {
                    let all = (small(all.cores.len()), small(all.gpus.len()));
                    classes.push(Class { all, nodes: 0, free: Index::default() });
                    classes.len() - 1
                });
            classes[class].nodes += 1;
            let all = match &previous {
                Some(same) if **same == *all => Arc::clone(same),
                _ => Arc::clone(
                    shared.entry(all.to_string()).or_insert_with(|| Arc::new(all.clone())),
                ),
            };
            for kind in all.others.keys() {
                typed.entry(kind.clone()).or_default().insert(rank);
            }
            previous = Some(Arc::clone(&all));
            let node = Node {
                host: Arc::from(host),
                left: Children::clone(&all),
                held: None,
                all,
                class,
                up: false,
                barred: false,
            };
            nodes.insert(rank, node);
        }
        let everything = Arc::new(Eligible::Classes((0..classes.len()).collect()));
        Self {
            set,
            nodes,
            classes,
            by_property,
            up: Idset::new(),
            barred: Idset::new(),
            held: BTreeMap::new(),
            cache: BTreeMap::new(),
            everything,
            graph: None,
            typed,
            examined: 0,
        }
    }

    /// Every resource.
    #[must_use]
    pub fn set(&self) -> &ResourceSet {
        &self.set
    }

    /// Ranks that are up.
    #[must_use]
    pub fn up(&self) -> &Idset {
        &self.up
    }

    /// Marks ranks up or down; ranks that are not in the pool are ignored.
    pub fn mark(&mut self, ranks: &Idset, up: bool) {
        for rank in ranks.intersection(&self.set.ranks()).ids() {
            let Some(node) = self.nodes.get_mut(&rank).filter(|node| node.up != up) else {
                continue;
            };
            node.up = up;
            let index = &mut self.classes[node.class].free;
            if up {
                index.insert(rank, node.free());
                self.up.insert(rank);
            } else {
                index.remove(rank, node.free());
                self.up.remove(rank);
            }
        }
    }

    /// Ranks that are not to be counted on.
    #[must_use]
    pub fn barred(&self) -> &Idset {
        &self.barred
    }

    /// Says which ranks are not to be counted on, however long a job waits; the others are.
    /// Whether they are up is another matter.
    pub fn bar(&mut self, ranks: &Idset) {
        let barred = ranks.intersection(&self.set.ranks());
        for (ranks, bar) in
            [(self.barred.difference(&barred), false), (barred.difference(&self.barred), true)]
        {
            for rank in ranks.ids() {
                if let Some(node) = self.nodes.get_mut(&rank) {
                    node.barred = bar;
                    let nodes = &mut self.classes[node.class].nodes;
                    *nodes = if bar { *nodes - 1 } else { *nodes + 1 };
                }
            }
        }
        self.barred = barred;
    }

    /// Removes ranks for good. What was worked out for constraints no longer holds.
    pub fn shrink(&mut self, ranks: &Idset) {
        self.mark(ranks, false);
        for rank in ranks.intersection(&self.set.ranks()).ids() {
            if let Some(node) = self.nodes.remove(&rank) {
                self.classes[node.class].nodes -= u64::from(!node.barred);
            }
        }
        self.set = self.set.without_ranks(ranks);
        self.typed.values_mut().for_each(|typed| typed.remove_all(ranks));
        self.cache.clear();
    }

    /// The nodes a constraint allows. Equal constraints are worked out once.
    pub fn eligible(&mut self, constraint: Option<(String, NodeConstraint)>) -> Arc<Eligible> {
        let Some((text, constraint)) = constraint else { return Arc::clone(&self.everything) };
        if let Some(known) = self.cache.get(&text) {
            return Arc::clone(known);
        }
        let found = if self.by_property && only_properties(&constraint) {
            let mut wanted: BTreeMap<usize, bool> = BTreeMap::new();
            for (rank, node) in &self.nodes {
                wanted.entry(node.class).or_insert_with(|| self.allows(&constraint, *rank, node));
                if wanted.len() == self.classes.len() {
                    break;
                }
            }
            Eligible::Classes(wanted.into_iter().filter_map(|(at, is)| is.then_some(at)).collect())
        } else {
            let allowed = |(rank, node): (&u32, &Node)| {
                self.allows(&constraint, *rank, node).then_some(*rank)
            };
            Eligible::Ranks(self.nodes.iter().filter_map(allowed).collect())
        };
        let found = Arc::new(found);
        // Constraints that name single hosts differ from job to job.
        if self.cache.len() >= 4096 {
            self.cache.clear();
        }
        self.cache.insert(text, Arc::clone(&found));
        found
    }

    fn allows(&self, constraint: &NodeConstraint, rank: u32, node: &Node) -> bool {
        let has = |name: &str| self.set.properties().get(name).is_some_and(|r| r.contains(rank));
        constraint.matches(&View { rank, host: &node.host, has: &has })
    }

    /// One bit for each class that has an eligible node (classes above 63 share bits): jobs
    /// without a common bit cannot get in each other's way.
    #[must_use]
    pub fn mask(&self, eligible: &Eligible) -> u64 {
        let bit = |class: usize| 1_u64 << (class % 64);
        match eligible {
            Eligible::Classes(classes) => classes.iter().fold(0, |mask, class| mask | bit(*class)),
            Eligible::Ranks(ranks) => ranks
                .ids()
                .filter_map(|rank| self.nodes.get(&rank))
                .fold(0, |mask, node| mask | bit(node.class)),
            Eligible::Groups { groups, .. } => groups
                .iter()
                .flat_map(Idset::ids)
                .filter_map(|rank| self.nodes.get(&rank))
                .fold(0, |mask, node| mask | bit(node.class)),
        }
    }

    /// Whether a demand can be met when every node is up and free.
    ///
    /// # Errors
    /// Says how much there is.
    pub fn feasible(&self, demand: &Demand, eligible: &Eligible) -> Result<(), DemandError> {
        self.feasible_types(demand, eligible)?;
        let mut totals = (0_u64, 0_u64, 0_u64, 0_u64);
        let without_gpus = Demand { gpus: 0, ..demand.clone() };
        let mut add = |all: (u32, u32), nodes: u64| {
            let units = demand.fit(all, all).saturating_mul(nodes);
            let by_cores = without_gpus.fit(all, all).saturating_mul(nodes);
            totals.0 = totals.0.saturating_add(units);
            totals.1 = totals.1.saturating_add(by_cores);
            totals.2 += u64::from(all.0) * nodes;
            totals.3 += u64::from(all.1) * nodes;
        };
        match eligible {
            Eligible::Classes(classes) => {
                for class in classes.iter().filter_map(|at| self.classes.get(*at)) {
                    add(class.all, class.nodes);
                }
            }
            Eligible::Ranks(ranks) => {
                let nodes = ranks.ids().filter_map(|rank| self.nodes.get(&rank));
                for node in nodes.filter(|node| !node.barred) {
                    add(self.classes[node.class].all, 1);
                }
            }
            Eligible::Groups { groups, each } => {
                for ranks in groups {
                    let nodes = ranks.ids().filter_map(|rank| self.nodes.get(&rank));
                    let alls = nodes.filter(|node| !node.barred);
                    let alls = alls.map(|node| self.classes[node.class].all);
                    let fits = alls.filter(|all| demand.fit(*all, *all) > 0);
                    for all in fits.take(usize::try_from(*each).unwrap_or(usize::MAX)) {
                        add(all, 1);
                    }
                }
            }
        }
        if totals.0 >= demand.min {
            return Ok(());
        }
        if eligible.is_empty() && !self.nodes.is_empty() {
            return Err(DemandError::Unsatisfiable("no node satisfies the constraints".into()));
        }
        Err(demand.denial(totals.0, totals.1, totals.2, totals.3))
    }

    /// Units of a demand that fit now.
    #[must_use]
    pub fn capacity(&self, demand: &Demand, eligible: &Eligible) -> u64 {
        if !demand.types.is_empty() {
            return self
                .with_types(demand)
                .ids()
                .map(|rank| self.fit(demand, eligible, rank, None, None))
                .fold(0, u64::saturating_add);
        }
        match eligible {
            Eligible::Classes(classes) => classes
                .iter()
                .filter_map(|at| self.classes.get(*at))
                .map(|class| class.free.capacity(demand, class.all))
                .fold(0, u64::saturating_add),
            Eligible::Ranks(ranks) => ranks
                .ids()
                .map(|rank| self.fit(demand, eligible, rank, None, None))
                .fold(0, u64::saturating_add),
            Eligible::Groups { groups, each } => {
                let fits = |ranks: &&Idset| self.first(demand, ranks, *each).len() as u64 == *each;
                each.saturating_mul(groups.iter().filter(fits).count() as u64)
            }
        }
    }

    /// Units a node gives if it is eligible and up: with what is free now, or with `free` and
    /// `types`.
    pub(crate) fn fit(
        &self,
        demand: &Demand,
        eligible: &Eligible,
        rank: u32,
        free: Option<(u32, u32)>,
        types: Option<&Types>,
    ) -> u64 {
        let Some(node) = self.nodes.get(&rank).filter(|node| node.up) else { return 0 };
        let free = free.unwrap_or_else(|| node.free());
        if !eligible.contains(rank, node.class) {
            return 0;
        }
        let units = demand.fit(free, self.classes[node.class].all);
        if units == 0 || demand.types.is_empty() {
            return units;
        }
        let by_types = match types {
            Some(types) => demand.fit_types(types),
            None => demand.fit_types(&node.types()),
        };
        // Of whole nodes there is one or none.
        if demand.unit == Unit::Slot { units.min(by_types) } else { units.min(by_types.min(1)) }
    }

    /// What is free on a node, up or down.
    #[must_use]
    pub fn free_on(&self, rank: u32) -> Option<(u32, u32)> {
        self.nodes.get(&rank).map(Node::free)
    }

    /// Chooses nodes for a demand and takes what it asks for; `None` when it does not fit now.
    /// Nodes with most cores free come first, then those with most gpus free, then low ranks.
    pub fn place(&mut self, demand: &Demand, eligible: &Eligible) -> Option<Placement> {
        if demand.min == 0 || self.capacity(demand, eligible) < demand.min {
            return None;
        }
        let chosen = self.choose(demand, eligible);
        let mut parts = Vec::with_capacity(chosen.len());
        let mut units = 0;
        for (rank, count) in chosen {
            units += count;
            if let Some(part) = self.cut(demand, rank, count) {
                parts.push((rank, part));
            }
        }
        parts.sort_unstable_by_key(|(rank, _)| *rank);
        let nslots = (units / demand.units_per_slot.max(1)).saturating_mul(demand.slots).max(1);
        Some(Placement { parts, nslots })
    }

    /// Nodes and units on each, no more than the demand's most.
    fn choose(&mut self, demand: &Demand, eligible: &Eligible) -> Vec<(u32, u64)> {
        let mut left = demand.max.unwrap_or(u64::MAX).max(demand.min);
        let mut chosen = Vec::new();
        let mut examined = 0;
        let mut take = |rank: u32, fit: u64| {
            examined += 1;
            let count = fit.min(left);
            if count > 0 {
                chosen.push((rank, count));
                left -= count;
            }
            left > 0
        };
        match eligible {
            _ if !demand.types.is_empty() => {
                let mut order: Vec<(Reverse<(u32, u32)>, u32, u64)> = self
                    .with_types(demand)
                    .ids()
                    .filter_map(|rank| {
                        let fit = self.fit(demand, eligible, rank, None, None);
                        (fit > 0)
                            .then(|| self.free_on(rank))?
                            .map(|free| (Reverse(free), rank, fit))
                    })
                    .collect();
                order.sort_unstable();
                for (_, rank, fit) in order {
                    if !take(rank, fit) {
                        break;
                    }
                }
            }
            Eligible::Ranks(ranks) if ranks.len() <= FEW => {
                let mut order: Vec<(Reverse<(u32, u32)>, u32)> = ranks
                    .ids()
                    .filter_map(|rank| {
                        let node = self.nodes.get(&rank).filter(|node| node.up)?;
                        Some((Reverse(node.free()), rank))
                    })
                    .collect();
                order.sort_unstable();
                for (free, rank) in order {
                    let all = self.nodes.get(&rank).map(|node| self.classes[node.class].all);
                    if !take(rank, all.map_or(0, |all| demand.fit(free.0, all))) {
                        break;
                    }
                }
            }
            Eligible::Groups { groups, each } => {
                for ranks in groups {
                    let chosen = self.first(demand, ranks, *each);
                    // Groups that are used are used whole.
                    if chosen.len() as u64 == *each && !chosen.iter().all(|rank| take(*rank, 1)) {
                        break;
                    }
                }
            }
            _ => {
                let (classes, within): (Vec<usize>, _) = match eligible {
                    Eligible::Classes(classes) => (classes.clone(), None),
                    Eligible::Ranks(ranks) => ((0..self.classes.len()).collect(), Some(ranks)),
                    Eligible::Groups { .. } => (Vec::new(), None),
                };
                for (rank, fit) in merged(&self.classes, &classes, demand) {
                    if within.is_none_or(|ranks| ranks.contains(rank)) && !take(rank, fit) {
                        break;
                    }
                }
            }
        }
        self.examined += examined;
        chosen
    }

    /// Takes `units` units of a demand from a node.
    fn cut(&mut self, demand: &Demand, rank: u32, units: u64) -> Option<Arc<Children>> {
        let node = self.nodes.get(&rank)?;
        let part = if demand.unit == Unit::WholeNode {
            Arc::clone(&node.all)
        } else {
            let each = |count: u32| u64::from(count).saturating_mul(units);
            let mut part = node.choose(each(demand.cores), each(demand.gpus));
            for (kind, count) in &demand.types {
                if let Some(left) = node.left.others.get(kind) {
                    part.others.insert(kind.clone(), left.take(each(*count)));
                }
            }
            Arc::new(part)
        };
        self.change(rank, |node| node.lose(&part));
        Some(part)
    }

    /// Changes what is free on a node and keeps the index right.
    fn change(&mut self, rank: u32, f: impl FnOnce(&mut Node)) {
        let Some(node) = self.nodes.get_mut(&rank) else { return };
        let before = node.free();
        f(node);
        if node.up {
            let index = &mut self.classes[node.class].free;
            index.remove(rank, before);
            index.insert(rank, node.free());
        }
    }

    /// Takes given resources: those of a job that runs already.
    ///
    /// # Errors
    /// Resources that are not in the pool or not free; nothing is taken then.
    pub fn take(&mut self, parts: &[(u32, Arc<Children>)]) -> Result<(), ResourceSetError> {
        for (rank, part) in parts {
            let free = self.nodes.get(rank).is_some_and(|node| node.has_left(part));
            if !free {
                return Err(ResourceSetError::NotInSet(format!("rank{rank}/{part}")));
            }
        }
        for (rank, part) in parts {
            self.change(*rank, |node| node.lose(part));
        }
        Ok(())
    }

    /// Gives resources of one rank back; a rank that is gone is ignored.
    pub fn give_back(&mut self, rank: u32, part: &Children) {
        self.change(rank, |node| {
            node.left.cores.insert_all(&part.cores);
            node.left.gpus.insert_all(&part.gpus);
            for (kind, ids) in &part.others {
                // What the node no longer has does not come back.
                if node.all.others.contains_key(kind) {
                    node.left.others.entry(kind.clone()).or_default().insert_all(ids);
                }
            }
        });
    }

    /// R of what a job got.
    ///
    /// # Errors
    /// None for a placement of this pool.
    pub fn allocation(&self, placement: &Placement) -> Result<ResourceSet, ResourceSetError> {
        let nodes = placement.parts.iter().filter_map(|(rank, part)| {
            let node = self.nodes.get(rank)?;
            Some((*rank, Arc::clone(&node.host), Arc::clone(part)))
        });
        let mut set = ResourceSet::from_nodes(nodes)?;
        if !self.set.properties().is_empty() {
            let ranks: Idset = placement.parts.iter().map(|(rank, _)| *rank).collect();
            for (name, have) in self.set.properties() {
                if !name.starts_with('+') {
                    let own = ranks.ids().filter(|rank| have.contains(*rank)).collect();
                    set.set_property(name, &own)?;
                }
            }
        }
        set.nslots = Some(placement.nslots);
        set.scheduling = self.scheduling(&placement.parts);
        Ok(set)
    }

    /// Everything that is taken.
    #[must_use]
    pub fn allocated(&self) -> ResourceSet {
        let taken = self.nodes.iter().filter_map(|(rank, node)| {
            let part = node.all.without(&node.left);
            (!part.is_empty()).then(|| (*rank, Arc::new(part)))
        });
        self.set.pick(taken).unwrap_or_default()
    }
}

/// Nodes of several classes on which a demand fits, and units on each: most free first.
fn merged<'a>(
    classes: &'a [Class],
    wanted: &[usize],
    demand: &'a Demand,
) -> impl Iterator<Item = (u32, u64)> + 'a {
    let mut sources: Vec<_> = wanted
        .iter()
        .filter_map(|at| classes.get(*at))
        .filter(|class| demand.fit(class.all, class.all) > 0)
        .map(|class| {
            class
                .free
                .buckets(demand.cores, demand.gpus)
                .filter_map(move |(free, ranks)| {
                    let fit = demand.fit(free, class.all);
                    (fit > 0).then_some((free, fit, ranks))
                })
                .flat_map(|(free, fit, ranks)| {
                    ranks.ids().map(move |rank| (Reverse(free), rank, fit))
                })
                .peekable()
        })
        .collect();
    std::iter::from_fn(move || {
        if let [only] = sources.as_mut_slice() {
            return only.next().map(|(_, rank, fit)| (rank, fit));
        }
        let best = sources
            .iter_mut()
            .enumerate()
            .filter_map(|(at, source)| source.peek().map(|key| (*key, at)))
            .min()?
            .1;
        sources[best].next().map(|(_, rank, fit)| (rank, fit))
    })
}
