//! What a message can carry: nothing, JSON, text or raw bytes (RFC 3, payload conventions).

use std::fmt::Debug;

use bytes::Bytes;
use flux_proto::{Carried, Carry, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A request or response body: how it is written into a message and read back.
pub trait Body: Sized {
    /// Puts the body into `message`.
    fn put(&self, message: &mut Message);
    /// Reads the body of `message`; the error says what is wrong with it (answered as EPROTO).
    fn take(message: &Message) -> Result<Self, String>;

    /// Puts the body into `message`; where it stays within the broker it need not become bytes.
    fn hand(self, message: &mut Message) {
        self.put(message);
    }

    /// Reads the body of `message`, which is not needed there any more.
    ///
    /// # Errors
    /// As [`Body::take`].
    fn receive(message: &mut Message) -> Result<Self, String> {
        Self::take(message)
    }
}

/// Marks a serde type whose body is one JSON object followed by a NUL (RFC 3).
pub trait JsonBody: Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static {}

/// A [`JsonBody`] that goes along with its message.
#[derive(Debug, Clone)]
struct Handed<T>(T);

impl<T: JsonBody> Carry for Handed<T> {
    fn payload(&self) -> Bytes {
        json_payload(&self.0)
    }
}

/// A value as JSON text with its final NUL. Values that JSON cannot express (none of ours) give
/// an empty object.
pub fn json_payload(value: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec());
    text.push(0);
    Bytes::from(text)
}

/// Text with its final NUL.
#[must_use]
pub fn text_payload(text: &str) -> Bytes {
    let mut bytes = Vec::with_capacity(text.len() + 1);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    Bytes::from(bytes)
}

impl<T: JsonBody> Body for T {
    fn put(&self, message: &mut Message) {
        message.set_payload(Some(json_payload(self)));
    }

    fn take(message: &Message) -> Result<Self, String> {
        if let Some(Handed(body)) = message.body.as_ref().and_then(Carried::get) {
            return Ok(T::clone(body));
        }
        message.json::<T>().map_err(|error| error.to_string())
    }

    fn hand(self, message: &mut Message) {
        message.set_body(Carried::new(Handed(self)));
    }

    fn receive(message: &mut Message) -> Result<Self, String> {
        message.body = match message.body.take().map(Carried::take::<Handed<T>>) {
            Some(Ok(Handed(body))) => return Ok(body),
            Some(Err(other)) => Some(other),
            None => None,
        };
        Self::take(message)
    }
}

impl JsonBody for serde_json::Map<String, serde_json::Value> {}

/// No body; a payload that is there all the same is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Empty;

impl Body for Empty {
    fn put(&self, _message: &mut Message) {}

    fn take(_message: &Message) -> Result<Self, String> {
        Ok(Self)
    }
}

/// A JSON object that may be left out, whatever its keys.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AnyObject(pub serde_json::Map<String, serde_json::Value>);

impl Body for AnyObject {
    fn put(&self, message: &mut Message) {
        message.set_payload(Some(json_payload(&self.0)));
    }

    fn take(message: &Message) -> Result<Self, String> {
        if !message.has_payload() {
            return Ok(Self::default());
        }
        message.json().map(Self).map_err(|error| error.to_string())
    }
}

/// Bytes as they are (`content.load`, `content.store`, `log.append`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Raw(pub Bytes);

impl Body for Raw {
    fn put(&self, message: &mut Message) {
        message.set_payload((!self.0.is_empty()).then(|| self.0.clone()));
    }

    fn take(message: &Message) -> Result<Self, String> {
        Ok(Self(message.bytes().cloned().unwrap_or_default()))
    }
}

/// Text followed by a NUL (`log.dmesg` lines).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text(pub String);

impl Body for Text {
    fn put(&self, message: &mut Message) {
        message.set_payload(Some(text_payload(&self.0)));
    }

    fn take(message: &Message) -> Result<Self, String> {
        message.text().map(|text| Self(text.to_string())).map_err(|error| error.to_string())
    }
}
