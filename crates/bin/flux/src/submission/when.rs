//! Points in time on the command line: `--begin-time`, `--since`, `flux cron at`.

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::{Span, Timestamp, ToSpan, Zoned};

use super::{SubmitError, duration};

/// Which one is meant where there is one every day, or every week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Toward {
    /// The next.
    Future,
    /// The last.
    Past,
}

/// Seconds since the epoch of `now`, `+FSD`, an epoch time, an ISO 8601 date or time, or words:
/// `HH:MM[:SS]`, `8am`, `noon`, `midnight`, with or without `today`, `tomorrow`, `yesterday`, a
/// day of the week or a date; `in 2 hours`, `5 minutes from now`, `1 day ago`.
///
/// A day without a time of the day begins at midnight; a time of the day, or a day of the week, is
/// the next one or the last.
///
/// # Errors
/// [`SubmitError::Datetime`].
pub(crate) fn epoch(text: &str, now: &Zoned, toward: Toward) -> Result<f64, SubmitError> {
    parse(text.trim(), now, toward).ok_or_else(|| SubmitError::Datetime(text.to_owned()))
}

fn parse(text: &str, now: &Zoned, toward: Toward) -> Option<f64> {
    if let Some(later) = text.strip_prefix('+') {
        let later = duration::seconds(later, 1.0).filter(|s| s.is_finite());
        return later.map(|seconds| float(now.timestamp()) + seconds);
    }
    if text.starts_with(|c: char| c.is_ascii_digit())
        && let Ok(epoch) = text.parse::<f64>()
    {
        return epoch.is_finite().then_some(epoch);
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(float(timestamp));
    }
    let zoned = match text.parse::<DateTime>() {
        Ok(time) => time.to_zoned(now.time_zone().clone()).ok()?,
        Err(_) => {
            let text = text.to_ascii_lowercase();
            let words: Vec<&str> = text.split_whitespace().collect();
            match words.as_slice() {
                ["now"] => now.clone(),
                ["in", amount @ ..] | [amount @ .., "from", "now"] => {
                    now.checked_add(span(amount)?).ok()?
                }
                [amount @ .., "ago"] => now.checked_sub(span(amount)?).ok()?,
                words => day_and_time(words, now, toward)?,
            }
        }
    };
    Some(float(zoned.timestamp()))
}

/// `2 hours 5 minutes`, `an hour`, or a duration (RFC 23).
fn span(words: &[&str]) -> Option<Span> {
    if let [text] = words {
        let seconds = duration::seconds(text, 1.0).filter(|s| s.is_finite())?;
        return Span::new().try_microseconds((seconds * 1e6) as i64).ok();
    }
    let mut span = Span::new();
    for pair in words.chunks(2) {
        let [count, unit] = pair else { return None };
        let count: i64 = if matches!(*count, "a" | "an") { 1 } else { count.parse().ok()? };
        span = match unit.trim_end_matches('s') {
            "second" | "sec" => span.try_seconds(count),
            "minute" | "min" => span.try_minutes(count),
            "hour" => span.try_hours(count),
            "day" => span.try_days(count),
            "week" => span.try_weeks(count),
            "month" => span.try_months(count),
            "year" => span.try_years(count),
            _ => return None,
        }
        .ok()?;
    }
    (!words.is_empty()).then_some(span)
}

/// A day, a time of the day, or both, in any order.
fn day_and_time(words: &[&str], now: &Zoned, toward: Toward) -> Option<Zoned> {
    let mut day: Option<(Date, Span)> = None;
    let mut time: Option<Time> = None;
    let mut rest = words;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let half = after.first().filter(|half| matches!(**half, "am" | "pm"));
        let joined = half.map(|half| format!("{first}{half}"));
        if let Some(found) = time_of_day(joined.as_deref().unwrap_or(first)) {
            if time.replace(found).is_some() {
                return None;
            }
            rest = if joined.is_some() { &after[1..] } else { after };
        } else if let Some(found) = day_of(first, now, toward) {
            if day.replace(found).is_some() {
                return None;
            }
        } else if *first != "at" || time.is_some() {
            return None;
        }
    }
    // The time, and how long until there is another one that is called the same.
    let (date, period) = match (day, time) {
        (Some(day), _) => day,
        (None, Some(_)) => (now.date(), 1.day()),
        (None, None) => return None,
    };
    let at = date.to_datetime(time.unwrap_or(Time::midnight()));
    let zoned = at.to_zoned(now.time_zone().clone()).ok()?;
    match toward {
        Toward::Future if zoned <= *now => zoned.checked_add(period).ok(),
        Toward::Past if zoned > *now => zoned.checked_sub(period).ok(),
        _ => Some(zoned),
    }
}

/// A day, and how long until there is another one of that name (a zero span for never).
fn day_of(word: &str, now: &Zoned, toward: Toward) -> Option<(Date, Span)> {
    let today = now.date();
    let once = |date: Option<Date>| date.map(|date| (date, Span::new()));
    match word {
        "today" => return once(Some(today)),
        "tomorrow" => return once(today.tomorrow().ok()),
        "yesterday" => return once(today.yesterday().ok()),
        _ => {}
    }
    if word.len() < 3 {
        return None;
    }
    if word.contains('-') {
        return once(word.parse().ok());
    }
    let names = [
        ("monday", Weekday::Monday),
        ("tuesday", Weekday::Tuesday),
        ("wednesday", Weekday::Wednesday),
        ("thursday", Weekday::Thursday),
        ("friday", Weekday::Friday),
        ("saturday", Weekday::Saturday),
        ("sunday", Weekday::Sunday),
    ];
    let (_, weekday) = names.into_iter().find(|(name, _)| name.starts_with(word))?;
    let days = match toward {
        Toward::Future => i64::from(today.weekday().until(weekday)),
        Toward::Past => -i64::from(today.weekday().since(weekday)),
    };
    Some((today.checked_add(days.days()).ok()?, 1.week()))
}

/// `13:30`, `13:30:05`, `8am`, `8:30pm`, or a word.
fn time_of_day(word: &str) -> Option<Time> {
    match word {
        "midnight" => return Some(Time::midnight()),
        "morning" => return Some(jiff::civil::time(6, 0, 0, 0)),
        "noon" => return Some(jiff::civil::time(12, 0, 0, 0)),
        "evening" => return Some(jiff::civil::time(18, 0, 0, 0)),
        _ => {}
    }
    let (clock, half) = match (word.strip_suffix("am"), word.strip_suffix("pm")) {
        (Some(clock), _) => (clock, Some(0)),
        (_, Some(clock)) => (clock, Some(12)),
        _ => (word, None),
    };
    let mut parts = clock.split(':');
    let mut number = || parts.next().map(|part| part.parse::<i8>().ok().filter(|n| *n >= 0));
    let (hour, minute, second) = (number()??, number(), number());
    // A number alone is no time of the day.
    if (half.is_none() && minute.is_none()) || parts.next().is_some() {
        return None;
    }
    let hour = match half {
        Some(half) => (1..=12).contains(&hour).then_some(hour % 12 + half)?,
        None => hour,
    };
    Time::new(hour, minute.unwrap_or(Some(0))?, second.unwrap_or(Some(0))?, 0).ok()
}

fn float(timestamp: Timestamp) -> f64 {
    timestamp.as_microsecond() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::Context;

    const MIDNIGHT: f64 = 1_795_219_200.0;

    /// The present is a Saturday, 2026-11-21, at midnight.
    fn at(text: &str, toward: Toward) -> Result<f64, SubmitError> {
        epoch(text, &Context::fixed().now, toward)
    }

    #[test]
    fn times_are_read_in_the_local_zone() {
        for (text, expected) in [
            ("now", MIDNIGHT),
            ("+1h", MIDNIGHT + 3600.0),
            ("+0.5s", MIDNIGHT + 0.5),
            ("1795219300.5", MIDNIGHT + 100.5),
            ("2026-11-21 01:00", MIDNIGHT + 3600.0),
            ("2026-11-21", MIDNIGHT),
            ("2026-11-21T01:00:05", MIDNIGHT + 3605.0),
            ("2026-11-21T01:00:00+01:00", MIDNIGHT),
            ("2026-11-21T00:00:01Z", MIDNIGHT + 1.0),
            ("2026-11-23 10:00", MIDNIGHT + 58.0 * 3600.0),
            ("2026-11-20 10:00", MIDNIGHT - 14.0 * 3600.0),
            ("2026-11-23 8am", MIDNIGHT + 56.0 * 3600.0),
        ] {
            assert_eq!(at(text, Toward::Future), Ok(expected), "{text}");
        }
        for text in ["foo", "", "+", "+inf", "2026-13-01", "nan", "25:00", "13pm", "in", "ago"] {
            assert_eq!(
                at(text, Toward::Future).expect_err("no time").to_string(),
                format!("Invalid datetime: \"{text}\"")
            );
        }
        for text in ["at", "1 2 3 ago", "2 moons ago", "today today", "8am 9am", "in 9e99 hours"] {
            assert!(at(text, Toward::Past).is_err(), "{text}");
        }
    }

    #[test]
    fn words_mean_the_next_time_or_the_last() {
        let hour = 3600.0;
        for (text, next, last) in [
            ("tomorrow", 24.0, 24.0),
            ("yesterday", -24.0, -24.0),
            ("13:30", 13.5, -10.5),
            ("00:00", 24.0, 0.0),
            ("noon", 12.0, -12.0),
            ("8am", 8.0, -16.0),
            ("8:30 PM", 20.5, -3.5),
            ("12am", 24.0, 0.0),
            ("tomorrow at 3pm", 39.0, 39.0),
            ("noon tomorrow", 36.0, 36.0),
            ("tomorrow morning", 30.0, 30.0),
            ("Monday", 48.0, -120.0),
            ("sat 8am", 8.0, -160.0),
            ("in 2 hours", 2.0, 2.0),
            ("in an hour", 1.0, 1.0),
            ("30 minutes from now", 0.5, 0.5),
            ("in 1.5h", 1.5, 1.5),
            ("1 day 2 hours ago", -26.0, -26.0),
            ("1 week ago", -168.0, -168.0),
        ] {
            assert_eq!(at(text, Toward::Future), Ok(MIDNIGHT + next * hour), "next {text}");
            assert_eq!(at(text, Toward::Past), Ok(MIDNIGHT + last * hour), "last {text}");
        }
    }
}
