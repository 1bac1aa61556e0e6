//! Ranges of resource counts, RFC 45: `min-max:operand:operator` and `min+:operand:operator`.
//!
//! The counts a range accepts are `min` and what the operator makes of it again and again, up to
//! `max`: `2-8:2` is 2, 4, 6, 8 and `2-16:2:*` is 2, 4, 8, 16. The rules about the values are
//! those of RFC 14.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a range is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not in the form RFC 45 gives.
    #[error("invalid range: expected min-max[:operand[:operator]] or min+[:operand[:operator]]")]
    Syntax,
    /// A number with leading zeros, or too large.
    #[error("invalid range: invalid number")]
    Number,
    /// The operator is not one of `+ * ^`.
    #[error("invalid range: unknown operator")]
    Operator,
    /// The minimum is zero.
    #[error("invalid range: min must be positive")]
    Min,
    /// The maximum is below the minimum.
    #[error("invalid range: max is less than min")]
    Max,
    /// The operand is 0, or is 1 for `*` or `^`.
    #[error("invalid range: operand is too small for operator '{0}'")]
    Operand(Operator),
    /// `^` never leaves a minimum of 1.
    #[error("invalid range: min must be at least 2 for operator '^'")]
    MinForPower,
}

/// How the next acceptable count follows from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Operator {
    /// `+`: add the operand.
    #[default]
    Add,
    /// `*`: multiply by the operand.
    Multiply,
    /// `^`: raise to the power of the operand.
    Power,
}

impl Operator {
    /// The operator of a character.
    pub fn from_char(c: char) -> Option<Self> {
        match c {
            '+' => Some(Self::Add),
            '*' => Some(Self::Multiply),
            '^' => Some(Self::Power),
            _ => None,
        }
    }

    /// Its character.
    pub fn as_char(self) -> char {
        match self {
            Self::Add => '+',
            Self::Multiply => '*',
            Self::Power => '^',
        }
    }

    /// The count after `count`; none when it does not fit.
    fn next(self, count: u64, operand: u64) -> Option<u64> {
        match self {
            Self::Add => count.checked_add(operand),
            Self::Multiply => count.checked_mul(operand),
            Self::Power => count.checked_pow(u32::try_from(operand).ok()?),
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_char())
    }
}

/// A valid range of counts; a string in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CountRange {
    min: u64,
    max: Option<u64>,
    operand: u64,
    operator: Operator,
}

impl CountRange {
    /// A range, checked: `min` at least 1 (2 for `^`), `max` not below it (none is infinite),
    /// `operand` at least 1 (2 for `*` and `^`).
    pub fn new(
        min: u64,
        max: Option<u64>,
        operand: u64,
        operator: Operator,
    ) -> Result<Self, RangeError> {
        if min == 0 {
            return Err(RangeError::Min);
        }
        if max.is_some_and(|max| max < min) {
            return Err(RangeError::Max);
        }
        if operand < if operator == Operator::Add { 1 } else { 2 } {
            return Err(RangeError::Operand(operator));
        }
        if operator == Operator::Power && min < 2 {
            return Err(RangeError::MinForPower);
        }
        Ok(Self { min, max, operand, operator })
    }

    /// Exactly `count`, which must not be zero; it prints as `count-count`.
    pub fn fixed(count: u64) -> Result<Self, RangeError> {
        Self::new(count, Some(count), 1, Operator::Add)
    }

    /// The least count.
    pub fn min(self) -> u64 {
        self.min
    }

    /// The bound above, itself perhaps not reached by the operator; none is infinite.
    pub fn max(self) -> Option<u64> {
        self.max
    }

    /// What the operator is used with.
    pub fn operand(self) -> u64 {
        self.operand
    }

    /// How counts follow each other.
    pub fn operator(self) -> Operator {
        self.operator
    }

    /// Whether every count between the bounds is acceptable.
    pub fn is_contiguous(self) -> bool {
        (self.operator == Operator::Add && self.operand == 1) || self.max == Some(self.min)
    }

    /// The acceptable counts in ascending order, up to `max` or the end of `u64`. Lazy: a range
    /// without maximum gives very many.
    pub fn iter(self) -> impl Iterator<Item = u64> {
        let max = self.max.unwrap_or(u64::MAX);
        std::iter::successors(Some(self.min), move |&count| {
            self.operator.next(count, self.operand).filter(|&next| next <= max)
        })
    }

    /// Whether `count` is acceptable.
    pub fn contains(self, count: u64) -> bool {
        if count < self.min || self.max.is_some_and(|max| count > max) {
            return false;
        }
        match self.operator {
            Operator::Add => (count - self.min).is_multiple_of(self.operand),
            // At most 64 steps.
            _ => self.iter().take_while(|&c| c <= count).any(|c| c == count),
        }
    }

    /// The largest acceptable count that is not above `limit`: what a scheduler takes when
    /// `limit` are free.
    pub fn largest_within(self, limit: u64) -> Option<u64> {
        let limit = self.max.map_or(limit, |max| max.min(limit));
        if limit < self.min {
            return None;
        }
        match self.operator {
            Operator::Add => Some(limit - (limit - self.min) % self.operand),
            _ => self.iter().take_while(|&c| c <= limit).last(),
        }
    }
}

impl FromStr for CountRange {
    type Err = RangeError;

    fn from_str(s: &str) -> Result<Self, RangeError> {
        let body = match s.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or(RangeError::Syntax)?,
            None => s,
        };
        let mut parts = body.split(':');
        let bounds = parts.next().unwrap_or_default();
        let (min, max) = if let Some(min) = bounds.strip_suffix('+') {
            (number(min)?, None)
        } else {
            let (min, max) = bounds.split_once('-').ok_or(RangeError::Syntax)?;
            (number(min)?, Some(number(max)?))
        };
        let operand = parts.next().map_or(Ok(1), number)?;
        let operator = match parts.next() {
            None => Operator::Add,
            Some(text) => {
                let mut chars = text.chars();
                match (chars.next().and_then(Operator::from_char), chars.next()) {
                    (Some(operator), None) => operator,
                    _ => return Err(RangeError::Operator),
                }
            }
        };
        if parts.next().is_some() {
            return Err(RangeError::Syntax);
        }
        Self::new(min, max, operand, operator)
    }
}

/// A decimal number without sign or leading zeros.
fn number(s: &str) -> Result<u64, RangeError> {
    if s.is_empty() || !s.bytes().all(|b| b.is_ascii_digit()) {
        return Err(RangeError::Syntax);
    }
    if s.len() > 1 && s.starts_with('0') {
        return Err(RangeError::Number);
    }
    s.parse().map_err(|_| RangeError::Number)
}

impl fmt::Display for CountRange {
    /// The shortest form: operator and operand are left out where RFC 45 lets them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max {
            Some(max) => write!(f, "{}-{max}", self.min)?,
            None => write!(f, "{}+", self.min)?,
        }
        match (self.operator, self.operand) {
            (Operator::Add, 1) => Ok(()),
            (Operator::Add, operand) => write!(f, ":{operand}"),
            (operator, operand) => write!(f, ":{operand}:{operator}"),
        }
    }
}

impl Serialize for CountRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CountRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(s: &str) -> CountRange {
        s.parse().unwrap()
    }

    #[test]
    fn ranges_count_by_their_operator() {
        for (text, counts) in [
            ("1-5:2:+", vec![1, 3, 5]),
            ("1-5:2", vec![1, 3, 5]),
            ("2-8:2", vec![2, 4, 6, 8]),
            ("1-4", vec![1, 2, 3, 4]),
            ("[1-4:2:*]", vec![1, 2, 4]),
            ("2-300:2:^", vec![2, 4, 16, 256]),
            ("3-3", vec![3]),
            ("5-9:10", vec![5]),
        ] {
            let range = range(text);
            assert_eq!(range.iter().collect::<Vec<_>>(), counts, "{text}");
            for count in 0..400 {
                assert_eq!(range.contains(count), counts.contains(&count), "{text} {count}");
                let best = counts.iter().copied().filter(|&c| c <= count).max();
                assert_eq!(range.largest_within(count), best, "{text} {count}");
            }
        }
        assert_eq!(range("100+").iter().take(3).collect::<Vec<_>>(), [100, 101, 102]);
        assert_eq!(range("2+:2:^").iter().count(), 6);
        assert!(range("2+:4294967296:^").iter().eq([2]));
    }

    #[test]
    fn the_shortest_form_is_printed() {
        for (text, short) in [
            ("1-5:2:+", "1-5:2"),
            ("1-4:1:+", "1-4"),
            ("[100+]", "100+"),
            ("1+:1", "1+"),
            ("1+:2:*", "1+:2:*"),
            ("2-9:3:^", "2-9:3:^"),
        ] {
            assert_eq!(range(text).to_string(), short);
        }
    }

    #[test]
    fn wrong_ranges_are_refused() {
        for (text, error) in [
            ("", RangeError::Syntax),
            ("4", RangeError::Syntax),
            ("-4", RangeError::Syntax),
            ("1-", RangeError::Syntax),
            ("1--2", RangeError::Syntax),
            ("[1-2", RangeError::Syntax),
            ("1-2]", RangeError::Syntax),
            ("1-2:", RangeError::Syntax),
            ("1-2:1:+:1", RangeError::Syntax),
            ("1-2:1:", RangeError::Operator),
            ("1-2:1:'+'", RangeError::Operator),
            ("1-2:1:/", RangeError::Operator),
            ("01-2", RangeError::Number),
            ("1-99999999999999999999", RangeError::Number),
            ("0-2", RangeError::Min),
            ("2-1", RangeError::Max),
            ("1-2:0", RangeError::Operand(Operator::Add)),
            ("1-2:1:*", RangeError::Operand(Operator::Multiply)),
            ("2-4:1:^", RangeError::Operand(Operator::Power)),
            ("1-4:2:^", RangeError::MinForPower),
        ] {
            assert_eq!(text.parse::<CountRange>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(min in 1u64.., span in proptest::option::of(0u64..), operand in 1u64..,
                            op in 0..3usize) {
            let operator = [Operator::Add, Operator::Multiply, Operator::Power][op];
            let max = span.map(|span| min.saturating_add(span));
            if let Ok(range) = CountRange::new(min, max, operand, operator) {
                prop_assert_eq!(range.to_string().parse(), Ok(range));
                prop_assert!(range.contains(min));
                prop_assert!(range.largest_within(u64::MAX).is_some());
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC*", close in "[-+:0-9^*\\[\\]]{0,12}") {
            for text in [text, close] {
                if let Ok(range) = text.parse::<CountRange>() {
                    prop_assert_eq!(range.to_string().parse(), Ok(range));
                }
            }
        }
    }
}
