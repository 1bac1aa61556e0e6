//! `flux top` on a terminal.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "support/instance.rs"]
mod instance;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

/// A terminal of 100 columns and 24 rows, and a program that runs on it.
struct Terminal {
    master: File,
    shown: Arc<Mutex<String>>,
    slave: File,
    child: Child,
}

impl Terminal {
    fn run(script: &str) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        let end = || Stdio::from(OwnedFd::from(slave.try_clone().unwrap()));
        let child = instance::flux()
            .args(["start", "sh", "-c", script])
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut from, into) = (File::from(master.try_clone().unwrap()), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = from.read(&mut buffer) {
                if count == 0 {
                    break;
                }
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { master: File::from(master), shown, slave, child }
    }

    fn until(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.shown.lock().unwrap().contains(text) {
            assert!(Instant::now() < deadline, "never: {text}\n{}", self.shown.lock().unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn types(&mut self, text: &str) {
        self.shown.lock().unwrap().clear();
        self.master.write_all(text.as_bytes()).unwrap();
    }
}

#[test]
fn jobs_are_shown_chosen_and_entered_until_q() {
    let mut terminal = Terminal::run(
        "id=$(flux alloc --bg -n1 --job-name=inner)
         flux proxy $id flux submit --quiet --job-name=nested sleep inf
         flux submit --quiet --job-name=\"$(printf 'evil\\033[2Jname')\" -n1 sleep inf
         flux submit --quiet --job-name=waits --urgency=hold true
         flux top; echo left with $?; flux cancel --all --quiet; read x",
    );
    let before = tcgetattr(&terminal.slave).unwrap();
    terminal.until("waits");
    {
        let shown = terminal.shown.lock().unwrap();
        for part in ["size 1  depth 0", "nodes [", "cores [", "1 pending", "2 running", "inner"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        // What a name would do to the terminal is not done.
        assert!(shown.contains("evil\u{fffd}[2Jname"), "{shown}");
    }
    // The instance is the second from above; the latest job is the first.
    terminal.types("j\r");
    terminal.until("nested");
    terminal.until("depth 1");
    terminal.types("h");
    terminal.until("waits");
    terminal.types("q");
    terminal.until("left with 0");
    assert!(terminal.shown.lock().unwrap().contains("\x1b[?1049l"));
    let after = tcgetattr(&terminal.slave).unwrap();
    assert_eq!(before.local_modes, after.local_modes);
    terminal.types("\n");
    terminal.child.wait().unwrap();
}

#[test]
fn without_a_terminal_or_an_instance_it_says_so() {
    let output = instance::instance(1, &[], "exec 2>&1; flux top </dev/null; flux top nosuch");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = "flux-top: FATAL: standard input is not a terminal\n";
    assert_eq!(said, line.repeat(2));
}
