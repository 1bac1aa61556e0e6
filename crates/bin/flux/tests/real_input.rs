//! Many jobs that do real work on real files, in chains of dependencies.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "support/instance.rs"]
mod instance;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

const CHAINS: u32 = 8;
const JOBS: u32 = 500;

/// Text that is a little different for each job, of 1 to 60 thousand bytes.
fn content(job: u32) -> String {
    let mut text = String::new();
    let mut state = job.wrapping_mul(2_654_435_761).wrapping_add(1);
    for line in 0..20 + job * 2 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        writeln!(text, "{job} {line} the value measured here was {state}").unwrap();
    }
    text
}

/// What each job does: compress its file, once the one before in its chain has done so, and write
/// a checksum.
const WORK: &str = r#"#!/bin/sh
set -e
chain=$1 job=$2 before=$3
test "$before" = none || test -s "out/$before.sha256"
gzip -c "in/$job" >"out/$job.gz"
cd out
sha256sum "$job.gz" >"$job.part"
mv "$job.part" "$job.sha256"
echo "$job" >>"../chain.$chain"
"#;

/// Submits them all, chain by chain in turn, while the first ones already run.
fn script() -> String {
    let mut script = "set -e\n".to_owned();
    for job in 0..JOBS {
        let chain = job % CHAINS;
        let (before, dependency) = match job.checked_sub(CHAINS) {
            Some(before) => (before.to_string(), format!("--dependency=afterok:$last{chain} ")),
            None => ("none".to_owned(), String::new()),
        };
        writeln!(
            script,
            "last{chain}=$(flux submit {dependency}sh work.sh {chain} {job} {before})"
        )
        .unwrap();
    }
    script.push_str(
        "flux queue drain\n\
         flux jobs -a -n -c0 -o '{result}' | sort | uniq -c\n",
    );
    script
}

fn run(directory: &Path, program: &str, words: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(words).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    output.stdout
}

#[test]
fn five_hundred_jobs_in_eight_chains_compress_files_and_write_checksums() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    std::fs::create_dir(at.join("in")).unwrap();
    std::fs::create_dir(at.join("out")).unwrap();
    for job in 0..JOBS {
        std::fs::write(at.join("in").join(job.to_string()), content(job)).unwrap();
    }
    std::fs::write(at.join("work.sh"), WORK).unwrap();
    std::fs::write(at.join("submit.sh"), script()).unwrap();

    let output = instance::flux()
        .args(["start", "-s2", "sh", "submit.sh"])
        .current_dir(at)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(instance::stdout(&output).trim(), format!("{JOBS} COMPLETED"));

    // Each output is the input again, and its checksum holds.
    for job in 0..JOBS {
        let text = run(at, "gzip", &["-dc", &format!("out/{job}.gz")]);
        assert!(text == content(job).as_bytes(), "out/{job}.gz is not in/{job}");
    }
    let sums: Vec<String> = (0..JOBS).map(|job| format!("{job}.sha256")).collect();
    let mut words = vec!["--quiet", "--strict", "-c"];
    words.extend(sums.iter().map(String::as_str));
    run(&at.join("out"), "sha256sum", &words);
    // Each chain went in order, and no job ran twice.
    for chain in 0..CHAINS {
        let order = std::fs::read_to_string(at.join(format!("chain.{chain}"))).unwrap();
        let expected: String =
            (chain..JOBS).step_by(CHAINS as usize).fold(String::new(), |mut text, job| {
                writeln!(text, "{job}").unwrap();
                text
            });
        assert_eq!(order, expected, "chain {chain}");
    }
}
