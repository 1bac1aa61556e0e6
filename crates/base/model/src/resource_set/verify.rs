//! Comparison of expected with found resources.

use std::collections::BTreeMap;

use flux_id::Idset;

use super::run::Children;
use super::{ResourceSet, ResourceSetError};

/// How strictly one kind of resource is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyMode {
    /// Found must equal expected.
    Strict,
    /// More than expected is fine.
    AllowExtra,
    /// Less than expected is fine.
    AllowMissing,
    /// Anything is fine.
    Ignore,
}

impl std::str::FromStr for VerifyMode {
    type Err = ResourceSetError;

    fn from_str(text: &str) -> Result<Self, ResourceSetError> {
        match text {
            "strict" => Ok(Self::Strict),
            "allow-extra" => Ok(Self::AllowExtra),
            "allow-missing" => Ok(Self::AllowMissing),
            "ignore" => Ok(Self::Ignore),
            _ => Err(ResourceSetError::VerifyMode(text.to_owned())),
        }
    }
}

impl VerifyMode {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::AllowExtra => "allow-extra",
            Self::AllowMissing => "allow-missing",
            Self::Ignore => "ignore",
        }
    }

    fn reports_missing(self) -> bool {
        matches!(self, Self::Strict | Self::AllowExtra)
    }

    fn reports_extra(self) -> bool {
        matches!(self, Self::Strict | Self::AllowMissing)
    }
}

/// Modes for each kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyRules {
    /// Host names; all modes but ignore compare them.
    pub hostname: VerifyMode,
    /// Cores.
    pub core: VerifyMode,
    /// Gpus.
    pub gpu: VerifyMode,
}

impl VerifyRules {
    /// The same mode for every kind.
    pub fn all(mode: VerifyMode) -> Self {
        Self { hostname: mode, core: mode, gpu: mode }
    }
}

impl Default for VerifyRules {
    /// What holds without configuration.
    fn default() -> Self {
        Self { hostname: VerifyMode::Strict, core: VerifyMode::AllowExtra, gpu: VerifyMode::Ignore }
    }
}

impl ResourceSet {
    /// Compares the ranks of `found` with what `self` expects of them; the result has one text for
    /// each fault and is empty if all is well.
    pub fn verify(&self, found: &Self, rules: VerifyRules) -> Vec<String> {
        let mut faults = Vec::new();
        for (rank, host, children) in found.iter() {
            let (Some(expected), Some(name)) = (self.children(rank), self.host(rank)) else {
                faults.push(format!("rank {rank} not found in expected ranks"));
                continue;
            };
            if rules.hostname != VerifyMode::Ignore && name != host {
                faults.push(format!("rank {rank} got hostname '{host}', expected '{name}'"));
            }
            let missing = select(expected, children, rules, VerifyMode::reports_missing);
            if !missing.is_empty() {
                faults
                    .push(format!("rank {rank} ({name}) missing resources: rank{rank}/{missing}"));
            }
            let extra = select(children, expected, rules, VerifyMode::reports_extra);
            if !extra.is_empty() {
                faults
                    .push(format!("rank {rank} ({name}) has extra resources: rank{rank}/{extra}"));
            }
        }
        faults
    }
}

/// What is in `a` and not in `b`, of the kinds whose mode is of interest.
fn select(a: &Children, b: &Children, rules: VerifyRules, of: fn(VerifyMode) -> bool) -> Children {
    let part = |mode, a: &Idset, b: &Idset| if of(mode) { a.difference(b) } else { Idset::new() };
    Children {
        cores: part(rules.core, &a.cores, &b.cores),
        gpus: part(rules.gpu, &a.gpus, &b.gpus),
        // Nothing can find them.
        others: BTreeMap::new(),
    }
}
