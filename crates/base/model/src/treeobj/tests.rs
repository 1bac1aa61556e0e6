use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn blob(text: &str) -> Blobref {
    HashAlg::Sha1.hash(text.as_bytes())
}

#[test]
fn objects_have_the_json_of_the_rfc_with_sorted_keys() {
    let a = blob("a");
    for (object, json) in [
        (Treeobj::val("422\n"), r#"{"data":"NDIyCg==","type":"val","ver":1}"#.to_owned()),
        (Treeobj::val("42"), r#"{"data":"NDI=","type":"val","ver":1}"#.to_owned()),
        (Treeobj::val(""), r#"{"data":"","type":"val","ver":1}"#.to_owned()),
        (
            Treeobj::Valref(vec![a, a]),
            format!(r#"{{"data":["{a}","{a}"],"type":"valref","ver":1}}"#),
        ),
        (Treeobj::Dirref(a), format!(r#"{{"data":["{a}"],"type":"dirref","ver":1}}"#)),
        (Treeobj::empty_dir(), r#"{"data":{},"type":"dir","ver":1}"#.to_owned()),
        (
            Treeobj::symlink(None, "a.a"),
            r#"{"data":{"target":"a.a"},"type":"symlink","ver":1}"#.to_owned(),
        ),
        (
            Treeobj::symlink(Some("a"), "b.b"),
            r#"{"data":{"namespace":"a","target":"b.b"},"type":"symlink","ver":1}"#.to_owned(),
        ),
    ] {
        assert_eq!(String::from_utf8(object.encode()).unwrap(), json);
        assert_eq!(Treeobj::decode(json.as_bytes()).unwrap(), object);
    }
}

#[test]
fn the_order_of_keys_does_not_matter_when_reading() {
    let text = r#"{"ver":1,"type":"dir","data":{"b":{"type":"val","data":"NDIyCg==","ver":1}}}"#;
    let object = Treeobj::decode(text.as_bytes()).unwrap();
    assert_eq!(object, Treeobj::Dir(BTreeMap::from([("b".to_owned(), Treeobj::val("422\n"))])));
    assert_eq!(Treeobj::from_value(&serde_json::from_str(text).unwrap()).unwrap(), object);
}

#[test]
fn invalid_objects_are_refused() {
    let good = blob("a").to_string();
    for bad in [
        json!({}),
        json!([]),
        json!({"ver":1,"type":"val"}),
        json!({"ver":2,"type":"val","data":""}),
        json!({"ver":1,"type":"val","data":"*"}),
        json!({"ver":1,"type":"val","data":{}}),
        json!({"ver":1,"type":"val","data":"","extra":0}),
        json!({"ver":1,"type":"valref","data":[]}),
        json!({"ver":1,"type":"valref","data":["sha1-aaa"]}),
        json!({"ver":1,"type":"valref","data":"sha1-aaa"}),
        json!({"ver":1,"type":"dirref","data":[good, good]}),
        json!({"ver":1,"type":"dir","data":{"a.b":{"ver":1,"type":"val","data":""}}}),
        json!({"ver":1,"type":"dir","data":{"":{"ver":1,"type":"val","data":""}}}),
        json!({"ver":1,"type":"dir","data":{"a":"b"}}),
        json!({"ver":1,"type":"dir","data":{"a":{"ver":1,"type":"val"}}}),
        json!({"ver":1,"type":"symlink","data":{}}),
        json!({"ver":1,"type":"symlink","data":{"target":""}}),
        json!({"ver":1,"type":"symlink","data":{"target":"a","x":"b"}}),
        json!({"ver":1,"type":"hdir","data":{}}),
        json!({"ver":1,"type":"what","data":{}}),
    ] {
        assert!(Treeobj::from_value(&bad).is_err(), "{bad}");
        assert!(Treeobj::decode(bad.to_string().as_bytes()).is_err(), "{bad}");
    }
    let twice = br#"{"ver":1,"ver":1,"type":"val","data":""}"#;
    assert!(Treeobj::decode(twice).is_err());
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| {
        (0..depth).fold(Treeobj::empty_dir(), |inner, _| {
            Treeobj::Dir(BTreeMap::from([("d".to_owned(), inner)]))
        })
    };
    let deepest = nested(MAX_DEPTH - 1);
    assert_eq!(Treeobj::decode(&deepest.encode()).unwrap(), deepest);
    assert!(Treeobj::decode(&nested(MAX_DEPTH).encode()).is_err());
    let bomb = r#"{"ver":1,"type":"dir","data":{"a":"#.repeat(100_000);
    assert!(Treeobj::decode(bomb.as_bytes()).is_err());
}

#[test]
fn appending_turns_a_value_into_references() {
    let mut object = Treeobj::val("old");
    object.append(blob("new"), |old| HashAlg::Sha1.hash(&old)).unwrap();
    assert_eq!(object, Treeobj::Valref(vec![blob("old"), blob("new")]));
    object.append(blob("more"), |_| unreachable!("nothing is stored twice")).unwrap();
    assert_eq!(object, Treeobj::Valref(vec![blob("old"), blob("new"), blob("more")]));
    let refused = |mut object: Treeobj| object.append(blob("x"), |_| blob("y")).unwrap_err();
    assert_eq!(refused(Treeobj::symlink(None, "a")), AppendError::Symlink);
    assert_eq!(refused(Treeobj::empty_dir()), AppendError::Directory);
}

#[test]
fn base64_length_is_known_without_encoding() {
    for len in 0..10 {
        assert_eq!(base64_len(len), BASE64.encode(vec![0; len]).len());
    }
}

fn any_object() -> impl Strategy<Value = Treeobj> {
    let leaf = prop_oneof![
        any::<Vec<u8>>().prop_map(Treeobj::Val),
        prop::collection::vec("[a-z]{1,3}", 1..4)
            .prop_map(|names| Treeobj::Valref(names.iter().map(|name| blob(name)).collect())),
        "[a-z]{1,3}".prop_map(|name| Treeobj::Dirref(blob(&name))),
        (prop::option::of("[a-z]{1,5}"), "[a-z.]{1,5}")
            .prop_map(|(namespace, target)| Treeobj::Symlink { namespace, target }),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop::collection::btree_map("[^.\0]{1,4}", inner, 0..4).prop_map(Treeobj::Dir)
    })
}

proptest! {
    #[test]
    fn objects_round_trip(object in any_object()) {
        prop_assert_eq!(&Treeobj::decode(&object.encode()).unwrap(), &object);
        prop_assert_eq!(&Treeobj::from_value(&object.to_value()).unwrap(), &object);
    }

    #[test]
    fn decoding_never_panics(bytes: Vec<u8>, text in r#"[{}\[\]":,a-z0-9]{0,60}"#) {
        drop(Treeobj::decode(&bytes));
        drop(Treeobj::decode(text.as_bytes()));
        drop(serde_json::from_str::<Value>(&text).map(|value| Treeobj::from_value(&value)));
    }
}
