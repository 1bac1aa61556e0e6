//! Flux Standard Duration, RFC 23: `N[SUFFIX]` with a suffix of `ms s m h d`.
//!
//! The value is seconds as `f64`; a number without suffix is seconds, and `inf` or `infinity` (in
//! any case, without suffix) is unlimited. A bare number meaning minutes, as `--time-limit` has
//! it, is the caller's business.
//!
//! Three formatters print one unit each: [`format()`] with the six significant digits of C's `%g`
//! (`41.8603s`), [`format_digits`] with a chosen number, and [`format_short`] for the texts of
//! policy limits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a string is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FsdError {
    /// Not of the form `N[SUFFIX]`.
    #[error("invalid Flux standard duration")]
    Invalid,
    /// Below zero.
    #[error("invalid Flux standard duration: negative")]
    Negative,
    /// Not representable as a finite number of seconds.
    #[error("invalid Flux standard duration: out of range")]
    Range,
}

/// A duration in seconds, never negative or NaN, perhaps infinite; a string on the wire.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Fsd(f64);

impl Fsd {
    /// No limit.
    pub const INFINITY: Self = Self(f64::INFINITY);
    /// No time at all; many limits read it as unlimited.
    pub const ZERO: Self = Self(0.0);

    /// The duration of so many seconds; none for negative numbers and NaN.
    pub fn from_secs(secs: f64) -> Option<Self> {
        // The sum turns -0.0 into 0.0.
        (secs >= 0.0).then_some(Self(secs + 0.0))
    }

    /// Seconds.
    pub fn secs(self) -> f64 {
        self.0
    }

    /// Whether it is without limit.
    pub fn is_infinite(self) -> bool {
        self.0.is_infinite()
    }
}

impl FromStr for Fsd {
    type Err = FsdError;

    fn from_str(s: &str) -> Result<Self, FsdError> {
        parse(s).map(Self)
    }
}

impl fmt::Display for Fsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format(self.0))
    }
}

impl Serialize for Fsd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fsd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Seconds of a Flux Standard Duration: at least 0, perhaps infinite, never NaN.
pub fn parse(s: &str) -> Result<f64, FsdError> {
    let (negative, rest) = match s.as_bytes().first() {
        Some(b'-') => (true, &s[1..]),
        Some(b'+') => (false, &s[1..]),
        _ => (false, s),
    };
    if rest.eq_ignore_ascii_case("inf") || rest.eq_ignore_ascii_case("infinity") {
        return if negative { Err(FsdError::Negative) } else { Ok(f64::INFINITY) };
    }
    let (number, suffix) = split_number(rest).ok_or(FsdError::Invalid)?;
    let value = match number {
        Number::Decimal(text) => text.parse::<f64>().map_err(|_| FsdError::Invalid)?,
        Number::Hex { mantissa, exponent } => mantissa * 2f64.powi(exponent),
    };
    let secs = match suffix {
        "" | "s" => value,
        "ms" => value / 1e3,
        "m" => value * 60.0,
        "h" => value * 3600.0,
        "d" => value * 86400.0,
        _ => return Err(FsdError::Invalid),
    };
    match secs {
        secs if !secs.is_finite() => Err(FsdError::Range),
        secs if negative && secs > 0.0 => Err(FsdError::Negative),
        secs => Ok(secs),
    }
}

/// The longest numeric prefix of a duration, in one of the two forms C knows.
enum Number<'a> {
    Decimal(&'a str),
    Hex { mantissa: f64, exponent: i32 },
}

/// The number at the head of `s` and what follows it.
fn split_number(s: &str) -> Option<(Number<'_>, &str)> {
    if let Some(hex) = s.strip_prefix("0x").or_else(|| s.strip_prefix("0X"))
        && let Some(found) = split_hex(hex)
    {
        return Some(found);
    }
    let bytes = s.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let whole = digits(0);
    let mut end = whole;
    let mut fraction = 0;
    if bytes.get(end) == Some(&b'.') {
        fraction = digits(end + 1);
        end += 1 + fraction;
    }
    if whole + fraction == 0 {
        return None;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        // An `e` without digits is no exponent but the start of a (wrong) suffix.
        if bytes.len() > end + 1 + sign {
            let exponent = digits(end + 1 + sign);
            if exponent > 0 {
                end += 1 + sign + exponent;
            }
        }
    }
    Some((Number::Decimal(&s[..end]), &s[end..]))
}

/// A C99 hexadecimal number after its `0x`.
fn split_hex(s: &str) -> Option<(Number<'_>, &str)> {
    let bytes = s.as_bytes();
    let (mut mantissa, mut exponent, mut at, mut seen, mut point) = (0f64, 0i32, 0, false, false);
    while let Some(&byte) = bytes.get(at) {
        if let Some(digit) = char::from(byte).to_digit(16) {
            mantissa = mantissa * 16.0 + f64::from(digit);
            exponent = exponent.saturating_sub(4 * i32::from(point));
            seen = true;
        } else if byte == b'.' && !point {
            point = true;
        } else {
            break;
        }
        at += 1;
    }
    if !seen {
        return None;
    }
    if matches!(bytes.get(at), Some(b'p' | b'P')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let tail = bytes.get(at + 1 + sign..).unwrap_or_default();
        let count = tail.iter().take_while(|b| b.is_ascii_digit()).count();
        if count > 0 {
            let end = at + 1 + sign + count;
            let size = s[at + 1 + sign..end].parse::<i32>().unwrap_or(i32::MAX / 2);
            let negative = bytes[at + 1] == b'-';
            exponent = exponent.saturating_add(if negative { -size } else { size });
            at = end;
        }
    }
    Some((Number::Hex { mantissa, exponent }, &s[at..]))
}

/// One unit and six significant digits, as C's `%g` prints: `0.032s`, `41.8603s`, `1.6m`, `0s`,
/// `inf`. Negative numbers and NaN print as `0s`.
pub fn format(secs: f64) -> String {
    format_digits(secs, 6)
}

/// One unit and at most so many significant digits (1 to 17), e.g. `1.2s` with two.
pub fn format_digits(secs: f64, digits: usize) -> String {
    match split_unit(secs) {
        Some((value, unit)) => {
            let mut text = significant(value, digits.clamp(1, 17));
            text.push_str(unit);
            text
        }
        None => "inf".to_owned(),
    }
}

/// One unit and at most two decimals (two significant digits below 1): the form of policy limit
/// texts, `1.25h`, `30m`, `0.0032s`.
pub fn format_short(secs: f64) -> String {
    match split_unit(secs) {
        Some((value, unit)) if value >= 1.0 => {
            let mut text = trim_zeros(format!("{value:.2}"));
            text.push_str(unit);
            text
        }
        _ => format_digits(secs, 2),
    }
}

/// The number and its unit: the largest unit the duration reaches; none when infinite.
fn split_unit(secs: f64) -> Option<(f64, &'static str)> {
    Some(match secs {
        secs if secs.is_infinite() && secs > 0.0 => return None,
        secs if secs >= 86400.0 => (secs / 86400.0, "d"),
        secs if secs >= 3600.0 => (secs / 3600.0, "h"),
        secs if secs >= 60.0 => (secs / 60.0, "m"),
        secs if secs > 0.0 => (secs, "s"),
        _ => (0.0, "s"),
    })
}

/// C's `%.Ng` of a number that is zero or positive.
fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    // The exponent after rounding decides the form, so round first.
    let scientific = format!("{value:.*e}", digits - 1);
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let last = i32::try_from(digits).unwrap_or(i32::MAX) - 1;
    if exponent < -4 || exponent > last {
        let sign = if exponent < 0 { '-' } else { '+' };
        let mantissa = trim_zeros(mantissa.to_owned());
        return format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs());
    }
    let decimals = usize::try_from(last - exponent).unwrap_or(0);
    trim_zeros(format!("{value:.decimals$}"))
}

/// Drops the zeros after the decimal point, and the point when nothing is left behind it.
fn trim_zeros(mut text: String) -> String {
    if text.contains('.') {
        let kept = text.trim_end_matches('0').trim_end_matches('.').len();
        text.truncate(kept);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn vectors_of_the_rfc_parse() {
        for (text, secs) in [
            ("2ms", 0.002),
            ("0.1s", 0.1),
            ("30", 30.0),
            ("1.2h", 4320.0),
            ("5m", 300.0),
            ("0s", 0.0),
            ("5d", 432_000.0),
            ("inf", f64::INFINITY),
            ("INF", f64::INFINITY),
            ("infinity", f64::INFINITY),
        ] {
            assert_eq!(parse(text), Ok(secs), "{text}");
        }
    }

    #[test]
    fn every_number_of_c_parses() {
        for (text, secs) in [
            ("1e3", 1000.0),
            ("1e3ms", 1.0),
            ("1E-1m", 6.0),
            (".5h", 1800.0),
            ("5.", 5.0),
            ("+5s", 5.0),
            ("-0", 0.0),
            ("0x10", 16.0),
            ("0x1d", 29.0),
            ("0x1.8p1s", 3.0),
            ("0x1p-1m", 30.0),
            ("1e3d", 86_400_000.0),
        ] {
            assert_eq!(parse(text), Ok(secs), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "", "s", ".", "foo", "5x", "5S", "5 s", " 5s", "5s ", "1h30m", "nan", "infs", "inf s",
            "1em", "1e", "1e+", "0x", "0xp1", "--1", "+-1", "5e5e5", "ƒ", "5ƒ", "1_0", "e5",
        ] {
            assert_eq!(parse(text), Err(FsdError::Invalid), "{text}");
        }
        assert_eq!(parse("-1"), Err(FsdError::Negative));
        assert_eq!(parse("-inf"), Err(FsdError::Negative));
        assert_eq!(parse("1e999"), Err(FsdError::Range));
        assert_eq!(parse("1e308d"), Err(FsdError::Range));
        assert_eq!(parse("0x1p99999999999"), Err(FsdError::Range));
    }

    #[test]
    fn one_unit_is_printed_with_six_digits() {
        for (secs, text) in [
            (0.0, "0s"),
            (0.032, "0.032s"),
            (41.8603, "41.8603s"),
            (41.860_312, "41.8603s"),
            (96.0, "1.6m"),
            (59.0, "59s"),
            (60.0, "1m"),
            (5400.0, "1.5h"),
            (86400.0, "1d"),
            (90.0 * 86400.0, "90d"),
            (0.000_05, "5e-05s"),
            (1e12 * 86400.0, "1e+12d"),
            (59.999_999_9, "60s"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "0s"),
            (-1.0, "0s"),
        ] {
            assert_eq!(format(secs), text);
        }
        assert_eq!(format_digits(1.234, 2), "1.2s");
        assert_eq!(format_digits(0.8765, 2), "0.88s");
    }

    #[test]
    fn limit_texts_have_two_decimals() {
        for (secs, text) in [
            (0.0, "0s"),
            (30.0, "30s"),
            (4500.0, "1.25h"),
            (100.0 * 86400.0, "100d"),
            (100.0, "1.67m"),
            (0.123_456, "0.12s"),
            (0.003_21, "0.0032s"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(format_short(secs), text);
        }
    }

    #[test]
    fn json_is_a_string() {
        let fsd: Fsd = serde_json::from_str("\"1.5h\"").unwrap();
        assert_eq!(fsd.secs(), 5400.0);
        assert_eq!(serde_json::to_string(&fsd).unwrap(), "\"1.5h\"");
        assert!(serde_json::from_str::<Fsd>("\"x\"").is_err());
        assert_eq!(Fsd::from_secs(f64::NAN), None);
        assert_eq!(Fsd::from_secs(-1.0), None);
    }

    proptest! {
        #[test]
        fn printing_keeps_six_digits(secs in 0.0f64..1e9) {
            let again = parse(&format(secs)).unwrap();
            prop_assert!((again - secs).abs() <= secs * 1e-5);
            prop_assert!(parse(&format_short(secs)).is_ok());
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            if let Ok(secs) = parse(&text) {
                prop_assert!(secs >= 0.0);
            }
        }

        #[test]
        fn almost_durations_do_not_panic(text in "[-+]?(0x)?[0-9a-f]{0,3}[.]?[0-9]{0,3}[ep]?[-+]?[0-9]{0,12}[msh]{0,2}") {
            if let Ok(secs) = parse(&text) {
                prop_assert!(secs >= 0.0);
                prop_assert!(parse(&format(secs)).is_ok() || secs > 1e300);
            }
        }
    }
}
