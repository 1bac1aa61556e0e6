use proptest::prelude::*;

use super::*;

const VECTORS: [(&str, &str); 15] = [
    ("", "[]"),
    ("0", "[[0,1,1,1]]"),
    ("0;1", "[[0,2,1,1]]"),
    ("0-1", "[[0,1,2,1]]"),
    ("0-1;2-3", "[[0,2,2,1]]"),
    ("0,2;1,3", "[[0,2,1,2]]"),
    ("1;0", "[[1,1,1,1],[0,1,1,1]]"),
    ("0-3;4-7;8-11;12-15", "[[0,4,4,1]]"),
    ("0,4,8,12;1,5,9,13;2,6,10,14;3,7,11,15", "[[0,4,1,4]]"),
    ("0-1,8-9;2-3,10-11;4-5,12-13;6-7,14-15", "[[0,4,2,2]]"),
    ("0-1;2-3;4-5;6-7;8-11;12-15", "[[0,4,2,1],[4,2,4,1]]"),
    ("0,6;1,7;2,8;3,9;4,10,12,14;5,11,13,15", "[[0,6,1,2],[4,2,1,2]]"),
    (
        "14-15;12-13;10-11;8-9;4-7;0-3",
        "[[5,1,4,1],[4,1,4,1],[3,1,2,1],[2,1,2,1],[1,1,2,1],[0,1,2,1]]",
    ),
    ("0-1;2-3;4-5;6-7;8-9;12-13;10-11;14-15", "[[0,5,2,1],[6,1,2,1],[5,1,2,1],[7,1,2,1]]"),
    ("12-15;8-11;4-7;0-3", "[[3,1,4,1],[2,1,4,1],[1,1,4,1],[0,1,4,1]]"),
];

fn map(text: &str) -> Taskmap {
    text.parse().unwrap_or_else(|err| panic!("{text}: {err}"))
}

#[test]
fn the_vectors_of_the_rfc_hold_both_ways() {
    for (raw, json) in VECTORS {
        assert_eq!(map(json).to_raw(), raw);
        assert_eq!(map(raw).to_array().to_string(), json);
        assert_eq!(map(json).to_array().to_string(), json);
        assert_eq!(map(&map(json).to_pmi().unwrap()), map(json), "{json}");
    }
}

#[test]
fn the_tables_of_the_rfc_hold() {
    let uneven = &[2, 2, 2, 2, 4, 4];
    for (counts, block, one, two) in [
        (&[4; 4][..], "[[0,4,4,1]]", "[[0,4,1,4]]", "[[0,4,2,2]]"),
        (uneven, "[[0,4,2,1],[4,2,4,1]]", "[[0,6,1,2],[4,2,1,2]]", "[[0,6,2,1],[4,2,2,1]]"),
        (&[256; 4096], "[[0,4096,256,1]]", "[[0,4096,1,256]]", "[[0,4096,2,128]]"),
    ] {
        assert_eq!(Taskmap::block(counts).unwrap(), map(block));
        assert_eq!(Taskmap::cyclic(counts, 1).unwrap(), map(one));
        assert_eq!(Taskmap::cyclic(counts, 2).unwrap(), map(two));
        map(one).check_counts(counts).unwrap();
    }
    assert_eq!(
        map("[[0,6,1,2],[4,2,1,2]]").to_pmi().unwrap(),
        "(vector,(0,6,1),(0,6,1),(4,2,1),(4,2,1))"
    );
    assert_eq!(map(" (vector, (0,4,2), (0,4,2))"), map("[[0,4,2,2]]"));
    assert_eq!(map("[[0,1,2,1]]").to_pmi().unwrap(), "(vector,(0,1,2))");
}

#[test]
fn json_may_be_wrapped_with_version_1_only() {
    let text = r#"{"version":1,"map":[[0,4096,256,1]]}"#;
    assert_eq!(serde_json::to_string(&map(text)).unwrap(), text);
    assert_eq!(r#"{"version":2,"map":[]}"#.parse::<Taskmap>(), Err(TaskmapError::Version(2)));
    for bad in [
        "{}",
        r#"{"version":1}"#,
        "[1]",
        "[[0,1,1]]",
        "[[0,1,1,1,1]]",
        "[[0,0,1,1]]",
        "[[0,1,0,1]]",
        "[[0,1,1,0]]",
        "[[-1,1,1,1]]",
        "[[0,1,1,4294967296]]",
        "[[0,4294967295,4294967295,4294967295]]",
        "[[0,16777217,1,1]]",
        "[[16777216,1,1,1]]",
        "(vector)",
        "(vector,)",
        "(vector,(0,1))",
        "(vector,(0,1,+1))",
        "(vector,(0,1,1)",
        "(vector,(0,1,1),)",
        "1",
        "0;0",
        "0;2",
        "x",
        "0-4294967295",
        "0;;1-",
    ] {
        assert!(bad.parse::<Taskmap>().is_err(), "{bad}");
    }
}

#[test]
fn a_host_file_is_used_again_from_its_start() {
    let names = ["a", "b"];
    let hosts = |hosts: &[&str], counts: &[u32]| Taskmap::hostfile(hosts, &names, counts);
    assert_eq!(hosts(&["b", "a"], &[2, 2]).unwrap(), map("1,3;0,2"));
    assert_eq!(hosts(&["a", "a", "b"], &[2, 1]).unwrap(), map("0-1;2"));
    assert_eq!(hosts(&["c"], &[1, 1]), Err(TaskmapError::UnknownHost("c".to_owned())));
    assert_eq!(hosts(&[], &[1, 1]), Err(TaskmapError::NoHosts));
    assert_eq!(hosts(&["a"], &[1, 1]), Err(TaskmapError::Count { node: 0, got: 2, expected: 1 }));
}

#[test]
fn lines_are_labelled_by_node_or_host() {
    let map = map("0,2;1,3");
    assert_eq!(map.to_multiline(), "0: 0,2\n1: 1,3\n");
    assert_eq!(map.to_hosts(&["a", "b"]), "a: 0,2\nb: 1,3\n");
}

proptest! {
    #[test]
    fn any_assignment_round_trips(nodes in prop::collection::vec(0u32..6, 1..60)) {
        let map = Taskmap::from_nodes(nodes.iter().copied()).unwrap();
        prop_assert_eq!(map.ntasks() as usize, nodes.len());
        prop_assert_eq!(map.nnodes(), nodes.iter().max().unwrap() + 1);
        let by_node = map.tasks_by_node();
        for (task, &node) in (0u32..).zip(&nodes) {
            prop_assert_eq!(map.node_of(task), Some(node));
            prop_assert!(by_node[node as usize].contains(task));
        }
        prop_assert_eq!(map.node_of(nodes.len() as u32), None);
        for (node, tasks) in (0u32..).zip(&by_node) {
            prop_assert_eq!(&map.tasks_of(node), tasks);
        }
        prop_assert_eq!(&Taskmap::from_value(&map.to_value()).unwrap(), &map);
        let raw: Taskmap = map.to_raw().parse().unwrap();
        prop_assert_eq!(raw.to_raw(), map.to_raw());
        prop_assert_eq!(&Taskmap::from_pmi(&map.to_pmi().unwrap()).unwrap(), &map);
    }

    #[test]
    fn builders_give_each_node_its_tasks(
        counts in prop::collection::vec(0u32..9, 1..9), stride in 1u32..5,
    ) {
        Taskmap::block(&counts).unwrap().check_counts(&counts).unwrap();
        Taskmap::cyclic(&counts, stride).unwrap().check_counts(&counts).unwrap();
    }

    #[test]
    fn parsing_never_panics(text: String, map in r#"[\[\](){},;:0-9vector-]{0,40}"#) {
        drop(text.parse::<Taskmap>());
        drop(map.parse::<Taskmap>());
    }
}
