//! The codec against recorded messages.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use flux_proto::codec::{HEADER_LEN, body_len};
use flux_proto::{Decoder, Flags, Message, decode_body, encode, encode_body};
use serde_json::Value;

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn part(data: &[u8]) -> Vec<u8> {
    let mut out = match u8::try_from(data.len()) {
        Ok(len) if len < 255 => vec![len],
        _ => {
            let len = u32::try_from(data.len()).unwrap().to_be_bytes();
            vec![255, len[0], len[1], len[2], len[3]]
        }
    };
    out.extend_from_slice(data);
    out
}

/// The body and, when recorded on a stream, the whole message.
fn bytes_of(vector: &Value) -> (Bytes, Option<Bytes>) {
    match vector["hex"].as_str() {
        Some(hex) => {
            let stream = Bytes::from(unhex(hex));
            (stream.slice(HEADER_LEN..), Some(stream))
        }
        None => {
            let frames = vector["frames"].as_array().unwrap();
            let body = frames.iter().flat_map(|f| part(&unhex(f.as_str().unwrap())));
            (body.collect::<Vec<u8>>().into(), None)
        }
    }
}

fn vectors() -> Vec<Value> {
    serde_json::from_str(include_str!("../golden/vectors.json")).unwrap()
}

fn stream_of(stream: &Bytes) -> Message {
    let mut buf = BytesMut::from(&stream[..]);
    let message = Decoder::new().next(&mut buf).unwrap().unwrap();
    assert!(buf.is_empty());
    message
}

#[test]
fn recorded_messages_decode_to_their_fields_and_encode_to_their_bytes() {
    let vectors = vectors();
    assert!(vectors.len() > 80);
    for vector in &vectors {
        let (body, stream) = bytes_of(vector);
        let message = decode_body(body.clone()).unwrap();
        assert_eq!(u32::from(message.kind.bit()), number(&vector["type"]), "{vector}");
        assert_eq!(u32::from(message.flags.0), number(&vector["flags"]), "{vector}");
        assert_eq!(message.cred.userid, number(&vector["cred"][0]), "{vector}");
        assert_eq!(message.cred.rolemask.0, number(&vector["cred"][1]), "{vector}");
        assert_eq!(message.aux1, number(&vector["aux"][0]), "{vector}");
        assert_eq!(message.aux2, number(&vector["aux"][1]), "{vector}");
        let newest_first: Vec<_> =
            message.routes.iter().rev().map(|id| Value::from(id.to_string())).collect();
        assert_eq!(&newest_first, vector["routes"].as_array().unwrap(), "{vector}");
        assert_eq!(message.topic.as_deref(), vector["topic"].as_str(), "{vector}");
        assert_eq!(
            message.payload.as_deref(),
            vector["payload"].as_str().map(unhex).as_deref(),
            "{vector}"
        );
        assert_eq!(encode_body(&message), body, "{vector}");
        assert_eq!(body_len(&message), body.len());
        if let Some(stream) = stream {
            assert_eq!(stream_of(&stream), message);
            assert_eq!(encode(&message), stream, "{vector}");
        }
    }
}

#[test]
fn streams_split_at_every_position_give_the_same_messages() {
    let mut streams: BTreeMap<String, (Vec<u8>, Vec<Message>)> = BTreeMap::new();
    for vector in vectors() {
        if let (_, Some(bytes)) = bytes_of(&vector) {
            let name = vector["stream"].as_str().unwrap().to_owned();
            let entry = streams.entry(name).or_default();
            entry.0.extend_from_slice(&bytes);
            entry.1.push(stream_of(&bytes));
        }
    }
    for (name, (bytes, expected)) in &streams {
        for at in 0..=bytes.len() {
            let (mut decoder, mut buf) = (Decoder::new(), BytesMut::new());
            let mut messages = Vec::new();
            for piece in [&bytes[..at], &bytes[at..]] {
                buf.extend_from_slice(piece);
                while let Some(message) = decoder.next(&mut buf).unwrap() {
                    messages.push(message);
                }
            }
            assert_eq!(&messages, expected, "{name} split at {at}");
            assert!(buf.is_empty());
        }
        // And byte by byte.
        let (mut decoder, mut buf) = (Decoder::new(), BytesMut::new());
        let mut messages = Vec::new();
        for byte in bytes {
            buf.extend_from_slice(&[*byte]);
            messages.extend(decoder.next(&mut buf).unwrap());
        }
        assert_eq!(&messages, expected, "{name} byte by byte");
    }
}

#[test]
fn truncated_bodies_are_refused_and_truncated_streams_wait() {
    for vector in vectors() {
        let (body, stream) = bytes_of(&vector);
        for len in 0..body.len() {
            assert!(decode_body(body.slice(..len)).is_err(), "{len} bytes of {vector}");
        }
        let Some(stream) = stream else { continue };
        for len in 0..stream.len() {
            let mut buf = BytesMut::from(&stream[..len]);
            assert_eq!(Decoder::new().next(&mut buf), Ok(None));
        }
    }
}

#[test]
fn changed_bytes_never_break_the_decoder() {
    for vector in vectors() {
        let (body, stream) = bytes_of(&vector);
        let original = decode_body(body.clone()).unwrap();
        let mut bytes = body.to_vec();
        for at in 0..bytes.len() {
            let kept = bytes[at];
            let some = [0, 1, 20, 254, 255, kept ^ 1, kept ^ 0x80, kept.wrapping_add(1)];
            let all: Vec<u8> = (0..=255).collect();
            // Lengths and the proto part decide most.
            let decisive = at < 45 || at + 21 >= bytes.len();
            for &changed in if decisive { &all[..] } else { &some[..] } {
                bytes[at] = changed;
                if let Ok(message) = decode_body(Bytes::copy_from_slice(&bytes))
                    && changed != kept
                {
                    // What decodes differently encodes to something that decodes the same.
                    assert_ne!(message, original, "byte {at} of {vector}");
                    let again = decode_body(encode_body(&message)).unwrap();
                    assert_eq!(
                        again.flags.0 | Flags::PAYLOAD.0,
                        message.flags.0 | Flags::PAYLOAD.0
                    );
                    assert_eq!(again.raw(), message.raw());
                    assert_eq!((again.aux1, again.topic), (message.aux1, message.topic));
                }
            }
            bytes[at] = kept;
        }
        let Some(stream) = stream else { continue };
        for at in 0..HEADER_LEN {
            for changed in 0..=255 {
                let mut buf = BytesMut::from(&stream[..]);
                buf[at] = changed;
                let result = Decoder::new().next(&mut buf);
                let same = changed == stream[at];
                assert_eq!(result.is_ok_and(|m| m.as_ref() == Some(&original)), same);
            }
        }
    }
}

/// Reads the recordings in their original form, where the tree that holds them is present.
#[test]
#[allow(clippy::disallowed_methods, clippy::print_stderr, reason = "a test reads optional files")]
fn shared_recordings_round_trip_when_present() {
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../../shared/spec/golden");
    let Ok(files) = std::fs::read_dir(place) else {
        eprintln!("skipped: no shared recordings beside this source tree");
        return;
    };
    let mut count = 0;
    for file in files {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let recording: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let connections = recording["connections"].as_array().into_iter().flatten();
        let on_streams = connections.flat_map(|c| c["messages"].as_array().unwrap());
        for recorded in on_streams.chain(recording["messages"].as_array().into_iter().flatten()) {
            let (body, stream) = bytes_of(recorded);
            let message = decode_body(body.clone()).unwrap();
            let decoded = &recorded["decoded"];
            assert_eq!(message.kind.name(), decoded["type"], "{path:?}");
            assert_eq!(
                Value::from(message.flags.names().collect::<Vec<_>>()),
                decoded["flag_names"]
            );
            assert_eq!(message.topic.as_deref(), decoded["topic"].as_str(), "{path:?}");
            if let Some(text) = decoded["payload_string"].as_str() {
                assert_eq!(message.text(), Ok(text), "{path:?}");
            }
            if let Some(len) = decoded["payload_len"].as_u64() {
                assert_eq!(message.raw().len() as u64, len, "{path:?}");
            }
            for (key, value) in [
                ("nodeid", message.nodeid()),
                ("matchtag", message.matchtag()),
                ("errnum", message.errnum().0),
                ("sequence", message.sequence()),
                ("control_type", message.control_type()),
                ("control_status", message.control_status()),
            ] {
                if let Some(expected) = decoded[key].as_u64() {
                    assert_eq!(u64::from(value), expected, "{key} in {path:?}");
                }
            }
            assert_eq!(encode_body(&message), body, "{path:?}");
            if let Some(stream) = stream {
                assert_eq!(encode(&message), stream, "{path:?}");
            }
            count += 1;
        }
    }
    assert!(count > 0, "the directory has no recordings");
}
