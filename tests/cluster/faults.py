"""What happens to a site: power, network, disks, hangs; and that jobs live through it.

Claims, as in checks.py, with the times that they took.
"""

import contextlib
import time
from pathlib import Path

import guide
from checks import claim, free, need, status, submit, timed, wait_status
from machines import parallel, until

ROOT = Path(__file__).resolve().parents[2]

# Marks the output with the process, so that a job that ran twice would be seen.
JOB = "sh -c 'echo $$; while [ ! -e /home/go ]; do sleep 0.2; done; echo end $$'"


@contextlib.contextmanager
def room_for(cluster, count):
    """For this many jobs of one core, whatever the hardware is."""
    leader = cluster[1]
    cores = -(-count // 3)
    text = leader.path("/etc/flux/system/R").read_text()
    path = leader.path("/etc/flux/system/conf.d/resource.toml")
    config = path.read_text()
    try:
        leader.out(f"flux R encode --hosts='node[1-4]' --cores=0-{cores - 1} >/etc/flux/system/R")
        path.write_text(config.replace("[resource]\n", "[resource]\nnoverify = true\n"))
        restart_leader(cluster)
        yield
    finally:
        if not leader.running():
            leader.boot()
        leader.path("/etc/flux/system/R").write_text(text)
        path.write_text(config)
        restart_leader(cluster)


def restart_leader(cluster):
    kill_broker(cluster[1])
    need(until(lambda: cluster[1].sh("flux getattr rank")[0] == 0, 60), "the leader does not answer")
    wait_status(cluster, {"node1": "full"}, 90)


def start_many(cluster, count):
    """Jobs of alice and bob on one core each; ids."""
    cluster[1].out("rm -f /home/go")
    ids = []
    for user in ("alice", "bob"):
        out = cluster[2].out(f"flux submit --cc=1-{count // 2} --output=/home/{user}/out-{{{{id}}}} "
                             f"-n1 {JOB}", user)
        ids += out.split()
    if not until(lambda: running(cluster) == count, 30):
        need(False, "the jobs do not start:\n" + cluster[1].sh("flux jobs -aA | head")[1])
    # A job runs when its shells do; its tasks come a moment later.
    need(until(lambda: sum(map(len, pids(cluster))) == count, 20), f"tasks: {pids(cluster)}")
    return ids


def running(cluster):
    out = cluster[1].sh("flux jobs -A -f running -no {id}")[1].split()
    return len(out)


def pids(cluster):
    """Processes of the tasks, by machine."""
    return [sorted(machine.sh("pgrep -f 'e /home/[g]o'")[1].split())
            for machine in cluster.machines[1:4]]


def still_run(cluster, count, before):
    if not until(lambda: running(cluster) == count, 15):
        need(False, "not all jobs run:\n" + cluster[1].sh("flux jobs -aA | head")[1])
    need(pids(cluster) == before, f"processes changed: {before} {pids(cluster)}")


def finish(cluster, ids):
    """Lets the jobs end, and looks whether each ended well, once."""
    cluster[1].out("touch /home/go")
    if cluster[1].sh("flux queue drain --timeout=60s", timeout=90)[0]:
        need(False, "jobs do not end:\n" + cluster[1].sh("flux jobs -A")[1])
    for user in ("alice", "bob"):
        # Beside what the shells say of their brokers, each file has two lines.
        bad = cluster[1].sh(f"for f in /home/{user}/out-*; do "
                            "[ $(grep -c end $f) = 1 ] && [ $(grep -vc flux-shell $f) = 2 ] || echo $f; done")[1]
        need(not bad.strip(), f"{user}: output is lost or doubled: {bad}")
        cluster[1].out(f"rm -f /home/{user}/out-*")
    cluster[1].out("rm -f /home/go")
    for job in ids:
        told = cluster[1].out(f"flux jobs -no {{result}} {job}")
        need(told == "COMPLETED", f"{job}: {told}")


def kill_broker(machine):
    machine.out("systemctl kill -s KILL --kill-whom=main flux")


@claim
def twenty_jobs_go_on_while_the_leaders_node_loses_its_power(cluster):
    with room_for(cluster, 20):
        ids = start_many(cluster, 20)
        before = pids(cluster)
        cluster[1].power_cut()
        # Long enough for the others to notice.
        need(until(lambda: cluster[2].sh("journalctl -u flux -o cat -n 5 | grep -q lost")[0] == 0
                   or cluster[2].sh("flux overlay status --timeout=1s")[0] != 0, 60), "not noticed")
        began = time.monotonic()
        cluster[1].boot()
        start = time.monotonic()
        need(until(lambda: cluster[1].sh("flux getattr rank")[0] == 0, 60), "no answer")
        wait_status(cluster, {"node1": "full"}, 90)
        online = timed("boot of the leader's node (done) to all nodes back", time.monotonic() - start)
        timed("power on of the leader's node to all nodes back", time.monotonic() - began)
        still_run(cluster, 20, before)
        timed("power on of the leader's node to 20 jobs known to run", time.monotonic() - began)
        finish(cluster, ids)
    return f"all nodes back {online:.1f} s after the leader had booted; 20 pids unchanged"


@claim
def jobs_go_on_while_every_broker_is_restarted(cluster):
    ids = start_many(cluster, 6)
    before = pids(cluster)
    for again in (kill_broker, lambda machine: machine.out("systemctl restart flux")):
        start = time.monotonic()
        for machine in cluster.machines[:4]:
            again(machine)
            need(until(lambda: machine.sh("systemctl is-active flux")[1].strip() == "active", 30),
                 f"{machine}: it is not started again")
            wait_status(cluster, {"node1": "full"}, 60)
        how = "killed" if again is kill_broker else "restarted"
        timed(f"every broker {how} in turn, to all online", time.monotonic() - start)
        still_run(cluster, 6, before)
    # The others have waited for the leader where they were.
    brokers = [machine.out("pgrep -o flux-broker") for machine in cluster.machines[1:4]]
    cluster[1].out("systemctl restart flux")
    wait_status(cluster, {"node1": "full"}, 60)
    need(brokers == [machine.out("pgrep -o flux-broker") for machine in cluster.machines[1:4]],
         "a restart of the leader has restarted others")
    still_run(cluster, 6, before)
    finish(cluster, ids)


@claim
def a_stop_of_the_leader_ends_jobs_and_brokers_and_the_queue_stays(cluster):
    start_many(cluster, 6)
    held = cluster[2].out("flux submit --urgency=hold -n1 true", "alice").strip()
    brokers = [machine.out("pgrep -o flux-broker") for machine in cluster.machines[1:4]]
    start = time.monotonic()
    cluster[1].out("systemctl stop flux", timeout=100)
    took = timed("stop of the leader with 6 jobs", time.monotonic() - start)
    need(not any(pids(cluster)), f"processes of jobs are left: {pids(cluster)}")
    need(cluster[1].out("systemctl show flux -P Result") == "success", "it has failed")
    for machine, pid in zip(cluster.machines[1:4], brokers):
        back = until(lambda: "Joining" in machine.out("systemctl show flux -P StatusText"), 30)
        need(back and machine.out("pgrep -o flux-broker") != pid, f"{machine} does not wait anew")
    cluster[1].out("systemctl start flux")
    wait_status(cluster, {"node1": "full"}, 60)
    need(cluster[1].out("flux jobs -Ano {status}").split() == ["SCHED"], "the queue is another")
    last = cluster[1].out("flux jobs -aA -c 7 -no {status}").split()
    need(last.count("CANCELED") == 6, f"the jobs are {last}")
    cluster[1].out(f"flux cancel {held}; rm -f /home/alice/out-* /home/bob/out-*")
    return f"stopped in {took:.1f} s"


@claim
def a_shutdown_that_keeps_jobs_keeps_them(cluster):
    ids = start_many(cluster, 6)
    before = pids(cluster)
    cluster[1].out("flux shutdown --keep-jobs", timeout=100)
    need(until(lambda: cluster[1].sh("systemctl is-active flux")[1].strip() == "inactive", 30),
         "it was started again")
    need(pids(cluster) == before, f"processes changed: {before} {pids(cluster)}")
    cluster[1].out("systemctl start flux")
    wait_status(cluster, {"node1": "full"}, 60)
    still_run(cluster, 6, before)
    finish(cluster, ids)


@claim
def a_node_that_is_cut_off_comes_back_when_the_network_heals(cluster):
    start = time.monotonic()
    cluster.cut(cluster[1], cluster[3])
    wait_status(cluster, {"node3": "lost"}, 60)
    seen = timed("cut of the network to lost", time.monotonic() - start)
    # A minute, so that nobody waits any more in the end.
    until(lambda: time.monotonic() - start > 60, 61, 1)
    cluster.heal()
    start = time.monotonic()
    wait_status(cluster, {"node1": "full"}, 60)
    back = timed("network heals (after a minute) to online", time.monotonic() - start)
    need(until(lambda: free(cluster) == "node[2-4]", 20), "it is not used again")
    return f"seen after {seen:.1f} s, back {back:.1f} s after it healed"


@claim
def a_full_disk_of_the_leader_stops_nothing_for_good(cluster):
    leader = cluster[1]
    leader.out("systemctl stop flux")
    leader.fill("/var/lib/flux", "24M")
    leader.unfill("/var/lib/flux")
    leader.out("systemctl start flux")
    wait_status(cluster, {"node1": "full"}, 60)
    job = submit(cluster, "-N1 sleep 1000")
    leader.out(f"flux job wait-event -t 20 {job} start")
    leader.fill("/var/lib/flux")
    refused = until(lambda: leader.sh("flux submit -N1 true", "flux", timeout=30)[0] != 0, 60)
    need(refused, "jobs are accepted although nothing can be stored")
    need(leader.sh("systemctl is-active flux")[0] == 0, "the leader is down")
    need(leader.sh(f"flux jobs -no {{state}} {job}")[1].strip() == "RUN", "the job does not run on")
    start = time.monotonic()
    leader.unfill("/var/lib/flux")
    need(until(lambda: leader.sh("flux submit -N1 true", "flux", timeout=30)[0] == 0, 60),
         "jobs are refused although there is room")
    took = timed("room on the leader's disk to jobs accepted", time.monotonic() - start)
    leader.out(f"flux cancel {job}")
    return f"jobs are accepted {took:.1f} s after there is room"


@claim
def a_broker_that_hangs_gets_no_jobs_until_it_goes_on(cluster):
    cluster[1].path("/etc/flux/system/conf.d/zz.toml").write_text(
        "[tbon]\ntorpid_min = '1s'\ntorpid_max = '3s'\n")
    cluster[1].out("flux config reload")
    try:
        start = time.monotonic()
        cluster[2].out("systemctl kill -s STOP --kill-whom=main flux")
        need(until(lambda: free(cluster) == "node[3-4]", 30), "it is still used")
        seen = timed("a broker hangs to no jobs for it (torpid_max 3 s)", time.monotonic() - start)
        cluster[2].out("systemctl kill -s CONT --kill-whom=main flux")
        need(until(lambda: free(cluster) == "node[2-4]", 30), "it is not used again")
    finally:
        cluster[2].sh("systemctl kill -s CONT --kill-whom=main flux")
        cluster[1].out("rm /etc/flux/system/conf.d/zz.toml; flux config reload")
    return f"seen after {seen:.1f} s with torpid_max = 3s, set while it ran"


@claim
def a_clean_reboot_of_a_node_leaves_no_job_behind(cluster):
    job = submit(cluster, "-N3 sleep 1000")
    cluster[1].out(f"flux job wait-event -t 20 {job} start")
    cluster[3].reboot()
    wait_status(cluster, {"node1": "full"}, 90)
    cluster[1].sh(f"flux cancel {job}")
    start = time.monotonic()
    cluster[1].out(f"flux job wait-event -t 60 {job} clean")
    need(cluster[3].sh("pgrep -x sleep")[0] == 1, "a process of the job is left")
    took = timed("clean reboot of a node: cancel to clean", time.monotonic() - start)
    return f"clean {took:.1f} s after the cancel"


@claim
def a_fifth_node_is_added_and_taken_away_while_jobs_run(cluster):
    ids = start_many(cluster, 4)
    before = pids(cluster)
    new = cluster[5]
    new.boot()
    new.out("useradd --system --uid 990 --user-group --home-dir /var/lib/flux --no-create-home "
            "--shell /usr/sbin/nologin flux && dpkg -i /packages/ferroflux_*.deb")
    brokers = [machine.out("systemctl show -P MainPID flux") for machine in cluster.machines[:4]]
    text = (ROOT / "docs/admin-guide.md").read_text()
    steps = next(steps for _, steps in guide.parse(text) if guide.needs_more(steps))
    down = next(at for at, step in enumerate(steps) if "drain" in step.text)
    try:
        start = time.monotonic()
        for step in steps[:down]:
            guide.run_step(cluster, step, lambda text: None)
        took = timed("a fifth node: first edit to all five online", time.monotonic() - start)
        need(status(cluster).get("node5") == "full", f"node5: {status(cluster)}")
        need(until(lambda: free(cluster).endswith("5]"), 30), "it is not used: " + free(cluster))
        cluster[2].out("flux run -N1 --requires=hosts:node5 true", "alice")
        still_run(cluster, 4, before)
        wrong = cluster[1].sh("cd /etc/flux/system/conf.d && cp bootstrap.toml /tmp && "
                              "sed -i 's/node.1-5./node[1,3-5]/' bootstrap.toml && "
                              "flux config reload; code=$?; mv /tmp/bootstrap.toml .; exit $code")
        # R names node2, too: whichever is read first says so.
        told = ("rank 1 is node2 and would become node3", "host 'node2': not in the host list")
        need(wrong[0] != 0 and any(text in wrong[2] for text in told), str(wrong))
        for step in steps[down:]:
            guide.run_step(cluster, step, lambda text: None)
    finally:
        new.power_off()
    wait_status(cluster, {"node1": "full"}, 90)
    need("node5" not in status(cluster), "node5 is still there")
    still_run(cluster, 4, before)
    finish(cluster, ids)
    now = [machine.out("systemctl show -P MainPID flux") for machine in cluster.machines[:4]]
    need(now == brokers, f"brokers were restarted: {brokers} {now}")
    return f"five nodes {took:.1f} s after the first edit; no broker was restarted, jobs went on"
