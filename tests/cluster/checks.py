"""What an administrator relies on, beyond the words of the guide: each function is a claim.

They run one after the other on the cluster that the guide has made; each begins with all brokers up
and nothing in the queue (settle), whatever the one before has done (mend).
"""

import re
import time
from pathlib import Path

from machines import Fail, parallel, until

CHECKS = []
# What was measured: (what, seconds), shown in one table at the end.
TIMES = []


def timed(what, seconds):
    """Puts a time into the table; the seconds."""
    TIMES.append((what, seconds))
    return seconds


def claim(function):
    CHECKS.append(function)
    return function


def gap(what):
    """A claim that does not hold yet: it is tried, and told, and fails nothing."""
    def mark(function):
        function.gap = what
        return claim(function)
    return mark


def names():
    return [function.__name__ for function in CHECKS]


def chosen(words):
    return [(function.__name__, function) for function in CHECKS
            if not words or any(word in function.__name__ for word in words)]


def need(truth, text):
    if not truth:
        raise Fail(text)


def status(cluster, rank=None):
    """host: status of each broker, as rank 0 sees it."""
    code, out, _ = cluster[1].sh("flux overlay status --timeout=5s", timeout=30)
    lines = [line.split() for line in out.splitlines()] if code == 0 else []
    return {words[-2].rstrip(":"): words[-1] for words in lines if len(words) >= 3}


def wait_status(cluster, wanted, seconds):
    """Waits for statuses; the seconds that it took."""
    start = time.monotonic()
    if not until(lambda: all(status(cluster).get(k) == v for k, v in wanted.items()), seconds):
        raise Fail(f"expected {wanted} within {seconds} s, found {status(cluster)}")
    return time.monotonic() - start


def free(cluster):
    return cluster[1].sh("flux resource list -s free -no {nodelist}")[1].strip()


def settle(cluster):
    everyone = {f"node{n}": "full" for n in (1, 2, 3, 4)}
    wait_status(cluster, everyone, 60)
    cluster[1].sh("flux cancel --user=all --quiet; flux queue drain --timeout=30s")
    if not until(lambda: free(cluster) == "node[2-4]", 30):
        raise Fail("not all nodes are free: " + cluster[1].sh("flux resource list; flux jobs -A")[1])


def mend(cluster):
    cluster.heal()
    for machine in cluster.machines[:4]:
        machine.resume()
        if not machine.running():
            machine.boot()
    for machine in cluster.machines[:4]:
        machine.unfill("/var/lib/flux")
    parallel(lambda machine: machine.sh("test -e /usr/bin/flux || dpkg -i /packages/*.deb"),
             cluster.machines[:4])
    parallel(lambda machine: machine.sh("systemctl reset-failed flux; systemctl start flux"),
             cluster.machines[:4])
    cluster[1].sh("flux queue start --all; flux queue enable --all; flux resource undrain node[2-4]")


def submit(cluster, options, user="flux"):
    return cluster[1].out(f"flux submit {options}", user).split()[-1]


@claim
def the_unit_is_the_guides(cluster):
    text = cluster[1].out("systemctl cat flux")
    for word in ("conf.d", "rundir=/run/flux", "local-uri=local:///run/flux/local",
                 "statedir=/var/lib/flux", "cron.d", "Type=notify", "User=flux"):
        need(word in text, f"{word} is not in the unit")
    for machine in cluster.machines[:4]:
        need(machine.out("pgrep -c flux-broker") == "1", f"{machine}: not one broker")
        need(machine.out("ps -o user= -C flux-broker") == "flux", f"{machine}: not the user flux")
    modes = cluster[1].out("stat -c '%a %U %n' /var/lib/flux /etc/flux/system "
                           "/etc/flux/system/curve.cert /run/flux")
    need(modes.splitlines() == ["700 flux /var/lib/flux", "755 root /etc/flux/system",
                                "600 flux /etc/flux/system/curve.cert", "755 flux /run/flux"], modes)
    cluster[1].out("man -w flux flux-resource && test -s /usr/share/bash-completion/completions/flux")


@claim
def brokers_start_in_any_order(cluster):
    parallel(lambda m: m.out("systemctl stop flux"), cluster.machines[:4])
    parallel(lambda m: m.out("systemctl start flux"), cluster.machines[1:4])
    need("Joining" in cluster[3].out("systemctl show flux -P StatusText"), "node3 does not wait")
    start = time.monotonic()
    cluster[1].out("systemctl start flux")
    wait_status(cluster, {"node1": "full"}, 60)
    took = timed("start of the leader, others waiting, to all online", time.monotonic() - start)
    return f"all online {took:.2f} s after the leader was started"


@claim
def a_restart_of_the_leader_is_over_when_every_command_works(cluster):
    cluster[1].out("for n in 1 2 3; do systemctl restart flux && flux jobs -a && flux resource list "
                   "&& flux queue status && flux job stats && flux cron list || exit; done")
    wait_status(cluster, {"node1": "full"}, 60)


@claim
def all_are_online_soon_after_a_start_together(cluster):
    parallel(lambda m: m.out("systemctl stop flux"), cluster.machines[:4])
    start = time.monotonic()
    parallel(lambda m: m.out("systemctl start flux"), cluster.machines[:4])
    wait_status(cluster, {"node1": "full"}, 60)
    until(lambda: free(cluster) == "node[2-4]", 30)
    took = timed("start of all brokers to all nodes free", time.monotonic() - start)
    return f"{took:.2f} s from start to all nodes free"


@claim
def a_node_that_is_stopped_is_offline_and_its_jobs_fail(cluster):
    job = submit(cluster, "-N3 sleep 1000")
    cluster[1].out(f"flux job wait-event -t 20 {job} start")
    cluster[3].out("systemctl stop flux")
    wait_status(cluster, {"node3": "offline", "node1": "partial"}, 10)
    cluster[1].out(f"flux cancel {job}; flux job wait-event -t 60 {job} clean")
    need(cluster[3].out("systemctl is-active flux || true") == "inactive", "it was started again")
    cluster[3].out("systemctl start flux")


@claim
def a_broker_that_is_killed_comes_back(cluster):
    start = time.monotonic()
    cluster[2].out("systemctl kill -s KILL --kill-whom=main flux")
    until(lambda: status(cluster).get("node2") != "full", 20)
    seen = timed("kill of a broker to seen", time.monotonic() - start)
    wait_status(cluster, {"node1": "full"}, 60)
    back = timed("kill of a broker to back", time.monotonic() - start)
    return f"seen after {seen:.2f} s, back after {back:.2f} s"


@claim
def the_leader_comes_back_after_a_kill_and_the_queue_is_as_it_was(cluster):
    job = submit(cluster, "--urgency=hold -N1 true")
    before = cluster[1].out("flux jobs -ano {id.dec}")
    start = time.monotonic()
    cluster[1].out("systemctl kill -s KILL --kill-whom=main flux")
    until(lambda: cluster[1].sh("flux getattr rank")[0] == 0, 60)
    answers = timed("kill of the leader's broker to answers", time.monotonic() - start)
    wait_status(cluster, {"node1": "full"}, 90)
    online = timed("kill of the leader's broker to all online", time.monotonic() - start)
    need(cluster[1].out("flux jobs -ano {id.dec}") == before, "the jobs are not as they were")
    cluster[1].out(f"flux job urgency {job} 16; flux job wait-event -t 30 {job} clean")
    return f"answers after {answers:.2f} s, all online after {online:.2f} s"


@claim
def a_powered_off_node_is_seen_and_used_again(cluster):
    job = submit(cluster, "-N3 sleep 1000")
    cluster[1].out(f"flux job wait-event -t 20 {job} start")
    start = time.monotonic()
    cluster[4].power_cut()
    wait_status(cluster, {"node4": "lost"}, 60)
    seen = timed("power cut of a node to lost (configured: 10 s)", time.monotonic() - start)
    need(seen < 20, f"seen after {seen:.1f} s, configured were 10 s")
    cluster[1].out(f"flux cancel {job}")
    start = time.monotonic()
    cluster[4].boot()
    wait_status(cluster, {"node1": "full"}, 60)
    back = timed("power on of a node (boot and all) to online", time.monotonic() - start)
    return f"seen after {seen:.1f} s; online {back:.1f} s after power on"


@claim
def another_key_does_not_get_in(cluster):
    node = cluster[4]
    node.out("systemctl stop flux && mv /etc/flux/system/curve.cert /root/curve.cert && "
             "install -m 600 -o flux -g flux /dev/null /etc/flux/system/curve.cert && "
             "sudo -u flux flux keygen /etc/flux/system/curve.cert && systemctl start flux")
    try:
        told = until(lambda: "refused" in cluster[1].out("journalctl -u flux -n 50 -o cat"), 20)
        need(told, "the leader says nothing")
        need("trying again" in node.out("journalctl -u flux -n 20 -o cat"), "nor does node4")
        need(status(cluster).get("node4") == "offline", "it is in")
    finally:
        node.out("systemctl stop flux; cp -p /root/curve.cert /etc/flux/system/curve.cert; "
                 "systemctl start flux")


@claim
def a_key_that_others_can_read_is_refused(cluster):
    node = cluster[4]
    node.out("systemctl stop flux; chmod 644 /etc/flux/system/curve.cert")
    try:
        node.sh("systemctl start flux")
        text = node.out("journalctl -u flux -n 20 -o cat")
        need("readable by group/other" in text, text)
    finally:
        node.out("systemctl stop flux; chmod 600 /etc/flux/system/curve.cert; "
                 "systemctl start flux")


@claim
def a_configuration_with_a_mistake_is_refused_with_file_and_line(cluster):
    node = cluster[1]
    path = node.path("/etc/flux/system/conf.d/zz.toml")
    for text, words in (("[tbon\n", "zz.toml:1"), ("\n[access]\nallow-guest-user = 1\n", "zz.toml:3"),
                        ("[sched]\npolicy = \"best\"\n", "zz.toml:2"),
                        ("[resource]\n\nnosuch = 1\n", "zz.toml:3"),
                        ("[[resource.config]]\nhosts = \"a[\"\n", "zz.toml:1")):
        path.write_text(text)
        node.fails("systemctl reload flux", saying="")
        node.fails("flux config reload", saying=words)
    path.write_text("[tbon]\nkeepalive_cont = 1\n")
    words = "zz.toml:2: tbon.keepalive_cont: unknown key (did you mean keepalive_count?)"
    # Who asks is told, on whatever node; systemctl shows nobody what a reload says.
    for asked in (node, cluster[3]):
        told = asked.out("flux config reload 2>&1")
        need(words in told, f"{asked}: {told}")
    path.unlink()
    node.out("flux config reload")
    need(words in node.out("journalctl -u flux -n 40 -o cat"), "the journal does not tell")


@claim
def live_keys_take_effect_on_every_node(cluster):
    leader = cluster[1]
    path = leader.path("/etc/flux/system/conf.d/zz.toml")
    path.write_text('[exec]\nkill-timeout = "7s"\n[heartbeat]\nperiod = "1s"\n'
                    '[queues.small]\n[queues.large.policy.limits]\njob-size.min.nnodes = 2\n'
                    '[policy.jobspec.defaults.system]\nqueue = "small"\n')
    try:
        # Asked on a follower, it is the leader that reads its files.
        cluster[3].out("systemctl reload flux")
        for node in (leader, cluster[4]):
            need(until(lambda: node.out("flux config get exec.kill-timeout") == '"7s"', 10),
                 f"{node}: not the new configuration")
        text = leader.out("flux module stats job-exec")
        need(re.search(r'"kill-timeout": *7(\.0)?\b', text), text)
        text = leader.out("flux module stats heartbeat")
        need(re.search(r'"period": *1(\.0)?\b', text), text)
        leader.out("flux queue start --all --quiet")
        cluster[2].out("flux run --queue=large -N2 true", "alice")
        cluster[2].fails("flux run --queue=large -N1 true", "alice")
        cluster[2].fails("flux run --queue=none true", "alice", "Invalid queue")
        cluster[2].out("flux run true", "alice")
    finally:
        path.unlink()
        leader.out("flux config reload")


@claim
def the_doctor_finds_what_is_planted(cluster):
    node = cluster[4]
    faults = [
        ("chmod 640 /etc/flux/system/curve.cert", "FAIL  key: ", "chmod 600"),
        ("mv /etc/flux/system/R /etc/flux/system/R.x", "FAIL  resources: ", "flux R encode"),
        ("systemctl stop munge", "FAIL  munge: ", "systemctl enable --now munge"),
        ("sed -i 's/ node4$/ other4/' /etc/hosts", "FAIL  names: ", "/etc/hosts or DNS"),
        ("chmod u-s /usr/libexec/flux/flux-imp", "FAIL  imp: ", "chmod 4755"),
        ("chmod 755 /var/lib/flux", "FAIL  disk: ", "chmod 700"),
        ("echo 'x = 1' >/etc/flux/system/conf.d/zz.toml", "zz.toml:1: x: unknown key", "remove"),
        ("sed -i 's,:/var/lib/flux:,:/nowhere:,' /etc/passwd", "the home of flux, /nowhere, is not",
         "make it"),
        ("systemctl stop flux", "warn  systemd: ", "systemctl enable --now flux"),
    ]
    mend_all = ("chmod 600 /etc/flux/system/curve.cert; chmod 700 /var/lib/flux; "
                "mv /etc/flux/system/R.x /etc/flux/system/R; systemctl start munge; "
                "sed -i 's/ other4$/ node4/' /etc/hosts; chmod 4755 /usr/libexec/flux/flux-imp; "
                "sed -i 's,:/nowhere:,:/var/lib/flux:,' /etc/passwd; "
                "rm -f /etc/flux/system/conf.d/zz.toml; systemctl start flux")
    for plant, word, advice in faults:
        node.out(plant)
        text = node.sh("flux doctor --local")[1]
        node.sh(mend_all)
        need(word in text and advice in text, f"{plant}: the doctor said\n{text}")
    until(lambda: node.sh("flux doctor --local")[0] == 0, 10)
    node.out("flux doctor --local")


@claim
def removing_the_package_leaves_the_state(cluster):
    node = cluster[4]
    before = node.out("ls -la /var/lib/flux /etc/flux/system | grep -v total")
    node.out("dpkg -r ferroflux")
    need(node.sh("test -e /usr/bin/flux")[0] == 1, "the program is still there")
    after = node.out("ls -la /var/lib/flux /etc/flux/system | grep -v total")
    need(node.sh("test -s /etc/flux/system/curve.cert")[0] == 0, f"{before}\n{after}")
    node.out("dpkg -i /packages/ferroflux_*.deb && systemctl enable --now flux")
    wait_status(cluster, {"node1": "full"}, 60)


@claim
def the_tarball_installs_and_leaves(cluster):
    node = cluster[4]
    node.out("dpkg -r ferroflux; cd /root && tar -xzf /packages/ferroflux-*.tar.gz")
    node.out("/root/ferroflux-*/install.sh && systemctl start flux")
    wait_status(cluster, {"node1": "full"}, 60)
    node.out("/root/ferroflux-*/install.sh --remove && test ! -e /usr/bin/flux")
    node.out("dpkg -i /packages/ferroflux_*.deb && systemctl enable --now flux")


# What a package needs is there, as packages of Debian, which rpm does not know and asks about.
RPM = "rpm $(rpm --help | grep -o -e --force-debian) --nodeps --quiet"


@claim
def the_rpm_installs_upgrades_and_leaves(cluster):
    node = cluster[4]
    found = sorted(Path(cluster.packages).glob("ferroflux-*.rpm"))
    if not found:
        return "NOT CHECKED: no rpm in the packages (rpmbuild was not installed)"
    state = ("stat -c '%a %U %n' /var/lib/flux /etc/flux/system/curve.cert /etc/flux/system/R && "
             "sha256sum /etc/flux/system/curve.cert /etc/flux/system/R /etc/flux/*/conf.d/*")
    before = node.out(state)
    node.out("dpkg -r ferroflux")
    node.out(f"{RPM} -i /packages/{found[-1].name}")
    need(node.out(state) == before, "what is the site's has changed")
    # Modes, owners and contents of all files, the setuid bit among them.
    node.out("rpm -V --nodeps ferroflux")
    need(node.out("stat -c '%a %U %G' /usr/libexec/flux/flux-imp") == "4755 root root", "the imp")
    need(not node.out("rpm -qa --configfiles ferroflux"), "files of the site belong to the package")
    node.out("systemctl enable --now flux")
    wait_status(cluster, {"node1": "full"}, 60)
    need(node.out("flux run --requires=host:node4 sh -c 'hostname; id -un'", "alice").split()
         == ["node4", "alice"], "a job of a guest")
    others = sorted(cluster.others.glob("ferroflux-*.rpm")) if cluster.others else []
    told = "no package of another version to upgrade to"
    if others:
        broker = node.out("systemctl show flux -P MainPID")
        node.out(f"{RPM} -U /others/{others[0].name}")
        need(node.out("systemctl show flux -P MainPID") == broker, "the broker was restarted")
        need(node.out(state) == before, "an upgrade changed what is the site's")
        version = others[0].name.split("-")[1]
        need(version in node.out("flux version"), node.out("flux version"))
        node.out("rpm -V --nodeps ferroflux")
        node.out(f"{RPM} -U --oldpackage /packages/{found[-1].name}")
        told = f"to {version} and back"
    node.out("rpm -e ferroflux")
    need(node.sh("test -e /usr/bin/flux -o -e /usr/libexec/flux")[0] == 1, "programs are left")
    need(node.out("systemctl is-active flux || true") == "inactive", "the broker runs")
    need(node.out(state) == before, "a removal changed what is the site's")
    node.out("dpkg -i /packages/ferroflux_*.deb && systemctl enable --now flux")
    wait_status(cluster, {"node1": "full"}, 60)
    return told


@claim
def packages_make_the_user_the_state_directory_and_a_place_for_the_key(cluster):
    # The spare node has seen no package yet, and no user flux.
    node = cluster[5]
    ways = {"deb": ("dpkg -i /packages/ferroflux_*.deb", "dpkg -r ferroflux")}
    if list(Path(cluster.packages).glob("ferroflux-*.rpm")):
        ways["rpm"] = (f"{RPM} -i /packages/ferroflux-*.rpm", "rpm -e ferroflux")
    node.boot()
    try:
        for install, remove in ways.values():
            node.out(install)
            need(node.out("getent passwd flux | cut -d: -f6,7") == "/var/lib/flux:/usr/sbin/nologin",
                 node.out("getent passwd flux"))
            need(int(node.out("id -u flux")) < 1000, "not the id of a system user")
            modes = node.out("stat -c '%a %U:%G %n' /var/lib/flux /etc/flux/system "
                             "/etc/flux/system/curve.cert")
            need(modes.splitlines() == ["700 flux:flux /var/lib/flux", "755 root:root /etc/flux/system",
                                        "600 flux:flux /etc/flux/system/curve.cert"], modes)
            need(node.out("systemctl is-enabled flux || true") == "disabled", "it is started")
            node.out("sudo -u flux flux keygen /etc/flux/system/curve.cert")
            node.out("sudo -u flux touch /var/lib/flux/state")
            node.out(remove)
            node.out("test -s /etc/flux/system/curve.cert && test -e /var/lib/flux/state")
            # As new again.
            node.out("userdel flux; rm -rf /var/lib/flux /etc/flux")
            need(node.sh("test -e /usr/bin/flux")[0] == 1, "the program is left")
    finally:
        node.power_off()
    return " and ".join(ways)
