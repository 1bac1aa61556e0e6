//! Links over time: heartbeats on idle links, children that fall silent, and the settings of
//! `[tbon]` for both.

use flux_api::RpcError;
use flux_id::fsd;
use flux_proto::{Errno, Message};
use flux_svc::Level;
use serde_json::Value;

use crate::node::Node;
use crate::overlay::control;
use crate::overlay::parent::Uplink;

/// Links are looked at when the heart beats, never more often than this, nor less often than
/// that; microseconds.
const CHECK_MIN: u64 = 1_000_000;
const CHECK_MAX: u64 = 5_000_000;

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
        let setting = |name: &str, default: f64| match self.config.get("tbon") {
            Some(tbon) => match tbon.get(name) {
                Some(value) => seconds(value).ok_or_else(|| {
                    RpcError::new(Errno::EINVAL, format!("[tbon]: {name} is not a duration"))
                }),
                None => Ok(default),
            },
            None => Ok(default),
        };
        let min = setting("torpid_min", self.cfg.torpid_min)?;
        let max = setting("torpid_max", self.cfg.torpid_max)?;
        self.overlay.torpid_min = micros(min);
        self.overlay.torpid_max = micros(max);
        Ok(())
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
        let retry = match self.overlay.parent.state {
            Uplink::Waiting(at) => Some(at),
            _ => None,
        };
        let check = self.overlay_watched().then_some(self.overlay.checked + CHECK_MAX);
        [retry, check].into_iter().flatten().min()
    }

    /// Breaks a long silence towards the parent, and notes that of children.
    pub(crate) fn check_links(&mut self) {
        let now = self.clock.mono_us;
        if now < self.overlay.checked + CHECK_MIN {
            return;
        }
        self.overlay.checked = now;
        let idle = now.saturating_sub(self.overlay.parent.sent);
        if self.overlay.parent.is_joined() && idle >= self.overlay.torpid_min {
            self.send_up(Message::control(control::HEARTBEAT, 0));
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
