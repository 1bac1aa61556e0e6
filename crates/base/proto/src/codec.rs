//! Messages as bytes: parts, body and stream frames.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::cred::{Cred, Rolemask};
use crate::errno::Errno;
use crate::flags::Flags;
use crate::message::{Message, MsgType};
use crate::route::RouteId;

/// What every message on a stream begins with.
pub const MAGIC: [u8; 4] = [0x12, 0x00, 0xee, 0xff];

/// Bytes before the body on a stream: magic and length.
pub const HEADER_LEN: usize = 8;

/// The largest body in bytes that is sent, and accepted unless a [`Decoder`] is told otherwise:
/// 1 GiB for the largest content, and some for what goes with it.
pub const DEFAULT_MAX_BODY: usize = (1 << 30) + (1 << 20);

/// The largest number of hops that is accepted.
pub const MAX_ROUTES: usize = 1 << 16;

const PROTO_LEN: usize = 20;
const PROTO_MAGIC: u8 = 0x8e;
const PROTO_VERSION: u8 = 1;

/// Payloads up to this size are copied out of the receive buffer: that costs less than keeping
/// the buffer alive for as long as somebody holds the payload.
const COPY_MAX: usize = 1024;

/// Why bytes are not a message. The connection they came from cannot be used any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The stream does not go on with a message.
    #[error("message does not begin with the magic bytes")]
    Magic,
    /// A body of length 0.
    #[error("message has no body")]
    Empty,
    /// A body beyond the limit.
    #[error("message body of {len} bytes exceeds the limit of {max}")]
    TooLarge {
        /// Announced length in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// A part runs past the end of the body.
    #[error("message part runs past the end of the body")]
    Truncated,
    /// The last part is not 20 bytes.
    #[error("message proto part has the wrong length")]
    ProtoLength,
    /// The last part has the wrong magic.
    #[error("message proto part has the wrong magic")]
    ProtoMagic,
    /// The protocol version is not 1.
    #[error("message has unsupported protocol version {0}")]
    Version(u8),
    /// Not exactly one type bit.
    #[error("message has invalid type {0}")]
    Type(u8),
    /// Fewer parts than the flags announce.
    #[error("message has fewer parts than its flags require")]
    MissingPart,
    /// The topic is not UTF-8.
    #[error("message topic is not UTF-8 text")]
    Topic,
    /// More than [`MAX_ROUTES`] hops.
    #[error("message has more than {MAX_ROUTES} route ids")]
    Routes,
}

impl CodecError {
    /// The error number: `EINVAL` for a broken part, `EMSGSIZE` for size, else `EPROTO`.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            CodecError::Truncated => Errno::EINVAL,
            CodecError::TooLarge { .. } => Errno::EMSGSIZE,
            _ => Errno::EPROTO,
        }
    }
}

const fn part_len(data: usize) -> usize {
    data + if data < 255 { 1 } else { 5 }
}

fn put_part(out: &mut BytesMut, data: &[u8]) {
    match u8::try_from(data.len()) {
        Ok(len) if len < 255 => out.put_u8(len),
        _ => {
            out.put_u8(255);
            // The body limit has been checked and is below 4 GiB.
            out.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
        }
    }
    out.put_slice(data);
}

/// The payload as it is sent: an empty one is none.
fn sent_payload(message: &Message) -> Option<&Bytes> {
    message.bytes().filter(|p| !p.is_empty())
}

fn sent_flags(message: &Message) -> Flags {
    let mut flags = message.flags;
    flags.set(Flags::TOPIC, message.topic.is_some());
    flags.set(Flags::PAYLOAD, sent_payload(message).is_some());
    if !message.routes.is_empty() {
        flags.insert(Flags::ROUTE);
    }
    flags
}

/// The length in bytes of the body of `message`.
#[must_use]
pub fn body_len(message: &Message) -> usize {
    let mut len = part_len(PROTO_LEN);
    if sent_flags(message).contains(Flags::ROUTE) {
        let ids = message.routes.iter().map(|id| id.as_bytes().len()).filter(|n| *n > 0);
        len += ids.map(part_len).sum::<usize>() + 1;
    }
    if let Some(topic) = &message.topic {
        len += part_len(topic.len());
    }
    if let Some(payload) = sent_payload(message) {
        len += part_len(payload.len());
    }
    len
}

/// The message that is sent in place of one beyond [`DEFAULT_MAX_BODY`]: no payload, and
/// `EOVERFLOW` for a response, so that the requester learns why.
fn without_payload(message: &Message) -> Message {
    let mut short = Message { payload: None, body: None, ..message.clone() };
    short.set_errnum(Errno::EOVERFLOW);
    short
}

fn put_body(message: &Message, out: &mut BytesMut) {
    let flags = sent_flags(message);
    if flags.contains(Flags::ROUTE) {
        for id in message.routes.iter().rev().filter(|id| !id.as_bytes().is_empty()) {
            put_part(out, id.as_bytes());
        }
        out.put_u8(0);
    }
    if let Some(topic) = &message.topic {
        put_part(out, topic.as_bytes());
    }
    if let Some(payload) = sent_payload(message) {
        put_part(out, payload);
    }
    let mut proto = [0; PROTO_LEN];
    proto[..4].copy_from_slice(&[PROTO_MAGIC, PROTO_VERSION, message.kind.bit(), flags.0]);
    proto[4..8].copy_from_slice(&message.cred.userid.to_be_bytes());
    proto[8..12].copy_from_slice(&message.cred.rolemask.0.to_be_bytes());
    proto[12..16].copy_from_slice(&message.aux1.to_be_bytes());
    proto[16..].copy_from_slice(&message.aux2.to_be_bytes());
    put_part(out, &proto);
}

/// Appends the body of `message` without magic and length.
///
/// A message whose body would exceed [`DEFAULT_MAX_BODY`] goes without its payload, and a
/// response then says `EOVERFLOW`.
pub fn encode_body_into(message: &Message, out: &mut BytesMut) {
    let len = body_len(message);
    if len > DEFAULT_MAX_BODY {
        put_body(&without_payload(message), out);
    } else {
        out.reserve(len);
        put_body(message, out);
    }
}

/// The body of `message` without magic and length. See [`encode_body_into`] about size.
#[must_use]
pub fn encode_body(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    encode_body_into(message, &mut out);
    out.freeze()
}

/// Appends `message` as it is on a stream. See [`encode_body_into`] about size.
pub fn encode_into(message: &Message, out: &mut BytesMut) {
    let len = body_len(message);
    if len > DEFAULT_MAX_BODY {
        return encode_into(&without_payload(message), out);
    }
    out.reserve(HEADER_LEN + len);
    out.put_slice(&MAGIC);
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    put_body(message, out);
}

/// `message` as it is on a stream. See [`encode_body_into`] about size.
#[must_use]
pub fn encode(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    encode_into(message, &mut out);
    out.freeze()
}

/// Takes the part at `pos`; the range of its data. Nothing is left after `pos` = `body.len()`.
fn part_at(body: &[u8], pos: usize) -> Result<std::ops::Range<usize>, CodecError> {
    let (start, len) = match body.get(pos).copied() {
        None => return Err(CodecError::MissingPart),
        Some(255) => {
            let bytes = body.get(pos + 1..pos + 5).ok_or(CodecError::Truncated)?;
            let long = bytes.iter().fold(0_u64, |n, b| n << 8 | u64::from(*b));
            (pos + 5, usize::try_from(long).map_err(|_| CodecError::Truncated)?)
        }
        Some(len) => (pos + 1, usize::from(len)),
    };
    let end = start.checked_add(len).filter(|end| *end <= body.len());
    Ok(start..end.ok_or(CodecError::Truncated)?)
}

fn word(proto: &[u8], at: usize) -> u32 {
    proto[at..at + 4].iter().fold(0, |n, b| n << 8 | u32::from(*b))
}

/// Reads the body of a message, without magic and length.
///
/// # Errors
/// When the bytes are not exactly one message.
pub fn decode_body(body: Bytes) -> Result<Message, CodecError> {
    if body.is_empty() {
        return Err(CodecError::Empty);
    }
    // The flags are in the last part: find it first, then give the others their meaning.
    let mut last_at = 0;
    let mut last = part_at(&body, 0)?;
    while last.end < body.len() {
        last_at = last.end;
        last = part_at(&body, last_at)?;
    }
    let proto = &body[last];
    if proto.len() != PROTO_LEN {
        return Err(CodecError::ProtoLength);
    }
    if proto[0] != PROTO_MAGIC {
        return Err(CodecError::ProtoMagic);
    }
    if proto[1] != PROTO_VERSION {
        return Err(CodecError::Version(proto[1]));
    }
    let kind = MsgType::from_bit(proto[2]).ok_or(CodecError::Type(proto[2]))?;
    let flags = Flags(proto[3]);
    let cred = Cred { userid: word(proto, 4), rolemask: Rolemask(word(proto, 8)) };
    let (aux1, aux2) = (word(proto, 12), word(proto, 16));

    let front = &body[..last_at];
    let mut pos = 0;
    let mut next = || {
        let part = part_at(front, pos)?;
        pos = part.end;
        Ok(part)
    };
    let mut routes = Vec::new();
    if flags.contains(Flags::ROUTE) {
        loop {
            let part = next()?;
            if part.is_empty() {
                break;
            }
            if routes.len() == MAX_ROUTES {
                return Err(CodecError::Routes);
            }
            routes.push(RouteId::from_bytes(&front[part]));
        }
        routes.reverse();
    }
    let mut topic = None;
    if flags.contains(Flags::TOPIC) {
        let text = std::str::from_utf8(&front[next()?]).map_err(|_| CodecError::Topic)?;
        topic = Some(Arc::from(text));
    }
    let mut payload = None;
    if flags.contains(Flags::PAYLOAD) {
        let part = next()?;
        payload = Some(if part.len() <= COPY_MAX {
            Bytes::copy_from_slice(&front[part])
        } else {
            body.slice(part)
        });
    }
    Ok(Message { kind, flags, cred, aux1, aux2, routes, topic, payload, body: None })
}

/// Cuts a byte stream into messages.
///
/// The caller appends what it receives to a buffer and calls [`Decoder::next`] until it gives
/// nothing. Memory grows with the bytes that have arrived, never with what a header announces.
#[derive(Debug, Clone)]
pub struct Decoder {
    max_body: usize,
    failed: Option<CodecError>,
}

impl Decoder {
    /// A decoder with the limit [`DEFAULT_MAX_BODY`].
    #[must_use]
    pub fn new() -> Decoder {
        Decoder::with_max_body(DEFAULT_MAX_BODY)
    }

    /// A decoder that refuses bodies of more than `max_body` bytes.
    #[must_use]
    pub fn with_max_body(max_body: usize) -> Decoder {
        Decoder { max_body, failed: None }
    }

    /// Takes the next complete message off the front of `buf`; nothing when more bytes are
    /// needed.
    ///
    /// # Errors
    /// When the stream is not a sequence of messages. The first error stays: where the next
    /// message would begin is unknown then.
    #[allow(clippy::should_implement_trait, reason = "not an iterator: it is fed between calls")]
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Option<Message>, CodecError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.take(buf);
        if let Err(error) = result {
            self.failed = Some(error);
        }
        result
    }

    fn take(&self, buf: &mut BytesMut) -> Result<Option<Message>, CodecError> {
        let seen = buf.len().min(MAGIC.len());
        if buf[..seen] != MAGIC[..seen] {
            return Err(CodecError::Magic);
        }
        let Some(header) = buf.get(..HEADER_LEN) else {
            return Ok(None);
        };
        let announced = word(header, 4);
        if announced == 0 {
            return Err(CodecError::Empty);
        }
        let too_large =
            CodecError::TooLarge { len: u64::from(announced), max: self.max_body as u64 };
        let len = usize::try_from(announced).map_err(|_| too_large)?;
        if len > self.max_body {
            return Err(too_large);
        }
        if buf.len() - HEADER_LEN < len {
            return Ok(None);
        }
        buf.advance(HEADER_LEN);
        decode_body(buf.split_to(len).freeze()).map(Some)
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::new()
    }
}
