//! Types of resources other than cores and gpus: their names, and how many there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use flux_id::Idset;

use super::ResourceSet;
use super::run::Runs;

/// Most types, beside cores and gpus, of one node.
pub const MAX_TYPES: usize = 32;
/// Longest name of a type.
const MAX_NAME: usize = 32;
/// What has a meaning of its own.
const RESERVED: [&str; 5] = ["core", "gpu", "node", "slot", "cluster"];

/// Refuses what is no name for a type.
pub(super) fn check_type(kind: &str) -> Result<(), String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let fine = kind.starts_with(|c: char| c.is_ascii_alphabetic()) && kind.chars().all(word);
    if fine && kind.len() <= MAX_NAME && !RESERVED.contains(&kind) {
        return Ok(());
    }
    Err(format!(
        "not a name for a type of resource: a letter, then letters, digits, _ and -, at \
                 most {MAX_NAME}"
    ))
}

impl ResourceSet {
    /// How many there are of each type beside cores and gpus, in all.
    pub fn types(&self) -> BTreeMap<&str, u64> {
        let mut found = BTreeMap::new();
        for run in self.runs.iter() {
            for (kind, ids) in &run.children.others {
                *found.entry(kind.as_str()).or_insert(0) += run.len() as u64 * ids.len();
            }
        }
        found
    }

    /// Gives these ranks ids of a type, in the place of those they have; others keep theirs.
    ///
    /// # Errors
    /// A name that is none for a type, more than [`MAX_TYPES`] of them.
    pub fn set_type(&mut self, kind: &str, ids: &Idset, ranks: &Idset) -> Result<(), String> {
        check_type(kind).map_err(|problem| format!("'{kind}': {problem}"))?;
        let mut runs = Runs::default();
        let mut known: BTreeMap<*const super::Children, Arc<super::Children>> = BTreeMap::new();
        for run in self.runs.iter() {
            let within = ranks.intersection(&Idset::from_range(run.first..=run.last));
            let mut from = run.first;
            for range in within.ranges() {
                if from < *range.start() {
                    runs.push(from, *range.start() - 1, Arc::clone(&run.children));
                }
                let changed = known.entry(Arc::as_ptr(&run.children)).or_insert_with(|| {
                    let mut children = (*run.children).clone();
                    children.others.remove(kind);
                    if !ids.is_empty() {
                        children.others.insert(kind.to_owned(), ids.clone());
                    }
                    Arc::new(children)
                });
                if changed.others.len() > MAX_TYPES {
                    return Err(format!("'{kind}': more than {MAX_TYPES} types"));
                }
                runs.push(*range.start(), *range.end(), Arc::clone(changed));
                from = range.end().saturating_add(1);
            }
            if from <= run.last {
                runs.push(from, run.last, Arc::clone(&run.children));
            }
        }
        self.runs = runs;
        Ok(())
    }
}
