use super::*;

fn parents(uri: &str, size: u32) -> Vec<u32> {
    let tree = Topology::parse(uri, size, &[]).unwrap();
    (1..size).map(|rank| tree.parent(rank).unwrap()).collect()
}

/// The definition in the text: node(root, order) has children root + 2^j, each of order j.
fn binomial_by_definition(root: u32, order: u32, size: u32, table: &mut Vec<(u32, u32)>) {
    for j in 0..order {
        let child = root + (1 << j);
        if child < size {
            table.push((child, root));
            binomial_by_definition(child, j, size, table);
        }
    }
}

fn sizes() -> impl Iterator<Item = u32> {
    (1..=64).chain([1025, 1026, 5000])
}

#[test]
fn parents_follow_their_formula() {
    assert_eq!(parents("kary:2", 8), [0, 0, 1, 1, 2, 2, 3]);
    assert_eq!(parents("kary:1", 4), [0, 1, 2]);
    assert_eq!(parents("kary:0", 4), [0, 0, 0]);
    assert_eq!(parents("mincrit:2", 8), [0, 0, 1, 2, 1, 2, 1]);
    assert_eq!(parents("mincrit:9", 4), [0, 0, 0]);
    assert_eq!(parents("mincrit:0", 4), [0, 0, 0]);
    assert_eq!(parents("binomial", 8), [0, 0, 2, 0, 4, 4, 6]);
    assert!(parents("mincrit", 1025).iter().all(|parent| *parent == 0));
    let tree = Topology::parse("mincrit", 1026, &[]).unwrap();
    assert_eq!(tree.children(0), [1, 2]);
    let tree = Topology::parse("mincrit", 5000, &[]).unwrap();
    assert_eq!(tree.children(0).len(), 5);
    assert!((1..=5).all(|rank| tree.children(rank).len() <= 1024));
}

#[test]
fn binomial_is_the_recursive_tree() {
    for size in sizes() {
        let order = size.next_power_of_two().trailing_zeros();
        let mut table = Vec::new();
        binomial_by_definition(0, order, size, &mut table);
        let tree = Topology::parse("binomial", size, &[]).unwrap();
        assert_eq!(table.len() as u32, size - 1);
        for (rank, parent) in table {
            assert_eq!(tree.parent(rank), Some(parent), "rank {rank} of {size}");
        }
    }
}

#[test]
fn every_rank_is_reached_from_every_ancestor_and_attributes_agree() {
    for uri in ["kary:0", "kary:1", "kary:2", "kary:32", "mincrit", "mincrit:3", "binomial"] {
        for size in sizes() {
            if uri == "kary:1" && size > 1000 {
                continue;
            }
            let tree = Topology::parse(uri, size, &[]).unwrap();
            assert_eq!(tree.size(), size);
            assert_eq!(tree.descendants(0), size - 1, "{uri} {size}");
            let deepest = (0..size).map(|rank| tree.level(rank)).max().unwrap();
            assert_eq!(tree.maxlevel(), deepest);
            for rank in 1..size {
                let mut at = 0;
                let mut hops = 0;
                while at != rank {
                    at = tree.child_toward(at, rank).expect("a way down");
                    hops += 1;
                }
                assert_eq!(hops, tree.level(rank));
                let below: u32 =
                    tree.children(rank).iter().map(|child| tree.descendants(*child) + 1).sum();
                assert_eq!(tree.descendants(rank), below);
                assert_eq!(tree.child_toward(rank, 0), None);
            }
        }
    }
}

#[test]
fn custom_parents_must_be_a_tree() {
    let tree = Topology::parse("custom", 4, &[None, None, Some(1), Some(2)]).unwrap();
    assert_eq!(tree.level(3), 3);
    assert_eq!(parents("custom", 3), [0, 0]);
    let error = Topology::custom(2, &[Some(1), None]).unwrap_err();
    assert_eq!(error, TopologyError::RootParent(1));
    let error = Topology::custom(2, &[None, Some(7)]).unwrap_err();
    assert_eq!(error, TopologyError::UnknownParent { rank: 1, parent: 7 });
    let error = Topology::custom(4, &[None, Some(2), Some(1), None]).unwrap_err();
    assert_eq!(error, TopologyError::Cycle(1));
    assert_eq!(Topology::custom(2, &[None, Some(1)]).unwrap_err(), TopologyError::Cycle(1));
}

#[test]
fn bad_uris_are_named() {
    let error = Topology::parse("ring:3", 4, &[]).unwrap_err();
    assert_eq!(error.to_string(), "unknown topology scheme 'ring'");
    assert!(Topology::parse("kary:x", 4, &[]).is_err());
    assert!(Topology::parse("kary", 4, &[]).is_err());
    assert!(Topology::parse("kary:2", 0, &[]).is_err());
}

#[test]
fn a_configured_tree_is_flat_until_that_is_too_much_unless_hosts_have_parents() {
    let auto = |size, custom: &[Option<u32>]| Topology::parse("auto", size, custom).unwrap();
    assert_eq!(auto(1025, &[]).maxlevel(), 1);
    let large = auto(4096, &[]);
    assert_eq!((large.maxlevel(), large.children(0).len()), (2, 4));
    assert!((0..4096).all(|rank| large.children(rank).len() <= 1024));
    let parents: Vec<Option<u32>> =
        (0..2000).map(|rank| (rank > 100).then_some(rank % 100)).collect();
    assert_eq!(auto(2000, &parents).parent(1999), Some(99));
    assert_eq!(Topology::resolve("auto", 2000, &parents), "custom");
    assert_eq!(Topology::resolve("auto", 2000, &[]), "mincrit");
    assert_eq!(Topology::resolve("kary:2", 2000, &[]), "kary:2");
}
