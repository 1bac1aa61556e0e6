//! The client against recorded and made up servers, and against the server of this crate.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};

use flux_pmi::{
    Action, Client, ClientError, LineBuffer, Maxes, Reply, Request, Server, ServerConfig, Session,
    SessionError,
};
use proptest::prelude::*;

/// One task's stream to a server that is called directly.
struct Direct {
    server: Server,
    lines: LineBuffer,
    replies: VecDeque<u8>,
    seen: Vec<Action>,
}

impl Direct {
    fn new() -> Direct {
        let server = Server::new(ServerConfig {
            kvsname: "fABC".to_owned(),
            universe_size: 1,
            appnum: 0,
            ranks: vec![0],
            preload: BTreeMap::from([("flux.instance-level".to_owned(), "1".to_owned())]),
        });
        let (lines, replies) = (LineBuffer::new(), VecDeque::new());
        Direct { server, lines, replies, seen: Vec::new() }
    }
}

impl Write for Direct {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines.feed(bytes);
        while let Some(line) = self.lines.next_line().map_err(io::Error::other)? {
            for action in self.server.on_line(0, &line) {
                let actions = match action {
                    Action::BarrierEnter { mut keys } => {
                        keys.insert("far".to_owned(), "away".to_owned());
                        self.server.barrier_done(keys)
                    }
                    other => vec![other],
                };
                for action in actions {
                    match action {
                        Action::Reply { line, .. } => self.replies.extend(line.bytes()),
                        other => self.seen.push(other),
                    }
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Direct {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // In small pieces, as a slow peer would.
        let len = into.len().min(7);
        self.replies.read(&mut into[..len])
    }
}

#[test]
fn a_session_goes_through_the_whole_protocol() {
    let mut session = Session::start(Direct::new()).unwrap();
    assert_eq!(session.kvsname(), "fABC");
    assert_eq!(session.maxes(), Maxes { kvsname: 64, key: 64, value: 1024 });
    assert_eq!((session.appnum().unwrap(), session.universe_size().unwrap()), (0, Some(1)));
    session.put("0", "{\"a\": [1, 2]}").unwrap();
    session.barrier().unwrap();
    assert_eq!(session.get("0").unwrap(), "{\"a\": [1, 2]}");
    assert_eq!(session.get("far").unwrap(), "away");
    assert_eq!(session.get("flux.instance-level").unwrap(), "1");
    let error = session.get("nope").unwrap_err();
    assert_eq!(error.to_string(), "pmi request get failed: unknown_key");
    // A refused request does not end the session.
    session.barrier().unwrap();
    assert!(session.finalize().unwrap().server.may_exit(0));
}

#[test]
fn a_session_can_abort() {
    let mut stream = Direct::new();
    let session = Session::start(&mut stream).unwrap();
    session.abort(3, "it\nbroke").unwrap();
    assert_eq!(stream.seen, [Action::Abort { rank: 0, msg: "it broke".to_owned(), code: 3 }]);
}

#[test]
fn a_closed_stream_is_an_error() {
    let mut stream = io::Cursor::new(Vec::new());
    assert!(matches!(Session::start(&mut stream), Err(SessionError::Closed)));
    assert_eq!(stream.get_ref(), b"cmd=init pmi_version=1 pmi_subversion=1\n");
}

fn started() -> Client {
    let mut client = Client::new();
    client.request(&Request::Init).unwrap();
    client.on_line("cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1").unwrap();
    client
}

#[test]
fn replies_in_the_words_of_hydra_are_understood() {
    let mut client = Client::new();
    let hello = client.request(&Request::Init).unwrap();
    assert_eq!(hello, "cmd=init pmi_version=1 pmi_subversion=1\n");
    let put = Request::Put { key: "k".to_owned(), value: "a b=c".to_owned() };
    let get = Request::Get { key: "k".to_owned() };
    let init = "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0\n";
    assert_eq!(client.on_line(init), Ok(Reply::Init { version: 1, subversion: 1 }));
    for (request, line, reply, expected) in [
        (
            Request::GetMaxes,
            "cmd=get_maxes\n",
            "cmd=maxes kvsname_max=256 keylen_max=64 vallen_max=1024\n",
            Reply::Maxes(Maxes { kvsname: 256, key: 64, value: 1024 }),
        ),
        (Request::GetAppnum, "cmd=get_appnum\n", "cmd=appnum appnum=0\n", Reply::Appnum(0)),
        (
            Request::GetKvsname,
            "cmd=get_my_kvsname\n",
            "cmd=my_kvsname kvsname=kvs_12_0\n",
            Reply::Kvsname("kvs_12_0".to_owned()),
        ),
        (
            Request::GetUniverseSize,
            "cmd=get_universe_size\n",
            "cmd=universe_size size=-1\n",
            Reply::UniverseSize(None),
        ),
        (
            put,
            "cmd=put kvsname=kvs_12_0 key=k value=a b=c\n",
            "cmd=put_result rc=0 msg=success\n",
            Reply::Put,
        ),
        (Request::Barrier, "cmd=barrier_in\n", "cmd=barrier_out\n", Reply::Barrier),
        (
            get,
            "cmd=get kvsname=kvs_12_0 key=k\n",
            "cmd=get_result rc=0 msg=success value=a b=c\n",
            Reply::Value("a b=c".to_owned()),
        ),
        (Request::Finalize, "cmd=finalize\n", "cmd=finalize_ack\n", Reply::Finalized),
    ] {
        assert_eq!(client.request(&request).unwrap(), line);
        assert!(client.is_waiting());
        assert_eq!(client.on_line(reply), Ok(expected));
    }
    let late = client.request(&Request::Barrier);
    assert_eq!(late, Err(ClientError::NotInitialized("barrier_in")));
}

#[test]
fn requests_that_cannot_be_made_are_refused() {
    let mut client = Client::new();
    let early = client.request(&Request::GetMaxes);
    assert_eq!(early, Err(ClientError::NotInitialized("get_maxes")));
    assert_eq!(client.on_line("cmd=maxes"), Err(ClientError::NotAsked));
    let mut client = started();
    let get = Request::Get { key: "k".to_owned() };
    assert_eq!(client.request(&get), Err(ClientError::NoKvsname));
    client.request(&Request::GetKvsname).unwrap();
    assert_eq!(client.request(&Request::Barrier), Err(ClientError::Busy("barrier_in")));
    client.on_line("cmd=my_kvsname kvsname=x").unwrap();
    for key in ["", "a b", "a=b", "é", "a\n", &"k".repeat(65)] {
        let error = client.request(&Request::Get { key: key.to_owned() });
        assert_eq!(error, Err(ClientError::Key(key.to_owned())));
    }
    for value in ["a\nb", "\0", &"v".repeat(1025)] {
        let put = Request::Put { key: "k".to_owned(), value: value.to_owned() };
        assert_eq!(client.request(&put), Err(ClientError::Value("k".to_owned())));
    }
    assert!(!client.is_waiting());
}

#[test]
fn replies_that_do_not_fit_are_errors() {
    for line in ["cmd=maxes", "cmd=appnum", "cmd=appnum appnum=x", "", "nonsense"] {
        let mut client = started();
        client.request(&Request::GetAppnum).unwrap();
        assert!(client.on_line(line).is_err(), "{line}");
    }
    let mut client = Client::new();
    client.request(&Request::Init).unwrap();
    let reply = client.on_line("cmd=response_to_init rc=0 pmi_version=2 pmi_subversion=0");
    assert_eq!(reply, Err(ClientError::Version(2, 0)));
    let mut client = started();
    client.request(&Request::Barrier).unwrap();
    let reply = client.on_line("cmd=barrier_out rc=1 msg=lost a node");
    let msg = "lost a node".to_owned();
    assert_eq!(reply, Err(ClientError::Failed { request: "barrier_in", rc: 1, msg }));
}

proptest! {
    #[test]
    fn any_reply_is_understood_or_refused(text in "(cmd=|rc=|value=|get_result|[ -~]){0,20}") {
        for request in [Request::GetAppnum, Request::GetKvsname, Request::Barrier] {
            let mut client = started();
            client.request(&request).unwrap();
            drop(client.on_line(&text));
        }
    }
}
