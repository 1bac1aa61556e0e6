//! Counts of resources: a number, a range or a set of acceptable numbers (RFC 14, 22, 45).

use flux_id::{CountRange, Idset, Operator};
use serde_json::{Map, Value};

use super::error::JobspecError;
use super::task::positive;

/// How many of a resource are acceptable; all numbers are positive.
#[derive(Debug, Clone, PartialEq)]
pub enum Count {
    /// Exactly so many.
    Fixed(u64),
    /// A range, possibly stepped and possibly without end.
    Range(CountRange),
    /// Any number of a set.
    Set(Idset),
}

impl Count {
    /// Reads the value of a `count` key.
    ///
    /// # Errors
    /// What the value should have been, path relative to the key.
    pub fn from_value(value: &Value) -> Result<Self, JobspecError> {
        match value {
            Value::String(text) => Self::parse_set(text).ok_or_else(|| {
                JobspecError::expected("", "an idset or range of positive integers", value)
            }),
            Value::Object(map) => Self::from_object(map),
            _ => positive("", value).map(Self::Fixed).map_err(|_| {
                JobspecError::expected(
                    "",
                    "a positive integer, an idset or range string, or a range object",
                    value,
                )
            }),
        }
    }

    fn from_object(map: &Map<String, Value>) -> Result<Self, JobspecError> {
        for key in map.keys() {
            if !["min", "max", "operator", "operand"].contains(&key.as_str()) {
                return Err(JobspecError::at(key, "unknown key of a range"));
            }
        }
        let min = positive("min", super::required(map, "min")?)?;
        let max = map.get("max").map(|max| positive("max", max)).transpose()?;
        let (operator, operand) = match (map.get("operator"), map.get("operand")) {
            (None, None) => (Operator::Add, 1),
            (Some(operator), Some(operand)) => (
                operator_of(operator).ok_or_else(|| {
                    JobspecError::expected("operator", "one of '+', '*' and '^'", operator)
                })?,
                positive("operand", operand)?,
            ),
            (None, Some(_)) => {
                return Err(JobspecError::at("operator", "missing, operand is given"));
            }
            (Some(_), None) => {
                return Err(JobspecError::at("operand", "missing, operator is given"));
            }
        };
        CountRange::new(min, max, operand, operator)
            .map(Self::Range)
            .map_err(|e| JobspecError::at("", e.to_string()))
    }

    /// Reads a count as typed on a command line: a number, an RFC 45 range or an RFC 22 idset, the
    /// latter two optionally in brackets.
    ///
    /// # Errors
    /// Text that is none of these.
    pub fn parse(text: &str) -> Result<Self, JobspecError> {
        number(text).map(Self::Fixed).or_else(|| Self::parse_set(text)).ok_or_else(|| {
            JobspecError::at(
                "",
                format!("'{text}' is no positive integer, and no idset or range of such"),
            )
        })
    }

    fn parse_set(text: &str) -> Option<Self> {
        let inner = match (text.strip_prefix('['), text.strip_suffix(']')) {
            (Some(_), Some(_)) => text.get(1..text.len() - 1)?,
            (None, None) => text,
            _ => return None,
        };
        if let Ok(range) = inner.parse() {
            return Some(Self::Range(range));
        }
        let set: Idset = inner.parse().ok()?;
        set.first().filter(|first| *first > 0)?;
        Some(Self::Set(set))
    }

    /// The JSON form: a number, a range object or an idset string.
    pub fn to_value(&self) -> Value {
        match *self {
            Self::Fixed(n) => n.into(),
            Self::Set(ref set) => set.to_string().into(),
            Self::Range(range) => {
                let mut map = Map::new();
                map.insert("min".to_owned(), range.min().into());
                if let Some(max) = range.max() {
                    map.insert("max".to_owned(), max.into());
                }
                let step = (range.operator(), range.operand());
                if range.max().is_some() || step != (Operator::Add, 1) {
                    map.insert("operator".to_owned(), step.0.to_string().into());
                    map.insert("operand".to_owned(), step.1.into());
                }
                Value::Object(map)
            }
        }
    }

    /// The least acceptable number.
    pub fn min(&self) -> u64 {
        match *self {
            Self::Fixed(n) => n,
            Self::Range(range) => range.min(),
            Self::Set(ref set) => set.first().map_or(0, u64::from),
        }
    }

    /// The upper bound; `None` if there is none.
    pub fn max(&self) -> Option<u64> {
        match *self {
            Self::Fixed(n) => Some(n),
            Self::Range(range) => range.max(),
            Self::Set(ref set) => set.last().map(u64::from),
        }
    }

    /// True if `n` is acceptable.
    pub fn contains(&self, n: u64) -> bool {
        match *self {
            Self::Fixed(fixed) => fixed == n,
            Self::Range(range) => range.contains(n),
            Self::Set(ref set) => u32::try_from(n).is_ok_and(|n| set.contains(n)),
        }
    }

    /// True if every number from least to greatest is acceptable: neither stepped nor a set with
    /// gaps.
    pub fn is_simple(&self) -> bool {
        match *self {
            Self::Fixed(_) => true,
            Self::Range(range) => range.is_contiguous(),
            Self::Set(_) => false,
        }
    }

    /// The count for `factor` parents in all.
    ///
    /// # Errors
    /// Stepped ranges and sets cannot be multiplied.
    pub fn times(&self, factor: u64) -> Result<Self, JobspecError> {
        match *self {
            _ if factor == 1 => Ok(self.clone()),
            Self::Fixed(n) => Ok(Self::Fixed(n.saturating_mul(factor))),
            Self::Range(range) if range.is_contiguous() => CountRange::new(
                range.min().saturating_mul(factor),
                range.max().map(|max| max.saturating_mul(factor)),
                factor,
                Operator::Add,
            )
            .map(Self::Range)
            .map_err(|e| JobspecError::at("resources", e.to_string())),
            Self::Range(_) | Self::Set(_) => Err(JobspecError::at(
                "resources",
                "a stepped count below a multiplied resource is not supported",
            )),
        }
    }
}

impl From<u64> for Count {
    fn from(n: u64) -> Self {
        Self::Fixed(n)
    }
}

/// A positive decimal number without leading zero or sign.
fn number(text: &str) -> Option<u64> {
    let digits = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// The operator a JSON string of one character names.
fn operator_of(value: &Value) -> Option<Operator> {
    let mut chars = value.as_str()?.chars();
    let operator = Operator::from_char(chars.next()?)?;
    chars.next().is_none().then_some(operator)
}
