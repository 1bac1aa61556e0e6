use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::key::KeyPair;
use crate::tls::TrustedKeys;

fn keys(n: u8) -> KeyPair {
    KeyPair::from_seed([n; 32]).unwrap()
}

/// A client with key `client` and a server with key `server`, and what each trusts.
fn pair(client: u8, client_trusts: &[u8], server: u8, server_trusts: &[u8]) -> (Link, Link) {
    let trust = |list: &[u8]| TrustedKeys::new(list.iter().map(|n| keys(*n).public()));
    let client = TlsClient::new(&keys(client), &trust(client_trusts)).unwrap();
    let server = TlsServer::new(&keys(server), &trust(server_trusts)).unwrap();
    let limits = LinkLimits::default();
    (Link::tls_client(&client, limits).unwrap(), Link::tls_server(&server, limits).unwrap())
}

/// One key for the whole cluster.
fn cluster_pair() -> (Link, Link) {
    pair(1, &[1], 1, &[1])
}

/// Moves what `from` has to say to `to`, in pieces of at most `step` bytes.
fn carry(from: &mut Link, to: &mut Link, step: usize) -> Result<usize, LinkError> {
    let mut moved = 0;
    loop {
        let piece = from.output();
        let piece = piece[..piece.len().min(step)].to_vec();
        if piece.is_empty() {
            return Ok(moved);
        }
        from.advance(piece.len());
        moved += piece.len();
        to.receive(&piece)?;
    }
}

/// Carries both ways until nothing moves; the errors of either side.
fn settle(a: &mut Link, b: &mut Link, step: usize) -> (Option<LinkError>, Option<LinkError>) {
    let (mut error_a, mut error_b) = (None, None);
    loop {
        let to_b = carry(a, b, step).map_err(|e| error_b = Some(e));
        let to_a = carry(b, a, step).map_err(|e| error_a = Some(e));
        if to_a.unwrap_or(0) == 0 && to_b.unwrap_or(0) == 0 {
            return (error_a, error_b);
        }
    }
}

fn drain(link: &mut Link) -> Vec<Message> {
    std::iter::from_fn(|| link.next_message().unwrap()).collect()
}

fn request(n: u32, payload: usize) -> Message {
    let mut message = Message::request("test.echo");
    message.set_matchtag(n);
    message.set_payload(
        (payload > 0).then(|| Bytes::from(vec![u8::try_from(n % 251).unwrap(); payload])),
    );
    message
}

#[test]
fn one_key_for_the_cluster_links_both_ways() {
    let (mut client, mut server) = cluster_pair();
    client.queue(&request(1, 10)).unwrap();
    server.queue(&request(2, 20)).unwrap();
    assert_eq!(settle(&mut client, &mut server, usize::MAX), (None, None));
    assert!(client.is_established() && server.is_established());
    assert_eq!(client.peer_digest(), Some(keys(1).public().digest()));
    assert_eq!(server.peer_key(), Some(keys(1).public()));
    assert_eq!(drain(&mut server), [request(1, 10)]);
    assert_eq!(drain(&mut client), [request(2, 20)]);
}

#[test]
fn each_side_learns_the_key_of_the_other() {
    let (mut client, mut server) = pair(1, &[2, 3], 2, &[1, 3]);
    assert_eq!(settle(&mut client, &mut server, usize::MAX), (None, None));
    assert_eq!(client.peer_key(), Some(keys(2).public()));
    assert_eq!(server.peer_key(), Some(keys(1).public()));
}

#[test]
fn an_unknown_client_is_refused_and_both_know_why() {
    let (mut client, mut server) = pair(9, &[2], 2, &[1]);
    client.queue(&request(1, 1)).unwrap();
    let (at_client, at_server) = settle(&mut client, &mut server, usize::MAX);
    assert_eq!(at_server, Some(LinkError::Untrusted(keys(9).public().digest())));
    assert_eq!(at_client, Some(LinkError::Refused));
    assert!(!client.is_established() && !server.is_established());
    assert!(server.next_message().is_err(), "nothing of a refused peer gets through");
}

#[test]
fn an_unknown_server_is_refused_and_both_know_why() {
    let (mut client, mut server) = pair(1, &[2], 9, &[1]);
    let (at_client, at_server) = settle(&mut client, &mut server, usize::MAX);
    assert_eq!(at_client, Some(LinkError::Untrusted(keys(9).public().digest())));
    assert_eq!(at_server, Some(LinkError::Refused));
}

#[test]
fn swapped_keys_are_refused() {
    // The client believes the server holds its own key, and the other way round.
    let (mut client, mut server) = pair(1, &[1], 2, &[2]);
    let (at_client, at_server) = settle(&mut client, &mut server, usize::MAX);
    assert_eq!(at_client, Some(LinkError::Untrusted(keys(2).public().digest())));
    assert_eq!(at_server, Some(LinkError::Refused));
}

#[test]
fn a_client_without_key_is_refused() {
    let trusted = TrustedKeys::new([keys(1).public()]);
    let limits = LinkLimits::default();
    let mut client = Link::tls_client(&TlsClient::without_key(&trusted), limits).unwrap();
    let server = TlsServer::new(&keys(1), &trusted).unwrap();
    let mut server = Link::tls_server(&server, limits).unwrap();
    let (at_client, at_server) = settle(&mut client, &mut server, usize::MAX);
    assert_eq!(at_server, Some(LinkError::NoKey));
    assert!(at_client.is_some());
}

#[test]
fn another_protocol_name_is_refused() {
    let trusted = TrustedKeys::new([keys(1).public()]);
    for alpn in [&[&b"flux/2"[..]][..], &[]] {
        let client = TlsClient::new(&keys(1), &trusted).unwrap().with_alpn(alpn);
        let server = TlsServer::new(&keys(1), &trusted).unwrap();
        let limits = LinkLimits::default();
        let mut client = Link::tls_client(&client, limits).unwrap();
        let mut server = Link::tls_server(&server, limits).unwrap();
        let (at_client, at_server) = settle(&mut client, &mut server, usize::MAX);
        assert!(
            at_server == Some(LinkError::Protocol) || at_client == Some(LinkError::Protocol),
            "{at_client:?} {at_server:?}"
        );
        assert!(!client.is_established() || !server.is_established());
    }
}

#[test]
fn a_replaced_list_counts_for_the_next_connection() {
    let trusted = TrustedKeys::new([keys(1).public()]);
    let client = TlsClient::new(&keys(1), &trusted).unwrap();
    let server = TlsServer::new(&keys(1), &TrustedKeys::new([keys(1).public()])).unwrap();
    let limits = LinkLimits::default();
    for (list, accepted) in [(1, true), (2, false)] {
        trusted.replace([keys(list).public()]);
        let mut a = Link::tls_client(&client, limits).unwrap();
        let mut b = Link::tls_server(&server, limits).unwrap();
        assert_eq!(settle(&mut a, &mut b, usize::MAX).0.is_none(), accepted);
    }
}

#[test]
fn everything_works_one_byte_at_a_time() {
    let (mut client, mut server) = cluster_pair();
    let messages: Vec<_> = (0..20).map(|n| request(n, n as usize * 40)).collect();
    for message in &messages {
        client.queue(message).unwrap();
        server.queue(message).unwrap();
    }
    assert_eq!(settle(&mut client, &mut server, 1), (None, None));
    assert_eq!(drain(&mut server), messages);
    assert_eq!(drain(&mut client), messages);
}

#[test]
fn a_handshake_cut_anywhere_is_reported() {
    let (mut client, _) = cluster_pair();
    let hello = client.output().to_vec();
    for cut in 0..hello.len() {
        let (_, mut server) = cluster_pair();
        server.receive(&hello[..cut]).unwrap();
        assert_eq!(server.end_of_input(), Err(LinkError::Handshake));
    }
}

#[test]
fn an_end_without_farewell_is_truncation() {
    let (mut client, mut server) = cluster_pair();
    settle(&mut client, &mut server, usize::MAX);
    assert_eq!(server.end_of_input(), Err(LinkError::Truncated));
}

#[test]
fn a_farewell_comes_after_what_is_queued() {
    let (mut client, mut server) = cluster_pair();
    settle(&mut client, &mut server, usize::MAX);
    client.queue(&request(1, 300_000)).unwrap();
    client.close();
    client.queue(&request(2, 1)).unwrap();
    assert_eq!(settle(&mut client, &mut server, usize::MAX), (None, None));
    assert_eq!(drain(&mut server), [request(1, 300_000)]);
    assert!(server.peer_closed());
    assert_eq!(server.end_of_input(), Ok(()));
}

#[test]
fn a_plain_link_carries_messages_and_ends_between_them() {
    let mut a = Link::plain(LinkLimits::default());
    let mut b = Link::plain(LinkLimits::default());
    a.queue(&request(1, 5)).unwrap();
    assert_eq!(settle(&mut a, &mut b, 1), (None, None));
    assert!(a.is_established() && b.is_established());
    assert_eq!(drain(&mut b), [request(1, 5)]);
    assert_eq!(b.end_of_input(), Ok(()));

    let bytes = flux_proto::encode(&request(1, 5));
    b = Link::plain(LinkLimits::default());
    b.receive(PREFACE).unwrap();
    b.receive(&bytes[..9]).unwrap();
    assert_eq!(b.next_message(), Ok(None));
    assert_eq!(b.end_of_input(), Err(LinkError::Truncated));
}

#[test]
fn a_peer_of_another_kind_is_refused_at_the_first_bytes() {
    let mut plain = Link::plain(LinkLimits::default());
    assert_eq!(plain.receive(b"flux/2\r\n"), Err(LinkError::Protocol));
    let mut plain = Link::plain(LinkLimits::default());
    let (mut client, mut server) = cluster_pair();
    assert_eq!(plain.receive(client.output()), Err(LinkError::Protocol));
    assert!(matches!(server.receive(b"GET / HTTP/1.1\r\n\r\n"), Err(LinkError::Tls(_))));
}

#[test]
fn garbage_after_the_handshake_fails_the_link_for_good() {
    let mut link = Link::plain(LinkLimits::default());
    link.receive(PREFACE).unwrap();
    link.receive(&flux_proto::encode(&request(1, 0))).unwrap();
    link.receive(b"garbage").unwrap();
    assert_eq!(link.next_message(), Ok(Some(request(1, 0))));
    assert_eq!(link.next_message(), Err(LinkError::Message(CodecError::Magic)));
    assert!(link.receive(b"x").is_err() && link.next_message().is_err());
}

#[test]
fn a_message_beyond_the_limit_is_refused_by_its_header() {
    let mut link = Link::plain(LinkLimits { max_body: 1000, ..LinkLimits::default() });
    link.receive(PREFACE).unwrap();
    link.receive(&flux_proto::encode(&request(1, 1001))[..8]).unwrap();
    assert!(matches!(link.next_message(), Err(LinkError::Message(CodecError::TooLarge { .. }))));
}

#[test]
fn the_send_queue_is_bounded_but_takes_one_large_message() {
    let limits = LinkLimits { max_queued: 1000, ..LinkLimits::default() };
    let mut a = Link::plain(limits);
    let mut b = Link::plain(limits);
    settle(&mut a, &mut b, usize::MAX);
    a.queue(&request(1, 5000)).unwrap();
    let queued = a.queued_bytes();
    assert!(queued > 5000);
    assert_eq!(a.queue(&request(2, 1)), Err(QueueFull { queued, max: 1000 }));
    settle(&mut a, &mut b, usize::MAX);
    assert_eq!(a.queued_bytes(), 0);
    a.queue(&request(2, 1)).unwrap();
}

#[test]
fn a_message_of_8_mib_passes_and_its_buffers_are_given_back() {
    let (mut client, mut server) = cluster_pair();
    settle(&mut client, &mut server, usize::MAX);
    client.queue(&request(3, 8 << 20)).unwrap();
    assert_eq!(settle(&mut client, &mut server, 65_536), (None, None));
    assert_eq!(drain(&mut server), [request(3, 8 << 20)]);
    assert!(client.pending.capacity() <= BUFFER_KEEP && client.output.capacity() <= BUFFER_KEEP);
    assert!(server.input.capacity() <= BUFFER_KEEP);
}

#[test]
fn small_messages_share_records() {
    let (mut client, mut server) = cluster_pair();
    settle(&mut client, &mut server, usize::MAX);
    let mut plain = 0;
    for n in 0..1000 {
        plain += flux_proto::encode(&request(n, 0)).len();
        client.queue(&request(n, 0)).unwrap();
    }
    let sealed = carry(&mut client, &mut server, usize::MAX).unwrap();
    assert!(sealed < plain + plain / 100, "{sealed} bytes for {plain}");
    assert_eq!(drain(&mut server).len(), 1000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn pieces_of_any_size_give_the_same_messages(
        sizes in prop::collection::vec(0_usize..3000, 1..30),
        steps in prop::collection::vec(1_usize..5000, 1..20),
        secure in any::<bool>(),
    ) {
        let limits = LinkLimits::default();
        let (mut a, mut b) = if secure {
            cluster_pair()
        } else {
            (Link::plain(limits), Link::plain(limits))
        };
        let messages: Vec<_> = sizes.iter().zip(0..).map(|(size, n)| request(n, *size)).collect();
        for message in &messages {
            a.queue(message).unwrap();
        }
        let mut steps = steps.iter().cycle();
        let mut got = Vec::new();
        loop {
            let piece = a.output();
            let piece = piece[..piece.len().min(*steps.next().unwrap())].to_vec();
            a.advance(piece.len());
            b.receive(&piece).unwrap();
            got.extend(drain(&mut b));
            let back = carry(&mut b, &mut a, 7).unwrap();
            if piece.is_empty() && back == 0 {
                break;
            }
        }
        prop_assert_eq!(got, messages);
    }

    #[test]
    fn any_bytes_are_refused_or_waited_for(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (mut client, mut server) = cluster_pair();
        for link in [&mut client, &mut server, &mut Link::plain(LinkLimits::default())] {
            drop(link.receive(&bytes));
            drop(link.next_message());
        }
    }
}
