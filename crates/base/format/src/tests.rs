use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::*;

type Map = BTreeMap<&'static str, Field<'static>>;

struct Fields(Map);

impl Row for Fields {
    fn field(&self, name: &str) -> Option<Field<'_>> {
        self.0.get(name).cloned()
    }
}

fn row<const N: usize>(fields: [(&'static str, Field<'static>); N]) -> Fields {
    Fields(BTreeMap::from(fields))
}

fn s(text: &'static str) -> Field<'static> {
    Field::from(text)
}

fn jobs(field: &str) -> Option<&'static str> {
    Some(match field {
        "id.f58" | "id" => "JOBID",
        "queue" => "QUEUE",
        "username" => "USER",
        "name" => "NAME",
        "status_abbrev" => "ST",
        "ntasks" => "NTASKS",
        "nnodes" => "NNODES",
        "contextual_time" => "TIME",
        "contextual_info" => "INFO",
        "t_submit" => "T_SUBMIT",
        "runtime" => "RUNTIME",
        _ => return None,
    })
}

fn one(format: &str, field: Field<'static>) -> String {
    let format = Format::parse(format).expect("valid format");
    let lines = format
        .render(
            &|_: &str| Some("H"),
            &[row([("x", field)])],
            &Utc,
            RenderOptions { header: false, trim: false },
        )
        .expect("known field");
    lines.concat()
}

#[test]
fn jobs_default_table_is_reproduced() {
    let format = Format::parse(
        "{id.f58:>12} ?:{queue:<8.8} +:{username:<8} {name:<10.10+} {status_abbrev:>2.2} \
         {ntasks:>6} {nnodes:>6h} {contextual_time!F:>8h} {contextual_info}",
    )
    .expect("valid");
    let rows = [
        row([
            ("id.f58", s("f2pHbzmM")),
            ("queue", Field::Empty),
            ("username", s("root")),
            ("name", s("true")),
            ("status_abbrev", s("D")),
            ("ntasks", Field::Int(1)),
            ("nnodes", s("")),
            ("contextual_time", Field::Duration(0.0)),
            ("contextual_info", s("depends:begin@Nov21-00:22:40")),
        ]),
        row([
            ("id.f58", s("f2HSAwd9")),
            ("queue", s("")),
            ("username", s("root")),
            ("name", s("true")),
            ("status_abbrev", s("CD")),
            ("ntasks", Field::Int(1)),
            ("nnodes", Field::Int(1)),
            ("contextual_time", Field::Duration(0.0321)),
            ("contextual_info", s("vm")),
        ]),
    ];
    let lines = format.render(&jobs, &rows, &Utc, RenderOptions::default()).expect("known");
    assert_eq!(
        lines,
        [
            "       JOBID USER     NAME       ST NTASKS NNODES     TIME INFO",
            "    f2pHbzmM root     true        D      1      -        - depends:begin@Nov21-00:22:40",
            "    f2HSAwd9 root     true       CD      1      1   0.032s vm",
        ]
    );
}

fn resource(field: &str) -> Option<&'static str> {
    Some(match field {
        "state" => "STATE",
        "color_up" | "color_off" => "",
        "up" => "UP",
        "queue" => "QUEUE",
        "propertiesx" => "PROPERTIES",
        "nnodes" => "NNODES",
        "ncores" => "NCORES",
        "ngpus" => "NGPUS",
        "nodelist" => "NODELIST",
        "timestamp" => "TIME",
        "reason" => "REASON",
        _ => return None,
    })
}

#[test]
fn resource_status_without_colour_loses_the_blank_before_it() {
    let format =
        Format::parse("{state:>12} {color_up}{up:>2}{color_off} {nnodes:>6} {nodelist}").unwrap();
    let format = format.without(&["color_up", "color_off"]);
    let line = |state, n, nodes| {
        row([
            ("state", s(state)),
            ("up", s("✔")),
            ("nnodes", Field::Int(n)),
            ("nodelist", s(nodes)),
        ])
    };
    let rows = [line("avail", 3, "vm,vm,vm"), line("drained", 1, "vm")];
    let lines = format.render(&resource, &rows, &Utc, RenderOptions::default()).unwrap();
    assert_eq!(
        lines,
        [
            "       STATEUP NNODES NODELIST",
            "       avail ✔      3 vm,vm,vm",
            "     drained ✔      1 vm",
        ]
    );
}

#[test]
fn resource_list_drops_what_is_empty_and_keeps_zeros() {
    let format = Format::parse(
        "{state:>10} ?+:{queue:<5} ?:{propertiesx:<10.10+} {nnodes:>6} +:{ncores:>6} \
         ?+:{ngpus:>5} {nodelist}",
    )
    .unwrap();
    let line = |state, n, cores, nodes| {
        row([
            ("state", s(state)),
            ("queue", s("")),
            ("propertiesx", s("")),
            ("nnodes", Field::Int(n)),
            ("ncores", Field::Int(cores)),
            ("ngpus", Field::Int(0)),
            ("nodelist", s(nodes)),
        ])
    };
    let rows =
        [line("free", 3, 12, "vm,vm,vm"), line("allocated", 0, 0, ""), line("down", 1, 4, "vm")];
    let options = RenderOptions { header: true, trim: false };
    let lines = format.render(&resource, &rows, &Utc, options).unwrap();
    assert_eq!(
        lines,
        [
            "     STATE NNODES NCORES NGPUS NODELIST",
            "      free      3     12     0 vm,vm,vm",
            " allocated      0      0     0 ",
            "      down      1      4     0 vm",
        ]
    );
    let trimmed = format.render(&resource, &rows, &Utc, RenderOptions::default()).unwrap();
    assert_eq!(trimmed[2], " allocated      0      0     0");
}

#[test]
fn drain_table_and_info_line_are_reproduced() {
    let format =
        Format::parse("{timestamp!d:%b%d %R::<12} {state:<8.8} {reason:<30.30+} {nodelist}")
            .unwrap();
    // 2026-11-20 23:22:42 UTC
    let rows = [row([
        ("timestamp", Field::Time(1_795_216_962.39)),
        ("state", s("drained")),
        ("reason", s("some reason")),
        ("nodelist", s("vm")),
    ])];
    let lines = format.render(&resource, &rows, &Utc, RenderOptions::default()).unwrap();
    assert_eq!(
        lines,
        [
            "TIME         STATE    REASON                         NODELIST",
            "Nov20 23:22  drained  some reason                    vm",
        ]
    );
    let info = Format::parse("{nnodes} Nodes, {ncores} Cores, {ngpus} GPUs").unwrap();
    let rows =
        [row([("nnodes", Field::Int(4)), ("ncores", Field::Int(16)), ("ngpus", Field::Int(0))])];
    let options = RenderOptions { header: false, trim: true };
    assert_eq!(
        info.render(&resource, &rows, &Utc, options).unwrap(),
        ["4 Nodes, 16 Cores, 0 GPUs"]
    );
}

#[test]
fn queue_heading_keeps_the_blank_after_dropped_columns() {
    let format = Format::parse(
        "?:{queuem:<8.8} ?:{parent:<8.8} {color_enabled}{enabled:>2}{color_off} \
         {color_started}{started:>2}{color_off} {defaults.timelimit!F:>8} \
         {limits.timelimit!F:>8} {limits.range.effective.nnodes:>10} \
         {limits.range.effective.ncores:>10} {limits.range.effective.ngpus:>10}",
    )
    .unwrap();
    let headings = |f: &str| {
        Some(match f {
            "queuem" => "QUEUE",
            "parent" => "PARENT",
            "enabled" => "EN",
            "started" => "ST",
            "defaults.timelimit" => "TDEFAULT",
            "limits.timelimit" => "TLIMIT",
            "limits.range.effective.nnodes" => "NNODES",
            "limits.range.effective.ncores" => "NCORES",
            "limits.range.effective.ngpus" => "NGPUS",
            _ => "",
        })
    };
    let rows = [row([("queuem", s("")), ("parent", s(""))])];
    let lines = format.render(&headings, &rows, &Utc, RenderOptions::default()).unwrap();
    assert_eq!(lines[0], " EN ST TDEFAULT   TLIMIT     NNODES     NCORES      NGPUS");
}

#[test]
fn unknown_field_is_named() {
    let format = Format::parse("{id.f58} {foo}").unwrap();
    let error = format.render(&jobs, &[row([])], &Utc, RenderOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "Unknown format field: foo");
    let format = Format::parse("sort:bar {id.f58}").unwrap();
    assert_eq!(format.check(&jobs), Err(FormatError::UnknownField("bar".into())));
}

#[test]
fn widening_takes_the_longest_value_and_lifts_the_precision() {
    let format = Format::parse("+:{name:>4.4}|{ntasks:>3}").unwrap();
    let rows = [
        row([("name", s("abcdefgh")), ("ntasks", Field::Int(1))]),
        row([("name", s("xy")), ("ntasks", Field::Int(22))]),
    ];
    let lines = format.render(&jobs, &rows, &Utc, RenderOptions::default()).unwrap();
    assert_eq!(lines, ["    NAME|NTASKS", "abcdefgh|  1", "      xy| 22"]);
}

#[test]
fn cut_values_are_marked_and_measured_in_columns() {
    assert_eq!(one("{x:<5.5+}|", s("abcdefgh")), "abcd+|");
    assert_eq!(one("{x:<5.5}|", s("abcdefgh")), "abcde|");
    assert_eq!(one("{x:<5.5+}|", s("abcde")), "abcde|");
    assert_eq!(one("{x:<5.4}|", s("日本語")), "日本 |");
    assert_eq!(one("{x:<5.3+}|", s("日本語")), "日+  |");
    assert_eq!(one("{x:>4}|", s("ƒA")), "  ƒA|");
}

#[test]
fn the_dash_stands_for_nothing() {
    for nothing in [s(""), Field::Empty, s("0s"), s("0:00:00"), Field::Float(0.0)] {
        assert_eq!(one("{x:>4h}", nothing), "   -");
    }
    assert_eq!(one("{x!d:%b%d::>6h}", Field::Time(0.0)), "     -");
    assert_eq!(one("{x!D:h}", Field::Time(0.0)), "-");
    assert_eq!(one("{x!D}", Field::Time(0.0)), "");
    assert_eq!(one("{x:>4h}", Field::Int(0)), "   0");
    assert_eq!(one("{x:>4.2fh}", Field::Float(2.0)), "2.00");
}

#[test]
fn conversions_print_times_and_durations() {
    assert_eq!(one("{x!D}", Field::Time(1_578_403_860.0)), "2020-01-07T13:31:00");
    assert_eq!(
        one("{x!d:%a %e %j %I %p %y::>22}", Field::Time(1_578_403_860.0)),
        "   Tue  7 007 01 PM 20"
    );
    assert_eq!(one("{x!d}", Field::Time(951_782_400.0)), "2000-02-29T00:00:00");
    assert_eq!(one("{x!H}", Field::Duration(3675.0)), "1:01:15");
    assert_eq!(one("{x!H}", Field::Duration(90_000.0)), "1 day, 1:00:00");
    assert_eq!(one("{x!F}", Field::Duration(5400.0)), "1.5h");
    assert_eq!(one("{x!F}", Field::Duration(f64::INFINITY)), "inf");
    for (fraction, text) in
        [(0.0, "0%"), (1.0, "100%"), (0.4033, "40.3%"), (0.00034, "0.03%"), (0.5, "50%")]
    {
        assert_eq!(format_percent(fraction), text);
    }
    for (seconds, text) in [
        (0.0, "0s"),
        (0.0004, "0s"),
        (5.0, "5.000s"),
        (41.8603, "41.86s"),
        (1800.0, "30m"),
        (86400.0, "1d"),
    ] {
        assert_eq!(format_fsd(seconds), text);
    }
}

#[test]
fn numbers_follow_python() {
    assert_eq!(one("{x:5}|", Field::Int(42)), "   42|");
    assert_eq!(one("{x:<5}|", Field::Int(42)), "42   |");
    assert_eq!(one("{x:05}", Field::Int(-42)), "-0042");
    assert_eq!(one("{x:*^6}", Field::Int(42)), "**42**");
    assert_eq!(one("{x:#x}", Field::Int(255)), "0xff");
    assert_eq!(one("{x:,}", Field::Int(1_234_567)), "1,234,567");
    assert_eq!(one("{x:.2f}", Field::Float(1.005)), "1.00");
    assert_eq!(one("{x}", Field::Float(3.0)), "3.0");
    assert_eq!(one("{x:.1%}", Field::Float(0.25)), "25.0%");
    assert_eq!(one("{x:g}", Field::Float(1e10)), "1e+10");
    assert_eq!(one("{x:.3g}", Field::Float(0.00012345)), "0.000123");
    assert_eq!(one("{x}", Field::Uint(u64::MAX)), "18446744073709551615");
    assert_eq!(one("{x}", Field::Bool(true)), "True");
}

#[test]
fn braces_are_doubled_or_balanced() {
    assert_eq!(one("{{{x}}}", s("a")), "{a}");
    assert_eq!(Format::parse("{x"), Err(FormatError::Unclosed));
    assert_eq!(Format::parse("{"), Err(FormatError::StrayOpen));
    assert_eq!(Format::parse("a}"), Err(FormatError::StrayClose));
    assert_eq!(Format::parse("{}"), Err(FormatError::NoName(0)));
    assert!(matches!(Format::parse("{x:{y}}"), Err(FormatError::Nested(_))));
    assert!(matches!(Format::parse("{x!Q}"), Err(FormatError::UnknownConversion(_))));
    assert!(matches!(Format::parse("{x:>99999999}"), Err(FormatError::Spec { .. })));
}

#[test]
fn sort_prefix_orders_rows() {
    let format = Format::parse("sort:-ntasks,name {name}").unwrap();
    assert_eq!(
        format.sort_keys(),
        [
            SortKey { field: "ntasks".into(), descending: true },
            SortKey { field: "name".into(), descending: false }
        ]
    );
    let mut rows = [
        row([("name", s("b")), ("ntasks", Field::Int(1))]),
        row([("name", s("c")), ("ntasks", Field::Int(10))]),
        row([("name", s("a")), ("ntasks", Field::Int(1))]),
    ];
    sort_rows(&mut rows, format.sort_keys());
    let lines = format.render(&jobs, &rows, &Utc, RenderOptions { header: false, trim: true });
    assert_eq!(lines.unwrap(), ["c", "a", "b"]);
}

#[test]
fn named_formats_cannot_replace_builtin_ones() {
    let mut formats = NamedFormats::builtin(&[("default", "{id}", "Default format")]);
    let mine = NamedFormat { format: "{name}".into(), description: "Mine".into() };
    assert_eq!(formats.add("default", mine.clone()), Err(FormatError::Redefined("default".into())));
    formats.add("mine", mine).unwrap();
    assert_eq!(formats.choose("mine"), Ok(FormatChoice::Use("{name}")));
    assert_eq!(formats.choose("{x}"), Ok(FormatChoice::Use("{x}")));
    assert_eq!(formats.choose("help"), Ok(FormatChoice::Help));
    assert!(matches!(formats.choose("get-config=default"), Ok(FormatChoice::Config("default", _))));
    assert_eq!(formats.choose("nope"), Err(FormatError::UnknownName("nope".into())));
}

proptest! {
    #[test]
    fn any_text_parses_or_is_refused(text in "\\PC{0,60}") {
        drop(Format::parse(&text));
    }

    #[test]
    fn any_spec_formats_any_number(spec in "[ <>^=+#0,_.0-9bdeEfgGxs%h-]{0,8}", v in any::<f64>(), i in any::<i64>()) {
        if Format::parse(&format!("{{x:{spec}}}")).is_ok() {
            one(&format!("{{x:{spec}}}"), Field::Float(v));
            one(&format!("{{x:{spec}}}"), Field::Int(i));
        }
    }

    #[test]
    fn any_time_prints(t in any::<f64>(), format in "\\PC{0,12}") {
        if let Some(local) = Utc.local(t) {
            strftime(&format, &local, t);
        }
    }
}
