use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;

fn ids(text: &str) -> Idset {
    text.parse().unwrap()
}

fn hosts(text: &str) -> Hostlist {
    text.parse().unwrap()
}

fn encode(ranks: &str, cores: &str, gpus: &str, names: &str) -> ResourceSet {
    ResourceSet::encode(&ids(ranks), &ids(cores), &ids(gpus), &hosts(names)).unwrap()
}

#[test]
fn encode_writes_keys_in_the_order_of_the_tool() {
    assert_eq!(
        encode("0-1", "0-1", "", "h[0-1]").to_string(),
        concat!(
            r#"{"version":1,"execution":{"R_lite":[{"rank":"0-1","children":{"core":"0-1"}}],"#,
            r#""starttime":0.0,"expiration":0.0,"nodelist":["h[0-1]"]}}"#
        )
    );
}

#[test]
fn the_example_of_the_rfc_is_read() {
    let set = ResourceSet::parse(include_str!("../../vectors/rfc20.json")).unwrap();
    assert_eq!((set.nnodes(), set.ncores(), set.ngpus()), (4, 192, 32));
    assert_eq!(set.nslots, Some(32));
    assert_eq!((set.starttime, set.expiration), (1_676_560_542.0, 1_676_562_342.0));
    assert_eq!(set.host(20), Some("node187"));
    assert_eq!(set.host(23), None);
    assert_eq!(set.summary(), "rank[19-22]/core[0-47],gpu[0-7]");
    assert_eq!(ResourceSet::parse(&set.to_string()).unwrap(), set);
}

#[test]
fn an_empty_set_has_an_empty_host_list() {
    let text = concat!(
        r#"{"version":1,"execution":{"R_lite":[],"starttime":0.0,"expiration":0.0,"#,
        r#""nodelist":[""]}}"#
    );
    assert_eq!(ResourceSet::new().to_string(), text);
    assert!(ResourceSet::parse(text).unwrap().is_empty());
    assert_eq!(ResourceSet::new().summary(), "");
}

#[test]
fn summaries_bracket_more_than_one_id() {
    assert_eq!(encode("0-1", "0", "", "a,b").summary(), "rank[0-1]/core0");
    assert_eq!(encode("0", "0-3", "0", "a").summary(), "rank0/core[0-3],gpu0");
    let set = encode("0,2", "0-1", "", "a,c").union(&encode("1", "1", "3", "b")).unwrap();
    assert_eq!(set.summary(), "rank[0,2]/core[0-1] rank1/core1,gpu3");
}

#[test]
fn entries_may_be_unsorted_and_overlap() {
    let set = ResourceSet::from_value(&json!({"version": 1, "execution": {
        "R_lite": [
            {"rank": "2-3", "children": {"core": "0"}},
            {"rank": "0-2", "children": {"core": "1", "gpu": "0"}},
            {"rank": "3", "children": {"core": "5"}}
        ],
        "nodelist": ["a,b", "c[1-2]"]
    }}))
    .unwrap();
    assert_eq!(set.summary(), "rank[0-1]/core1,gpu0 rank2/core[0-1],gpu0 rank3/core[0,5]");
    assert_eq!(set.host(3), Some("c2"));
}

#[test]
fn other_keys_survive_a_round_trip() {
    let value = json!({"version": 1, "execution": {
        "R_lite": [{"rank": "0-2", "children": {"core": "0"}}],
        "starttime": 1.5, "expiration": 2.0, "nodelist": ["h[0-2]"],
        "properties": {"fast": "0,2", "+q": "1"}, "nslots": 3
    }, "scheduling": {"writer": "x:", "graph": [1, {"b": 2, "a": 1}]}});
    assert_eq!(ResourceSet::from_value(&value).unwrap().to_value(), value);
}

#[test]
fn faults_name_the_key() {
    let base = json!({"version": 1, "execution": {
        "R_lite": [{"rank": "0-1", "children": {"core": "0"}}], "nodelist": ["h[0-1]"]}});
    for (pointer, value, expected) in [
        ("/version", json!(2), "version: expected 1"),
        ("/execution", json!(1), "execution: expected an object"),
        ("/execution/R_lite", json!({}), "execution.R_lite: expected a list"),
        ("/execution/R_lite/0/rank", json!("x"), "execution.R_lite[0].rank: 'x' is no idset"),
        (
            "/execution/R_lite/0/rank",
            json!(""),
            "execution.R_lite[0].rank: expected at least one rank",
        ),
        (
            "/execution/R_lite/0/children",
            json!({}),
            "execution.R_lite[0].children: expected at least one core or gpu",
        ),
        ("/execution/nodelist", json!(["h1"]), "nodelist: 1 hosts for 2 ranks"),
        ("/execution/nodelist", json!(["h[1-3]"]), "nodelist: 3 hosts for 2 ranks"),
        ("/execution/nodelist", json!([1]), "execution.nodelist[0]: expected a string"),
    ] {
        let mut wrong = base.clone();
        *wrong.pointer_mut(pointer).unwrap() = value;
        assert_eq!(ResourceSet::from_value(&wrong).unwrap_err().to_string(), expected);
    }
    for (key, value, expected) in [
        ("nslots", json!(0), "execution.nslots: expected a positive integer"),
        ("expiration", json!(-1), "starttime and expiration: expected seconds >= 0"),
        ("starttime", json!("now"), "execution.starttime: expected a number of seconds"),
        (
            "properties",
            json!({"a|b": "0"}),
            "property 'a|b': name is empty or contains one of ! & ' \" ^ ` | ( )",
        ),
        ("properties", json!({"a": "1-5"}), "execution.properties.a: ranks 2-5 are not in R_lite"),
    ] {
        let mut wrong = base.clone();
        wrong["execution"][key] = value;
        assert_eq!(ResourceSet::from_value(&wrong).unwrap_err().to_string(), expected);
    }
    let mut late = ResourceSet::from_value(&base).unwrap();
    assert_eq!(
        late.set_times(5.0, 4.0).unwrap_err().to_string(),
        "expiration: 4 is not after starttime 5"
    );
}

#[test]
fn joining_refuses_conflicts() {
    let a = encode("0-1", "0-1", "", "a,b");
    assert_eq!(
        a.union(&encode("1", "2", "", "c")).unwrap_err().to_string(),
        "rank 1: on host 'b' in one set and 'c' in the other"
    );
    assert_eq!(
        a.append(&encode("1", "1-2", "", "b")).unwrap_err().to_string(),
        "rank1/core1: in both resource sets"
    );
    let joined = a.append(&encode("1-2", "2", "0", "b,c")).unwrap();
    assert_eq!(joined.summary(), "rank0/core[0-1] rank1/core[0-2],gpu0 rank2/core2,gpu0");
    assert_eq!(joined.nodelist(), hosts("a,b,c"));
}

#[test]
fn sets_are_made_of_single_ranks_and_of_parts() {
    let part = |cores: &str, gpus: &str| {
        Arc::new(Children { cores: ids(cores), gpus: ids(gpus), ..Children::default() })
    };
    let four = part("0-3", "0");
    let set = ResourceSet::from_nodes([
        (2, "c", Arc::clone(&four)),
        (0, "a", Arc::clone(&four)),
        (1, "b", part("0-3", "0")),
    ])
    .unwrap();
    assert_eq!(set, encode("0-2", "0-3", "0", "a,b,c"));
    let job = set.pick([(2, part("1-2", "")), (0, part("1-2", ""))]).unwrap();
    assert_eq!(job.summary(), "rank[0,2]/core[1-2]");
    assert_eq!(job.nodelist(), hosts("a,c"));
    let error = |parts| set.pick(parts).unwrap_err().to_string();
    assert_eq!(error(vec![(0, part("3-4", ""))]), "rank0/core[3-4]: not in the resource set");
    assert_eq!(error(vec![(9, part("0", ""))]), "rank9/core0: not in the resource set");
    assert_eq!(error(vec![(0, part("0", "")), (0, part("1", ""))]), "rank 0: given twice");
    assert_eq!(error(vec![(0, part("", ""))]), "ranks 0: neither cores nor gpus");
    assert!(ResourceSet::from_nodes([(0, "a b", part("0", ""))]).is_err());
    assert_eq!(set.distinct_hosts().len(), 3);
}

#[test]
fn hosts_and_ranks_are_found_both_ways() {
    let set = encode("3-6", "0", "", "a,b,a,c");
    assert_eq!(set.ranks_of(&hosts("a,c")).unwrap(), ids("3,5-6"));
    assert_eq!(set.ranks_of(&hosts("a,x,y")).unwrap_err().to_string(), "invalid hosts: x,y");
    assert_eq!(set.copy_hosts(&hosts("b,zz")).summary(), "rank4/core0");
    assert_eq!(set.hosts_of(&ids("0,4,6")), hosts("b,c"));
    assert_eq!(set.iter().map(|(rank, host, _)| (rank, host)).nth(2), Some((5, "a")));
}

#[test]
fn ranks_are_renumbered_with_their_properties() {
    let mut set = encode("5-6", "0", "", "a,b").append(&encode("9", "1", "", "c")).unwrap();
    set.set_property("p", &ids("6,9")).unwrap();
    let zero = set.remap();
    assert_eq!(zero.summary(), "rank[0-1]/core0 rank2/core1");
    assert_eq!(zero.properties()["p"], ids("1-2"));
    let other = set.rerank(&hosts("c,x,b,a")).unwrap();
    assert_eq!(other.summary(), "rank0/core1 rank[2-3]/core0");
    assert_eq!(other.nodelist(), hosts("c,b,a"));
    assert_eq!(other.properties()["p"], ids("0,2"));
    assert_eq!(
        set.rerank(&hosts("a,b")).unwrap_err().to_string(),
        "host 'c': not in the host list"
    );
    let twins = encode("0-1", "0", "", "v,v");
    assert_eq!(twins.rerank(&hosts("w,v,v")).unwrap().ranks(), ids("1-2"));
    assert!(twins.rerank(&hosts("w,v")).is_err());
}

#[test]
fn properties_select_ranks() {
    let mut set = encode("0-3", "0", "", "h[0-3]");
    set.set_property("a", &ids("0-1")).unwrap();
    set.set_property("a", &ids("2")).unwrap();
    set.set_property("+q", &ids("1-3")).unwrap();
    assert_eq!(set.ranks_with(["a", "+q"]), ids("1-2"));
    assert_eq!(set.ranks_with(["^a"]), ids("3"));
    assert_eq!(set.ranks_with(["none"]), ids(""));
    assert_eq!(set.ranks_with(["^none"]), ids("0-3"));
    assert_eq!(set.properties_of(2).collect::<Vec<_>>(), ["+q", "a"]);
    assert_eq!(set.copy_properties(["^a"]).properties().len(), 1);
    assert_eq!(
        set.set_property("a", &ids("3-4")).unwrap_err().to_string(),
        "ranks 4: not in the resource set"
    );
    assert!(set.set_property("", &ids("0")).is_err());
    assert_eq!(set.without_local_properties().properties().len(), 1);
}

#[test]
fn verification_reports_by_mode() {
    let expected = encode("0-1", "0-3", "0", "a,b");
    let found = encode("1", "2-4", "", "x");
    assert_eq!(
        expected.verify(&found, VerifyRules::all(VerifyMode::Strict)),
        [
            "rank 1 got hostname 'x', expected 'b'",
            "rank 1 (b) missing resources: rank1/core[0-1],gpu0",
            "rank 1 (b) has extra resources: rank1/core4",
        ]
    );
    assert_eq!(
        expected.verify(&found, VerifyRules::default()),
        ["rank 1 got hostname 'x', expected 'b'", "rank 1 (b) missing resources: rank1/core[0-1]",]
    );
    let rules = VerifyRules {
        hostname: VerifyMode::Ignore,
        core: "allow-missing".parse().unwrap(),
        gpu: VerifyMode::Ignore,
    };
    assert_eq!(expected.verify(&found, rules), ["rank 1 (b) has extra resources: rank1/core4"]);
    assert_eq!(
        expected.verify(&encode("7", "0", "", "a"), VerifyRules::default()),
        ["rank 7 not found in expected ranks"]
    );
    assert!(expected.verify(&found, VerifyRules::all(VerifyMode::Ignore)).is_empty());
    assert!("loose".parse::<VerifyMode>().is_err());
}

#[test]
fn many_ranks_are_handled_in_linear_time() {
    // Alternating children are the worst case for runs.
    let count = 40_000u32;
    let even: Vec<String> = (0..count).step_by(2).map(|n| n.to_string()).collect();
    let odd: Vec<String> = (1..count).step_by(2).map(|n| n.to_string()).collect();
    let names =
        |list: &[String]| list.iter().map(|n| format!("h{n}")).collect::<Vec<_>>().join(",");
    let a = encode(&even.join(","), "0-63", "", &names(&even));
    let b = encode(&odd.join(","), "0-31", "0-3", &names(&odd));
    let all = a.union(&b).unwrap();
    assert_eq!(all.nnodes(), 40_000);
    assert_eq!(all.ncores(), 20_000 * 96);
    assert!(all.diff(&a).same_resources(&b));
    assert!(all.intersect(&b).same_resources(&b));
    assert_eq!(ResourceSet::parse(&all.to_string()).unwrap(), all);
    assert_eq!(all.remap(), all);
    assert_eq!(all.groups().len(), 2);
}

/// The naive model: single (rank, is gpu, id).
type Model = BTreeSet<(u32, bool, u32)>;

fn model(set: &ResourceSet) -> Model {
    set.iter()
        .flat_map(|(rank, _, children)| {
            let cores = children.cores.ids().map(move |id| (rank, false, id));
            cores.chain(children.gpus.ids().map(move |id| (rank, true, id)))
        })
        .collect()
}

fn from_model(model: &Model) -> ResourceSet {
    let mut set = ResourceSet::new();
    for (rank, gpu, id) in model {
        let (core, gpu) =
            if *gpu { ("".to_owned(), id.to_string()) } else { (id.to_string(), "".to_owned()) };
        let one = encode(&rank.to_string(), &core, &gpu, &format!("h{rank}"));
        set = set.append(&one).unwrap();
    }
    set
}

fn any_model() -> impl Strategy<Value = Model> {
    prop::collection::btree_set((0u32..8, any::<bool>(), 0u32..4), 0..24)
}

proptest! {
    #[test]
    fn algebra_agrees_with_a_naive_model(a in any_model(), b in any_model(), ranks in prop::collection::btree_set(0u32..9, 0..9)) {
        let (ra, rb) = (from_model(&a), from_model(&b));
        prop_assert_eq!(&model(&ra), &a);
        let union = ra.union(&rb).unwrap();
        prop_assert_eq!(model(&union), &a | &b);
        prop_assert_eq!(model(&ra.diff(&rb)), &a - &b);
        prop_assert_eq!(model(&ra.intersect(&rb)), &a & &b);
        prop_assert_eq!(ra.contains(&rb), a.is_superset(&b));
        prop_assert_eq!(ra.is_disjoint(&rb), a.is_disjoint(&b));
        prop_assert_eq!(ra.append(&rb).is_ok(), a.is_disjoint(&b));
        prop_assert!(union.same_resources(&rb.union(&ra).unwrap()));
        prop_assert_eq!(ra.same_resources(&rb), a == b);
        let mut set = Idset::new();
        for rank in &ranks {
            set.insert(*rank);
        }
        let part: Model = a.iter().filter(|(rank, ..)| ranks.contains(rank)).copied().collect();
        prop_assert_eq!(&model(&ra.copy_ranks(&set)), &part);
        prop_assert_eq!(model(&ra.without_ranks(&set)), &a - &part);
        for r in [&ra, &union, &ra.diff(&rb), &ra.intersect(&rb), &ra.copy_ranks(&set)] {
            prop_assert_eq!(r.nnodes(), r.runs.ranks());
            for (rank, host, _) in r.iter() {
                prop_assert_eq!(host, format!("h{rank}"));
                prop_assert_eq!(r.host(rank), Some(host));
            }
            prop_assert_eq!(r.ncores() + r.ngpus(), model(r).len() as u64);
        }
    }

    #[test]
    fn many_sets_are_joined_in_any_number(models in prop::collection::vec(any_model(), 0..6)) {
        let joined = ResourceSet::union_all(models.iter().map(from_model)).unwrap();
        let all: Model = models.iter().flatten().copied().collect();
        prop_assert_eq!(&model(&joined), &all);
        let single = joined.iter().map(|(rank, host, children)| (rank, host, Arc::new(children.clone())));
        prop_assert_eq!(&ResourceSet::from_nodes(single).unwrap(), &joined);
        let parts = joined.iter().map(|(rank, _, children)| (rank, Arc::new(children.clone())));
        prop_assert_eq!(&joined.pick(parts).unwrap(), &joined);
    }

    #[test]
    fn written_sets_are_read_back(a in any_model(), ranks in prop::collection::vec(0u32..8, 0..4), start in 0.0f64..1e9) {
        let mut set = from_model(&a);
        set.set_times(start, start + 10.0).unwrap();
        for rank in ranks {
            drop(set.set_property(&format!("p{rank}"), &ids(&rank.to_string())));
        }
        let back = ResourceSet::parse(&set.to_string()).unwrap();
        prop_assert_eq!(&back, &set);
        prop_assert_eq!(back.to_string(), set.to_string());
        let zero = set.remap();
        prop_assert_eq!(zero.nodelist(), set.nodelist());
        prop_assert_eq!(zero.rerank(&set.nodelist()).unwrap(), zero);
    }

    #[test]
    fn any_input_is_refused_without_panic(
        text in "\\PC{0,60}",
        rank in "[0-9,\\[\\]-]{0,12}",
        core in "[0-9,\\[\\]-]{0,12}",
        names in "[a-z0-9,\\[\\]-]{0,16}",
    ) {
        drop(ResourceSet::parse(&text));
        let value = json!({"version": 1, "execution": {
            "R_lite": [{"rank": rank, "children": {"core": core}}, {"rank": "1-3", "children": {"gpu": "0"}}],
            "nodelist": [names]
        }});
        if let Ok(set) = ResourceSet::from_value(&value) {
            prop_assert_eq!(ResourceSet::from_value(&set.to_value()).unwrap(), set);
        }
    }
}
