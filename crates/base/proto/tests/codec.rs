//! The codec on made up messages: sizes, malformed input, round trips.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::{Bytes, BytesMut};
use flux_proto::codec::{HEADER_LEN, MAGIC};
use flux_proto::{
    CodecError, Cred, Decoder, Errno, Flags, Message, MsgType, Rolemask, RouteId, decode_body,
    encode, encode_body, encode_into,
};
use proptest::prelude::*;

const REQUEST_PROTO: [u8; 21] =
    [20, 0x8e, 1, 1, 0, 255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0];

fn with_flags(parts: &[u8], flags: Flags) -> Bytes {
    let mut body = parts.to_vec();
    body.extend_from_slice(&REQUEST_PROTO);
    let at = parts.len() + 4;
    body[at] = flags.0;
    body.into()
}

fn framed(body: &[u8]) -> BytesMut {
    let mut buf = BytesMut::from(&MAGIC[..]);
    buf.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
    buf.extend_from_slice(body);
    buf
}

#[test]
fn parts_take_the_shortest_length_form() {
    for (len, header) in [
        (1_usize, vec![1]),
        (254, vec![254]),
        (255, vec![255, 0, 0, 0, 255]),
        (256, vec![255, 0, 0, 1, 0]),
        (65536, vec![255, 0, 1, 0, 0]),
    ] {
        let mut message = Message::request("a").with_raw(vec![7; len]);
        let body = encode_body(&message);
        // delimiter, topic, payload, proto
        assert_eq!(body[..3], [0, 1, b'a']);
        assert_eq!(body[3..3 + header.len()], header, "payload of {len}");
        assert_eq!(body.len(), 3 + header.len() + len + 21);
        assert_eq!(decode_body(body).unwrap(), message);

        message.payload = None;
        message.flags.remove(Flags::PAYLOAD);
        message.push_route(RouteId::from_bytes(&vec![b'r'; len]));
        message.set_topic(Some("t".repeat(len).into()));
        assert_eq!(decode_body(encode_body(&message)).unwrap(), message, "route, topic of {len}");
    }
}

#[test]
fn an_empty_payload_is_not_sent() {
    let mut message = Message::request("a");
    let plain = encode(&message);
    message.set_payload(Some(Bytes::new()));
    assert_eq!(encode(&message), plain);
    assert_eq!(Message::request("a").with_raw(Bytes::new()), Message::request("a"));
}

#[test]
fn an_empty_payload_part_decodes_to_an_empty_payload() {
    let message = decode_body(with_flags(&[0], Flags::PAYLOAD)).unwrap();
    assert_eq!(message.payload, Some(Bytes::new()));
    assert!(message.json_bytes().is_err());
}

#[test]
fn the_long_form_is_accepted_for_short_parts() {
    let body = with_flags(&[255, 0, 0, 0, 0, 255, 0, 0, 0, 1, b'x'], Flags::ROUTE | Flags::TOPIC);
    let message = decode_body(body).unwrap();
    assert_eq!((message.topic(), message.routes.len()), ("x", 0));
}

#[test]
fn surplus_parts_before_the_last_are_ignored() {
    let body = with_flags(&[1, b't', 1, b'?', 0], Flags::TOPIC);
    assert_eq!(decode_body(body).unwrap().topic(), "t");
}

#[test]
fn the_newest_hop_comes_first_on_the_wire() {
    let mut message = Message::request("a");
    message.push_route("old".into());
    message.push_route("new".into());
    assert_eq!(encode_body(&message)[..9], *b"\x03new\x03old\0");
    assert_eq!(message.first_route(), Some(&"old".into()));
    assert_eq!(message.pop_route(), Some("new".into()));
}

#[test]
fn malformed_bodies_are_refused_with_their_reason() {
    let cases: [(&str, Bytes, CodecError); 11] = [
        ("nothing", Bytes::new(), CodecError::Empty),
        ("past the end", Bytes::from_static(&[5, 1]), CodecError::Truncated),
        ("half a length", Bytes::from_static(&[255, 0, 0]), CodecError::Truncated),
        ("huge part", Bytes::from_static(&[255, 255, 255, 255, 255, 1]), CodecError::Truncated),
        ("short proto", Bytes::from_static(&[1, 2]), CodecError::ProtoLength),
        ("proto magic", with_proto_byte(1, 0x8d), CodecError::ProtoMagic),
        ("version", with_proto_byte(2, 2), CodecError::Version(2)),
        ("two types", with_proto_byte(3, 3), CodecError::Type(3)),
        ("no topic", with_flags(&[], Flags::TOPIC), CodecError::MissingPart),
        ("no delimiter", with_flags(&[1, b'r'], Flags::ROUTE), CodecError::MissingPart),
        ("bad topic", with_flags(&[1, 0xff], Flags::TOPIC), CodecError::Topic),
    ];
    for (name, body, error) in cases {
        assert_eq!(decode_body(body.clone()), Err(error), "{name}");
        assert_eq!(Decoder::new().next(&mut framed(&body)), Err(error), "{name} on a stream");
    }
    assert_eq!(CodecError::Truncated.errno(), Errno::EINVAL);
    assert_eq!(CodecError::Type(3).errno(), Errno::EPROTO);
}

fn with_proto_byte(at: usize, value: u8) -> Bytes {
    let mut body = REQUEST_PROTO.to_vec();
    body[at] = value;
    body.into()
}

#[test]
fn too_many_hops_are_refused() {
    let mut parts = [1, b'r'].repeat(flux_proto::codec::MAX_ROUTES + 1);
    parts.push(0);
    assert_eq!(decode_body(with_flags(&parts, Flags::ROUTE)), Err(CodecError::Routes));
}

#[test]
fn a_wrong_magic_is_seen_at_its_first_byte_and_stays() {
    let mut decoder = Decoder::new();
    let mut buf = BytesMut::from(&b"\xff"[..]);
    assert_eq!(decoder.next(&mut buf), Err(CodecError::Magic));
    let mut good = BytesMut::from(&encode(&Message::event("a"))[..]);
    assert_eq!(decoder.next(&mut good), Err(CodecError::Magic));
}

#[test]
fn a_header_alone_takes_no_memory_and_the_limit_is_checked_on_it() {
    let mut header = BytesMut::from(&MAGIC[..]);
    header.extend_from_slice(&(1_u32 << 30).to_be_bytes());
    let capacity = header.capacity();
    assert_eq!(Decoder::new().next(&mut header), Ok(None));
    assert_eq!(header.capacity(), capacity);
    let error = Decoder::with_max_body(1000).next(&mut header).unwrap_err();
    assert_eq!(error, CodecError::TooLarge { len: 1 << 30, max: 1000 });
    assert_eq!(error.to_string(), "message body of 1073741824 bytes exceeds the limit of 1000");
    let mut header = framed(&[]);
    assert_eq!(Decoder::new().next(&mut header), Err(CodecError::Empty));
}

#[test]
fn messages_up_to_the_limit_pass() {
    let message = Message::request("a").with_raw(vec![1; 100]);
    let stream = encode(&message);
    let limit = stream.len() - HEADER_LEN;
    let mut buf = BytesMut::from(&stream[..]);
    assert_eq!(Decoder::with_max_body(limit).next(&mut buf), Ok(Some(message)));
    let mut buf = BytesMut::from(&stream[..]);
    assert!(Decoder::with_max_body(limit - 1).next(&mut buf).is_err());
}

#[test]
fn a_response_beyond_the_limit_says_so_instead() {
    // Never touched, so this costs no memory.
    let huge = vec![0; flux_proto::DEFAULT_MAX_BODY];
    let response = Message::response_to(&Message::request("a.b")).with_raw(huge);
    let short = decode_body(encode_body(&response)).unwrap();
    assert_eq!((short.errnum(), short.payload), (Errno::EOVERFLOW, None));
    assert!(encode(&response).len() < 100);
}

#[test]
fn decoding_small_messages_leaves_the_receive_buffer_reusable() {
    let one = encode(&Message::request("a").with_text("small"));
    let mut buf = BytesMut::with_capacity(4096);
    let start = buf.as_ptr();
    let mut decoder = Decoder::new();
    let mut kept = Vec::new();
    for _ in 0..1000 {
        buf.reserve(one.len());
        buf.extend_from_slice(&one);
        kept.push(decoder.next(&mut buf).unwrap().unwrap());
    }
    buf.reserve(4096);
    assert_eq!(buf.as_ptr(), start);
}

fn id() -> impl Strategy<Value = RouteId> {
    prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 36),
        1 => proptest::collection::vec(any::<u8>(), 1..300),
    ]
    .prop_map(|bytes| RouteId::from_bytes(&bytes))
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..20),
        proptest::collection::vec(any::<u8>(), 250..260),
        proptest::collection::vec(any::<u8>(), 1000..3000),
    ]
}

prop_compose! {
    fn message()(
        kind in prop_oneof![
            Just(MsgType::Request), Just(MsgType::Response), Just(MsgType::Event),
            Just(MsgType::Control),
        ],
        flags: u8, userid: u32, roles: u32, aux1: u32, aux2: u32,
        routes in proptest::collection::vec(id(), 0..5),
        topic in proptest::option::of("\\PC{0,300}"),
        payload in proptest::option::of(payload()),
    ) -> Message {
        let mut message = Message {
            kind, flags: Flags(flags), cred: Cred::new(userid, Rolemask(roles)), aux1, aux2,
            routes: Vec::new(), topic: None, payload: None,
            body: None,
        };
        for id in routes {
            message.push_route(id);
        }
        message.set_topic(topic.map(Into::into));
        message.set_payload(payload.map(Into::into));
        message
    }
}

proptest! {
    #[test]
    fn every_message_round_trips(message in message()) {
        prop_assert_eq!(decode_body(encode_body(&message)).unwrap(), message);
    }

    #[test]
    fn streams_round_trip_in_any_pieces(
        messages in proptest::collection::vec(message(), 1..6), step in 1_usize..700,
    ) {
        let mut stream = BytesMut::new();
        for message in &messages {
            encode_into(message, &mut stream);
        }
        let (mut decoder, mut buf, mut seen) = (Decoder::new(), BytesMut::new(), Vec::new());
        for piece in stream.chunks(step) {
            buf.extend_from_slice(piece);
            while let Some(message) = decoder.next(&mut buf).unwrap() {
                seen.push(message);
            }
        }
        prop_assert_eq!(seen, messages);
    }

    #[test]
    fn any_bytes_are_refused_or_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(decode_body(Bytes::from(bytes.clone())));
        drop(Decoder::new().next(&mut BytesMut::from(&bytes[..])));
        drop(Decoder::new().next(&mut framed(&bytes)));
        let mut with_proto = bytes;
        with_proto.extend_from_slice(&REQUEST_PROTO);
        drop(decode_body(Bytes::from(with_proto)));
    }
}
