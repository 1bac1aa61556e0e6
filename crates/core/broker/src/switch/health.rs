//! Which services owe answers, and for how long.

use flux_api::broker::{Busy, HealthReport};

use crate::ids::Peer;
use crate::node::Node;
use crate::track::Tracker;

impl Node {
    /// Services of this rank whose oldest unanswered request has waited for `older` seconds or
    /// more. Streams do not count: they last for as long as somebody listens.
    pub(crate) fn health_report(&self, older: f64) -> HealthReport {
        let now = self.clock.mono_us;
        let busy = |name: &str, serving: &Tracker| {
            let (head, since) = serving.oldest()?;
            let oldest = now.saturating_sub(since) as f64 / 1e6;
            let topic = head.topic().to_string();
            let (name, depth) = (name.to_string(), serving.len() as u64);
            (oldest >= older).then_some(Busy { name, topic, oldest, depth })
        };
        let modules = self.seats.iter().filter_map(|seat| busy(&seat.name, &seat.serving));
        let drivers = self.drivers.iter().filter_map(|driver| busy(driver.name, &driver.serving));
        let clients = self.clients.iter().filter_map(|(id, client)| {
            let names = self.services_of(Peer::Client(*id));
            busy(names.first().map_or("client", String::as_str), &client.serving)
        });
        let mut services: Vec<Busy> = modules.chain(drivers).chain(clients).collect();
        services.sort_by(|a, b| b.oldest.total_cmp(&a.oldest));
        HealthReport { rank: self.cfg.rank, services }
    }
}
