//! Local times, and times that people read fast: a date when the minute is new, else the offset.

use flux_format::{LocalTime, TimeZone};

/// The time zone of this process.
#[derive(Debug, Clone)]
pub(crate) struct LocalZone(jiff::tz::TimeZone);

impl LocalZone {
    /// The zone of `TZ`, else of the system.
    pub(crate) fn system() -> LocalZone {
        LocalZone(jiff::tz::TimeZone::system())
    }

    /// Coordinated Universal Time.
    #[cfg(test)]
    pub(crate) fn utc() -> LocalZone {
        LocalZone(jiff::tz::TimeZone::UTC)
    }
}

impl TimeZone for LocalZone {
    fn local(&self, seconds: f64) -> Option<LocalTime> {
        let whole = jiff::Timestamp::from_second(seconds.floor() as i64).ok()?;
        let info = self.0.to_offset_info(whole);
        LocalTime::at_offset(seconds, info.offset().seconds(), info.abbreviation())
    }
}

/// A time as text with a strftime format.
pub(crate) fn strftime(zone: &dyn TimeZone, format: &str, seconds: f64) -> String {
    zone.local(seconds)
        .map_or_else(String::new, |time| flux_format::strftime(format, &time, seconds))
}

/// Prints times as `[Nov20 23:26]`, and within the same minute as `[  +0.378331]`.
#[derive(Debug)]
pub(crate) struct HumanTime {
    zone: LocalZone,
    /// The offsets are from the line before, not from the first of the minute.
    delta: bool,
    minute: i64,
    from: f64,
}

impl HumanTime {
    /// Offsets count from the line with the date; with `delta` from the line before.
    pub(crate) fn new(zone: LocalZone, delta: bool) -> HumanTime {
        HumanTime { zone, delta, minute: i64::MIN, from: 0.0 }
    }

    /// The text for the next line, and whether it is a date.
    pub(crate) fn stamp(&mut self, seconds: f64) -> (String, bool) {
        let minute = (seconds / 60.0).floor() as i64;
        let offset = seconds - self.from;
        if minute != self.minute || offset < 0.0 {
            self.minute = minute;
            self.from = seconds;
            return (format!("[{}]", strftime(&self.zone, "%b%d %H:%M", seconds)), true);
        }
        if self.delta {
            self.from = seconds;
        }
        (format!("[{:>11}]", format!("+{offset:.6}")), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_minute_has_the_date() {
        let mut time = HumanTime::new(LocalZone::utc(), false);
        let start = 1_795_217_160.0;
        let mut stamp = |at: f64| time.stamp(start + at).0;
        assert_eq!(stamp(0.0), "[Nov20 23:26]");
        assert_eq!(stamp(0.378_331), "[  +0.378331]");
        assert_eq!(stamp(10.5), "[ +10.500000]");
        assert_eq!(stamp(60.0), "[Nov20 23:27]");
        assert_eq!(stamp(59.0), "[Nov20 23:26]");
    }
}
