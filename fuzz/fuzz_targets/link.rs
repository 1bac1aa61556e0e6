//! What somebody without a key can send to the port of a broker, and what a peer with one can: the
//! handshake, the beginning of a link, messages.
#![no_main]

use std::sync::OnceLock;

use flux_wire::{KeyPair, Link, LinkLimits, PublicKey, TlsClient, TlsServer, TrustedKeys};
use libfuzzer_sys::fuzz_target;

fn ends() -> &'static (TlsServer, TlsClient) {
    static ENDS: OnceLock<(TlsServer, TlsClient)> = OnceLock::new();
    ENDS.get_or_init(|| {
        let keys = KeyPair::from_seed([7; 32]).expect("a seed is a key");
        let trusted = TrustedKeys::new([keys.public()]);
        let server = TlsServer::new(&keys, &trusted).expect("a server");
        (server, TlsClient::new(&keys, &trusted).expect("a client"))
    })
}

fn limits() -> LinkLimits {
    LinkLimits { max_queued: 1 << 20, max_body: 1 << 16 }
}

/// Nothing gets in, whatever is said.
fn stranger(data: &[u8]) {
    let mut link = Link::tls_server(&ends().0, limits()).expect("a link");
    for piece in data.chunks(1 + data.len() / 3) {
        if link.receive(piece).is_err() {
            break;
        }
        let _ = link.output();
        assert!(matches!(link.next_message(), Ok(None) | Err(_)));
    }
    assert!(!link.is_established() && link.peer_key().is_none());
}

/// A handshake of two genuine ends, of which one is disturbed at some place.
fn disturbed(at: usize, with: &[u8]) {
    let (mut server, mut client) = (
        Link::tls_server(&ends().0, limits()).expect("a link"),
        Link::tls_client(&ends().1, limits()).expect("a link"),
    );
    let mut sent = 0;
    for _ in 0..8 {
        let mut bytes = client.output().to_vec();
        let count = bytes.len();
        client.advance(count);
        for (place, byte) in with.iter().enumerate() {
            if let Some(own) = (at + place).checked_sub(sent).and_then(|at| bytes.get_mut(at)) {
                *own ^= byte;
            }
        }
        sent += count;
        if server.receive(&bytes).is_err() {
            return;
        }
        let back = server.output().to_vec();
        server.advance(back.len());
        if client.receive(&back).is_err() {
            return;
        }
        if server.is_established() {
            break;
        }
    }
    while let Ok(Some(_)) = server.next_message() {}
}

fuzz_target!(|data: &[u8]| {
    let [kind, rest @ ..] = data else { return };
    match (kind % 3, rest) {
        (0, _) => stranger(rest),
        (1, [a, b, with @ ..]) => disturbed(usize::from(*a) << 8 | usize::from(*b), with),
        _ => {
            // One of the same user, over a socket of this host.
            let mut link = Link::plain(limits());
            if link.receive(rest).is_ok() {
                while let Ok(Some(_)) = link.next_message() {}
            }
            let _ = PublicKey::from_spki_der(rest);
            if let Ok(text) = std::str::from_utf8(rest) {
                let _ = text.parse::<PublicKey>();
                drop(text.parse::<flux_wire::Endpoint>());
            }
        }
    }
});
