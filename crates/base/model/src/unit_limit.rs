//! Limits of a systemd unit (`exec.sdexec-properties`): which there are, and what they may hold.
//!
//! Names and values are those of `systemd.resource-control(5)`. Only limits that the manager of an
//! unprivileged user can put into effect are known here.

use std::fmt;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Bytes, a percentage of the node's memory, or `infinity`.
    Memory,
    /// A count, a percentage of what the system allows, or `infinity`.
    Count,
    /// 1 to 10000.
    Weight,
    /// A percentage of one cpu's time.
    Quota,
}

/// Name, how it is written, and the cgroup controller that it needs.
const LIMITS: [(&str, Kind, &str); 9] = [
    ("CPUQuota", Kind::Quota, "cpu"),
    ("CPUWeight", Kind::Weight, "cpu"),
    ("IOWeight", Kind::Weight, "io"),
    ("MemoryHigh", Kind::Memory, "memory"),
    ("MemoryLow", Kind::Memory, "memory"),
    ("MemoryMax", Kind::Memory, "memory"),
    ("MemoryMin", Kind::Memory, "memory"),
    ("MemorySwapMax", Kind::Memory, "memory"),
    ("TasksMax", Kind::Count, "pids"),
];

/// A value as systemd takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// A number of 64 bits.
    Number(u64),
    /// A part of the whole: this many of `u32::MAX`.
    Part(u32),
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitLimit {
    /// Name on D-Bus.
    pub property: String,
    /// Value.
    pub amount: Amount,
    /// The cgroup controller without which it has no effect.
    pub controller: &'static str,
}

/// Why a limit is refused: a sentence that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitError(String);

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LimitError {}

impl UnitLimit {
    /// Reads a limit as it is configured, such as `MemoryMax` and `80%`.
    ///
    /// # Errors
    /// An unknown name, or a value that is none for it.
    pub fn parse(name: &str, value: &str) -> Result<Self, LimitError> {
        let Some((_, kind, controller)) = LIMITS.iter().find(|(known, ..)| *known == name) else {
            let known: Vec<&str> = LIMITS.iter().map(|(known, ..)| *known).collect();
            let known = known.join(", ");
            return Err(LimitError(format!("{name}: not supported (supported are {known})")));
        };
        let wrong = || LimitError(format!("{name}: '{value}' is no value for it"));
        let value = value.trim();
        let part = value.strip_suffix('%').map(|text| {
            let percent = text.trim().parse::<f64>().ok();
            percent.filter(|percent| percent.is_finite() && *percent >= 0.0).ok_or_else(wrong)
        });
        let limit =
            |property: &str, amount| Self { property: property.to_string(), amount, controller };
        match (kind, part.transpose()?) {
            (Kind::Memory | Kind::Count, Some(percent)) if percent <= 100.0 => {
                let part = (percent / 100.0 * f64::from(u32::MAX)).round() as u32;
                Ok(limit(&format!("{name}Scale"), Amount::Part(part)))
            }
            (Kind::Quota, Some(percent)) if percent > 0.0 && percent <= 1e6 => {
                let spent = (percent * 1e4).round() as u64;
                Ok(limit("CPUQuotaPerSecUSec", Amount::Number(spent)))
            }
            (Kind::Memory | Kind::Count, None) if value == "infinity" => {
                Ok(limit(name, Amount::Number(u64::MAX)))
            }
            (Kind::Memory, None) => {
                bytes(value).map(|bytes| limit(name, Amount::Number(bytes))).ok_or_else(wrong)
            }
            (Kind::Count, None) => value
                .parse::<u64>()
                .ok()
                .filter(|count| *count > 0)
                .map(|count| limit(name, Amount::Number(count)))
                .ok_or_else(wrong),
            (Kind::Weight, None) => value
                .parse::<u64>()
                .ok()
                .filter(|weight| (1..=10_000).contains(weight))
                .map(|weight| limit(name, Amount::Number(weight)))
                .ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

/// Bytes, with K, M, G or T for powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let shift = match text.chars().last()? {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { text.get(..text.len() - 1)? };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(name: &str, value: &str) -> (String, Amount) {
        let limit = UnitLimit::parse(name, value).unwrap();
        (limit.property, limit.amount)
    }

    #[test]
    fn values_are_read_as_systemd_writes_them() {
        assert_eq!(amount("MemoryMax", "2G"), ("MemoryMax".into(), Amount::Number(2 << 30)));
        assert_eq!(amount("MemoryMax", "100%"), ("MemoryMaxScale".into(), Amount::Part(u32::MAX)));
        assert_eq!(amount("MemoryHigh", "infinity").1, Amount::Number(u64::MAX));
        assert_eq!(
            amount("CPUQuota", "150%"),
            ("CPUQuotaPerSecUSec".into(), Amount::Number(1_500_000))
        );
        assert_eq!(amount("TasksMax", "512").1, Amount::Number(512));
        assert_eq!(amount("CPUWeight", "100").1, Amount::Number(100));
        assert_eq!(UnitLimit::parse("IOWeight", "7").unwrap().controller, "io");
    }

    #[test]
    fn what_would_have_no_effect_is_refused() {
        for (name, value) in [
            ("DevicePolicy", "closed"),
            ("MemoryMax", ""),
            ("MemoryMax", "-1"),
            ("MemoryMax", "101%"),
            ("MemoryMax", "1X"),
            ("MemoryMax", "99999999999999T"),
            ("MemoryMax", "ƒ"),
            ("CPUQuota", "2"),
            ("CPUQuota", "NaN%"),
            ("CPUWeight", "0"),
            ("TasksMax", "many"),
        ] {
            let error = UnitLimit::parse(name, value).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
