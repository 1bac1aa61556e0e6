//! The `calendar` driver: when a time of crontab(5) comes next, in the zone of this host.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use flux_api::cron::{Calendar as Api, CalendarTime};
use flux_api::{Api as _, RpcError};
use flux_proto::{Errno, Message, MsgType};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::driver::{Driver, DriverHandle};

/// Serves `calendar.*`.
#[derive(Debug, Default)]
pub struct Calendar {
    zone: Option<TimeZone>,
}

fn invalid(text: impl std::fmt::Display) -> RpcError {
    RpcError::new(Errno::EINVAL, format!("invalid time: {text}"))
}

impl Calendar {
    /// A calendar in this zone rather than that of the host.
    #[must_use]
    pub fn in_zone(zone: TimeZone) -> Self {
        Self { zone: Some(zone) }
    }

    /// The first second after `after` (seconds since the epoch) that fits.
    fn next(&self, pattern: &str, after: f64) -> Result<f64, RpcError> {
        let parser = CronParser::builder()
            .seconds(Seconds::Required)
            .year(Year::Required)
            // As flux-cron has it: a day of the month and a day of the week must both fit.
            .dom_and_dow(true)
            .build();
        let cron: Cron = parser.parse(pattern).map_err(invalid)?;
        let zone = self.zone.clone().unwrap_or_else(TimeZone::system);
        let now = Timestamp::from_second(after.floor() as i64).map_err(invalid)?;
        let now: Zoned = now.to_zoned(zone);
        let next = cron
            .find_next_occurrence(&now, false)
            .map_err(|_| RpcError::new(Errno::ENOENT, "there is no such time any more"))?;
        Ok(next.timestamp().as_second() as f64)
    }
}

impl Driver for Calendar {
    fn name(&self) -> &'static str {
        "calendar"
    }

    fn deliver(&mut self, message: Message, back: &DriverHandle) {
        if message.kind != MsgType::Request {
            return;
        }
        let mut out = back.clone();
        match Api::decode(message) {
            Err((message, error)) => back.refuse(&message, &error),
            Ok(Api::CalendarNext_(call)) => {
                let time = self.next(&call.request.pattern, call.request.after);
                call.answer.respond(&mut out, time.map(|time| CalendarTime { time }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_zone() {
        let calendar = Calendar::in_zone(TimeZone::UTC);
        let at = |pattern: &str, after: &str| {
            let after: Timestamp = after.parse().unwrap();
            let time = calendar.next(pattern, after.as_second() as f64);
            time.map(|time| Timestamp::from_second(time as i64).unwrap().to_string())
        };
        let start = "2026-11-21T06:44:30Z";
        assert_eq!(at("0 * * * * * *", start).unwrap(), "2026-11-21T06:45:00Z");
        assert_eq!(at("0 30 4 * * MON *", start).unwrap(), "2026-11-23T04:30:00Z");
        assert_eq!(at("0 0 0 13 * 5 *", start).unwrap(), "2027-08-13T00:00:00Z");
        assert_eq!(at("0 0 0 1 jan * 2027", start).unwrap(), "2027-01-01T00:00:00Z");
        assert_eq!(at("0 0 0 1 1 * 2020", start).unwrap_err().errno, Errno::ENOENT);
        for bad in ["0 61 * * * * *", "", "a b", "* * * * *", "0 0 0 32 * * *"] {
            assert_eq!(at(bad, start).unwrap_err().errno, Errno::EINVAL, "{bad}");
        }
        let berlin = Calendar::in_zone(TimeZone::fixed(jiff::tz::offset(2)));
        let noon = berlin.next("0 0 12 * * * *", 0.0).unwrap();
        assert_eq!(noon, 36_000.0);
    }
}
