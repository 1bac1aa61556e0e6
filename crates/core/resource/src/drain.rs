//! Who is drained, and the rules by which that changes. Pure: the service stores the events.

use std::collections::BTreeMap;

use flux_api::RpcError;
use flux_api::resource::DrainRequest;
use flux_id::{Hostlist, Idset};
use flux_model::eventlog::{Context, Event};
use flux_proto::Errno;
use serde_json::{Map, Value, json};

/// When and why a rank was drained.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Drained {
    /// Seconds since the epoch.
    pub(crate) timestamp: f64,
    /// Empty for none.
    pub(crate) reason: String,
}

/// Drained ranks.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DrainState(BTreeMap<u32, Drained>);

/// Host names by rank, and ranks by host name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts {
    names: Vec<String>,
    ranks: BTreeMap<String, Idset>,
}

impl Hosts {
    pub(crate) fn new(names: Vec<String>) -> Self {
        let mut ranks: BTreeMap<String, Idset> = BTreeMap::new();
        for (rank, name) in (0_u32..).zip(&names) {
            ranks.entry(name.clone()).or_default().insert(rank);
        }
        Self { names, ranks }
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn name(&self, rank: u32) -> Option<&str> {
        self.names.get(rank as usize).map(String::as_str)
    }

    /// Hosts of ranks as a hostlist.
    pub(crate) fn list(&self, ranks: &Idset) -> String {
        let names = ranks.ids().filter_map(|rank| self.name(rank));
        Hostlist::from_hosts(names).map(|list| list.to_string()).unwrap_or_default()
    }

    /// Every rank of the hosts of a list.
    fn ranks_of(&self, hosts: &Hostlist) -> Result<Idset, RpcError> {
        let mut ranks = Idset::new();
        let mut unknown = Vec::new();
        for host in hosts.iter() {
            match self.ranks.get(&host) {
                Some(own) => ranks.insert_all(own),
                None => unknown.push(host),
            }
        }
        if unknown.is_empty() {
            return Ok(ranks);
        }
        let names = Hostlist::from_hosts(&unknown).map(|list| list.to_string()).unwrap_or_default();
        Err(invalid(format!("invalid targets: invalid hosts: {names}")))
    }

    /// Ranks that hosts have now, which had `ranks` when something was written down.
    pub(crate) fn ranks_now(&self, ranks: &Idset, list: Option<&Hostlist>) -> Idset {
        let Some(list) = list.filter(|list| list.len() as u64 == ranks.len()) else {
            let known = Idset::first_n(u32::try_from(self.len()).unwrap_or(u32::MAX));
            return ranks.intersection(&known);
        };
        let mut now = Idset::new();
        for (rank, host) in ranks.ids().zip(list.iter()) {
            if self.name(rank) == Some(host.as_str()) {
                now.insert(rank);
            } else if let Some(first) = self.ranks.get(&host).and_then(Idset::first) {
                now.insert(first);
            }
        }
        now
    }

    /// Reads an idset of ranks or a hostlist.
    ///
    /// # Errors
    /// EINVAL with what is wrong.
    pub(crate) fn targets(&self, text: &str) -> Result<Idset, RpcError> {
        let ranks = match text.parse::<Idset>() {
            Ok(ranks) => ranks,
            Err(_) => {
                let hosts: Hostlist =
                    text.parse().map_err(|error| invalid(format!("invalid targets: {error}")))?;
                self.ranks_of(&hosts)?
            }
        };
        match ranks.last() {
            None => Err(invalid("idset is empty")),
            Some(last) if last as usize >= self.len() => Err(invalid("idset is out of range")),
            Some(_) => Ok(ranks),
        }
    }
}

fn invalid(text: impl Into<String>) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

fn exists(text: String) -> RpcError {
    RpcError::new(Errno::EEXIST, text)
}

impl DrainState {
    pub(crate) fn ranks(&self) -> Idset {
        self.0.keys().copied().collect()
    }

    fn contains(&self, rank: u32) -> bool {
        self.0.contains_key(&rank)
    }

    /// The object of `resource.status`: by idset of ranks drained at one time for one reason.
    pub(crate) fn to_map(&self) -> Map<String, Value> {
        let mut groups: BTreeMap<(u64, &str), Idset> = BTreeMap::new();
        for (rank, info) in &self.0 {
            groups
                .entry((info.timestamp.to_bits(), info.reason.as_str()))
                .or_default()
                .insert(*rank);
        }
        let mut list: Vec<_> = groups.into_iter().collect();
        list.sort_by_key(|(_, ranks)| ranks.first());
        list.into_iter()
            .map(|((bits, reason), ranks)| {
                let info = json!({"timestamp": f64::from_bits(bits), "reason": reason});
                (ranks.to_string(), info)
            })
            .collect()
    }

    /// Applies a drain or undrain event to ranks.
    fn apply(&mut self, event: &Event, ranks: &Idset) {
        if event.name == "undrain" {
            for rank in ranks.ids() {
                self.0.remove(&rank);
            }
            return;
        }
        let reason = event.get_str("reason");
        let overwrite = event.get_i64("overwrite").unwrap_or(0);
        for rank in ranks.ids() {
            let fresh = || Drained {
                timestamp: event.timestamp,
                reason: reason.unwrap_or_default().to_string(),
            };
            match self.0.get_mut(&rank) {
                None => drop(self.0.insert(rank, fresh())),
                Some(info) => match overwrite {
                    0 => {}
                    1 => info.reason = reason.unwrap_or_default().to_string(),
                    _ => *info = fresh(),
                },
            }
        }
    }

    /// Applies an event of the eventlog of an earlier run: ranks follow their hosts.
    pub(crate) fn replay(&mut self, event: &Event, hosts: &Hosts) {
        if event.name != "drain" && event.name != "undrain" {
            return;
        }
        let Some(ranks) = event.get_str("idset").and_then(|text| text.parse::<Idset>().ok()) else {
            return;
        };
        let list = event.get_str("nodelist").and_then(|text| text.parse::<Hostlist>().ok());
        self.apply(event, &hosts.ranks_now(&ranks, list.as_ref()));
    }

    /// Drains ranks by the rules of the request's mode; the event, if anything changes.
    ///
    /// # Errors
    /// EEXIST and EINVAL with the ranks that stand in the way: nothing is drained then.
    pub(crate) fn drain(
        &mut self,
        request: &DrainRequest,
        hosts: &Hosts,
        excluded: &Idset,
        now: f64,
    ) -> Result<Vec<Event>, RpcError> {
        let targets = hosts.targets(&request.targets)?;
        let mode = request.mode.as_deref();
        let overwrite = match mode {
            None | Some("update") => 0,
            Some("overwrite") => 1,
            Some("force-overwrite") => 2,
            Some(_) => return Err(invalid("Invalid mode specified")),
        };
        let barred = targets.intersection(excluded);
        let drained: Idset = targets.ids().filter(|rank| self.contains(*rank)).collect();
        if mode.is_none() && !drained.is_empty() {
            let all = drained.union(&barred);
            let or = if barred.is_empty() { "" } else { " or excluded" };
            return Err(exists(format!("rank{} {all} already drained{or}", plural(&all))));
        }
        if !barred.is_empty() {
            return Err(invalid(format!("rank{} {barred} excluded", plural(&barred))));
        }
        // With update, only those change that are not drained, or drained for no reason.
        let changed: Idset = if mode == Some("update") {
            let untouched = |rank: &u32| {
                self.0.get(rank).is_some_and(|info| {
                    !info.reason.is_empty() || request.reason.as_deref().unwrap_or("").is_empty()
                })
            };
            targets.ids().filter(|rank| !untouched(rank)).collect()
        } else {
            targets
        };
        let (old, new): (Vec<u32>, Vec<u32>) =
            changed.ids().partition(|rank| mode == Some("update") && self.contains(*rank));
        let mut events = Vec::new();
        for (ranks, overwrite) in [(new, overwrite), (old, 1)] {
            if ranks.is_empty() {
                continue;
            }
            let ranks: Idset = ranks.into_iter().collect();
            let event = event(now, "drain", &ranks, hosts, overwrite, request.reason.as_deref());
            self.apply(&event, &ranks);
            events.push(event);
        }
        Ok(events)
    }

    /// Undrains ranks; the event, if anything changes. Ranks in `partly` are drained in part.
    ///
    /// # Errors
    /// EEXIST with the ranks that are not drained, unless the mode says to ignore them.
    pub(crate) fn undrain(
        &mut self,
        request: &DrainRequest,
        hosts: &Hosts,
        partly: &Idset,
        now: f64,
    ) -> Result<Vec<Event>, RpcError> {
        let targets = hosts.targets(&request.targets)?;
        match request.mode.as_deref() {
            None | Some("update" | "overwrite" | "force-overwrite" | "force") => {}
            Some(mode) => return Err(invalid(format!("invalid undrain mode '{mode}' specified"))),
        }
        let drained: Idset = targets.ids().filter(|rank| self.contains(*rank)).collect();
        let others = targets.difference(&drained).difference(partly);
        if request.mode.is_none() && !others.is_empty() {
            return Err(exists(format!("rank{} {others} not drained", plural(&others))));
        }
        Ok(self.clear(&drained, hosts, now, request.reason.as_deref()).into_iter().collect())
    }

    /// Undrains those of some ranks that are drained; the event, if there are any.
    pub(crate) fn clear(
        &mut self,
        ranks: &Idset,
        hosts: &Hosts,
        now: f64,
        reason: Option<&str>,
    ) -> Option<Event> {
        let drained: Idset = ranks.ids().filter(|rank| self.contains(*rank)).collect();
        if drained.is_empty() {
            return None;
        }
        let event = event(now, "undrain", &drained, hosts, 0, reason);
        self.apply(&event, &drained);
        Some(event)
    }

    /// The events that make this state from nothing.
    pub(crate) fn compact(&self, hosts: &Hosts) -> Vec<Event> {
        let groups = self.to_map();
        let mut events: Vec<Event> = groups
            .iter()
            .filter_map(|(ids, info)| {
                let ranks: Idset = ids.parse().ok()?;
                let timestamp = info.get("timestamp")?.as_f64()?;
                let reason = info.get("reason")?.as_str().filter(|reason| !reason.is_empty());
                Some(event(timestamp, "drain", &ranks, hosts, 0, reason))
            })
            .collect();
        events.sort_by(|a, b| a.timestamp.total_cmp(&b.timestamp));
        events
    }
}

fn plural(ranks: &Idset) -> &'static str {
    if ranks.len() > 1 { "s" } else { "" }
}

fn event(
    now: f64,
    name: &str,
    ranks: &Idset,
    hosts: &Hosts,
    overwrite: u8,
    reason: Option<&str>,
) -> Event {
    let mut context = Context::new();
    context.insert("idset".to_string(), ranks.to_string().into());
    context.insert("nodelist".to_string(), hosts.list(ranks).into());
    context.insert("overwrite".to_string(), overwrite.into());
    if let Some(reason) = reason {
        context.insert("reason".to_string(), reason.into());
    }
    Event::new(now, name).with_context(context)
}
