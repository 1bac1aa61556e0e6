use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn set(s: &str) -> Idset {
    s.parse().unwrap()
}

#[test]
fn valid_text_parses_and_prints_compressed() {
    for (text, printed, len) in [
        ("", "", 0),
        ("[]", "", 0),
        ("0", "0", 1),
        ("1,2,3,5,6,42", "1-3,5-6,42", 6),
        ("1-3,5-6,42", "1-3,5-6,42", 6),
        ("[1-3,5-6,42]", "1-3,5-6,42", 6),
        ("0-3,7", "0-3,7", 5),
        ("0-1,2-3", "0-3", 4),
        ("5-5", "5", 1),
        ("0-4294967295", "0-4294967295", 1 << 32),
        ("4294967295", "4294967295", 1),
    ] {
        let ids = set(text);
        assert_eq!(ids.to_string(), printed);
        assert_eq!(ids.to_bracketed(), format!("[{printed}]"));
        assert_eq!(ids.len(), len);
        assert_eq!(ids.is_empty(), len == 0);
    }
}

#[test]
fn invalid_text_is_refused() {
    for (text, error) in [
        ("[", IdsetError::Brackets),
        ("]", IdsetError::Brackets),
        ("[0", IdsetError::Brackets),
        ("0]", IdsetError::Brackets),
        ("[[0]]", IdsetError::Brackets),
        ("[0-1],7", IdsetError::Brackets),
        ("a", IdsetError::Syntax("a".into())),
        (",", IdsetError::Syntax(String::new())),
        ("1,", IdsetError::Syntax(String::new())),
        ("1,,2", IdsetError::Syntax(String::new())),
        ("-1", IdsetError::Syntax("-1".into())),
        ("1-", IdsetError::Syntax("1-".into())),
        ("1-2-3", IdsetError::Syntax("1-2-3".into())),
        ("+1", IdsetError::Syntax("+1".into())),
        (" 1", IdsetError::Syntax(" 1".into())),
        ("1, 2", IdsetError::Syntax(" 2".into())),
        ("1.5", IdsetError::Syntax("1.5".into())),
        ("01", IdsetError::LeadingZero("01".into())),
        ("00", IdsetError::LeadingZero("00".into())),
        ("0-03", IdsetError::LeadingZero("0-03".into())),
        ("4294967296", IdsetError::Range("4294967296".into())),
        ("3-1", IdsetError::Descending("3-1".into())),
        ("2,1", IdsetError::Order("1".into())),
        ("1,1", IdsetError::Order("1".into())),
        ("0-3,3", IdsetError::Order("3".into())),
        ("0-3,2-5", IdsetError::Order("2-5".into())),
    ] {
        assert_eq!(text.parse::<Idset>(), Err(error), "{text}");
    }
}

#[test]
fn the_whole_range_is_cheap() {
    let mut all = set("0-4294967295");
    assert!(all.contains(u32::MAX) && all.next(u32::MAX).is_none());
    assert_eq!(all.difference(&set("0-5")).first(), Some(6));
    assert_eq!(all.union(&all), all);
    assert_eq!(all.expand(100), Err(IdsetError::TooMany { len: 1 << 32, limit: 100 }));
    assert!(all.remove(u32::MAX) && all.remove(0) && !all.remove(0));
    assert_eq!(all.to_string(), "1-4294967294");
    assert!(all.insert(u32::MAX) && all.insert(0) && !all.insert(7));
    assert_eq!(all, Idset::from_range(0..=u32::MAX));
    assert_eq!(all.take(3).to_string(), "0-2");
}

#[test]
fn a_million_members_in_any_order_are_quick() {
    // 7919 is prime, so this visits every even id once, far from its neighbours in time.
    let n = 1_000_000u32;
    let mut ids = Idset::new();
    for i in 0..n {
        ids.insert(u32::try_from(u64::from(i) * 7919 % u64::from(n)).unwrap() * 2);
    }
    assert_eq!(ids.len(), u64::from(n));
    assert_eq!(ids.range_count(), 1_000_000);
    let text = ids.to_string();
    assert_eq!(set(&text), ids);
    let odd: Idset = (0..n).map(|i| i * 2 + 1).collect();
    assert_eq!(ids.union(&odd).to_string(), "0-1999999");
    assert!(!ids.intersects(&odd));
    assert_eq!(ids.difference(&odd), ids);
    for i in 0..n {
        ids.insert(i * 2 + 1);
    }
    assert_eq!(ids.range_count(), 1);
}

#[test]
fn json_is_a_string() {
    assert_eq!(serde_json::to_string(&set("1-3")).unwrap(), "\"1-3\"");
    assert_eq!(serde_json::from_str::<Idset>("\"[1-3]\"").unwrap(), set("1-3"));
    assert!(serde_json::from_str::<Idset>("\"3-1\"").is_err());
    assert!(serde_json::from_str::<Idset>("3").is_err());
}

#[test]
fn popping_and_counting_up_walk_the_set() {
    let mut ids = set("2-3,9");
    assert_eq!(ids.next(0), Some(2));
    assert_eq!((ids.pop_first(), ids.pop_first(), ids.pop_first()), (Some(2), Some(3), Some(9)));
    assert_eq!(ids.pop_first(), None);
    assert_eq!(Idset::first_n(0), Idset::new());
    assert_eq!(Idset::first_n(4).to_string(), "0-3");
}

fn model() -> impl Strategy<Value = BTreeSet<u32>> {
    prop_oneof![
        proptest::collection::btree_set(0u32..40, 0..30),
        proptest::collection::btree_set(u32::MAX - 20..=u32::MAX, 0..15),
    ]
}

fn check(ids: &Idset, model: &BTreeSet<u32>) -> Result<(), TestCaseError> {
    prop_assert!(ids.ids().eq(model.iter().copied()));
    prop_assert_eq!(ids.len(), model.len() as u64);
    let runs: Vec<_> = ids.pairs().collect();
    prop_assert!(runs.windows(2).all(|w| u64::from(w[0].1) + 1 < u64::from(w[1].0)));
    Ok(())
}

proptest! {
    #[test]
    fn the_algebra_is_that_of_sets(a in model(), b in model()) {
        let x: Idset = a.iter().copied().collect();
        let y: Idset = b.iter().copied().collect();
        check(&x, &a)?;
        check(&x.union(&y), &a.union(&b).copied().collect())?;
        check(&x.intersection(&y), &a.intersection(&b).copied().collect())?;
        check(&x.difference(&y), &a.difference(&b).copied().collect())?;
        prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
        prop_assert!(x.intersection(&y).is_subset(&x));
        prop_assert_eq!(x.intersects(&y), !a.is_disjoint(&b));
        let mut sum = x.clone();
        sum.insert_all(&y);
        prop_assert_eq!(&sum, &x.union(&y));
        sum.remove_all(&x);
        prop_assert_eq!(sum, y.difference(&x));
        prop_assert_eq!(x.first(), a.first().copied());
        prop_assert_eq!(x.last(), a.last().copied());
        for id in (0..42).chain(u32::MAX - 21..=u32::MAX) {
            prop_assert_eq!(x.contains(id), a.contains(&id));
            prop_assert_eq!(x.next(id), a.iter().copied().find(|&i| i > id));
            prop_assert_eq!(x.prev(id), a.iter().copied().rfind(|&i| i < id));
        }
    }

    #[test]
    fn edits_follow_the_model(edits in proptest::collection::vec((0..4u8, 0u32..64, 0u32..20), 0..60)) {
        let (mut ids, mut model) = (Idset::new(), BTreeSet::new());
        for (kind, at, width) in edits {
            match kind {
                0 => prop_assert_eq!(ids.insert(at), model.insert(at)),
                1 => prop_assert_eq!(ids.remove(at), model.remove(&at)),
                2 => { ids.insert_range(at..=at + width); model.extend(at..=at + width); }
                _ => {
                    ids.remove_range(at..=at + width);
                    model.retain(|id| !(at..=at + width).contains(id));
                }
            }
            check(&ids, &model)?;
        }
    }

    #[test]
    fn text_round_trips(a in model()) {
        let ids: Idset = a.into_iter().collect();
        prop_assert_eq!(&ids.to_string().parse::<Idset>().unwrap(), &ids);
        prop_assert_eq!(&ids.to_bracketed().parse::<Idset>().unwrap(), &ids);
    }

    #[test]
    fn no_text_panics(text in "\\PC*", close in "[-,0-9\\[\\]]{0,20}") {
        for text in [text, close] {
            if let Ok(ids) = text.parse::<Idset>() {
                prop_assert_eq!(ids.to_string().parse::<Idset>().unwrap(), ids);
            }
        }
    }
}
