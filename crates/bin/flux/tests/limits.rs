//! What tasks may use is what the user may, not what the processes of an instance have raised for
//! themselves.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "support/instance.rs"]
mod instance;

use std::process::Command;

const SCRIPT: &str = r#"
    n='ulimit -S -n'
    $n
    flux run sh -c "$n"
    (ulimit -S -n 66; flux run sh -c "$n")
    flux run --rlimit=nofile=77 sh -c "$n"
    flux run --rlimit=nofile sh -c "$n"
    flux run --rlimit='-*' sh -c "$n"
    flux run --rlimit='-*' -o pty sh -c "$n" | tr -d '\r'
    # More pipes than the shell could have with that limit.
    flux run --rlimit='-*' --cores=1 --tasks-per-core=120 sh -c "$n" | sort | uniq -c | xargs
    flux alloc -n1 --rlimit='-*' sh -c "$n; flux run --rlimit='-*' sh -c '$n'"
    flux run sh -c 'ulimit -H -n'
"#;

#[test]
fn tasks_may_open_as_many_files_as_their_user_and_no_more() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let hard = limit.maximum.map_or("unlimited".to_string(), |files| files.to_string());
    let flux = instance::flux();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -n 200; exec \"$@\"", "sh"]).arg(flux.get_program());
    for (name, value) in flux.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = command.args(["start", "sh", "-c", SCRIPT]).output().unwrap();
    let said = instance::stdout(&output);
    let expected = ["200", "200", "66", "77", "200", "200", "200", "120 200", "200", "200", &hard];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{}", instance::stderr(&output));
}
