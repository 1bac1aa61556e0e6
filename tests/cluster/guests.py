"""What users may do, and what they may not, on the nodes of the cluster.

Claims, as in checks.py.
"""

from checks import claim, need, until
from machines import Fail


@claim
def jobs_run_as_their_users_with_every_command(cluster):
    for user, node in (("alice", cluster[2]), ("bob", cluster[3])):
        uid = node.account(user)[0]
        need(node.out("flux run -N2 id -u", user).split() == [uid, uid], "run")
        job = node.out("flux submit -N1 id -u", user)
        need(node.out(f"flux job attach {job}", user) == uid, "submit")
        need(node.out("flux alloc -N1 flux run id -u", user).split()[-1] == uid, "alloc")
        job = node.out(f"flux batch -N1 --output=/home/{user}/batch.out --wrap flux run id -u",
                       user).split()[-1]
        node.out(f"flux job wait-event -t 60 {job} clean", user)
        need(uid in node.out(f"cat /home/{user}/batch.out; rm /home/{user}/batch.out").split(), "batch")


@claim
def guests_touch_only_what_is_theirs(cluster):
    node = cluster[1]
    job = cluster[2].out("flux submit -N1 sleep 1000", "alice").split()[-1]
    node.out(f"flux job wait-event -t 20 {job} start")
    for command in (f"flux cancel {job}", f"flux job raise {job}", f"flux job kill {job}",
                    f"flux job urgency {job} 0", f"flux job attach {job}",
                    f"flux job info {job} J", "flux resource drain node3", "flux kvs ls",
                    "flux kvs put a=1", "flux queue stop", "flux queue disable --message=x",
                    "flux config reload", "flux exec -r 0 id", "flux setattr log-level 0",
                    "flux module remove kvs", "flux shutdown", "flux overlay disconnect 2",
                    "flux dmesg -C"):
        code, out, err = node.sh(command, "bob", timeout=30)
        need(code != 0, f"bob: {command}: succeeded\n{out}{err}")
    need(node.out(f"flux jobs -no {{state}} {job}") == "RUN", "the job of alice does not run")
    for command in ("ls /var/lib/flux", "cat /var/lib/flux/content.sqlite",
                    "cat /etc/flux/system/curve.cert"):
        node.fails(command, "bob")
    writable = node.out("find /run/flux /var/lib/flux /etc/flux /usr/libexec/flux -perm -o+w "
                        "! -type l ! -type s")
    need(not writable, f"anybody may write {writable}")
    cluster[2].out(f"flux cancel {job}", "alice")


@claim
def the_imp_serves_only_the_owner(cluster):
    node = cluster[2]
    imp = "/usr/libexec/flux/flux-imp"
    need(node.out(f"stat -c '%a %U' {imp}") == "4755 root", "mode")
    for command in (f"{imp} exec /usr/libexec/flux/flux-shell 1", f"{imp} run prolog",
                    f"{imp} kill 9 1", f"{imp} exec /bin/sh 1"):
        node.fails(f"{command} </dev/null", "bob")
    node.fails(f"echo '{{\"J\":\"x.y.z\"}}' | {imp} exec /usr/libexec/flux/flux-shell 1", "flux")
    node.fails(f"echo '{{\"J\":\"x.y.none\"}}' | {imp} exec /bin/sh 1", "flux")


@claim
def without_munge_a_guest_is_told_and_nothing_else_breaks(cluster):
    node = cluster[2]
    node.out("systemctl stop munge")
    try:
        text = node.fails("flux run true", "alice")
        need("munge" in text.lower(), f"the message does not name MUNGE: {text}")
    finally:
        node.out("systemctl start munge")
    need(until(lambda: node.sh("flux run true", "alice")[0] == 0, 20), "it does not work again")


@claim
def guests_are_let_in_and_out_by_a_reload(cluster):
    leader = cluster[1]
    path = leader.path("/etc/flux/system/conf.d/access.toml")
    text = path.read_text()
    path.write_text(text.replace("allow-guest-user = true", "allow-guest-user = false"))
    try:
        leader.out("flux config reload")
        for node in (leader, cluster[3]):
            if not until(lambda: node.sh("flux jobs", "alice")[0] != 0, 10):
                raise Fail(f"alice may still connect on {node}")
    finally:
        path.write_text(text)
        leader.out("flux config reload")
    need(until(lambda: cluster[3].sh("flux jobs", "alice")[0] == 0, 10), "not let in again")


@claim
def prolog_and_epilog_run_as_root_on_each_node(cluster):
    for machine in cluster.machines[1:4]:
        machine.out("cp /etc/flux/imp/conf.d/imp.toml /root/imp.toml; rm -f /root/perilog")
        imp = machine.path("/etc/flux/imp/conf.d/imp.toml")
        imp.write_text(imp.read_text().split("[run.")[0])
        for name in ("prolog", "epilog"):
            script = machine.path(f"/etc/flux/system/{name}")
            script.write_text(f"#!/bin/sh\necho {name} $(id -un) $FLUX_JOB_USERID $PATH "
                              ">>/root/perilog\n")
            script.chmod(0o755)
            with open(imp, "a") as file:
                file.write(f'\n[run.{name}]\nallowed-users = [ "flux" ]\n'
                           f'path = "/etc/flux/system/{name}"\n')
    leader = cluster[1]
    path = leader.path("/etc/flux/system/conf.d/job-manager.toml")
    try:
        for text in (
            # The way of the guide of 2022, and today's.
            '[job-manager]\nplugins = [ { load = "perilog.so" } ]\n'
            '[job-manager.prolog]\ncommand = [ "flux", "perilog-run", "prolog", "-e", '
            '"/usr/libexec/flux/flux-imp,run,prolog" ]\n'
            '[job-manager.epilog]\ncommand = [ "flux", "perilog-run", "epilog", "-e", '
            '"/usr/libexec/flux/flux-imp,run,epilog" ]\n',
            '[job-manager]\nplugins = [ { load = "perilog.so" } ]\n'
            '[job-manager.prolog]\nper-rank = true\n[job-manager.epilog]\nper-rank = true\n',
        ):
            path.write_text(text)
            leader.out("systemctl restart flux")
            until(lambda: leader.sh("flux overlay status --wait=full --timeout=5s")[0] == 0, 30)
            cluster[2].out("flux run -N3 true", "alice")
            leader.out("flux queue drain --timeout=30s")
            for machine in cluster.machines[1:4]:
                wanted = [f"{name} root 1001 /usr/sbin:/usr/bin:/sbin:/bin"
                          for name in ("prolog", "epilog")]
                found = machine.out("cat /root/perilog; rm -f /root/perilog").splitlines()
                need(found == wanted, f"{machine}: {found}")
    finally:
        path.unlink()
        leader.out("systemctl restart flux")
        for machine in cluster.machines[1:4]:
            machine.out("cp /root/imp.toml /etc/flux/imp/conf.d/imp.toml")
