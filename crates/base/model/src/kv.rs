//! The key-value encoding of Flux security (RFC 38): `key NUL type value NUL`, repeated.
//!
//! It is used where privileged code reads what unprivileged code wrote, so decoding accepts exactly
//! one spelling of every value and no key twice.

use std::fmt::Write as _;

/// Most bytes an encoded object may have.
pub const MAX_SIZE: usize = 64 * 1024;

/// Why bytes are no encoded object, or a value is not as expected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum KvError {
    /// The encoding would exceed, or exceeds, [`MAX_SIZE`].
    #[error("key-value object is larger than {MAX_SIZE} bytes")]
    TooLarge,
    /// The bytes do not end where a pair ends.
    #[error("key-value object is truncated")]
    Truncated,
    /// A key or value is not UTF-8.
    #[error("key-value object is not utf-8")]
    NotUtf8,
    /// A key has no characters.
    #[error("key-value object has an empty key")]
    EmptyKey,
    /// A key or string holds a NUL character.
    #[error("key '{0}' or its value holds a nul character")]
    Nul(String),
    /// A key occurs twice.
    #[error("key '{0}' occurs twice")]
    Duplicate(String),
    /// The type letter is unknown or the value is not spelled as its type demands.
    #[error("key '{0}' has an invalid value")]
    BadValue(String),
    /// The key is absent.
    #[error("key '{0}' is missing")]
    Missing(&'static str),
    /// The key has another type; nothing is converted.
    #[error("key '{0}' has the wrong type")]
    WrongType(&'static str),
}

/// A typed value.
#[derive(Debug, Clone, PartialEq)]
pub enum KvValue {
    /// Type `s`.
    Str(String),
    /// Type `i`.
    Int(i64),
    /// Type `d`, written with six decimals (so small numbers lose precision).
    Double(f64),
    /// Type `b`.
    Bool(bool),
    /// Type `t`: whole seconds since the Unix epoch, years 0000 to 9999 UTC.
    Timestamp(i64),
}

/// Pairs in the order they were added or read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kv {
    pairs: Vec<(String, KvValue)>,
}

impl Kv {
    /// No pairs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pair, or replaces the value of a key in its place.
    pub fn put(&mut self, key: &str, value: KvValue) {
        match self.pairs.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.pairs.push((key.to_owned(), value)),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&KvValue> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The string of a required key.
    ///
    /// # Errors
    /// [`KvError::Missing`] or [`KvError::WrongType`].
    pub fn get_str(&self, key: &'static str) -> Result<&str, KvError> {
        match self.get(key).ok_or(KvError::Missing(key))? {
            KvValue::Str(text) => Ok(text),
            _ => Err(KvError::WrongType(key)),
        }
    }

    /// The integer of a required key.
    ///
    /// # Errors
    /// [`KvError::Missing`] or [`KvError::WrongType`].
    pub fn get_int(&self, key: &'static str) -> Result<i64, KvError> {
        match self.get(key).ok_or(KvError::Missing(key))? {
            KvValue::Int(number) => Ok(*number),
            _ => Err(KvError::WrongType(key)),
        }
    }

    /// The pairs in order.
    pub fn pairs(&self) -> impl ExactSizeIterator<Item = (&str, &KvValue)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The encoded bytes.
    ///
    /// # Errors
    /// When a key is empty, a key or string holds NUL, a timestamp is outside its range, or the
    /// result is too large.
    pub fn encode(&self) -> Result<Vec<u8>, KvError> {
        let mut text = String::new();
        for (key, value) in &self.pairs {
            if key.is_empty() {
                return Err(KvError::EmptyKey);
            }
            let string = if let KvValue::Str(string) = value { string } else { "" };
            if key.contains('\0') || string.contains('\0') {
                return Err(KvError::Nul(key.replace('\0', "?")));
            }
            text.push_str(key);
            text.push('\0');
            if !write_value(&mut text, value) {
                return Err(KvError::BadValue(key.clone()));
            }
            text.push('\0');
            if text.len() > MAX_SIZE {
                return Err(KvError::TooLarge);
            }
        }
        Ok(text.into_bytes())
    }

    /// Reads encoded bytes.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, KvError> {
        if bytes.len() > MAX_SIZE {
            return Err(KvError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| KvError::NotUtf8)?;
        let mut seen = std::collections::BTreeSet::new();
        let mut pairs = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (key, tail) = rest.split_once('\0').ok_or(KvError::Truncated)?;
            let (value, tail) = tail.split_once('\0').ok_or(KvError::Truncated)?;
            rest = tail;
            if key.is_empty() {
                return Err(KvError::EmptyKey);
            }
            if !seen.insert(key) {
                return Err(KvError::Duplicate(key.to_owned()));
            }
            let value = read_value(value).ok_or_else(|| KvError::BadValue(key.to_owned()))?;
            pairs.push((key.to_owned(), value));
        }
        Ok(Kv { pairs })
    }
}

/// Writes type letter and value; false when the value has no encoding.
fn write_value(text: &mut String, value: &KvValue) -> bool {
    let written = match value {
        KvValue::Str(string) => write!(text, "s{string}"),
        KvValue::Int(number) => write!(text, "i{number}"),
        KvValue::Double(number) if number.is_nan() => write!(text, "dnan"),
        KvValue::Double(number) => write!(text, "d{number:.6}"),
        KvValue::Bool(truth) => write!(text, "b{truth}"),
        KvValue::Timestamp(seconds) => match format_timestamp(*seconds) {
            Some(stamp) => write!(text, "t{stamp}"),
            None => return false,
        },
    };
    written.is_ok()
}

fn read_value(encoded: &str) -> Option<KvValue> {
    let kind = encoded.chars().next()?;
    let text = &encoded[kind.len_utf8()..];
    let value = match kind {
        's' => return Some(KvValue::Str(text.to_owned())),
        'i' => KvValue::Int(text.parse().ok()?),
        'd' => match text {
            "nan" | "-nan" => return Some(KvValue::Double(f64::NAN)),
            _ => KvValue::Double(text.parse().ok()?),
        },
        'b' => KvValue::Bool(text.parse().ok()?),
        't' => KvValue::Timestamp(parse_timestamp(text)?),
        _ => return None,
    };
    // Only the one spelling that encoding produces is accepted: no sign, zero or blank to spare.
    let mut canonical = String::with_capacity(encoded.len());
    (write_value(&mut canonical, &value) && canonical == encoded).then_some(value)
}

const DAY: i64 = 86_400;
/// Seconds from 0000-01-01 to 1970-01-01, and to 10000-01-01, both relative to the epoch.
const FIRST_SECOND: i64 = -719_528 * DAY;
const LAST_SECOND: i64 = 2_932_897 * DAY - 1;

/// `YYYY-MM-DDTHH:MM:SSZ`, or nothing outside the years 0000 to 9999.
fn format_timestamp(seconds: i64) -> Option<String> {
    if !(FIRST_SECOND..=LAST_SECOND).contains(&seconds) {
        return None;
    }
    // Civil date from day number, with years that begin in March so that leap days come last.
    let day = seconds.div_euclid(DAY) + 719_468;
    let era = day.div_euclid(146_097);
    let day_of_era = day.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let time = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    Some(format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

fn parse_timestamp(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 20 || !text.is_ascii() {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u32>().ok().map(i64::from);
    let (year, month, date) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // Impossible dates come out as another day; the caller compares with the canonical spelling.
    if !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + date - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let day = era * 146_097 + day_of_era - 719_468;
    Some(day * DAY + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DBL_MAX: &str = "179769313486231570814527423731704356798070567525844996598917476803157260780028538760589558632766878171540458953514382464234321326889464182768467546703537516986049910576551282076245490090389328944075868508455133942304583236903222948165808559332123348274797826204144723168738177180919299881250404026184124858368.000000";

    fn encode(key: &str, value: KvValue) -> Vec<u8> {
        let mut kv = Kv::new();
        kv.put(key, value);
        kv.encode().unwrap()
    }

    #[test]
    fn the_vectors_of_the_rfc_hold_both_ways() {
        let string = |text: &str| KvValue::Str(text.to_owned());
        for (key, value, encoding) in [
            ("PATH", string("/bin:/usr/bin"), "PATH\0s/bin:/usr/bin\0".to_owned()),
            ("EMPTY_STRING", string(""), "EMPTY_STRING\0s\0".to_owned()),
            ("JOB_ID_STRING", string("ƒuzzybunny"), "JOB_ID_STRING\0sƒuzzybunny\0".to_owned()),
            ("INT_PLUS", KvValue::Int(42), "INT_PLUS\0i42\0".to_owned()),
            ("INT_MINUS", KvValue::Int(-42), "INT_MINUS\0i-42\0".to_owned()),
            ("INT64_MAX", KvValue::Int(i64::MAX), "INT64_MAX\0i9223372036854775807\0".to_owned()),
            ("INT64_MIN", KvValue::Int(i64::MIN), "INT64_MIN\0i-9223372036854775808\0".to_owned()),
            ("DOUBLE", KvValue::Double(3.0), "DOUBLE\0d3.000000\0".to_owned()),
            ("DOUBLE_INF", KvValue::Double(f64::INFINITY), "DOUBLE_INF\0dinf\0".to_owned()),
            ("DBL_MAX", KvValue::Double(f64::MAX), format!("DBL_MAX\0d{DBL_MAX}\0")),
            ("MINUS_DBL_MAX", KvValue::Double(f64::MIN), format!("MINUS_DBL_MAX\0d-{DBL_MAX}\0")),
            ("FALSE", KvValue::Bool(false), "FALSE\0bfalse\0".to_owned()),
            ("TRUE", KvValue::Bool(true), "TRUE\0btrue\0".to_owned()),
            (
                "TIMESTAMP",
                KvValue::Timestamp(1_692_370_785),
                "TIMESTAMP\0t2023-08-18T14:59:45Z\0".to_owned(),
            ),
        ] {
            assert_eq!(encode(key, value.clone()), encoding.as_bytes(), "{key}");
            assert_eq!(Kv::decode(encoding.as_bytes()).unwrap().get(key), Some(&value), "{key}");
        }
        // This one loses its value, as the RFC shows.
        assert_eq!(encode("DBL_MIN", KvValue::Double(f64::MIN_POSITIVE)), b"DBL_MIN\0d0.000000\0");
    }

    #[test]
    fn other_spellings_are_refused() {
        for bad in [
            "k",
            "k\0",
            "k\0s",
            "\0s\0",
            "k\0\0",
            "k\0x1\0",
            "k\0i\0",
            "k\0i+1\0",
            "k\0i01\0",
            "k\0i-0\0",
            "k\0i 1\0",
            "k\0i9223372036854775808\0",
            "k\0d1\0",
            "k\0d1.0\0",
            "k\0bTRUE\0",
            "k\0b1\0",
            "k\0t2023-02-30T00:00:00Z\0",
            "k\0t2023-01-01\0",
            "k\0t2023-01-01T24:00:00Z\0",
            "k\0s1\0k\0s2\0",
            "k\0ƒ\0",
        ] {
            assert!(Kv::decode(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(Kv::decode(b"k\0s\xff\0"), Err(KvError::NotUtf8));
        assert_eq!(Kv::decode(&[0; MAX_SIZE + 1]), Err(KvError::TooLarge));
    }

    #[test]
    fn encoding_refuses_what_cannot_be_decoded() {
        let refused = |key: &str, value: KvValue| {
            let mut kv = Kv::new();
            kv.put(key, value);
            kv.encode().unwrap_err()
        };
        assert_eq!(refused("", KvValue::Int(1)), KvError::EmptyKey);
        assert!(matches!(refused("a\0", KvValue::Int(1)), KvError::Nul(_)));
        assert!(matches!(refused("a", KvValue::Str("\0".into())), KvError::Nul(_)));
        assert!(matches!(refused("a", KvValue::Timestamp(i64::MAX)), KvError::BadValue(_)));
        assert_eq!(refused("a", KvValue::Str("x".repeat(MAX_SIZE))), KvError::TooLarge);
    }

    #[test]
    fn the_typed_getters_convert_nothing() {
        let kv = Kv::decode(b"a\0i1\0b\0sx\0").unwrap();
        assert_eq!(kv.get_int("a"), Ok(1));
        assert_eq!(kv.get_str("b"), Ok("x"));
        assert_eq!(kv.get_str("a"), Err(KvError::WrongType("a")));
        assert_eq!(kv.get_int("c"), Err(KvError::Missing("c")));
    }

    proptest! {
        #[test]
        fn objects_round_trip(
            text in "[^\0]*", int: i64, truth: bool, seconds in FIRST_SECOND..=LAST_SECOND,
            thousandths in -1_000_000_000_000_i64..1_000_000_000_000,
        ) {
            let mut kv = Kv::new();
            kv.put("s", KvValue::Str(text));
            kv.put("i", KvValue::Int(int));
            kv.put("b", KvValue::Bool(truth));
            kv.put("t", KvValue::Timestamp(seconds));
            kv.put("d", KvValue::Double(thousandths as f64 / 8.0));
            prop_assert_eq!(Kv::decode(&kv.encode().unwrap()).unwrap(), kv);
        }

        #[test]
        fn decoding_never_panics(bytes: Vec<u8>, text in "[a\0sidbt0-9:TZ.-]{0,40}") {
            drop(Kv::decode(&bytes));
            if let Ok(kv) = Kv::decode(text.as_bytes()) {
                prop_assert_eq!(kv.encode().unwrap(), text.as_bytes());
            }
        }
    }
}
