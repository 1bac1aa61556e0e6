//! The users of the world.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};

use flux_model::sign::{self, Mechanism};

/// Somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: &'static str,
    /// User and group id.
    pub id: u32,
}

/// The administrator.
pub const ROOT: User = User { name: "root", id: 0 };
/// The owner of the system instance.
pub const FLUX: User = User { name: "flux", id: 64_500 };
/// A guest, also in the group physics.
pub const ALICE: User = User { name: "alice", id: 65_001 };
/// Another guest.
pub const BOB: User = User { name: "bob", id: 65_002 };
/// Somebody who wishes no good.
pub const MALLORY: User = User { name: "mallory", id: 65_003 };

/// Id of the group physics.
pub const PHYSICS: u32 = 65_100;

/// Text of a finished command.
#[derive(Debug, Clone)]
pub struct Said {
    /// Whether it exited with 0.
    pub success: bool,
    /// Exit code, if it has one.
    pub code: Option<i32>,
    /// Signal it died of.
    pub signal: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        Self {
            success: output.status.success(),
            code: output.status.code(),
            signal: output.status.signal(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl User {
    /// A command of this user, with a small environment.
    #[must_use]
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .uid(self.id)
            .gid(self.id)
            .env_clear()
            .env("PATH", "/usr/libexec/flux/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", format!("/home/{}", self.name))
            .env("USER", self.name)
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command with this input to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run_with(self, words: &[&str], input: &[u8], env: &[(&str, &str)]) -> Said {
        let mut command = self.command(words[0]);
        command.args(&words[1..]).envs(env.iter().copied());
        finish(command, input)
    }

    /// Runs a command to its end.
    pub fn run(self, words: &[&str]) -> Said {
        self.run_with(words, b"", &[])
    }

    /// Runs a command, as root in the groups of this user, that shall succeed; gives its output.
    ///
    /// # Panics
    /// When it fails.
    pub fn output(self, words: &[&str]) -> String {
        let said = self.run(words);
        assert!(said.success, "{words:?}: {said:?}");
        said.out
    }

    /// A credential of this user over a text, as `munge` makes it.
    ///
    /// # Panics
    /// When MUNGE does not answer.
    #[must_use]
    pub fn credential(self, signed: &str, socket: &str) -> String {
        let words = ["munge", "--socket", socket];
        let said = self.run_with(&words, &sign::munge_payload(signed), &[]);
        assert!(said.success, "{said:?}");
        said.out.trim().to_string()
    }

    /// A request that this user has signed, whoever it claims to be.
    #[must_use]
    pub fn signs_as(self, claimed: u32, payload: &str) -> String {
        let text = sign::unsigned(payload.as_bytes(), claimed, Mechanism::Munge);
        let credential = self.credential(&text, crate::world::MUNGE_SOCKET);
        format!("{text}.{credential}")
    }

    /// A request that this user has signed.
    #[must_use]
    pub fn signs(self, payload: &str) -> String {
        self.signs_as(self.id, payload)
    }
}

/// Runs a command with this input to its end.
///
/// # Panics
/// When it cannot be started.
pub fn finish(mut command: Command, input: &[u8]) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child: Child = command.spawn().expect("the program can be started");
    let stdin = child.stdin.take();
    let input = input.to_vec();
    // It may end without reading.
    let writer = std::thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(&input)));
    let output = child.wait_with_output().expect("a child can be waited for");
    drop(writer.join());
    output.into()
}
