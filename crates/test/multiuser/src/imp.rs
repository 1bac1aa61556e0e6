//! Calls of the program under attack.

use std::fs;
use std::process::{Child, Stdio};

use crate::until;
use crate::user::{ALICE, FLUX, Said, User};
use crate::world::{self, IMP, PROBE};

/// Id of a job.
pub const JOB: &str = "6731191091817518";

/// What the IMP reads for this J.
#[must_use]
pub fn input(j: &str) -> Vec<u8> {
    serde_json::json!({ "J": j }).to_string().into_bytes()
}

/// `flux-imp exec` of the probe by somebody.
pub fn exec_as(user: User, j: &str, env: &[(&str, &str)]) -> Said {
    user.run_with(&[IMP, "exec", PROBE, JOB], &input(j), env)
}

/// `flux-imp exec` of the probe by the owner of the instance.
pub fn exec(j: &str) -> Said {
    exec_as(FLUX, j, &[])
}

/// Nothing was started, and the reason holds these words.
///
/// # Panics
/// When that is not so.
#[track_caller]
pub fn refused(said: &Said, words: &str) {
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains(words), "wanted '{words}': {said:?}");
    assert!(!said.out.contains("uid"), "{said:?}");
}

/// The rest of the line of the probe that begins so.
///
/// # Panics
/// When there is none.
#[track_caller]
#[must_use]
pub fn line<'a>(said: &'a Said, start: &str) -> &'a str {
    assert!(said.success, "{said:?}");
    let found = said.out.lines().find_map(|line| line.strip_prefix(start));
    found.unwrap_or_else(|| panic!("no '{start}' in {said:?}")).trim()
}

/// Starts a shell with this text in the background; waits until alice has written her mark.
///
/// # Panics
/// When she does not.
#[must_use]
pub fn background(text: &str) -> Child {
    fs::remove_file("/home/alice/mark").ok();
    world::write(PROBE, text, 0o755);
    world::write(
        "/run/flux/j",
        &String::from_utf8(input(&ALICE.signs("{}"))).expect("UTF-8"),
        0o644,
    );
    let mut command = FLUX.command(IMP);
    command.args(["exec", PROBE, JOB]).stdin(fs::File::open("/run/flux/j").expect("j"));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("flux-imp");
    until("the shell runs", || fs::metadata("/home/alice/mark").is_ok_and(|mark| mark.len() > 0));
    child
}

/// What alice has written.
///
/// # Panics
/// When she has written nothing.
#[must_use]
pub fn marked() -> String {
    fs::read_to_string("/home/alice/mark").expect("a mark").trim().to_string()
}

/// Whether there is such a process, and it has not ended.
#[must_use]
pub fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
