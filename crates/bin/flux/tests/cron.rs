//! Entries of `flux cron` on a real instance.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

fn instance(options: &[&str], script: &str) -> String {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_flux"));
    let old = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(["start", "-s1"])
        .args(options)
        .args(["sh", "-c", script])
        .env("PATH", format!("{}:{old}", program.parent().unwrap().display()))
        .env_remove("FLUX_URI")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{out}{}", String::from_utf8_lossy(&output.stderr));
    out
}

#[test]
fn entries_run_are_listed_and_outlive_the_instance() {
    let directory = tempfile::tempdir().unwrap();
    let state = format!("-Sstatedir={}", directory.path().display());
    let tabs = directory.path().join("cron.d");
    std::fs::create_dir(&tabs).unwrap();
    std::fs::write(tabs.join("accounting"), "# nightly\n30 4 * * * update\n").unwrap();
    let tabs = format!("-Scron.directory={}", tabs.display());
    let script = "
        flux cron sync --disable
        flux cron interval -N quick -c 2 0.01 'echo hello; false'
        flux cron event -c 1 my.topic flux kvs put seen=1
        flux cron at tomorrow 2>/dev/null || echo no command
        flux cron at tomorrow true
        flux event pub my.topic
        until test $(flux cron dump -k stopped 2) = true; do :; done
        until test $(flux cron dump -k stopped 3) = true; do :; done
        flux kvs get seen
        flux cron list | sed 's/20[0-9-]* [0-9:]*/DATE/;s/ *$//'
        flux dmesg | grep -c 'cron-2: rank=0: .*\"hello\"'
        flux cron delete 2; flux cron delete nine || true; flux cron stop cron-4
    ";
    let out = instance(&[&state, &tabs], script);
    assert_eq!(
        out,
        "sync: disabled\ninterval: cron-2 created\nevent: cron-3 created\nno command\n\
         datetime: cron-4 created\n1\n\
        \x20   ID CMD/NAME        STATE        #RUNS            LASTRUN  STATUS\n\
        \x20    1 update          Active           0                  -\n\
        \x20    2 quick           Stopped          2   DATE  Exit 1\n\
        \x20    3 flux kvs put se Stopped          1   DATE  Exited\n\
        \x20    4 true            Active           0                  -\n\
         2\nRemoved cron-2: quick\n"
    );
    let out = instance(&[&state, &tabs], "flux cron list | awk '{print $1, $2, $NF, NF}'");
    assert_eq!(out, "ID CMD/NAME STATUS 6\n3 flux - 8\n4 true - 5\n5 update - 5\n");
}
