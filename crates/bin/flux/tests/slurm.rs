//! The page for people who know Slurm: its commands work.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "support/instance.rs"]
mod instance;

use std::fs;
use std::io::Write;

use instance::{flux, project, stderr};

/// Commands of the right column of the tables before the last section, in order.
fn commands() -> Vec<String> {
    let page = fs::read_to_string(project().join("docs/from-slurm.md")).unwrap();
    let (page, _) = page.split_once("## No counterpart").unwrap();
    let right = |line: &str| {
        let cell = line.strip_prefix("| `")?.split(" | ").nth(1)?.trim_end_matches(" |");
        let command = cell.strip_prefix('`')?.split('`').next()?;
        // A directive is no command, and a shutdown comes at the end.
        (command.starts_with("flux ") && command != "flux shutdown").then(|| command.to_string())
    };
    page.lines().filter_map(right).collect()
}

/// Runs each command among a job that waits and one that runs; tells those that fail.
fn script(commands: &[String]) -> String {
    let mut text = String::from("printf '#!/bin/sh\\n# flux: -n1\\nhostname\\n' >job.sh\n");
    for command in commands {
        let mut line = command.replace("node7", "3");
        for (word, make) in [("JOB", "--urgency=hold true"), ("RUNNING", "sleep 300")] {
            if line.contains(word) {
                line = line.replace(word, &format!("${word}"));
                text += &format!("{word}=$(flux submit {make})\n");
            }
        }
        if line.contains("$RUNNING") {
            text += "flux job wait-event -t 60 $RUNNING start >/dev/null\n";
        }
        if line.contains("attach") {
            // It ends with its job.
            text += "(sleep 0.2; flux job kill -s TERM $RUNNING) & \n";
            line = format!("{line} || test $? = 143");
        }
        text += &format!(
            "({line}) >out 2>&1 || {{ echo; echo 'FAILED: {}'; cat out; }}\n",
            command.replace('\'', "\"")
        );
        text += "flux cancel --all --quiet 2>/dev/null; flux resource undrain 3 2>/dev/null\n";
    }
    text += "flux queue drain --timeout=60s && echo all are told\n";
    text
}

#[test]
fn every_command_for_people_who_know_slurm_works() {
    let commands = commands();
    assert!(commands.len() > 50, "{}", commands.len());
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("x.toml"), "").unwrap();
    let path = directory.path().join("script");
    fs::File::create(&path).unwrap().write_all(script(&commands).as_bytes()).unwrap();
    let mut start = flux();
    start.args(["start", "-s4", "-c", "x.toml", "sh", "script"]).current_dir(directory.path());
    let output = start.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(told, "all are told\n", "{}", stderr(&output));
    let last = flux().args(["start", "flux", "shutdown"]).output().unwrap();
    assert!(last.status.success() || last.status.code() == Some(129), "{}", stderr(&last));
}
