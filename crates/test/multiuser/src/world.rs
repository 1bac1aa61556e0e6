//! Files, users and daemons of the world.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::until;
use crate::user::{ALICE, BOB, FLUX, MALLORY, PHYSICS, ROOT, User};

/// Where munged listens, as the library expects it.
pub const MUNGE_SOCKET: &str = "/run/munge/munge.socket.2";
/// The program under attack.
pub const IMP: &str = "/usr/libexec/flux/flux-imp";
/// A job shell that tells what it was given.
pub const PROBE: &str = "/usr/libexec/flux/probe";
/// The job shell.
pub const SHELL: &str = "/usr/libexec/flux/flux-shell";
/// The `flux` program.
pub const PROGRAM: &str = "/usr/libexec/flux/bin/flux";
/// A program that is run as root.
pub const PROLOG: &str = "/etc/flux/system/prolog";

const MUNGE: User = User { name: "munge", id: 64_400 };

const PROBE_TEXT: &str = "#!/bin/sh
echo uid $(id -u) gid $(id -g) groups $(id -G)
echo args $0 $*
echo pwd $(pwd) umask $(umask) core $(ulimit -c)
for fd in /proc/$$/fd/*; do echo fd $(readlink $fd); done
grep -E '^Sig(Blk|Ign)' /proc/self/status
env | sed 's/^/env /'
echo stdin $(cat)
";

/// The world of one test. When it goes, its daemons go.
#[derive(Debug)]
pub struct World {
    daemons: Vec<Child>,
}

impl Drop for World {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            drop(daemon.kill());
            drop(daemon.wait());
        }
    }
}

/// A program that was built beside this test.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its file");
    let path = test.parent().and_then(Path::parent).expect("target/debug/deps").join(name);
    assert!(path.exists(), "{}: cargo build -p flux -p flux-imp", path.display());
    path
}

fn tmpfs(at: &str) {
    let options = Some("mode=755");
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), options)
        .unwrap_or_else(|error| panic!("{at}: {error}"));
}

/// Writes a file of root.
pub fn write(path: &str, text: &str, mode: u32) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    self::mode(path, mode);
}

/// Sets a mode.
pub fn mode(path: &str, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Makes a directory of somebody.
pub fn directory(path: &str, user: User, mode: u32) {
    fs::create_dir_all(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    self::mode(path, mode);
    own(path, user);
}

/// Gives a file to somebody.
pub fn own(path: &str, user: User) {
    chown(path, Some(user.id), Some(user.id)).unwrap_or_else(|error| panic!("{path}: {error}"));
}

impl World {
    /// Enters a world without MUNGE running.
    ///
    /// # Panics
    /// Without root, or where namespaces are not allowed.
    #[must_use]
    pub fn without_munge() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let (imp, flux) = (built("flux-imp"), built("flux"));
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
        let kept: Vec<(&str, Option<Vec<u8>>)> = ["/etc/ld.so.cache", "/etc/localtime"]
            .into_iter()
            .map(|path| (path, fs::read(path).ok()))
            .collect();
        for path in ["/etc", "/run", "/home", "/usr/libexec", "/var/lib"] {
            tmpfs(path);
        }
        for (path, content) in kept {
            if let Some(content) = content {
                fs::write(path, content).expect("a copy");
            }
        }
        let users = [ROOT, MUNGE, FLUX, ALICE, BOB, MALLORY];
        let mut passwd = String::new();
        let mut group = format!("physics:x:{PHYSICS}:alice\n");
        for user in users {
            let home = format!("/home/{}", user.name);
            passwd += &format!("{0}:x:{1}:{1}::{home}:/bin/sh\n", user.name, user.id);
            group += &format!("{}:x:{}:\n", user.name, user.id);
            directory(&home, user, 0o700);
        }
        write("/etc/passwd", &passwd, 0o644);
        write("/etc/group", &group, 0o644);
        write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n", 0o644);
        write("/etc/hosts", "127.0.0.1 localhost\n", 0o644);
        directory("/run/munge", MUNGE, 0o755);
        directory("/run/flux", FLUX, 0o755);
        for path in [
            "/etc/flux",
            "/etc/flux/system",
            "/etc/flux/system/conf.d",
            "/etc/flux/security",
            "/etc/flux/security/conf.d",
            "/etc/flux/imp",
            "/etc/flux/imp/conf.d",
            "/usr/libexec/flux",
            "/usr/libexec/flux/bin",
        ] {
            directory(path, ROOT, 0o755);
        }
        fs::copy(imp, IMP).expect("flux-imp");
        mode(IMP, 0o4755);
        for path in [SHELL, PROGRAM] {
            fs::write(path, "").expect("a place for the program");
            mount(Some(&flux), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .expect("the program in its place");
        }
        write(PROBE, PROBE_TEXT, 0o755);
        write(PROLOG, "#!/bin/sh\nid -u\nenv | sort\necho stdin $(cat)\n", 0o755);
        sign_conf("max-ttl = 1209600\ndefault-type = \"munge\"\nallowed-types = [ \"munge\" ]");
        imp_conf("");
        Self { daemons: Vec::new() }
    }

    /// Enters a world.
    ///
    /// # Panics
    /// As [`World::without_munge`], or MUNGE does not start.
    #[must_use]
    pub fn enter() -> Self {
        let mut world = Self::without_munge();
        world.munged(MUNGE_SOCKET, "/run/munge");
        world
    }

    /// Starts a munged with a key of its own.
    ///
    /// # Panics
    /// When it does not start.
    pub fn munged(&mut self, socket: &str, directory: &str) {
        let key = format!("{directory}/key");
        let mut bytes = vec![0; 64];
        for chunk in bytes.chunks_mut(32) {
            rustix::rand::getrandom(chunk, rustix::rand::GetRandomFlags::empty()).expect("random");
        }
        fs::write(&key, bytes).expect("a key");
        own(&key, MUNGE);
        mode(&key, 0o400);
        let daemon = Command::new("munged")
            .arg("--foreground")
            .arg(format!("--socket={socket}"))
            .arg(format!("--key-file={key}"))
            .arg(format!("--pid-file={directory}/pid"))
            .arg(format!("--log-file={directory}/log"))
            .arg(format!("--seed-file={directory}/seed"))
            .uid(MUNGE.id)
            .gid(MUNGE.id)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("munged is installed");
        self.daemons.push(daemon);
        until("munged answers", || ROOT.run(&["munge", "--no-input", "--socket", socket]).success);
    }

    /// A directory in which munged keeps its files.
    pub fn munge_directory(&self, path: &str) {
        directory(path, MUNGE, 0o755);
    }
}

/// Kills every other process of this world: those that see its files.
pub fn end_all() {
    let world = fs::read_link("/proc/thread-self/ns/mnt").ok();
    let own = std::process::id();
    let inside =
        |pid: &u32| *pid != own && fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() == world;
    if world.is_none() || world == fs::read_link("/proc/1/ns/mnt").ok() {
        return;
    }
    for _ in 0..10 {
        let Ok(entries) = fs::read_dir("/proc") else { return };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        for pid in pids.filter(inside) {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            let _ =
                pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
    }
}

/// Writes `[sign]`.
pub fn sign_conf(text: &str) {
    write("/etc/flux/security/conf.d/sign.toml", &format!("[sign]\n{text}\n"), 0o644);
}

/// Writes the configuration of the IMP, with more text behind.
pub fn imp_conf(more: &str) {
    let text = format!(
        "[exec]\nallowed-users = [ \"flux\" ]\nallowed-shells = [ \"{PROBE}\", \"{SHELL}\" ]\n\
         [run.prolog]\nallowed-users = [ \"flux\" ]\npath = \"{PROLOG}\"\n{more}\n"
    );
    write("/etc/flux/imp/conf.d/imp.toml", &text, 0o644);
}
