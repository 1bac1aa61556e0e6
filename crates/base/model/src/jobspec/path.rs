//! Access by dotted path, such as `attributes.system.duration`.

use serde_json::{Map, Value};

use super::Jobspec;
use super::error::JobspecError;

/// Longest path that is accepted, in components.
const MAX_COMPONENTS: usize = 64;

impl Jobspec {
    /// The value at a dotted path; a number selects a list entry, as in `tasks.0.command`.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('.');
        let first = self.raw.get(parts.next()?)?;
        parts.try_fold(first, |value, part| match value {
            Value::Array(list) => list.get(part.parse::<usize>().ok()?),
            _ => value.get(part),
        })
    }

    /// Sets the value at a dotted path; missing objects on the way are made.
    ///
    /// # Errors
    /// A path that leads nowhere, or a jobspec that would no longer be valid; it is then unchanged.
    pub fn set(&mut self, path: &str, value: Value) -> Result<(), JobspecError> {
        self.update([(path, value)])
    }

    /// Sets several values at once and checks the result once, as for the `jobspec-update` event
    /// (RFC 21).
    ///
    /// # Errors
    /// As for [`Jobspec::set`]; then nothing is changed.
    pub fn update<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Result<(), JobspecError> {
        let mut raw = self.raw.clone();
        for (path, value) in changes {
            insert(&mut raw, path, value)?;
        }
        *self = Self::from_value(Value::Object(raw))?;
        Ok(())
    }

    /// Removes the value at a dotted path and returns it.
    ///
    /// # Errors
    /// A jobspec that would no longer be valid; it is then unchanged.
    pub fn remove(&mut self, path: &str) -> Result<Option<Value>, JobspecError> {
        let mut raw = self.raw.clone();
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
        let mut map = Some(&mut raw);
        for part in parent.split('.').filter(|part| !part.is_empty()) {
            map = map.and_then(|map| map.get_mut(part)?.as_object_mut());
        }
        let Some(removed) = map.and_then(|map| map.shift_remove(key)) else {
            return Ok(None);
        };
        *self = Self::from_value(Value::Object(raw))?;
        Ok(Some(removed))
    }

    /// Takes the environment out, which is how a jobspec is stored and handed to services.
    pub fn redact(&mut self) {
        let system = self.raw.get_mut("attributes").and_then(|a| a.get_mut("system"));
        if let Some(Value::Object(system)) = system {
            system.shift_remove("environment");
        }
    }
}

/// Puts `value` at a dotted path below `map`.
pub(super) fn insert(
    map: &mut Map<String, Value>,
    path: &str,
    value: Value,
) -> Result<(), JobspecError> {
    let parts: Vec<&str> = path.split('.').collect();
    if parts.len() > MAX_COMPONENTS || parts.iter().any(|part| part.is_empty()) {
        return Err(JobspecError::at(path, "expected keys separated by single dots"));
    }
    let (first, rest) = (parts[0], &parts[1..]);
    if rest.is_empty() {
        map.insert(first.to_owned(), value);
        return Ok(());
    }
    let mut place = map.entry(first).or_insert(Value::Null);
    for part in rest {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        place = match place {
            Value::Object(map) => map.entry(*part).or_insert(Value::Null),
            Value::Array(list) => part
                .parse::<usize>()
                .ok()
                .and_then(|at| list.get_mut(at))
                .ok_or_else(|| JobspecError::at(path, format!("no list entry '{part}'")))?,
            _ => {
                let problem = format!("'{part}' lies below a value that is no object");
                return Err(JobspecError::at(path, problem));
            }
        };
    }
    *place = value;
    Ok(())
}
