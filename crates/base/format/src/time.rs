//! Times: the broken-down local time a caller provides, and strftime on it.

/// A moment in some time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTime {
    /// Year, such as 2026.
    pub year: i64,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, 1 to 31.
    pub day: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute, 0 to 59.
    pub minute: u8,
    /// Second, 0 to 60.
    pub second: u8,
    /// Microsecond, 0 to 999,999.
    pub microsecond: u32,
    /// Day of the week, 0 (Sunday) to 6.
    pub weekday: u8,
    /// Day of the year, 1 to 366.
    pub yearday: u16,
    /// Seconds east of UTC.
    pub offset: i32,
    /// Abbreviation of the zone, such as `UTC` or `CEST`.
    pub zone: String,
}

/// Where local times come from; this crate knows no zone but [`Utc`].
pub trait TimeZone {
    /// The local time at `seconds` since the epoch; `None` when it is out of range.
    fn local(&self, seconds: f64) -> Option<LocalTime>;
}

/// Coordinated Universal Time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Utc;

impl TimeZone for Utc {
    fn local(&self, seconds: f64) -> Option<LocalTime> {
        LocalTime::at_offset(seconds, 0, "UTC")
    }
}

impl LocalTime {
    /// The local time in a zone with a fixed offset (seconds east of UTC); `None` for a time
    /// that is not finite or beyond the year 9999.
    pub fn at_offset(seconds: f64, offset: i32, zone: &str) -> Option<LocalTime> {
        if !(-62_135_596_800.0..253_402_300_800.0).contains(&seconds) {
            return None;
        }
        let micros = (seconds * 1e6).floor() as i64 + i64::from(offset) * 1_000_000;
        let whole = micros.div_euclid(1_000_000);
        let days = whole.div_euclid(86400);
        let rest = whole.rem_euclid(86400);
        let (year, month, day) = civil(days);
        let yearday = days - days_from_civil(year, 1, 1) + 1;
        let small = |v: i64| u8::try_from(v).unwrap_or(0);
        Some(LocalTime {
            year,
            month: small(month),
            day: small(day),
            hour: small(rest / 3600),
            minute: small(rest % 3600 / 60),
            second: small(rest % 60),
            microsecond: u32::try_from(micros.rem_euclid(1_000_000)).unwrap_or(0),
            weekday: small((days + 4).rem_euclid(7)),
            yearday: u16::try_from(yearday).unwrap_or(1),
            offset,
            zone: zone.to_owned(),
        })
    }
}

/// Days since 1970-01-01 to a Gregorian date (years counted from March, eras of 400 years).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Prints a time by a strftime format (C locale). `seconds` is the same moment since the epoch,
/// for `%s`. A directive that is not known stays as written.
pub fn strftime(format: &str, t: &LocalTime, seconds: f64) -> String {
    use std::fmt::Write as _;
    let month = MONTHS[usize::from(t.month.clamp(1, 12) - 1)];
    let day = DAYS[usize::from(t.weekday % 7)];
    let hour12 = if t.hour.is_multiple_of(12) { 12 } else { t.hour % 12 };
    let mut out = String::with_capacity(format.len() * 2);
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let written = match chars.next() {
            None => write!(out, "%"),
            Some(directive) => match directive {
                'Y' => write!(out, "{}", t.year),
                'C' => write!(out, "{:02}", t.year / 100),
                'y' => write!(out, "{:02}", t.year.rem_euclid(100)),
                'm' => write!(out, "{:02}", t.month),
                'd' => write!(out, "{:02}", t.day),
                'e' => write!(out, "{:2}", t.day),
                'H' => write!(out, "{:02}", t.hour),
                'k' => write!(out, "{:2}", t.hour),
                'I' => write!(out, "{hour12:02}"),
                'l' => write!(out, "{hour12:2}"),
                'M' => write!(out, "{:02}", t.minute),
                'S' => write!(out, "{:02}", t.second),
                'f' => write!(out, "{:06}", t.microsecond),
                'p' => write!(out, "{}", if t.hour < 12 { "AM" } else { "PM" }),
                'P' => write!(out, "{}", if t.hour < 12 { "am" } else { "pm" }),
                'j' => write!(out, "{:03}", t.yearday),
                'u' => write!(out, "{}", if t.weekday == 0 { 7 } else { t.weekday }),
                'w' => write!(out, "{}", t.weekday),
                'b' | 'h' => write!(out, "{}", &month[..3]),
                'B' => write!(out, "{month}"),
                'a' => write!(out, "{}", &day[..3]),
                'A' => write!(out, "{day}"),
                's' => write!(out, "{:.0}", seconds.floor()),
                'n' => writeln!(out),
                't' => write!(out, "\t"),
                '%' => write!(out, "%"),
                'Z' => write!(out, "{}", t.zone),
                'z' => {
                    let minutes = t.offset.unsigned_abs() / 60;
                    let sign = if t.offset < 0 { '-' } else { '+' };
                    write!(out, "{sign}{:02}{:02}", minutes / 60, minutes % 60)
                }
                'R' => write!(out, "{:02}:{:02}", t.hour, t.minute),
                'T' | 'X' => write!(out, "{:02}:{:02}:{:02}", t.hour, t.minute, t.second),
                'F' => write!(out, "{}-{:02}-{:02}", t.year, t.month, t.day),
                'D' | 'x' => {
                    let year = t.year.rem_euclid(100);
                    write!(out, "{:02}/{:02}/{year:02}", t.month, t.day)
                }
                'r' => {
                    let half = if t.hour < 12 { "AM" } else { "PM" };
                    write!(out, "{hour12:02}:{:02}:{:02} {half}", t.minute, t.second)
                }
                'c' => write!(
                    out,
                    "{} {} {:2} {:02}:{:02}:{:02} {}",
                    &day[..3],
                    &month[..3],
                    t.day,
                    t.hour,
                    t.minute,
                    t.second,
                    t.year
                ),
                other => write!(out, "%{other}"),
            },
        };
        written.expect("writing to a string never fails");
    }
    out
}
