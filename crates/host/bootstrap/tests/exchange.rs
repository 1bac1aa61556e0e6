//! Four ranks in one process find each other through a PMI server.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

use flux_bootstrap::{Boot, BootError, Place, PmiEnv, PmiOptions, TestInstance, Tree, pmi};
use flux_host::Bind;
use flux_pmi::{Action, LineBuffer, Server, ServerConfig};
use flux_wire::Endpoint;

/// 0 is above 1 and 2, 1 is above 3.
fn tree(place: &Place) -> Result<Tree, String> {
    assert_eq!(place.size, 4);
    let (parent, children): (Option<u32>, &[u32]) = match place.rank {
        0 => (None, &[1, 2]),
        1 => (Some(0), &[3]),
        2 => (Some(0), &[]),
        _ => (Some(1), &[]),
    };
    Ok(Tree { parent, children: children.to_vec(), ..Tree::default() })
}

/// Serves one task on a thread of its own.
fn serve(server: &Arc<Mutex<Server>>, writers: &Arc<Mutex<Vec<UnixStream>>>, rank: u32) {
    let (server, writers) = (Arc::clone(server), Arc::clone(writers));
    let mut stream = writers.lock().unwrap()[rank as usize].try_clone().unwrap();
    std::thread::spawn(move || {
        let mut lines = LineBuffer::new();
        let mut piece = [0; 4096];
        while let Ok(got @ 1..) = stream.read(&mut piece) {
            lines.feed(&piece[..got]);
            while let Some(line) = lines.next_line().unwrap() {
                let mut server = server.lock().unwrap();
                let mut todo = server.on_line(rank, &line);
                while !todo.is_empty() {
                    match todo.remove(0) {
                        Action::Reply { rank, line } => {
                            let mut writers = writers.lock().unwrap();
                            drop(writers[rank as usize].write_all(line.as_bytes()));
                        }
                        Action::BarrierEnter { keys } => todo.extend(server.barrier_done(keys)),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    });
}

fn boot_all(mapping: Option<String>, rundir: &Path, kvsname: &str) -> Vec<Boot> {
    let preload = mapping.map(|map| ("PMI_process_mapping".to_string(), map));
    let extra = [("flux.instance-level".to_string(), "2".to_string())];
    let server = Arc::new(Mutex::new(Server::new(ServerConfig {
        kvsname: kvsname.to_string(),
        universe_size: 4,
        appnum: 0,
        ranks: (0..4).collect(),
        preload: preload.into_iter().chain(extra).collect(),
    })));
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..4).map(|_| UnixStream::pair().unwrap()).unzip();
    let writers = Arc::new(Mutex::new(ours));
    for rank in 0..4 {
        serve(&server, &writers, rank);
    }
    let ranks = theirs.into_iter().zip(0..).map(|(stream, rank)| {
        let options = PmiOptions {
            hostname: format!("node{rank}"),
            rundir: rundir.to_path_buf(),
            prefer_tcp: false,
            interface_hint: Some("lo".into()),
        };
        std::thread::spawn(move || pmi::exchange(stream, rank, 4, &options, &tree))
    });
    let ranks: Vec<_> = ranks.collect();
    ranks.into_iter().map(|rank| rank.join().unwrap().unwrap()).collect()
}

#[test]
fn on_one_node_they_meet_at_unix_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let boots = boot_all(TestInstance::on_one_node(4), dir.path(), "-");
    for (rank, boot) in boots.iter().enumerate() {
        assert_eq!((boot.rank as usize, boot.size, boot.method), (rank, 4, "simple"));
        assert_eq!(boot.hostlist.to_string(), "node[0-3]");
        assert_eq!(boot.attributes["instance-level"], "2");
        assert_eq!(boot.attributes["broker.mapping"], "[[0,1,4,1]]");
        assert!(!boot.attributes.contains_key("jobid"));
        assert!(boot.keys.is_some());
    }
    let socket = |rank: u32| dir.path().join(format!("tbon-{rank}"));
    assert_eq!(boots[1].parent, Some(Endpoint::Ipc(socket(0))));
    assert_eq!(boots[2].parent, boots[1].parent);
    assert_eq!(boots[3].parent, Some(Endpoint::Ipc(socket(1))));
    assert!(matches!(&boots[1].bind[..], [Bind::Unix(_, path)] if *path == socket(1)));
    assert!(boots[2].bind.is_empty() && boots[0].parent.is_none());
    // They listen already: nobody comes too early.
    assert!(UnixStream::connect(socket(0)).is_ok());
}

#[test]
fn on_separate_nodes_they_meet_over_tcp() {
    let dir = tempfile::tempdir().unwrap();
    for mapping in [TestInstance::on_separate_nodes(4), None] {
        let boots = boot_all(mapping, dir.path(), "fABC");
        let [Bind::Tcp(listener)] = &boots[0].bind[..] else {
            panic!("{:?}", boots[0].bind);
        };
        let port = listener.local_addr().unwrap().port();
        let expected = Endpoint::Tcp { host: "127.0.0.1".into(), port };
        assert_eq!(boots[1].parent, Some(expected));
        assert_eq!(boots[0].attributes["tbon.endpoint"], format!("tcp://127.0.0.1:{port}"));
        assert_eq!(boots[3].attributes["jobid"], "ƒABC");
    }
}

#[test]
fn the_environment_names_the_server_or_none() {
    let env = |pairs: &'static [(&str, &str)]| {
        PmiEnv::from_env(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_string())
        })
    };
    assert_eq!(env(&[]).unwrap(), None);
    let fd = env(&[("PMI_FD", "3"), ("PMI_RANK", "1"), ("PMI_SIZE", "2")]).unwrap();
    assert_eq!(fd, Some(PmiEnv::Fd { fd: 3, rank: 1, size: 2 }));
    let port = env(&[("PMI_PORT", "h:1"), ("PMI_ID", "4")]).unwrap();
    assert_eq!(port, Some(PmiEnv::Port { address: "h:1".into(), id: 4 }));
    let bad: [&'static [(&str, &str)]; 3] = [
        &[("PMI_FD", "3")],
        &[("PMI_FD", "x"), ("PMI_RANK", "0"), ("PMI_SIZE", "1")],
        &[("PMI_FD", "3"), ("PMI_RANK", "2"), ("PMI_SIZE", "2")],
    ];
    for pairs in bad {
        assert!(matches!(env(pairs), Err(BootError::Environment(_))));
    }
}

#[test]
fn a_server_at_an_address_tells_rank_and_size() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = [0; 21];
        stream.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"cmd=initack pmiid=12\n");
        let told = b"cmd=initack rc=0\ncmd=set size=1\ncmd=set rank=0\ncmd=set debug=0\n";
        stream.write_all(told).unwrap();
        let mut server = Server::new(ServerConfig {
            kvsname: "kvs_1".into(),
            universe_size: 1,
            appnum: 0,
            ranks: vec![0],
            preload: Default::default(),
        });
        let mut lines = LineBuffer::new();
        let mut piece = [0; 4096];
        while let Ok(got @ 1..) = stream.read(&mut piece) {
            lines.feed(&piece[..got]);
            while let Some(line) = lines.next_line().unwrap() {
                for action in server.on_line(0, &line) {
                    if let Action::Reply { line, .. } = action {
                        stream.write_all(line.as_bytes()).unwrap();
                    }
                }
            }
        }
    });
    let options = PmiOptions {
        hostname: "n".into(),
        rundir: "/nonexistent".into(),
        prefer_tcp: false,
        interface_hint: None,
    };
    let boot = PmiEnv::Port { address, id: 12 }.boot(&options, &tree).unwrap();
    assert_eq!((boot.rank, boot.size), (0, 1));
    assert!(!boot.attributes.contains_key("jobid"));
    served.join().unwrap();
}
