//! The server against lines as tasks send them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;

use flux_pmi::{Action, LineError, Server, ServerConfig};
use proptest::prelude::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn server(ranks: &[u32]) -> Server {
    Server::new(ServerConfig {
        kvsname: "fABC".to_owned(),
        universe_size: 8,
        appnum: 0,
        ranks: ranks.to_vec(),
        preload: map(&[("PMI_process_mapping", "(vector,(0,2,4))")]),
    })
}

fn ready(ranks: &[u32]) -> Server {
    let mut server = server(ranks);
    for &rank in ranks {
        let init = server.on_line(rank, "cmd=init pmi_version=1 pmi_subversion=1\n");
        let line = "cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1";
        assert_eq!(init, says(rank, line));
    }
    server
}

fn says(rank: u32, line: &str) -> Vec<Action> {
    vec![Action::Reply { rank, line: format!("{line}\n") }]
}

fn is_protocol_error(actions: &[Action]) -> bool {
    matches!(actions, [Action::ProtocolError { .. }])
}

#[test]
fn questions_get_the_documented_answers() {
    let mut server = ready(&[3]);
    for (request, reply) in [
        ("cmd=get_maxes", "cmd=maxes rc=0 kvsname_max=64 keylen_max=64 vallen_max=1024"),
        ("cmd=get_appnum", "cmd=appnum rc=0 appnum=0"),
        ("cmd=get_universe_size", "cmd=universe_size rc=0 size=8"),
        ("cmd=get_my_kvsname", "cmd=my_kvsname rc=0 kvsname=fABC"),
        (
            "cmd=get kvsname=fABC key=PMI_process_mapping",
            "cmd=get_result rc=0 value=(vector,(0,2,4))",
        ),
        ("cmd=get kvsname=fABC key=nope", "cmd=get_result rc=4 msg=unknown_key"),
        ("cmd=get kvsname=other key=nope", "cmd=get_result rc=14 msg=unknown_kvsname"),
        ("cmd=publish_name service=a port=b", "cmd=publish_result rc=-1 msg=not_supported"),
        ("cmd=unpublish_name service=a", "cmd=unpublish_result rc=-1 msg=not_supported"),
        ("cmd=lookup_name service=a", "cmd=lookup_result rc=-1 msg=not_supported"),
        ("cmd=spawn", "cmd=spawn_result rc=-1"),
        ("cmd=finalize", "cmd=finalize_ack rc=0"),
    ] {
        assert_eq!(server.on_line(3, request), says(3, reply), "{request}");
    }
    assert!(server.may_exit(3));
}

#[test]
fn the_highest_common_version_is_agreed_on() {
    for (version, subversion, answer) in [
        (1, 0, "rc=0 pmi_version=1 pmi_subversion=0"),
        (1, 9, "rc=0 pmi_version=1 pmi_subversion=1"),
        (2, 0, "rc=0 pmi_version=1 pmi_subversion=1"),
        (0, 0, "rc=-1 pmi_version=1 pmi_subversion=1"),
    ] {
        let init = format!("cmd=init pmi_version={version} pmi_subversion={subversion}");
        let expected = says(0, &format!("cmd=response_to_init {answer}"));
        assert_eq!(server(&[0]).on_line(0, &init), expected, "{init}");
    }
}

#[test]
fn the_barrier_waits_for_all_and_hands_out_the_keys_put_since() {
    let mut server = ready(&[0, 1]);
    for (rank, key) in [(0, "a"), (1, "b"), (1, "local::c")] {
        let put = format!("cmd=put kvsname=fABC key={key} value=v {rank}=x");
        assert_eq!(server.on_line(rank, &put), says(rank, "cmd=put_result rc=0"));
    }
    let get_b = "cmd=get kvsname=fABC key=b";
    assert_eq!(server.on_line(0, get_b), says(0, "cmd=get_result rc=0 value=v 1=x"));
    assert_eq!(server.on_line(1, "cmd=barrier_in"), []);
    assert_eq!(server.barrier_done(map(&[])), [], "not all are in the barrier");
    let keys = map(&[("a", "v 0=x"), ("b", "v 1=x")]);
    let enter = server.on_line(0, "cmd=barrier_in");
    assert_eq!(enter, [Action::BarrierEnter { keys: keys.clone() }]);

    let mut merged = keys;
    merged.insert("far".to_owned(), "away".to_owned());
    let out = server.barrier_done(merged);
    let expected: Vec<_> =
        [0, 1].iter().flat_map(|&rank| says(rank, "cmd=barrier_out rc=0")).collect();
    assert_eq!(out, expected);
    assert_eq!(server.barrier_done(map(&[])), [], "the barrier is over");
    for (key, value) in [("far", "away"), ("b", "v 1=x"), ("local::c", "v 1=x")] {
        let get = format!("cmd=get kvsname=fABC key={key}");
        let line = format!("cmd=get_result rc=0 value={value}");
        assert_eq!(server.on_line(0, &get), says(0, &line));
    }
    // The next barrier exchanges only what is new.
    server.on_line(0, "cmd=barrier_in");
    let enter = server.on_line(1, "cmd=barrier_in");
    assert_eq!(enter, [Action::BarrierEnter { keys: map(&[]) }]);
}

#[test]
fn a_failed_exchange_is_told_to_all() {
    let mut server = ready(&[0]);
    server.on_line(0, "cmd=barrier_in");
    let out = server.barrier_failed("lost\nnode 3");
    assert_eq!(out, says(0, "cmd=barrier_out rc=-1 msg=lost_node_3"));
}

#[test]
fn keys_and_values_beyond_the_limits_are_refused() {
    let mut server = ready(&[0]);
    let long = "k".repeat(65);
    let huge = "v".repeat(1025);
    for (kvsname, key, value, rc) in [
        ("fABC", "k", "", "rc=0"),
        ("fABC", &long[..64], &huge[..1024], "rc=0"),
        ("fABC", &long[..], "v", "rc=5"),
        ("fABC", "k", &huge[..], "rc=7"),
        ("fABC", "kéy", "v", "rc=4"),
        ("fABC", "", "v", "rc=4"),
        ("x", "k", "v", "rc=14"),
    ] {
        let put = format!("cmd=put kvsname={kvsname} key={key} value={value}");
        match &server.on_line(0, &put)[..] {
            [Action::Reply { line, .. }] => assert!(line.contains(rc), "{line}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_task_cannot_put_without_end() {
    let mut server = ready(&[0]);
    let mut refused = false;
    for i in 0..5000 {
        let put = format!("cmd=put kvsname=fABC key=k{i} value=v");
        refused = server.on_line(0, &put) != says(0, "cmd=put_result rc=0");
    }
    assert!(refused);
}

#[test]
fn an_abort_carries_code_and_message() {
    for (line, msg, code) in [
        ("cmd=abort", "", 1),
        ("cmd=abort exitcode=7", "", 7),
        ("cmd=abort exitcode=-2 error_msg=it rc=3 broke", "it rc=3 broke", -2),
        ("cmd=abort msg=it broke exitcode=9", "it broke", 9),
    ] {
        let mut server = ready(&[5]);
        let mut expected = says(5, "");
        expected.push(Action::Abort { rank: 5, msg: msg.to_owned(), code });
        assert_eq!(server.on_line(5, line), expected, "{line}");
        assert_eq!(server.on_line(5, "nonsense"), [], "nothing counts after an abort");
    }
}

#[test]
fn a_spawn_is_refused_after_its_last_part() {
    let mut server = ready(&[0]);
    let part = |server: &mut Server, so_far: u32| {
        let so_far = format!("spawnssofar={so_far}");
        let lines = [
            "mcmd=spawn",
            "nprocs=2",
            "execname=a out",
            "totspawns=2",
            &so_far,
            "argcnt=1",
            "arg1=--x=y",
            "preput_num=1",
            "preput_key_0=k",
            "preput_val_0=v",
            "info_num=0",
        ];
        for line in lines {
            assert_eq!(server.on_line(0, line), [], "{line}");
        }
        server.on_line(0, "endcmd\n")
    };
    assert_eq!(part(&mut server, 1), []);
    assert_eq!(part(&mut server, 2), says(0, "cmd=spawn_result rc=-1"));
    assert_eq!(server.on_line(0, "cmd=get_appnum"), says(0, "cmd=appnum rc=0 appnum=0"));
    server.on_line(0, "mcmd=spawn");
    assert_eq!(server.on_line(0, "endcmd"), says(0, "cmd=spawn_result rc=-1"));
}

#[test]
fn whatever_is_not_in_the_protocol_ends_it() {
    for lines in [
        &["cmd=dance"][..],
        &["nonsense"],
        &["key=value"],
        &[""],
        &["cmd=init"],
        &["cmd=put key=a value=b"],
        &["cmd=get key=a"],
        &["cmd=finalize", "cmd=get_appnum"],
        &["cmd=barrier_in", "cmd=get_appnum"],
        &["mcmd=spawn", "stray"],
    ] {
        let mut server = ready(&[0, 1]);
        let mut last = Vec::new();
        for line in lines {
            last = server.on_line(0, line);
        }
        assert!(is_protocol_error(&last), "{lines:?}: {last:?}");
        assert_eq!(server.on_line(0, "cmd=get_appnum"), []);
        // Others are not disturbed.
        let reply = says(1, "cmd=appnum rc=0 appnum=0");
        assert_eq!(server.on_line(1, "cmd=get_appnum"), reply);
    }
    assert!(is_protocol_error(&server(&[0]).on_line(0, "cmd=get_maxes")), "before init");
    assert!(is_protocol_error(&server(&[0]).on_line(0, "mcmd=spawn")), "before init");
    assert!(is_protocol_error(&server(&[0]).on_line(9, "cmd=init")), "unknown rank");
    assert!(is_protocol_error(&server(&[0]).on_bad_line(0, LineError::NotText)));
}

#[test]
fn a_preloaded_value_cannot_end_the_line() {
    let mut server = Server::new(ServerConfig {
        kvsname: "k".to_owned(),
        universe_size: 1,
        appnum: 0,
        ranks: vec![0],
        preload: map(&[("k", "a\ncmd=x\t!")]),
    });
    server.on_line(0, "cmd=init pmi_version=1 pmi_subversion=1");
    let reply = says(0, "cmd=get_result rc=0 value=a cmd=x\t!");
    assert_eq!(server.on_line(0, "cmd=get kvsname=k key=k"), reply);
}

#[test]
fn a_name_that_is_no_word_is_not_handed_out() {
    let mut server = Server::new(ServerConfig {
        kvsname: "a b".to_owned(),
        universe_size: 1,
        appnum: 0,
        ranks: vec![0],
        preload: map(&[]),
    });
    server.on_line(0, "cmd=init pmi_version=1 pmi_subversion=1");
    let reply = says(0, "cmd=my_kvsname rc=-1 msg=no_valid_kvsname");
    assert_eq!(server.on_line(0, "cmd=get_my_kvsname"), reply);
}

#[test]
fn a_job_id_in_f58_is_a_name() {
    let mut server = Server::new(ServerConfig {
        kvsname: "ƒ2Wq".to_owned(),
        universe_size: 1,
        appnum: 0,
        ranks: vec![0],
        preload: map(&[("k", "v")]),
    });
    server.on_line(0, "cmd=init pmi_version=1 pmi_subversion=1");
    let reply = says(0, "cmd=my_kvsname rc=0 kvsname=ƒ2Wq");
    assert_eq!(server.on_line(0, "cmd=get_my_kvsname"), reply);
    let reply = says(0, "cmd=get_result rc=0 value=v");
    assert_eq!(server.on_line(0, "cmd=get kvsname=ƒ2Wq key=k"), reply);
}

/// What two tasks of an MPICH 4.0 program say, with shorter values.
#[test]
fn an_mpich_program_is_served() {
    let mut server = ready(&[0, 1]);
    for rank in [0, 1] {
        for request in ["cmd=get_maxes", "cmd=get_appnum", "cmd=get_my_kvsname"] {
            assert_eq!(server.on_line(rank, request).len(), 1);
        }
    }
    let barrier = |server: &mut Server| {
        assert_eq!(server.on_line(1, "cmd=barrier_in"), []);
        let enter = server.on_line(0, "cmd=barrier_in");
        let [Action::BarrierEnter { keys }] = &enter[..] else { panic!("{enter:?}") };
        assert_eq!(server.barrier_done(keys.clone()).len(), 2);
    };
    barrier(&mut server);
    let mapping = says(0, "cmd=get_result rc=0 value=(vector,(0,2,4))");
    assert_eq!(server.on_line(0, "cmd=get kvsname=fABC key=PMI_process_mapping"), mapping);
    let put = "cmd=put kvsname=fABC key=-bcast-1-0 value=2F6465762F73686D2F";
    assert_eq!(server.on_line(0, put), says(0, "cmd=put_result rc=0"));
    barrier(&mut server);
    let get = server.on_line(1, "cmd=get kvsname=fABC key=-bcast-1-0");
    assert_eq!(get, says(1, "cmd=get_result rc=0 value=2F6465762F73686D2F"));
    for rank in [0, 1] {
        assert_eq!(server.on_line(rank, "cmd=finalize"), says(rank, "cmd=finalize_ack rc=0"));
        assert!(server.may_exit(rank));
    }
}

proptest! {
    #[test]
    fn any_lines_leave_the_server_sound(
        lines in proptest::collection::vec((0_u32..4, prop_oneof![
            "\\PC{0,60}",
            Just("cmd=init pmi_version=1 pmi_subversion=1".to_owned()),
            Just("cmd=barrier_in".to_owned()), Just("cmd=finalize".to_owned()),
            Just("mcmd=spawn".to_owned()), Just("endcmd".to_owned()),
            "cmd=put kvsname=fABC key=[a-c] value=[ -~]{0,5}", "cmd=get kvsname=fABC key=[a-c]",
        ]), 0..60),
    ) {
        let mut server = server(&[0, 1, 2]);
        for (rank, line) in lines {
            for action in server.on_line(rank, &line) {
                match action {
                    Action::Reply { line, .. } => {
                        prop_assert!(line.ends_with('\n'));
                        prop_assert_eq!(line.matches('\n').count(), 1);
                    }
                    Action::BarrierEnter { keys } => {
                        prop_assert_eq!(server.barrier_done(keys).len(), 3);
                    }
                    Action::Abort { .. } | Action::ProtocolError { .. } => {}
                }
            }
        }
    }
}
