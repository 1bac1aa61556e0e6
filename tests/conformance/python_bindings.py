#!/usr/bin/env python3
"""Does an instance serve the Python bindings of flux-core?

Run it inside an instance (FLUX_URI names its broker) with the bindings on PYTHONPATH. Every check is
a claim, run in a process of its own with a connection of its own and a deadline, so that one which
fails or hangs says nothing about the next. The last line counts; the exit status is 1 when a check
failed. Without the bindings nothing is checked, and the script says so.

    python_bindings.py [-v] [WORD...]     only the checks whose name has one of the words
"""

import os
import signal
import sys
import tempfile
import time
import traceback

try:
    import flux
    import flux.job
    import flux.kvs
    import flux.resource
except ImportError as error:
    print(f"skipped: the flux-core Python bindings are not there ({error})")
    sys.exit(0)

from flux import subprocess
from flux.constants import FLUX_NODEID_UPSTREAM, FLUX_RPC_STREAMING
from flux.job import JobspecV1
from flux.job.stats import JobStats
from flux.job.watcher import JobWatcher

DEADLINE_S = 90
"""How long one check may take."""

CHECKS = []


def check(function):
    """Registers a check: a function that takes a connection and raises when its claim is false."""
    CHECKS.append(function)
    return function


def equal(found, wanted, what="value"):
    assert found == wanted, f"{what} is {found!r}, not {wanted!r}"


def errno_of(action, *arguments, **keywords):
    """The errno an action fails with; 0 when it succeeds."""
    try:
        action(*arguments, **keywords)
    except OSError as error:
        return error.errno
    return 0


def spec(*command, **options):
    """A job that runs a command with what a job needs of this process."""
    job = JobspecV1.from_command(command=list(command), **options)
    job.cwd = os.getcwd()
    job.environment = {"PATH": os.environ["PATH"]}
    return job


def submit(handle, *command, **options):
    waitable = options.pop("waitable", False)
    urgency = options.pop("urgency", 16)
    return flux.job.submit(handle, spec(*command, **options), waitable=waitable, urgency=urgency)


def events_of(handle, jobid, log="eventlog"):
    return [event.name for event in flux.job.event_watch(handle, jobid, eventlog=log)]


def until(condition, what):
    """Waits until a condition holds."""
    end = time.monotonic() + DEADLINE_S / 2
    while not (value := condition()):
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.01)
    return value


# --- the connection ---------------------------------------------------------------------------


@check
def attributes_are_read_and_set(handle):
    equal(handle.attr_get("rank"), str(handle.get_rank()), "rank")
    size = int(handle.attr_get("size"))
    assert size >= 1
    handle.attr_set("test.conformance", "a value")
    equal(handle.attr_get("test.conformance"), "a value")
    equal(errno_of(handle.attr_get, "no-such-attribute"), 2, "errno")


@check
def rpcs_reach_every_rank(handle):
    for rank in range(int(handle.attr_get("size"))):
        reply = handle.rpc("attr.get", {"name": "rank"}, nodeid=rank).get()
        equal(reply["value"], str(rank), "rank")


@check
def a_ping_is_echoed(handle):
    reply = handle.rpc("broker.ping", {"seq": 1, "pad": "x" * 5000}).get()
    equal(reply["seq"], 1)
    equal(reply["pad"], "x" * 5000)
    assert "!" in reply["route"], reply["route"]


@check
def unknown_services_methods_and_ranks_have_their_errno(handle):
    equal(errno_of(handle.rpc("no-such-service.x").get), 38, "errno of an unknown service")
    equal(errno_of(handle.rpc("kvs.no-such-method").get), 38, "errno of an unknown method")
    equal(errno_of(handle.rpc("attr.get", {"name": "rank"}, nodeid=100000).get), 113, "errno of an unknown rank")
    equal(errno_of(handle.rpc("attr.get", {"nome": 1}).get), 71, "errno of a bad body")
    upstream = handle.rpc("attr.get", {"name": "rank"}, nodeid=FLUX_NODEID_UPSTREAM)
    if handle.get_rank() == 0:
        equal(errno_of(upstream.get), 113, "errno of upstream of rank 0")
    else:
        assert int(upstream.get()["value"]) < handle.get_rank(), "upstream is no lower rank"


@check
def a_thousand_rpcs_in_flight_are_all_answered(handle):
    futures = [handle.rpc("broker.ping", {"seq": n}) for n in range(1000)]
    for n, future in enumerate(futures):
        equal(future.get()["seq"], n)


@check
def continuations_run_in_the_reactor(handle):
    seen = []

    def done(future, word):
        seen.append((future.get()["value"], word))
        handle.reactor_stop()

    handle.rpc("attr.get", {"name": "size"}).then(done, "word")
    handle.reactor_run()
    equal(seen, [(handle.attr_get("size"), "word")])


@check
def configuration_is_read(handle):
    assert isinstance(handle.conf_get(), dict)
    equal(handle.conf_get("no.such.key", default=7), 7)


@check
def log_messages_reach_the_ring(handle):
    mark = f"conformance {os.getpid()}"
    handle.log(6, mark)

    def there():
        future = handle.rpc("log.dmesg", {"follow": False}, flags=FLUX_RPC_STREAMING)
        found = False
        try:
            while True:
                found = mark in future.get_str() or found
                future.reset()
        except OSError as error:
            equal(error.errno, 61, "errno at the end of the log")
        return found

    until(there, "the line in the log")


# --- events and services ----------------------------------------------------------------------


@check
def events_are_delivered_in_order_to_who_subscribed(handle):
    handle.event_subscribe("conformance.a")
    publisher = flux.Flux()
    for n in range(50):
        publisher.event_send("conformance.b", {"n": -1})
        publisher.event_send("conformance.a.x", {"n": n})
    for n in range(50):
        event = handle.event_recv()
        equal((event.topic, event.payload["n"]), ("conformance.a.x", n))


@check
def events_published_by_rpc_have_a_sequence_number(handle):
    first = handle.rpc("event.publish", {"topic": "conformance.seq", "flags": 0}, nodeid=0).get()["seq"]
    second = handle.rpc("event.publish", {"topic": "conformance.seq", "flags": 0}, nodeid=0).get()["seq"]
    assert second > first > 0


@check
def a_client_may_be_a_service(handle):
    handle.service_register("conformance").get()
    other = flux.Flux()
    reply = other.rpc("conformance.double", {"n": 21})

    def asked(h, _type, message, _args):
        h.respond(message, {"n": message.payload["n"] * 2})
        h.reactor_stop()

    watcher = handle.msg_watcher_create(asked, flux.constants.FLUX_MSGTYPE_REQUEST, "conformance.*")
    watcher.start()
    handle.reactor_run()
    watcher.stop()
    equal(reply.get(), {"n": 42})
    handle.service_unregister("conformance").get()
    equal(errno_of(other.rpc("conformance.double", {"n": 1}).get), 38, "errno once it is gone")


# --- the key-value store ----------------------------------------------------------------------


@check
def values_are_put_got_and_unlinked(handle):
    values = {"int": 7, "text": "ä text", "list": [1, 2, 3], "object": {"a": None}, "yes": True, "real": 1.5}
    for name, value in values.items():
        flux.kvs.put(handle, f"conformance.{name}", value)
    flux.kvs.commit(handle)
    for name, value in values.items():
        equal(flux.kvs.get(handle, f"conformance.{name}"), value, name)
    assert flux.kvs.isdir(handle, "conformance")
    equal(sorted(flux.kvs.get_dir(handle, "conformance")), sorted(values))
    flux.kvs.put_unlink(handle, "conformance.int")
    flux.kvs.commit(handle)
    assert not flux.kvs.exists(handle, "conformance.int")
    equal(errno_of(flux.kvs.get, handle, "conformance.int"), 2, "errno")
    equal(type(flux.kvs.get(handle, "conformance")).__name__, "KVSDir", "what a directory is read as")


@check
def large_values_and_raw_bytes_come_back(handle):
    raw = bytes(range(256)) * 8192
    flux.kvs.put(handle, "conformance-raw", raw, raw=True)
    flux.kvs.put(handle, "conformance-large", "x" * 3_000_000)
    flux.kvs.commit(handle)
    equal(len(flux.kvs.get(handle, "conformance-large")), 3_000_000)
    reply = handle.rpc("kvs.lookup", {"key": "conformance-raw", "flags": 0, "namespace": "primary"}).get()
    equal(reply["val"]["type"] in ("val", "valref"), True)


@check
def symlinks_and_directories_are_followed(handle):
    with flux.kvs.KVSTxn(handle, "conformance-dir") as txn:
        txn.mkdir("empty")
        txn.put("target", "here")
        txn.symlink("link", "conformance-dir.target")
    equal(flux.kvs.get(handle, "conformance-dir.link"), "here")
    assert flux.kvs.isdir(handle, "conformance-dir.empty")


@check
def directories_are_mappings_and_can_be_walked(handle):
    with flux.kvs.get_dir(handle) as top:
        top.mkdir("conformance-walk", {"a": 1, "b.c": 2, "b.d.e": 3})
    directory = flux.kvs.get_dir(handle, "conformance-walk")
    equal((directory["a"], directory["b.c"], directory["b.d.e"]), (1, 2, 3))
    equal((sorted(directory.files()), sorted(directory.directories())), (["a"], ["b"]))
    found = []
    for path, directories, files in flux.kvs.walk("conformance-walk", flux_handle=handle, topdown=True):
        found.append((path.strip("."), sorted(directories), sorted(files)))
    equal(found, [("", ["b"], ["a"]), ("b", ["d"], ["c"]), ("b.d", [], ["e"])], "the walk")


@check
def a_thousand_keys_are_one_commit(handle):
    for n in range(1000):
        flux.kvs.put(handle, f"conformance-many.k{n}", n)
    flux.kvs.commit(handle)
    equal(len(list(flux.kvs.get_dir(handle, "conformance-many"))), 1000)
    equal(flux.kvs.get(handle, "conformance-many.k999"), 999)


@check
def a_watch_sees_every_value(handle):
    writer = flux.Flux()
    future = flux.kvs.kvs_watch_async(handle, "conformance-watch", waitcreate=True)
    seen = []
    for n in range(5):
        flux.kvs.put(writer, "conformance-watch", n)
        flux.kvs.commit(writer)
        seen.append(future.get())
    equal(seen, [0, 1, 2, 3, 4])
    future.cancel(stop=True)
    equal(future.get(), None, "what a cancelled watch yields")


@check
def namespaces_are_apart(handle):
    flux.kvs.namespace_create(handle, "conformance")
    try:
        flux.kvs.put(handle, "key", "inside")
        flux.kvs.commit(handle, namespace="conformance")
        equal(flux.kvs.get(handle, "key", namespace="conformance"), "inside")
        assert not flux.kvs.exists(handle, "key")
        assert "conformance" in flux.kvs.namespace_list(handle)
    finally:
        flux.kvs.namespace_remove(handle, "conformance")
    until(lambda: "conformance" not in flux.kvs.namespace_list(handle), "the end of the namespace")


# --- jobs: submit, watch, list, cancel ----------------------------------------------------------


@check
def a_hundred_jobs_are_submitted_watched_and_listed(handle):
    futures = [flux.job.submit_async(handle, spec("true"), waitable=True) for _ in range(100)]
    ids = [future.get_id() for future in futures]
    equal(len(set(ids)), 100, "number of ids")
    for jobid in ids:
        names = events_of(handle, jobid)
        equal(names[0], "submit", "first event")
        equal(names[-1], "clean", "last event")
        for name in ("validate", "depend", "priority", "alloc", "start", "finish", "release", "free"):
            assert name in names, f"{name} is not in {names}"
    for jobid in ids:
        success, error = flux.job.wait(handle, jobid)[1:]
        assert success, error

    def listed():
        jobs = {job.id: job for job in flux.job.JobList(handle, filters=["inactive"], max_entries=0).jobs()}
        return jobs if all(jobid in jobs for jobid in ids) else None

    jobs = until(listed, "the jobs in the list")
    for jobid in ids:
        job = jobs[jobid]
        equal((job.state, job.result, job.returncode), ("INACTIVE", "COMPLETED", 0))
        equal(job.name, "true", "name")
        assert job.t_submit <= job.t_run <= job.t_cleanup <= job.t_inactive


@check
def a_hundred_jobs_are_watched_at_once(handle):
    ids = [future.get_id() for future in [flux.job.submit_async(handle, spec("true")) for _ in range(100)]]
    ended = []

    def came(future, jobid):
        event = future.get_event()
        if event is None:
            ended.append(jobid)
        elif event.name == "clean":
            assert "status" not in event.context

    for jobid in ids:
        flux.job.event_watch_async(handle, jobid).then(came, jobid)
    handle.reactor_run()
    equal(sorted(ended), sorted(ids), "watches that ended")


@check
def a_hundred_held_jobs_are_cancelled(handle):
    ids = [submit(handle, "true", urgency=0) for _ in range(100)]
    for jobid in ids:
        event = flux.job.event_wait(handle, jobid, "priority")
        equal(event.context["priority"], 0, "priority of a held job")
    until(
        lambda: set(ids) <= {job.id for job in flux.job.JobList(handle, filters=["pending"], max_entries=0).jobs()},
        "the held jobs in the list",
    )
    for jobid in ids:
        flux.job.cancel(handle, jobid, "enough")
    for jobid in ids:
        events = {event.name: event.context for event in flux.job.event_watch(handle, jobid)}
        equal(events["exception"]["type"], "cancel", "exception")
        equal(events["exception"]["note"], "enough", "note")
        equal(events["exception"]["severity"], 0, "severity")
        equal(events["exception"]["userid"], os.getuid(), "userid")
    job = until(
        lambda: (job := flux.job.get_job(handle, ids[0])) and job["state"] == "INACTIVE" and job,
        "the end in the list",
    )
    equal((job["result"], job["returncode"]), ("CANCELED", -128))


@check
def a_running_job_is_cancelled(handle):
    jobid = submit(handle, "sleep", "600", waitable=True)
    flux.job.event_wait(handle, jobid, "start")
    flux.job.cancel(handle, jobid)
    wait = flux.job.wait(handle, jobid)
    equal(wait.jobid, jobid)
    equal(wait.success, False)
    assert b"cancel" in wait.errstr, wait.errstr
    equal(errno_of(flux.job.cancel, handle, jobid), 2, "errno of a second cancel")
    equal(errno_of(flux.job.cancel, handle, 1), 2, "errno for an unknown job")


@check
def a_running_job_is_killed_by_a_signal(handle):
    jobid = submit(handle, "sleep", "600")
    equal(flux.job.event_wait(handle, jobid, "shell.start", eventlog="guest.exec.eventlog").name, "shell.start")
    flux.job.kill(handle, jobid, signal.SIGUSR1)
    event = flux.job.event_wait(handle, jobid, "finish", raiseJobException=False)
    equal(event.context["status"] >> 8, 128 + signal.SIGUSR1, "exit status")
    flux.job.event_wait(handle, jobid, "clean", raiseJobException=False)
    equal(errno_of(flux.job.kill, handle, jobid, signal.SIGUSR1), 22, "errno for a job that has ended")


@check
def an_exception_is_raised(handle):
    jobid = submit(handle, "sleep", "600")
    flux.job.event_wait(handle, jobid, "start")
    flux.job.job_raise(handle, jobid, "custom", severity=3, note="only a word")
    flux.job.job_raise(handle, jobid, "custom", severity=0, note="the end")
    try:
        flux.job.event_wait(handle, jobid, "clean")
        raise AssertionError("event_wait did not tell of the exception")
    except flux.job.JobException as error:
        equal((error.type, error.severity, error.note), ("custom", 0, "the end"))
    severities = [e.context["severity"] for e in flux.job.event_watch(handle, jobid) if e.name == "exception"]
    equal(severities[:2], [3, 0], "severities")


@check
def waits_tell_how_jobs_ended(handle):
    good = submit(handle, "true", waitable=True)
    bad = submit(handle, "sh", "-c", "exit 7", waitable=True)
    ends = {}
    for _ in range(2):
        end = flux.job.wait(handle)
        ends[end.jobid] = (end.success, end.errstr)
    equal(ends[good][0], True)
    equal(ends[bad][0], False)
    assert b"7" in ends[bad][1], ends[bad]
    equal(errno_of(flux.job.wait, handle), 10, "errno when none is left")
    equal(errno_of(flux.job.wait, handle, submit(handle, "true")), 10, "errno when not waitable")


@check
def results_are_told(handle):
    good = flux.job.result(handle, submit(handle, "true"))
    equal((good.result, good.returncode), ("COMPLETED", 0))
    bad = flux.job.result(handle, submit(handle, "sh", "-c", "exit 3"))
    equal((bad.result, bad.returncode), ("FAILED", 3))
    absent = flux.job.result(handle, submit(handle, "/no/such/program"))
    equal((absent.result, absent.returncode), ("FAILED", 127))


@check
def output_is_watched(handle):
    jobid = submit(handle, "sh", "-c", "echo out; echo err >&2; printf last")
    output = flux.job.job_output(handle, jobid)
    equal((output.stdout, output.stderr), ("out\nlast", "err\n"))
    lines = list(flux.job.output_watch_lines(handle, jobid, labelio=True))
    assert any("0: out" in line for _stream, line in lines), lines


@check
def every_task_runs_where_it_was_placed(handle):
    size = int(handle.attr_get("size"))
    job = spec("sh", "-c", "echo $FLUX_TASK_RANK/$FLUX_JOB_SIZE/$FLUX_JOB_NNODES", num_tasks=2 * size, num_nodes=size)
    jobid = flux.job.submit(handle, job)
    output = flux.job.job_output(handle, jobid)
    equal(sorted(output.stdout.split()), sorted(f"{n}/{2 * size}/{size}" for n in range(2 * size)))


@check
def a_time_limit_ends_a_job(handle):
    job = spec("sleep", "600")
    job.duration = 0.3
    jobid = flux.job.submit(handle, job)
    info = flux.job.result(handle, jobid)
    equal(info.result, "TIMEOUT")


@check
def dependencies_are_kept(handle):
    first = submit(handle, "true", urgency=0)
    second = spec("true")
    second.setattr("system.dependencies", [{"scheme": "afterok", "value": str(first)}])
    second = flux.job.submit(handle, second)
    equal(flux.job.event_wait(handle, second, "dependency-add").context["description"], f"after-success={first.f58}")
    handle.rpc("job-manager.urgency", {"id": int(first), "urgency": 16}).get()
    flux.job.event_wait(handle, second, "clean")
    start = {event.name: event.timestamp for event in flux.job.event_watch(handle, second)}["start"]
    end = {event.name: event.timestamp for event in flux.job.event_watch(handle, first)}["finish"]
    assert end <= start, "the second job started before the first had ended"


@check
def jobs_with_impossible_or_malformed_requests_are_refused(handle):
    job = spec("true", num_tasks=1, cores_per_task=100000)
    jobid = flux.job.submit(handle, job)
    names = {event.name: event.context for event in flux.job.event_watch(handle, jobid)}
    equal(names["exception"]["type"], "alloc", "exception")
    equal(errno_of(flux.job.submit, handle, '{"version":1}'), 1, "errno of a malformed jobspec")
    equal(errno_of(flux.job.submit, handle, "no json"), 22, "errno of no jobspec")


@check
def a_job_is_listed_by_id_with_its_attributes(handle):
    job = spec("sleep", "600")
    job.setattr("system.job.name", "named")
    jobid = flux.job.submit(handle, job)
    flux.job.event_wait(handle, jobid, "start")
    listed = until(
        lambda: (j := flux.job.job_list_id(handle, jobid, attrs=["all"]).get_job()).get("ranks") and j, "the ranks"
    )
    equal((listed["id"], listed["name"], listed["ntasks"], listed["nnodes"]), (jobid, "named", 1, 1))
    equal(listed["userid"], os.getuid(), "userid")
    equal(listed["urgency"], 16, "urgency")
    info = flux.job.JobInfo(listed)
    equal((info.state, info.status, info.username != ""), ("RUN", "RUN", True))
    assert info.runtime >= 0
    names = [j["name"] for j in flux.job.job_list(handle, name="named", max_entries=0).get_jobs()]
    equal(names, ["named"], "jobs of that name")
    queried = flux.job.job_list(handle, constraint={"and": [{"name": ["named"]}, {"states": ["running"]}]})
    equal([j["id"] for j in queried.get_jobs()], [jobid], "jobs under the constraint")
    flux.job.cancel(handle, jobid)
    flux.job.event_wait(handle, jobid, "clean", raiseJobException=False)
    equal(errno_of(flux.job.job_list_id(handle, 1).get_job), 2, "errno of an unknown id")


@check
def only_the_asked_attributes_are_listed(handle):
    jobid = submit(handle, "true")
    flux.job.event_wait(handle, jobid, "clean")
    listed = until(lambda: flux.job.job_list_id(handle, jobid, attrs=["name", "state"]).get_job(), "the job")
    equal(set(listed) <= {"id", "name", "state"}, True, f"keys {sorted(listed)}")
    inactive = flux.job.job_list_inactive(handle, max_entries=1, attrs=["t_inactive"]).get_jobs()
    equal(len(inactive), 1, "number of jobs")
    equal(errno_of(flux.job.job_list(handle, attrs=["no-such-attribute"]).get), 22, "errno of an unknown attribute")


@check
def job_statistics_count(handle):
    stats = JobStats(handle)
    stats.update_sync()
    before = (stats.successful, stats.failed)
    for command in ("true", "false"):
        flux.job.event_wait(handle, submit(handle, command), "clean", raiseJobException=False)

    def counted():
        stats.update_sync()
        return (stats.successful, stats.failed) == (before[0] + 1, before[1] + 1)

    until(counted, "the counts")


@check
def jobspec_and_resources_are_looked_up(handle):
    jobid = submit(handle, "true")
    flux.job.event_wait(handle, jobid, "clean")
    data = flux.job.job_kvs_lookup(handle, jobid, keys=["jobspec", "R", "eventlog"])
    equal(data["jobspec"]["tasks"][0]["command"], ["true"], "command")
    equal(data["R"]["version"], 1)
    equal(data["eventlog"].splitlines()[0].count('"submit"'), 1)
    original = flux.job.job_kvs_lookup(handle, jobid, keys=["jobspec"], original=True)
    equal(original["jobspec"]["version"], 1)
    assert "J" in flux.job.job_kvs_lookup(handle, jobid, keys=["J"])
    equal(flux.job.job_kvs_lookup(handle, 1, keys=["R"]), None, "data of an unknown job")


@check
def a_jobs_directory_is_readable(handle):
    jobid = submit(handle, "true")
    flux.job.event_wait(handle, jobid, "clean")
    top = flux.job.job_kvs(handle, jobid)
    assert "eventlog" in list(top), list(top)
    guest = flux.job.job_kvs_guest(handle, jobid)
    assert "exec.eventlog" in list(guest) or guest.exists("exec.eventlog"), list(guest)


@check
def the_journal_tells_of_every_event(handle):
    consumer = flux.job.JournalConsumer(handle, full=False).start()
    jobid = submit(handle, "true")
    names = []
    while "clean" not in names:
        event = consumer.poll(timeout=DEADLINE_S / 2)
        if event and event.jobid == jobid:
            names.append(event.name)
            if event.name == "submit":
                assert event.jobspec["version"] == 1
            if event.name == "alloc":
                assert event.R["version"] == 1
    equal(names[0], "submit")
    consumer.stop()


@check
def the_journal_can_start_with_history(handle):
    jobid = submit(handle, "true")
    flux.job.event_wait(handle, jobid, "clean")
    consumer = flux.job.JournalConsumer(handle, full=True, include_sentinel=True).start()
    names = []
    while True:
        event = consumer.poll(timeout=DEADLINE_S / 2)
        if event.is_empty():
            break
        if event.jobid == jobid:
            names.append(event.name)
    equal((names[0], names[-1]), ("submit", "clean"))
    consumer.stop()


@check
def the_executor_gives_futures(handle):
    with flux.job.FluxExecutor() as executor:
        futures = [executor.submit(spec("sh", "-c", f"exit {n % 3}")) for n in range(20)]
        equal([future.result(timeout=DEADLINE_S) for future in futures], [n % 3 for n in range(20)], "results")
        pending = executor.submit(spec("sleep", "600"))
        flux.job.cancel(handle, pending.jobid(timeout=DEADLINE_S))
        assert pending.exception(timeout=DEADLINE_S) is not None


@check
def the_watcher_shows_output_and_status(handle):
    with tempfile.TemporaryFile("w+") as out:
        watcher = JobWatcher(handle, stdout=out, stderr=out)
        watcher.start()
        for word in ("one", "two"):
            watcher.add_jobid(submit(handle, "sh", "-c", f"echo {word}; exit 4"))
        handle.reactor_run()
        out.seek(0)
        equal(sorted(line.split(": ")[-1].strip() for line in out if "one" in line or "two" in line), ["one", "two"])
        equal(watcher.exitcode, 4, "exit code")


@check
def a_pending_job_is_updated(handle):
    jobid = submit(handle, "true", urgency=0)
    flux.job.event_wait(handle, jobid, "priority")
    handle.rpc("job-manager.update", {"id": int(jobid), "updates": {"attributes.system.duration": 77.0}}).get()
    equal(flux.job.event_wait(handle, jobid, "jobspec-update").context, {"attributes.system.duration": 77.0})
    data = flux.job.job_kvs_lookup(handle, jobid, keys=["jobspec"])
    equal(data["jobspec"]["attributes"]["system"]["duration"], 77.0)
    flux.job.cancel(handle, jobid)


@check
def memos_are_kept(handle):
    jobid = submit(handle, "true", urgency=0)
    handle.rpc("job-manager.memo", {"id": int(jobid), "memo": {"word": "kept"}}).get()
    equal(flux.job.event_wait(handle, jobid, "memo").context, {"word": "kept"})
    listed = until(
        lambda: (j := flux.job.job_list_id(handle, jobid).get_job()).get("annotations", {}).get("user") and j, "memo"
    )
    equal(listed["annotations"]["user"], {"word": "kept"})
    flux.job.cancel(handle, jobid)


@check
def guests_see_the_queue_and_touch_nothing_of_others(handle):
    jobid = submit(handle, "true", urgency=0)
    flux.job.event_wait(handle, jobid, "priority")
    os.environ.update(FLUX_HANDLE_USERID="60001", FLUX_HANDLE_ROLEMASK="2")
    guest = flux.Flux()
    until(lambda: jobid in [j["id"] for j in flux.job.job_list(guest, max_entries=0).get_jobs()], "the job, seen by a guest")
    equal(guest.rpc("broker.ping", {}).get()["userid"], 60001, "userid")
    for name, action in {
        "cancel": lambda: flux.job.cancel(guest, jobid),
        "kill": lambda: flux.job.kill(guest, jobid, 15),
        "urgency": lambda: guest.rpc("job-manager.urgency", {"id": int(jobid), "urgency": 1}).get(),
        "watch": lambda: list(flux.job.event_watch(guest, jobid)),
        "look up": lambda: flux.job.job_info_lookup(guest, jobid, keys=["jobspec"]).get(),
        "read the KVS": lambda: flux.kvs.get(guest, "resource.R"),
        "drain": lambda: guest.rpc("resource.drain", {"targets": "0", "reason": "x"}, nodeid=0).get(),
        "set an attribute": lambda: guest.attr_set("test.guest", "x"),
        "run a process": lambda: subprocess.rexec_bg(guest, ["true"], nodeid=0).get_pid(),
        "stop a queue": lambda: guest.rpc("job-manager.queue-start", {"start": False, "all": True}).get(),
        "submit unsigned": lambda: submit(guest, "true"),
    }.items():
        equal(errno_of(action), 1, f"errno of a guest who tries to {name}")
    flux.job.cancel(handle, jobid)


# --- resources and queues -----------------------------------------------------------------------


@check
def resources_are_listed(handle):
    listing = flux.resource.list.resource_list(handle).get()
    size = int(handle.attr_get("size"))
    equal(listing.all.nnodes, size, "nodes")
    equal(listing.up.nnodes, size, "nodes up")
    assert listing.all.ncores >= size
    equal(listing.down.nnodes, 0, "nodes down")
    equal(len(list(listing.all.nodelist)), size, "host names")
    jobid = submit(handle, "sleep", "600")
    flux.job.event_wait(handle, jobid, "start")
    equal(flux.resource.list.resource_list(handle).get().allocated.ncores >= 1, True)
    flux.job.cancel(handle, jobid)
    flux.job.event_wait(handle, jobid, "free", raiseJobException=False)


@check
def a_node_is_drained_and_undrained(handle):
    last = int(handle.attr_get("size")) - 1
    handle.rpc("resource.drain", {"targets": str(last), "reason": "looked at", "mode": None}, nodeid=0).get()
    try:
        status = flux.resource.status.resource_status(handle).get()
        equal(str(status.drained), str(last), "drained")
        equal(status.get_drain_info(last).reason, "looked at", "reason")
    finally:
        handle.rpc("resource.undrain", {"targets": str(last)}, nodeid=0).get()
    equal(str(flux.resource.status.resource_status(handle).get().drained), "", "drained")


@check
def the_resource_journal_tells_of_drains(handle):
    consumer = flux.resource.ResourceJournalConsumer(handle, include_sentinel=True).start()
    names = []
    while (event := consumer.poll(timeout=DEADLINE_S / 2)) and not event.is_empty():
        names.append(event.name)
    assert "resource-define" in names, names
    handle.rpc("resource.drain", {"targets": "0", "reason": "x"}, nodeid=0).get()
    handle.rpc("resource.undrain", {"targets": "0"}, nodeid=0).get()
    later = [consumer.poll(timeout=DEADLINE_S / 2).name for _ in range(2)]
    equal(later, ["drain", "undrain"], "events")
    consumer.stop()


@check
def queues_are_told(handle):
    from flux.queue import QueueList

    queues = list(QueueList(handle))
    equal(len(queues), 1, "queues")
    equal((queues[0].enabled, queues[0].started), (True, True))
    assert queues[0].resources.all.ncores >= 1


@check
def a_stopped_queue_starts_nothing(handle):
    handle.rpc("job-manager.queue-start", {"start": False, "all": True, "nocheckpoint": False, "reason": "halt"}).get()
    try:
        jobid = submit(handle, "true")
        flux.job.event_wait(handle, jobid, "priority")
        status = handle.rpc("job-manager.queue-status", {}).get()
        equal((status["start"], status["stop_reason"]), (False, "halt"))
    finally:
        handle.rpc("job-manager.queue-start", {"start": True, "all": True, "nocheckpoint": False}).get()
    flux.job.event_wait(handle, jobid, "clean")


# --- the brokers --------------------------------------------------------------------------------


@check
def processes_run_on_every_rank(handle):
    for rank in range(int(handle.attr_get("size"))):
        started = subprocess.rexec_bg(
            handle, ["sh", "-c", "echo out; echo err >&2; exit 3"], label="conformance-ends", waitable=True, nodeid=rank
        )
        assert started.get_pid() > 0
        equal(started.get_rank(), rank, "rank")
        end = subprocess.wait(handle, label="conformance-ends", nodeid=rank)
        equal((end.get_status() >> 8, end.stdout, end.stderr), (3, b"out\n", b"err\n"))


@check
def processes_are_listed_and_killed(handle):
    last = int(handle.attr_get("size")) - 1
    pid = subprocess.rexec_bg(handle, ["sleep", "600"], label="conformance-long", waitable=True, nodeid=last).get_pid()
    listed = [p for p in subprocess.list(handle, nodeid=last).get_processes() if p.pid == pid]
    equal([p.cmd for p in listed], ["sleep"], "commands")
    subprocess.kill(handle, signum=signal.SIGTERM, label="conformance-long", nodeid=last).get()
    equal(subprocess.wait(handle, pid=pid, nodeid=last).get_status() & 0x7F, signal.SIGTERM, "signal it ended by")
    equal(errno_of(subprocess.rexec_bg(handle, ["/no/such/program"], nodeid=last).get_pid), 2, "errno")


@check
def the_uptime_and_overlay_health_are_told(handle):
    equal(handle.rpc("state-machine.get", {}).get()["state"] != "", True)
    health = handle.rpc("overlay.health", {}, nodeid=0).get()
    equal((health["rank"], health["status"]), (0, "full"))
    modules = {m["name"] for m in handle.rpc("module.list", {}, nodeid=0).get()["mods"]}
    assert {"kvs", "job-manager", "resource"} <= modules, sorted(modules)
    groups = handle.rpc("groups.get", {"name": "broker.online"}, nodeid=0).get()
    equal(groups["members"], "0" if handle.attr_get("size") == "1" else f"0-{int(handle.attr_get('size')) - 1}")


@check
def connections_leave_nothing_behind(handle):
    for _ in range(50):
        other = flux.Flux()
        other.event_subscribe("conformance.left")
        flux.job.event_watch_async(other, submit(other, "true"))
        del other

    def mine():
        server = handle.rpc("connector-local.stats-get", {}).get()["server"]
        assert server["connects"] > 50
        return [client for client in server["clients"] if client["pid"] == os.getpid()]

    until(lambda: len(mine()) == 1, "the end of the connections")


@check
def a_request_whose_server_leaves_is_answered(handle):
    server = flux.Flux()
    server.service_register("conformance-leaves").get()
    future = handle.rpc("conformance-leaves.never", {})
    server.recv(type_mask=flux.constants.FLUX_MSGTYPE_REQUEST)
    del server
    equal(errno_of(future.get), 38, "errno")


@check
def the_log_of_a_job_that_never_ran_is_empty(handle):
    jobid = submit(handle, "true", urgency=0)
    logs = flux.Flux()
    future = flux.job.event_watch_async(logs, jobid, eventlog="guest.exec.eventlog")
    flux.job.cancel(handle, jobid)
    equal(future.get_event(), None, "event")
    equal(events_of(handle, jobid, "guest.exec.eventlog"), [], "events of a watch begun later")


# --- the run ----------------------------------------------------------------------------------


def run(function):
    """Runs one check in a process of its own; what went wrong, or None."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setpgid(0, 0)
        said = ""
        try:
            function(flux.Flux())
        except BaseException:
            said = traceback.format_exc()
        os.write(writer, said.encode()[-60000:])
        os._exit(1 if said else 0)
    os.close(writer)
    end = time.monotonic() + DEADLINE_S
    late = False
    status = None
    while status is None:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = code
        elif time.monotonic() > end and not late:
            late = True
            os.kill(child, signal.SIGKILL)
        else:
            time.sleep(0.005)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    if late:
        return f"not done within {DEADLINE_S} s"
    if status:
        return said or f"ended with wait status {status}"
    return None


def main(words):
    try:
        handle = flux.Flux()
        print(f"# {handle.attr_get('size')} brokers of version {handle.attr_get('version')}, {len(CHECKS)} checks")
        del handle
    except OSError as error:
        print(f"no instance to check: {error}", file=sys.stderr)
        return 2
    verbose = "-v" in words
    words = [word for word in words if word != "-v"]
    chosen = [f for f in CHECKS if not words or any(word in f.__name__ for word in words)]
    failed = 0
    for function in chosen:
        name = function.__name__.replace("_", " ")
        begin = time.monotonic()
        wrong = run(function)
        print(f"{'not ok' if wrong else 'ok    '} {time.monotonic() - begin:6.2f}s {name}", flush=True)
        if wrong:
            failed += 1
            lines = wrong.strip().splitlines()
            print("\n".join(f"       {line}" for line in (lines if verbose else lines[-3:])), flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
