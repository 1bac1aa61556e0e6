//! Task maps: which task of a job runs on which node (RFC 34).
//!
//! Nodes are numbered from 0 in the order of the job's resource set. A map without blocks says that
//! the mapping is unknown.

use std::fmt::Write as _;
use std::str::FromStr;

use flux_id::Idset;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

/// Most tasks, and most nodes, that a map may have.
pub const MAX_TASKS: u64 = 1 << 22;
/// Most blocks that a map may have, and most 3-tuples that the PMI form may take.
pub const MAX_BLOCKS: usize = 1 << 20;

/// Why something is no task map, or does not fit the job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskmapError {
    /// The JSON has not the form that RFC 34 defines.
    #[error("invalid task map: {0}")]
    Syntax(String),
    /// The version of a wrapped map is not 1.
    #[error("task map version {0} is not supported")]
    Version(i64),
    /// There are more tasks or nodes than [`MAX_TASKS`], or more blocks than [`MAX_BLOCKS`].
    #[error("task map is too large")]
    TooLarge,
    /// Task ids of the raw form are not 0 to n-1, each once.
    #[error("task map does not assign each task once (at task {0})")]
    Gap(u32),
    /// A host of a host file is not one of the job's.
    #[error("host {0} is not assigned to the job")]
    UnknownHost(String),
    /// A host file names no host.
    #[error("host file is empty")]
    NoHosts,
    /// A node has another number of tasks than its resources are for.
    #[error("task map assigns {got} tasks to node {node}, expected {expected}")]
    Count {
        /// The node.
        node: u32,
        /// Tasks that the map assigns.
        got: u64,
        /// Tasks that it should have.
        expected: u64,
    },
    /// A stride of 0.
    #[error("cyclic stride must be at least 1")]
    Stride,
}

/// `ppn` consecutive tasks on each of `nnodes` consecutive nodes, all of that `repeat` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// First node.
    pub nodeid: u32,
    /// Nodes; at least 1.
    pub nnodes: u32,
    /// Tasks per node; at least 1.
    pub ppn: u32,
    /// Times; at least 1.
    pub repeat: u32,
}

impl Block {
    /// Tasks of one repetition. Cannot overflow once the map is checked.
    fn width(self) -> u64 {
        u64::from(self.nnodes) * u64::from(self.ppn)
    }

    fn ntasks(self) -> u64 {
        self.width() * u64::from(self.repeat)
    }

    fn end(self) -> u64 {
        u64::from(self.nodeid) + u64::from(self.nnodes)
    }
}

/// A task map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taskmap {
    blocks: Vec<Block>,
}

impl Taskmap {
    /// The map that says nothing.
    pub fn unknown() -> Self {
        Self::default()
    }

    /// A map of these blocks.
    ///
    /// # Errors
    /// When a block has no tasks, or the map is too large.
    pub fn from_blocks(blocks: Vec<Block>) -> Result<Self, TaskmapError> {
        if blocks.len() > MAX_BLOCKS {
            return Err(TaskmapError::TooLarge);
        }
        let mut ntasks = 0u64;
        for block in &blocks {
            if block.nnodes == 0 || block.ppn == 0 || block.repeat == 0 {
                return Err(syntax("a block has no tasks"));
            }
            if block.width() > MAX_TASKS || block.end() > MAX_TASKS {
                return Err(TaskmapError::TooLarge);
            }
            ntasks += block.ntasks();
            if ntasks > MAX_TASKS {
                return Err(TaskmapError::TooLarge);
            }
        }
        Ok(Taskmap { blocks })
    }

    /// The most compact map this module finds for the node of each task in turn.
    ///
    /// # Errors
    /// [`TaskmapError::TooLarge`].
    pub fn from_nodes(nodes: impl IntoIterator<Item = u32>) -> Result<Self, TaskmapError> {
        let mut builder = Builder::default();
        for node in nodes {
            builder.add(node, 1)?;
        }
        builder.finish()
    }

    /// Consecutive tasks on each node: `counts` has the number of tasks of each node.
    ///
    /// # Errors
    /// [`TaskmapError::TooLarge`].
    pub fn block(counts: &[u32]) -> Result<Self, TaskmapError> {
        let mut builder = Builder::default();
        for (node, &count) in (0..).zip(counts) {
            builder.add(node, count)?;
        }
        builder.finish()
    }

    /// `stride` tasks on each node in turn, until each has its number of `counts`.
    ///
    /// # Errors
    /// [`TaskmapError::TooLarge`] or [`TaskmapError::Stride`].
    pub fn cyclic(counts: &[u32], stride: u32) -> Result<Self, TaskmapError> {
        if stride == 0 {
            return Err(TaskmapError::Stride);
        }
        let mut builder = Builder::default();
        // Only nodes with tasks left stay, so that every step places a task.
        let mut left: Vec<(u32, u32)> = (0..).zip(counts.iter().copied()).collect();
        left.retain(|&(_, count)| count > 0);
        while !left.is_empty() {
            for (node, count) in &mut left {
                let placed = stride.min(*count);
                builder.add(*node, placed)?;
                *count -= placed;
            }
            left.retain(|&(_, count)| count > 0);
        }
        builder.finish()
    }

    /// Tasks in turn on the hosts of a host file, which is begun again when it ends. `names` are the
    /// hosts of the job's nodes, `counts` the tasks of each.
    ///
    /// # Errors
    /// When a host is not the job's, or the outcome differs from `counts`.
    pub fn hostfile(hosts: &[&str], names: &[&str], counts: &[u32]) -> Result<Self, TaskmapError> {
        let ids: std::collections::BTreeMap<&str, u32> =
            names.iter().rev().copied().zip((0..names.len() as u32).rev()).collect();
        let node = |host: &&str| {
            ids.get(host).copied().ok_or_else(|| TaskmapError::UnknownHost((*host).to_owned()))
        };
        let nodes = hosts.iter().map(node).collect::<Result<Vec<_>, _>>()?;
        let ntasks: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        if nodes.is_empty() {
            return Err(TaskmapError::NoHosts);
        }
        if ntasks > MAX_TASKS {
            return Err(TaskmapError::TooLarge);
        }
        let map = Self::from_nodes(nodes.into_iter().cycle().take(ntasks as usize))?;
        map.check_counts(counts)?;
        Ok(map)
    }

    /// Checks that each node has as many tasks as `counts` says.
    ///
    /// # Errors
    /// [`TaskmapError::Count`] for the first node that has not.
    pub fn check_counts(&self, counts: &[u32]) -> Result<(), TaskmapError> {
        let nnodes = self.nnodes().max(counts.len() as u32);
        // Differences at block borders, so that the cost does not grow with blocks times nodes.
        let mut change = vec![0i64; nnodes as usize + 1];
        for block in &self.blocks {
            let tasks = i64::from(block.ppn) * i64::from(block.repeat);
            change[block.nodeid as usize] += tasks;
            change[block.end() as usize] -= tasks;
        }
        let mut got = 0i64;
        for node in 0..nnodes {
            got += change[node as usize];
            let (got, expected) =
                (got as u64, u64::from(counts.get(node as usize).copied().unwrap_or(0)));
            if got != expected {
                return Err(TaskmapError::Count { node, got, expected });
            }
        }
        Ok(())
    }

    /// The blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Whether it says nothing.
    pub fn is_unknown(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Number of tasks.
    pub fn ntasks(&self) -> u32 {
        // MAX_TASKS fits.
        self.blocks.iter().map(|block| block.ntasks()).sum::<u64>() as u32
    }

    /// Number of nodes: one more than the greatest node id.
    pub fn nnodes(&self) -> u32 {
        self.blocks.iter().map(|block| block.end()).max().unwrap_or(0) as u32
    }

    /// The node of a task.
    pub fn node_of(&self, task: u32) -> Option<u32> {
        let mut offset = u64::from(task);
        for block in &self.blocks {
            if offset < block.ntasks() {
                let within = offset % block.width() / u64::from(block.ppn);
                return Some(block.nodeid + within as u32);
            }
            offset -= block.ntasks();
        }
        None
    }

    /// The tasks of a node.
    pub fn tasks_of(&self, node: u32) -> Idset {
        let mut tasks = Idset::new();
        let mut first = 0u64;
        for block in &self.blocks {
            if node >= block.nodeid && u64::from(node) < block.end() {
                let within = u64::from(node - block.nodeid) * u64::from(block.ppn);
                for turn in 0..u64::from(block.repeat) {
                    let from = (first + turn * block.width() + within) as u32;
                    tasks.insert_range(from..=from + (block.ppn - 1));
                }
            }
            first += block.ntasks();
        }
        tasks
    }

    /// The tasks of every node, from node 0.
    pub fn tasks_by_node(&self) -> Vec<Idset> {
        let mut nodes = vec![Idset::new(); self.nnodes() as usize];
        let mut first = 0u32;
        for block in &self.blocks {
            for _ in 0..block.repeat {
                for tasks in &mut nodes[block.nodeid as usize..][..block.nnodes as usize] {
                    tasks.insert_range(first..=first + (block.ppn - 1));
                    first += block.ppn;
                }
            }
        }
        nodes
    }

    /// The JSON array of blocks.
    pub fn to_array(&self) -> Value {
        self.blocks.iter().map(|b| json!([b.nodeid, b.nnodes, b.ppn, b.repeat])).collect()
    }

    /// The JSON object with version.
    pub fn to_value(&self) -> Value {
        json!({"version": 1, "map": self.to_array()})
    }

    /// Reads the array or the object.
    ///
    /// # Errors
    /// What is wrong.
    pub fn from_value(value: &Value) -> Result<Self, TaskmapError> {
        let array = match value {
            Value::Object(object) => {
                let version = object.get("version").and_then(Value::as_i64);
                match version.ok_or_else(|| syntax("version is missing"))? {
                    1 => object.get("map").ok_or_else(|| syntax("map is missing"))?,
                    version => return Err(TaskmapError::Version(version)),
                }
            }
            array => array,
        };
        let array = array.as_array().ok_or_else(|| syntax("not an array"))?;
        let blocks = array.iter().map(|tuple| {
            let tuple = tuple.as_array().map_or(&[][..], Vec::as_slice);
            numbers::<4>(tuple.iter().map(|number| number.as_u64()))
        });
        let block = |[nodeid, nnodes, ppn, repeat]: [u32; 4]| Block { nodeid, nnodes, ppn, repeat };
        let blocks = blocks.map(|tuple| tuple.map(block)).collect::<Option<Vec<_>>>();
        Self::from_blocks(blocks.ok_or_else(|| syntax("a block is not four numbers"))?)
    }

    /// The `PMI_process_mapping` form, `(vector,(0,2,4))`; the empty string if unknown.
    ///
    /// # Errors
    /// [`TaskmapError::TooLarge`] if it would have more than [`MAX_BLOCKS`] tuples.
    pub fn to_pmi(&self) -> Result<String, TaskmapError> {
        let tuples: u64 = self.blocks.iter().map(|block| u64::from(block.repeat)).sum();
        if tuples > MAX_BLOCKS as u64 {
            return Err(TaskmapError::TooLarge);
        }
        if self.is_unknown() {
            return Ok(String::new());
        }
        let mut text = "(vector".to_owned();
        for block in &self.blocks {
            let tuple = format!(",({},{},{})", block.nodeid, block.nnodes, block.ppn);
            text.push_str(&tuple.repeat(block.repeat as usize));
        }
        text.push(')');
        Ok(text)
    }

    /// Reads the `PMI_process_mapping` form. Blanks are ignored.
    ///
    /// # Errors
    /// What is wrong.
    pub fn from_pmi(text: &str) -> Result<Self, TaskmapError> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if text.is_empty() {
            return Ok(Self::unknown());
        }
        let bad = || syntax("not a PMI process mapping");
        let list = text.strip_prefix("(vector,").and_then(|rest| rest.strip_suffix(')'));
        let list =
            list.and_then(|list| list.strip_prefix('(')?.strip_suffix(')')).ok_or_else(bad)?;
        let mut builder = Builder::default();
        for tuple in list.split("),(") {
            let digits = |part: &str| part.bytes().all(|c| c.is_ascii_digit());
            let parts = tuple.split(',').map(|part| digits(part).then(|| part.parse().ok())?);
            let [nodeid, nnodes, ppn] = numbers::<3>(parts).ok_or_else(bad)?;
            builder.push(Block { nodeid, nnodes, ppn, repeat: 1 })?;
        }
        builder.finish()
    }

    /// The raw form of RFC 34: an idset per node, separated by `;`. Empty if unknown.
    pub fn to_raw(&self) -> String {
        let nodes: Vec<_> = self.tasks_by_node().iter().map(Idset::to_string).collect();
        nodes.join(";")
    }

    /// Reads the raw form.
    ///
    /// # Errors
    /// What is wrong.
    pub fn from_raw(text: &str) -> Result<Self, TaskmapError> {
        if text.trim().is_empty() {
            return Ok(Self::unknown());
        }
        let mut runs: Vec<(u32, u32, u32)> = Vec::new();
        for (node, tasks) in (0u32..).zip(text.split(';')) {
            let tasks: Idset = tasks.parse().map_err(|err| syntax(format!("{err}")))?;
            runs.extend(tasks.ranges().map(|run| (*run.start(), *run.end(), node)));
        }
        runs.sort_unstable();
        let mut builder = Builder::default();
        let mut next = 0;
        for (first, last, node) in runs {
            if first != next {
                return Err(TaskmapError::Gap(next.min(first)));
            }
            builder.add(node, (last - first).saturating_add(1))?;
            // The builder has refused what would overflow here.
            next = last + 1;
        }
        builder.finish()
    }

    /// One line per node, `<node>: <tasks>`.
    pub fn to_multiline(&self) -> String {
        self.lines(|node| node.to_string())
    }

    /// One line per node, `<host>: <tasks>`; a node beyond `hosts` shows its number.
    pub fn to_hosts(&self, hosts: &[&str]) -> String {
        self.lines(|node| hosts.get(node).map_or_else(|| node.to_string(), |&host| host.to_owned()))
    }

    fn lines(&self, label: impl Fn(usize) -> String) -> String {
        let mut text = String::new();
        for (node, tasks) in self.tasks_by_node().iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}: {tasks}", label(node));
        }
        text
    }
}

/// Reads any of the forms: JSON array or object, PMI, raw.
impl FromStr for Taskmap {
    type Err = TaskmapError;

    fn from_str(text: &str) -> Result<Self, TaskmapError> {
        let text = text.trim();
        match text.as_bytes().first() {
            Some(b'[' | b'{') => match serde_json::from_str::<Value>(text) {
                Ok(value) => Self::from_value(&value),
                Err(err) => Err(syntax(err.to_string())),
            },
            Some(b'(') => Self::from_pmi(text),
            _ => Self::from_raw(text),
        }
    }
}

impl Serialize for Taskmap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Taskmap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Taskmap::from_value(&value).map_err(serde::de::Error::custom)
    }
}

fn syntax(reason: impl Into<String>) -> TaskmapError {
    TaskmapError::Syntax(reason.into())
}

/// Exactly `N` numbers that fit, or nothing.
fn numbers<const N: usize>(values: impl Iterator<Item = Option<u64>>) -> Option<[u32; N]> {
    let mut found = [0; N];
    let mut count = 0;
    for value in values {
        *found.get_mut(count)? = u32::try_from(value?).ok()?;
        count += 1;
    }
    (count == N).then_some(found)
}

/// Joins runs of tasks to blocks: equal runs on following nodes widen a block, equal blocks repeat.
#[derive(Default)]
struct Builder {
    blocks: Vec<Block>,
    open: Option<Block>,
    run: Option<(u32, u32)>,
    ntasks: u64,
}

impl Builder {
    /// The next `count` tasks are on `node`.
    fn add(&mut self, node: u32, count: u32) -> Result<(), TaskmapError> {
        if count == 0 {
            return Ok(());
        }
        self.ntasks += u64::from(count);
        if self.ntasks > MAX_TASKS || u64::from(node) >= MAX_TASKS {
            return Err(TaskmapError::TooLarge);
        }
        match &mut self.run {
            Some((last, tasks)) if *last == node => *tasks += count,
            run => {
                let done = run.replace((node, count));
                self.widen(done)?;
            }
        }
        Ok(())
    }

    fn widen(&mut self, run: Option<(u32, u32)>) -> Result<(), TaskmapError> {
        let Some((node, tasks)) = run else {
            return Ok(());
        };
        match &mut self.open {
            Some(open) if open.ppn == tasks && open.nodeid + open.nnodes == node => {
                open.nnodes += 1;
                Ok(())
            }
            open => {
                let block = Block { nodeid: node, nnodes: 1, ppn: tasks, repeat: 1 };
                let done = open.replace(block);
                done.map_or(Ok(()), |done| self.push(done))
            }
        }
    }

    fn push(&mut self, block: Block) -> Result<(), TaskmapError> {
        let same = |last: &Block| {
            (last.nodeid, last.nnodes, last.ppn) == (block.nodeid, block.nnodes, block.ppn)
        };
        if let Some(last) = self.blocks.last_mut().filter(|last| same(last)) {
            last.repeat = last.repeat.checked_add(1).ok_or(TaskmapError::TooLarge)?;
            return Ok(());
        }
        if self.blocks.len() >= MAX_BLOCKS {
            return Err(TaskmapError::TooLarge);
        }
        self.blocks.push(block);
        Ok(())
    }

    fn finish(mut self) -> Result<Taskmap, TaskmapError> {
        let run = self.run.take();
        self.widen(run)?;
        if let Some(open) = self.open.take() {
            self.push(open)?;
        }
        Taskmap::from_blocks(self.blocks)
    }
}

#[cfg(test)]
mod tests;
