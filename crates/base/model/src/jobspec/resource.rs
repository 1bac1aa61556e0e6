//! Resource vertices (RFC 14, section Resources).

use serde_json::{Map, Value};

use super::count::Count;
use super::error::JobspecError;
use super::required;
use super::task::string;

/// Deepest nesting of `with` that is accepted.
pub const MAX_DEPTH: usize = 32;

/// One vertex of the requested resource graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Vertex {
    /// Resource type, e.g. `node`, `slot`, `core`, `gpu`.
    pub kind: String,
    /// How many of it below one parent.
    pub count: Count,
    /// Unit of the count.
    pub unit: Option<String>,
    /// Whether it must not be shared; `None` means the default of its place.
    pub exclusive: Option<bool>,
    /// What each of it contains.
    pub with: Vec<Vertex>,
    /// Name by which tasks refer to it; always there on a slot.
    pub label: Option<String>,
    /// Set of acceptable resource identifiers.
    pub id: Option<String>,
}

impl Vertex {
    /// A vertex with type and count only.
    pub fn new(kind: &str, count: Count) -> Self {
        Self {
            kind: kind.to_owned(),
            count,
            unit: None,
            exclusive: None,
            with: Vec::new(),
            label: None,
            id: None,
        }
    }

    /// Reads a list of vertices, such as the value of `resources`.
    ///
    /// # Errors
    /// The first fault, its path relative to the list.
    pub fn list_from_value(value: &Value) -> Result<Vec<Self>, JobspecError> {
        Self::list(value, 1)
    }

    fn list(value: &Value, depth: usize) -> Result<Vec<Self>, JobspecError> {
        let list = match value {
            Value::Array(list) if !list.is_empty() => list,
            _ => return Err(JobspecError::expected("", "a list of at least one resource", value)),
        };
        if depth > MAX_DEPTH {
            return Err(JobspecError::at("", format!("nested deeper than {MAX_DEPTH} levels")));
        }
        list.iter()
            .enumerate()
            .map(|(at, v)| Self::from_value(v, depth).map_err(|e| e.under(&format!("[{at}]"))))
            .collect()
    }

    fn from_value(value: &Value, depth: usize) -> Result<Self, JobspecError> {
        let Value::Object(map) = value else {
            return Err(JobspecError::expected("", "an object", value));
        };
        for key in map.keys() {
            if !["type", "count", "unit", "exclusive", "with", "label", "id"]
                .contains(&key.as_str())
            {
                return Err(JobspecError::at(key, "unknown key of a resource"));
            }
        }
        let optional = |key: &str| map.get(key).map(|v| string(key, v)).transpose();
        let vertex = Self {
            kind: string("type", required(map, "type")?)?,
            count: Count::from_value(required(map, "count")?).map_err(|e| e.under("count"))?,
            unit: optional("unit")?,
            exclusive: match map.get("exclusive") {
                None => None,
                Some(Value::Bool(exclusive)) => Some(*exclusive),
                Some(other) => return Err(JobspecError::expected("exclusive", "a boolean", other)),
            },
            with: match map.get("with") {
                None => Vec::new(),
                Some(list) => Self::list(list, depth + 1).map_err(|e| e.under("with"))?,
            },
            label: optional("label")?,
            id: optional("id")?,
        };
        if vertex.kind.is_empty() {
            return Err(JobspecError::at("type", "expected a resource type, got ''"));
        }
        if vertex.is_slot() {
            required(map, "label")?;
            required(map, "with")?;
        }
        Ok(vertex)
    }

    /// The JSON form, keys in the order type, count, unit, exclusive, with, label, id.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("type".to_owned(), self.kind.as_str().into());
        map.insert("count".to_owned(), self.count.to_value());
        let text = |map: &mut Map<String, Value>, key: &str, value: &Option<String>| {
            if let Some(value) = value {
                map.insert(key.to_owned(), value.as_str().into());
            }
        };
        text(&mut map, "unit", &self.unit);
        if let Some(exclusive) = self.exclusive {
            map.insert("exclusive".to_owned(), exclusive.into());
        }
        if !self.with.is_empty() {
            map.insert("with".to_owned(), self.with.iter().map(Self::to_value).collect());
        }
        text(&mut map, "label", &self.label);
        text(&mut map, "id", &self.id);
        Value::Object(map)
    }

    /// True for task slots.
    pub fn is_slot(&self) -> bool {
        self.kind == "slot"
    }

    /// True if this vertex or one below it has the type `kind`.
    pub fn contains_kind(&self, kind: &str) -> bool {
        self.kind == kind || self.with.iter().any(|vertex| vertex.contains_kind(kind))
    }
}
