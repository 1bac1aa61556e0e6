//! Links over time: heartbeats on idle links, children that fall silent, and the settings of
//! `[tbon]` for both.

use flux_api::RpcError;
use flux_id::fsd;
use flux_proto::{Errno, Message};
use flux_svc::Level;
use serde_json::Value;

use crate::node::Node;
use crate::overlay::control;

/// Links are looked at when the heart beats, never more often than this, nor less often than
/// that; microseconds.
const CHECK_MIN: u64 = 1_000_000;
const CHECK_MAX: u64 = 5_000_000;

/// Where nobody waits for a leader: how long one is looked for who takes this broker in, beyond
/// the time that each ancestor is waited for.
const SEEKING: u64 = 10_000_000;

/// When they were not looked at for so long, this process was stopped meanwhile.
const SLEPT: u64 = 3 * CHECK_MAX;

/// Seconds of a duration: a number, or text with a unit (RFC 23).
fn seconds(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => fsd::parse(text).ok(),
        None => value.as_f64().filter(|number| *number >= 0.0),
    }
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

impl Node {
    /// Takes the settings of `[tbon]` from the configuration. Those that only count at start are
    /// not looked at here.
    pub(crate) fn configure_overlay(&mut self) -> Result<(), RpcError> {
        let setting = |name: &str| -> Result<Option<f64>, RpcError> {
            let configured = self.config.get("tbon").and_then(|tbon| tbon.get(name));
            let Some(value) = self.cfg.tbon.get(name).or(configured) else { return Ok(None) };
            seconds(value).map(Some).ok_or_else(|| {
                RpcError::new(Errno::EINVAL, format!("[tbon]: {name} is not a duration"))
            })
        };
        let min = setting("torpid_min")?.unwrap_or(self.cfg.torpid_min);
        let max = setting("torpid_max")?.unwrap_or(self.cfg.torpid_max);
        let rejoin = setting("rejoin-timeout")?;
        self.overlay.torpid_min = micros(min);
        self.overlay.torpid_max = micros(max);
        self.overlay.rejoin_timeout = rejoin;
        Ok(())
    }

    /// How long a lost parent is waited for, in microseconds; nothing for ever.
    pub(crate) fn rejoin_limit(&self) -> Option<u64> {
        match self.overlay.rejoin_timeout {
            Some(limit) => limit.is_finite().then(|| micros(limit)),
            None if self.overlay.way.durable || self.cfg.fixed_parent => None,
            // A leader that is lost does not come back; of a router those below need not go, too.
            None if self.overlay.parent.former == 0 => Some(0),
            None => self.cfg.reparent.map_or(Some(0), |after| {
                let level = self.cfg.topology.level(self.cfg.rank);
                Some(micros(after * f64::from(level)) + SEEKING)
            }),
        }
    }

    pub(crate) fn overlay_tick(&mut self) {
        self.retry_parent();
        if self.overlay_watched() && self.clock.mono_us >= self.overlay.checked + CHECK_MAX {
            self.check_links();
        }
    }

    fn overlay_watched(&self) -> bool {
        let [_, full, partial, degraded, ..] = self.overlay.count;
        self.overlay.parent.is_joined() || full + partial + degraded > 0
    }

    pub(crate) fn overlay_deadline(&self) -> Option<u64> {
        let retry = self.parent_deadline();
        let check = self.overlay_watched().then_some(self.overlay.checked + CHECK_MAX);
        [retry, check].into_iter().flatten().min()
    }

    /// Breaks a long silence towards the parent, and notes that of children.
    pub(crate) fn check_links(&mut self) {
        let now = self.clock.mono_us;
        if now < self.overlay.checked + CHECK_MIN {
            return;
        }
        let slept = now - self.overlay.checked > SLEPT;
        self.overlay.checked = now;
        let idle = now.saturating_sub(self.overlay.parent.sent);
        if self.overlay.parent.is_joined() && idle >= self.overlay.torpid_min {
            self.send_up(Message::control(control::HEARTBEAT, 0));
        }
        if slept {
            // This process stood still, so that what the children said is yet to be read.
            for child in self.overlay.children.values_mut() {
                child.heard = child.heard.max(now.saturating_sub(CHECK_MAX));
            }
        }
        let limit = self.overlay.torpid_max;
        let mut changed = Vec::new();
        for (rank, child) in &mut self.overlay.children {
            let silence = now.saturating_sub(child.heard);
            let torpid = child.link.is_some() && limit > 0 && silence > limit;
            if torpid != child.torpid {
                child.torpid = torpid;
                changed.push((*rank, silence));
            }
        }
        for (rank, silence) in changed {
            let torpid = self.overlay.children.get(&rank).is_some_and(|child| child.torpid);
            let host = self.cfg.host(rank);
            let text = if torpid {
                let silence = fsd::format_short((silence as f64 / 1e6).round());
                format!("broker on {host} (rank {rank}) has been unresponsive for {silence}")
            } else {
                format!("broker on {host} (rank {rank}) is responsive now")
            };
            self.log("overlay", Level::Err, text);
            self.tell_monitors(rank);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_numbers_or_text() {
        assert_eq!(seconds(&json!(3)), Some(3.0));
        assert_eq!(seconds(&json!("2.5m")), Some(150.0));
        assert_eq!(seconds(&json!("250ms")), Some(0.25));
        assert_eq!(seconds(&json!("4")), Some(4.0));
        for bad in [json!(-1), json!("-1s"), json!("x"), json!("1y"), json!([]), json!("nan")] {
            assert_eq!(seconds(&bad), None, "{bad}");
        }
    }
}
