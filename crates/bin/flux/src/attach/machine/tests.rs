use super::*;

/// Feeds a recorded log, a line each: `j` job, `e` exec, `o` output, a bare letter its end.
fn feed(machine: &mut Machine, log: &str) -> String {
    let mut shown = String::new();
    for line in log.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (kind, rest) = line.split_at(1);
        let event = || Event::decode(rest.trim()).expect("a recorded event");
        let effects = match (kind, rest.is_empty()) {
            ("j", true) => {
                machine.job_end();
                Vec::new()
            }
            ("j", false) => machine.job_event(&event()),
            ("e", false) => machine.exec_event(&event()),
            ("o", true) => machine.output_end(),
            ("o", false) => machine.output_event(&event()),
            _ => panic!("unknown line {line}"),
        };
        for effect in effects {
            shown.push_str(&match effect {
                Effect::Out(text) => format!("out {}", String::from_utf8_lossy(&text)),
                Effect::Error(text) => format!("err {}", String::from_utf8_lossy(&text)),
                Effect::Say(text) => format!("say {text}\n"),
                Effect::Shell { service, rank, pty } => {
                    format!("shell {service} {rank} {}\n", pty.unwrap_or_default())
                }
            });
        }
    }
    shown
}

const SUBMIT: &str = r#"
    j {"timestamp":10.0,"name":"submit","context":{"userid":0,"urgency":16,"flags":0,"version":1}}
    j {"timestamp":10.0,"name":"validate"}
    j {"timestamp":10.0,"name":"depend"}
    j {"timestamp":10.0,"name":"priority","context":{"priority":16}}
"#;
const START: &str = r#"
    j {"timestamp":10.1,"name":"alloc"}
    e {"timestamp":10.1,"name":"init"}
    e {"timestamp":10.1,"name":"shell.init","context":{"service":"0-shell-f1","leader-rank":2,"size":1}}
    o {"timestamp":10.1,"name":"header","context":{"version":1,"encoding":{"stdout":"UTF-8","stderr":"UTF-8"},"count":{"stdout":1,"stderr":1},"options":{}}}
    j {"timestamp":10.2,"name":"start"}
"#;
const EOFS: &str = r#"
    o {"timestamp":10.3,"name":"data","context":{"stream":"stdout","rank":"0","eof":true}}
    o {"timestamp":10.3,"name":"data","context":{"stream":"stderr","rank":"0","eof":true}}
"#;

fn machine(view: View) -> Machine {
    Machine::new(JobId(1), view)
}

#[test]
fn a_job_that_succeeds_is_done_once_its_streams_ended() {
    let mut machine = machine(View::default());
    assert_eq!(feed(&mut machine, SUBMIT), "");
    assert_eq!(feed(&mut machine, START), "shell 0-shell-f1 2 \n");
    let data = r#"o {"timestamp":10.3,"name":"data","context":{"stream":"stdout","rank":"0","data":"hi\n"}}"#;
    assert_eq!(feed(&mut machine, data), "out hi\n");
    feed(&mut machine, EOFS);
    assert!(!machine.is_done(), "it has not finished yet");
    feed(&mut machine, r#"j {"timestamp":10.4,"name":"finish","context":{"status":0}}"#);
    assert!(machine.is_done());
    assert_eq!((machine.exit_code(), machine.last_words()), (0, None));
}

#[test]
fn a_job_that_fails_is_read_to_the_end() {
    let mut machine = machine(View::default());
    feed(&mut machine, SUBMIT);
    feed(&mut machine, START);
    feed(&mut machine, EOFS);
    feed(&mut machine, r#"j {"timestamp":10.4,"name":"finish","context":{"status":1792}}"#);
    assert!(!machine.is_done(), "the shell may have more to say");
    let log = r#"o {"timestamp":10.5,"name":"log","context":{"rank":0,"level":4,"component":"x","message":"m"}}"#;
    assert_eq!(feed(&mut machine, log), "err 0.500s: flux-shell[0]:  WARN: x: m\n");
    feed(&mut machine, "o");
    assert!(machine.is_done());
    assert_eq!(machine.exit_code(), 7);
    assert_eq!(machine.last_words().as_deref(), Some("task(s) exited with exit code 7"));
}

#[test]
fn a_job_that_never_ran_exits_1() {
    let mut machine = machine(View::default());
    feed(&mut machine, SUBMIT);
    let cancel = r#"j {"timestamp":10.22,"name":"exception","context":{"type":"cancel","severity":0,"note":"bye","userid":0}}"#;
    let text = feed(&mut machine, cancel);
    assert_eq!(text, "err 0.220s: job.exception ƒ2 type=cancel severity=0 bye\n");
    feed(&mut machine, r#"j {"timestamp":10.3,"name":"clean"}"#);
    assert!(!machine.is_done());
    feed(&mut machine, "j");
    assert!(machine.is_done());
    assert_eq!((machine.exit_code(), machine.last_words()), (1, None));
}

#[test]
fn events_are_shown_when_asked_for() {
    let mut machine = machine(View { events: true, exec: true, ..View::default() });
    let text = feed(&mut machine, SUBMIT);
    assert!(text.starts_with(
        "err 0.000s: job.submit {\"userid\":0,\"urgency\":16,\"flags\":0,\"version\":1}\nerr 0.000s: job.validate\n"
    ));
    assert!(feed(&mut machine, START).contains("err 0.100s: exec.init\n"));
}

#[test]
fn labels_and_tails() {
    let mut machine = machine(View { label: true, tail: Some(2), ..View::default() });
    feed(&mut machine, SUBMIT);
    feed(&mut machine, START);
    let data = r#"o {"timestamp":10.3,"name":"data","context":{"stream":"stdout","rank":"0","data":"a\nb\nc\n"}}"#;
    assert_eq!(feed(&mut machine, data), "");
    let held = machine.output_live();
    assert_eq!(held, [Effect::Out(b"0: b\n".to_vec()), Effect::Out(b"0: c\n".to_vec())]);
    assert_eq!(feed(&mut machine, data), "out 0: a\n0: b\n0: c\n");
}

#[test]
fn leaving_early_is_no_failure() {
    let mut machine = machine(View { until: "alloc".into(), ..View::default() });
    feed(&mut machine, SUBMIT);
    assert!(!machine.is_done());
    feed(&mut machine, START);
    assert!(machine.is_done());
    assert_eq!(machine.exit_code(), 0);
    // That it has ended meanwhile makes no difference.
    feed(&mut machine, r#"j {"timestamp":10.4,"name":"finish","context":{"status":256}}"#);
    assert!(machine.is_done());
    assert_eq!((machine.exit_code(), machine.last_words()), (0, None));
}

#[test]
fn redirected_streams_count_as_ended() {
    let mut machine = machine(View::default());
    feed(&mut machine, SUBMIT);
    feed(&mut machine, START);
    let redirect = r#"o {"timestamp":10.3,"name":"redirect","context":{"stream":"stdout","rank":"[0]","path":"out"}}"#;
    assert_eq!(feed(&mut machine, redirect), "err [0]: stdout redirected to out\n");
    assert_eq!(machine.open_streams, Some(1));
    let odd = r#"o {"timestamp":10.3,"name":"data","context":{"stream":"stdout"}}"#;
    assert!(feed(&mut machine, odd).starts_with("say "));
}
