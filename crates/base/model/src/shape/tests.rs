use super::*;
use crate::jobspec::Vertex;
use proptest::prelude::*;

fn error(shape: &str) -> String {
    parse(shape).unwrap_err().to_string()
}

#[test]
fn every_example_of_the_rfc_expands_as_shown() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../vectors/rfc46.json")).unwrap();
    assert_eq!(cases.len(), 13);
    for case in cases {
        let shape = case["shape"].as_str().unwrap();
        let list = Value::Array(parse(shape).unwrap());
        assert_eq!(list, case["resources"], "{shape}");
        Vertex::list_from_value(&list).unwrap();
    }
}

#[test]
fn keys_keep_the_order_type_count_braces_with() {
    let list = parse("node=2{x,unit:\"a b\"}/slot=[1-3:2]{l,-y}/core").unwrap();
    assert_eq!(
        serde_json::to_string(&list).unwrap(),
        concat!(
            r#"[{"type":"node","count":2,"exclusive":true,"unit":"a b","with":[{"type":"slot","#,
            r#""count":{"min":1,"max":3,"operator":"+","operand":2},"label":"l","y":false,"#,
            r#""with":[{"type":"core","count":1}]}]}]"#
        )
    );
}

#[test]
fn values_may_be_json_or_relaxed() {
    let list = parse(r#"node{a:1.5,b:[1,"x",y],c:{d,-x,e:{}},f:null,g:"8",h:2x} / core"#).unwrap();
    assert_eq!(
        list[0],
        serde_json::json!({"type": "node", "count": 1, "a": 1.5, "b": [1, "x", "y"],
            "c": {"d": true, "x": false, "e": {}}, "f": null, "g": "8", "h": "2x",
            "with": [{"type": "core", "count": 1}]})
    );
}

#[test]
fn faults_tell_where() {
    for (shape, expected) in [
        ("", "resource shape: expected a resource type before the end at character 1"),
        ("node=", "resource shape: '' is no positive integer, idset or range at character 6"),
        ("node=0", "resource shape: '0' is no positive integer, idset or range at character 6"),
        ("node=2/", "resource shape: expected a resource type before the end at character 8"),
        ("slot=2", "resource shape: expected '/' before the end at character 7"),
        ("[node;core", "resource shape: expected ']' before the end at character 11"),
        ("node]", "resource shape: unexpected ']' at character 5"),
        ("slot{+x}/core", "resource shape: the label of a slot must come first at character 6"),
        ("slot{a:1}/core", "resource shape: the label of a slot must come first at character 6"),
        ("node{a,a}", "resource shape: key 'a' is given twice at character 8"),
        ("node{x:}", "resource shape: expected a value at character 8"),
        ("\"a", "resource shape: unclosed quote at character 1"),
    ] {
        assert_eq!(error(shape), expected, "{shape}");
    }
    assert!(error("[slot/core;slot{b}/core]").contains("a slot needs a label"));
    assert!(error(&"a/".repeat(100)).contains("nested deeper"));
    assert!(error(&format!("a{{b:{}", "[".repeat(100))).contains("nested deeper"));
    assert!(error(&format!("[{}]", vec!["a"; MAX_VERTICES + 1].join(";"))).contains("more than"));
}

proptest! {
    #[test]
    fn any_text_is_parsed_without_panic(text in "\\PC{0,40}", close in "[a-z0-9\\[\\]{};,:/=+\" -]{0,40}") {
        drop(parse(&text));
        drop(parse(&close));
        drop(parse(&format!("slot{{{close}}}/{text}")));
    }
}
