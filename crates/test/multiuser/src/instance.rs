//! A system instance of one node, owned by the user flux.

use std::fs;
use std::process::{Child, Stdio};

use crate::user::{FLUX, Said, User};
use crate::world::{self, IMP, PROGRAM, SHELL};
use crate::{World, until};

/// How clients find it.
pub const URI: &str = "local:///run/flux/local";

/// Where it keeps its state.
pub const STATEDIR: &str = "/var/lib/flux";

/// A running instance; it ends with this.
#[derive(Debug)]
pub struct Instance {
    broker: Child,
    files: Option<u32>,
    /// The world it runs in.
    pub world: World,
}

impl Drop for Instance {
    fn drop(&mut self) {
        let pid = self.broker.id().to_string();
        FLUX.run(&["kill", "-TERM", &pid]);
        drop(self.broker.wait());
        // Where a test has failed its jobs run on, as they would.
        world::end_all();
    }
}

/// Writes the configuration of the instance.
pub fn configure(access: &str) {
    let text = format!(
        "[access]\n{access}\n[exec]\nimp = \"{IMP}\"\njob-shell = \"{SHELL}\"\nkill-timeout = \"0.2s\"\n"
    );
    world::write("/etc/flux/system/conf.d/system.toml", &text, 0o644);
}

fn broker(files: Option<u32>) -> Child {
    let log = fs::File::options().create(true).append(true).open("/run/broker.log");
    let mut command = match files {
        None => FLUX.command(PROGRAM),
        Some(files) => {
            let mut command = FLUX.command("prlimit");
            command.arg(format!("--nofile={files}")).arg(PROGRAM);
            command
        }
    };
    command
        .args(["broker", "--config-path=/etc/flux/system/conf.d"])
        .args(["-Srundir=/run/flux", "-Sbroker.rc2_none=1"])
        .arg(format!("-Sstatedir={STATEDIR}"))
        .arg(format!("-Slocal-uri={URI}"))
        .stdout(Stdio::null())
        .stderr(log.expect("a log"));
    command.spawn().expect("the broker can be started")
}

impl Instance {
    /// Starts an instance with these lines in `[access]`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(access: &str) -> Self {
        let world = World::enter();
        world::directory(STATEDIR, FLUX, 0o700);
        configure(access);
        Self::boot(world)
    }

    /// Starts a broker in a world that is ready.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn boot(world: World) -> Self {
        Self::boot_with(world, None)
    }

    /// Starts an instance whose broker may have so many descriptors.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_with_files(access: &str, files: u32) -> Self {
        let world = World::enter();
        world::directory(STATEDIR, FLUX, 0o700);
        configure(access);
        Self::boot_with(world, Some(files))
    }

    fn boot_with(world: World, files: Option<u32>) -> Self {
        let instance = Self { broker: broker(files), files, world };
        instance.wait();
        instance
    }

    /// Kills the broker without a warning, and starts another.
    ///
    /// # Panics
    /// When that does not come up.
    pub fn crash(&mut self) {
        drop(self.broker.kill());
        drop(self.broker.wait());
        self.broker = broker(self.files);
        self.wait();
    }

    fn wait(&self) {
        until("the instance runs", || {
            let said = self.flux(FLUX, &["uptime"]);
            said.success && said.out.contains(" run ")
        });
    }

    /// Process id of the broker.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.broker.id()
    }

    /// Runs `flux` for a user.
    pub fn flux(&self, user: User, words: &[&str]) -> Said {
        let mut all = vec![PROGRAM];
        all.extend(words);
        user.run_with(&all, b"", &[("FLUX_URI", URI)])
    }

    /// Runs `flux` for a user; it shall succeed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ok(&self, user: User, words: &[&str]) -> String {
        let said = self.flux(user, words);
        let log = || fs::read_to_string("/run/broker.log").unwrap_or_default();
        assert!(said.success, "{}: {words:?}: {said:?}\n{}", user.name, log());
        said.out.trim().to_string()
    }

    /// What the broker has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string("/run/broker.log").unwrap_or_default()
    }
}
