//! The body of any request of the catalogue, and a message with its topic as it comes from a socket.
#![no_main]

use bytes::Bytes;
use flux_api::catalogue;
use flux_proto::{Message, decode_body, encode_body};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [a, b, rest @ ..] = data else { return };
    let methods: Vec<_> = catalogue::methods().collect();
    let method = methods[(usize::from(*a) << 8 | usize::from(*b)) % methods.len()];
    let mut message = Message::request(method.topic).with_streaming();
    message.set_payload(Some(Bytes::copy_from_slice(rest)));
    if let Ok(message) = decode_body(encode_body(&message)) {
        drop(catalogue::check(message));
    }
    let mut text = rest.to_vec();
    text.push(0);
    message.set_payload(Some(text.into()));
    drop(catalogue::check(message));
});
