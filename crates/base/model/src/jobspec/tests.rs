use super::*;
use proptest::prelude::*;
use serde_json::json;

fn vectors(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// A small valid version 1 jobspec.
fn plain() -> Value {
    json!({
        "resources": [{"type": "slot", "count": 2, "with": [{"type": "core", "count": 3}],
            "label": "task"}],
        "tasks": [{"command": ["/bin/true", "x"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {"system": {"duration": 0}},
        "version": 1
    })
}

#[test]
fn every_example_of_rfc_14_and_25_is_valid_and_unchanged() {
    let canonical = vectors(include_str!("../../vectors/rfc14.json"));
    let first = vectors(include_str!("../../vectors/rfc25.json"));
    assert_eq!((canonical.len(), first.len()), (19, 6));
    for (name, value) in canonical.iter().chain(&first) {
        // The second example of RFC 14 calls itself version 1, but has a node inside a slot.
        if name == "example2" {
            let error = Jobspec::from_value(value.clone()).unwrap_err().to_string();
            assert!(error.starts_with("resources[0].with[0].type: expected core or gpu"));
            continue;
        }
        let jobspec = Jobspec::from_value(value.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let text = serde_json::to_string(value).unwrap();
        assert_eq!(jobspec.to_string(), text);
        assert_eq!(Jobspec::parse(&text).unwrap(), jobspec);
        assert!(jobspec.request().is_ok());
    }
}

#[test]
fn requests_of_the_examples_have_these_counts() {
    let all = vectors(include_str!("../../vectors/rfc14.json"));
    let of = |name: &str| Jobspec::from_value(all[name].clone()).unwrap();
    let request = |name: &str| of(name).request().unwrap();

    let example = request("example1");
    assert_eq!(example.layout, Layout::SlotsOnNodes);
    assert_eq!(example.total_nodes(), Some((4, Some(4))));
    assert_eq!(example.total_cores(), (8, Some(8)));
    assert_eq!(of("example1").ntasks(), Some(4));

    let range = request("use_case_1.2");
    assert_eq!(range.layout, Layout::NodesInSlots);
    assert!(range.exclusive);
    assert_eq!(range.total_nodes(), Some((3, Some(30))));
    assert_eq!(of("use_case_1.2").ntasks(), None);
    assert_eq!(of("use_case_1.2").ntasks_on(7, 7, 28, 0), 7);

    let nested = request("use_case_1.3");
    assert_eq!(nested.cores_per_slot, 8);
    assert!(!nested.exclusive);

    // Two clusters with one slot of at least one node each.
    let open = request("use_case_1.6");
    assert_eq!(open.total_slots(), (2, Some(2)));
    assert_eq!(open.total_nodes(), Some((2, None)));
    assert_eq!(of("use_case_1.6").ntasks(), None);
    assert_eq!(of("use_case_1.6").ntasks_on(2, 5, 150, 0), 5);

    let set = request("use_case_1.8");
    assert!(!set.slots.is_simple());
    assert!(set.slots.contains(9) && !set.slots.contains(10));
    assert_eq!((set.slots.min(), set.slots.max()), (4, Some(25)));
    assert_eq!(of("use_case_2.1").ntasks(), Some(20));
    assert_eq!(of("use_case_2.2").ntasks(), Some(5));
}

#[test]
fn faults_name_the_key_and_what_was_expected() {
    for (path, value, expected) in [
        ("version", json!("1"), "version: expected a positive integer, got '1'"),
        (
            "resources",
            json!([]),
            "resources: expected a list of at least one resource, got an empty list",
        ),
        ("resources.0.type", json!(3), "resources[0].type: expected a string, got 3"),
        (
            "resources.0.with.0.count",
            json!(-1),
            "resources[0].with[0].count: expected a positive integer, an idset or range string, or a range object, got -1",
        ),
        (
            "resources.0.count",
            json!("3-1"),
            "resources[0].count: expected an idset or range of positive integers, got '3-1'",
        ),
        ("resources.0.count", json!({"max": 2}), "resources[0].count.min: missing"),
        (
            "resources.0.count",
            json!({"min": 2, "operand": 2}),
            "resources[0].count.operator: missing, operand is given",
        ),
        ("resources.0.foo", json!(1), "resources[0].foo: unknown key of a resource"),
        ("resources.0.exclusive", json!(1), "resources[0].exclusive: expected a boolean, got 1"),
        ("resources.0.label", json!("other"), "tasks[0].slot: no slot has the label 'task'"),
        (
            "resources.0.with.0.label",
            json!("task"),
            "resources: label 'task' is used more than once",
        ),
        ("tasks", json!([]), "tasks: expected a list of at least one task, got an empty list"),
        (
            "tasks.0.command",
            json!([]),
            "tasks[0].command: expected a list of at least one string, got an empty list",
        ),
        ("tasks.0.command", json!([1]), "tasks[0].command[0]: expected a string, got 1"),
        (
            "tasks.0.count",
            json!({"per_slot": 1, "total": 1}),
            "tasks[0].count: expected an object with exactly one of per_slot, per_resource and total, got 2 keys",
        ),
        (
            "tasks.0.count",
            json!({"total": 0}),
            "tasks[0].count.total: expected a positive integer, got 0",
        ),
        (
            "tasks.0.count",
            json!({"per_resource": {"type": "gpu", "count": 1}}),
            "tasks[0].count.per_resource.type: slot 'task' contains no resource of type 'gpu'",
        ),
        ("attributes.other", json!({}), "attributes.other: unknown key, expected system or user"),
        ("attributes.user", json!(1), "attributes.user: expected an object, got 1"),
        (
            "attributes.system.duration",
            json!(-0.5),
            "attributes.system.duration: expected a number of seconds >= 0, got -0.5",
        ),
        (
            "attributes.system.cwd",
            json!(null),
            "attributes.system.cwd: expected a string, got null",
        ),
        (
            "attributes.system.environment",
            json!({"A": 1}),
            "attributes.system.environment.A: expected a string or null, got 1",
        ),
        (
            "attributes.system.dependencies",
            json!([{"scheme": "after"}]),
            "attributes.system.dependencies[0].value: missing",
        ),
        (
            "attributes.system.shell.options",
            json!([]),
            "attributes.system.shell.options: expected an object, got an empty list",
        ),
        ("extra", json!(1), "extra: unknown key of a jobspec"),
        // Version 1 only.
        ("tasks.0.count", json!({"per_slot": 2}), "tasks[0].count.per_slot: expected 1, got 2"),
        (
            "resources.0.with.0.type",
            json!("socket"),
            "resources[0].with[0].type: expected core or gpu below a slot, got 'socket'",
        ),
        (
            "resources.0.with.0.type",
            json!("gpu"),
            "resources[0].with: expected one core and at most one gpu entry, got 0 and 1",
        ),
        (
            "attributes.system",
            json!({}),
            "attributes.system.duration: missing (seconds, 0 for no limit)",
        ),
        ("attributes", json!(null), "attributes.system: missing"),
    ] {
        let Value::Object(mut raw) = plain() else { panic!("an object") };
        path::insert(&mut raw, path, value).unwrap();
        let error = Jobspec::from_value(Value::Object(raw)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    for key in ["version", "resources", "tasks", "attributes"] {
        let Value::Object(mut raw) = plain() else { panic!("an object") };
        raw.remove(key);
        let error = Jobspec::from_value(Value::Object(raw)).unwrap_err();
        assert_eq!(error.to_string(), format!("{key}: missing"));
    }
    assert!(Jobspec::parse("{").unwrap_err().to_string().starts_with("jobspec: invalid JSON: "));
    let canonical = Jobspec::from_value(
        vectors(include_str!("../../vectors/rfc14.json"))["use_case_1.1"].clone(),
    );
    assert_eq!(
        canonical.unwrap().require_version(1).unwrap_err().to_string(),
        "version: expected 1, got 999"
    );
}

#[test]
fn deep_nesting_is_refused() {
    let mut vertex = json!({"type": "core", "count": 1});
    for _ in 0..MAX_DEPTH {
        vertex = json!({"type": "a", "count": 1, "with": [vertex]});
    }
    assert!(Vertex::list_from_value(&json!([vertex])).is_err());
    assert!(Vertex::list_from_value(&json!([vertex["with"][0]])).is_ok());
}

#[test]
fn accessors_read_the_attributes() {
    let mut raw = plain();
    raw["attributes"]["system"] = json!({
        "duration": 2.5, "cwd": "/tmp", "queue": "debug", "bank": "b", "project": "p",
        "environment": {"B": "1", "A": null},
        "preemptible-after": 3,
        "dependencies": [{"scheme": "afterok", "value": "ƒA", "type": "in"}],
        "constraints": {"properties": ["fast"]},
        "job": {"name": "n"},
        "shell": {"options": {"output": {"stdout": {"type": "kvs"}}, "per-resource": {"type": "node"}}},
        "custom": {"z": 1, "a": 2}
    });
    let jobspec = Jobspec::from_value(raw.clone()).unwrap();
    assert_eq!(jobspec.command(), ["/bin/true", "x"]);
    assert_eq!(jobspec.duration(), 2.5);
    assert_eq!(jobspec.preemptible_after(), Some(3.0));
    assert_eq!(
        (jobspec.cwd(), jobspec.queue(), jobspec.bank(), jobspec.project(), jobspec.name()),
        (Some("/tmp"), Some("debug"), Some("b"), Some("p"), "n")
    );
    assert!(jobspec.environment().eq([("B", Some("1")), ("A", None)]));
    assert!(jobspec.dependencies().eq([Dependency { scheme: "afterok", value: "ƒA" }]));
    assert_eq!(jobspec.constraints(), Some(&json!({"properties": ["fast"]})));
    assert_eq!(jobspec.shell_option("output.stdout.type"), Some(&json!("kvs")));
    assert_eq!(jobspec.per_resource(), Some(PerResource { kind: "node", count: 1 }));
    assert_eq!((jobspec.ntasks(), jobspec.ntasks_on(2, 4, 6, 0)), (None, 4));
    assert_eq!(jobspec.into_value(), raw);
    assert_eq!(Jobspec::from_value(plain()).unwrap().name(), "true");
}

#[test]
fn dotted_paths_read_and_change() {
    let mut jobspec = Jobspec::from_value(plain()).unwrap();
    assert_eq!(jobspec.get("tasks.0.command.1"), Some(&json!("x")));
    assert_eq!(jobspec.get("tasks.9"), None);
    jobspec.set("attributes.system.duration", json!(60.0)).unwrap();
    jobspec.set("attributes.system.job.name", json!("new")).unwrap();
    jobspec.set("resources.0.count", json!(5)).unwrap();
    assert_eq!((jobspec.duration(), jobspec.name()), (60.0, "new"));
    assert_eq!(jobspec.ntasks(), Some(5));
    let before = jobspec.clone();
    for (path, value) in [
        ("attributes.system.duration", json!("long")),
        ("attributes.system.duration.x", json!(1)),
        ("tasks.1.slot", json!("task")),
        ("a..b", json!(1)),
        ("", json!(1)),
    ] {
        assert!(jobspec.set(path, value).is_err(), "{path}");
        assert_eq!(jobspec, before);
    }
    assert_eq!(jobspec.remove("attributes.system.job.name").unwrap(), Some(json!("new")));
    assert_eq!(jobspec.remove("attributes.system.nothing.here").unwrap(), None);
    assert!(jobspec.remove("attributes.system.duration").is_err());
    jobspec.set("attributes.system.environment", json!({"A": "1"})).unwrap();
    jobspec.redact();
    assert_eq!(jobspec.environment().count(), 0);
}

#[test]
fn dry_run_of_one_task_has_the_key_order_of_the_tools() {
    let request = PerTaskRequest { tasks: Some(1), ..PerTaskRequest::default() };
    let mut builder = Builder::per_task(words("true"), &request).unwrap();
    builder.cwd("/d");
    assert_eq!(
        builder.build().unwrap().to_string(),
        concat!(
            r#"{"resources":[{"type":"slot","count":1,"with":[{"type":"core","count":1}],"#,
            r#""label":"task"}],"tasks":[{"command":["true"],"slot":"task","count":"#,
            r#"{"per_slot":1}}],"attributes":{"system":{"duration":0,"cwd":"/d","shell":"#,
            r#"{"options":{}}}},"version":1}"#
        )
    );
}

/// Resources and task count that a per-task request makes.
fn per_task(request: PerTaskRequest) -> (String, String) {
    let jobspec = Builder::per_task(words("a b"), &request).unwrap().build().unwrap();
    let text = |path: &str| jobspec.get(path).unwrap().to_string();
    (text("resources.0"), text("tasks.0.count"))
}

#[test]
fn per_task_options_make_these_resources() {
    let one = r#""with":[{"type":"core","count":1}],"label":"task"}"#;
    let per_slot = r#"{"per_slot":1}"#.to_owned();
    assert_eq!(
        per_task(PerTaskRequest { nodes: Some(1.into()), ..Default::default() }),
        (
            format!(
                r#"{{"type":"node","count":1,"exclusive":true,"with":[{{"type":"slot","count":1,{one}]}}"#
            ),
            per_slot.clone()
        )
    );
    assert_eq!(
        per_task(PerTaskRequest {
            tasks: Some(4),
            nodes: Some(2.into()),
            cores: Some(2),
            gpus: Some(1),
            ..Default::default()
        }),
        (
            concat!(
                r#"{"type":"node","count":2,"with":[{"type":"slot","count":2,"with":["#,
                r#"{"type":"core","count":2},{"type":"gpu","count":1}],"label":"task"}]}"#
            )
            .to_owned(),
            per_slot.clone()
        )
    );
    assert_eq!(
        per_task(PerTaskRequest { tasks: Some(3), nodes: Some(2.into()), ..Default::default() }),
        (
            format!(r#"{{"type":"node","count":2,"with":[{{"type":"slot","count":2,{one}]}}"#),
            r#"{"total":3}"#.to_owned()
        )
    );
    assert_eq!(
        per_task(PerTaskRequest { tasks: Some(3), exclusive: true, ..Default::default() }),
        (format!(r#"{{"type":"slot","count":3,"exclusive":true,{one}"#), per_slot)
    );
    let range = per_task(PerTaskRequest {
        nodes: Some(Count::parse("2-4").unwrap()),
        ..Default::default()
    });
    assert!(range.0.contains(r#""count":{"min":2,"max":4,"operator":"+","operand":1}"#));
    let error = |request| Builder::per_task(words("a"), &request).unwrap_err().to_string();
    assert_eq!(
        error(PerTaskRequest { tasks: Some(1), nodes: Some(2.into()), ..Default::default() }),
        "node count 2 exceeds task count 1"
    );
    assert_eq!(
        error(PerTaskRequest { tasks: Some(0), ..Default::default() }),
        "task count must be a integer >= 1"
    );
    assert_eq!(
        error(PerTaskRequest { nodes: Some(0.into()), ..Default::default() }),
        "node count must be an integer >= 1 (if set)"
    );
    assert_eq!(
        Builder::per_task(Vec::new(), &PerTaskRequest::default()).unwrap_err(),
        BuildError::NoCommand
    );
}

#[test]
fn per_resource_options_make_these_requests() {
    let build = |request: PerResourceRequest| {
        Builder::per_resource(words("a"), &request).map(|b| b.build().unwrap())
    };
    let counts = |request| {
        let jobspec = build(request).unwrap();
        let request = jobspec.request().unwrap();
        (
            request.total_nodes().map(|n| n.0),
            request.total_slots().0,
            request.total_cores().0,
            request.total_gpus().0,
            request.exclusive,
            jobspec.ntasks(),
        )
    };
    assert_eq!(counts(PerResourceRequest::default()), (None, 1, 1, 0, false, Some(1)));
    assert_eq!(
        counts(PerResourceRequest { cores: Some(8), ..Default::default() }),
        (None, 8, 8, 0, false, Some(8))
    );
    assert_eq!(
        counts(PerResourceRequest {
            nodes: Some(2.into()),
            tasks_per_node: Some(3),
            ..Default::default()
        }),
        (Some(2), 2, 2, 0, true, Some(6))
    );
    assert_eq!(
        counts(PerResourceRequest { nodes: Some(2.into()), cores: Some(8), ..Default::default() }),
        (Some(2), 8, 8, 0, false, Some(8))
    );
    assert_eq!(
        counts(PerResourceRequest {
            nodes: Some(2.into()),
            cores: Some(8),
            gpus_per_node: Some(2),
            ..Default::default()
        }),
        (Some(2), 2, 8, 4, false, Some(8))
    );
    assert_eq!(
        counts(PerResourceRequest {
            cores: Some(4),
            tasks_per_core: Some(2),
            ..Default::default()
        }),
        (None, 4, 4, 0, false, Some(8))
    );
    let error = |request| build(request).unwrap_err().to_string();
    assert_eq!(
        error(PerResourceRequest { gpus_per_node: Some(1), ..Default::default() }),
        "gpus per node requires a node count"
    );
    assert_eq!(
        error(PerResourceRequest { cores: Some(3), nodes: Some(2.into()), ..Default::default() }),
        "core count 3 is not divisible by node count 2"
    );
    assert_eq!(
        error(PerResourceRequest {
            tasks_per_core: Some(1),
            tasks_per_node: Some(1),
            ..Default::default()
        }),
        "tasks per node and tasks per core exclude each other"
    );
}

#[test]
fn batch_jobs_run_one_broker_per_node() {
    let request = PerTaskRequest { nodes: Some(2.into()), ..PerTaskRequest::default() };
    let script = Batch::Script {
        name: "dir/my.sh".to_owned(),
        text: "#!/bin/sh\n".to_owned(),
        args: words("x y"),
    };
    let jobspec = Builder::batch(script, &words("-Sa=1"), &request).unwrap().build().unwrap();
    assert_eq!(jobspec.command(), words("flux broker -Sa=1 {{tmpdir}}/script x y"));
    assert_eq!(jobspec.name(), "my.sh");
    assert_eq!(
        jobspec.get("attributes.system.files.script"),
        Some(&json!({"mode": 33216, "data": "#!/bin/sh\n", "encoding": "utf-8"}))
    );
    assert_eq!(
        jobspec.get("attributes.system.shell.options"),
        Some(&json!({
            "per-resource": {"type": "node"},
            "mpi": "none",
            "exit-timeout": "none",
            "output": {"stdout": {"type": "file", "path": "flux-{{id}}.out"}}
        }))
    );
    assert_eq!(jobspec.ntasks(), Some(2));

    let request = PerTaskRequest { tasks: Some(3), cores: Some(2), ..PerTaskRequest::default() };
    let alloc = Batch::Alloc { command: Vec::new() };
    let jobspec = Builder::batch(alloc.clone(), &[], &request).unwrap().build().unwrap();
    assert_eq!(jobspec.command(), words("flux broker"));
    assert_eq!(jobspec.shell_option("pty.interactive"), Some(&json!(1)));
    assert_eq!(jobspec.ntasks(), None);
    assert_eq!(jobspec.request().unwrap().total_cores(), (6, Some(6)));
    assert_eq!(
        Builder::batch(alloc, &[], &PerTaskRequest::default()).unwrap_err(),
        BuildError::NoSlots
    );
}

#[test]
fn settings_of_the_command_line_land_in_their_places() {
    let mut builder = Builder::per_task(words("a"), &PerTaskRequest::default()).unwrap();
    builder.duration(90.0).queue("q").bank("b").name("n").dependency("after", "1");
    builder.dependency("afterok", "2").constraints(json!({"hostlist": ["h1"]}));
    builder.environment([("A".to_owned(), Some("1".to_owned())), ("B".to_owned(), None)]);
    builder.setopt("verbose").unwrap().setopt("output.mode=append").unwrap();
    builder.setopt("x.y={\"z\":[1]}").unwrap();
    builder.setattr("foo=bar").unwrap().setattr("user.k=1.5").unwrap();
    builder.setattr(".system.deep.er=true").unwrap();
    builder.add_file("a.b", 0o100_644, json!({"k": 1}), None);
    let jobspec = builder.build().unwrap();
    assert_eq!(
        serde_json::to_string(jobspec.get("attributes").unwrap()).unwrap(),
        concat!(
            r#"{"system":{"duration":90.0,"environment":{"A":"1","B":null},"shell":{"options":"#,
            r#"{"verbose":1,"output":{"mode":"append"},"x":{"y":{"z":[1]}}}},"files":{"a.b":"#,
            r#"{"mode":33188,"data":{"k":1}}},"queue":"q","bank":"b","job":{"name":"n"},"#,
            r#""dependencies":[{"scheme":"after","value":"1"},{"scheme":"afterok","value":"2"}],"#,
            r#""constraints":{"hostlist":["h1"]},"foo":"bar","deep":{"er":true}},"#,
            r#""user":{"k":1.5}}"#
        )
    );
    assert!(builder.setopt("=1").is_err());
    assert!(builder.setattr("").is_err());
    builder.setattr("duration=\"x\"").unwrap();
    assert!(matches!(builder.build(), Err(BuildError::Jobspec(_))));
}

#[test]
fn shapes_become_version_1_only_if_they_fit() {
    let build = |shape: &str| {
        let list = crate::shape::parse(shape).unwrap();
        Builder::with_resources(words("a"), list).unwrap().build().unwrap()
    };
    assert_eq!(build("node=2/slot=2/[core=2;gpu]").version(), 1);
    let other = build("slot=4{me}/node");
    assert_eq!((other.version(), other.tasks()[0].slot.as_str()), (999, "me"));
    assert!(
        Builder::with_resources(words("a"), vec![json!({"type": "node", "count": 1})]).is_err()
    );
}

#[test]
fn vertices_are_written_as_they_are_read() {
    let list =
        crate::shape::parse("node=1+{x}/slot=2-8:2:*/[core=1,3;gpu{unit:u,id:\"0\"}]").unwrap();
    let vertices = Vertex::list_from_value(&Value::Array(list.clone())).unwrap();
    let written: Vec<Value> = vertices.iter().map(Vertex::to_value).collect();
    assert_eq!(written, list);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9,+:*^\\[\\]-]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec(
                ("[a-z]{1,4}|min|max|operator|operand|type|count|with", inner),
                0..4
            )
            .prop_map(|list| Value::Object(list.into_iter().collect())),
        ]
    })
}

const PLACES: &[&str] = &[
    "version",
    "resources",
    "resources.0",
    "resources.0.count",
    "resources.0.with",
    "resources.0.with.0.count",
    "tasks",
    "tasks.0",
    "tasks.0.count",
    "attributes",
    "attributes.system",
    "attributes.system.dependencies",
    "attributes.system.shell",
    "attributes.system.shell.options",
    "attributes.system.other",
    "attributes.user",
];

proptest! {
    #[test]
    fn any_value_at_any_place_is_refused_or_kept(value in any_json(), at in 0..PLACES.len()) {
        let Value::Object(mut raw) = plain() else { panic!("an object") };
        path::insert(&mut raw, PLACES[at], value).unwrap();
        if let Ok(jobspec) = Jobspec::from_value(Value::Object(raw.clone())) {
            drop(jobspec.request());
            jobspec.ntasks();
            jobspec.ntasks_on(1, 1, 1, 0);
            jobspec.per_resource();
            jobspec.dependencies().count();
            prop_assert_eq!(jobspec.to_string(), serde_json::to_string(&raw).unwrap());
        }
    }

    #[test]
    fn any_text_is_parsed_without_panic(text in "\\PC{0,60}") {
        drop(Jobspec::parse(&text));
        drop(Count::parse(&text));
    }

    #[test]
    fn built_requests_ask_for_what_was_given(
        tasks in 1u64..500, cores in 1u64..64, gpus in 0u64..8, nodes in 1u64..100,
    ) {
        // No more nodes than tasks.
        let nodes = 1 + nodes % tasks;
        let request = PerTaskRequest {
            tasks: Some(tasks), cores: Some(cores), gpus: Some(gpus), nodes: Some(nodes.into()),
            exclusive: false,
        };
        let jobspec = Builder::per_task(words("a"), &request).unwrap().build().unwrap();
        prop_assert_eq!(jobspec.ntasks(), Some(tasks));
        let asked = jobspec.request().unwrap();
        prop_assert_eq!(asked.total_nodes(), Some((nodes, Some(nodes))));
        prop_assert!(asked.total_slots().0 >= tasks && asked.total_slots().0 < tasks + nodes);
        prop_assert_eq!((asked.cores_per_slot, asked.gpus_per_slot), (cores, gpus));
    }
}
