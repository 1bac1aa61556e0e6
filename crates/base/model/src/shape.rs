//! The compact form of a resource list on a command line, "shape" (RFC 46).
//!
//! `slot=4{nodelevel}/node{-x}/core=4+` expands to the `resources` list of a jobspec (RFC 14). The
//! parser only knows the syntax; whether the vertices make a valid jobspec is the business of
//! [`crate::jobspec`].

use serde_json::{Map, Value};
use thiserror::Error;

use crate::jobspec::{Count, MAX_DEPTH};

#[cfg(test)]
mod tests;

/// Most vertices a shape may have.
pub const MAX_VERTICES: usize = 4096;

/// Why a shape cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("resource shape: {problem} at character {position}")]
pub struct ShapeError {
    /// Where, counted in characters from 1.
    pub position: usize,
    /// What is wrong.
    pub problem: String,
}

/// Expands a shape to a jobspec `resources` list; keys in the order type, count, those in braces,
/// with.
///
/// # Errors
/// The first fault against the grammar, with its position.
pub fn parse(shape: &str) -> Result<Vec<Value>, ShapeError> {
    let mut parser = Parser { text: shape, at: 0, vertices: 0, slots: 0, unlabelled: None };
    let list = parser.list(1)?;
    parser.blanks();
    if let Some(c) = parser.peek() {
        return Err(parser.error(format!("unexpected '{c}'")));
    }
    if let Some(at) = parser.unlabelled
        && parser.slots > 1
    {
        parser.at = at;
        return Err(parser.error("a slot needs a label where there are several slots"));
    }
    Ok(list)
}

struct Parser<'a> {
    text: &'a str,
    /// Byte offset of the next character.
    at: usize,
    vertices: usize,
    slots: usize,
    /// Where a slot without label was seen.
    unlabelled: Option<usize>,
}

impl<'a> Parser<'a> {
    fn error(&self, problem: impl Into<String>) -> ShapeError {
        let position = self.text[..self.at].chars().count() + 1;
        ShapeError { position, problem: problem.into() }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Skips blanks, then `c` if it comes next.
    fn eat(&mut self, c: char) -> bool {
        self.blanks();
        let found = self.rest().starts_with(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn need(&mut self, c: char) -> Result<(), ShapeError> {
        if self.eat(c) {
            return Ok(());
        }
        Err(match self.peek() {
            Some(found) => self.error(format!("expected '{c}', got '{found}'")),
            None => self.error(format!("expected '{c}' before the end")),
        })
    }

    /// Text up to the first of `stops`, without blanks at the ends.
    fn bare(&mut self, stops: &[char]) -> &'a str {
        self.blanks();
        let rest = self.rest();
        let end = rest.find(|c| stops.contains(&c)).unwrap_or(rest.len());
        self.at += end;
        rest[..end].trim_end()
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value>, ShapeError> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        if !self.eat('[') {
            return Ok(vec![self.vertex(depth)?]);
        }
        let mut list = vec![self.vertex(depth)?];
        while self.eat(';') {
            list.push(self.vertex(depth)?);
        }
        self.need(']')?;
        Ok(list)
    }

    fn vertex(&mut self, depth: usize) -> Result<Value, ShapeError> {
        self.vertices += 1;
        if self.vertices > MAX_VERTICES {
            return Err(self.error(format!("more than {MAX_VERTICES} resources")));
        }
        let kind = self.string("a resource type")?;
        let count = if self.eat('=') { self.count()? } else { Count::Fixed(1) };
        let mut map = Map::new();
        let is_slot = kind == "slot";
        map.insert("type".to_owned(), kind.into());
        map.insert("count".to_owned(), count.to_value());
        let start = self.at;
        let braces = self.eat('{') && !self.eat('}');
        if is_slot {
            self.slots += 1;
            let label = if braces { self.label()? } else { "default".to_owned() };
            map.insert("label".to_owned(), label.into());
            if !braces {
                self.unlabelled = Some(start);
            } else if self.eat(',') {
                self.items(&mut map, 1)?;
            } else {
                self.need('}')?;
            }
        } else if braces {
            self.items(&mut map, 1)?;
        }
        if self.eat('/') {
            if map.contains_key("with") {
                return Err(self.error("'with' is given twice"));
            }
            map.insert("with".to_owned(), self.list(depth + 1)?.into());
        } else if is_slot {
            self.need('/')?;
        }
        Ok(Value::Object(map))
    }

    /// The label a slot's braces begin with.
    fn label(&mut self) -> Result<String, ShapeError> {
        self.blanks();
        let start = self.at;
        let signed = self.peek().is_some_and(|c| c == '+' || c == '-');
        let label = self.string("a label")?;
        self.blanks();
        if signed || self.peek() == Some(':') {
            self.at = start;
            return Err(self.error("the label of a slot must come first"));
        }
        Ok(label)
    }

    /// Items up to the closing brace, which is consumed.
    fn items(&mut self, map: &mut Map<String, Value>, depth: usize) -> Result<(), ShapeError> {
        loop {
            self.blanks();
            let start = self.at;
            let sign = if self.eat('+') {
                Some(true)
            } else if self.eat('-') {
                Some(false)
            } else {
                None
            };
            let mut key = self.string("a key")?;
            if key == "x" && depth == 1 {
                key = "exclusive".to_owned();
            }
            let value = match sign {
                Some(value) => value.into(),
                None if self.eat(':') => self.value(depth)?,
                None => true.into(),
            };
            if map.contains_key(&key) {
                self.at = start;
                return Err(self.error(format!("key '{key}' is given twice")));
            }
            map.insert(key, value);
            if !self.eat(',') {
                return self.need('}');
            }
        }
    }

    /// A JSON value, with relaxed objects and strings.
    fn value(&mut self, depth: usize) -> Result<Value, ShapeError> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.blanks();
        match self.peek() {
            Some('{') => {
                self.need('{')?;
                let mut map = Map::new();
                if !self.eat('}') {
                    self.items(&mut map, depth + 1)?;
                }
                Ok(Value::Object(map))
            }
            Some('[') => {
                self.need('[')?;
                let mut list = Vec::new();
                if self.eat(']') {
                    return Ok(Value::Array(list));
                }
                loop {
                    list.push(self.value(depth + 1)?);
                    if !self.eat(',') {
                        self.need(']')?;
                        return Ok(Value::Array(list));
                    }
                }
            }
            Some('"') => Ok(self.quoted()?.into()),
            _ => {
                let text = self.bare(&[',', '}', ']', '{', '[', '"']);
                if text.is_empty() {
                    return Err(self.error("expected a value"));
                }
                // Numbers, booleans and null; what is none of these is an unquoted string.
                Ok(serde_json::from_str(text).unwrap_or_else(|_| text.into()))
            }
        }
    }

    fn count(&mut self) -> Result<Count, ShapeError> {
        self.blanks();
        let start = self.at;
        let text = if self.eat('[') {
            let inner = self.bare(&[']']);
            self.need(']')?;
            inner
        } else {
            self.bare(&['{', '/', ';', ']'])
        };
        Count::parse(text).map_err(|_| {
            self.at = start;
            self.error(format!("'{text}' is no positive integer, idset or range"))
        })
    }

    /// A quoted or bare string, not empty.
    fn string(&mut self, what: &str) -> Result<String, ShapeError> {
        self.blanks();
        let text = if self.peek() == Some('"') {
            self.quoted()?
        } else {
            self.bare(&['[', ']', '{', '}', ';', ',', ':', '/', '=', '"']).to_owned()
        };
        if text.is_empty() {
            return Err(match self.peek() {
                Some(c) => self.error(format!("expected {what}, got '{c}'")),
                None => self.error(format!("expected {what} before the end")),
            });
        }
        Ok(text)
    }

    /// A JSON string.
    fn quoted(&mut self) -> Result<String, ShapeError> {
        let mut escaped = false;
        let end = self.rest().char_indices().skip(1).find(|(_, c)| {
            let closes = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            closes
        });
        let Some((end, _)) = end else {
            return Err(self.error("unclosed quote"));
        };
        let text = serde_json::from_str(&self.rest()[..=end])
            .map_err(|e| self.error(format!("bad string: {e}")))?;
        self.at += end + 1;
        Ok(text)
    }
}
