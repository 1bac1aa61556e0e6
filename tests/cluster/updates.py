"""Updates: brokers of neighbouring versions run together, and jobs go on while they change.

Claims, as in checks.py. They need packages of other versions, made by `packaging/build --version`:
one whose minor number is the next, and one that is too far away.
"""

from pathlib import Path

from checks import claim, need, status, wait_status
from faults import finish, pids, start_many, still_run
from machines import until


def versions(directory):
    """Version: path of the package in the machines, in order."""
    found = {}
    for file in Path(directory).glob("ferroflux_*.deb"):
        version = tuple(map(int, file.name.split("_")[1].split(".")))
        found[version] = file.name
    return dict(sorted(found.items()))


def dotted(version):
    return ".".join(map(str, version))


def install(machine, package, version):
    machine.out(f"dpkg -i {package} && systemctl restart flux")
    need(machine.out("flux version | sed -n 's/commands:[[:space:]]*//p'") == dotted(version),
         f"{machine}: {machine.out('flux version')}")


def others(cluster):
    own = next(iter(versions(cluster.packages)))
    all_others = versions(cluster.others) if cluster.others else {}
    near = [v for v in all_others if v[0] == own[0] and v[1] == own[1] + 1]
    far = [v for v in all_others if v[0] != own[0] or abs(v[1] - own[1]) > 1]
    return own, near[-1:], far[-1:], all_others


@claim
def brokers_of_neighbouring_versions_run_together_while_jobs_run(cluster):
    own, near, _, names = others(cluster)
    if not near:
        return "NOT CHECKED: no package of the next version (--others)"
    near = near[0]
    ids = start_many(cluster, 4)
    before = pids(cluster)
    before_ids = cluster[1].out("flux jobs -ano {id.dec}")
    kernel = {}
    # Leaves first and the leader last; then back, the leader first.
    steps = [(n, near, f"/others/{names[near]}") for n in (4, 3, 2, 1)]
    steps += [(n, own, "/packages/ferroflux_*.deb") for n in (1, 2, 3, 4)]
    try:
        for number, version, package in steps:
            machine = cluster[number]
            install(machine, package, version)
            kernel[number] = version
            wait_status(cluster, {"node1": "full"}, 90)
            still_run(cluster, 4, before)
            # Both ways through the mixture: commands, a job from and on every version.
            told = machine.out("flux jobs -ano {id.dec}")
            need(set(before_ids.split()) <= set(told.split()), f"{machine}: jobs are missing: {told}")
            for node in (2, 4):
                need(cluster[node].out(f"flux run -n1 id -un", "alice") == "alice", f"node{node}")
            need(len(machine.out("cd / && flux exec -r all flux getattr rank").split()) == 4,
                 f"{machine}: exec does not reach all")
        finish(cluster, ids)
    finally:
        for number, version in kernel.items():
            if version != own:
                cluster[number].sh("dpkg -i /packages/ferroflux_*.deb; systemctl restart flux")
    return f"{dotted(own)} to {dotted(near)} and back, node by node; pids unchanged"


@claim
def a_version_that_is_too_far_away_is_refused_and_said_on_both_sides(cluster):
    own, _, far, names = others(cluster)
    if not far:
        return "NOT CHECKED: no package of a version that is too far away (--others)"
    far = far[0]
    node = cluster[4]
    try:
        node.out("journalctl --rotate -q; journalctl --vacuum-time=1s -q")
        node.out(f"dpkg -i /others/{names[far]} && systemctl restart flux")
        words = f"node4 (rank 3) has version {dotted(far)} and its parent node1 (rank 0) {dotted(own)}"
        for machine in (cluster[1], node):
            said = until(lambda: words in machine.out("journalctl -u flux -o cat -n 60"), 30)
            need(said, f"{machine} does not say {words!r}:\n"
                 + machine.out("journalctl -u flux -o cat -n 12"))
        need(status(cluster).get("node4") == "offline", "it is in")
        need(words in cluster[1].out("flux overlay errors"), cluster[1].out("flux overlay errors"))
    finally:
        node.out("dpkg -i /packages/ferroflux_*.deb; systemctl restart flux")
    wait_status(cluster, {"node1": "full"}, 60)
