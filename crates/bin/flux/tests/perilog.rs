//! Prolog, epilog and housekeeping of real jobs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn the_commands_of_the_administrator_run_around_a_job() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let scripts = path.join("epilog.d");
    std::fs::create_dir(&scripts).unwrap();
    let script = scripts.join("note");
    let marks = path.join("marks");
    std::fs::write(&script, format!("#!/bin/sh\necho script >>{}\n", marks.display())).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = path.join("config.toml");
    let text = format!(
        "[prolog]\n\
         command = [\"sh\", \"-c\", \"echo prolog $FLUX_JOB_RANKS >>{marks}\"]\n\
         [job-manager]\n\
         plugins = [ {{ load = \"perilog.so\" }} ]\n\
         [job-manager.epilog]\n\
         command = [\"flux\", \"perilog-run\", \"epilog\", \"-d\", \"{scripts}\", \
                    \"-e\", \"sh,-c,echo epilog >>{marks}\"]\n\
         [job-manager.housekeeping]\n\
         command = [\"sleep\", \"1000\"]\n",
        marks = marks.display(),
        scripts = scripts.display(),
    );
    std::fs::write(&config, text).unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_flux"));
    let old = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(["start", "-s2", "-c"])
        .arg(&config)
        .args([
            "sh",
            "-c",
            "
            id=$(flux submit -N2 sh -c \"echo task >>$1\")
            flux job wait-event -q $id clean
            until flux housekeeping list -n -o '{nnodes} {pending.nnodes}' | grep '2 2'; do sleep 0.1; done
            flux resource list -s allocated -no {nnodes}
            flux housekeeping kill -j $id
            until test $(flux resource list -s free -no {nnodes}) = 2; do sleep 0.1; done
            flux housekeeping list -n
        ",
            "sh",
        ])
        .arg(&marks)
        .env("PATH", format!("{}:{old}", program.parent().unwrap().display()))
        .env_remove("FLUX_URI")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{out}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(out, "2 2\n2\n");
    let marks = std::fs::read_to_string(&marks).unwrap();
    let lines: Vec<&str> = marks.lines().collect();
    let wanted = ["prolog 0-1", "prolog 0-1", "task", "task", "script", "epilog", "epilog"];
    assert_eq!(lines, wanted);
}
