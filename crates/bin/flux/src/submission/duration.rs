//! Flux Standard Durations (RFC 23) on the command line.

use serde_json::Value;

/// Seconds of a duration such as `30s`, `1.5h` or `inf`; a bare number counts `unit` seconds.
pub(crate) fn seconds(text: &str, unit: f64) -> Option<f64> {
    let value = flux_id::fsd::parse(text).ok()?;
    let bare = text.ends_with(|c: char| c.is_ascii_digit() || c == '.');
    let value = if bare { value * unit } else { value };
    (!value.is_infinite() || !bare).then_some(value)
}

/// A number of seconds in JSON: an integer when it is whole.
pub(crate) fn json(seconds: f64) -> Value {
    if seconds.fract() == 0.0 && seconds.abs() < 9e15 {
        Value::from(seconds as i64)
    } else {
        Value::from(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_rfc_23_hold() {
        for (text, value) in [
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
            assert_eq!(seconds(text, 1.0), Some(value), "{text}");
        }
        for text in ["", "foo", "-1", "1x", "nan", "nans", "1e999", "1 s", "s"] {
            assert_eq!(seconds(text, 1.0), None, "{text}");
        }
        assert_eq!(seconds("2", 60.0), Some(120.0));
    }
}
