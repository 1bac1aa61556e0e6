//! Lists of hosts, RFC 29: `fluke[3,108,6-103]`.
//!
//! A list keeps order, duplicates and leading zeros. It is held as runs of consecutive numbers
//! behind one prefix, where the number is the trailing digits of a name, and is built in linear
//! time; a run costs the same however many hosts it has. A list has at most [`MAX_HOSTS`] hosts,
//! and a name at most [`MAX_NAME`]
//! bytes, so that no text can expand without bound.
//!
//! As RFC 29 has it, an expression holds one bracketed list of ids with an optional prefix and
//! suffix; several brackets in one expression are an error.

mod index;
mod parse;
mod run;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use index::HostIndex;
use run::{Host, Run};

/// The most hosts a list may have: 2^20.
pub const MAX_HOSTS: usize = 1 << 20;

/// The most bytes of a name; DNS allows no more.
pub const MAX_NAME: usize = 255;

/// Why a text is no list of hosts, or a host cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostlistError {
    /// A bracket is missing, stands where it may not, or comes twice in one expression.
    #[error("invalid hostlist: unexpected or unbalanced bracket in '{0}'")]
    Brackets(String),
    /// What stands in brackets is not a list of ids and ranges of ids.
    #[error("invalid hostlist: '{0}' is not an id or range")]
    Ids(String),
    /// A name is empty, longer than [`MAX_NAME`], or has a character other than printable ASCII
    /// without blanks, commas and brackets.
    #[error("invalid hostlist: '{0}' is not a host name")]
    Name(String),
    /// More than [`MAX_HOSTS`].
    #[error("invalid hostlist: more than {MAX_HOSTS} hosts")]
    TooMany,
}

/// An ordered list of host names; a string in JSON. Equal when the names are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Hostlist {
    /// Runs as long as they can be, so that equal lists have equal runs.
    runs: Vec<Run>,
    /// Number of hosts up to and including each run.
    ends: Vec<usize>,
}

impl Hostlist {
    /// The empty list.
    pub const fn new() -> Self {
        Self { runs: Vec::new(), ends: Vec::new() }
    }

    /// The list of these names, each a single host without brackets or commas.
    ///
    /// # Errors
    /// See [`Hostlist::push`].
    pub fn from_hosts<S: AsRef<str>>(
        hosts: impl IntoIterator<Item = S>,
    ) -> Result<Self, HostlistError> {
        let mut list = Self::new();
        for host in hosts {
            list.push(host.as_ref())?;
        }
        Ok(list)
    }

    /// How many hosts there are, duplicates counted.
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Adds one host at the end.
    ///
    /// # Errors
    /// The name is none, or the list is full.
    pub fn push(&mut self, name: &str) -> Result<(), HostlistError> {
        if name.is_empty() || !name.bytes().all(parse::is_name_byte) {
            return Err(HostlistError::Name(parse::excerpt(name)));
        }
        parse::check_length(name)?;
        self.push_name(name)
    }

    /// Adds every host of `other` at the end, in time linear in its runs.
    ///
    /// # Errors
    /// The list would have more than [`MAX_HOSTS`]; it is then unchanged.
    pub fn append(&mut self, other: &Self) -> Result<(), HostlistError> {
        if other.len() > MAX_HOSTS - self.len() {
            return Err(HostlistError::TooMany);
        }
        for run in &other.runs {
            self.push_run(run.clone())?;
        }
        Ok(())
    }

    /// Host number `index` from 0.
    pub fn nth(&self, index: usize) -> Option<String> {
        let at = self.ends.partition_point(|&end| end <= index);
        let run = self.runs.get(at)?;
        Some(run.host(index - self.start(at)).to_string())
    }

    /// Position of the first host of that name. Linear in the runs: for many names make an
    /// [`Hostlist::index`].
    pub fn find(&self, name: &str) -> Option<usize> {
        let host = Host::split(name);
        self.runs
            .iter()
            .enumerate()
            .find_map(|(at, run)| run.position(&host).map(|offset| self.start(at) + offset))
    }

    /// Whether a host of that name is in the list; see [`Hostlist::find`].
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// How often the host of that name is in the list.
    pub fn count(&self, name: &str) -> usize {
        let host = Host::split(name);
        self.runs.iter().filter(|run| run.position(&host).is_some()).count()
    }

    /// The names in order, each made when it is asked for.
    pub fn iter(&self) -> impl Iterator<Item = String> + '_ {
        self.hosts().map(|host| host.to_string())
    }

    /// All names, refused when there are more than `limit`.
    ///
    /// # Errors
    /// There are more.
    pub fn expand(&self, limit: usize) -> Result<Vec<String>, HostlistError> {
        if self.len() > limit { Err(HostlistError::TooMany) } else { Ok(self.iter().collect()) }
    }

    /// A look-up table from name to first position, in n log n; a look-up is logarithmic.
    pub fn index(&self) -> HostIndex {
        let mut index = HostIndex::default();
        for (at, run) in self.runs.iter().enumerate() {
            index.insert(run, self.start(at));
        }
        index
    }

    /// Takes every occurrence of every host of `hosts` out; how many went.
    pub fn delete(&mut self, hosts: &Self) -> usize {
        let before = self.len();
        *self = self.subtract(hosts);
        before - self.len()
    }

    /// Takes host number `index` out and gives its name. Linear in the runs.
    pub fn remove_nth(&mut self, index: usize) -> Option<String> {
        let name = self.nth(index)?;
        let at = self.ends.partition_point(|&end| end <= index);
        let offset = index - self.start(at);
        let mut kept = Self::new();
        for (i, run) in self.runs.iter().enumerate() {
            if i == at {
                kept.push_shrunk(run.slice(0, offset));
                kept.push_shrunk(run.slice(offset + 1, run.len()));
            } else {
                kept.push_shrunk(Some(run.clone()));
            }
        }
        *self = kept;
        Some(name)
    }

    /// The hosts of this list, in its order and with its duplicates, that are also in `other`.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let index = other.index();
        self.filter(|host| index.position(host).is_some())
    }

    /// The hosts of this list, in its order and with its duplicates, that are not in `other`.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        let index = other.index();
        self.filter(|host| index.position(host).is_none())
    }

    /// Sorts by prefix, then number, then number of digits; duplicates stay.
    pub fn sort(&mut self) {
        let mut hosts: Vec<Host<'_>> = self.hosts().collect();
        // A list is often in order but for a few places, which this sort makes use of.
        hosts.sort();
        *self = Self::rebuilt(hosts);
    }

    /// Sorts and leaves each host once.
    pub fn uniq(&mut self) {
        let mut hosts: Vec<Host<'_>> = self.hosts().collect();
        hosts.sort();
        hosts.dedup_by(|a, b| Host::cmp(a, b) == Ordering::Equal);
        *self = Self::rebuilt(hosts);
    }

    fn hosts(&self) -> impl Iterator<Item = Host<'_>> {
        self.runs.iter().flat_map(|run| (0..run.len()).map(move |offset| run.host(offset)))
    }

    fn filter(&self, keep: impl Fn(&Host<'_>) -> bool) -> Self {
        Self::rebuilt(self.hosts().filter(keep))
    }

    /// A list of some of the hosts of a list.
    fn rebuilt<'a>(hosts: impl IntoIterator<Item = Host<'a>>) -> Self {
        let mut list = Self::new();
        for host in hosts {
            list.join(Run::one(&host, list.runs.last()));
        }
        list
    }

    /// Position of the first host of run `at`.
    fn start(&self, at: usize) -> usize {
        at.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    /// Adds a name whose characters are known to be good.
    fn push_name(&mut self, name: &str) -> Result<(), HostlistError> {
        let run = Run::one(&Host::split(name), self.runs.last());
        self.push_run(run)
    }

    fn push_run(&mut self, run: Run) -> Result<(), HostlistError> {
        if run.len() > MAX_HOSTS - self.len() {
            return Err(HostlistError::TooMany);
        }
        self.join(run);
        Ok(())
    }

    /// Adds a part of a run of a list, which therefore fits.
    fn push_shrunk(&mut self, run: Option<Run>) {
        if let Some(run) = run {
            self.join(run);
        }
    }

    fn join(&mut self, run: Run) {
        let end = self.len() + run.len();
        if let (Some(last), Some(last_end)) = (self.runs.last_mut(), self.ends.last_mut())
            && last.extend(&run)
        {
            *last_end = end;
            return;
        }
        self.runs.push(run);
        self.ends.push(end);
    }
}

impl FromStr for Hostlist {
    type Err = HostlistError;

    fn from_str(s: &str) -> Result<Self, HostlistError> {
        parse::parse(s)
    }
}

impl fmt::Display for Hostlist {
    /// Runs with a common prefix share one pair of brackets as long as the leading zeros of the
    /// first hold for all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.runs.as_slice();
        let mut separator = "";
        while let Some(first) = rest.first() {
            let count = rest.iter().take_while(|run| run.shares_brackets(first)).count().max(1);
            let (group, after) = rest.split_at(count);
            rest = after;
            f.write_str(separator)?;
            separator = ",";
            if count == 1 && first.len() == 1 {
                write!(f, "{}", first.host(0))?;
                continue;
            }
            write!(f, "{}[", first.prefix)?;
            for (i, run) in group.iter().enumerate() {
                f.write_str(if i > 0 { "," } else { "" })?;
                run.write_ids(f)?;
            }
            f.write_str("]")?;
        }
        Ok(())
    }
}

impl Serialize for Hostlist {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hostlist {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
