//! Properties of ranks (RFC 20, RFC 31).

use std::collections::BTreeMap;

use flux_id::Idset;

use super::{ResourceSet, ResourceSetError};

/// Characters a property name must not contain.
const ILLEGAL: &[char] = &['!', '&', '\'', '"', '^', '`', '|', '(', ')'];

impl ResourceSet {
    /// All properties with the ranks that have them, by name.
    pub fn properties(&self) -> &BTreeMap<String, Idset> {
        &self.properties
    }

    /// The properties of a rank, by name.
    pub fn properties_of(&self, rank: u32) -> impl Iterator<Item = &str> {
        self.properties
            .iter()
            .filter(move |(_, ranks)| ranks.contains(rank))
            .map(|(name, _)| name.as_str())
    }

    /// Ranks that have all of the given properties; a leading `^` means "not".
    pub fn ranks_with<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Idset {
        names.into_iter().fold(self.ranks(), |ranks, name| {
            match (name.strip_prefix('^'), self.properties.get(name.trim_start_matches('^'))) {
                (None, Some(have)) => ranks.intersection(have),
                (None, None) => Idset::new(),
                (Some(_), Some(have)) => ranks.difference(have),
                (Some(_), None) => ranks,
            }
        })
    }

    /// The part on ranks that have all of the given properties, as [`ResourceSet::ranks_with`].
    pub fn copy_properties<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.copy_ranks(&self.ranks_with(names))
    }

    /// Gives ranks a property, besides those that have it.
    ///
    /// # Errors
    /// A name that is not allowed, and ranks that are not in the set.
    pub fn set_property(&mut self, name: &str, ranks: &Idset) -> Result<(), ResourceSetError> {
        check_name(name)?;
        let unknown = ranks.difference(&self.ranks());
        if !unknown.is_empty() {
            return Err(ResourceSetError::UnknownRanks(unknown.to_string()));
        }
        if !ranks.is_empty() {
            let have = self.properties.entry(name.to_owned()).or_default();
            have.insert_all(ranks);
        }
        Ok(())
    }

    /// The same set without instance-local properties (leading `+`), as it is allocated to a job.
    pub fn without_local_properties(mut self) -> Self {
        self.properties.retain(|name, _| !name.starts_with('+'));
        self
    }
}

/// Checks a property name.
///
/// # Errors
/// An empty name, and one with a character RFC 20 excludes.
pub(super) fn check_name(name: &str) -> Result<(), ResourceSetError> {
    if name.is_empty() || name.contains(ILLEGAL) {
        return Err(ResourceSetError::Property(name.to_owned()));
    }
    Ok(())
}
