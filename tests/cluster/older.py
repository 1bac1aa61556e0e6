"""The Administrator's Guide of flux-core 0.35.0 (2022), as it is written there: its files, its unit,
its commands and spellings. Claims, as in checks.py."""

import contextlib
import re
import subprocess
import time

from checks import claim, need, timed, wait_status
from machines import parallel, until

FILES = {
    "/etc/flux/security/conf.d/sign.toml": """[sign]
max-ttl = 1209600  # 2 weeks
default-type = "munge"
allowed-types = [ "munge" ]
""",
    "/etc/flux/imp/conf.d/imp.toml": """[exec]
allowed-users = [ "flux" ]
allowed-shells = [ "/usr/libexec/flux/flux-shell" ]
""",
    "/etc/flux/system/conf.d/exec.toml": '[exec]\nimp = "/usr/libexec/flux/flux-imp"\n',
    "/etc/flux/system/conf.d/access.toml":
        "[access]\nallow-guest-user = true\nallow-root-owner = true\n",
    # Twelve of the sixteen hosts do not exist.
    "/etc/flux/system/conf.d/bootstrap.toml": """[bootstrap]
curve_cert = "/etc/flux/system/curve.cert"

default_port = 8050
default_bind = "tcp://eth0:%p"
default_connect = "tcp://%h:%p"

hosts = [
   { host = "node[1-16]" },
]
""",
    # 4 + 3 * 2 = 10 seconds, where the guide has 30 + 12 * 10.
    "/etc/flux/system/conf.d/tbon.toml":
        "[tbon]\nkeepalive_count = 3\nkeepalive_interval = 2\nkeepalive_idle = 4\n",
    "/etc/flux/system/conf.d/resource.toml":
        '[resource]\npath = "/etc/flux/system/R"\nexclude = "node[1,16]"\n',
}

# What the guide points to.
MANUAL = """flux-config flux-config-access flux-config-bootstrap flux-config-tbon flux-config-resource
    flux-config-exec flux-config-job-manager flux-config-archive flux-config-security
    flux-config-security-sign flux-config-security-imp flux-keygen flux-cron flux-jobs""".split()

UNIT = r"""[Service]
ExecStart=
ExecStart=/bin/bash -c '\
  /usr/bin/flux broker \
  --config-path=/etc/flux/system/conf.d \
  -Scron.directory=/etc/flux/system/cron.d \
  -Stbon.fanout=256 \
  -Srundir=/run/flux \
  -Slocal-uri=local:///run/flux/local \
  -Slog-forward-level=7 \
  -Slog-stderr-level=6 \
  -Slog-stderr-mode=local \
  -Scontent.backing-path=/var/lib/flux/content.sqlite \
  -Sbroker.rc2_none \
  -Sbroker.quorum=0 \
  -Sbroker.quorum-timeout=none \
  -Sbroker.exit-norestart=42 \
'
"""


@contextlib.contextmanager
def etc(cluster, files=None, unit=None):
    """All brokers are stopped; other files are there meanwhile."""
    machines = cluster.machines[:4]
    parallel(lambda m: m.out("systemctl stop flux; cp -a /etc/flux /root/etc-flux"), machines)
    try:
        for machine in machines:
            if files is not None:
                machine.out("rm -f /etc/flux/*/conf.d/*.toml")
            for path, text in (files or {}).items():
                machine.path(path).write_text(text)
            if unit:
                machine.out("mkdir -p /etc/systemd/system/flux.service.d")
                machine.path("/etc/systemd/system/flux.service.d/old.conf").write_text(unit)
                machine.out("systemctl daemon-reload")
        yield
    finally:
        parallel(lambda m: m.sh("rm -rf /etc/systemd/system/flux.service.d; "
                                "systemctl daemon-reload; systemctl stop flux; "
                                "rm -rf /etc/flux; mv /root/etc-flux /etc/flux; "
                                "systemctl reset-failed flux; systemctl start flux"), machines)


def all_here(cluster):
    here = {f"node{n}": "full" for n in (2, 3, 4)}
    return wait_status(cluster, here, 30)


@claim
def the_guide_of_2022_works_as_it_is_written(cluster):
    leader = cluster[1]
    with etc(cluster, FILES, UNIT):
        leader.out("flux R encode --hosts='node[1-16]' --cores=0-1 | flux ion-R encode "
                   ">/etc/flux/system/R && grep -q '\"scheduling\"' /etc/flux/system/R")
        leader.out("sudo mkdir -p /var/lib/flux; chown flux /var/lib/flux; chmod 700 /var/lib/flux")
        for page in MANUAL:
            leader.out(f"man -w {page}")
        # Any order, with a tool that reaches all of them.
        leader.out("for n in 4 2 3 1; do ssh node$n sudo systemctl start flux; done")
        all_here(cluster)
        tree = leader.out("flux overlay status")
        need(tree.splitlines()[0] == "0 node1: partial" and
             tree.splitlines()[-1] == "└─ 15 node16: offline", tree)
        need(leader.out("flux resource list -no '{state} {nodelist}'").splitlines() ==
             ["free node[2-4]", "allocated ", "down node[5-15]"], leader.out("flux resource list"))
        told = leader.out("flux resource status -s all -no {nodelist}")
        need(told.split() == ["node[1-16]"], told)
        need(cluster[2].out("flux run -N3 id -un", "alice") == "alice\nalice\nalice", "run")
        told = leader.out("ss -tnoi state established '( sport = :8050 )'")
        need(told.count("timer:(") >= 3, told)
        files = [machine.sh("ls /var/lib/flux")[1].split() for machine in cluster.machines[:4]]
        need("content.sqlite" in files[0] and not any("content.sqlite" in each for each in files[1:]),
             f"files: {files}")
        for node, port in ((1, "8050"), (2, ""), (3, "")):
            shown = cluster[node].out("ss -Hltn | grep -o ':8050' || true")
            need(shown == (f":{port}" if port else ""), f"node{node} listens: {shown}")
        journal_of_the_guide(cluster)
        commands_of_the_guide(cluster)
        start = time.monotonic()
        cluster.cut(cluster[1], cluster[4])
        wait_status(cluster, {"node4": "lost", "node1": "degraded"}, 40)
        seen = timed("keepalives of 4 + 3 * 2 s: cut to lost", time.monotonic() - start)
        need(7 < seen < 16, f"seen after {seen:.1f} s, configured were 10 s")
        leader.fails("flux ping --count=1 3", saying="No route to host")
        cluster.heal()
        all_here(cluster)
    return f"12 of 16 hosts do not exist; 10 s of keepalives: seen after {seen:.1f} s"


def journal_of_the_guide(cluster):
    """start, parent-ready, rc1-success, quorum-full; and the log of all at rank 0."""
    lines = cluster[3].out("journalctl -u flux -o cat -n 30")
    found = re.findall(r"broker\.info\[2\]: ([a-z0-9-]+): ([a-z-]+)->([a-z-]+) ([0-9.e-]+)(?:s|ms|m)", lines)
    last = [each[0] for each in found][-6:]
    need([each for each in last if each in ("start", "parent-ready", "rc1-success", "quorum-full")] ==
         ["start", "parent-ready", "rc1-success", "quorum-full"], lines)
    cluster[1].out("flux exec -r 3 flux logger hi from node4")
    need(until(lambda: "logger.info[3]: hi from node4" in cluster[1].out("flux dmesg | tail"), 10),
         cluster[1].out("flux dmesg | tail"))
    cluster[2].out("flux run -n1 --requires=host:node2 true", "alice")
    log = cluster[1].out("flux dmesg")
    need(re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z sched\.debug\[0\]: alloc: ƒ\w+: "
                   r"rank1/core0$", log, re.M), log)
    need(re.search(r"sched\.debug\[0\]: req: ƒ\w+: spec=\{\d,\d,\d\} duration=", log), log)
    need(re.search(r"sched\.debug\[0\]: free: ƒ\w+: rank1/core0", log), log)


def commands_of_the_guide(cluster):
    leader, alice = cluster[1], cluster[2]
    leader.out("sudo flux resource drain node4 node is fubar")
    need(re.search(r"node is fubar\s+node4$", leader.out("sudo flux resource drain"), re.M), "drain")
    leader.out("sudo flux resource undrain node4")
    need(len(leader.out("sudo flux resource drain").splitlines()) == 1, "undrain")
    need("rank[1-3]/core[0-1]" in leader.out("flux resource list -v"), "list -v")
    jobs = alice.out("for i in 1 2; do flux submit --urgency=hold sleep 1000; done", "alice").split()
    leader.out(f"flux job urgency {jobs[0]} EXPEDITE && flux job wait-event -t 20 {jobs[0]} start")
    need(leader.out(f"flux jobs -no {{priority}} {jobs[0]}") == "4294967295", "EXPEDITE")
    leader.out(f"flux job urgency {jobs[1]} HOLD")
    told = leader.sh("flux queue status -v")[1]
    for word in ("Job submission is enabled", "0 alloc requests pending", "1 running jobs"):
        need(word in told, told)
    leader.out(f"flux job cancel {jobs[0]} && flux job wait-event -t 20 {jobs[0]} clean")
    told = "".join(leader.sh("flux job cancelall --user=all")[1:])
    need("matched 1 job" in told and "-f to confirm" in told, told)
    need(leader.out(f"flux jobs -no {{state}} {jobs[1]}") == "SCHED", "canceled by a dry run")
    told = "".join(leader.sh("flux job cancelall -f -S pending --user=all")[1:])
    need("Canceled 1 job" in told, told)
    need(leader.out("flux overlay status -r 2") == "2 node3: full", "overlay status -r")
    leader.out("flux ping --count=1 2")
    need(leader.out("flux overlay parentof 2") == "0", "parentof")
    leader.out("flux overlay disconnect 2")
    all_here(cluster)


# Frames on the switch, for as long as stdin is open: how many of the port, whether a word is among
# them, and who speaks with whom.
SNIFF = """
import select, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
print("ready", flush=True)
word, frames, found, pairs = sys.argv[1].encode(), 0, False, set()
while True:
    ready = select.select([s, sys.stdin], [], [])[0]
    if s in ready:
        f = s.recv(65536)
        if f[12:14] == b"\\x08\\x00" and (8050 in (int.from_bytes(f[34:36], "big"), int.from_bytes(f[36:38], "big"))):
            frames += 1; found |= word in f; pairs.add(tuple(sorted((f[29], f[33]))))
    elif sys.stdin in ready:
        break
print(frames, found, sorted(pairs))
"""


@claim
def nothing_between_nodes_is_in_the_clear(cluster):
    word = "Zwiebelkuchen"
    sniffer = subprocess.Popen(["nsenter", f"--net=/run/netns/{cluster.switch}", "python3", "-c", SNIFF,
                                word], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    need(sniffer.stdout.readline() == "ready\n", "the sniffer does not start")
    told = cluster[2].out(f"flux run -N3 echo {word}", "alice")
    cluster[1].out(f"flux kvs put test.word={word}")
    cluster[4].out("flux kvs get test.word")
    out, _ = sniffer.communicate("", timeout=30)
    frames, found, pairs = out.split(maxsplit=2)
    need(told.split() == [word] * 3, told)
    need(int(frames) > 20 and found == "False", f"{frames} frames; the word is in them: {found}")
    # Parent and child only.
    need(pairs.strip() == "[(1, 2), (1, 3), (1, 4)]", pairs)
    cluster[1].out("flux kvs unlink test.word")
    return f"{frames} frames"


@claim
def a_user_runs_an_instance_of_a_private_build(cluster):
    node = cluster[2]
    others = node.sh("ls /others/ferroflux_*.deb")[1].split()
    if not others:
        return "NOT CHECKED: no package of another version (--others)"
    # The versions of brokers of one instance must be neighbours; those of nested ones need not.
    for package in others:
        version = package.split("_")[1]
        node.out(f"rm -rf own && dpkg -x {package} own", "alice")
        told = node.out("flux run -N2 -n2 own/usr/bin/flux start sh -c 'own/usr/bin/flux version; "
                        "own/usr/bin/flux run -N2 -n2 own/usr/bin/flux getattr size'", "alice")
        need(re.search(rf"commands:\s+{re.escape(version)}$", told, re.M), told)
        need(told.split()[-2:] == ["2", "2"], told)
    node.out("rm -rf own", "alice")
    return ", ".join(package.split("_")[1] for package in others)


@claim
def scripts_of_the_site_run_when_a_broker_starts_and_ends(cluster):
    machines = cluster.machines[:4]
    for machine in machines:
        machine.out("mkdir -p /etc/flux/rc1.d /etc/flux/rc3.d; install -d -o flux /run/marks")
        for stage in ("rc1", "rc3"):
            script = machine.path(f"/etc/flux/{stage}.d/50-mark")
            # They run in the instances of users, too, who have marks of their own, or none.
            script.write_text(f"#!/bin/sh\necho {stage} on $(hostname)\n"
                              f"test -w /run/marks || exit 0\n"
                              f"echo {stage} $(flux getattr rank) $(id -un) >>/run/marks/{stage}\n")
            script.chmod(0o755)
    try:
        parallel(lambda m: m.out("systemctl restart flux"), machines)
        wait_status(cluster, {"node1": "full"}, 60)
        parallel(lambda m: m.out("systemctl restart flux"), machines)
        wait_status(cluster, {"node1": "full"}, 60)
        for rank, machine in enumerate(machines):
            need(machine.out("cat /run/marks/rc1") == f"rc1 {rank} flux\nrc1 {rank} flux",
                 f"{machine}: {machine.out('cat /run/marks/*')}")
            need(machine.out("cat /run/marks/rc3") == f"rc3 {rank} flux",
                 f"{machine}: {machine.out('cat /run/marks/*')}")
            log = machine.out("journalctl -u flux -o cat -n 60")
            need(re.search(rf"broker\.info\[{rank}\]: rc1\.0: running /etc/flux/rc1\.d/50-mark\n"
                           rf"broker\.info\[{rank}\]: rc1\.0: rc1 on {machine}\n"
                           rf"broker\.info\[{rank}\]: rc1\.0: /etc/flux/rc1\.d/50-mark Exited "
                           r"\(rc=0\) [0-9.]+m?s", log), log)
        need(cluster[2].out("flux alloc -N2 flux getattr size", "alice") == "2", "alloc")
    finally:
        parallel(lambda m: m.sh("rm -rf /etc/flux/rc1.d /etc/flux/rc3.d /run/marks"), machines)


@claim
def housekeeping_goes_on_when_the_leader_is_killed(cluster):
    leader = cluster[1]
    for machine in cluster.machines[1:4]:
        machine.out("rm -f /run/tidy; cp /etc/flux/imp/conf.d/imp.toml /root/imp.toml")
        script = machine.path("/etc/flux/system/housekeeping")
        script.write_text("#!/bin/sh\nuntil [ -e /run/tidy ]; do sleep 0.1; done\n"
                          "echo $FLUX_JOB_USERID >>/run/tidied\n")
        script.chmod(0o755)
        imp = machine.path("/etc/flux/imp/conf.d/imp.toml")
        if "[run.housekeeping]" not in imp.read_text():
            with open(imp, "a") as file:
                file.write('\n[run.housekeeping]\nallowed-users = [ "flux" ]\n'
                           'path = "/usr/libexec/flux/flux-run-housekeeping"\n')
    path = leader.path("/etc/flux/system/conf.d/zz.toml")
    path.write_text("[job-manager.housekeeping]\n")
    try:
        leader.out("flux config reload")
        cluster[2].out("flux run -N2 --requires=host:node[3,4] true", "alice")
        need(until(lambda: "node[3-4]" in leader.out("flux housekeeping list"), 10),
             leader.out("flux housekeeping list"))
        leader.out("systemctl kill -s KILL --kill-whom=main flux")
        need(until(lambda: leader.sh("flux getattr rank")[0] == 0, 60), "no answer")
        wait_status(cluster, {"node1": "full"}, 60)
        need(until(lambda: "node[3-4]" in leader.sh("flux housekeeping list")[1], 10),
             "forgotten: " + "".join(leader.sh("flux housekeeping list")[1:]))
        need(leader.out("flux resource list -s allocated -no {nodelist}") == "node[3-4]",
             "its nodes are given to others: " + leader.out("flux resource list"))
        parallel(lambda m: m.out("touch /run/tidy"), cluster.machines[1:4])
        need(until(lambda: leader.sh("flux resource list -s free -no {nodelist}")[1].strip() ==
                   "node[2-4]", 30), "not given back: " + leader.out("flux housekeeping list"))
        for machine in cluster.machines[2:4]:
            need("1001" in machine.out("cat /run/tidied").split(), f"{machine}: not tidied")
    finally:
        path.unlink()
        parallel(lambda m: m.sh("touch /run/tidy; rm -f /etc/flux/system/housekeeping /run/tidied; "
                                "cp /root/imp.toml /etc/flux/imp/conf.d/imp.toml"),
                 cluster.machines[1:4])
        leader.sh("flux config reload")


@claim
def an_instance_of_one_node_grows_while_its_job_runs(cluster):
    leader = cluster[1]
    files = {path: text for path, text in FILES.items()}
    boot = "/etc/flux/system/conf.d/bootstrap.toml"
    resource = "/etc/flux/system/conf.d/resource.toml"
    files[boot] = files[boot].replace("node[1-16]", "node1")
    files[resource] = '[resource]\npath = "/etc/flux/system/R"\n'
    with etc(cluster, files):
        leader.out("flux R encode --hosts=node1 --cores=0-1 >/etc/flux/system/R; systemctl start flux")
        need(until(lambda: leader.sh("flux resource list -s free -no {nodelist}")[1].strip() ==
                   "node1", 20), "node1 is not free")
        job = leader.out("flux submit -n1 sleep 4321", "alice")
        leader.out(f"flux job wait-event -t 20 {job} start")
        before = leader.out("systemctl show -P MainPID flux; pgrep -f 'sleep [4]321'")
        for machine in cluster.machines[:4]:
            machine.path(boot).write_text(files[boot].replace("node1", "node[1-4]"))
        start = time.monotonic()
        leader.out("flux R encode --hosts='node[1-4]' --cores=0-1 >/etc/flux/system/R; "
                   "flux config reload")
        parallel(lambda m: m.out("systemctl start flux"), cluster.machines[1:4])
        wait_status(cluster, {"node1": "full", "node4": "full"}, 30)
        took = timed("one node becomes four, while its job runs", time.monotonic() - start)
        need(cluster[4].out("flux run -N4 -n4 hostname | sort", "bob").split() ==
             [f"node{n}" for n in (1, 2, 3, 4)], "run")
        need(leader.out("systemctl show -P MainPID flux; pgrep -f 'sleep [4]321'") == before,
             "a process is another")
        leader.out(f"flux cancel {job}; flux job wait-event -t 20 {job} clean")
    return f"four nodes {took:.1f} s after the reload"
