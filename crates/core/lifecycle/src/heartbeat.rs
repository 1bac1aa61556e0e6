//! `heartbeat`: rank 0 publishes a pulse; a follower that misses it says so and, after a while,
//! leaves its parent.

use flux_api::lifecycle::{Heartbeat, HeartbeatStats};
use flux_api::overlay::{DisconnectParent, DisconnectReason};
use flux_api::{Empty, RpcError};
use flux_id::fsd;
use flux_model::roster::Roster;
use flux_proto::{Errno, Message};
use flux_svc::{Cx, Level, Reply, Service, To, Way};
use serde_json::{Map, Value};

/// Topic of the pulse.
pub const PULSE: &str = "heartbeat.pulse";

/// What the service waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// The next pulse to send, or to expect.
    Beat,
}

/// The `heartbeat` service.
#[derive(Debug)]
pub struct HeartbeatService {
    period: f64,
    timeout: f64,
    warn_thresh: u32,
    count: u64,
    last_us: u64,
    /// When this rank last looked whether pulses come.
    looked_us: u64,
    warned: bool,
    started: bool,
    /// The timer runs.
    armed: bool,
    /// The way to the leader is lost, which is known without pulses.
    cut: bool,
}

impl Default for HeartbeatService {
    fn default() -> Self {
        Self {
            period: 2.0,
            timeout: 300.0,
            warn_thresh: 3,
            count: 0,
            last_us: 0,
            looked_us: 0,
            warned: false,
            started: false,
            armed: false,
            cut: false,
        }
    }
}

fn duration(key: &str, value: &Value) -> Result<f64, RpcError> {
    let bad = || RpcError::new(Errno::EINVAL, format!("heartbeat.{key}: invalid duration"));
    match value {
        Value::String(text) => fsd::parse(text).map_err(|_| bad()),
        other => other.as_f64().filter(|seconds| *seconds >= 0.0).ok_or_else(bad),
    }
}

impl HeartbeatService {
    fn arm(&self, cx: &mut Cx<'_, Wait>) {
        cx.timer((self.period * 1e6) as u64, Wait::Beat);
    }

    fn missed(&mut self, cx: &mut Cx<'_, Wait>) {
        let period = (self.period * 1e6) as u64;
        let since = cx.now_us().saturating_sub(std::mem::replace(&mut self.looked_us, cx.now_us()));
        if self.cut || since > 3 * period {
            // Nobody can be heard, or this process stood still: what has come is yet to be read.
            self.last_us = cx.now_us();
        }
        let silent = cx.now_us().saturating_sub(self.last_us) as f64 / 1e6;
        if silent > self.period * f64::from(self.warn_thresh) && !self.warned {
            self.warned = true;
            cx.log(Level::Err, "heartbeat overdue");
        }
        if self.timeout > 0.0 && silent > self.timeout {
            self.last_us = cx.now_us();
            let reason = format!("no heartbeat for {}", fsd::format(silent));
            let rank = cx.rank();
            cx.notify::<DisconnectParent>(To::Rank(rank), &DisconnectReason { reason });
        }
    }
}

impl Service for HeartbeatService {
    type Api = Heartbeat;
    type Wait = Wait;

    fn start(&mut self, cx: &mut Cx<'_, Wait>) {
        self.started = true;
        self.last_us = cx.now_us();
        self.looked_us = cx.now_us();
        if cx.rank() > 0 {
            cx.subscribe(PULSE);
        }
        if cx.size() > 1 {
            self.armed = true;
            self.arm(cx);
        }
        cx.ready();
    }

    fn on_call(&mut self, cx: &mut Cx<'_, Wait>, call: Heartbeat) {
        match call {
            Heartbeat::HeartbeatStats_(call) => {
                let stats = HeartbeatStats {
                    period: self.period,
                    timeout: self.timeout,
                    count: self.count,
                    warn_thresh: self.warn_thresh,
                };
                call.answer.ok(cx, &stats);
            }
        }
    }

    fn on_reply(&mut self, _cx: &mut Cx<'_, Wait>, _wait: Wait, _reply: Reply) {}

    fn on_timer(&mut self, cx: &mut Cx<'_, Wait>, _wait: Wait) {
        if cx.rank() == 0 {
            self.count += 1;
            cx.publish(PULSE, &Empty, false);
        } else {
            self.missed(cx);
        }
        self.arm(cx);
    }

    fn on_way(&mut self, cx: &mut Cx<'_, Wait>, way: Way) {
        self.cut = way == Way::Lost;
        self.last_us = cx.now_us();
    }

    fn on_event(&mut self, cx: &mut Cx<'_, Wait>, _event: &Message) {
        self.count += 1;
        self.last_us = cx.now_us();
        self.warned = false;
    }

    fn on_config(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        config: &Map<String, Value>,
    ) -> Result<(), RpcError> {
        // The first follower may be added later.
        let more = || matches!(Roster::of(config), Ok(Some(roster)) if roster.size() > 1);
        if self.started && !self.armed && more() {
            self.armed = true;
            self.arm(cx);
        }
        let mut next = Self::default();
        let table = match config.get("heartbeat") {
            None => return Ok(()),
            Some(Value::Object(table)) => table,
            Some(_) => return Err(RpcError::new(Errno::EINVAL, "heartbeat: must be a table")),
        };
        for (key, value) in table {
            match key.as_str() {
                "period" => next.period = duration(key, value)?,
                "timeout" => {
                    next.timeout = match value.as_str() {
                        Some("infinity" | "inf") => 0.0,
                        _ => duration(key, value)?,
                    };
                }
                "warn_thresh" => {
                    next.warn_thresh =
                        value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| {
                            RpcError::new(Errno::EINVAL, "heartbeat.warn_thresh: must be a number")
                        })?;
                }
                _ => {
                    let text = format!("heartbeat.{key}: unknown key");
                    return Err(RpcError::new(Errno::EINVAL, text));
                }
            }
        }
        if next.period <= 0.0 {
            return Err(RpcError::new(Errno::EINVAL, "heartbeat.period: must be greater than 0"));
        }
        if next.timeout > 0.0 && next.timeout < 2.0 * next.period {
            let text = "heartbeat.timeout: must be at least twice the period";
            return Err(RpcError::new(Errno::EINVAL, text));
        }
        self.period = next.period;
        self.timeout = next.timeout;
        self.warn_thresh = next.warn_thresh;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flux_svc::Rig;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_follower_without_pulse_leaves_its_parent_after_the_timeout() {
        let config = json!({"heartbeat": {"period": "1s", "timeout": "5s"}});
        let mut rig = Rig::with(HeartbeatService::default(), 1, 2, config.as_object().unwrap());
        rig.advance(4_000_000);
        rig.event(PULSE, Value::Null);
        rig.advance(4_000_000);
        assert!(rig.requests.is_empty());
        rig.advance(3_000_000);
        rig.expect("overlay.disconnect-parent");
        rig.finish();
    }

    #[test]
    fn the_leader_publishes_pulses() {
        let mut rig = Rig::with(HeartbeatService::default(), 0, 2, &Map::new());
        rig.advance(6_000_000);
        assert_eq!(rig.events.len(), 3);
        rig.events.clear();
        rig.finish();
    }

    #[test]
    fn nobody_leaves_a_parent_that_is_known_to_be_cut_off_or_after_standing_still() {
        let config = json!({"heartbeat": {"period": "1s", "timeout": "5s"}});
        let mut rig = Rig::with(HeartbeatService::default(), 1, 2, config.as_object().unwrap());
        rig.way(Way::Lost);
        rig.advance(60_000_000);
        rig.way(Way::Back);
        rig.advance(4_000_000);
        assert!(rig.requests.is_empty());
        rig.advance(2_000_000);
        rig.expect("overlay.disconnect-parent");
        rig.finish();
    }
}
