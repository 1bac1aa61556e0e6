//! The leader is killed while the shells of a wide job start, some of them already there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/nodes.rs"]
mod nodes;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nodes::Nodes;

const SIZE: usize = 4;

/// `FLUX_TEST_ROUNDS=50 cargo nextest run -p flux --test launching` for a longer one.
fn rounds() -> u64 {
    std::env::var("FLUX_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

#[test]
fn a_leader_that_is_killed_while_a_wide_job_is_launched_starts_each_shell_once() {
    let mut nodes = Nodes::start(SIZE, false, "");
    // How long a launch takes here, with a margin: kills come at any time of it.
    let begun = Instant::now();
    nodes.text(0, &["run", "-N4", "-n4", "true"]);
    let whole = u64::try_from(begun.elapsed().as_millis()).unwrap();
    let mut dice = u64::from(std::process::id());
    for round in 0..rounds() {
        let mark = nodes.path(&format!("mark{round}"));
        let script = format!(
            "echo $FLUX_TASK_RANK >>{}; echo begun $FLUX_TASK_RANK; sleep 0.3; echo ended $FLUX_TASK_RANK",
            mark.display()
        );
        let id = nodes.text(1, &["submit", "-N4", "-n4", "sh", "-c", &script]).trim().to_string();
        let attached: Vec<_> = [0, 3]
            .into_iter()
            .map(|rank| {
                let mut command = nodes.command(rank, &["job", "attach", &id]);
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((dice >> 33) % (whole + 1)));
        nodes.kill(0);
        // Sometimes another one of them, too.
        let other = (dice >> 20) % 8;
        let other = usize::try_from(other).unwrap();
        if (1..SIZE).contains(&other) {
            nodes.kill(other);
            nodes.boot(other);
        }
        nodes.boot(0);
        nodes.text(1, &["job", "wait-event", "-qt60", &id, "clean"]);
        let log = || {
            let exec = nodes.text(0, &["job", "eventlog", "-p", "exec", &id]);
            format!("round {round}:\n{}{exec}", nodes.text(0, &["job", "eventlog", &id]))
        };
        let lines = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
            lines.sort();
            lines
        };
        let marks = lines(&fs::read_to_string(&mark).unwrap_or_default());
        assert_eq!(marks, ["0", "1", "2", "3"], "{}", log());
        let mut wanted: Vec<String> =
            (0..SIZE).flat_map(|rank| [format!("begun {rank}"), format!("ended {rank}")]).collect();
        wanted.sort();
        for attached in attached {
            let output = attached.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if said.contains("flux_open:") {
                // It came too late to find the broker.
                continue;
            }
            assert!(output.status.success(), "{said}\n{}", log());
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(lines(&text), wanted, "{said}\n{}", log());
        }
        let output = nodes.run(2, &["job", "attach", &id]);
        assert_eq!(lines(&String::from_utf8(output.stdout).unwrap()), wanted, "{}", log());
        let result = nodes.text(0, &["jobs", "-no", "{result}", &id]);
        assert_eq!(result.trim(), "COMPLETED", "{}", log());
    }
    nodes.wait_for_all();
    nodes.use_all();
}
