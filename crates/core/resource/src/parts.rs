//! Cores and gpus that are drained while the rest of their node is in use. Pure, like `drain`.
//!
//! The events are `drain-part` and `undrain-part`, words of this project: with RFC 44's `drain`
//! every other reader would take the whole node for drained.

use std::collections::{BTreeMap, BTreeSet};

use flux_api::RpcError;
use flux_api::resource::{DrainRequest, DrainedPart, HeldPart};
use flux_id::{Hostlist, Idset};
use flux_model::eventlog::{Context, Event};
use flux_model::resource_set::{Children, ResourceSet};
use flux_proto::Errno;

use crate::drain::{Drained, Hosts};

/// A core or a gpu, by its logical id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Core(u32),
    Gpu(u32),
}

/// Drained cores and gpus.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PartState(BTreeMap<(u32, Unit), Drained>);

/// Splits targets that name cores or gpus: the nodes, and what of them.
pub(crate) fn split(targets: &str) -> Option<(&str, &str)> {
    targets.split_once([':', '/'])
}

fn invalid(text: impl Into<String>) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

/// Reads `core[0-3],gpu0`; brackets may be left out around one id or range.
fn parse(text: &str) -> Result<Children, RpcError> {
    let bad = || {
        let text = format!("invalid targets: '{text}' is not like core[0-3],gpu0");
        RpcError::new(Errno::EINVAL, text)
    };
    let mut found = Children::default();
    let mut depth = 0_u32;
    let pieces = text.split(|c: char| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    for piece in pieces {
        let (ids, into) = if let Some(ids) = piece.strip_prefix("core") {
            (ids, &mut found.cores)
        } else if let Some(ids) = piece.strip_prefix("gpu") {
            (ids, &mut found.gpus)
        } else {
            return Err(bad());
        };
        let ids: Idset = ids.strip_prefix('s').unwrap_or(ids).parse().map_err(|_| bad())?;
        if ids.is_empty() {
            return Err(bad());
        }
        into.insert_all(&ids);
    }
    Ok(found)
}

fn units(part: &Children) -> impl Iterator<Item = Unit> + '_ {
    part.cores.ids().map(Unit::Core).chain(part.gpus.ids().map(Unit::Gpu))
}

fn children(units: impl IntoIterator<Item = Unit>) -> Children {
    let mut part = Children::default();
    for unit in units {
        match unit {
            Unit::Core(id) => part.cores.insert(id),
            Unit::Gpu(id) => part.gpus.insert(id),
        };
    }
    part
}

/// Ranks by what they have: the same of each.
fn grouped(by_rank: BTreeMap<u32, Vec<Unit>>) -> Vec<(Idset, Children)> {
    let mut groups: Vec<(Idset, Children)> = Vec::new();
    let mut known: BTreeMap<Vec<Unit>, usize> = BTreeMap::new();
    for (rank, units) in by_rank {
        let at = *known.entry(units).or_insert_with_key(|units| {
            groups.push((Idset::new(), children(units.iter().copied())));
            groups.len() - 1
        });
        groups[at].0.insert(rank);
    }
    groups
}

impl PartState {
    /// Ranks of which something is drained.
    pub(crate) fn ranks(&self) -> Idset {
        self.0.keys().map(|(rank, _)| *rank).collect()
    }

    /// For the scheduler: all of them.
    pub(crate) fn held(&self) -> Vec<HeldPart> {
        let mut by_rank: BTreeMap<u32, Vec<Unit>> = BTreeMap::new();
        for (rank, unit) in self.0.keys() {
            by_rank.entry(*rank).or_default().push(*unit);
        }
        grouped(by_rank)
            .into_iter()
            .map(|(ranks, part)| HeldPart {
                ranks: ranks.to_string(),
                cores: part.cores.to_string(),
                gpus: part.gpus.to_string(),
            })
            .collect()
    }

    /// For people: by time and reason.
    pub(crate) fn list(&self) -> Vec<DrainedPart> {
        let mut by_why: BTreeMap<(u64, &str), BTreeMap<u32, Vec<Unit>>> = BTreeMap::new();
        for ((rank, unit), info) in &self.0 {
            let why = (info.timestamp.to_bits(), info.reason.as_str());
            by_why.entry(why).or_default().entry(*rank).or_default().push(*unit);
        }
        let mut list = Vec::new();
        for ((bits, reason), by_rank) in by_why {
            list.extend(grouped(by_rank).into_iter().map(|(ranks, part)| DrainedPart {
                ranks: ranks.to_string(),
                cores: part.cores.to_string(),
                gpus: part.gpus.to_string(),
                timestamp: f64::from_bits(bits),
                reason: reason.to_string(),
            }));
        }
        list
    }

    /// Ranks and units that a request means.
    fn wanted(
        request: &DrainRequest,
        hosts: &Hosts,
        r: Option<&ResourceSet>,
    ) -> Result<(Idset, Children), RpcError> {
        let (nodes, what) = split(&request.targets).unwrap_or((&request.targets, ""));
        let (ranks, part) = (hosts.targets(nodes)?, parse(what)?);
        let r = r.ok_or_else(|| RpcError::new(Errno::ENOENT, "R is not known yet"))?;
        let mut left = ranks.clone();
        for (rank, host, all) in r.iter().filter(|(rank, _, _)| ranks.contains(*rank)) {
            left.remove(rank);
            let missing = part.without(all);
            if !missing.is_empty() {
                return Err(invalid(format!("{host} has no {missing}")));
            }
        }
        if !left.is_empty() {
            return Err(invalid(format!("rank {left} has no resources")));
        }
        Ok((ranks, part))
    }

    /// Drains cores and gpus by the rules of the request's mode; the event, if anything changes.
    ///
    /// # Errors
    /// EEXIST and EINVAL with what stands in the way: nothing is drained then.
    pub(crate) fn drain(
        &mut self,
        request: &DrainRequest,
        hosts: &Hosts,
        r: Option<&ResourceSet>,
        excluded: &Idset,
        now: f64,
    ) -> Result<Option<Event>, RpcError> {
        let (ranks, part) = Self::wanted(request, hosts, r)?;
        let overwrite = match request.mode.as_deref() {
            None | Some("update") => 0,
            Some("overwrite") => 1,
            Some("force-overwrite") => 2,
            Some(_) => return Err(invalid("Invalid mode specified")),
        };
        let barred = ranks.intersection(excluded);
        if !barred.is_empty() {
            return Err(invalid(format!("{} excluded", hosts.list(&barred))));
        }
        if request.mode.is_none() {
            self.none_of(&ranks, &part, hosts, "already drained", |drained| drained)?;
        }
        let event =
            event(now, "drain-part", &ranks, &part, hosts, overwrite, request.reason.as_deref());
        let before = self.clone();
        self.apply(&event, &ranks);
        Ok((*self != before).then_some(event))
    }

    /// Undrains cores and gpus; the event, if anything changes.
    ///
    /// # Errors
    /// EEXIST with what is not drained, unless the mode says to ignore it.
    pub(crate) fn undrain(
        &mut self,
        request: &DrainRequest,
        hosts: &Hosts,
        r: Option<&ResourceSet>,
        now: f64,
    ) -> Result<Option<Event>, RpcError> {
        let (ranks, part) = Self::wanted(request, hosts, r)?;
        match request.mode.as_deref() {
            None => self.none_of(&ranks, &part, hosts, "not drained", |drained| !drained)?,
            Some("update" | "overwrite" | "force-overwrite" | "force") => {}
            Some(mode) => return Err(invalid(format!("invalid undrain mode '{mode}' specified"))),
        }
        let event = event(now, "undrain-part", &ranks, &part, hosts, 0, request.reason.as_deref());
        let before = self.clone();
        self.apply(&event, &ranks);
        Ok((*self != before).then_some(event))
    }

    /// Refuses when something is as it must not be.
    fn none_of(
        &self,
        ranks: &Idset,
        part: &Children,
        hosts: &Hosts,
        what: &str,
        bad: impl Fn(bool) -> bool,
    ) -> Result<(), RpcError> {
        for rank in ranks.ids() {
            let found =
                children(units(part).filter(|unit| bad(self.0.contains_key(&(rank, *unit)))));
            if !found.is_empty() {
                let host = hosts.name(rank).unwrap_or("unknown");
                return Err(RpcError::new(Errno::EEXIST, format!("{host}:{found} {what}")));
            }
        }
        Ok(())
    }

    /// Undrains all that is drained of some ranks; the events.
    pub(crate) fn clear(
        &mut self,
        ranks: &Idset,
        hosts: &Hosts,
        now: f64,
        reason: Option<&str>,
    ) -> Vec<Event> {
        let mut by_rank: BTreeMap<u32, Vec<Unit>> = BTreeMap::new();
        for (rank, unit) in self.0.keys().filter(|(rank, _)| ranks.contains(*rank)) {
            by_rank.entry(*rank).or_default().push(*unit);
        }
        let groups = grouped(by_rank);
        self.0.retain(|(rank, _), _| !ranks.contains(*rank));
        groups
            .into_iter()
            .map(|(ranks, part)| event(now, "undrain-part", &ranks, &part, hosts, 0, reason))
            .collect()
    }

    fn apply(&mut self, event: &Event, ranks: &Idset) {
        let ids = |key| event.get_str(key).and_then(|text| text.parse::<Idset>().ok());
        let part = Children {
            cores: ids("cores").unwrap_or_default(),
            gpus: ids("gpus").unwrap_or_default(),
            ..Children::default()
        };
        let fresh = Drained {
            timestamp: event.timestamp,
            reason: event.get_str("reason").unwrap_or_default().to_string(),
        };
        let overwrite = event.get_i64("overwrite").unwrap_or(0);
        for rank in ranks.ids() {
            for unit in units(&part) {
                if event.name == "undrain-part" {
                    self.0.remove(&(rank, unit));
                    continue;
                }
                let known = self.0.entry((rank, unit)).or_insert_with(|| fresh.clone());
                match overwrite {
                    0 => {}
                    1 => known.reason.clone_from(&fresh.reason),
                    _ => known.clone_from(&fresh),
                }
            }
        }
    }

    /// Applies an event of the eventlog of an earlier run: ranks follow their hosts.
    pub(crate) fn replay(&mut self, event: &Event, hosts: &Hosts) {
        if event.name != "drain-part" && event.name != "undrain-part" {
            return;
        }
        let list = event.get_str("nodelist").and_then(|text| text.parse::<Hostlist>().ok());
        let Some(ranks) = event.get_str("idset").and_then(|text| text.parse::<Idset>().ok()) else {
            return;
        };
        self.apply(event, &hosts.ranks_now(&ranks, list.as_ref()));
    }

    /// Forgets what R no longer has.
    pub(crate) fn keep_known(&mut self, r: &ResourceSet) {
        let ranks = self.ranks();
        let have: BTreeSet<(u32, Unit)> = r
            .iter()
            .filter(|(rank, _, _)| ranks.contains(*rank))
            .flat_map(|(rank, _, all)| units(all).map(move |unit| (rank, unit)))
            .collect();
        self.0.retain(|key, _| have.contains(key));
    }

    /// The events that make this state from nothing.
    pub(crate) fn compact(&self, hosts: &Hosts) -> Vec<Event> {
        let ids = |text: &str| text.parse::<Idset>().unwrap_or_default();
        let part = |item: &DrainedPart| Children {
            cores: ids(&item.cores),
            gpus: ids(&item.gpus),
            ..Children::default()
        };
        self.list()
            .iter()
            .map(|item| {
                let reason = Some(item.reason.as_str()).filter(|reason| !reason.is_empty());
                let (ranks, part) = (ids(&item.ranks), part(item));
                event(item.timestamp, "drain-part", &ranks, &part, hosts, 0, reason)
            })
            .collect()
    }
}

fn event(
    now: f64,
    name: &str,
    ranks: &Idset,
    part: &Children,
    hosts: &Hosts,
    overwrite: u8,
    reason: Option<&str>,
) -> Event {
    let mut context = Context::new();
    context.insert("idset".to_string(), ranks.to_string().into());
    context.insert("nodelist".to_string(), hosts.list(ranks).into());
    context.insert("cores".to_string(), part.cores.to_string().into());
    context.insert("gpus".to_string(), part.gpus.to_string().into());
    context.insert("overwrite".to_string(), overwrite.into());
    if let Some(reason) = reason {
        context.insert("reason".to_string(), reason.into());
    }
    Event::new(now, name).with_context(context)
}
