"""Live keys that need several users, nodes or the privileged launcher: each is reloaded, and its
effect is seen. The others are in crates/bin/flux/tests/live_keys.rs, which counts both.

Claims, as in checks.py; KEYS says which keys a claim is about.
"""

import contextlib

from checks import claim, free, need, submit
from machines import until

KEYS = [
    "access.allow-guest-user", "access.allow-root-owner", "access.private-mode",
    "exec.imp", "exec.lost-node-grace",
    "prolog.command", "prolog.per-rank", "resource.exclude",
    "tbon.torpid_max", "tbon.torpid_min",
]


@contextlib.contextmanager
def reloaded(cluster, text, name="zz.toml"):
    """With this file in the configuration directory of the leader; without it afterwards."""
    leader = cluster[1]
    path = leader.path(f"/etc/flux/system/conf.d/{name}")
    old = path.read_text() if path.exists() else None
    path.write_text(text)
    try:
        leader.out("systemctl reload flux")
        yield
    finally:
        if old is None:
            path.unlink()
        else:
            path.write_text(old)
        leader.out("systemctl reload flux")


def soon(condition, text):
    need(until(condition, 15), text)


@claim
def access_follows_a_reload(cluster):
    leader, node = cluster[1], cluster[3]
    job = cluster[2].out("flux submit -N1 sleep 1000", "bob")
    access = "[access]\nallow-guest-user = true\nallow-root-owner = {}\n{}"
    # Root on a node that is not the leader.
    drain = "flux resource drain node2 x && flux resource undrain node2"
    node.out(drain)
    try:
        with reloaded(cluster, access.format("false", "private-mode = true\n"), "access.toml"):
            soon(lambda: node.sh(drain)[0] != 0, "root is still the owner")
            soon(lambda: not node.out("flux jobs -Ano {id}", "alice"), "alice sees the job of bob")
            need(node.out("flux jobs -Ano {id}", "bob") == job, "bob does not see his own")
            # systemctl reload asks as root, so the owner has to.
            leader.path("/etc/flux/system/conf.d/access.toml").write_text(access.format("true", ""))
            leader.out("flux config reload", "flux")
            soon(lambda: node.out("flux jobs -Ano {id}", "alice") == job, "alice sees nothing")
    finally:
        leader.sh("flux config reload", "flux")
        leader.out(f"flux cancel {job}")


@claim
def who_may_submit_follows_a_reload(cluster):
    node = cluster[2]
    for key, user in (("allow-user", "alice"), ("allow-group", "alice")):
        with reloaded(cluster, f"[policy.access]\n{key} = [ '{user}' ]\n"):
            soon(lambda: node.sh("flux run true", "bob")[0] != 0, f"{key}: bob may still submit")
            node.out("flux run true", "alice")
        queue = (f"[queues.q]\n[queues.q.policy.access]\n{key} = [ '{user}' ]\n"
                 "[policy.jobspec.defaults.system]\nqueue = 'q'\n")
        with reloaded(cluster, queue):
            cluster[1].out("flux queue start --all --quiet")
            soon(lambda: node.sh("flux run true", "bob")[0] != 0, f"queue {key}: bob may submit")
            node.out("flux run true", "alice")
    soon(lambda: node.sh("flux run true", "bob")[0] == 0, "bob may not submit again")


@claim
def excluded_nodes_and_the_launcher_follow_a_reload(cluster):
    resource = "[resource]\npath = '/etc/flux/system/R'\nexclude = '{}'\n"
    for text, wanted in (("node[1-2]", "node[3-4]"), ("0,3", "node[2-3]")):
        with reloaded(cluster, resource.format(text), "resource.toml"):
            soon(lambda: free(cluster) == wanted, f"exclude = {text}: {free(cluster)} are free")
    soon(lambda: free(cluster) == "node[2-4]", f"{free(cluster)} are free")
    with reloaded(cluster, "[exec]\nimp = '/usr/libexec/flux/flux-none'\n", "exec.toml"):
        soon(lambda: cluster[2].sh("flux run true", "alice")[0] != 0, "the launcher is still used")
    cluster[2].out("flux run true", "alice")


@claim
def a_prolog_is_turned_on_and_off_by_a_reload(cluster):
    for machine in cluster.machines[1:4]:
        script = machine.path("/etc/flux/system/prolog")
        script.write_text("#!/bin/sh\necho $FLUX_JOB_USERID $(id -un) >>/root/marks\n")
        script.chmod(0o755)
        machine.sh("rm -f /root/marks")
    with reloaded(cluster, "[prolog]\n"):
        cluster[2].out("flux run -N3 true", "alice")
        for machine in cluster.machines[1:4]:
            need(machine.out("cat /root/marks; rm /root/marks") == "1001 root", f"{machine}")
    with reloaded(cluster, "[prolog]\nper-rank = false\ncommand = ['touch', '/var/lib/flux/mark']\n"):
        cluster[2].out("flux run -N3 true", "alice")
        cluster[1].out("rm /var/lib/flux/mark")
    cluster[2].out("flux run -N3 true", "alice")
    for machine in cluster.machines[:4]:
        need(machine.sh("ls /root/marks /var/lib/flux/mark")[1] == "", f"{machine}: it ran again")


@claim
def the_grace_of_lost_nodes_follows_a_reload(cluster):
    # The time that a job waits for its node is that of the last reload.
    with reloaded(cluster, "[exec]\nimp = '/usr/libexec/flux/flux-imp'\nlost-node-grace = '1s'\n",
                  "exec.toml"):
        job = submit(cluster, "-N3 sleep 1000")
        cluster[1].out(f"flux job wait-event -t 20 {job} start")
        cluster[4].out("systemctl stop flux")
        try:
            cluster[1].out(f"flux job wait-event -t 8 {job} exception")
        finally:
            cluster[4].out("systemctl start flux")
        cluster[1].sh(f"flux job wait-event -t 60 {job} clean")
