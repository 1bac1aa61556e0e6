//! Standard streams of jobs as eventlogs (RFC 24), and the data object they share with the
//! subprocess protocol (RFC 42).

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flux_id::Idset;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::eventlog::{Context, Event};

/// Why an event is no valid standard I/O event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StdioError {
    /// A key is missing, of the wrong type or out of range.
    #[error("standard i/o {event} event: invalid or missing {key}")]
    Key {
        /// Name of the event.
        event: &'static str,
        /// Key of the context.
        key: &'static str,
    },
    /// The header is of another version.
    #[error("standard i/o version {0} is not supported")]
    Version(i64),
    /// The encoding is neither `UTF-8` nor `base64`.
    #[error("standard i/o encoding '{0}' is unknown")]
    Encoding(String),
    /// The data is not what its encoding says.
    #[error("standard i/o data is not valid base64")]
    Base64,
    /// A data object has neither data nor eof.
    #[error("standard i/o data event has neither data nor eof")]
    Empty,
}

/// How data is written as a JSON string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// As it is.
    #[default]
    Utf8,
    /// In base64.
    Base64,
}

impl Encoding {
    /// Name as in events.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Utf8 => "UTF-8",
            Encoding::Base64 => "base64",
        }
    }

    /// The encoding that `data` needs: UTF-8, unless it is none or holds a NUL byte.
    pub fn needed_for(data: &[u8]) -> Self {
        if std::str::from_utf8(data).is_ok() && !data.contains(&0) {
            Encoding::Utf8
        } else {
            Encoding::Base64
        }
    }
}

impl FromStr for Encoding {
    type Err = StdioError;

    fn from_str(name: &str) -> Result<Self, StdioError> {
        match name {
            "UTF-8" | "utf-8" => Ok(Encoding::Utf8),
            "base64" => Ok(Encoding::Base64),
            _ => Err(StdioError::Encoding(name.chars().take(80).collect())),
        }
    }
}

/// A piece of a stream: the context of a `data` event, and the `io` object of RFC 42.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoData {
    /// Name of the stream, for example `stdout`.
    pub stream: String,
    /// Task ranks it is from or for: an idset, or `all`.
    pub rank: String,
    /// The bytes, if there are any.
    pub data: Option<Vec<u8>>,
    /// The stream ends here.
    pub eof: bool,
    /// Copies of the data that this piece stands for; at least 1.
    pub repeat: u32,
}

impl IoData {
    /// A piece with data.
    pub fn new(stream: &str, rank: &str, data: impl Into<Vec<u8>>) -> Self {
        let data = Some(data.into());
        IoData { stream: stream.to_owned(), rank: rank.to_owned(), data, eof: false, repeat: 1 }
    }

    /// The end of a stream, without data.
    pub fn end(stream: &str, rank: &str) -> Self {
        let (stream, rank) = (stream.to_owned(), rank.to_owned());
        IoData { stream, rank, data: None, eof: true, repeat: 1 }
    }

    /// The JSON object, with `encoding` only where the data is not in the default encoding.
    pub fn encode(&self, default: Encoding) -> Context {
        let mut object = Map::new();
        object.insert("stream".to_owned(), self.stream.as_str().into());
        object.insert("rank".to_owned(), self.rank.as_str().into());
        if let Some(data) = &self.data {
            let text = std::str::from_utf8(data).ok().filter(|text| !text.contains('\0'));
            let (text, encoding) = match (text, default) {
                (Some(text), Encoding::Utf8) => (text.to_owned(), Encoding::Utf8),
                _ => (BASE64.encode(data), Encoding::Base64),
            };
            object.insert("data".to_owned(), text.into());
            if encoding != default {
                object.insert("encoding".to_owned(), encoding.name().into());
            }
        }
        if self.eof {
            object.insert("eof".to_owned(), true.into());
        }
        if self.repeat != 1 {
            object.insert("repeat".to_owned(), self.repeat.into());
        }
        object
    }

    /// Reads the JSON object. Unknown keys are ignored.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn decode(object: &Context, default: Encoding) -> Result<Self, StdioError> {
        let bad = |key| StdioError::Key { event: "data", key };
        let encoding = match object.get("encoding") {
            None => default,
            Some(name) => name.as_str().ok_or(bad("encoding"))?.parse()?,
        };
        let data = match object.get("data") {
            None => None,
            Some(text) => {
                let text = text.as_str().ok_or(bad("data"))?;
                Some(match encoding {
                    Encoding::Utf8 => text.as_bytes().to_vec(),
                    Encoding::Base64 => BASE64.decode(text).map_err(|_| StdioError::Base64)?,
                })
            }
        };
        let eof = match object.get("eof") {
            None => false,
            Some(Value::Bool(eof)) => *eof,
            // The example of RFC 24 has a string.
            Some(Value::String(eof)) => eof.parse().map_err(|_| bad("eof"))?,
            Some(_) => return Err(bad("eof")),
        };
        if data.is_none() && !eof {
            return Err(StdioError::Empty);
        }
        let repeat = match object.get("repeat") {
            None => 1,
            Some(count) => match count.as_u64().map(u32::try_from) {
                Some(Ok(count)) if count > 0 => count,
                _ => return Err(bad("repeat")),
            },
        };
        let stream = text(object, "data", "stream")?.to_owned();
        let rank = text(object, "data", "rank")?.to_owned();
        Ok(IoData { stream, rank, data, eof, repeat })
    }

    /// The task ranks of this piece; `None` means all.
    ///
    /// # Errors
    /// [`StdioError::Key`] if the rank is neither an idset nor `all`.
    pub fn ranks(&self) -> Result<Option<Idset>, StdioError> {
        if self.rank == "all" {
            return Ok(None);
        }
        let ranks = self.rank.parse::<Idset>();
        ranks.map(Some).map_err(|_| StdioError::Key { event: "data", key: "rank" })
    }
}

/// As the `io` object of RFC 42, whose default encoding is UTF-8.
impl Serialize for IoData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.encode(Encoding::Utf8).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for IoData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Context::deserialize(deserializer)?;
        IoData::decode(&object, Encoding::Utf8).map_err(serde::de::Error::custom)
    }
}

/// Context of the `header` event, which comes first and once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Header {
    /// Default encoding of each stream, by name.
    pub encoding: Vec<(String, Encoding)>,
    /// Number of open streams of each name.
    pub count: Vec<(String, u32)>,
    /// Options; none are defined yet.
    pub options: Context,
}

impl Header {
    /// A header for streams in UTF-8, each open `count` times.
    pub fn new(streams: &[&str], count: u32) -> Self {
        Header {
            encoding: streams.iter().map(|&name| (name.to_owned(), Encoding::Utf8)).collect(),
            count: streams.iter().map(|&name| (name.to_owned(), count)).collect(),
            options: Context::new(),
        }
    }

    /// Default encoding of a stream; `None` if the header does not name it.
    pub fn encoding_of(&self, stream: &str) -> Option<Encoding> {
        self.encoding.iter().find(|(name, _)| name == stream).map(|&(_, encoding)| encoding)
    }

    fn encode(&self) -> Context {
        let mut context = Context::new();
        let encoding = self.encoding.iter().map(|(name, e)| (name.clone(), e.name().into()));
        let count = self.count.iter().map(|(name, count)| (name.clone(), (*count).into()));
        context.insert("version".to_owned(), 1.into());
        context.insert("encoding".to_owned(), Value::Object(encoding.collect()));
        context.insert("count".to_owned(), Value::Object(count.collect()));
        context.insert("options".to_owned(), Value::Object(self.options.clone()));
        context
    }

    fn decode(context: &Context) -> Result<Self, StdioError> {
        let bad = |key| StdioError::Key { event: "header", key };
        let version = context.get("version").and_then(Value::as_i64).ok_or(bad("version"))?;
        if version != 1 {
            return Err(StdioError::Version(version));
        }
        let object = |key| context.get(key).and_then(Value::as_object).ok_or(bad(key));
        let mut header = Header { options: object("options")?.clone(), ..Header::default() };
        for (name, encoding) in object("encoding")? {
            let encoding = encoding.as_str().ok_or(bad("encoding"))?.parse()?;
            header.encoding.push((name.clone(), encoding));
        }
        for (name, count) in object("count")? {
            let count = count.as_u64().and_then(|count| u32::try_from(count).ok());
            header.count.push((name.clone(), count.ok_or(bad("count"))?));
        }
        Ok(header)
    }
}

/// Context of a `redirect` event: the stream goes elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// Name of the stream.
    pub stream: String,
    /// Task ranks: an idset, or `all`. Required by RFC 24 but absent from its example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<String>,
    /// File it goes to or comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Context of a `log` event: a message of a job shell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Log {
    /// Shell rank, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<i64>,
    /// RFC 5424 severity, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// The message.
    pub message: String,
    /// Shell component or plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// Source file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Source line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<i64>,
    /// Program, if other than `flux-shell`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

/// A typed event of an `input` or `output` log.
#[derive(Debug, Clone, PartialEq)]
pub enum StdioEvent {
    /// The first event.
    Header(Header),
    /// Data or end of a stream.
    Data(IoData),
    /// A stream goes elsewhere.
    Redirect(Redirect),
    /// A message of a job shell.
    Log(Log),
    /// An event of another name, which readers skip.
    Other(String),
}

impl StdioEvent {
    /// Reads an event of a log with this header (default encoding UTF-8 where it is not known yet).
    ///
    /// # Errors
    /// What is missing or wrong in an event of a known name.
    pub fn decode(event: &Event, header: Option<&Header>) -> Result<Self, StdioError> {
        let empty = Context::new();
        let context = event.context.as_ref().unwrap_or(&empty);
        Ok(match event.name.as_str() {
            "header" => StdioEvent::Header(Header::decode(context)?),
            "data" => {
                let stream = text(context, "data", "stream")?;
                let default = header.and_then(|header| header.encoding_of(stream));
                StdioEvent::Data(IoData::decode(context, default.unwrap_or_default())?)
            }
            "redirect" => {
                let field = |key| optional_text(context, "redirect", key);
                StdioEvent::Redirect(Redirect {
                    stream: text(context, "redirect", "stream")?.to_owned(),
                    rank: field("rank")?,
                    path: field("path")?,
                })
            }
            "log" => StdioEvent::Log(decode_log(context)?),
            name => StdioEvent::Other(name.to_owned()),
        })
    }

    /// The event, ready to be appended to a log with this header.
    pub fn encode(&self, timestamp: f64, header: Option<&Header>) -> Event {
        let (name, context) = match self {
            StdioEvent::Header(header) => ("header", header.encode()),
            StdioEvent::Data(data) => {
                let default = header.and_then(|header| header.encoding_of(&data.stream));
                ("data", data.encode(default.unwrap_or_default()))
            }
            StdioEvent::Redirect(redirect) => ("redirect", object(redirect)),
            StdioEvent::Log(log) => ("log", object(log)),
            StdioEvent::Other(name) => return Event::new(timestamp, name.as_str()),
        };
        Event::new(timestamp, name).with_context(context)
    }
}

fn object(value: &impl Serialize) -> Context {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        _ => unreachable!("a struct with string keys is a JSON object"),
    }
}

fn text<'a>(
    context: &'a Context,
    event: &'static str,
    key: &'static str,
) -> Result<&'a str, StdioError> {
    context.get(key).and_then(Value::as_str).ok_or(StdioError::Key { event, key })
}

fn optional_text(
    context: &Context,
    event: &'static str,
    key: &'static str,
) -> Result<Option<String>, StdioError> {
    match context.get(key) {
        None => Ok(None),
        Some(_) => text(context, event, key).map(|text| Some(text.to_owned())),
    }
}

fn decode_log(context: &Context) -> Result<Log, StdioError> {
    let bad = |key| StdioError::Key { event: "log", key };
    let field = |key| optional_text(context, "log", key);
    let number = |key: &'static str| match context.get(key) {
        None => Ok(None),
        Some(number) => number.as_i64().map(Some).ok_or(bad(key)),
    };
    let level = match number("level")? {
        Some(level @ 0..=7) => level as u8,
        _ => return Err(bad("level")),
    };
    Ok(Log {
        rank: number("rank")?,
        level,
        message: text(context, "log", "message")?.to_owned(),
        component: field("component")?,
        file: field("file")?,
        line: number("line")?,
        program: field("program")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(line: &str) -> Event {
        Event::decode(line).unwrap()
    }

    const HEADER: &str = r#"{"timestamp":1.0,"name":"header","context":{"version":1,"encoding":{"stdout":"base64","stderr":"UTF-8"},"count":{"stdout":2,"stderr":2},"options":{}}}"#;

    #[test]
    fn events_have_the_documented_json() {
        let StdioEvent::Header(header) = StdioEvent::decode(&event(HEADER), None).unwrap() else {
            panic!("no header")
        };
        assert_eq!(header.encoding_of("stdout"), Some(Encoding::Base64));
        assert_eq!(header.encoding_of("stdin"), None);
        for line in [
            HEADER,
            r#"{"timestamp":1.0,"name":"data","context":{"stream":"stdout","rank":"31","data":"bWVlcAo=","eof":true}}"#,
            r#"{"timestamp":1.0,"name":"data","context":{"stream":"stderr","rank":"[0-1]","data":"x\n","repeat":3}}"#,
            r#"{"timestamp":1.0,"name":"data","context":{"stream":"stderr","rank":"all","data":"AA==","encoding":"base64"}}"#,
            r#"{"timestamp":1.0,"name":"redirect","context":{"stream":"stdout","rank":"[0-1]","path":"job.output"}}"#,
            r#"{"timestamp":1.0,"name":"log","context":{"rank":0,"level":3,"message":"m","component":"c","file":"f.c","line":7}}"#,
        ] {
            let typed = StdioEvent::decode(&event(line), Some(&header)).unwrap();
            assert_eq!(typed.encode(1.0, Some(&header)).encode().trim_end(), line);
        }
    }

    #[test]
    fn the_header_of_a_shell_has_the_documented_key_order() {
        let header = StdioEvent::Header(Header::new(&["stdout", "stderr"], 1));
        assert_eq!(
            header.encode(1.0, None).to_text(),
            r#"1.000000 header version=1 encoding={"stdout":"UTF-8","stderr":"UTF-8"} count={"stdout":1,"stderr":1} options={}"#
        );
    }

    #[test]
    fn the_eof_of_the_rfc_example_may_be_a_string() {
        let line = r#"{"timestamp":1.0,"name":"data","context":{"stream":"stdout","rank":"31","data":"meep","eof":"true"}}"#;
        match StdioEvent::decode(&event(line), None).unwrap() {
            StdioEvent::Data(data) => assert!(data.eof && data.data.as_deref() == Some(b"meep")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ranks_are_an_idset_or_all() {
        let ranks = |rank: &str| IoData::end("stdout", rank).ranks();
        assert_eq!(ranks("all"), Ok(None));
        assert_eq!(ranks("[0-1]"), Ok(Some("0-1".parse().unwrap())));
        assert!(ranks("some").is_err());
    }

    #[test]
    fn bad_events_are_refused() {
        for (name, context) in [
            ("header", r#"{}"#),
            ("header", r#"{"version":2,"encoding":{},"count":{},"options":{}}"#),
            ("header", r#"{"version":1,"encoding":{"stdout":"x"},"count":{},"options":{}}"#),
            ("header", r#"{"version":1,"encoding":{},"count":{"stdout":-1},"options":{}}"#),
            ("data", r#"{"stream":"stdout","rank":"0"}"#),
            ("data", r#"{"stream":"stdout","rank":0,"data":""}"#),
            ("data", r#"{"rank":"0","data":""}"#),
            ("data", r#"{"stream":"stdout","rank":"0","data":"*","encoding":"base64"}"#),
            ("data", r#"{"stream":"stdout","rank":"0","data":"","encoding":"latin1"}"#),
            ("data", r#"{"stream":"stdout","rank":"0","data":"","repeat":0}"#),
            ("data", r#"{"stream":"stdout","rank":"0","eof":1}"#),
            ("redirect", r#"{"path":"x"}"#),
            ("log", r#"{"level":8,"message":"m"}"#),
            ("log", r#"{"level":1}"#),
        ] {
            let event = Event::new(1.0, name).with_context(serde_json::from_str(context).unwrap());
            assert!(StdioEvent::decode(&event, None).is_err(), "{name} {context}");
        }
        let other = StdioEvent::decode(&Event::new(1.0, "x"), None).unwrap();
        assert_eq!(other, StdioEvent::Other("x".to_owned()));
    }

    proptest! {
        #[test]
        fn any_bytes_round_trip(bytes: Vec<u8>, text: String, base64: bool, eof: bool) {
            let default = if base64 { Encoding::Base64 } else { Encoding::Utf8 };
            for data in [bytes, text.into_bytes()] {
                let mut io = IoData::new("stdout", "0", data);
                io.eof = eof;
                prop_assert_eq!(&IoData::decode(&io.encode(default), default).unwrap(), &io);
                let json = serde_json::to_string(&io).unwrap();
                prop_assert_eq!(&serde_json::from_str::<IoData>(&json).unwrap(), &io);
            }
        }
    }
}
