//! The constraint operators that choose nodes (RFC 31): `properties`, `hostlist`, `ranks`.

use flux_id::{HostIndex, Hostlist, Idset};
use serde_json::Value;

use super::{Constraint, ConstraintError, strings};

/// Characters that a property name may not contain: they mean something in queries.
pub const PROPERTY_FORBIDDEN: &[char] = &[' ', '\t', '!', '&', '\'', '"', '`', '|', '(', ')'];

/// Most values of one operator.
const MAX_VALUES: usize = 10_000;

/// What a node is, for those who choose.
pub trait NodeView {
    /// Its broker rank.
    fn rank(&self) -> u32;
    /// Its host name.
    fn hostname(&self) -> &str;
    /// Whether it has a property.
    fn has_property(&self, name: &str) -> bool;
}

/// An operator with its values.
#[derive(Debug, Clone)]
pub enum NodeOperator {
    /// The node has all of one list of properties and none of the other.
    Properties {
        /// Written as `name`.
        required: Vec<String>,
        /// Written as `^name`.
        forbidden: Vec<String>,
    },
    /// The node is one of these hosts.
    Hosts(HostIndex),
    /// The node is one of these ranks.
    Ranks(Idset),
}

/// A constraint on nodes.
#[derive(Debug, Clone)]
pub struct NodeConstraint(Constraint<NodeOperator>);

impl NodeConstraint {
    /// Reads a constraint.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn decode(constraint: &Value) -> Result<Self, ConstraintError> {
        Constraint::decode(constraint, decode_operator).map(NodeConstraint)
    }

    /// Whether a node may be chosen.
    pub fn matches(&self, node: &impl NodeView) -> bool {
        self.0.matches(|operator| operator.matches(node))
    }

    /// The tree of operators.
    pub fn tree(&self) -> &Constraint<NodeOperator> {
        &self.0
    }
}

impl NodeOperator {
    fn matches(&self, node: &impl NodeView) -> bool {
        match self {
            NodeOperator::Properties { required, forbidden } => {
                required.iter().all(|name| node.has_property(name))
                    && !forbidden.iter().any(|name| node.has_property(name))
            }
            NodeOperator::Hosts(hosts) => hosts.contains(node.hostname()),
            NodeOperator::Ranks(ranks) => ranks.contains(node.rank()),
        }
    }
}

fn decode_operator(name: &str, values: &[Value]) -> Result<Option<NodeOperator>, ConstraintError> {
    if values.len() > MAX_VALUES {
        return Err(ConstraintError::value(format!("{name} has more than {MAX_VALUES} values")));
    }
    Ok(Some(match name {
        "properties" => properties(&strings(name, values)?)?,
        "hostlist" => NodeOperator::Hosts(hosts(&strings(name, values)?)?.index()),
        "ranks" => NodeOperator::Ranks(ranks(&strings(name, values)?)?),
        _ => return Ok(None),
    }))
}

fn properties(values: &[&str]) -> Result<NodeOperator, ConstraintError> {
    let (mut required, mut forbidden) = (Vec::new(), Vec::new());
    for value in values {
        let (name, list) = match value.strip_prefix('^') {
            Some(name) => (name, &mut forbidden),
            None => (*value, &mut required),
        };
        check_property(name)?;
        list.push(name.to_owned());
    }
    Ok(NodeOperator::Properties { required, forbidden })
}

/// Checks the name of a property, without `^`.
///
/// # Errors
/// [`ConstraintError::Value`] names the character that is not allowed.
pub fn check_property(name: &str) -> Result<(), ConstraintError> {
    if name.is_empty() {
        return Err(ConstraintError::value("property name is empty"));
    }
    match name.chars().find(|c| PROPERTY_FORBIDDEN.contains(c)) {
        None => Ok(()),
        Some(bad) => {
            let name: String = name.chars().take(80).collect();
            let reason = format!("invalid character '{bad}' in property \"{name}\"");
            Err(ConstraintError::value(reason))
        }
    }
}

/// All hosts of the values of operator `hostlist`.
///
/// # Errors
/// [`ConstraintError::Value`] for a value that is no hostlist.
pub fn hosts(values: &[&str]) -> Result<Hostlist, ConstraintError> {
    let mut hosts = Hostlist::new();
    for value in values {
        let list: Hostlist =
            value.parse().map_err(|err| ConstraintError::value(format!("{err}")))?;
        hosts.append(&list).map_err(|err| ConstraintError::value(format!("{err}")))?;
    }
    Ok(hosts)
}

/// All ranks of the values of operator `ranks`.
///
/// # Errors
/// [`ConstraintError::Value`] for a value that is no idset.
pub fn ranks(values: &[&str]) -> Result<Idset, ConstraintError> {
    let mut ranks = Idset::new();
    for value in values {
        let set: Idset = value.parse().map_err(|err| ConstraintError::value(format!("{err}")))?;
        ranks.insert_all(&set);
    }
    Ok(ranks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Node(u32, &'static [&'static str], String);

    impl NodeView for Node {
        fn rank(&self) -> u32 {
            self.0
        }

        fn hostname(&self) -> &str {
            &self.2
        }

        fn has_property(&self, name: &str) -> bool {
            self.1.contains(&name)
        }
    }

    /// Ranks of four nodes that match.
    fn matching(constraint: Value) -> Vec<u32> {
        let constraint = NodeConstraint::decode(&constraint).unwrap();
        let properties: [&[&str]; 4] = [&[], &["ssd"], &["huge"], &["ssd", "slowgpu"]];
        let node = |(rank, properties)| Node(rank, properties, format!("host{rank}"));
        let nodes = (0..).zip(properties).map(node);
        nodes.filter(|node| constraint.matches(node)).map(|node| node.0).collect()
    }

    #[test]
    fn the_examples_of_the_rfc_choose_the_right_nodes() {
        for (constraint, ranks) in [
            (json!({}), &[0, 1, 2, 3][..]),
            (json!({"properties": ["ssd"]}), &[1, 3]),
            (json!({"properties": ["^slowgpu"]}), &[0, 1, 2]),
            (json!({"properties": ["ssd", "^slowgpu"]}), &[1]),
            (json!({"properties": []}), &[0, 1, 2, 3]),
            (json!({"not": [{"properties": ["slowgpu"]}]}), &[0, 1, 2]),
            (json!({"or": [{"properties": ["ssd"]}, {"properties": ["huge"]}]}), &[1, 2, 3]),
            (json!({"hostlist": ["host[0-1]"]}), &[0, 1]),
            (json!({"hostlist": ["host0", "host[2-3]"]}), &[0, 2, 3]),
            (json!({"not": [{"hostlist": ["host[0-1]"]}]}), &[2, 3]),
            (json!({"and": [{"hostlist": ["host[0-1]"]}, {"properties": ["ssd"]}]}), &[1]),
            (json!({"ranks": ["0"]}), &[0]),
            (json!({"ranks": ["0", "2-3"]}), &[0, 2, 3]),
            (json!({"ranks": []}), &[]),
        ] {
            assert_eq!(matching(constraint.clone()), ranks, "{constraint}");
        }
    }

    #[test]
    fn bad_values_are_refused() {
        let error =
            |constraint: Value| NodeConstraint::decode(&constraint).unwrap_err().to_string();
        assert_eq!(
            error(json!({"properties": ["a b"]})),
            "invalid character ' ' in property \"a b\""
        );
        assert_eq!(error(json!({"properties": ["^"]})), "property name is empty");
        assert_eq!(error(json!({"properties": [1]})), "properties value must be a string");
        assert_eq!(error(json!({"userid": [1]})), "unknown constraint operator: userid");
        error(json!({"ranks": ["x"]}));
        error(json!({"hostlist": ["host[0-"]}));
    }
}
