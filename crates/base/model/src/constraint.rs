//! Constraints (RFC 31): trees of `and`, `or`, `not` over operators that the user of a tree defines.
//!
//! [`Constraint`] is the tree, generic in what its leaves are: [`node`] has the operators for
//! choosing nodes, and other services bring their own (job listing has `userid`, `states` and so
//! on). [`query`] is the short text form of RFC 35.

use serde_json::Value;

pub mod node;
pub mod query;

/// Deepest nesting of operators.
pub const MAX_DEPTH: usize = 64;
/// Most operators in one constraint.
pub const MAX_OPERATORS: usize = 10_000;

/// Why a JSON value is no constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// A constraint, or an argument of `and`, `or`, `not`, is not an object.
    #[error("constraint is not an object")]
    NotObject,
    /// An object has more than one operator.
    #[error("constraint object must have one operator, not {0}")]
    ManyOperators(usize),
    /// The values of an operator are not an array.
    #[error("constraint operator {0} requires an array of values")]
    NotArray(String),
    /// The operator is not known.
    #[error("unknown constraint operator: {0}")]
    UnknownOperator(String),
    /// A value of an operator is not acceptable; the text says why.
    #[error("{0}")]
    Value(String),
    /// Operators nest deeper than [`MAX_DEPTH`].
    #[error("constraint is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// There are more than [`MAX_OPERATORS`].
    #[error("constraint has more than {MAX_OPERATORS} operators")]
    TooMany,
}

impl ConstraintError {
    /// A complaint about a value of an operator.
    pub fn value(reason: impl Into<String>) -> Self {
        ConstraintError::Value(reason.into())
    }
}

/// A constraint whose leaves are `T`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constraint<T> {
    /// All must match. Empty: always matches.
    And(Vec<Constraint<T>>),
    /// One must match. Empty: always matches, as RFC 31 defines.
    Or(Vec<Constraint<T>>),
    /// Not all must match. Empty: never matches.
    Not(Vec<Constraint<T>>),
    /// An operator with its values.
    Leaf(T),
}

impl<T> Default for Constraint<T> {
    /// The constraint `{}`, which always matches.
    fn default() -> Self {
        Constraint::And(Vec::new())
    }
}

impl<T> Constraint<T> {
    /// Reads a constraint. `leaf` is given each operator other than `and`, `or`, `not`, with its
    /// values; it returns nothing for an operator that it does not know.
    ///
    /// # Errors
    /// The first thing found wrong, here or by `leaf`.
    pub fn decode<F>(constraint: &Value, mut leaf: F) -> Result<Self, ConstraintError>
    where
        F: FnMut(&str, &[Value]) -> Result<Option<T>, ConstraintError>,
    {
        let mut left = MAX_OPERATORS;
        Self::read(constraint, &mut leaf, 0, &mut left)
    }

    fn read<F>(
        constraint: &Value,
        leaf: &mut F,
        depth: usize,
        left: &mut usize,
    ) -> Result<Self, ConstraintError>
    where
        F: FnMut(&str, &[Value]) -> Result<Option<T>, ConstraintError>,
    {
        if depth >= MAX_DEPTH {
            return Err(ConstraintError::TooDeep);
        }
        *left = left.checked_sub(1).ok_or(ConstraintError::TooMany)?;
        let object = constraint.as_object().ok_or(ConstraintError::NotObject)?;
        let Some((operator, values)) = object.iter().next() else {
            return Ok(Self::default());
        };
        if object.len() > 1 {
            return Err(ConstraintError::ManyOperators(object.len()));
        }
        let shown = || operator.chars().take(80).collect::<String>();
        let values = values.as_array().ok_or_else(|| ConstraintError::NotArray(shown()))?;
        let conditional = match operator.as_str() {
            "and" => Constraint::And,
            "or" => Constraint::Or,
            "not" => Constraint::Not,
            _ => {
                let leaf = leaf(operator, values)?;
                return leaf
                    .map(Constraint::Leaf)
                    .ok_or_else(|| ConstraintError::UnknownOperator(shown()));
            }
        };
        let parts = values.iter().map(|value| Self::read(value, leaf, depth + 1, left));
        Ok(conditional(parts.collect::<Result<_, _>>()?))
    }

    /// Whether it matches what `leaf` judges. Leaves are asked from left to right, and no more of
    /// them than needed.
    pub fn matches(&self, mut leaf: impl FnMut(&T) -> bool) -> bool {
        let judged =
            self.try_matches(&mut |value: &T| Ok::<_, std::convert::Infallible>(leaf(value)));
        match judged {
            Ok(matched) => matched,
            Err(never) => match never {},
        }
    }

    /// As [`Constraint::matches`], for leaves whose judging can fail (or be refused, when it was
    /// asked too often).
    ///
    /// # Errors
    /// The first error of `leaf`.
    pub fn try_matches<E>(&self, leaf: &mut impl FnMut(&T) -> Result<bool, E>) -> Result<bool, E> {
        match self {
            Constraint::And(parts) => all(parts, leaf),
            Constraint::Not(parts) => all(parts, leaf).map(|matched| !matched),
            Constraint::Or(parts) => {
                for part in parts {
                    if part.try_matches(leaf)? {
                        return Ok(true);
                    }
                }
                Ok(parts.is_empty())
            }
            Constraint::Leaf(value) => leaf(value),
        }
    }

    /// Calls `visit` with every leaf from left to right.
    pub fn for_each_leaf<'a>(&'a self, visit: &mut impl FnMut(&'a T)) {
        match self {
            Constraint::And(parts) | Constraint::Or(parts) | Constraint::Not(parts) => {
                for part in parts {
                    part.for_each_leaf(visit);
                }
            }
            Constraint::Leaf(value) => visit(value),
        }
    }
}

fn all<T, E>(
    parts: &[Constraint<T>],
    leaf: &mut impl FnMut(&T) -> Result<bool, E>,
) -> Result<bool, E> {
    for part in parts {
        if !part.try_matches(leaf)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The values of an operator as strings.
///
/// # Errors
/// [`ConstraintError::Value`] names the operator if a value is not a string.
pub fn strings<'a>(operator: &str, values: &'a [Value]) -> Result<Vec<&'a str>, ConstraintError> {
    let text = |value: &'a Value| {
        value
            .as_str()
            .ok_or_else(|| ConstraintError::value(format!("{operator} value must be a string")))
    };
    values.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Leaves are `n: [numbers]`: matches a number that is listed.
    fn numbers(operator: &str, values: &[Value]) -> Result<Option<Vec<i64>>, ConstraintError> {
        if operator != "n" {
            return Ok(None);
        }
        let number = |value: &Value| value.as_i64().ok_or(ConstraintError::value("not a number"));
        values.iter().map(number).collect::<Result<_, _>>().map(Some)
    }

    fn matches(constraint: Value, number: i64) -> bool {
        let constraint = Constraint::decode(&constraint, numbers).unwrap();
        constraint.matches(|listed| listed.contains(&number))
    }

    #[test]
    fn empty_conditionals_match_as_the_rfc_defines() {
        assert!(matches(json!({}), 1));
        assert!(matches(json!({"and": []}), 1));
        assert!(matches(json!({"or": []}), 1));
        assert!(!matches(json!({"not": []}), 1));
    }

    #[test]
    fn conditionals_combine_leaves() {
        let one_or_two = json!({"or": [{"n": [1]}, {"n": [2]}]});
        assert!(matches(one_or_two.clone(), 2) && !matches(one_or_two, 3));
        let both = json!({"and": [{"n": [1, 2]}, {"n": [2, 3]}]});
        assert!(matches(both.clone(), 2) && !matches(both, 3));
        let not_both = json!({"not": [{"n": [1, 2]}, {"n": [2, 3]}]});
        assert!(!matches(not_both.clone(), 2) && matches(not_both, 3));
    }

    #[test]
    fn leaves_are_asked_no_more_than_needed_and_may_fail() {
        let tree = json!({"and": [{"n": [1]}, {"n": [2]}, {"or": [{"n": [3]}, {"n": [4]}]}]});
        let tree = Constraint::decode(&tree, numbers).unwrap();
        let mut asked = 0;
        let outcome = tree.try_matches(&mut |listed: &Vec<i64>| {
            asked += 1;
            if listed == &[2] { Err("limit") } else { Ok(true) }
        });
        assert_eq!((outcome, asked), (Err("limit"), 2));
        let mut leaves: Vec<i64> = Vec::new();
        tree.for_each_leaf(&mut |leaf| leaves.extend(leaf));
        assert_eq!(leaves, [1, 2, 3, 4]);
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let error =
            |constraint: Value| Constraint::decode(&constraint, numbers).unwrap_err().to_string();
        assert_eq!(error(json!({"x": []})), "unknown constraint operator: x");
        assert_eq!(error(json!([])), "constraint is not an object");
        assert_eq!(error(json!({"and": ["a"]})), "constraint is not an object");
        assert_eq!(error(json!({"n": 1})), "constraint operator n requires an array of values");
        assert_eq!(
            error(json!({"n": [], "and": []})),
            "constraint object must have one operator, not 2"
        );
        assert_eq!(error(json!({"n": ["x"]})), "not a number");
        let deep = (0..MAX_DEPTH).fold(json!({}), |inner, _| json!({"not": [inner]}));
        assert_eq!(error(deep), "constraint is nested deeper than 64");
        let wide = Value::from(vec![json!({"n": []}); MAX_OPERATORS]);
        assert_eq!(error(json!({"or": wide})), "constraint has more than 10000 operators");
    }

    proptest! {
        #[test]
        fn decoding_never_panics(text in r#"[{}\[\]":,andornt0-9]{0,60}"#) {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                drop(Constraint::decode(&value, numbers));
            }
        }
    }
}
