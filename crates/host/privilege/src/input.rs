//! The input of `exec`: `{"J": "...", "options": {...}}`, and how it goes from the process that
//! decodes it to the one that acts on it.

use std::io::{self, Read, Write};

use serde::Deserialize;
use serde_json::{Map, Value};

/// Largest J, in bytes.
pub const J_MAX: usize = 32 << 20;

/// Largest input: a J in which each byte is escaped would be longer, and is not base64.
pub const INPUT_MAX: usize = J_MAX + (1 << 20);

/// Why input is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Too long.
    #[error("input is larger than {INPUT_MAX} bytes")]
    TooLarge,
    /// Not what is expected.
    #[error("input: {0}")]
    Json(String),
    /// It could not be read.
    #[error("input: {0}")]
    Read(String),
    /// The reading process said nothing.
    #[error("input could not be read")]
    Nothing,
}

/// What the instance owner hands over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The signed request.
    pub j: String,
    /// Whether the options ask for device containment.
    pub containment: bool,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "J")]
    j: String,
    #[serde(default)]
    options: Option<Map<String, Value>>,
}

impl Input {
    /// Decodes JSON text.
    ///
    /// # Errors
    /// It is too long, or no object with a string J.
    pub fn decode(text: &[u8]) -> Result<Self, InputError> {
        if text.len() > INPUT_MAX {
            return Err(InputError::TooLarge);
        }
        let raw: Raw =
            serde_json::from_slice(text).map_err(|error| InputError::Json(error.to_string()))?;
        if raw.j.len() > J_MAX {
            return Err(InputError::TooLarge);
        }
        let options = raw.options.unwrap_or_default();
        let containment =
            options.get("DeviceAllow").is_some_and(|list| list != &Value::Array(Vec::new()))
                || options.get("DevicePolicy").is_some_and(|policy| policy != "auto");
        Ok(Self { j: raw.j, containment })
    }

    /// Reads all of a stream, within the bound, and decodes it.
    ///
    /// # Errors
    /// As [`Input::decode`], or the stream fails.
    pub fn read(stream: impl Read) -> Result<Self, InputError> {
        let mut text = Vec::new();
        stream
            .take(INPUT_MAX as u64 + 1)
            .read_to_end(&mut text)
            .map_err(|error| InputError::Read(error.to_string()))?;
        Self::decode(&text)
    }

    /// Writes one byte of options, then J, to the end.
    ///
    /// # Errors
    /// The other side is gone.
    pub fn send(&self, mut to: impl Write) -> io::Result<()> {
        to.write_all(&[u8::from(self.containment)])?;
        to.write_all(self.j.as_bytes())?;
        to.flush()
    }

    /// Reads what [`Input::send`] has written. The writer is not trusted.
    ///
    /// # Errors
    /// It is too long, empty, or malformed.
    pub fn receive(from: impl Read) -> Result<Self, InputError> {
        let mut bytes = Vec::new();
        from.take(J_MAX as u64 + 2)
            .read_to_end(&mut bytes)
            .map_err(|error| InputError::Read(error.to_string()))?;
        let (flag, j) = bytes.split_first().ok_or(InputError::Nothing)?;
        if j.len() > J_MAX {
            return Err(InputError::TooLarge);
        }
        if *flag > 1 {
            return Err(InputError::Json("malformed".to_string()));
        }
        let j = String::from_utf8(j.to_vec())
            .map_err(|_| InputError::Json("J is not UTF-8".to_string()))?;
        Ok(Self { j, containment: *flag == 1 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn j_is_taken_and_unknown_keys_are_ignored() {
        let input = Input::decode(br#"{"J":"a.b.c","R":{},"options":{"x":1}}"#).unwrap();
        assert_eq!(input, Input { j: "a.b.c".into(), containment: false });
    }

    #[test]
    fn containment_is_seen_whatever_form_it_has() {
        for (options, wanted) in [
            (r#"{"DeviceAllow":[["/dev/null","rw"]]}"#, true),
            (r#"{"DeviceAllow":"all"}"#, true),
            (r#"{"DevicePolicy":"strict"}"#, true),
            (r#"{"DevicePolicy":7}"#, true),
            (r#"{"DevicePolicy":"auto"}"#, false),
            (r#"{"DeviceAllow":[]}"#, false),
        ] {
            let text = format!(r#"{{"J":"x","options":{options}}}"#);
            assert_eq!(Input::decode(text.as_bytes()).unwrap().containment, wanted, "{options}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let deep = format!(r#"{{"J":"x","options":{}"#, r#"{"a":"#.repeat(100_000));
        let texts = [
            "",
            "{}",
            "[]",
            r#"{"J":1}"#,
            r#"{"J":"x"} y"#,
            r#"{"J":"x","J":"y"}"#,
            r#"{"J":null}"#,
        ];
        for text in texts.into_iter().chain([deep.as_str()]) {
            let short: String = text.chars().take(40).collect();
            assert!(matches!(Input::decode(text.as_bytes()), Err(InputError::Json(_))), "{short}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_looked_at() {
        assert_eq!(Input::read(io::repeat(b'a')), Err(InputError::TooLarge));
        assert_eq!(Input::receive(io::repeat(1)), Err(InputError::TooLarge));
        assert_eq!(Input::receive(io::empty()), Err(InputError::Nothing));
    }

    proptest! {
        #[test]
        fn input_arrives_as_it_was_sent(j: String, containment: bool) {
            let input = Input { j, containment };
            let mut wire = Vec::new();
            input.send(&mut wire).unwrap();
            prop_assert_eq!(Input::receive(wire.as_slice()).unwrap(), input);
        }

        #[test]
        fn decoding_never_panics(bytes: Vec<u8>) {
            drop(Input::decode(&bytes));
            drop(Input::receive(bytes.as_slice()));
        }
    }
}
