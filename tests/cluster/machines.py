"""Machines for the cluster test: systemd-nspawn containers that boot like computers.

Each has systemd, dbus, journald, munged and sshd, a disk of its own (an overlay on one image, which
is built once), a host name and an address on a switch that leads nowhere else. They share what the
nodes of a site share: users, /home, the munge key, root's ssh key and /etc/hosts. Faults: the power
cord, a cut between two machines, frozen processes, a disk that is full.

Everything carries the name of this cluster (network namespaces, cgroups, mounts), and is found by
it: no process that was not started here is ever signalled.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

HOME = Path(os.environ.get("FLUX_CLUSTER_DIR", "/var/tmp/ferroflux-cluster"))
# Clusters of different names can be up at once; they share the image.
NAME = os.environ.get("FLUX_CLUSTER_NAME", "node")
# The distribution of the nodes: a suite of Debian, or of Ubuntu with its mirror.
SUITE = os.environ.get("FLUX_CLUSTER_SUITE", "bookworm")
MIRROR = os.environ.get("FLUX_CLUSTER_MIRROR", "http://deb.debian.org/debian")
COMPONENTS = "main,universe" if "ubuntu" in MIRROR else "main"
TOOLS = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "ip": "iproute2",
         "nsenter": "util-linux", "nft": "nftables"}

PACKAGES = """systemd systemd-sysv dbus libpam-systemd iproute2 iputils-ping munge sudo procps
    util-linux openssh-server python3-minimal man-db rpm""".split()

# A bare Debian becomes the node of a site: its users, its keys, nothing that only makes noise.
CUSTOMIZE = """
set -eu
useradd --uid 1001 --user-group --create-home --shell /bin/bash alice
useradd --uid 1002 --user-group --create-home --shell /bin/bash bob
systemctl --quiet mask console-getty.service getty@tty1.service e2scrub_reap.service \\
    systemd-pstore.service remote-fs.target apt-daily.timer apt-daily-upgrade.timer \\
    dpkg-db-backup.timer e2scrub_all.timer fstrim.timer man-db.timer
systemctl --quiet enable munge.service ssh.service
sed -i 's/^hosts:.*/hosts: files/' /etc/nsswitch.conf
mkdir -p /var/log/journal /root/.ssh
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
echo 'StrictHostKeyChecking no' > /root/.ssh/config
echo 'LogLevel ERROR' >> /root/.ssh/config
rm -rf /etc/munge/munge.key /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
: > /etc/machine-id
"""

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}


class Fail(Exception):
    """Something to show without a traceback."""


class NoImage(Fail):
    """The image cannot be built: no mirror, most likely."""


def run(*argv, input=None, check=True, **options):
    argv = [str(arg) for arg in argv]
    done = subprocess.run(argv, input=input, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace",
                          stdin=subprocess.DEVNULL if input is None else None, **options)
    if check and done.returncode:
        raise Fail(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stdout.strip()}")
    return done.stdout


def ip(netns, script):
    run("ip", "-netns", netns, "-batch", "-", input=script)


def until(condition, seconds, interval=0.05):
    """Polls a condition: its value, or a false one when the time is over."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(interval)


def parallel(function, items):
    items = list(items)
    results, errors = [None] * len(items), []

    def work(index, item):
        try:
            results[index] = function(item)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=each, daemon=True) for each in enumerate(items)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def obstacle():
    """Why this host cannot run a cluster, or None."""
    if os.geteuid():
        return "only root can boot containers"
    missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if missing:
        return f"missing: apt-get install {' '.join(missing)}"
    if not any(line.split(" - ")[1].startswith("cgroup2 ")
               for line in Path("/proc/self/mountinfo").read_text().splitlines()):
        return "no cgroup2 file system is mounted"
    probe = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--net", "true"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return "this host allows no new namespaces" if probe.returncode else None


def mounts():
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ")
        yield Path(re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), left.split()[4])), right.split()


def unmount_below(directory):
    for point, _ in reversed(list(mounts())):
        if directory == point or directory in point.parents:
            run("umount", "--lazy", point)


@contextlib.contextmanager
def lock(name):
    HOME.mkdir(parents=True, exist_ok=True)
    with open(HOME / f".{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def image():
    """The image, built when it is not there: a minute or two, once."""
    recipe = hashlib.sha256(f"{SUITE} {PACKAGES} {CUSTOMIZE}".encode()).hexdigest()[:12]
    ready, log = HOME / f"image-{recipe}", HOME / f"image-{recipe}.log"
    with lock("image"):
        if ready.exists():
            return ready
        print(f"building the image of the nodes (once; log: {log})", flush=True)
        partial = HOME / f"image-{recipe}.partial"
        unmount_below(partial)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with open(log, "w") as output:
                for argv, text in (
                    (["debootstrap", "--variant=minbase", f"--components={COMPONENTS}",
                      f"--include={','.join(PACKAGES)}", SUITE, partial, MIRROR], ""),
                    (["chroot", partial, "/bin/sh"], CUSTOMIZE),
                ):
                    done = subprocess.run(argv, input=text, text=True, stdout=output,
                                          stderr=subprocess.STDOUT, env=ENVIRONMENT)
                    if done.returncode:
                        tail = "\n".join(log.read_text().splitlines()[-15:])
                        raise NoImage(f"{argv[0]}: exit status {done.returncode}; "
                                      f"the log ends:\n{tail}")
            partial.rename(ready)
        finally:
            unmount_below(partial)
            shutil.rmtree(partial, ignore_errors=True)
    return ready


class Group:
    """A cgroup that holds all processes of a machine, in cgroup2 and in systemd's hierarchy."""

    def __init__(self, path):
        v2 = [point for point, right in mounts() if right[0] == "cgroup2"][0]
        named = [point for point, right in mounts()
                 if right[0] == "cgroup" and "name=systemd" in right[2].split(",")]
        self.dir = v2 / path
        self.dirs = [self.dir, *(point / path for point in named)]
        self.top = v2

    def create(self):
        for directory in self.dirs:
            directory.mkdir(parents=True, exist_ok=True)
        for parent in reversed(self.dir.parents):
            if self.top == parent or self.top in parent.parents:
                for controller in (self.top / "cgroup.controllers").read_text().split():
                    with contextlib.suppress(OSError):
                        (parent / "cgroup.subtree_control").write_text(f"+{controller}")

    def pids(self):
        for directory, _, _ in os.walk(self.dir):
            with contextlib.suppress(OSError):
                yield from map(int, (Path(directory) / "cgroup.procs").read_text().split())

    def event(self, name):
        with contextlib.suppress(FileNotFoundError):
            return f"{name} 1" in (self.dir / "cgroup.events").read_text()
        return False

    def populated(self):
        return self.event("populated")

    def freeze(self, frozen):
        if self.dir.exists():
            (self.dir / "cgroup.freeze").write_text("1" if frozen else "0")
            until(lambda: self.event("frozen") == frozen, 5)

    def kill(self):
        if self.dir.exists():
            (self.dir / "cgroup.kill").write_text("1")
            if not until(lambda: not self.populated(), 30):
                raise Fail(f"processes in {self.dir} do not die")

    def remove(self):
        for top in self.dirs:
            for directory, _, _ in os.walk(top, topdown=False):
                until(lambda: _rmdir(directory), 5)

    def wrap(self, argv):
        """argv as a member of the group, or of the nearest one above it that exists."""
        enter = ('while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs"; shift; done; '
                 'shift; exec "$@"')
        dirs = [next(d for d in (each, *each.parents) if d.is_dir()) for each in self.dirs]
        return ["/bin/sh", "-c", enter, "sh", *map(str, dirs), "--", *map(str, argv)]


def _rmdir(directory):
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


class Machine:
    """One computer."""

    def __init__(self, cluster, number):
        self.cluster, self.number = cluster, number
        self.name = f"{cluster.prefix}{number}"
        self.address = f"10.78.0.{number}"
        self.netns = f"{cluster.tag}-{self.name}"
        self.dir = cluster.dir / self.name
        self.root = self.dir / "root"
        self.console = self.dir / "console.log"
        path = f"{cluster.tag}/{self.name}"
        self.group = Group(path)
        self.power = Group(f"{path}/power")
        self.payload = Group(f"{path}/machine")
        self.commands = Group(f"{path}/machine/payload/init.scope")

    def __repr__(self):
        return self.name

    # -- disk

    def prepare(self, key, hosts):
        for part in ("upper", "work", "root"):
            (self.dir / part).mkdir(parents=True, exist_ok=True)
        (self.dir / "upper").chmod(0o755)
        layers = f"lowerdir={self.cluster.image},upperdir={self.dir}/upper,workdir={self.dir}/work"
        run("mount", "-t", "overlay", "-o", layers, self.netns, self.root)
        run("mount", "--make-shared", self.root)
        etc = self.root / "etc"
        identity = hashlib.md5(self.netns.encode()).hexdigest()
        for file, text in {"hostname": f"{self.name}\n", "hosts": hosts, "resolv.conf": "",
                           "machine-id": identity + "\n"}.items():
            (etc / file).unlink(missing_ok=True)
            (etc / file).write_text(text)
        munge = etc / "munge/munge.key"
        munge.touch(0o400)
        munge.write_bytes(key)
        owner = munge.parent.stat()
        os.chown(munge, owner.st_uid, owner.st_gid)

    def path(self, path):
        """A file of the machine, as this host sees it."""
        return self.root / path.lstrip("/")

    # -- network

    def attach(self):
        self.detach()
        n, switch = self.number, self.cluster.switch
        run("ip", "netns", "add", self.netns)
        ip(switch, f"""
            link add p{n} type veth peer name eth0 netns {self.netns}
            link set p{n} master br0 up""")
        ip(self.netns, f"""
            link set lo up
            link set eth0 address 02:46:46:00:00:{n:02x} up
            address add {self.address}/24 dev eth0""")

    def detach(self):
        run("ip", "-netns", self.cluster.switch, "link", "del", f"p{self.number}", check=False)
        if self.netns in _netns():
            run("ip", "netns", "del", self.netns)

    # -- power

    def running(self):
        return self.group.populated()

    def leader(self):
        """This host's pid of the machine's PID 1."""
        for pid in self.group.pids():
            with contextlib.suppress(OSError):
                if re.search(r"^NSpid:\s+\d+\s+1$", Path(f"/proc/{pid}/status").read_text(), re.M):
                    return pid

    def power_on(self):
        self.attach()
        self.group.remove()
        self.power.create()
        self.payload.create()
        argv = ["systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--settings=no",
                "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=read-only",
                f"--machine={self.netns}", f"--hostname={self.name}",
                f"--directory={self.root}", f"--network-namespace-path=/run/netns/{self.netns}",
                "--kill-signal=SIGRTMIN+3", "--capability=CAP_NET_ADMIN,CAP_IPC_LOCK,CAP_BPF",
                f"--bind={self.cluster.dir}/home:/home",
                f"--bind-ro={self.cluster.packages}:/packages", "--boot"]
        if self.cluster.others:
            argv.insert(1, f"--bind-ro={self.cluster.others}:/others")
        env = dict(os.environ, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="1", SYSTEMD_SECCOMP="0")
        # nspawn ends with status 133 when the machine wants to be rebooted.
        loop = ["/bin/sh", "-c", 'while "$@"; [ $? = 133 ]; do :; done', "sh"]
        with open(self.console, "a") as console:
            subprocess.Popen(self.power.wrap([*loop, *self.payload.wrap(argv)]), env=env,
                             start_new_session=True, stdin=subprocess.DEVNULL, stdout=console,
                             stderr=console)

    def wait_booted(self, seconds=120, after=None):
        end = time.monotonic() + seconds
        until(self.running, 5)
        while time.monotonic() < end:
            leader = self.leader()
            if leader and leader != after and self.commands.dir.is_dir():
                argv = self.inside(["systemctl", "is-system-running", "--wait"])
                with contextlib.suppress(subprocess.TimeoutExpired):
                    state = run(*argv, check=False, env=ENVIRONMENT,
                                timeout=end - time.monotonic()).strip()
                    if state in ("running", "degraded"):
                        return
            elif not self.running():
                break
            time.sleep(0.05)
        last = self.console.read_text(errors="replace").splitlines()[-15:]
        raise Fail(f"{self.name} has not booted; its console said:\n" + "\n".join(last))

    def boot(self):
        self.power_on()
        self.wait_booted()

    def reboot(self):
        leader = self.signal(signal.SIGRTMIN + 5)
        self.wait_booted(240, leader)

    def signal(self, number):
        leader = self.leader()
        if not leader:
            raise Fail(f"{self.name} is off")
        os.kill(leader, number)
        return leader

    def power_off(self):
        """Clean shutdown."""
        self.signal(signal.SIGRTMIN + 4)
        if not until(lambda: not self.running(), 180):
            raise Fail(f"{self.name} has not shut down")
        self.detach()

    def power_cut(self):
        """The cord: no packet leaves any more, not even of dying processes."""
        self.group.freeze(True)
        self.detach()
        with contextlib.suppress(Fail):
            self.signal(signal.SIGKILL)
        self.group.freeze(False)
        if not until(lambda: not self.running(), 10):
            self.group.kill()

    def pause(self):
        self.payload.freeze(True)

    def resume(self):
        self.payload.freeze(False)

    # -- commands

    def inside(self, command, user="root"):
        leader = self.leader()
        if not (leader and self.commands.dir.is_dir()):
            raise Fail(f"{self.name} is off")
        enter = ["nsenter", f"--target={leader}", "--mount", "--uts", "--ipc", "--net", "--pid",
                 "--cgroup", "--root", "--wd"]
        uid, gid, home, shell = self.account(user)
        there = home if os.path.isdir(f"/proc/{leader}/root{home}") else "/"
        become = ["env", "-C", there, f"HOME={home}", f"USER={user}", f"LOGNAME={user}",
                  f"SHELL={shell}", "setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups"]
        # Not more privileges than the machine's own root has.
        status = Path(f"/proc/{leader}/status").read_text()
        bounds = int(re.search(r"CapBnd:\s+(\w+)", status)[1], 16)
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        drop = ",".join(f"-cap_{n}" for n in range(last + 1) if not bounds >> n & 1)
        limit = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"] if drop else []
        return self.commands.wrap([*enter, *limit, *become, *command])

    def account(self, user):
        for line in (self.root / "etc/passwd").read_text().splitlines():
            fields = line.split(":")
            if fields[0] == user:
                return fields[2], fields[3], fields[5], fields[6]
        raise Fail(f"{self.name} has no user {user}")

    def sh(self, script, user="root", timeout=120):
        """Runs a script: exit status, stdout, stderr."""
        argv = self.inside(["/bin/bash", "-c", script], user)
        try:
            done = subprocess.run(argv, env=ENVIRONMENT, stdin=subprocess.DEVNULL, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, errors="replace",
                                  timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise Fail(f"{user}@{self.name}: {script!r} has not ended after {timeout} s: "
                       f"{error.stdout!r} {error.stderr!r}") from None
        return done.returncode, done.stdout, done.stderr

    def out(self, script, user="root", timeout=120):
        """stdout of a script that must succeed."""
        code, out, err = self.sh(script, user, timeout)
        if code:
            raise Fail(f"{user}@{self.name}: {script!r}: exit status {code}\n{out}{err}".rstrip())
        return out.rstrip("\n")

    def fails(self, script, user="root", saying="", timeout=120):
        """A script that must fail with these words."""
        code, out, err = self.sh(script, user, timeout)
        if code == 0 or saying not in out + err:
            raise Fail(f"{user}@{self.name}: {script!r}: expected a failure with {saying!r}, found "
                       f"exit status {code}\n{out}{err}".rstrip())
        return out + err

    # -- a disk that is full

    def fill(self, path, size="16M"):
        """Makes a directory a small disk, at first, and takes all its space."""
        disk = self.dir / "disks" / path.strip("/").replace("/", "+")
        if not disk.is_dir():
            disk.mkdir(parents=True)
            run("mount", "-t", "tmpfs", "-o", f"size={size}", self.netns, disk)
            run("cp", "-a", self.path(path), disk / "data")
            run("mount", "--bind", disk / "data", self.path(path))
        # Written until no byte fits: what is free changes under a broker that runs.
        with open(disk / "ballast", "wb", buffering=0) as ballast:
            for piece in (bytes(1 << 20), bytes(4096)):
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(piece)

    def unfill(self, path):
        disk = self.dir / "disks" / path.strip("/").replace("/", "+")
        (disk / "ballast").unlink(missing_ok=True)


def _netns():
    with contextlib.suppress(FileNotFoundError):
        return os.listdir("/run/netns")
    return []


class Cluster:
    """Some machines on a switch."""

    def __init__(self, prefix="node", packages="/var/empty", others=None, name=NAME):
        """`packages` and `others` are seen by the machines as /packages and /others."""
        self.prefix, self.packages = prefix, str(packages)
        self.others = others
        self.tag = f"ffx-{name}"
        self.switch = f"{self.tag}-switch"
        self.dir = HOME / name
        self.group = Group(self.tag)
        self.image = None
        self.machines = []
        self.cuts = set()
        self.key = os.urandom(1024)

    def __getitem__(self, number):
        """Machine by its number, from 1."""
        return self.machines[number - 1]

    def create(self, count, spare=0):
        """`count` machines that run, and `spare` ones that are off but in /etc/hosts."""
        self.image = image()
        self.destroy()
        self.dir.mkdir(parents=True)
        shutil.copytree(self.image / "home", self.dir / "home", symlinks=True)
        for home in (self.dir / "home").iterdir():
            like = (self.image / "home" / home.name).stat()
            run("chown", "-R", f"{like.st_uid}:{like.st_gid}", home)
        run("ip", "netns", "add", self.switch)
        ip(self.switch, """
            link set lo up
            link add br0 type bridge stp_state 0 forward_delay 0
            link set br0 up""")
        self.machines = [Machine(self, n + 1) for n in range(count + spare)]
        hosts = "127.0.0.1 localhost\n"
        hosts += "".join(f"{machine.address} {machine.name}\n" for machine in self.machines)
        for machine in self.machines:
            machine.prepare(self.key, hosts)
        allowed = Path("/proc/sys/fs/inotify/max_user_instances")
        if int(allowed.read_text()) < 64 * len(self.machines):
            allowed.write_text(str(64 * len(self.machines)))
        parallel(Machine.boot, self.machines[:count])

    def running(self):
        return [machine for machine in self.machines if machine.running()]

    def cut(self, one, other):
        """The switch drops every frame between two machines; links stay up."""
        self.cuts.add((one.number, other.number))
        self._partition()

    def heal(self):
        self.cuts.clear()
        self._partition()

    def _partition(self):
        script = "add table bridge flux\ndelete table bridge flux\n"
        pairs = [f'"p{a}" . "p{b}"' for x, y in self.cuts for a, b in ((x, y), (y, x))]
        if pairs:
            script += f"""
                table bridge flux {{
                    set cut {{ type ifname . ifname; elements = {{ {', '.join(pairs)} }} }}
                    chain forward {{
                        type filter hook forward priority 0
                        iifname . oifname @cut drop
                    }}
                }}"""
        run("nsenter", f"--net=/run/netns/{self.switch}", "nft", "-f", "-", input=script)

    def destroy(self):
        self.group.kill()
        for netns in _netns():
            if netns == self.switch or netns.startswith(f"{self.tag}-"):
                run("ip", "netns", "del", netns)
        unmount_below(self.dir)
        self.group.remove()
        for left in Path("/run/systemd/nspawn/propagate").glob(f"{self.tag}-*"):
            _rmdir(left)
        shutil.rmtree(self.dir, ignore_errors=True)
        if self.dir.exists():
            raise Fail(f"cannot remove {self.dir}")
