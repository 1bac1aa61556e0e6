use bytes::Bytes;

use super::*;
use crate::key::KeyPair;
use crate::listener::{ConnectError, ConnectOptions, Listener, connect};
use crate::tls::{TlsClient, TlsServer, TrustedKeys};

fn keys(n: u8) -> KeyPair {
    KeyPair::from_seed([n; 32]).unwrap()
}

fn tls(own: u8, trusted: u8) -> (TlsClient, TlsServer) {
    let trusted = TrustedKeys::new([keys(trusted).public()]);
    (TlsClient::new(&keys(own), &trusted).unwrap(), TlsServer::new(&keys(own), &trusted).unwrap())
}

type Outcome = Result<Connection, ConnectError>;

/// Both ends of a connection to `at`; key numbers of client and server, who trust each other
/// when they are equal.
async fn try_pair(at: &Endpoint, client: u8, server: u8) -> (Outcome, Outcome) {
    let options = ConnectOptions::default();
    let listener = Listener::bind(at, Some(&tls(server, server).1), &options).await.unwrap();
    let accept = async { listener.accept().await.unwrap().establish().await };
    let client_tls = tls(client, client).0;
    tokio::join!(connect(listener.endpoint(), Some(&client_tls), &options), accept)
}

async fn pair(at: &Endpoint) -> (SpawnedLink, SpawnedLink) {
    let (client, server) = try_pair(at, 1, 1).await;
    (client.unwrap().spawn(64), server.unwrap().spawn(64))
}

fn loopback() -> Endpoint {
    Endpoint::any_port("127.0.0.1")
}

fn request(n: u32, payload: usize) -> Message {
    let mut message = Message::request("test.echo");
    message.set_matchtag(n);
    message.set_payload((payload > 0).then(|| Bytes::from(vec![7; payload])));
    message
}

#[tokio::test]
async fn tcp_peers_know_each_other_by_key() {
    let (client, server) = try_pair(&loopback(), 1, 1).await;
    for connection in [client.unwrap(), server.unwrap()] {
        let Peer::Key { key, digest, address } = *connection.peer() else {
            panic!("{:?}", connection.peer())
        };
        assert_eq!(key, keys(1).public());
        assert_eq!(digest, key.digest());
        assert!(address.ip().is_loopback());
        assert!(connection.endpoint().to_string().starts_with("tcp://127.0.0.1:"));
    }
}

#[tokio::test]
async fn unix_peers_know_each_other_by_credentials() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run").join("tbon-0");
    let at = Endpoint::ipc(&path).unwrap();
    let options = ConnectOptions::default();
    let listener = Listener::bind(&at, None, &options).await.unwrap();
    let mode = |p: &std::path::Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    let accept = async { listener.accept().await.unwrap().establish().await };
    let (client, server) = tokio::join!(connect(&at, None, &options), accept);
    for connection in [client.unwrap(), server.unwrap()] {
        let uid = rustix::process::geteuid().as_raw();
        let pid = Some(rustix::process::getpid());
        assert_eq!(connection.peer(), &Peer::Local { uid, pid });
    }
    drop(listener);
    assert!(!path.exists(), "a listener takes its socket away");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_but_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let at = Endpoint::ipc(&dir.path().join("s")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap());
    Listener::bind(&at, None, &ConnectOptions::default()).await.unwrap();
    std::fs::write(dir.path().join("s"), "x").unwrap();
    let error = Listener::bind(&at, None, &ConnectOptions::default()).await.unwrap_err();
    assert!(error.to_string().ends_with("file exists and is not a socket"), "{error}");
}

#[tokio::test]
async fn a_foreign_key_is_refused_and_both_sides_can_say_why() {
    let (client, server) = try_pair(&loopback(), 1, 2).await;
    let client = client.unwrap_err().to_string();
    let server = server.unwrap_err().to_string();
    let digest = keys(2).public().digest();
    assert!(client.ends_with(&format!("peer key {digest} is not trusted")), "{client}");
    assert!(server.ends_with("peer refused the key of this broker"), "{server}");
}

#[tokio::test]
async fn a_client_learns_that_the_server_refuses_it_before_it_is_connected() {
    let options = ConnectOptions::default();
    let server = tls(2, 2).1;
    let listener = Listener::bind(&loopback(), Some(&server), &options).await.unwrap();
    let trusting = TlsClient::new(&keys(1), &TrustedKeys::new([keys(2).public()])).unwrap();
    let accept = async { listener.accept().await.unwrap().establish().await };
    let (client, server) =
        tokio::join!(connect(listener.endpoint(), Some(&trusting), &options), accept);
    let source = LinkError::Refused;
    assert!(matches!(client, Err(ConnectError::Link { source: s, .. }) if s == source));
    let source = LinkError::Untrusted(keys(1).public().digest());
    assert!(matches!(server, Err(ConnectError::Link { source: s, .. }) if s == source));
}

#[tokio::test]
async fn tcp_without_certificate_is_refused() {
    let options = ConnectOptions::default();
    let error = Listener::bind(&loopback(), None, &options).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoCert { .. }));
    let at = Endpoint::parse("tcp://127.0.0.1:1").unwrap();
    assert!(matches!(connect(&at, None, &options).await, Err(ConnectError::NoCert { .. })));
}

#[tokio::test]
async fn a_silent_peer_runs_into_the_timeout() {
    let limit = Duration::from_millis(20);
    let options = ConnectOptions { timeout: Some(limit), ..ConnectOptions::default() };
    let (client, server) = tls(1, 1);
    let listener = Listener::bind(&loopback(), Some(&server), &options).await.unwrap();
    let Endpoint::Tcp { port, .. } = *listener.endpoint() else { panic!() };
    let silent = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let incoming = listener.accept().await.unwrap();
    let error = incoming.establish().await.unwrap_err();
    assert!(error.to_string().ends_with("no connection within 20ms"), "{error}");
    drop(silent);
    // Nobody takes this one.
    let error = connect(listener.endpoint(), Some(&client), &options).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn a_loopback_interface_has_an_address() {
    let options = ConnectOptions::default();
    let (_, server) = tls(1, 1);
    let at = Endpoint::any_port("lo");
    let listener = Listener::bind(&at, Some(&server), &options).await.unwrap();
    assert!(listener.endpoint().to_string().starts_with("tcp://127.0.0.1:"));
    // An address of documentation (RFC 5737) is none of ours.
    let foreign = Endpoint::any_port("192.0.2.1");
    let error = Listener::bind(&foreign, Some(&server), &options).await.unwrap_err();
    assert!(matches!(error, ConnectError::Io { .. }), "{error}");
}

async fn both_kinds(check: impl AsyncFn(Endpoint)) {
    check(loopback()).await;
    let dir = tempfile::tempdir().unwrap();
    check(Endpoint::ipc(&dir.path().join("s")).unwrap()).await;
}

#[tokio::test]
async fn a_hundred_thousand_small_messages_arrive_in_order() {
    both_kinds(async |at| {
        let (client, mut server) = pair(&at).await;
        let count = 100_000;
        let send = tokio::spawn(async move {
            for n in 0..count {
                client.sender.send(request(n, 50)).await.unwrap();
            }
            (client.receiver, client.task)
        });
        for n in 0..count {
            assert_eq!(server.receiver.recv().await.unwrap().matchtag(), n);
        }
        // The sender was dropped with the last message: that ends the connection in order.
        assert!(server.receiver.recv().await.is_none());
        assert!(matches!(server.task.await.unwrap(), CloseReason::Peer));
        let (_, task) = send.await.unwrap();
        assert!(matches!(task.await.unwrap(), CloseReason::Local));
    })
    .await;
}

#[tokio::test]
async fn eight_mib_both_ways_at_once_do_not_lock_up() {
    both_kinds(async |at| {
        let (mut client, mut server) = pair(&at).await;
        for n in 0..4 {
            client.sender.send(request(n, 8 << 20)).await.unwrap();
            server.sender.send(request(n, 8 << 20)).await.unwrap();
        }
        for n in 0..4 {
            assert_eq!(client.receiver.recv().await, Some(request(n, 8 << 20)));
            assert_eq!(server.receiver.recv().await, Some(request(n, 8 << 20)));
        }
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_back_the_sender_but_not_its_own_messages() {
    let (client, server) = try_pair(&loopback(), 1, 1).await;
    let mut client = client.unwrap().spawn(1);
    let server = server.unwrap().spawn(1);
    // Fill everything on the way until nothing more is taken.
    let mut sent = 0_u32;
    let full = Duration::from_millis(200);
    while let Ok(result) = timeout(full, client.sender.send(request(sent, 100_000))).await {
        result.unwrap();
        sent += 1;
        assert!(sent < 10_000, "nothing holds the sender back");
    }
    // The other direction is free.
    server.sender.send(request(7, 10)).await.unwrap();
    assert_eq!(client.receiver.recv().await, Some(request(7, 10)));
    // And once the peer reads, all of it comes.
    let mut receiver = server.receiver;
    for n in 0..sent {
        assert_eq!(receiver.recv().await.unwrap().matchtag(), n);
    }
}

#[tokio::test]
async fn a_vanished_peer_is_no_orderly_end() {
    let (client, server) = try_pair(&loopback(), 1, 1).await;
    let server = server.unwrap().spawn(1);
    // The connection is dropped as when the process dies: no farewell.
    drop(client.unwrap());
    let reason = server.task.await.unwrap();
    assert!(
        matches!(reason, CloseReason::Link(LinkError::Truncated) | CloseReason::Io(_)),
        "{reason}"
    );
}

#[tokio::test]
async fn many_connections_can_share_one_inbox() {
    let (queue, mut arrived) = mpsc::channel(16);
    let mut senders = Vec::new();
    for peer in 0..3_u32 {
        let (client, server) = try_pair(&loopback(), 1, 1).await;
        let inbox = Inbox::new(queue.clone(), move |message: Message| (peer, message.matchtag()));
        let (keep, outbox) = mpsc::channel(1);
        tokio::spawn(server.unwrap().run(inbox, outbox));
        let client = client.unwrap().spawn(4);
        client.sender.send(request(peer * 10, 0)).await.unwrap();
        senders.push((client, keep));
    }
    let mut got = Vec::new();
    for _ in 0..3 {
        got.push(arrived.recv().await.unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, [(0, 0), (1, 10), (2, 20)]);
}

#[tokio::test]
async fn dropping_the_receiver_ends_the_connection() {
    let (client, server) = pair(&loopback()).await;
    drop(server.receiver);
    assert!(matches!(server.task.await.unwrap(), CloseReason::Local));
    assert!(matches!(client.task.await.unwrap(), CloseReason::Peer));
}
