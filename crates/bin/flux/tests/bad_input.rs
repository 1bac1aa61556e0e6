//! Wrong words for every command: one clear sentence, the right exit code, no panic, no hang.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "support/instance.rs"]
mod instance;

/// A line for the shell, the exit code, and what is said about it, on either output.
const MISTAKES: &[(&str, i32, &str)] = &[
    ("flux submit", 1, "flux-submit: ERROR: job command and arguments are missing"),
    ("flux submit -n0 true", 1, "flux-submit: ERROR: task count must be a integer >= 1"),
    ("flux submit -n-1 true", 1, "flux-submit: ERROR: task count must be a integer >= 1"),
    ("flux submit -nx true", 2, "flux submit: error: argument --ntasks: invalid value: 'x'"),
    ("flux submit -N0 true", 1, "flux-submit: ERROR: node count must be an integer >= 1 (if set)"),
    ("flux submit -c0 true", 1, "flux-submit: ERROR: cores per task must be an integer >= 1"),
    ("flux submit -t xx true", 1, "flux-submit: ERROR: invalid Flux standard duration"),
    ("flux submit -t -5 true", 1, "flux-submit: ERROR: invalid Flux standard duration"),
    (
        "flux submit --urgency=99 true",
        1,
        "flux-submit: ERROR: invalid urgency '99': expected 0 to 31, hold, default or expedite",
    ),
    (
        "flux submit --urgency=x true",
        1,
        "flux-submit: ERROR: invalid urgency 'x': expected 0 to 31, hold, default or expedite",
    ),
    (
        "flux submit --dependency=foo true",
        1,
        "flux-submit: ERROR: --dependency=foo: expected SCHEME:VALUE",
    ),
    (
        "flux submit --dependency=nosuch:1 true",
        1,
        "[Errno 22] dependency scheme \"nosuch\" not supported",
    ),
    (
        "flux submit --dependency=afterok:zzz! true",
        1,
        "[Errno 22] dependency: afterok: \"zzz!\" is not a valid jobid",
    ),
    (
        "flux submit --dependency=afterok:f1 true",
        1,
        "[Errno 22] dependency: afterok: id f1: job not found",
    ),
    ("flux submit --dependency=begin-time:xx true", 1, "[Errno 22] Invalid begin-time=xx"),
    (
        "flux submit --begin-time=yesterdayish true",
        1,
        "flux-submit: ERROR: Invalid datetime: \"yesterdayish\"",
    ),
    (
        "flux submit --requires='x&' true",
        1,
        "flux-submit: ERROR: --requires='x&': Unexpected end of input",
    ),
    ("flux submit -q nosuch true", 1, "[Errno 22] 'nosuch' is not a valid queue"),
    ("flux submit --setattr==1 true", 1, "flux-submit: ERROR: system. is not a key of a jobspec"),
    ("flux submit --setopt= true", 1, "flux-submit: ERROR:  is not a key of a jobspec"),
    (
        "flux submit --rlimit=nosuch true",
        1,
        "flux-submit: ERROR: No corresponding rlimit matching \"nosuch\"",
    ),
    (
        "flux submit --rlimit=nofile=x true",
        1,
        "flux-submit: ERROR: Invalid value in --rlimit=nofile=x",
    ),
    (
        "flux submit --env-file=/nosuch true",
        1,
        "flux-submit: ERROR: --env: [Errno 2] No such file or directory: '/nosuch'",
    ),
    (
        "flux submit --add-file=/nosuch true",
        1,
        "flux-submit: ERROR: --add-file: [Errno 2] No such file or directory: '/nosuch'",
    ),
    (
        "flux submit --signal=FOO@1m true",
        1,
        "flux-submit: ERROR: --signal=FOO@1m: signal 'FOO' is invalid",
    ),
    ("flux submit --signal=x true", 1, "flux-submit: ERROR: --signal=x: signal 'x' is invalid"),
    ("flux submit --flags=nosuch true", 1, "flux-submit: ERROR: --flags: Unknown flag nosuch"),
    (
        "flux submit --exclusive -n1 true",
        1,
        "flux-submit: ERROR: --exclusive requires a node count (--nodes)",
    ),
    (
        "flux submit --cores=2 -n2 true",
        1,
        "flux-submit: ERROR: Per-resource options can't be used with per-task options. (See --help for details)",
    ),
    (
        "flux submit --tasks-per-node=0 true",
        1,
        "flux-submit: ERROR: tasks per node must be an integer >= 1",
    ),
    ("flux submit --cc=x true", 1, "flux-submit: ERROR: --cc=x: invalid idset"),
    ("flux submit --cc=1-1000000000 true", 1, "flux-submit: ERROR: more than 1000000 jobs"),
    ("flux batch", 1, "flux-batch: ERROR: stdin does not appear to be a script"),
    ("flux batch /nosuch", 1, "flux-batch: ERROR: No such file or directory: '/nosuch'"),
    (
        "flux batch -n1 /etc/passwd",
        1,
        "flux-batch: ERROR: /etc/passwd does not appear to be a script",
    ),
    ("flux batch -n1 --wrap", 1, "flux-batch: ERROR: job command and arguments are missing"),
    (
        "flux batch --conf=/nosuch -n1 --wrap true",
        1,
        "flux-batch: ERROR: --conf: [Errno 2] No such file or directory: '/nosuch'",
    ),
    (
        "flux batch --conf=x -n1 --wrap true",
        1,
        "flux-batch: ERROR: --conf: [Errno 2] No such file or directory: 'x'",
    ),
    ("flux alloc", 1, "flux-alloc: ERROR: Number of slots to allocate must be specified"),
    ("flux alloc -nx", 2, "flux alloc: error: argument --nslots: invalid value: 'x'"),
    ("flux cancel", 1, "flux-cancel: ERROR: No target jobs were provided"),
    ("flux cancel zz!", 2, "flux cancel: error: argument JOBID...: invalid JobID value: 'zz!'"),
    ("flux cancel f1", 1, "flux-cancel: ERROR: ƒ1: unknown job id"),
    ("flux cancel --states=nosuch --all", 1, "flux-cancel: ERROR: Invalid state specified: nosuch"),
    ("flux cancel --user=nosuch --all", 1, "flux-cancel: ERROR: Invalid user nosuch specified"),
    ("flux job attach", 1, "flux-job: the following arguments are required: <ID>"),
    ("flux job attach x!", 1, "flux-job: x!: malformed input"),
    ("flux job attach f1", 1, "flux-job: Failed to attach to f1: No such job"),
    ("flux job status f1", 1, "flux-job: f1: No such job"),
    ("flux job wait", 2, "flux-job: there are no more waitable jobs"),
    ("flux job wait f1", 2, "flux-job: invalid job id, or job may be inactive and not waitable"),
    ("flux job wait-event f1 start", 1, "flux-job: job f1 not found"),
    ("flux job wait-event -t x f1 start", 1, "flux-job: x: no duration"),
    ("flux job eventlog f1", 1, "flux-job: job f1 not found"),
    ("flux job info f1 J", 1, "flux-job: J: key not found"),
    ("flux job kill f1", 1, "flux-job: kill ƒ1: unknown job id"),
    ("flux job kill -s NOSUCH f1", 1, "flux-job: invalid signal NOSUCH"),
    ("flux job raise f1", 1, "flux-job: raise ƒ1: unknown job id"),
    ("flux job raise --severity=99 f1", 1, "flux-job: raise ƒ1: invalid exception severity"),
    ("flux job urgency f1 5", 1, "flux-job: ƒ1: unknown job"),
    (
        "flux job urgency f1 x",
        1,
        "flux-job: invalid urgency: expected 0 to 31, hold, default or expedite",
    ),
    ("flux job urgency f1 99", 1, "flux-job: ƒ1: urgency value is out of range"),
    ("flux job id nosuch!", 1, "flux-job: nosuch!: malformed input"),
    ("flux job id --to=nosuch f1", 1, "flux-job: unknown form: nosuch"),
    ("flux job id --from=nosuch f1", 1, "flux-job: unrecognized option '--from'"),
    ("flux job taskmap x", 1, "flux-job: x: malformed input"),
    (
        "flux job taskmap --to=nosuch '[[0,1,1,1]]'",
        1,
        "flux-job: invalid value 'nosuch' for '--to <FORM>'",
    ),
    ("flux job timeleft f1", 1, "flux-job: f1: R: key not found"),
    ("flux job list-ids f1", 1, "flux-job: ƒ1: No such job"),
    ("flux job memo f1", 1, "flux-job: the following arguments are required: [KEY=VAL]..."),
    ("flux job memo f1 a=b", 1, "flux-job: ƒ1: unknown job id"),
    ("flux job purge --age-limit=x", 1, "flux-job: x: no duration"),
    ("flux job purge -f f1", 1, "flux-job: ƒ1: id not found"),
    ("flux job submit /nosuch", 1, "flux-job: /nosuch: No such file or directory"),
    (
        "flux job submit /etc/passwd",
        1,
        "flux-job: submit: jobspec: invalid JSON: expected value at line 1 column 1",
    ),
    ("echo '{}' | flux job submit", 1, "flux-job: submit: version: missing"),
    ("echo '{\"version\":9}' | flux job submit", 1, "flux-job: submit: resources: missing"),
    (
        "echo '{\"version\":1,\"resources\":[],\"tasks\":[],\"attributes\":{}}' | flux job submit",
        1,
        "flux-job: submit: resources: expected a list of at least one resource, got an empty list",
    ),
    (
        "echo '[' | flux job submit",
        1,
        "flux-job: submit: jobspec: invalid JSON: EOF while parsing a list at line 2 column 0",
    ),
    (
        "head -c 100000 /dev/zero | tr '\\0' '[' | flux job submit",
        1,
        "flux-job: submit: jobspec: invalid JSON: recursion limit exceeded at line 1 column 128",
    ),
    ("flux job nosuch", 1, "flux-job: unrecognized subcommand 'nosuch'"),
    ("flux jobs -f nosuch", 1, "flux-jobs: ERROR: Invalid filter specified: nosuch"),
    (
        "flux jobs -o '{nosuch}'",
        1,
        "flux-jobs: ERROR: Error in user format: Unknown format field: nosuch",
    ),
    (
        "flux jobs -o '{id'",
        1,
        "flux-jobs: ERROR: Error in user format: expected '}' before end of string",
    ),
    (
        "flux jobs -o '{id:!}'",
        1,
        "flux-jobs: ERROR: Error in user format: Invalid format specifier '!' for field 'id'",
    ),
    (
        "flux jobs -o nosuchformat",
        1,
        "flux-jobs: ERROR: Error in user format: Unknown format name: nosuchformat",
    ),
    ("flux jobs --sort=nosuch", 1, "flux-jobs: ERROR: Invalid sort key: nosuch"),
    ("flux jobs -u nosuch", 1, "flux-jobs: ERROR: Invalid user nosuch specified"),
    ("flux jobs --since=xx", 1, "flux-jobs: ERROR: --since: \"xx\" is no time in the past"),
    ("flux jobs -c", 2, "flux jobs: error: argument --count: expected one argument"),
    ("flux jobs -c x", 2, "flux jobs: error: argument --count: invalid value: 'x'"),
    ("flux jobs -c -1", 2, "flux jobs: error: unrecognized arguments: -1"),
    ("flux jobs f1", 1, "JobID f1 unknown"),
    ("flux jobs x!", 1, "JobID x! unknown"),
    ("flux jobs -i 'x['", 1, "flux-jobs: ERROR: -i/--include: invalid targets: x["),
    (
        "flux jobs --include='nosuch['",
        1,
        "flux-jobs: ERROR: -i/--include: invalid targets: nosuch[",
    ),
    ("flux pgrep", 2, "flux pgrep: error: the following arguments are required: [EXPRESSION]..."),
    ("flux pgrep '['", 1, "flux-pgrep: ERROR: invalid pattern '[': found unclosed character class"),
    (
        "flux pgrep 'x{99999999}'",
        1,
        "flux-pgrep: ERROR: invalid pattern 'x{99999999}': compiled regex exceeded size limit",
    ),
    ("flux pkill", 2, "flux pkill: error: the following arguments are required: [EXPRESSION]..."),
    ("flux pkill '['", 1, "flux-pkill: ERROR: invalid pattern '[': found unclosed character class"),
    ("flux watch", 1, "flux-watch: ERROR: At least one job selection option is required"),
    ("flux watch f1", 1, "ƒ1: invalid job id"),
    (
        "flux update",
        2,
        "flux update: error: the following arguments are required: <JOBID>, [KEY=VAL]...",
    ),
    ("flux update f1 duration=1", 1, "flux-update: ERROR: unknown job id"),
    ("flux update f1 duration=x", 1, "flux-update: ERROR: invalid Flux standard duration"),
    ("flux update f1 x", 1, "flux-update: ERROR: x: expected KEY=VALUE"),
    (
        "flux queue",
        2,
        "flux queue: error: 'flux queue' requires a subcommand but one was not provided",
    ),
    ("flux queue status nosuch", 1, "flux-queue: ERROR: status: 'nosuch' is not a valid queue"),
    ("flux queue stop nosuch", 1, "flux-queue: ERROR: stop: 'nosuch' is not a valid queue"),
    ("flux queue enable -q nosuch", 2, "flux queue: error: unrecognized arguments: -q"),
    ("flux queue drain -t x", 1, "flux-queue: ERROR: --timeout: invalid duration 'x'"),
    ("flux queue idle -t x", 1, "flux-queue: ERROR: --timeout: invalid duration 'x'"),
    (
        "flux resource",
        2,
        "flux resource: error: 'flux resource' requires a subcommand but one was not provided",
    ),
    (
        "flux resource list -o '{nosuch}'",
        1,
        "flux-resource: ERROR: Error in user format: Unknown format field: nosuch",
    ),
    ("flux resource list -i 'x['", 1, "flux-resource: ERROR: --include: invalid targets: x["),
    ("flux resource list -q nosuch", 1, "flux-resource: ERROR: queue nosuch does not exist"),
    ("flux resource drain 9", 1, "flux-resource: ERROR: [Errno 22] idset is out of range"),
    (
        "flux resource drain nosuch",
        1,
        "flux-resource: ERROR: [Errno 22] invalid targets: invalid hosts: nosuch",
    ),
    (
        "flux resource drain 'x['",
        1,
        "flux-resource: ERROR: [Errno 22] invalid targets: invalid hostlist: unexpected or unbalanced bracket in 'x['",
    ),
    (
        "flux resource drain 0:",
        1,
        "flux-resource: ERROR: [Errno 22] invalid targets: '' is not like core[0-3],gpu0",
    ),
    ("flux resource undrain 0", 1, "flux-resource: ERROR: rank 0 not drained"),
    ("flux resource undrain 9", 1, "flux-resource: ERROR: idset is out of range"),
    (
        "flux resource status -o '{'",
        1,
        "flux-resource: ERROR: Error in user format: Single '{' encountered in format string",
    ),
    ("flux resource info 9", 2, "flux resource: error: unrecognized arguments: 9"),
    ("flux resource eventlog -f nosuch", 1, "flux-resource: ERROR: invalid format type"),
    ("flux resource acquire-mute x", 2, "flux resource: error: unrecognized arguments: x"),
    ("flux R encode -r x", 1, "flux-R: --ranks=x: invalid idset: 'x' is not an id or range"),
    ("flux R encode -c x", 1, "flux-R: --cores=x: invalid idset: 'x' is not an id or range"),
    (
        "flux R encode -H 'x['",
        1,
        "flux-R: invalid hostlist: unexpected or unbalanced bracket in 'x['",
    ),
    ("flux R encode -r 0-1 -H a", 1, "flux-R: nodelist: 1 hosts for 2 ranks"),
    (
        "flux R encode -p 'a!:0' -r0 -c0",
        1,
        "flux-R: property 'a!': name is empty or contains one of ! & ' \" ^ ` | ( )",
    ),
    ("flux R decode </dev/null", 1, "flux-R: no resource set on standard input"),
    ("echo '{}' | flux R decode", 1, "flux-R: stdin: version: expected 1"),
    (
        "echo '{\"version\":1}' | flux R decode --short",
        1,
        "flux-R: stdin: execution: expected an object",
    ),
    ("flux R append /nosuch", 1, "flux-R: unrecognized option '/nosuch'"),
    ("flux R diff", 1, "flux-R: no resource set on standard input"),
    ("flux R set-property x:0 </dev/null", 1, "flux-R: no resource set on standard input"),
    ("flux R verify </dev/null", 1, "flux-R: no resource set on standard input"),
    (
        "flux hostlist 'a['",
        1,
        "flux-hostlist: ERROR: invalid hostlist: unexpected or unbalanced bracket in 'a['",
    ),
    (
        "flux hostlist -i 9 a",
        1,
        "flux-hostlist: ERROR: 9: R: key not found (--fallback takes it for a host)",
    ),
    ("flux hostlist --nth=99 a", 1, "flux-hostlist: ERROR: --nth: invalid index '99'"),
    (
        "flux hostlist -x 'b[' a",
        1,
        "flux-hostlist: ERROR: --exclude: invalid hostlist: unexpected or unbalanced bracket in 'b['",
    ),
    ("flux kvs get", 1, "flux-kvs: the following arguments are required: [KEY]..."),
    ("flux kvs get nosuch", 1, "flux-kvs: nosuch: No such file or directory"),
    ("flux kvs get .", 1, "flux-kvs: .: Is a directory"),
    ("flux kvs get a..b", 1, "flux-kvs: a..b: No such file or directory"),
    ("flux kvs put", 1, "flux-kvs: the following arguments are required: [KEY=VALUE]..."),
    ("flux kvs put a", 1, "flux-kvs: put: you must specify a value as key=value"),
    ("flux kvs put =1", 1, "flux-kvs: flux_kvs_commit: kvs: kvs key is empty"),
    (
        "flux kvs put -N nosuch a=1",
        1,
        "flux-kvs: flux_kvs_commit: kvs: namespace 'nosuch' does not exist",
    ),
    ("flux kvs put .=1", 1, "flux-kvs: flux_kvs_commit: kvs: the root '.' cannot be written"),
    ("flux kvs dir nosuch", 1, "flux-kvs: nosuch: No such file or directory"),
    ("flux kvs ls nosuch", 1, "flux-kvs: nosuch: No such file or directory"),
    ("flux kvs unlink nosuch", 1, "flux-kvs: nosuch: No such file or directory"),
    ("flux kvs link a", 1, "flux-kvs: the following arguments are required: <LINKNAME>"),
    ("flux kvs readlink nosuch", 1, "flux-kvs: nosuch: kvs: key 'nosuch' does not exist"),
    ("flux kvs mkdir", 1, "flux-kvs: the following arguments are required: [KEY]..."),
    ("flux kvs copy nosuch b", 1, "flux-kvs: nosuch: No such file or directory"),
    ("flux kvs move nosuch b", 1, "flux-kvs: nosuch: No such file or directory"),
    ("flux kvs eventlog get nosuch", 1, "flux-kvs: nosuch: No such file or directory"),
    ("flux kvs eventlog append a", 1, "flux-kvs: the following arguments are required: <NAME>"),
    ("flux kvs eventlog wait-event nosuch e", 1, "flux-kvs: nosuch: No such file or directory"),
    (
        "flux kvs eventlog append a name notjson",
        1,
        "flux-kvs: context: expected ident at line 1 column 2",
    ),
    ("flux kvs wait x", 1, "flux-kvs: invalid version"),
    ("flux kvs namespace create", 1, "flux-kvs: the following arguments are required: [NAME]..."),
    (
        "flux kvs namespace create primary",
        1,
        "flux-kvs: primary: kvs: namespace 'primary' exists already",
    ),
    (
        "flux kvs namespace remove primary",
        1,
        "flux-kvs: primary: kvs: namespace 'primary' cannot be removed",
    ),
    (
        "flux content load x",
        1,
        "flux-content: invalid blobref 'x': unknown hash algorithm in blobref 'x'",
    ),
    ("flux content nosuch", 1, "flux-content: unrecognized subcommand 'nosuch'"),
    ("flux exec", 1, "flux-exec: no command was given"),
    ("flux exec -r 9 true", 1, "flux-exec: One or more invalid --ranks specified: 9"),
    ("flux exec -r x true", 1, "flux-exec: host x is not in this instance"),
    (
        "flux exec nosuchprogram",
        127,
        "flux-exec: Error: rank 0: nosuchprogram: error launching process: No such file or directory",
    ),
    ("flux exec -x all true", 1, "flux-exec: No targets specified"),
    (
        "flux exec -d /nosuch true",
        127,
        "flux-exec: Error: rank 0: true: error launching process: No such file or directory",
    ),
    ("flux exec --jobid=f1 true", 1, "flux-exec: job f1: R: key not found"),
    (
        "flux exec --service=nosuch true",
        1,
        "flux-exec: Error: rank 0: true: No service matching nosuch.exec is registered",
    ),
    ("flux ping", 1, "flux-ping: the following arguments are required: <TARGET>"),
    ("flux ping nosuch", 1, "flux-ping: nosuch.ping: Function not implemented"),
    ("flux ping 9", 1, "flux-ping: 9!broker.ping: No route to host"),
    ("flux ping -c x kvs", 1, "flux-ping: --count: 'x' is not a number"),
    ("flux ping -i -1 kvs", 1, "flux-ping: unrecognized option '-1'"),
    ("flux ping -p -1 kvs", 1, "flux-ping: unrecognized option '-1'"),
    ("flux ping --rank=x kvs", 1, "flux-ping: invalid rank"),
    ("flux getattr", 1, "flux-getattr: the following arguments are required: <NAME>"),
    ("flux getattr nosuch", 1, "flux-getattr: nosuch: No such file or directory"),
    ("flux setattr", 1, "flux-setattr: the following arguments are required: <NAME>, <VALUE>"),
    ("flux setattr rank 5", 1, "flux-setattr: rank: attribute may not be updated"),
    ("flux setattr nosuch", 1, "flux-setattr: the following arguments are required: <VALUE>"),
    ("flux lsattr x", 1, "flux-lsattr: unrecognized option 'x'"),
    ("flux module", 1, "flux-module: 'flux module' requires a subcommand but one was not provided"),
    ("flux module list x", 1, "flux-module: unrecognized option 'x'"),
    ("flux module load nosuch", 1, "flux-module: load nosuch: module not found in search path"),
    ("flux module remove nosuch", 1, "flux-module: remove nosuch: No such file or directory"),
    (
        "flux module stats nosuch",
        1,
        "flux-module: nosuch: No service matching nosuch.stats-get is registered",
    ),
    ("flux module reload nosuch", 1, "flux-module: remove nosuch: No such file or directory"),
    (
        "flux module debug nosuch",
        1,
        "flux-module: nosuch: No service matching nosuch.debug is registered",
    ),
    ("flux event pub", 1, "flux-event: the following arguments are required: <TOPIC>"),
    ("flux event pub '' x", 1, "flux-event: payload must be a JSON object"),
    ("flux event pub a notjson", 1, "flux-event: payload must be a JSON object"),
    ("flux event sub -c x", 1, "flux-event: --count: 'x' is not a number"),
    ("flux config get nosuch", 1, "flux-config: nosuch is not set"),
    ("flux config get --type=nosuch tbon", 1, "flux-config: tbon is not set"),
    ("flux config builtin nosuch", 1, "flux-config: nosuch: invalid key"),
    (
        "flux config load /nosuch",
        1,
        "flux-config: Config file error: /nosuch: No such file or directory",
    ),
    ("echo 'x' | flux config load", 1, "flux-config: stdin: TOML parse error at line 1, column 2"),
    ("flux config reload x", 1, "flux-config: unrecognized option 'x'"),
    ("flux dmesg -x", 1, "flux-dmesg: unrecognized option '-x'"),
    (
        "flux dmesg --human=x",
        1,
        "flux-dmesg: unexpected value 'x' for '--human' found; no more were expected",
    ),
    ("flux logger", 1, "flux-logger: the following arguments are required: [MESSAGE]..."),
    (
        "flux logger --severity=nosuch x",
        1,
        "flux-logger: invalid severity: Use emerg|alert|crit|err|warning|notice|info|debug",
    ),
    (
        "flux overlay",
        1,
        "flux-overlay: 'flux overlay' requires a subcommand but one was not provided",
    ),
    ("flux overlay status -r 9", 1, "flux-overlay: rank 9 is not in this instance"),
    ("flux overlay status --wait=nosuch", 1, "flux-overlay: invalid --wait state 'nosuch'"),
    ("flux overlay status -t x", 1, "flux-overlay: --timeout: invalid duration 'x'"),
    ("flux overlay lookup x", 1, "flux-overlay: unknown host x"),
    ("flux overlay parentof x", 1, "flux-overlay: unknown host x"),
    ("flux overlay parentof 9", 1, "flux-overlay: rank 9 is not in this instance"),
    ("flux overlay disconnect 9", 1, "flux-overlay: rank 9 is not in this instance"),
    ("flux overlay disconnect x", 1, "flux-overlay: unknown host x"),
    ("flux overlay errors x", 1, "flux-overlay: unrecognized option 'x'"),
    ("flux uri", 2, "flux uri: error: the following arguments are required: <TARGET>"),
    ("flux uri nosuch://x", 1, "flux-uri: ERROR: unknown URI scheme 'nosuch' (x)"),
    ("flux uri f1", 1, "flux-uri: ERROR: jobid f1 not found"),
    ("flux uri pid:x", 1, "flux-uri: ERROR: x is not a process id"),
    ("flux uri jobid:x!", 1, "flux-uri: ERROR: x! is not a valid Flux jobid"),
    ("flux proxy", 1, "flux-proxy: the following arguments are required: <URI|JOBID>"),
    ("flux proxy nosuchhost", 1, "flux-proxy: Unable to resolve nosuchhost to a URI"),
    ("flux proxy f1 true", 1, "flux-proxy: Unable to resolve f1 to a URI"),
    ("flux proxy pid:999999 true", 1, "flux-proxy: Unable to resolve pid:999999 to a URI"),
    ("flux uptime x", 1, "flux-uptime: unrecognized option 'x'"),
    ("flux version x", 1, "flux-version: unrecognized option 'x'"),
    ("flux shutdown --nosuch", 1, "flux-shutdown: unrecognized option '--nosuch'"),
    ("flux shutdown x!", 1, "flux-shutdown: Unable to resolve x! to a URI"),
    ("flux cron", 1, "flux-cron: 'flux cron' requires a subcommand but one was not provided"),
    (
        "flux cron interval",
        1,
        "flux-cron: the following arguments are required: <INTERVAL>, [COMMAND]...",
    ),
    ("flux cron interval x true", 1, "flux-cron: interval: 'x' is not a duration"),
    ("flux cron interval -c x 1s true", 1, "flux-cron: count: 'x' is not a number"),
    (
        "flux cron event",
        1,
        "flux-cron: the following arguments are required: <TOPIC>, [COMMAND]...",
    ),
    ("flux cron at x true", 1, "flux-cron: Invalid datetime: \"x\""),
    ("flux cron tab /nosuch", 1, "flux-cron: /nosuch: No such file or directory"),
    (
        "echo 'bogus line' | flux cron tab",
        1,
        "flux-cron: -:1: 'bogus line' is not `minute hour day month weekday command`",
    ),
    ("flux cron delete x", 1, "flux-cron: invalid id 'x'"),
    ("flux cron delete 99", 1, "flux-cron: cron-99 does not exist"),
    ("flux cron stop 99", 1, "flux-cron: cron-99 does not exist"),
    ("flux cron start 99", 1, "flux-cron: cron-99 does not exist"),
    ("flux cron sync --epsilon=x e", 1, "flux-cron: epsilon: 'x' is not a duration"),
    ("flux dump", 1, "flux-dump: the following arguments are required: <OUTFILE>"),
    ("flux restore", 1, "flux-restore: the following arguments are required: <INFILE>"),
    ("flux restore /nosuch", 1, "flux-restore: /nosuch: No such file or directory"),
    ("flux fsck --nosuch", 1, "flux-fsck: unrecognized option '--nosuch'"),
    ("flux gc x", 1, "flux-gc: unrecognized option 'x'"),
    ("flux jobtap", 1, "flux-jobtap: 'flux jobtap' requires a subcommand but one was not provided"),
    ("flux jobtap load nosuch", 1, "flux-jobtap: ERROR: nosuch: No such plugin found"),
    ("flux jobtap remove nosuch", 1, "flux-jobtap: ERROR: Failed to find plugin to remove"),
    ("flux jobtap query nosuch", 1, "flux-jobtap: ERROR: nosuch not found"),
    (
        "flux housekeeping list -o '{'",
        1,
        "flux-housekeeping: ERROR: Error in user format: Single '{' encountered in format string",
    ),
    ("flux housekeeping kill", 1, "flux-housekeeping: ERROR: specify --jobid, --targets or --all"),
    ("flux housekeeping kill --jobid=f1", 1, "flux-housekeeping: ERROR: ƒ1 is not in housekeeping"),
    (
        "flux perilog-run",
        2,
        "flux perilog-run: error: 'flux perilog-run' requires a subcommand but one was not provided",
    ),
    (
        "FLUX_JOB_ID=f1 flux perilog-run prolog -v -d /nosuch/d",
        0,
        "flux-perilog-run: /nosuch/d: not there, nothing to run",
    ),
    (
        "FLUX_JOB_ID=f1 flux perilog-run epilog -d /etc/passwd",
        1,
        "flux-perilog-run: ERROR: /etc/passwd: Not a directory",
    ),
    (
        "flux perilog-run prolog",
        1,
        "flux-perilog-run: ERROR: FLUX_JOB_ID is not set: this runs for a job",
    ),
    ("flux completion nosuch", 1, "flux-completion: nosuch: unknown shell: use bash, zsh or fish"),
    ("flux help nosuch", 1, "flux: `nosuch' is not a flux command.  See 'flux --help'"),
    ("flux nosuch", 1, "flux: `nosuch' is not a flux command.  See 'flux --help'"),
    ("flux kvs get -N nosuch a", 1, "namespace 'nosuch' does not exist"),
    ("flux pstree f1", 1, "flux-pstree: ERROR: JobID f1 unknown"),
    ("flux jobs --since=+1h", 1, "\"+1h\" is no time in the past"),
    (
        "flux restore /etc/passwd",
        1,
        "flux-restore: /etc/passwd: the archive is damaged, or is none",
    ),
    (
        "flux housekeeping kill --targets=nosuch",
        1,
        "flux-housekeeping: ERROR: nosuch is not in this instance",
    ),
    (
        "flux start -Sbroker.quorum=9 true",
        1,
        "flux-broker: broker.quorum: '9' is no number from 0 to 1",
    ),
    ("flux start -Sbroker.quorum=x true", 1, "broker.quorum: 'x' is no number"),
    ("flux start -Stbon.topo=kary:x true", 1, "invalid topology 'kary:x'"),
    ("flux start -Slog-level=x true", 1, "log-level: 'x' is not a log level"),
    (
        "flux start -Scontent.hash=nosuch true",
        1,
        "content.hash: 'nosuch' is neither sha1 nor sha256",
    ),
    (
        "flux start -Scontent.backing-path=store.sqlite true",
        1,
        "content.backing-path: 'store.sqlite': expected DIRECTORY/content.sqlite",
    ),
    (
        "flux start -Sstatedir=/a -Scontent.backing-path=/b/content.sqlite true",
        1,
        "content.backing-path: '/b/content.sqlite' is not in the state directory /a",
    ),
    ("flux start -Slocal-uri=x true", 1, "local-uri: 'x' does not begin with local://"),
    ("flux start -Snosuch=1 true", 1, "setattr: nosuch: unknown attribute"),
    ("flux start --config-path=/nosuch true", 1, "/nosuch: No such file or directory"),
    ("flux start --nosuch", 1, "unrecognized option '--nosuch'"),
    ("flux start --test-size=0 true", 1, "'0'"),
    ("flux broker --nosuch", 1, "flux-broker: unrecognized option '--nosuch'"),
    (
        "flux run --requires=nosuchprop true",
        1,
        "unsatisfiable request: no node satisfies the constraints",
    ),
    (
        "flux run --requires=-rank:0 true",
        1,
        "unsatisfiable request: no node satisfies the constraints",
    ),
    ("flux run -N9 true", 1, "unsatisfiable request: need 9 exclusive node(s), only 1 eligible"),
    (
        "flux run -g9 true",
        1,
        "unsatisfiable request: need 1 slot(s) with 9 GPU(s) each, only 0 available",
    ),
    ("flux run /nosuch", 127, "start failed: /nosuch: No such file or directory"),
    ("flux run /etc/passwd", 126, "start failed: /etc/passwd: Permission denied"),
    (
        "flux run --input=/nosuch cat",
        1,
        "error opening input file '/nosuch': No such file or directory",
    ),
    (
        "flux run --output=/nosuch/x true",
        1,
        "error opening output file '/nosuch/x': No such file or directory",
    ),
    ("flux run -o exit-timeout=x true", 1, "invalid shell option exit-timeout=\"x\""),
    ("flux run -o initrc=/nosuch true", 1, "option initrc is not served by this shell"),
    ("flux run --taskmap=bogus true", 1, "failed to map tasks with scheme=bogus: unknown scheme"),
    (
        "flux run --cwd=/nosuch true",
        0,
        "Could not change dir to /nosuch: No such file or directory. Going to /tmp instead",
    ),
    ("flux run -o cpu-affinity=nosuch true", 0, "WARN: cpu-affinity: invalid option: nosuch"),
    (
        "flux run --setattr=system.constraints=5 true",
        1,
        "jobspec: attributes.system.constraints: expected an object, got 5",
    ),
    (
        "flux run --setattr=system.constraints.nosuch=5 true",
        1,
        "invalid constraint: constraint operator nosuch requires an array of values",
    ),
    ("flux run --setattr=system.duration=-1 true", 1, "expected a number of seconds >= 0, got -1"),
    (
        "flux run --setattr=system.queue=5 true",
        1,
        "attributes.system.queue: expected a string, got 5",
    ),
    (
        "flux run --setattr=system.environment=5 true",
        1,
        "attributes.system.environment: expected an object, got 5",
    ),
    (
        "flux run --setattr=system.shell.options=5 true",
        1,
        "attributes.system.shell.options: expected an object, got 5",
    ),
    (
        "flux run --setattr=system.files=5 true",
        1,
        "attributes.system.files: expected an object, got 5",
    ),
    ("flux alloc -n99 true", 1, "unsatisfiable request: need 99 slot(s) of 1 core(s)"),
    ("flux resource list -s nosuch", 1, "Invalid resource state nosuch specified"),
    ("flux resource status -s nosuch", 1, "Invalid resource state nosuch specified"),
    ("flux bulksubmit --define=x true ::: 1", 1, "Python expressions are not supported"),
    ("flux doctor x", 1, "flux-doctor: unrecognized option 'x'"),
    ("flux -x", 1, "flux: unrecognized option '-x'"),
    ("flux", 1, "Control a Flux instance and its jobs"),
    ("flux env nosuch", 1, "flux-env: execvp (nosuch): No such file or directory"),
    ("flux keygen /nosuch/x", 1, "flux-keygen: /nosuch/x: No such file or directory"),
    ("flux dump /nosuch/x", 1, "flux-dump: /nosuch/x: No such file or directory"),
];

/// Configurations, and why an instance does not start with them.
const CONFIGURATIONS: &[(&str, &str)] = &[
    ("[resource]\nexclude = \"9\"", "resource.exclude '9': rank 9 is not in this instance of 1"),
    ("[resource]\nexclude = \"nosuch\"", "resource.exclude 'nosuch': invalid hosts: nosuch"),
    ("[resource]\nnosuch = 1", "nosuch: unknown key"),
    ("[resource\n", "unclosed table"),
    ("[resource]\npath = \"/nosuch/R\"", "/nosuch/R: No such file or directory"),
    ("[[resource.config]]\nhosts = \"a[\"\ncores = \"0\"", "invalid hostlist 'a['"),
    ("[queues.a]\nrequires = 5", "queues.a.requires: expected an array of strings, found 5"),
    ("[policy.limits]\nduration = \"x\"", "policy.limits.duration: expected a duration"),
    ("[bootstrap]\nhosts = [ { host = \"a[\" } ]", "invalid hosts[0]: a[: invalid hostlist"),
    ("[access]\nallow-guest-user = 5", "access.allow-guest-user"),
];

/// Ends each answer: exit code and a line that no command prints.
const MARK: &str = "=== ";

#[test]
fn every_mistake_is_told_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<String> = MISTAKES.iter().map(|(line, _, _)| (*line).to_string()).collect();
    std::fs::write(dir.path().join("lines"), lines.join("\n") + "\n").unwrap();
    let script = format!(
        "exec 2>&1; cd {0}; while IFS= read -r line; do timeout -s KILL 60 sh -c \"$line\" \
         </dev/null 2>&1; echo; echo \"{MARK}$?\"; done <lines",
        dir.path().display()
    )
    .replace("2>&1; echo; echo", "2>&1; rc=$?; echo; echo")
    .replace("=== $?", "=== $rc");
    let output = instance::instance(1, &[], &script);
    let all = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut answers = all.split(MARK);
    let mut text = answers.next().unwrap_or_default().to_string();
    let mut wrong = Vec::new();
    for (line, code, sentence) in MISTAKES {
        let rest = answers.next().unwrap_or("none\n");
        let (got, next) = rest.split_once('\n').unwrap_or((rest, ""));
        if got != code.to_string() || !text.contains(sentence) || text.contains("panicked") {
            wrong.push(format!("{line}\n  {got}, not {code}: wanted: {sentence}\n{text}"));
        }
        text = next.to_string();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_instance_does_not_start_with_a_wrong_configuration() {
    for (text, sentence) in CONFIGURATIONS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wrong.toml");
        std::fs::write(&path, text).unwrap();
        let output =
            instance::flux().args(["start", "-c"]).arg(&path).arg("true").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}: {said}");
        assert!(said.contains(sentence) && !said.contains("panicked"), "{text}: {said}");
        // What is read before there is a broker says no more than which table it is.
        let early = ["/nosuch/R:", "invalid hosts[0]"].iter().any(|word| said.contains(word));
        let line = if text.starts_with("[[") || !text.contains(']') { 1 } else { 2 };
        let place = format!("{}:{line}", path.display());
        assert!(early || said.contains(&place), "{text}: no {place}: {said}");
    }
}

/// Files, and what `flux config reload` says of them on standard error, or not at all.
const RELOADS: &[(&str, bool, &str)] = &[
    ("[resource]\nnosuch = 1", false, "zz.toml:2: resource.nosuch: unknown key"),
    ("[resource]\nexclude = 1", false, "zz.toml:2: resource.exclude: expected a string"),
    ("[resource]\nexclude = \"x\"", false, "resource.exclude 'x': invalid hosts: x (zz.toml:2)"),
    ("[resource.verify]\ncore = \"x\"", false, "verify.core: 'x' (zz.toml:2)"),
    ("[sched]\npolicy = \"best\"", false, "sched.policy=\"best\": expected"),
    ("[queues.a]\n\nx = 1", false, "[queues.a] config table: unknown key 'x' (zz.toml:3)"),
    ("[kvs]\nnosuch = 1", true, "warning: zz.toml:2: kvs.nosuch: unknown key"),
    ("[own]\nx = 1", true, "warning: zz.toml:1: own: unknown table"),
    (
        "[tbon]\nkeepalive_idle = 7",
        true,
        "warning: tbon.keepalive_idle has changed: it takes effect with a restart (zz.toml:2)",
    ),
    ("[sched]\npolicy = \"fifo\"", true, ""),
];

#[test]
fn who_reloads_is_told_of_odd_keys_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let script = RELOADS.iter().enumerate().fold(String::new(), |all, (at, (text, _, _))| {
        std::fs::write(dir.path().join(format!("{at}.txt")), text).unwrap();
        all + &format!(
            "cp {0}/{at}.txt {0}/conf.d/zz.toml; flux config reload 2>&1; echo \"{MARK}$?\"\n",
            dir.path().display()
        )
    });
    let conf = dir.path().join("conf.d");
    std::fs::create_dir(&conf).unwrap();
    let option = format!("--config-path={}", conf.display());
    let output = instance::instance(1, &[&option], &script);
    let all = String::from_utf8_lossy(&output.stdout).replace(&format!("{}/", conf.display()), "");
    let mut rest = all.as_str();
    for (text, takes, sentence) in RELOADS {
        let (said, more) = rest.split_once(MARK).unwrap_or((rest, ""));
        let (code, more) = more.split_once('\n').unwrap_or((more, ""));
        let wanted = if *takes { "0" } else { "1" };
        assert_eq!(code, wanted, "{text}: {said}");
        assert!(
            said.contains(sentence) && (said.is_empty() == sentence.is_empty()),
            "{text}: {said}"
        );
        rest = more;
    }
}
