"""Job shells as units of systemd (exec.service = "sdexec"). Claims, as in checks.py."""

import contextlib
import re

from checks import claim, need, submit, wait_status
from faults import finish, kill_broker, pids, start_many, still_run
from machines import parallel, until

CONFIG = "/etc/flux/system/conf.d/zz-units.toml"


@contextlib.contextmanager
def units(cluster, more=""):
    """Shells are started as units meanwhile."""
    path = cluster[1].path(CONFIG)
    parallel(lambda machine: machine.out("systemctl start flux-jobs"), cluster.machines[:4])
    try:
        path.write_text(f'[exec]\nservice = "sdexec"\n{more}')
        cluster[1].out("flux config reload")
        yield
    finally:
        path.unlink(missing_ok=True)
        cluster[1].sh("flux config reload; flux cancel --user=all --quiet; flux queue drain --timeout=30s")


def shells(machine):
    """Units of shells on a machine that run."""
    return machine.sh("find /sys/fs/cgroup/system.slice/flux-jobs.service -name 'shell-*.service' "
                      "-printf '%f\\n' 2>/dev/null")[1].split()


def controllers(machine):
    return machine.out("cat /sys/fs/cgroup/system.slice/flux-jobs.service/cgroup.controllers").split()


def left(cluster):
    """Units that are on record anywhere, also of shells that have ended."""
    owner = "sudo -u flux env XDG_RUNTIME_DIR=/run/flux-jobs systemctl --user"
    found = [machine.out(f"{owner} list-units --all --plain --no-legend 'shell-*'; "
                         "ls /var/lib/flux/jobs/*/units 2>/dev/null | grep -vx lock || true")
             for machine in cluster.machines[:4]]
    return [text for text in found if text.strip()]


@claim
def each_job_has_a_unit_that_is_confined_to_its_cores(cluster):
    with units(cluster):
        script = "grep ^0:: /proc/self/cgroup; grep Cpus_allowed_list /proc/self/status; id -un"
        out = cluster[2].out(f"flux run -N1 -n1 -c1 sh -c '{script}'", "alice")
        need(re.search(r"0::/system.slice/flux-jobs.service/jobs.slice/shell-\d+-f\w+\.service", out)
             and re.search(r"Cpus_allowed_list:\s+[01]$", out, re.M) and "alice" in out, out)
        # Two jobs of one core each on one node have one each.
        jobs = [cluster[2].out("flux submit --requires=host:node3 -n1 -c1 sleep 1000", user).strip()
                for user in ("alice", "bob")]
        for job in jobs:
            cluster[1].out(f"flux job wait-event -t 20 {job} start")
        allowed = "for p in $(pgrep -x sleep); do grep Cpus_allowed_list /proc/$p/status; done"
        need(until(lambda: sorted(re.findall(r"\d$", cluster[3].sh(allowed)[1], re.M)) == ["0", "1"],
                   10), cluster[3].sh(allowed)[1])
        need(len(shells(cluster[3])) == 2, f"units: {shells(cluster[3])}")
        need("sleep 1000" in cluster[3].out("systemctl status flux-jobs"), "it is not shown there")
        if "cpuset" in controllers(cluster[3]):
            cluster[3].fails("taskset -pc 0-1 $(pgrep -x sleep | head -1) && "
                             "grep Cpus_allowed_list:.*0-1 /proc/$(pgrep -x sleep | head -1)/status")
        for job in jobs:
            cluster[1].out(f"flux cancel {job}; flux job wait-event -t 30 {job} clean")
        need(until(lambda: not left(cluster), 10), f"something is left: {left(cluster)}")
    return f"controllers: {' '.join(controllers(cluster[3])) or 'none'}"


@claim
def tasks_may_open_what_their_user_may_or_the_unit_gives_and_brokers_more(cluster):
    soft = cluster[2].out("systemctl show flux -P LimitNOFILESoft")
    # A container may have less than the unit allows.
    files = "awk '/Max open files/ {print $4, $5}' /proc/$(systemctl show flux -P MainPID)/limits"
    broker, hard = cluster[2].out(files).split()
    need(broker == hard and int(soft) < int(hard), f"the broker has {broker}, jobs {soft}")
    # What the user had goes with the request, unless that is not wanted.
    script = ("ulimit -Sn 300; for rule in '*' '-*'; do "
              "flux run -N1 --rlimit=$rule sh -c 'ulimit -Sn; ulimit -Hn'; done")
    told = [cluster[2].out(script, user).split() for user in ("alice", "flux")]
    with units(cluster):
        told += [cluster[2].out(script, user).split() for user in ("alice", "flux")]
    need(told == [["300", hard, soft, hard]] * 4, f"{told}")


@claim
def nothing_is_left_of_a_unit_and_its_status_is_the_jobs(cluster):
    with units(cluster):
        quiet = "</dev/null >/dev/null 2>&1"
        escape = (f"setsid sleep 4321 {quiet} & trap \"\" TERM HUP; setsid sleep 4321 {quiet} & "
                  "exit 3")
        job = cluster[2].out(f"flux submit -N1 -n1 sh -c '{escape}'", "bob").strip()
        code, out, err = cluster[2].sh(f"flux job attach {job}", "bob", timeout=60)
        need(code == 3, f"status {code} {out} {err}")
        cluster[1].out(f"flux job wait-event -t 30 {job} clean")
        for machine in cluster.machines[1:4]:
            need(machine.sh("pgrep -f 'sleep [4]321'")[0] == 1, f"{machine}: a process is left")
        job = submit(cluster, "-N3 sh -c 'trap \"\" TERM; sleep 4321 & wait; sleep 4321'")
        cluster[1].out(f"flux job wait-event -t 20 {job} start")
        cluster[1].out(f"flux cancel {job}; flux job wait-event -t 60 {job} clean")
        for machine in cluster.machines[1:4]:
            need(machine.sh("pgrep -f 'sleep [4]321'")[0] == 1, f"{machine}: a process is left")
        need(until(lambda: not left(cluster), 10), f"something is left: {left(cluster)}")


@claim
def units_go_on_while_every_broker_is_killed_and_restarted(cluster):
    with units(cluster):
        ids = start_many(cluster, 6)
        before = pids(cluster)
        need(sum(len(shells(machine)) for machine in cluster.machines[1:4]) == 6, "not all are units")
        for again in (kill_broker, lambda machine: machine.out("systemctl restart flux")):
            for machine in cluster.machines[:4]:
                again(machine)
                need(until(lambda: machine.sh("systemctl is-active flux")[1].strip() == "active", 30),
                     f"{machine}: it is not started again")
                wait_status(cluster, {"node1": "full"}, 60)
            still_run(cluster, 6, before)
        finish(cluster, ids)
        need(until(lambda: not left(cluster), 10), f"something is left: {left(cluster)}")


@claim
def a_unit_that_ends_while_its_broker_is_away_has_its_status(cluster):
    with units(cluster):
        job = cluster[2].out("flux submit --requires=host:node3 -n1 sh -c "
                             "'while [ ! -e /home/go ]; do sleep 0.1; done; exit 5'", "alice").strip()
        cluster[1].out(f"rm -f /home/go; flux job wait-event -t 20 {job} start")
        cluster[3].out("systemctl stop flux; touch /home/go")
        need(until(lambda: cluster[3].sh("pgrep -f 'e /home/[g]o'")[0] == 1, 5), "it does not end")
        cluster[3].out("systemctl start flux")
        cluster[1].out(f"flux job wait-event -t 60 {job} clean; rm -f /home/go")
        told = cluster[1].out(f"flux jobs -no '{{result}} {{returncode}}' {job}")
        need(told.split() == ["FAILED", "5"], told)


@claim
def the_last_words_of_a_shell_are_told_though_no_broker_ran(cluster):
    shell = "/usr/local/lib/flux-last-words"
    text = ("#!/bin/sh\necho first words; echo first words >&2\n"
            "while [ ! -e /home/go ]; do sleep 0.1; done\n"
            "echo last words >&2; echo last words\nexit 3\n")
    for machine in cluster.machines[1:4]:
        machine.path(shell).write_text(text)
        machine.path(shell).chmod(0o755)
    cluster[1].out("rm -f /home/go")
    with units(cluster, f'job-shell = "{shell}"\n'):
        job = cluster[1].out("flux submit --requires=host:node3 -n1 true", "flux").split()[-1]
        log = f"flux job eventlog -p exec {job}"
        need(until(lambda: cluster[1].sh(log)[1].count("first words") == 2, 20), cluster[1].sh(log)[1])
        cluster[3].out("systemctl stop flux; touch /home/go")
        need(until(lambda: cluster[3].sh("pgrep -f 'last-[w]ords'")[0] == 1, 10), "it does not end")
        cluster[3].out("systemctl start flux")
        cluster[1].out(f"flux job wait-event -t 60 {job} clean; rm -f /home/go")
        told = cluster[1].out(log)
        need(told.count("first words") == 2 and told.count("last words") == 2, told)
        need(cluster[1].out(f"flux jobs -no '{{returncode}}' {job}").strip() == "3", "another status")
    need(until(lambda: not left(cluster), 10), f"something is left: {left(cluster)}")


@claim
def a_unit_whose_record_is_lost_ends_and_one_of_the_owner_is_no_stray(cluster):
    with units(cluster):
        lost, kept = [cluster[1].out(f"flux submit --requires=host:node{n} -n1 sleep 4321",
                                     "flux").split()[-1] for n in (3, 4)]
        for job in (lost, kept):
            cluster[1].out(f"flux job wait-event -t 20 {job} start")
        for machine in cluster.machines[2:4]:
            kill_broker(machine)
        cluster[3].out("rm -rf /var/lib/flux/jobs/*/units")
        cluster[1].out(f"flux job wait-event -t 60 {lost} clean")
        need(cluster[3].sh("pgrep -f 'sleep [4]321'")[0] == 1, "a process is left")
        wait_status(cluster, {"node1": "full"}, 60)
        cluster[1].path(CONFIG).unlink()
        cluster[1].out("flux config reload")
        cluster[1].out("flux run --requires=host:node4 true", "flux")
        need(cluster[1].out(f"flux jobs -no {{state}} {kept}") == "RUN", "the other was ended, too")
        need(cluster[4].sh("pgrep -f 'sleep [4]321'")[0] == 0, "its process was ended")
        cluster[1].out(f"flux cancel {kept}; flux job wait-event -t 30 {kept} clean")


@claim
def jobs_of_either_launcher_go_on_when_the_other_is_chosen(cluster):
    first = start_many(cluster, 2)
    with units(cluster):
        second = cluster[2].out("flux submit -n1 --requires=host:node4 sleep 1000", "alice").strip()
        cluster[1].out(f"flux job wait-event -t 20 {second} start")
        before = pids(cluster)
        for machine in cluster.machines[1:4]:
            kill_broker(machine)
        wait_status(cluster, {"node1": "full"}, 60)
        still_run(cluster, 3, before)
        need(shells(cluster[4]), "it is no unit")
        cluster[1].out(f"flux cancel {second}; flux job wait-event -t 30 {second} clean")
        finish(cluster, first)


@claim
def a_limit_confines_or_is_refused_with_a_reason(cluster):
    with units(cluster, '[exec.sdexec-properties]\nMemoryMax = "64M"\nMemorySwapMax = "0"\n'):
        if "memory" in controllers(cluster[2]):
            code, out, err = cluster[2].sh("flux run -n1 python3 -c 'x = bytearray(200 << 20)'", "alice")
            need(code, f"a task has more memory than its job: {out} {err}")
            cluster[2].out("flux run -n1 true", "alice")
            return "memory confined"
        cluster[2].fails("flux run -n1 true", "alice", "no cgroup controller 'memory'")
    path = cluster[1].path(CONFIG)
    path.write_text('[exec.sdexec-properties]\nDevicePolicy = "closed"\n')
    try:
        cluster[1].fails("flux config reload", saying="DevicePolicy: not supported")
    finally:
        path.unlink()
    return "no memory controller here: refused"


@claim
def without_the_manager_of_units_a_job_says_what_is_missing(cluster):
    with units(cluster):
        cluster[3].out("systemctl stop flux-jobs")
        need(cluster[3].out("systemctl show flux-jobs -P Result") == "success", "it did not stop")
        # Its own file says so, too.
        cluster[3].path(CONFIG).write_text('[exec]\nservice = "sdexec"\n')
        told = cluster[3].sh("flux doctor --local")[1]
        cluster[3].path(CONFIG).unlink()
        need("FAIL  job units" in told and "enable --now flux-jobs" in told, told)
        try:
            cluster[2].fails("flux run --requires=host:node3 true", "alice",
                             "systemctl enable --now flux-jobs")
        finally:
            cluster[3].out("systemctl start flux-jobs")
        cluster[2].out("flux run --requires=host:node3 true", "alice")
        # A manager that dies takes its units along: one exception, and nothing else is harmed.
        job = cluster[2].out("flux submit --requires=host:node3 sleep 1000", "bob").strip()
        cluster[1].out(f"flux job wait-event -t 20 {job} start")
        cluster[3].out("systemctl kill -s KILL --kill-whom=all flux-jobs")
        cluster[1].out(f"flux job wait-event -t 60 {job} clean")
        log = cluster[1].out(f"flux job eventlog {job}")
        need(log.count("exception") == 1 and "is lost" in log, log)
        need(until(lambda: cluster[2].sh("flux run --requires=host:node3 true", "alice")[0] == 0, 20),
             "node3 is not used again")
