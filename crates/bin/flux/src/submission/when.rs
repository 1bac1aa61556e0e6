//! Points in time on the command line: `--begin-time`.

use jiff::{Timestamp, ToSpan, Zoned, civil};

use super::{SubmitError, duration};

/// Seconds since the epoch of `now`, `+FSD`, an epoch time, `YYYY-MM-DD[ HH:MM[:SS]]`, an ISO 8601
/// time with or without offset, `today`, `tomorrow` or `HH:MM[:SS]` (the next such time).
///
/// # Errors
/// [`SubmitError::Datetime`].
pub(crate) fn epoch(text: &str, now: &Zoned) -> Result<f64, SubmitError> {
    parse(text.trim(), now).ok_or_else(|| SubmitError::Datetime(text.to_owned()))
}

fn parse(text: &str, now: &Zoned) -> Option<f64> {
    let current = float(now.timestamp());
    if let Some(later) = text.strip_prefix('+') {
        return duration::seconds(later, 1.0).filter(|s| s.is_finite()).map(|s| current + s);
    }
    if text.starts_with(|c: char| c.is_ascii_digit())
        && let Ok(epoch) = text.parse::<f64>()
    {
        return epoch.is_finite().then_some(epoch);
    }
    let zoned = match text.to_ascii_lowercase().as_str() {
        "now" => return Some(current),
        "today" => now.start_of_day().ok()?,
        "tomorrow" => now.checked_add(1.day()).ok()?.start_of_day().ok()?,
        _ => {
            if let Ok(timestamp) = text.parse::<Timestamp>() {
                return Some(float(timestamp));
            }
            let zone = now.time_zone().clone();
            if let Ok(time) = text.parse::<civil::Time>() {
                let today = now.date().to_datetime(time).to_zoned(zone.clone()).ok()?;
                if today > *now {
                    today
                } else {
                    now.date().tomorrow().ok()?.to_datetime(time).to_zoned(zone).ok()?
                }
            } else {
                text.parse::<civil::DateTime>().ok()?.to_zoned(zone).ok()?
            }
        }
    };
    Some(float(zoned.timestamp()))
}

fn float(timestamp: Timestamp) -> f64 {
    timestamp.as_microsecond() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::Context;

    #[test]
    fn times_are_read_in_the_local_zone() {
        let now = Context::fixed().now;
        let midnight = 1_795_219_200.0;
        for (text, expected) in [
            ("now", midnight),
            ("+1h", midnight + 3600.0),
            ("+0.5s", midnight + 0.5),
            ("1795219300.5", midnight + 100.5),
            ("2026-11-21 01:00", midnight + 3600.0),
            ("2026-11-21", midnight),
            ("2026-11-21T01:00:05", midnight + 3605.0),
            ("2026-11-21T01:00:00+01:00", midnight),
            ("2026-11-21T00:00:01Z", midnight + 1.0),
            ("tomorrow", midnight + 86400.0),
            ("13:30", midnight + 48600.0),
            ("00:00", midnight + 86400.0),
        ] {
            assert_eq!(epoch(text, &now), Ok(expected), "{text}");
        }
        for text in ["foo", "", "+", "+inf", "2026-13-01", "nan"] {
            assert_eq!(
                epoch(text, &now).expect_err("no time").to_string(),
                format!("Invalid datetime: \"{text}\"")
            );
        }
    }
}
