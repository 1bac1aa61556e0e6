//! What hardware there is: each rank asks its host, and a subtree reports in one message.

use flux_api::Empty;
use flux_api::body::AnyObject;
use flux_api::driver::{Get as TopoDriver, HostResources};
use flux_api::resource::{Drain, DrainRequest, Get, ResourceGet, TopoReduce, TopoReduce_};
use flux_id::{Hostlist, Idset};
use flux_model::resource_set::{ResourceSet, VerifyRules};
use flux_svc::{Cx, Level, Reply, To};
use serde_json::Value;

use crate::config::verify;
use crate::service::{ResourceService, Wait};

/// How long to wait before the parent is asked again for R, in microseconds: first, and at most.
const ASK_US: (u64, u64) = (100_000, 5_000_000);

/// Reports of this rank and of those below it.
#[derive(Debug, Default)]
pub(crate) struct Reduction {
    parts: Vec<ResourceSet>,
    ranks: Idset,
    reported: bool,
    /// What was reported to the parent.
    reports: Vec<TopoReduce>,
}

impl ResourceService {
    /// Asks the host what it has.
    pub(crate) fn look(&mut self, cx: &mut Cx<'_, Wait>) {
        cx.call::<TopoDriver>(To::Rank(cx.rank()), &Empty, Wait::Topology);
    }

    /// The host's answer.
    pub(crate) fn looked(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        let found = reply
            .decode::<TopoDriver>()
            .map_err(|error| error.to_string())
            .and_then(|found| own_set(cx.rank(), &found));
        match found {
            Ok(own) => {
                self.own = Some(own.clone());
                self.reduce(cx, own);
                if cx.rank() > 0 {
                    self.ask_parent(cx);
                } else {
                    self.verify_rank_0(cx);
                }
            }
            Err(error) => cx.log(Level::Err, format!("hardware of rank {}: {error}", cx.rank())),
        }
    }

    /// A subtree has reported.
    pub(crate) fn reduced(&mut self, cx: &mut Cx<'_, Wait>, report: &TopoReduce) {
        match ResourceSet::from_value(&report.resource) {
            Ok(set) if set.nnodes() == report.count as usize => self.reduce(cx, set),
            Ok(_) => cx.log(Level::Err, "topo-reduce: count does not match the resources"),
            Err(error) => cx.log(Level::Err, format!("topo-reduce: {error}")),
        }
    }

    fn reduce(&mut self, cx: &mut Cx<'_, Wait>, set: ResourceSet) {
        if self.settings.reparent && cx.rank() > 0 {
            return self.pass_on(cx, &set);
        }
        let reduction = &mut self.reduction;
        // A broker that came again reports again; the inventory stands already.
        if reduction.ranks.intersects(&set.ranks()) {
            return;
        }
        if reduction.reported {
            // A broker that came to the instance while it runs.
            reduction.ranks.insert_all(&set.ranks());
            return if cx.rank() > 0 { self.pass_on(cx, &set) } else { self.found_more(cx, set) };
        }
        reduction.ranks.insert_all(&set.ranks());
        reduction.parts.push(set);
        if reduction.ranks.len() <= u64::from(self.settings.descendants) {
            return;
        }
        reduction.reported = true;
        let parts = std::mem::take(&mut reduction.parts);
        let set = match ResourceSet::union_all(parts) {
            Ok(set) => set,
            Err(error) => return cx.log(Level::Err, format!("topo-reduce: {error}")),
        };
        if cx.rank() > 0 {
            let count = u32::try_from(set.nnodes()).unwrap_or(u32::MAX);
            let report = TopoReduce { count, resource: set.to_value() };
            cx.notify::<TopoReduce_>(To::Upstream, &report);
            self.reduction.reports = vec![report];
        } else {
            if self.discovering {
                self.found = Some(set);
                self.define(cx);
            } else {
                self.found_more(cx, set);
            }
        }
    }

    /// The way to the leader is back: whoever is above may have started anew and know nothing.
    pub(crate) fn report_again(&mut self, cx: &mut Cx<'_, Wait>) {
        for report in &self.reduction.reports {
            cx.notify::<TopoReduce_>(To::Upstream, report);
        }
    }

    /// Gives a report to the parent as it is. This rank's own is told again when the way is back;
    /// those below see to theirs.
    fn pass_on(&mut self, cx: &mut Cx<'_, Wait>, set: &ResourceSet) {
        let count = u32::try_from(set.nnodes()).unwrap_or(u32::MAX);
        let report = TopoReduce { count, resource: set.to_value() };
        cx.notify::<TopoReduce_>(To::Upstream, &report);
        if !self.settings.reparent {
            self.reduction.reports.push(report);
        } else if set.ranks().contains(cx.rank()) {
            self.reduction.reports = vec![report];
        }
    }

    /// Asks the parent for R, to compare and to pass on.
    pub(crate) fn ask_parent(&mut self, cx: &mut Cx<'_, Wait>) {
        cx.call::<Get>(To::Upstream, &AnyObject::default(), Wait::ParentR);
    }

    /// R is another one, or may be: a follower asks for it.
    pub(crate) fn refresh(&mut self, cx: &mut Cx<'_, Wait>) {
        if !self.stopping {
            self.stale.get_or_insert_default();
            self.ask_again_us = 0;
            self.ask_parent(cx);
        }
    }

    /// Asks it later.
    pub(crate) fn ask_later(&mut self, cx: &mut Cx<'_, Wait>) {
        let after = self.ask_again_us.max(ASK_US.0);
        self.ask_again_us = (after * 2).min(ASK_US.1);
        cx.timer(after, Wait::AskParent);
    }

    /// The parent's R.
    pub(crate) fn parent_r(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        let got = match reply.decode::<Get>() {
            Ok(got) => got,
            Err(error) => {
                // Whoever asks meanwhile hears of the way, rather than of what was before.
                for answer in self.stale.iter_mut().flat_map(std::mem::take) {
                    answer.err(cx, error.clone());
                }
                return self.ask_later(cx);
            }
        };
        for answer in self.stale.take().unwrap_or_default() {
            answer.ok(cx, &got);
        }
        if self.is_missing(cx, &got) {
            return;
        }
        if let Ok(r) = ResourceSet::from_value(&got.r)
            && let Some(reason) = self.faults(&r, self.rules_of(&got))
        {
            let request = DrainRequest {
                targets: cx.rank().to_string(),
                reason: Some(reason),
                mode: Some("update".to_string()),
            };
            cx.call::<Drain>(To::Rank(0), &request, Wait::SelfDrain);
        }
        self.copy = Some(got);
    }

    /// What is wrong with this rank's hardware, compared with R by these rules.
    pub(crate) fn faults(&self, r: &ResourceSet, rules: Option<VerifyRules>) -> Option<String> {
        let faults = r.verify(self.own.as_ref()?, rules?);
        (!faults.is_empty()).then(|| faults.join("; "))
    }

    /// How an R that was found in this way is compared, as this rank is configured; `None`: not.
    pub(crate) fn rules(&self, method: &str) -> Option<VerifyRules> {
        let skip = self.settings.noverify
            || self.config.noverify
            || method == "dynamic-discovery"
            || method == "reload"
            || (method == "job-info" && !self.config.verify_explicit);
        (!skip).then_some(self.config.verify)
    }

    /// How an R of the parent is compared. Its rules come with it: the configuration of a rank that
    /// has just come back may still be the one from before.
    fn rules_of(&self, got: &ResourceGet) -> Option<VerifyRules> {
        match &got.verify {
            None => self.rules(&got.method),
            Some(Value::Bool(false)) => None,
            Some(table) => verify(table).ok(),
        }
    }
}

pub(crate) fn own_set(rank: u32, found: &HostResources) -> Result<ResourceSet, String> {
    let ids = |text: &str| text.parse::<Idset>().map_err(|error| error.to_string());
    let host = Hostlist::from_hosts([&found.hostname]).map_err(|error| error.to_string())?;
    let (cores, gpus) = (ids(&found.cores)?, ids(&found.gpus)?);
    ResourceSet::encode(&Idset::from_range(rank..=rank), &cores, &gpus, &host)
        .map_err(|error| error.to_string())
}
