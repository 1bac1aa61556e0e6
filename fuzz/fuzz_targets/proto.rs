//! Frames of the message protocol (RFC 3), in pieces as a socket gives them.
#![no_main]

use bytes::{Bytes, BytesMut};
use flux_proto::codec::{Decoder, decode_body, encode_body};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = decode_body(Bytes::copy_from_slice(data)) {
        let bytes = encode_body(&message);
        let again = decode_body(bytes.clone()).expect("what was encoded decodes");
        assert_eq!(encode_body(&again), bytes);
    }
    let mut decoder = Decoder::with_max_body(1 << 20);
    let mut buffer = BytesMut::new();
    for piece in data.chunks(7) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
