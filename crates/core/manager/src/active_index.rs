//! The index of active jobs in the KVS: which jobs a restart has to read, whatever the history.
//!
//! One key, to which each commit that brings new jobs appends a line for each, and a later commit
//! a line when the job is in the archive. Every so often the whole of it is written anew. So the
//! cost of a commit follows what it changes, and the cost of a restart the number of active jobs.
//!
//! Lines: `+ID` a job entered, `-ID` it is in the archive, `=ID` the highest id when what follows
//! was written anew; ids in hexadecimal.

use std::collections::BTreeSet;
use std::fmt::Write;

use flux_api::kvs::{APPEND, Operation};
use flux_model::treeobj::Treeobj;

/// Key of the index.
pub const KEY: &str = "checkpoint.job-active";

/// Lines are appended at least so often before the whole is written anew.
const APPENDS_MIN: u64 = 32;
/// And at most so often.
const APPENDS_MAX: u64 = 512;

/// The index as it will be in the KVS once everything is stored.
#[derive(Debug, Default)]
pub struct ActiveIndex {
    kept: bool,
    ids: BTreeSet<u64>,
    max: u64,
    lines: String,
    appended: u64,
    /// Next time all of it is written.
    anew: bool,
}

/// What the key says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Jobs that a restart has to read.
    pub(crate) ids: BTreeSet<u64>,
    /// The highest id it tells of.
    pub(crate) max: u64,
}

impl Stored {
    /// Reads the value of the key.
    ///
    /// # Errors
    /// Says which line is none of the index.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut stored = Self::default();
        for (at, line) in text.lines().enumerate() {
            let bad = || format!("line {} is '{line}'", at + 1);
            let (sign, id) = line.split_at_checked(1).ok_or_else(bad)?;
            let id = u64::from_str_radix(id, 16).map_err(|_| bad())?;
            match sign {
                "+" => drop(stored.ids.insert(id)),
                "-" => drop(stored.ids.remove(&id)),
                "=" => stored.ids.clear(),
                _ => return Err(bad()),
            }
            stored.max = stored.max.max(id);
        }
        Ok(stored)
    }
}

impl ActiveIndex {
    /// Keeps the index from now on.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    /// Goes on with what is stored.
    pub(crate) fn resume(&mut self, stored: Stored) {
        self.max = stored.max;
        self.ids = stored.ids;
        // How many pieces the value has is not known.
        self.appended = APPENDS_MAX;
    }

    /// A job is active.
    pub(crate) fn add(&mut self, id: u64) {
        if self.kept && self.ids.insert(id) {
            self.max = self.max.max(id);
            let _ = writeln!(self.lines, "+{id:x}");
        }
    }

    /// A restart need not read this job any more.
    pub(crate) fn remove(&mut self, id: u64) {
        if self.ids.remove(&id) {
            let _ = writeln!(self.lines, "-{id:x}");
        }
    }

    /// Whether something is to be stored.
    pub(crate) fn is_pending(&self) -> bool {
        self.anew || !self.lines.is_empty()
    }

    /// All of it is to be written: what is stored is not known, or was never written.
    pub(crate) fn write_anew(&mut self) {
        self.anew = self.kept;
    }

    /// What a commit has to do for it.
    pub(crate) fn operation(&mut self) -> Option<Operation> {
        if !self.is_pending() {
            return None;
        }
        // Few pieces keep the directory small, many make writing all of it rare.
        let often = (self.ids.len() as u64 / 2).isqrt().clamp(APPENDS_MIN, APPENDS_MAX);
        let mut text = std::mem::take(&mut self.lines);
        let flags = if self.anew || self.appended >= often {
            text.clear();
            let _ = writeln!(text, "={:x}", self.max);
            for id in &self.ids {
                let _ = writeln!(text, "+{id:x}");
            }
            self.appended = 0;
            0
        } else {
            self.appended += 1;
            APPEND
        };
        self.anew = false;
        let dirent = Treeobj::val(text.into_bytes()).into();
        Some(Operation { key: KEY.to_string(), flags, dirent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(value: &mut String, operation: &Operation) -> usize {
        let Ok(Some(Treeobj::Val(data))) = operation.dirent.clone().into_object() else { panic!() };
        if operation.flags & APPEND == 0 {
            value.clear();
        }
        value.push_str(std::str::from_utf8(&data).unwrap());
        data.len()
    }

    #[test]
    fn what_is_stored_is_what_was_added_and_not_removed() {
        let mut index = ActiveIndex::default();
        index.keep();
        let mut value = String::new();
        for id in 1..=1000_u64 {
            index.add(id);
            if id > 10 {
                index.remove(id - 10);
            }
            apply(&mut value, &index.operation().unwrap());
            let stored = Stored::parse(&value).unwrap();
            assert_eq!((stored.ids.len() as u64, stored.max), (id.min(10), id));
        }
        assert!(index.operation().is_none());
        let mut again = ActiveIndex::default();
        again.keep();
        again.resume(Stored::parse(&value).unwrap());
        again.remove(1000);
        apply(&mut value, &again.operation().unwrap());
        let stored = Stored::parse(&value).unwrap();
        assert_eq!((stored.ids.len(), stored.max), (9, 1000), "the highest id is not forgotten");
    }

    #[test]
    fn a_commit_costs_little_with_many_active_jobs() {
        let mut index = ActiveIndex::default();
        index.keep();
        (1..=10_000).for_each(|id| index.add(id << 24));
        let mut value = String::new();
        apply(&mut value, &index.operation().unwrap());
        let mut bytes = 0;
        const COMMITS: usize = 1000;
        for id in 0..COMMITS as u64 {
            index.add((id + 20_000) << 24);
            bytes += apply(&mut value, &index.operation().unwrap());
        }
        assert!(bytes / COMMITS < 3000, "{} bytes per commit", bytes / COMMITS);
    }

    #[test]
    fn without_an_archive_there_is_no_index() {
        let mut index = ActiveIndex::default();
        index.add(1);
        index.remove(1);
        index.write_anew();
        assert!(index.operation().is_none());
    }

    #[test]
    fn nonsense_is_said() {
        for text in ["x1\n", "+\n", "+g\n", "\n"] {
            assert!(Stored::parse(text).is_err(), "{text:?}");
        }
    }
}
