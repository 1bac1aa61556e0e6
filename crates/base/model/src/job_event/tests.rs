use proptest::prelude::*;
use serde_json::json;

use super::check::{IllegalEvent, legal, legal_log};
use super::*;
use crate::eventlog::Eventlog;

/// A log from `name` or `name {context}` lines; the timestamps are 1, 2, 3 and so on.
fn log(lines: &[&str]) -> Vec<Event> {
    let event = |(index, line): (usize, &&str)| {
        let (name, context) = line.split_once(' ').unwrap_or((line, ""));
        let event = Event::new((index + 1) as f64, name);
        if context.is_empty() {
            return event;
        }
        event.with_context(serde_json::from_str(context).unwrap())
    };
    lines.iter().enumerate().map(event).collect()
}

const SUBMIT: &str = r#"submit {"userid":5588,"urgency":16,"flags":4,"version":1}"#;
const PRIORITY: &str = r#"priority {"priority":16}"#;
const FINISH: &str = r#"finish {"status":0}"#;
const RELEASE: &str = r#"release {"ranks":"all","final":true}"#;
const CANCEL: &str = r#"exception {"type":"cancel","severity":0,"note":"","userid":5588}"#;

fn joined<'a>(parts: &[&[&'a str]]) -> Vec<&'a str> {
    parts.concat()
}

const PENDING: &[&str] = &[SUBMIT, "validate", "depend", PRIORITY];
const ENDED: &[&str] = &[RELEASE, "free", "clean"];

#[test]
fn a_normal_job_completes() {
    let lines = joined(&[
        PENDING,
        &[r#"alloc {"annotations":{"sched":{"resource_summary":"rank0/core0"}}}"#, "start", FINISH],
        ENDED,
    ]);
    let events = log(&lines);
    let status = JobStatus::replay(&events).unwrap();
    assert_eq!(legal_log(&events).unwrap(), status);
    assert_eq!(status.state, JobState::Inactive);
    assert_eq!(status.result(), Some(JobResult::Completed));
    assert_eq!((status.userid, status.urgency, status.flags), (5588, 16, FLAG_WAITABLE));
    assert_eq!(status.priority, Some(16));
    assert_eq!(status.finish_status, Some(0));
    assert_eq!(
        [
            Some(status.t_submit),
            status.t_depend,
            status.t_priority,
            status.t_sched,
            status.t_run,
            status.t_cleanup,
            status.t_inactive
        ],
        [1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0].map(Some)
    );
    assert_eq!(
        Value::Object(status.annotations),
        json!({"sched":{"resource_summary":"rank0/core0"}})
    );
    assert!(status.exception.is_none() && !status.has_resources && status.released);
}

#[test]
fn the_observed_orders_of_events_are_legal() {
    let timeout =
        r#"exception {"type":"timeout","severity":0,"note":"resource allocation expired"}"#;
    let alloc = r#"exception {"type":"alloc","severity":0,"note":"unsatisfiable request"}"#;
    let exec = r#"exception {"type":"exec","severity":0,"note":"x","userid":0}"#;
    let epilog = r#"exception {"type":"epilog","severity":2,"note":"x"}"#;
    let run: &[&str] = &["alloc", "start"];
    let dependency: &[&str] = &[
        SUBMIT,
        r#"dependency-add {"description":"after-start=f1"}"#,
        "validate",
        r#"dependency-remove {"description":"after-start=f1"}"#,
        "depend",
    ];
    let perilog: &[&str] = &[
        "alloc",
        r#"prolog-start {"description":"p"}"#,
        r#"prolog-finish {"description":"p","status":0}"#,
        "start",
        FINISH,
        r#"epilog-start {"description":"e"}"#,
        RELEASE,
        epilog,
        r#"epilog-finish {"description":"e","status":1}"#,
        "free",
        "clean",
    ];
    for (lines, result) in [
        (joined(&[PENDING, run, &[CANCEL, r#"finish {"status":36608}"#], ENDED]), "CANCELED"),
        (joined(&[PENDING, &[CANCEL, "clean"]]), "CANCELED"),
        (joined(&[PENDING, run, &[timeout, r#"finish {"status":36352}"#], ENDED]), "TIMEOUT"),
        (joined(&[PENDING, run, &[exec, r#"finish {"status":32512}"#], ENDED]), "FAILED"),
        (joined(&[PENDING, &[alloc, "clean"]]), "FAILED"),
        (joined(&[dependency, &[PRIORITY], run, &[FINISH], ENDED]), "COMPLETED"),
        (joined(&[PENDING, perilog]), "COMPLETED"),
        (joined(&[PENDING, &["flux-restart", PRIORITY], run, &[FINISH], ENDED]), "COMPLETED"),
        (joined(&[PENDING, run, &[r#"finish {"status":256}"#], ENDED]), "FAILED"),
        (joined(&[PENDING, &["alloc", CANCEL, "free", "clean"]]), "CANCELED"),
    ] {
        let status = legal_log(&log(&lines)).unwrap_or_else(|why| panic!("{lines:?}: {why:?}"));
        assert_eq!(status.result().unwrap().to_string(), result, "{lines:?}");
    }
}

#[test]
fn illegal_orders_are_found() {
    for (lines, index) in [
        (joined(&[&["validate"]]), 0),
        (joined(&[PENDING, &[SUBMIT]]), 4),
        (joined(&[&[SUBMIT, "depend"]]), 1),
        (joined(&[&[SUBMIT, CANCEL, "clean"]]), 2),
        (joined(&[&[SUBMIT, "invalidate", "validate"]]), 2),
        (joined(&[&[SUBMIT, "validate", r#"dependency-add {"description":"a"}"#, "depend"]]), 3),
        (joined(&[&[SUBMIT, "validate", r#"dependency-remove {"description":"a"}"#]]), 2),
        (joined(&[PENDING, &["alloc", "alloc"]]), 5),
        (joined(&[PENDING, &["start"]]), 4),
        (joined(&[PENDING, &["alloc", "start", "start"]]), 6),
        (joined(&[PENDING, &["alloc", r#"prolog-start {"description":"p"}"#, "start"]]), 6),
        (joined(&[PENDING, &["alloc", "start", FINISH, "free"]]), 7),
        (joined(&[PENDING, &["alloc", "start", FINISH, FINISH]]), 7),
        (joined(&[PENDING, &["alloc", "start", FINISH, RELEASE, "clean"]]), 8),
        (joined(&[PENDING, &["alloc", "start", FINISH, RELEASE, RELEASE]]), 8),
        (joined(&[PENDING, &["alloc", "start", FINISH], ENDED, &["memo"]]), 10),
        (joined(&[PENDING, &["alloc", r#"urgency {"urgency":1,"userid":0}"#]]), 5),
        (joined(&[PENDING, &["jobspec-update"]]), 4),
        (joined(&[PENDING, &[r#"exception {"type":"x","severity":8,"note":""}"#]]), 4),
    ] {
        let (found, _) = legal_log(&log(&lines)).unwrap_err();
        assert_eq!(found, index, "{lines:?}");
    }
    let status = JobStatus::replay(&log(PENDING)).unwrap();
    assert_eq!(
        legal(&status, &Event::new(9.0, "clean")).unwrap_err().to_string(),
        "job event clean is illegal in state SCHED"
    );
    assert!(matches!(
        legal(&status, &Event::new(9.0, "priority")),
        Err(IllegalEvent::Invalid(JobEventError::Context { key: "priority", .. }))
    ));
}

#[test]
fn exceptions_keep_the_most_severe_and_the_first_fatal() {
    let lines = joined(&[
        PENDING,
        &[
            r#"exception {"type":"a","severity":3,"note":"1"}"#,
            r#"exception {"type":"b","severity":5,"note":"2"}"#,
            r#"exception {"type":"cancel","severity":0,"note":"3","wait_status":9}"#,
            r#"exception {"type":"timeout","severity":0,"note":"4"}"#,
            r#"exception {"type":"c","severity":1,"note":"5"}"#,
            "clean",
        ],
    ]);
    let status = JobStatus::replay(&log(&lines)).unwrap();
    assert_eq!(status.exception.as_ref().unwrap().note, "4");
    let fatal = status.fatal_exception.as_ref().unwrap();
    assert_eq!((fatal.note.as_str(), fatal.wait_status), ("3", Some(9)));
    assert_eq!(status.t_cleanup, Some(7.0));
    assert_eq!(status.result(), Some(JobResult::Timeout));
}

#[test]
fn a_fatal_exception_leaves_new_and_inactive_alone() {
    let status = JobStatus::replay(&log(&[SUBMIT, CANCEL])).unwrap();
    assert_eq!(status.state, JobState::New);
    let lines = joined(&[PENDING, &[CANCEL, "clean", CANCEL]]);
    assert_eq!(JobStatus::replay(&log(&lines)).unwrap().state, JobState::Inactive);
}

#[test]
fn updates_and_memos_accumulate() {
    let lines = joined(&[
        PENDING,
        &[
            r#"jobspec-update {"attributes.system.duration":10}"#,
            r#"jobspec-update {"attributes.system.duration":20,"attributes.system.queue":"q"}"#,
            r#"urgency {"urgency":31,"userid":0}"#,
            r#"memo {"a":1,"b":{"c":2}}"#,
            r#"memo {"a":null,"b":{"d":3}}"#,
            r#"set-flags {"flags":["debug","immutable","alloc-bypass","later"]}"#,
            "no-such-event",
        ],
    ]);
    let status = JobStatus::replay(&log(&lines)).unwrap();
    assert_eq!(status.state, JobState::Priority);
    assert_eq!(status.t_priority, Some(3.0));
    assert_eq!(status.urgency, URGENCY_MAX);
    assert_eq!(
        Value::Object(status.jobspec_updates),
        json!({"attributes.system.duration":20,"attributes.system.queue":"q"})
    );
    assert_eq!(Value::Object(status.annotations), json!({"user":{"b":{"c":2,"d":3}}}));
    assert_eq!(status.flags, FLAG_WAITABLE | FLAG_DEBUG);
    assert!(status.immutable && status.alloc_bypass);
}

#[test]
fn a_log_must_begin_with_a_complete_submit_of_version_1() {
    let replay = |line: &str| JobStatus::replay(&log(&[line])).unwrap_err().to_string();
    assert_eq!(JobStatus::replay(&[]).unwrap_err(), JobEventError::Empty);
    assert_eq!(replay("validate"), "first job event is 'validate', not submit");
    assert_eq!(
        replay(r#"submit {"userid":1,"urgency":16,"flags":0}"#),
        "job event submit: invalid or missing version"
    );
    assert_eq!(
        replay(r#"submit {"userid":1,"urgency":16,"flags":0,"version":2}"#),
        "job eventlog version 2 is not supported"
    );
    assert_eq!(
        replay(r#"submit {"userid":1,"urgency":32,"flags":0,"version":1}"#),
        "job event submit: invalid or missing urgency"
    );
}

proptest! {
    #[test]
    fn replaying_any_events_never_panics(
        names in prop::collection::vec(prop::sample::select(vec![
            "submit", "validate", "depend", "priority", "alloc", "start", "finish", "release",
            "free", "clean", "exception", "urgency", "memo", "annotations", "set-flags",
        ]), 0..20),
        context in prop::sample::select(vec![
            "{}",
            r#"{"priority":1,"status":0,"final":true,"severity":0,"type":"x","note":"","ranks":"0"}"#,
            r#"{"urgency":3,"userid":1,"annotations":null,"flags":["debug"]}"#,
            r#"{"urgency":-3,"severity":99999999999,"status":"x"}"#,
        ]),
    ) {
        let mut events = log(&[SUBMIT]);
        for name in names {
            events.push(Event::new(1.0, name).with_context(serde_json::from_str(context).unwrap()));
        }
        drop(JobStatus::replay(&events));
        // What the strict judge accepts, the fold accepts with the same outcome.
        if let Ok(status) = legal_log(&events) {
            prop_assert_eq!(JobStatus::replay(&events).unwrap(), status);
        }
        let text: Eventlog = events.into_iter().collect();
        prop_assert_eq!(Eventlog::parse(&text.encode()).unwrap(), text);
    }
}
