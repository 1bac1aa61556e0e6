use flux_model::blobref::{Blobref, HashAlg};
use flux_model::treeobj::Treeobj;
use flux_proto::RouteId;
use flux_svc::Rig;
use proptest::prelude::*;

use super::*;
use crate::KvsService;
use crate::service::tests::{Store, append, lookup_flags, object, put, send, unlink};

/// A watch service beside a store service on rank 0.
struct Pair {
    store: Store,
    kvs: Rig<KvsService>,
    watch: Rig<WatchService>,
    loads: usize,
}

impl Pair {
    fn new() -> Self {
        let mut store = Store::default();
        let kvs = store.start();
        Self { store, kvs, watch: Rig::new(WatchService::new()), loads: 0 }
    }

    fn run(&mut self) {
        loop {
            self.store.serve(&mut self.kvs);
            if let Some(event) = self.kvs.events.pop_front() {
                self.watch.deliver(event);
            } else if let Some(at) = self
                .kvs
                .responses
                .iter()
                .position(|response| response.last_route() == Some(&RouteId::from("watch")))
            {
                let mut response = self.kvs.responses.remove(at).unwrap();
                response.pop_route();
                self.watch.deliver(response);
            } else if let Some(mut request) = self.watch.requests.pop_front() {
                if request.topic() == "content.load" {
                    self.loads += 1;
                    let digest = request.payload.clone().unwrap();
                    let blobref = Blobref::from_digest(HashAlg::Sha1, &digest).unwrap();
                    match self.store.blobs.get(&blobref) {
                        Some(blob) => self.watch.reply_raw(&request, blob.clone()),
                        None => self.watch.fail(&request, Errno::ENOENT),
                    }
                } else {
                    request.push_route("watch".into());
                    self.kvs.deliver(request);
                }
            } else {
                return;
            }
        }
    }

    fn commit(&mut self, ops: &[Value]) {
        let tag = send(&mut self.kvs, ops);
        self.run();
        self.kvs.response(tag).unwrap();
    }

    /// The same on a follower, which has the store of rank 0 beside it for simplicity.
    fn follower() -> Self {
        let watch = Rig::with(WatchService::new(), 1, 2, &serde_json::Map::new());
        Self { watch, ..Self::new() }
    }

    /// What the watcher asks when it hears of a commit; it is not answered.
    fn asked_after(&mut self, ops: &[Value]) -> Message {
        let tag = send(&mut self.kvs, ops);
        self.store.serve(&mut self.kvs);
        self.kvs.response(tag).unwrap();
        while let Some(event) = self.kvs.events.pop_front() {
            self.watch.deliver(event);
        }
        self.watch.requests.pop_front().unwrap()
    }

    /// A commit whose event does not get here.
    fn unheard(&mut self, ops: &[Value]) {
        let tag = send(&mut self.kvs, ops);
        self.store.serve(&mut self.kvs);
        self.kvs.events.clear();
        self.kvs.response(tag).unwrap();
    }

    fn watch(&mut self, key: &str, flags: u32) -> u32 {
        let body = json!({ "namespace": "primary", "key": key, "flags": flags });
        let tag = self.watch.stream("kvs-watch.lookup", body);
        self.run();
        tag
    }

    /// Everything answered so far: values, `()` for an empty response, errno names.
    fn answers(&mut self, tag: u32) -> Vec<String> {
        std::iter::from_fn(|| self.watch.try_response(tag))
            .map(|result| match result {
                Ok(Value::Null) => "()".to_string(),
                Ok(body) => match Treeobj::from_value(&body["val"]).unwrap() {
                    Treeobj::Val(data) => String::from_utf8(data).unwrap(),
                    other => other.type_name().to_string(),
                },
                Err(error) => error.errno.name().to_string(),
            })
            .collect()
    }
}

#[test]
fn a_watch_shows_every_change_of_its_key_in_order() {
    let mut pair = Pair::new();
    pair.commit(&[put("a.b", "1")]);
    let tag = pair.watch("a.b", WATCH);
    assert_eq!(pair.answers(tag), ["1"]);
    pair.commit(&[put("a.c", "x")]);
    assert!(pair.answers(tag).is_empty());
    pair.commit(&[put("a.b", "2")]);
    pair.commit(&[put("a.b", "2")]);
    pair.commit(&[put("a.b", "3")]);
    assert_eq!(pair.answers(tag), ["2", "2", "3"]);
    pair.commit(&[unlink("a.b")]);
    assert_eq!(pair.answers(tag), ["ENOENT"]);
    assert_eq!(pair.watch.service().stats().unwrap()["watchers"], 0);
    pair.watch.finish();
}

#[test]
fn a_change_while_a_lookup_is_on_its_way_is_not_lost() {
    let mut pair = Pair::new();
    pair.commit(&[put("a", "1")]);
    let body = json!({ "namespace": "primary", "key": "a", "flags": WATCH });
    let tag = pair.watch.stream("kvs-watch.lookup", body);
    for value in ["2", "3"] {
        let sent = send(&mut pair.kvs, &[put("a", value)]);
        pair.store.serve(&mut pair.kvs);
        pair.kvs.response(sent).unwrap();
        let event = pair.kvs.events.pop_front().unwrap();
        pair.watch.deliver(event);
    }
    pair.run();
    let answers = pair.answers(tag);
    assert_eq!(answers.last().unwrap(), "3");
}

#[test]
fn flags_choose_what_is_answered() {
    let mut pair = Pair::new();
    pair.commit(&[put("t", "1"), object("l", &Treeobj::symlink(None, "t"))]);
    let plain = pair.watch("l", WATCH);
    let full = pair.watch("l", WATCH | WATCH_FULL);
    let unique = pair.watch("t", WATCH | WATCH_UNIQ);
    let wait = pair.watch("new.key", WAITCREATE);
    let dir = pair.watch("new", WAITCREATE | WATCH | READDIR);
    pair.commit(&[put("t", "1")]);
    pair.commit(&[put("t", "2")]);
    pair.commit(&[put("other", "2")]);
    assert_eq!(pair.answers(plain), ["1"]);
    assert_eq!(pair.answers(full), ["1", "2"]);
    assert_eq!(pair.answers(unique), ["1", "2"]);
    assert!(pair.answers(wait).is_empty());
    pair.commit(&[put("new.key", "v")]);
    assert_eq!(pair.answers(wait), ["v", "ENODATA"]);
    assert_eq!(pair.answers(dir), ["dir"]);
}

#[test]
fn odd_requests_have_the_documented_errors() {
    let mut pair = Pair::new();
    pair.commit(&[put("d.v", "1")]);
    for (key, flags, errno) in [
        ("d.v", WATCH | STREAM, "EINVAL"),
        ("d.v", WATCH_FULL, "EINVAL"),
        ("d.v", WATCH_UNIQ, "EINVAL"),
        ("d.v", WATCH_APPEND, "EINVAL"),
        ("d.v", WATCH | WATCH_INITIAL_SENTINEL, "EINVAL"),
        ("none", WATCH, "ENOENT"),
        ("none", 0, "ENOENT"),
        ("d", WATCH, "EISDIR"),
        ("d", WATCH | WATCH_APPEND, "EISDIR"),
        ("d", STREAM, "EISDIR"),
        ("d.v", WATCH | READDIR, "ENOTDIR"),
    ] {
        let tag = pair.watch(key, flags);
        assert_eq!(pair.answers(tag), [errno], "{key} {flags}");
    }
    for flags in [WATCH, STREAM] {
        let body = json!({ "namespace": "primary", "key": "d.v", "flags": flags });
        let tag = pair.watch.request("kvs-watch.lookup", body);
        assert_eq!(pair.answers(tag), ["EPROTO"]);
    }
    let guest = pair.watch.guest(7);
    let body = json!({ "namespace": "primary", "key": "d.v", "flags": WATCH });
    let tag = pair.watch.request_as(guest, "kvs-watch.lookup", body, true);
    pair.run();
    assert_eq!(pair.answers(tag), ["EPERM"]);
    pair.watch.finish();
}

#[test]
fn append_shows_only_what_was_appended_and_loads_nothing_twice() {
    let mut pair = Pair::new();
    let log = pair.watch("log", WATCH | WATCH_APPEND | WAITCREATE | WATCH_INITIAL_SENTINEL);
    assert!(pair.answers(log).is_empty());
    for piece in ["a", "bb", "ccc"] {
        pair.commit(&[append("log", piece)]);
    }
    assert_eq!(pair.answers(log), ["a", "()", "bb", "ccc"]);
    assert_eq!(pair.loads, 2);
    let late = pair.watch("log", WATCH | WATCH_APPEND);
    assert_eq!(pair.answers(late), ["abbccc"]);
    pair.commit(&[append("log", "d"), append("log", "e")]);
    assert_eq!(pair.answers(log), ["de"]);
    pair.commit(&[put("log", "new")]);
    assert_eq!(pair.answers(log), ["EINVAL"]);
    assert_eq!(pair.answers(late), ["de", "EINVAL"]);
    pair.watch.finish();
}

#[test]
fn a_log_that_becomes_one_value_is_shown_on_and_not_again() {
    let mut pair = Pair::new();
    let flags = WATCH | WATCH_APPEND | WAITCREATE;
    let from_start = pair.watch("log", flags);
    let line =
        |n: u32| format!("line {n} that is long enough for a blob of its own, as lines are ...\n");
    for n in 0..3 {
        pair.commit(&[append("log", &line(n))]);
    }
    let later = pair.watch("log", flags);
    assert_eq!(pair.answers(from_start), [line(0), line(1), line(2)]);
    let all: String = (0..3).map(line).collect();
    assert_eq!(pair.answers(later), std::slice::from_ref(&all));
    // The same text in one piece: nothing new.
    pair.commit(&[put("log", &all)]);
    assert!(pair.answers(from_start).is_empty());
    // With more of it: what is new. And it goes on.
    let whole: String = (0..5).map(line).collect();
    pair.commit(&[put("log", &whole)]);
    let new: String = (3..5).map(line).collect();
    assert_eq!(pair.answers(from_start), std::slice::from_ref(&new));
    pair.commit(&[append("log", &line(5))]);
    assert_eq!(pair.answers(from_start), [line(5)]);
    assert_eq!(pair.answers(later), [new, line(5)]);
    // Another text of the same length is another value.
    let other = whole.replace("line 1", "line 9") + &line(5);
    pair.commit(&[put("log", &other)]);
    assert_eq!(pair.answers(from_start), ["EINVAL"]);
    assert_eq!(pair.answers(later), ["EINVAL"]);
    // A short beginning that was kept in the directory, then as one piece with more.
    pair.commit(&[put("short", "a")]);
    let short = pair.watch("short", flags);
    assert_eq!(pair.answers(short), ["a"]);
    pair.commit(&[put("short", &format!("a{whole}"))]);
    assert_eq!(pair.answers(short), [whole]);
    pair.watch.disconnect(pair.watch.owner(), "kvs-watch");
    pair.watch.finish();
}

#[test]
fn a_stream_is_one_answer_per_blob_and_an_end() {
    let mut pair = Pair::new();
    let pieces: Vec<String> = (0..20).map(|i| format!("piece {i}")).collect();
    let ops: Vec<Value> = pieces.iter().map(|piece| append("log", piece)).collect();
    pair.commit(&ops);
    let tag = pair.watch("log", STREAM);
    let mut expected = pieces;
    expected.push("ENODATA".into());
    assert_eq!(pair.answers(tag), expected);
}

#[test]
fn namespaces_may_come_and_go() {
    let mut pair = Pair::new();
    let body = |flags| json!({ "namespace": "n", "key": "k", "flags": flags });
    let now = pair.watch.stream("kvs-watch.lookup", body(WATCH));
    let later = pair.watch.stream("kvs-watch.lookup", body(WATCH | WAITCREATE));
    pair.run();
    assert_eq!(pair.answers(now), ["EOPNOTSUPP"]);
    pair.kvs.request("kvs.namespace-create", json!({ "namespace": "n", "owner": 5 }));
    pair.run();
    let ops = json!({ "namespace": "n", "flags": 0, "ops": [put("k", "1")] });
    pair.kvs.request("kvs.commit", ops);
    pair.run();
    assert_eq!(pair.answers(later), ["1"]);
    let guest = pair.watch.guest(5);
    let mine = pair.watch.request_as(guest, "kvs-watch.lookup", body(WATCH), true);
    pair.run();
    assert_eq!(pair.answers(mine), ["1"]);
    let stats = pair.watch.service().stats().unwrap();
    assert_eq!(stats["namespaces"]["n"]["owner"], 5);
    assert_eq!(stats["namespaces"]["n"]["watchers"], 2);
    pair.kvs.request("kvs.namespace-remove", json!({ "namespace": "n" }));
    pair.run();
    assert_eq!(pair.answers(later), ["EOPNOTSUPP"]);
    assert_eq!(pair.answers(mine), ["EOPNOTSUPP"]);
    pair.watch.finish();
}

#[test]
fn cancel_and_disconnect_end_a_watch() {
    let mut pair = Pair::new();
    pair.commit(&[put("a", "1")]);
    let first = pair.watch("a", WATCH);
    let second = pair.watch("a", WATCH);
    assert_eq!((pair.answers(first), pair.answers(second)), (vec!["1".into()], vec!["1".into()]));
    pair.watch.request("kvs-watch.cancel", json!({ "matchtag": first }));
    assert_eq!(pair.answers(first), ["ENODATA"]);
    pair.watch.disconnect(pair.watch.owner(), "kvs-watch");
    assert!(pair.answers(second).is_empty());
    assert_eq!(pair.watch.service().stats().unwrap()["namespace-count"], 0);
    pair.watch.finish();
}

#[test]
fn a_change_touches_only_the_watchers_of_its_key() {
    let mut pair = Pair::new();
    let ops: Vec<Value> = (0..200).map(|i| put(&format!("k{i}"), "0")).collect();
    pair.commit(&ops);
    let tags: Vec<u32> = (0..200).map(|i| pair.watch(&format!("k{i}"), WATCH)).collect();
    for tag in &tags {
        assert_eq!(pair.answers(*tag), ["0"]);
    }
    let sent = send(&mut pair.kvs, &[put("k7", "1")]);
    pair.store.serve(&mut pair.kvs);
    pair.kvs.response(sent).unwrap();
    let event = pair.kvs.events.pop_front().unwrap();
    pair.watch.deliver(event);
    assert_eq!(pair.watch.requests.len(), 1);
    pair.run();
    assert_eq!(pair.answers(tags[7]), ["1"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn append_watches_yield_exactly_the_appended_bytes(
        pieces in proptest::collection::vec(("[a-z]{0,90}", any::<bool>()), 1..20),
        start in 0usize..20,
    ) {
        let mut pair = Pair::new();
        let mut tag = None;
        let mut expected = String::new();
        let mut tags = Vec::new();
        for (i, (piece, settle)) in pieces.iter().enumerate() {
            if i == start {
                tag = Some(pair.watch("log", WATCH | WATCH_APPEND | WAITCREATE));
            }
            tags.push(send(&mut pair.kvs, &[append("log", piece)]));
            expected.push_str(piece);
            if *settle {
                pair.run();
            }
        }
        pair.run();
        let tag = match tag {
            Some(tag) => tag,
            None => pair.watch("log", WATCH | WATCH_APPEND),
        };
        prop_assert_eq!(pair.answers(tag).concat(), expected);
        for tag in tags {
            pair.kvs.response(tag).unwrap();
        }
    }
}

#[test]
fn a_follower_shows_what_changed_while_the_way_was_lost_and_nothing_twice() {
    let mut pair = Pair::follower();
    pair.commit(&[put("a", "1"), put("b", "1"), put("log", "x")]);
    let (a, b) = (pair.watch("a", WATCH), pair.watch("b", WATCH));
    let log = pair.watch("log", WATCH | WATCH_APPEND);
    let late = pair.watch("late", WATCH | WAITCREATE);
    assert_eq!((pair.answers(a), pair.answers(b)), (vec!["1".into()], vec!["1".into()]));
    assert_eq!(pair.answers(log), ["x"]);
    pair.watch.way(Way::Lost);
    pair.unheard(&[put("a", "2"), append("log", "y")]);
    pair.unheard(&[put("a", "3"), put("late", "1")]);
    pair.unheard(&[append("log", "z")]);
    pair.watch.way(Way::Back);
    pair.run();
    assert_eq!(pair.answers(a), ["3"]);
    assert!(pair.answers(b).is_empty());
    assert_eq!(pair.answers(log).concat(), "yz");
    assert_eq!(pair.answers(late), ["1"]);
    pair.commit(&[put("a", "4"), put("b", "2")]);
    assert_eq!((pair.answers(a), pair.answers(b)), (vec!["4".into()], vec!["2".into()]));
}

#[test]
fn a_watcher_that_is_cut_in_the_middle_of_a_read_goes_on() {
    let mut pair = Pair::follower();
    pair.commit(&[put("a", "1"), put("log", "x")]);
    let a = pair.watch("a", WATCH);
    let log = pair.watch("log", WATCH | WATCH_APPEND);
    assert_eq!((pair.answers(a).len(), pair.answers(log).len()), (1, 1));
    let tag = send(&mut pair.kvs, &[put("a", "2"), append("log", "y")]);
    pair.store.serve(&mut pair.kvs);
    pair.kvs.response(tag).unwrap();
    while let Some(event) = pair.kvs.events.pop_front() {
        pair.watch.deliver(event);
    }
    // Both lookups find no way to the leader.
    for request in std::mem::take(&mut pair.watch.requests) {
        pair.watch.fail(&request, Errno::EHOSTUNREACH);
    }
    pair.watch.way(Way::Lost);
    assert!(pair.answers(a).is_empty() && pair.answers(log).is_empty());
    pair.watch.way(Way::Back);
    pair.run();
    assert_eq!((pair.answers(a), pair.answers(log)), (vec!["2".into()], vec!["y".into()]));
    // Nobody tells that the way is back: it is tried again after a while.
    let tag = send(&mut pair.kvs, &[put("a", "3")]);
    pair.store.serve(&mut pair.kvs);
    pair.kvs.response(tag).unwrap();
    while let Some(event) = pair.kvs.events.pop_front() {
        pair.watch.deliver(event);
    }
    for request in std::mem::take(&mut pair.watch.requests) {
        pair.watch.fail(&request, Errno::EHOSTUNREACH);
    }
    pair.watch.advance(3_000_000);
    pair.run();
    assert_eq!(pair.answers(a), ["3"]);
}

#[test]
fn who_asks_while_the_way_is_lost_hears_of_it() {
    let mut pair = Pair::follower();
    pair.watch.way(Way::Lost);
    let body = json!({ "namespace": "primary", "key": "a", "flags": WATCH });
    let tag = pair.watch.stream("kvs-watch.lookup", body);
    for request in std::mem::take(&mut pair.watch.requests) {
        pair.watch.fail(&request, Errno::EHOSTUNREACH);
    }
    assert_eq!(pair.answers(tag), ["EHOSTUNREACH"]);
}

#[test]
fn events_that_are_faster_than_the_leaders_answer_hide_nothing() {
    let mut pair = Pair::follower();
    pair.commit(&[put("a", "1")]);
    let a = pair.watch("a", WATCH);
    assert_eq!(pair.answers(a), ["1"]);
    pair.watch.way(Way::Lost);
    pair.unheard(&[put("a", "2")]);
    pair.watch.way(Way::Back);
    // The answer was made before the next commit, and comes after its event.
    let tag = send(&mut pair.kvs, &[put("b", "1")]);
    let requests = std::mem::take(&mut pair.watch.requests);
    for mut request in requests {
        request.push_route("watch".into());
        pair.kvs.deliver(request);
    }
    pair.store.serve(&mut pair.kvs);
    while let Some(event) = pair.kvs.events.pop_front() {
        pair.watch.deliver(event);
    }
    pair.run();
    pair.kvs.response(tag).unwrap();
    assert_eq!(pair.answers(a), ["2"]);
}

#[test]
fn events_that_are_faster_than_the_way_hide_nothing() {
    let mut pair = Pair::follower();
    pair.commit(&[put("a", "1")]);
    let a = pair.watch("a", WATCH);
    assert_eq!(pair.answers(a), ["1"]);
    pair.watch.way(Way::Lost);
    pair.unheard(&[put("a", "2")]);
    pair.commit(&[put("b", "1")]);
    assert!(pair.answers(a).is_empty());
    pair.watch.way(Way::Back);
    pair.run();
    assert_eq!(pair.answers(a), ["2"]);
}

#[test]
fn a_version_that_was_collected_while_it_was_read_is_read_in_the_newest() {
    let mut pair = Pair::follower();
    pair.commit(&[put("a", "1")]);
    let a = pair.watch("a", WATCH);
    assert_eq!(pair.answers(a), ["1"]);
    let slow = pair.asked_after(&[put("a", "2")]);
    pair.commit(&[put("b", "1")]);
    pair.watch.fail(&slow, Errno::ENOTRECOVERABLE);
    pair.run();
    assert_eq!(pair.answers(a), ["2"]);
    // What is gone from the newest version is gone.
    let lost = pair.asked_after(&[put("a", "3")]);
    pair.watch.fail(&lost, Errno::ENOTRECOVERABLE);
    assert!(pair.answers(a).is_empty(), "the leader may have a later one");
    pair.run();
    assert_eq!(pair.answers(a), ["ENOTRECOVERABLE"]);
}

#[test]
fn a_collected_version_is_the_newest_only_when_the_leader_says_so() {
    let mut pair = Pair::follower();
    pair.commit(&[put("a", "1")]);
    let a = pair.watch("a", WATCH);
    assert_eq!(pair.answers(a), ["1"]);
    let slow = pair.asked_after(&[put("a", "2")]);
    pair.unheard(&[put("a", "3")]);
    pair.watch.fail(&slow, Errno::ENOTRECOVERABLE);
    // The leader cannot be asked at once.
    let asked = pair.watch.expect("kvs.getroot");
    pair.watch.fail(&asked, Errno::EHOSTUNREACH);
    pair.watch.advance(cut::RETRY_US);
    let again = pair.watch.requests.pop_front().unwrap();
    pair.watch.fail(&again, Errno::ENOTRECOVERABLE);
    pair.run();
    assert_eq!(pair.answers(a), ["3"]);
}

/// The first pieces that a log has by now.
fn pieces_of(pair: &mut Pair) -> Vec<Blobref> {
    match lookup_flags(&mut pair.store, &mut pair.kvs, "log", TREEOBJ).unwrap() {
        Treeobj::Valref(names) => names,
        other => panic!("{other:?}"),
    }
}

/// A log of pieces `0.` to `19.`, of which some are asked for, becomes one value of 21 pieces and
/// its former ones are collected before they are answered.
fn a_log_is_collected_while_it_is_read(mut pair: Pair, flags: u32, heard: bool) -> Vec<String> {
    for n in 0..20 {
        pair.commit(&[append("log", &format!("{n}."))]);
    }
    let body = json!({ "namespace": "primary", "key": "log", "flags": flags });
    let tag = pair.watch.stream("kvs-watch.lookup", body);
    // The lookup and the first three pieces are answered.
    let mut answered = 0;
    while answered < 3 {
        let load = pair.watch.requests.iter().position(|it| it.topic() == "content.load");
        if let Some(at) = load {
            let load = pair.watch.requests.remove(at).unwrap();
            let digest = load.payload.clone().unwrap();
            let name = Blobref::from_digest(HashAlg::Sha1, &digest).unwrap();
            pair.watch.reply_raw(&load, pair.store.blobs[&name].clone());
            answered += 1;
        } else {
            let mut request = pair.watch.requests.pop_front().unwrap();
            request.push_route("watch".into());
            pair.kvs.deliver(request);
            pair.store.serve(&mut pair.kvs);
            while let Some(mut response) = pair.kvs.responses.pop_front() {
                response.pop_route();
                pair.watch.deliver(response);
            }
        }
    }
    let old = pieces_of(&mut pair);
    let whole: String = (0..21).map(|n| format!("{n}.")).collect();
    if heard {
        let tag = send(&mut pair.kvs, &[put("log", &whole)]);
        pair.store.serve(&mut pair.kvs);
        pair.kvs.response(tag).unwrap();
    } else {
        pair.unheard(&[put("log", &whole)]);
    }
    for name in old {
        pair.store.blobs.remove(&name);
    }
    pair.run();
    pair.answers(tag)
}

#[test]
fn a_watched_log_that_was_collected_while_it_was_read_is_read_in_a_newer_version() {
    let whole: String = (0..21).map(|n| format!("{n}.")).collect();
    for heard in [true, false] {
        for pair in [Pair::follower(), Pair::new()] {
            let answers = a_log_is_collected_while_it_is_read(pair, WATCH | WATCH_APPEND, heard);
            assert_eq!(answers.join("|"), whole, "{heard}");
        }
    }
}

#[test]
fn a_stream_whose_pieces_were_collected_goes_on_in_a_newer_version() {
    for heard in [true, false] {
        let answers = a_log_is_collected_while_it_is_read(Pair::follower(), STREAM, heard);
        let mut wanted: Vec<String> = ["0.", "1.", "2."].map(String::from).into();
        wanted.push((3..21).map(|n| format!("{n}.")).collect());
        wanted.push("ENODATA".to_string());
        assert_eq!(answers, wanted, "{heard}");
    }
}

#[test]
fn a_watched_log_whose_pieces_are_lost_for_good_is_an_error() {
    let mut pair = Pair::follower();
    pair.commit(&[put("log", "x"), put("a", "1")]);
    let log = pair.watch("log", WATCH | WATCH_APPEND);
    assert_eq!(pair.answers(log), ["x"]);
    let tag = send(&mut pair.kvs, &[append("log", "y")]);
    pair.store.serve(&mut pair.kvs);
    pair.kvs.response(tag).unwrap();
    for name in pieces_of(&mut pair) {
        pair.store.blobs.remove(&name);
    }
    pair.run();
    assert_eq!(pair.answers(log), ["ENOTRECOVERABLE"]);
    pair.watch.finish();
}

#[test]
fn what_is_lost_for_good_is_an_error_however_much_others_commit() {
    let mut pair = Pair::follower();
    pair.commit(&[put("log", "x"), put("a", "1")]);
    let log = pair.watch("log", WATCH | WATCH_APPEND);
    assert_eq!(pair.answers(log), ["x"]);
    let mut request = pair.asked_after(&[append("log", "y")]);
    for name in pieces_of(&mut pair) {
        pair.store.blobs.remove(&name);
    }
    let mut loads = 0;
    while loads < 100 {
        if request.topic() == "content.load" {
            loads += 1;
            // There is a newer version whenever a piece turns out to be missing.
            pair.unheard(&[put("a", &loads.to_string())]);
            pair.watch.fail(&request, Errno::ENOENT);
        } else {
            request.push_route("watch".into());
            pair.kvs.deliver(request);
            pair.store.serve(&mut pair.kvs);
            while let Some(mut response) = pair.kvs.responses.pop_front() {
                response.pop_route();
                pair.watch.deliver(response);
            }
        }
        let Some(next) = pair.watch.requests.pop_front() else { break };
        request = next;
    }
    assert_eq!(pair.answers(log), ["ENOTRECOVERABLE"]);
    assert!((2..50).contains(&loads), "{loads}");
    pair.watch.finish();
}

#[test]
fn a_watched_log_whose_namespace_goes_while_a_piece_is_missing_is_told_that() {
    let mut pair = Pair::follower();
    pair.kvs.request("kvs.namespace-create", json!({ "namespace": "n", "owner": 5 }));
    pair.run();
    let commit = |pair: &mut Pair, text: &str| {
        let ops = json!({ "namespace": "n", "flags": 0, "ops": [append("log", text)] });
        pair.kvs.request("kvs.commit", ops);
        pair.store.serve(&mut pair.kvs);
    };
    commit(&mut pair, "x");
    commit(&mut pair, "y");
    pair.run();
    let body = json!({ "namespace": "n", "key": "log", "flags": WATCH | WATCH_APPEND });
    let log = pair.watch.stream("kvs-watch.lookup", body);
    pair.run();
    assert_eq!(pair.answers(log), ["xy"]);
    commit(&mut pair, "z");
    while let Some(event) = pair.kvs.events.pop_front() {
        pair.watch.deliver(event);
    }
    // The namespace is removed, and what was in it collected, before anything is read. The event
    // of the removal has not come yet.
    let lookup = pair.watch.requests.pop_front().unwrap();
    pair.watch.fail(&lookup, Errno::ENOTRECOVERABLE);
    let renew = pair.watch.expect("kvs.getroot");
    pair.watch.fail(&renew, Errno::EOPNOTSUPP);
    assert_eq!(pair.answers(log), ["EOPNOTSUPP"]);
    pair.watch.finish();
}
