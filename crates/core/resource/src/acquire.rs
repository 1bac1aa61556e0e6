//! The scheduler's view: what it may use, and each change (RFC 28).

use flux_api::resource::{Acquire, AcquireResponse, HeldPart};
use flux_api::{Answer, Call, RpcError};
use flux_id::Idset;
use flux_proto::Errno;
use flux_svc::Cx;

use crate::service::{ResourceService, Wait};

/// The scheduler, and what it was told.
#[derive(Debug)]
pub(crate) struct Acquirer {
    pub(crate) answer: Answer<Acquire>,
    /// Ranks it takes for up; `None` before its first response.
    told: Option<Idset>,
    /// Ranks it takes for excluded.
    excluded: Idset,
    /// Cores and gpus it keeps from jobs.
    held: Vec<HeldPart>,
}

impl Acquirer {
    /// R is another one: it is told whole.
    pub(crate) fn start_anew(&mut self) {
        self.told = None;
    }
}

const NOTHING: AcquireResponse = AcquireResponse {
    resources: None,
    up: None,
    down: None,
    exclude: None,
    hold: None,
    shrink: None,
    expiration: None,
};

impl ResourceService {
    /// A scheduler asks for the resources; it is answered when they are known.
    pub(crate) fn acquire(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Acquire>) {
        if self.stopping {
            let text = "the resource module was unloaded";
            return call.answer.err(cx, RpcError::new(Errno::ECANCELED, text));
        }
        if self.acquirer.is_some() {
            let text = "resources are acquired by another scheduler";
            return call.answer.err(cx, RpcError::new(Errno::EBUSY, text));
        }
        self.acquirer = Some(Acquirer {
            answer: call.answer,
            told: None,
            excluded: Idset::new(),
            held: Vec::new(),
        });
        self.tell_scheduler(cx, &Idset::new());
    }

    /// Ranks that may get work: in R, not excluded, drained, offline, torpid or lost.
    fn usable(&self) -> Idset {
        let Some(inventory) = &self.inventory else { return Idset::new() };
        let mut up = inventory.r.ranks().intersection(&self.online);
        for without in [&self.excluded, &self.drained.ranks(), &self.torpid, &self.lost] {
            up.remove_all(without);
        }
        up
    }

    /// Tells the scheduler what has changed for it; `lost` ranks are gone for good. While the
    /// instance stops (`resource.acquire-mute`) none are, but who is down still is: queues may be
    /// started again, and a job that got a node without a broker would hold the stop up.
    pub(crate) fn tell_scheduler(&mut self, cx: &mut Cx<'_, Wait>, lost: &Idset) {
        let usable = self.usable();
        let held = self.parts.held();
        let (Some(inventory), Some(acquirer)) = (&self.inventory, &mut self.acquirer) else {
            return;
        };
        let Some(told) = acquirer.told.replace(usable.clone()) else {
            let r = inventory.r.without_ranks(&self.lost);
            if r.ranks().is_subset(&self.excluded) {
                let text = "no resources to schedule: every rank is excluded";
                if let Some(acquirer) = self.acquirer.take() {
                    acquirer.answer.err(cx, RpcError::new(Errno::ENOENT, text));
                }
                return;
            }
            acquirer.excluded.clone_from(&self.excluded);
            acquirer.held.clone_from(&held);
            let first = AcquireResponse {
                resources: Some(r.to_value()),
                up: Some(usable.to_string()),
                exclude: (!self.excluded.is_empty()).then(|| self.excluded.to_string()),
                hold: (!held.is_empty()).then_some(held),
                ..NOTHING
            };
            return acquirer.answer.item(cx, &first);
        };
        let part = |ids: Idset| (!ids.is_empty()).then(|| ids.to_string());
        let lost = lost.intersection(&inventory.r.ranks());
        // Ranks that are lost count as down for schedulers that do not know the word.
        let down = told.difference(&usable).union(&lost);
        let response = AcquireResponse {
            up: part(usable.difference(&told)),
            down: part(down),
            exclude: (acquirer.excluded != self.excluded).then(|| self.excluded.to_string()),
            hold: (acquirer.held != held).then(|| held.clone()),
            shrink: part(lost),
            ..NOTHING
        };
        acquirer.excluded.clone_from(&self.excluded);
        acquirer.held = held;
        if response != NOTHING {
            acquirer.answer.item(cx, &response);
        }
    }

    /// The instance ends at another time.
    pub(crate) fn tell_expiration(&mut self, cx: &mut Cx<'_, Wait>, expiration: f64) {
        if let Some(acquirer) = self.acquirer.as_ref().filter(|a| a.told.is_some()) {
            let response = AcquireResponse { expiration: Some(expiration), ..NOTHING };
            acquirer.answer.item(cx, &response);
        }
    }
}
