//! Processes of the job that have lost their parent.
//!
//! They become children of the shell, so that it is known whose they are, whatever they have done to
//! get out of sight, and end with it. Of the launcher, which would get them otherwise, other jobs are
//! children, too.

use std::fs;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, wait, waitpid};

/// Between looks at processes that were killed, and how long they are looked at: one may hang in the
/// kernel, and is left to the launcher then.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const GIVE_UP: Duration = Duration::from_secs(10);

/// From here on processes without a parent come here.
pub fn adopt() {
    // Without it they go to the launcher.
    let _ = set_child_subreaper(Some(rustix::process::getpid()));
}

/// Children of this process, which has one thread; nothing where the kernel does not list them.
fn children() -> Vec<Pid> {
    let own = rustix::process::getpid().as_raw_nonzero();
    let text = fs::read_to_string(format!("/proc/self/task/{own}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| Pid::from_raw(word.parse().ok()?)).collect()
}

/// Collects those that have ended, but not `tasks`, whose status matters.
pub fn collect(tasks: &[Pid]) {
    for pid in children().into_iter().filter(|pid| !tasks.contains(pid)) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Kills all that are left, when all tasks have ended and were waited for.
pub fn end() {
    let began = Instant::now();
    loop {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                // There are none.
                Err(_) => return,
            }
        }
        // What these have started comes here when they have ended.
        let killed =
            children().iter().filter(|pid| kill_process(**pid, Signal::KILL).is_ok()).count();
        // A program with other rights is for others to end.
        if killed == 0 || began.elapsed() > GIVE_UP {
            return;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
