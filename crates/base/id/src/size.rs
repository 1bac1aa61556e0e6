//! Sizes in bytes as the configuration writes them: a number, and perhaps one of the suffixes
//! `k`, `M`, `G` and `T` (powers of 1024, in either case).

/// Reads a size in bytes; `None` when it is none, or is greater than 2^62.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        b't' | b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number = digits.parse::<f64>().ok().filter(|_| plain)?;
    let bytes = number * (1u64 << shift) as f64;
    (bytes <= (1u64 << 62) as f64).then_some(bytes as u64)
}

/// A size for people, in the largest unit that leaves no rest.
#[must_use]
pub fn format(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "k")];
    let unit = units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    match unit {
        Some((shift, name)) => format!("{}{name}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{format, parse};

    #[test]
    fn suffixes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("1k", 1024),
            ("1.5M", 1_572_864),
            (" 2G ", 2 << 30),
            ("1t", 1 << 40),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for text in ["", "k", "-1", "1e9", "inf", "nan", "1 M", "9999999999T", "é", "1.2.3"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for bytes in [0, 1, 1023, 1024, 10 << 20, 2 << 30, 1 << 40, 1_500_000] {
            assert_eq!(parse(&format(bytes)), Some(bytes));
        }
        assert_eq!(format(10 << 20), "10M");
    }
}
