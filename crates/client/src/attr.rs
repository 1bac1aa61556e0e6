//! Attributes of the broker.

use std::collections::BTreeMap;

use flux_api::RpcError;
use flux_api::lifecycle::{AttrName, Get};

use crate::client::{Client, To};

/// Flag of `attr.get`: the value never changes.
const IMMUTABLE: u32 = 1;

impl Client {
    /// The value of an attribute. Values that never change are asked for once.
    ///
    /// # Errors
    /// ENOENT when it is unknown or unset.
    pub fn get_attr(&self, name: &str) -> Result<String, RpcError> {
        if let Some(value) = self.with_attributes(|cache| cache.get(name).cloned()) {
            return Ok(value);
        }
        let answer = self.call::<Get>(To::Any, &AttrName { name: name.to_string() })?;
        if answer.flags & IMMUTABLE != 0 {
            let value = answer.value.clone();
            self.with_attributes(|cache| cache.insert(name.to_string(), value));
        }
        Ok(answer.value)
    }

    fn with_attributes<T>(&self, f: impl FnOnce(&mut BTreeMap<String, String>) -> T) -> T {
        f(&mut self.inner().borrow_mut().attributes)
    }

    /// Rank of the broker.
    ///
    /// # Errors
    /// As [`Client::get_attr`].
    pub fn rank(&self) -> Result<u32, RpcError> {
        self.number("rank")
    }

    /// Number of brokers of the instance.
    ///
    /// # Errors
    /// As [`Client::get_attr`].
    pub fn size(&self) -> Result<u32, RpcError> {
        self.number("size")
    }

    fn number(&self, name: &str) -> Result<u32, RpcError> {
        let value = self.get_attr(name)?;
        value.parse().map_err(|_| {
            let text = format!("attribute {name} is '{value}', not a number");
            RpcError::new(flux_proto::Errno::EPROTO, text)
        })
    }
}
