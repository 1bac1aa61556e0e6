use proptest::prelude::*;

use super::*;

fn list(s: &str) -> Hostlist {
    s.parse().unwrap()
}

fn names(list: &Hostlist) -> Vec<String> {
    list.iter().collect()
}

#[test]
fn vectors_of_the_rfc_expand_and_print() {
    for (text, expanded, printed) in [
        ("", "", ""),
        ("foox,fooy,fooz", "foox,fooy,fooz", "foox,fooy,fooz"),
        ("[1-3,5-6]", "1,2,3,5,6", "[1-3,5-6]"),
        ("foo[1-5]", "foo1,foo2,foo3,foo4,foo5", "foo[1-5]"),
        ("foo[0-2]-eth2", "foo0-eth2,foo1-eth2,foo2-eth2", "foo0-eth2,foo1-eth2,foo2-eth2"),
        ("foo1,foo1,foo1", "foo1,foo1,foo1", "foo[1,1,1]"),
        ("[00-02]", "00,01,02", "[00-02]"),
        ("[00-2]", "00,01,02", "[00-02]"),
        ("foo[1,1,2,1]", "foo1,foo1,foo2,foo1", "foo[1,1-2,1]"),
        ("[005,4,11-13]", "005,004,011,012,013", "[005,004,011-013]"),
        ("h[8-11]", "h8,h9,h10,h11", "h[8-11]"),
        ("h[08-11]", "h08,h09,h10,h11", "h[08-11]"),
        ("h[098-101]", "h098,h099,h100,h101", "h[098-101]"),
        ("h5,h004,h10", "h5,h004,h10", "h5,h004,h10"),
        ("h1[8-11]", "h18,h19,h110,h111", "h[18-19,110-111]"),
        ("h[1-2]0", "h10,h20", "h[10,20]"),
        ("a,,b,", "a,b", "a,b"),
        ("n9,n10,n11", "n9,n10,n11", "n[9-11]"),
        ("n09,n10", "n09,n10", "n[09-10]"),
        (
            "x123456789012345678901,x123456789012345678902",
            "x123456789012345678901,x123456789012345678902",
            "x123[456789012345678901-456789012345678902]",
        ),
    ] {
        let hosts = list(text);
        assert_eq!(names(&hosts).join(","), expanded, "{text}");
        let again = list(&hosts.to_string());
        assert_eq!(again, hosts, "{text} -> {hosts}");
        assert_eq!(hosts.to_string(), printed, "{text}");
    }
    let fluke = list("fluke[3,108,6-103]");
    assert_eq!(fluke.len(), 100);
    assert_eq!(fluke.to_string(), "fluke[3,108,6-103]");
    assert_eq!(fluke.nth(2).as_deref(), Some("fluke6"));
    assert_eq!(fluke.find("fluke103"), Some(99));
    assert_eq!(fluke.nth(100), None);
}

#[test]
fn wrong_text_is_refused() {
    for text in [
        "foo[",
        "foo]",
        "foo[1",
        "foo1]",
        "foo[[1]]",
        "foo[1]]",
        "foo[1-2]bar[3-4]",
        "[1][2]",
        "foo[]",
        "foo[1,]",
        "foo[a]",
        "foo[2-1]",
        "foo[1-2-3]",
        "foo[-1]",
        "foo[1 ]",
        "foo bar",
        " foo",
        "foo, bar",
        "fooƒ",
        "foo\t",
        "foo[99999999999999999999999]",
    ] {
        assert!(text.parse::<Hostlist>().is_err(), "{text}");
    }
    for text in ["f[0-4294967295]", "f[0-1048576]", "f[0-4294967295]x", "f[1-1000000],g[1-1000000]"]
    {
        assert_eq!(text.parse::<Hostlist>(), Err(HostlistError::TooMany), "{text}");
    }
    assert_eq!(list("f[0-1048575]").len(), MAX_HOSTS);
    let long = "x".repeat(200);
    for text in [format!("{long}[0-999999]x"), format!("{long}{long}"), format!("{long}[1]{long}")]
    {
        assert!(text.parse::<Hostlist>().is_err());
    }
    assert!(Hostlist::new().push(&long.repeat(2)).is_err());
    assert!(Hostlist::new().push("a,b").is_err());
    assert!(Hostlist::new().push("").is_err());
}

#[test]
fn edits_keep_order_and_duplicates() {
    let mut hosts = list("a[3,1,2,1],b,b");
    assert_eq!((hosts.count("a1"), hosts.count("b"), hosts.count("a01")), (2, 2, 0));
    assert_eq!(hosts.remove_nth(1).as_deref(), Some("a1"));
    assert_eq!(hosts.to_string(), "a[3,2,1],b,b");
    assert_eq!(hosts.intersect(&list("b,a[1-2]")).to_string(), "a[2,1],b,b");
    assert_eq!(hosts.delete(&list("b,a2,c")), 3);
    assert_eq!(hosts.to_string(), "a[3,1]");
    hosts.append(&list("a[1-2],a02")).unwrap();
    hosts.sort();
    assert_eq!(names(&hosts), ["a1", "a1", "a2", "a02", "a3"]);
    hosts.uniq();
    assert_eq!(names(&hosts), ["a1", "a2", "a02", "a3"]);
    assert_eq!(hosts.expand(3), Err(HostlistError::TooMany));
    let json = serde_json::to_string(&list("a[1-3]")).unwrap();
    assert_eq!(json, "\"a[1-3]\"");
    assert_eq!(serde_json::from_str::<Hostlist>(&json).unwrap(), list("a[1-3]"));
}

#[test]
fn a_hundred_thousand_hosts_are_quick() {
    let n = 100_000u64;
    let scattered = Hostlist::from_hosts((0..n).map(|i| format!("node{}", i * 7919 % n))).unwrap();
    let index = scattered.index();
    for i in 0..n {
        assert!(index.contains(&format!("node{i}")));
    }
    assert_eq!(list(&scattered.to_string()), scattered);
    let mut sorted = scattered.clone();
    sorted.sort();
    assert_eq!(sorted, list("node[0-99999]"));
    assert!(scattered.subtract(&sorted).is_empty());
    assert_eq!(scattered.intersect(&sorted), scattered);
    assert_eq!(list("rack[0-99999]-ib").len(), 100_000);
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]?[0-9]{1,3}",
        (0u32..15).prop_map(|i| format!("n{i}")),
        (5u32..12).prop_map(|i| format!("n{i:02}")),
        "[ab][0-9]{0,2}-[01]?",
        "z[0-9]{17,22}",
    ]
}

proptest! {
    #[test]
    fn a_list_is_its_names(a in proptest::collection::vec(host(), 0..30),
                           b in proptest::collection::vec(host(), 0..30), cut: prop::sample::Index) {
        let mut x = Hostlist::from_hosts(&a).unwrap();
        let y = Hostlist::from_hosts(&b).unwrap();
        prop_assert_eq!(&names(&x), &a);
        prop_assert_eq!(x.len(), a.len());
        prop_assert_eq!(&list(&x.to_string()), &x);
        prop_assert_eq!(&list(&a.join(",")), &x);
        let index = x.index();
        for (i, name) in a.iter().chain(&b).enumerate() {
            let first = a.iter().position(|other| other == name);
            prop_assert_eq!(x.find(name), first);
            prop_assert_eq!(index.find(name), first);
            prop_assert_eq!(x.count(name), a.iter().filter(|other| *other == name).count());
            prop_assert_eq!(x.nth(i), a.get(i).cloned());
        }
        let both: Vec<String> = a.iter().filter(|n| b.contains(n)).cloned().collect();
        let left: Vec<String> = a.iter().filter(|n| !b.contains(n)).cloned().collect();
        prop_assert_eq!(&x.intersect(&y), &Hostlist::from_hosts(&both).unwrap());
        prop_assert_eq!(&x.subtract(&y), &Hostlist::from_hosts(&left).unwrap());
        let mut sum = x.clone();
        sum.append(&y).unwrap();
        prop_assert_eq!(&sum, &Hostlist::from_hosts(a.iter().chain(&b)).unwrap());
        sum.uniq();
        let unique: std::collections::BTreeSet<&String> = a.iter().chain(&b).collect();
        prop_assert_eq!(sum.len(), unique.len());
        if !a.is_empty() {
            let at = cut.index(a.len());
            let mut rest = a.clone();
            prop_assert_eq!(x.remove_nth(at), Some(rest.remove(at)));
            prop_assert_eq!(&x, &Hostlist::from_hosts(&rest).unwrap());
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC*", close in "[a0-9,\\[\\]-]{0,24}") {
        for text in [text, close] {
            if let Ok(hosts) = text.parse::<Hostlist>() && hosts.len() < 10_000 {
                prop_assert_eq!(list(&hosts.to_string()), hosts);
            }
        }
    }
}
