//! Log lines: to the log service when there is one, else to stderr.

use flux_api::lifecycle::{PostEvent, SignalRequest};
use flux_api::{Body, Rpc, lifecycle};
use flux_proto::Message;
use flux_svc::Level;
use flux_svc::engine::Output;

use crate::ids::Peer;
use crate::node::Node;

fn severity(level: Level) -> &'static str {
    match level {
        Level::Emerg => "emerg",
        Level::Alert => "alert",
        Level::Crit => "crit",
        Level::Err => "err",
        Level::Warning => "warning",
        Level::Notice => "notice",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}

/// Year, month and day of a day counted from 1970-01-01 (proleptic Gregorian calendar).
fn civil(days: i64) -> (i64, i64, i64) {
    // Years that begin in March put the leap day last; 400 of them have 146097 days.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// A wall clock time in RFC 3339 form, UTC, with microseconds.
pub(crate) fn timestamp(wall: f64) -> String {
    let micros = (wall * 1e6) as i64;
    let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let (days, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

impl Node {
    /// Writes a line to the broker's log in the name of `app`.
    pub(crate) fn log(&mut self, app: &str, level: Level, text: impl AsRef<str>) {
        let text = text.as_ref().trim_end();
        let rank = self.cfg.rank;
        let Some(Peer::Module(seat)) = self.registry.get("log").copied() else {
            let line = format!("{app}.{}[{rank}]: {text}", severity(level));
            return self.out.push_back(Output::Stderr(level, line));
        };
        let priority = (level as u32) * 8;
        let time = timestamp(self.clock.wall);
        let line = format!("<{priority}>1 {time} {rank} {app} - - - {text}");
        let message = Message::request(lifecycle::Append::TOPIC).with_raw(line);
        self.tell(Peer::Module(seat), message);
    }

    /// Sends a request of this broker to a service here that answers nothing.
    fn tell(&mut self, peer: Peer, message: Message) {
        let mut message = message.with_no_response();
        message.cred = self.own_cred();
        message.set_nodeid(self.cfg.rank);
        self.serve_by(peer, message);
    }

    /// The broker cannot go on as it is: the state machine decides what that means. Whether
    /// there is one.
    pub(crate) fn panic(&mut self) -> bool {
        let Some(peer) = self.registry.get("state-machine").copied() else {
            return false;
        };
        let mut message = Message::request(lifecycle::Post::TOPIC);
        PostEvent { event: "panic".into(), error: true }.put(&mut message);
        self.tell(peer, message);
        true
    }

    /// The process received a signal: the state machine decides; without one the broker ends.
    pub(crate) fn signal(&mut self, number: i32) {
        match self.registry.get("state-machine").copied() {
            Some(peer) => {
                let mut message = Message::request(lifecycle::Signal::TOPIC);
                let alone = self.rejoin_limit() != Some(0);
                SignalRequest { signum: number, alone }.put(&mut message);
                self.tell(peer, message);
            }
            None => self.exit = Some(128 + number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_microseconds() {
        assert_eq!(timestamp(0.0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(timestamp(1_700_000_000.25), "2023-11-14T22:13:20.250000Z");
        assert_eq!(timestamp(951_782_400.0), "2000-02-29T00:00:00.000000Z");
        assert_eq!(timestamp(1_767_225_599.0), "2025-12-31T23:59:59.000000Z");
    }
}
