//! Payload conventions: JSON objects and text end with a NUL, raw payloads are bytes as is.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::errno::Errno;
use crate::message::Message;

/// Why a payload is not what its reader expects. A service answers all of these with `EPROTO`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// There is no payload.
    #[error("message has no payload")]
    Missing,
    /// The last byte of the payload is not NUL.
    #[error("payload is not terminated by NUL")]
    NotTerminated,
    /// The payload is not UTF-8 text.
    #[error("payload is not UTF-8 text")]
    NotText,
    /// The payload is JSON, but the outermost value is not an object.
    #[error("payload is not a JSON object")]
    NotObject,
    /// The text is no JSON, or lacks a key, or a key has the wrong type.
    #[error("payload does not decode: {0}")]
    Json(String),
}

impl PayloadError {
    /// The error number for a response.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        Errno::EPROTO
    }
}

fn terminated(mut bytes: Vec<u8>) -> Bytes {
    bytes.push(0);
    Bytes::from(bytes)
}

impl Message {
    /// Sets the payload to `value` as JSON text and a final NUL.
    ///
    /// A value that JSON cannot express (a map whose keys are no strings) is an error of the
    /// program: the message then goes without payload, and as a response with `EINVAL`. See
    /// [`Message::try_with_json`] for values of outside origin.
    #[must_use]
    pub fn with_json<T: Serialize + ?Sized>(mut self, value: &T) -> Message {
        match serde_json::to_vec(value) {
            Ok(text) => self.set_payload(Some(terminated(text))),
            Err(_) => {
                self.set_payload(None);
                self.set_errnum(Errno::EINVAL);
            }
        }
        self
    }

    /// Sets the payload to `value` as JSON text and a final NUL.
    ///
    /// # Errors
    /// When JSON cannot express the value.
    pub fn try_with_json<T: Serialize + ?Sized>(
        mut self,
        value: &T,
    ) -> Result<Message, PayloadError> {
        let text = serde_json::to_vec(value).map_err(|e| PayloadError::Json(e.to_string()))?;
        self.set_payload(Some(terminated(text)));
        Ok(self)
    }

    /// Sets the payload to JSON text that exists already, and a final NUL.
    #[must_use]
    pub fn with_json_text(self, text: &str) -> Message {
        self.with_text(text)
    }

    /// Sets the payload to text and a final NUL.
    #[must_use]
    pub fn with_text(mut self, text: &str) -> Message {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        self.set_payload(Some(terminated(bytes)));
        self
    }

    /// Sets the payload to bytes as they are. Without bytes there is no payload.
    #[must_use]
    pub fn with_raw(mut self, bytes: impl Into<Bytes>) -> Message {
        let bytes = bytes.into();
        self.set_payload(if bytes.is_empty() { None } else { Some(bytes) });
        self
    }

    /// The payload as it is; empty when there is none.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        self.bytes().map_or(&[][..], |bytes| bytes)
    }

    /// The payload without its final NUL.
    ///
    /// # Errors
    /// When there is no payload or its last byte is not NUL.
    pub fn json_bytes(&self) -> Result<&[u8], PayloadError> {
        match self.bytes().map(|bytes| &**bytes) {
            None => Err(PayloadError::Missing),
            Some([text @ .., 0]) => Ok(text),
            Some(_) => Err(PayloadError::NotTerminated),
        }
    }

    /// The JSON object of the payload.
    ///
    /// # Errors
    /// When there is no payload, it has no final NUL, it is not a JSON object, or the object does
    /// not fit `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        let text = self.json_bytes()?;
        // Struct types would accept an array of their fields in order.
        match text.iter().find(|b| !b.is_ascii_whitespace()) {
            Some(b'{') => {}
            Some(_) => return Err(PayloadError::NotObject),
            None => return Err(PayloadError::Json("empty text".to_owned())),
        }
        serde_json::from_slice(text).map_err(|e| PayloadError::Json(e.to_string()))
    }

    /// The text of the payload without its final NUL.
    ///
    /// # Errors
    /// When there is no payload, it has no final NUL, or it is not UTF-8.
    pub fn text(&self) -> Result<&str, PayloadError> {
        std::str::from_utf8(self.json_bytes()?).map_err(|_| PayloadError::NotText)
    }

    /// The text that goes with a failed response: its payload when there is one, else the
    /// standard text of the error number.
    #[must_use]
    pub fn error_text(&self) -> &str {
        match self.text() {
            Ok(text) if !text.is_empty() => text,
            _ => self.errnum().text(),
        }
    }
}
