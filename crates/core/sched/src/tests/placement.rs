//! Placement against a naive oracle, its cost, and the promise of EASY.

use std::collections::BTreeMap;
use std::sync::Arc;

use flux_id::Idset;
use flux_model::resource_set::{Children, ResourceSet};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{nodes, r, slots};
use crate::demand::{Unit, constraint};
use crate::forecast::{Forecast, forecast};
use crate::{Demand, Placement, Pool};

fn pool(set: &Value) -> Pool {
    let set = ResourceSet::from_value(set).unwrap();
    let ranks = set.ranks();
    let mut pool = Pool::new(set);
    pool.mark(&ranks, true);
    pool
}

fn place(pool: &mut Pool, jobspec: &Value) -> Option<Placement> {
    let demand = Demand::among(jobspec, |kind| pool.counts(kind)).unwrap();
    let eligible = pool.eligible(constraint(jobspec).unwrap());
    pool.place(&demand, &eligible)
}

fn summary(pool: &Pool, placement: &Placement) -> String {
    pool.allocation(placement).unwrap().summary()
}

#[test]
fn most_free_nodes_come_first_and_lowest_ids_are_given() {
    let mut pool = pool(&r(3, 4, 1));
    let mut get = |spec: Value| {
        let placement = place(&mut pool, &spec)?;
        Some((summary(&pool, &placement), placement.nslots))
    };
    let some = |text: &str, nslots| Some((text.to_string(), nslots));
    assert_eq!(get(slots(1, 1, 0.0)), some("rank0/core0", 1));
    assert_eq!(get(slots(1, 1, 0.0)), some("rank1/core0", 1));
    // Slots are packed: four fit on rank 2, one more on rank 0.
    assert_eq!(get(slots(5, 1, 0.0)), some("rank0/core1 rank2/core[0-3]", 5));
    assert_eq!(get(nodes(json!(2), 1, 2, false, 0.0)), some("rank0/core[2-3] rank1/core[1-2]", 2));
    assert_eq!(get(nodes(json!(1), 1, 1, true, 0.0)), None);
    assert_eq!(get(slots(2, 1, 0.0)), None);
}

#[test]
fn ranges_take_as_many_as_there_are_and_exclusive_takes_whole_nodes() {
    let mut pool = pool(&r(4, 2, 1));
    let spec = nodes(json!({"min": 2, "max": 3}), 1, 1, true, 0.0);
    let got = place(&mut pool, &spec).unwrap();
    assert_eq!(summary(&pool, &got), "rank[0-2]/core[0-1],gpu0");
    assert_eq!(got.nslots, 3);
    let spec = nodes(json!({"min": 1}), 2, 1, false, 0.0);
    let got = place(&mut pool, &spec).unwrap();
    assert_eq!((summary(&pool, &got).as_str(), got.nslots), ("rank3/core[0-1]", 2));
}

#[test]
fn held_cores_are_not_given_away_and_what_a_job_has_it_keeps() {
    let held = |rank: u32, cores: &str, gpus: &str| {
        let part = Children {
            cores: cores.parse().unwrap(),
            gpus: gpus.parse().unwrap(),
            ..Children::default()
        };
        std::collections::BTreeMap::from([(rank, part)])
    };
    let mut pool = pool(&r(2, 4, 1));
    let first = place(&mut pool, &slots(1, 2, 0.0)).unwrap();
    assert_eq!(summary(&pool, &first), "rank0/core[0-1]");
    // One that is taken and one that is free.
    pool.hold(held(0, "1-2", "0"));
    assert_eq!(pool.free_on(0), Some((1, 0)));
    assert_eq!(pool.returns(0, &first.parts[0].1), (1, 0));
    assert_eq!(pool.down().summary(), "rank0/core[1-2],gpu0");
    let rest = place(&mut pool, &slots(5, 1, 0.0)).unwrap();
    assert_eq!(summary(&pool, &rest), "rank0/core3 rank1/core[0-3]");
    assert!(place(&mut pool, &slots(1, 1, 0.0)).is_none());
    for (rank, part) in first.parts.iter().chain(&rest.parts) {
        pool.give_back(*rank, part);
    }
    assert_eq!(pool.free_on(0), Some((2, 0)));
    // A node of which something is held is not given as a whole.
    assert!(place(&mut pool, &nodes(json!(2), 1, 1, true, 0.0)).is_none());
    pool.mark(&"0".parse().unwrap(), false);
    pool.hold(held(0, "0", ""));
    pool.mark(&"0".parse().unwrap(), true);
    assert_eq!(pool.free_on(0), Some((3, 1)));
    pool.hold(held(1, "0", ""));
    assert_eq!((pool.free_on(0), pool.free_on(1)), (Some((4, 1)), Some((3, 1))));
    pool.hold(std::collections::BTreeMap::new());
    assert!(place(&mut pool, &nodes(json!(2), 1, 1, true, 0.0)).is_some());
}

#[test]
fn constraints_choose_nodes_by_property_host_and_rank() {
    let mut set = r(4, 1, 0);
    set["execution"]["properties"] = json!({"ssd": "1,3", "+hidden": "0-3"});
    for (constraint, want) in [
        (json!({"properties": ["ssd"]}), "rank1/core0"),
        (json!({"properties": ["^ssd"]}), "rank0/core0"),
        (json!({"hostlist": ["n[2-3]"]}), "rank2/core0"),
        (json!({"not": [{"ranks": ["0-2"]}]}), "rank3/core0"),
        (json!({"and": [{"properties": ["ssd"]}, {"not": [{"hostlist": ["n1"]}]}]}), "rank3/core0"),
    ] {
        let mut pool = pool(&set);
        let mut spec = slots(1, 1, 0.0);
        spec["attributes"]["system"]["constraints"] = constraint;
        let got = place(&mut pool, &spec).unwrap();
        assert_eq!(summary(&pool, &got), want);
        let r = pool.allocation(&got).unwrap();
        assert!(!r.properties().contains_key("+hidden"));
    }
}

#[test]
fn sixteen_thousand_nodes_cost_no_more_than_the_nodes_that_are_chosen() {
    let mut pool = pool(&r(16_384, 64, 0));
    let spec = slots(1, 1, 0.0);
    let demand = Demand::of(&spec).unwrap();
    let eligible = pool.eligible(None);
    for _ in 0..20_000 {
        assert!(pool.place(&demand, &eligible).is_some());
    }
    assert_eq!(pool.examined, 20_000);
    // A request that does not fit looks at no node at all.
    let big = Demand::of(&nodes(json!(1), 1, 64, false, 0.0)).unwrap();
    assert!(pool.place(&big, &eligible).is_none());
    assert_eq!(pool.examined, 20_000);
    let many = Demand::of(&nodes(json!(1000), 1, 62, false, 0.0)).unwrap();
    assert_eq!(pool.place(&many, &eligible).unwrap().parts.len(), 1000);
    assert_eq!(pool.examined, 21_000);
}

/// A node of the oracle: free cores and gpus as plain lists.
#[derive(Debug, Clone)]
struct Plain {
    cores: Vec<u32>,
    gpus: Vec<u32>,
    all: (usize, usize),
    up: bool,
    allowed: bool,
}

/// What the rules say, done the long way.
fn oracle(plain: &[Plain], demand: &Demand) -> Option<BTreeMap<u32, (Vec<u32>, Vec<u32>)>> {
    let mut order: Vec<usize> =
        (0..plain.len()).filter(|at| plain[*at].up && plain[*at].allowed).collect();
    order.sort_by_key(|at| {
        let node = &plain[*at];
        (std::cmp::Reverse((node.cores.len(), node.gpus.len())), *at)
    });
    let max = demand.max.unwrap_or(u64::MAX);
    let (mut units, mut got) = (0, BTreeMap::new());
    for at in order {
        let node = &plain[at];
        let (mut cores, mut gpus) = (Vec::new(), Vec::new());
        if demand.unit == Unit::WholeNode {
            let whole = (node.cores.len(), node.gpus.len()) == node.all;
            let enough = node.all.0 >= demand.cores as usize && node.all.1 >= demand.gpus as usize;
            if whole && enough && units < max {
                units += 1;
                got.insert(at as u32, (node.cores.clone(), node.gpus.clone()));
            }
            continue;
        }
        let mut left = node.clone();
        let most = if demand.unit == Unit::Node { 1 } else { u64::MAX };
        let mut here = 0;
        while units < max
            && here < most
            && left.cores.len() >= demand.cores as usize
            && left.gpus.len() >= demand.gpus as usize
        {
            cores.extend(left.cores.drain(..demand.cores as usize));
            gpus.extend(left.gpus.drain(..demand.gpus as usize));
            (units, here) = (units + 1, here + 1);
        }
        if here > 0 {
            got.insert(at as u32, (cores, gpus));
        }
    }
    (units >= demand.min).then_some(got)
}

fn demands() -> impl Strategy<Value = Demand> {
    let unit = prop_oneof![Just(Unit::Slot), Just(Unit::Node), Just(Unit::WholeNode)];
    (unit, 1_u64..5, 0_u64..4, 1_u32..4, 0_u32..2).prop_map(|(unit, min, more, cores, gpus)| {
        Demand {
            unit,
            min,
            max: (more < 3).then_some(min + more),
            slots: 1,
            units_per_slot: 1,
            cores,
            gpus,
            special: false,
            types: crate::demand::Types::new(),
        }
    })
}

fn inventory(shape: &[(u32, u32, bool)]) -> ResourceSet {
    let node = |(rank, (cores, gpus, _)): (usize, &(u32, u32, bool))| {
        let children = Children {
            cores: Idset::first_n(*cores),
            gpus: Idset::first_n(*gpus),
            ..Children::default()
        };
        (rank as u32, format!("n{rank}"), Arc::new(children))
    };
    let mut set = ResourceSet::from_nodes(shape.iter().enumerate().map(node)).unwrap();
    let fast: Idset = (0..shape.len() as u32).filter(|rank| shape[*rank as usize].2).collect();
    set.set_property("fast", &fast).unwrap();
    set
}

/// What may be asked for besides resources: nothing, a property, or ranks.
fn wanted(kind: u8) -> Option<Value> {
    match kind {
        0 => Some(json!({"properties": ["fast"]})),
        1 => Some(json!({"ranks": ["0,2-3"]})),
        2 => Some(json!({"not": [{"hostlist": ["n[1-2]"]}]})),
        _ => None,
    }
}

/// Three nodes; the first two have burst buffers, all have memory.
fn typed() -> Value {
    json!({"version": 1, "execution": {
        "R_lite": [{"rank": "0-1", "children": {"core": "0-3", "ssd": "0-1", "memory": "0-15"}},
                   {"rank": "2", "children": {"core": "0-3", "memory": "0-15"}}],
        "nodelist": ["n[0-2]"], "starttime": 0.0, "expiration": 0.0}})
}

fn slots_with(slots: u32, types: Value) -> Value {
    let mut with = vec![json!({"type": "core", "count": 1})];
    with.extend(types.as_array().unwrap().iter().cloned());
    super::jobspec(json!({"type": "slot", "count": slots, "label": "task", "with": with}), 0.0)
}

#[test]
fn other_types_are_given_away_once_and_come_back() {
    let mut pool = pool(&typed());
    let ssd = |count| slots_with(count, json!([{"type": "ssd", "count": 1}]));
    let first = place(&mut pool, &ssd(3)).unwrap();
    assert_eq!(summary(&pool, &first), "rank0/core[0-1],ssd[0-1] rank1/core0,ssd0");
    let second = place(&mut pool, &ssd(1)).unwrap();
    assert_eq!(summary(&pool, &second), "rank1/core1,ssd1");
    assert!(place(&mut pool, &ssd(1)).is_none());
    assert_eq!(pool.allocated().summary(), "rank[0-1]/core[0-1],ssd[0-1]");
    // Cores go on without.
    let plain = place(&mut pool, &slots(1, 1, 0.0)).unwrap();
    assert_eq!(summary(&pool, &plain), "rank2/core0");
    for (rank, part) in &second.parts {
        pool.give_back(*rank, part);
    }
    pool.take(&second.parts).unwrap();
    assert!(pool.take(&second.parts).is_err());
    for (rank, part) in first.parts.iter().chain(&second.parts) {
        pool.give_back(*rank, part);
    }
    let again = place(&mut pool, &ssd(4)).unwrap();
    assert_eq!(again.nslots, 4);
}

#[test]
fn whole_nodes_have_all_of_their_types_and_memory_is_counted_in_gib() {
    let mut pool = pool(&typed());
    let memory = |count: u32, unit: &str| {
        slots_with(1, json!([{"type": "memory", "count": count, "unit": unit}]))
    };
    let got = place(&mut pool, &memory(2500, "MB")).unwrap();
    assert_eq!(summary(&pool, &got), "rank0/core0,memory[0-2]");
    let slot = json!({"type": "slot", "count": 1, "label": "task",
        "with": [{"type": "core", "count": 1}]});
    let node = json!({"type": "node", "count": 1, "exclusive": true,
        "with": [slot, {"type": "ssd", "count": 2}]});
    let got = place(&mut pool, &super::jobspec(node, 0.0)).unwrap();
    assert_eq!(summary(&pool, &got), "rank1/core[0-3],memory[0-15],ssd[0-1]");
    let got = place(&mut pool, &memory(16, "GiB")).unwrap();
    assert_eq!(summary(&pool, &got), "rank2/core0,memory[0-15]");
    assert!(place(&mut pool, &memory(14, "G")).is_none());
    assert!(place(&mut pool, &memory(13, "G")).is_some());
}

#[test]
fn what_is_not_there_is_denied_by_name() {
    let mut pool = pool(&typed());
    let mut denied = |jobspec: Value| {
        let eligible = pool.eligible(constraint(&jobspec).unwrap());
        let found = Demand::among(&jobspec, |kind| pool.counts(kind))
            .and_then(|demand| pool.feasible(&demand, &eligible));
        found.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let ssd = |slots, count: u32| slots_with(slots, json!([{"type": "ssd", "count": count}]));
    assert_eq!(denied(ssd(4, 1)), "");
    assert_eq!(
        denied(ssd(5, 1)),
        "unsatisfiable request: need 5 slot(s) with 1 'ssd' each, only 4 available (total 'ssd': 4)"
    );
    assert_eq!(
        denied(ssd(1, 3)),
        "unsatisfiable request: need 1 slot(s) with 3 'ssd' each, only 0 available (total 'ssd': 4)"
    );
    let mut elsewhere = ssd(1, 1);
    elsewhere["attributes"]["system"]["constraints"] = json!({"hostlist": ["n2"]});
    assert_eq!(denied(elsewhere), "unsatisfiable request: need 'ssd', of which there is none");
    // What is not counted is looked for in the graph, and there gets whole nodes.
    let socket = json!({"type": "slot", "count": 1, "label": "task",
        "with": [{"type": "socket", "count": 1, "with": [{"type": "core", "count": 2}]}]});
    let fpga = slots_with(1, json!([{"type": "fpga", "count": 1}, {"type": "ssd", "count": 1}]));
    for jobspec in [super::jobspec(socket, 0.0), fpga] {
        let demand = Demand::among(&jobspec, |kind| pool.counts(kind)).unwrap();
        assert!(demand.special && demand.unit == Unit::WholeNode && demand.types.is_empty());
    }
}

#[test]
fn a_reservation_for_a_type_is_when_it_comes_back() {
    let mut pool = pool(&typed());
    let jobspec = slots_with(1, json!([{"type": "ssd", "count": 2}]));
    let demand = Demand::among(&jobspec, |kind| pool.counts(kind)).unwrap();
    let eligible = pool.eligible(None);
    let held: Vec<_> = (0..2).map(|_| pool.place(&demand, &eligible).unwrap().parts).collect();
    let plain = place(&mut pool, &slots(1, 1, 0.0)).unwrap().parts;
    let running = [(5.0, plain.as_slice()), (9.0, held[1].as_slice()), (20.0, held[0].as_slice())];
    assert_eq!(forecast(&pool, &demand, &eligible, 1.0, running), Forecast::At(9.0));
}

proptest! {
    #[test]
    fn placement_is_what_the_naive_rules_say_and_never_overlaps(
        shape in prop::collection::vec((1_u32..6, 0_u32..3, any::<bool>()), 1..6),
        steps in prop::collection::vec((demands(), 0_u8..6, any::<prop::sample::Index>(), 0_u8..8), 1..30),
    ) {
        let set = inventory(&shape);
        let mut pool = Pool::new(set.clone());
        pool.mark(&set.ranks(), true);
        let mut plain: Vec<Plain> = shape.iter().map(|(cores, gpus, _)| Plain {
            cores: (0..*cores).collect(),
            gpus: (0..*gpus).collect(),
            all: (*cores as usize, *gpus as usize),
            up: true,
            allowed: true,
        }).collect();
        let mut held: Vec<Vec<(u32, Arc<Children>)>> = Vec::new();
        for (demand, kind, which, act) in steps {
            if act == 0 && !held.is_empty() {
                for (rank, part) in held.remove(which.index(held.len())) {
                    pool.give_back(rank, &part);
                    let node = &mut plain[rank as usize];
                    node.cores.extend(part.cores.ids());
                    node.gpus.extend(part.gpus.ids());
                    node.cores.sort_unstable();
                    node.gpus.sort_unstable();
                }
                continue;
            }
            if act == 1 {
                let at = which.index(plain.len());
                plain[at].up = !plain[at].up;
                pool.mark(&Idset::from_range(at as u32..=at as u32), plain[at].up);
                continue;
            }
            let want = wanted(kind);
            for (at, node) in plain.iter_mut().enumerate() {
                node.allowed = match kind {
                    0 => shape[at].2,
                    1 => [0, 2, 3].contains(&at),
                    2 => ![1, 2].contains(&at),
                    _ => true,
                };
            }
            let jobspec = json!({"attributes": {"system": {"constraints": want.unwrap_or(json!({}))}}});
            let eligible = pool.eligible(constraint(&jobspec).unwrap());
            let expected = oracle(&plain, &demand);
            let placed = pool.place(&demand, &eligible);
            let got = placed.as_ref().map(|placement| {
                placement.parts.iter().map(|(rank, part)| {
                    (*rank, (part.cores.ids().collect(), part.gpus.ids().collect()))
                }).collect::<BTreeMap<u32, (Vec<u32>, Vec<u32>)>>()
            });
            prop_assert_eq!(&got, &expected);
            // What fits now fits when all is free.
            if got.is_some() {
                prop_assert!(pool.feasible(&demand, &eligible).is_ok());
            }
            for (rank, (cores, gpus)) in expected.into_iter().flatten() {
                let node = &mut plain[rank as usize];
                node.cores.retain(|core| !cores.contains(core));
                node.gpus.retain(|gpu| !gpus.contains(gpu));
            }
            held.extend(placed.map(|placement| placement.parts));
        }
        // Together they hold what is not free, once.
        let mut total = ResourceSet::new();
        for parts in held.iter().filter(|parts| !parts.is_empty()) {
            let part = set.pick(parts.iter().cloned()).unwrap();
            total = total.append(&part).unwrap();
        }
        prop_assert!(total.same_resources(&pool.allocated()));
    }

    #[test]
    fn what_passes_the_head_is_gone_when_its_time_comes(
        shape in prop::collection::vec((1_u32..5, 0_u32..1, any::<bool>()), 1..5),
        running in prop::collection::vec((demands(), 1_u32..50), 0..8),
        head in demands(),
        passing in prop::collection::vec((demands(), 1_u32..50), 0..8),
    ) {
        let set = inventory(&shape);
        let mut pool = Pool::new(set.clone());
        pool.mark(&set.ranks(), true);
        let eligible = pool.eligible(None);
        let head = Demand { gpus: 0, cores: 1, ..head };
        if pool.feasible(&head, &eligible).is_err() {
            return Ok(());
        }
        let mut held: Vec<(f64, Vec<(u32, Arc<Children>)>)> = Vec::new();
        for (demand, end) in running {
            held.extend(pool.place(&demand, &eligible).map(|got| (f64::from(end), got.parts)));
        }
        held.sort_by(|a, b| a.0.total_cmp(&b.0));
        let ends = |held: &[(f64, Vec<(u32, Arc<Children>)>)], pool: &Pool| {
            forecast(pool, &head, &eligible, 0.0, held.iter().map(|(end, parts)| (*end, parts.as_slice())))
        };
        let Forecast::At(reserved) = ends(&held, &pool) else {
            panic!("everything ends and every node is up");
        };
        if reserved == 0.0 {
            return Ok(());
        }
        for (demand, end) in passing {
            if f64::from(end) <= reserved {
                held.extend(pool.place(&demand, &eligible).map(|got| (f64::from(end), got.parts)));
            }
        }
        held.sort_by(|a, b| a.0.total_cmp(&b.0));
        let Forecast::At(later) = ends(&held, &pool) else {
            panic!("everything ends and every node is up");
        };
        prop_assert!(later <= reserved, "{later} > {reserved}");
        // And it is true: with all that end by then gone, it fits.
        for (_, parts) in held.iter().filter(|(end, _)| *end <= reserved) {
            for (rank, part) in parts {
                pool.give_back(*rank, part);
            }
        }
        prop_assert!(pool.place(&head, &eligible).is_some());
    }
}
