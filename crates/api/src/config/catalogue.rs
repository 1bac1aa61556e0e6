//! Every key of the configuration.

/// What a key may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// A string.
    Text,
    /// A duration (RFC 23): `"1.5h"`, a number of seconds, or `"inf"`.
    Duration,
    /// An array of strings.
    Texts,
    /// One string, or an array of them.
    TextOrTexts,
    /// Bytes: a number, or a string with a suffix such as `"10M"`.
    Size,
    /// The name or number of a signal.
    Signal,
    /// An array of tables.
    Tables,
    /// `true`, `false`, or a table.
    Switches,
    /// What its reader says.
    Any,
}

impl Kind {
    /// As part of a sentence.
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::Flag => "true or false",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Text => "a string",
            Self::Duration => "a duration such as \"30s\"",
            Self::Texts => "an array of strings",
            Self::TextOrTexts => "a string or an array of strings",
            Self::Size => "a size such as \"10M\"",
            Self::Signal => "a signal such as \"SIGTERM\"",
            Self::Tables => "an array of tables",
            Self::Switches => "true, false or a table",
            Self::Any => "a value",
        }
    }
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Dotted name; `*` stands for names that the site chooses.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// Whether a reload puts a change into effect; else a restart of the brokers that read it.
    pub live: bool,
    /// It is known from flux-core and means nothing here: who sets it to something else than its
    /// default is told so, and why.
    pub inert: bool,
    /// What holds without it; empty for nothing.
    pub default: &'static str,
    /// What it is for.
    pub doc: &'static str,
}

const fn live(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, live: true, inert: false, default, doc }
}

const fn fixed(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, live: false, inert: false, default, doc }
}

const fn inert(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, live: false, inert: true, default, doc }
}

/// The keys, in order.
pub const KEYS: &[Key] = &[
    live(
        "access.allow-guest-user",
        Kind::Flag,
        "false",
        "Users other than the owner may connect and run jobs. New connections follow it.",
    ),
    live("access.allow-root-owner", Kind::Flag, "false", "Root acts as the owner."),
    live("access.private-mode", Kind::Flag, "false", "Guests see their own jobs only."),
    live(
        "access.roles.admin.groups",
        Kind::Texts,
        "[]",
        "Groups whose members have the admin role.",
    ),
    live("access.roles.admin.users", Kind::Texts, "[]", "Users who have the admin role."),
    fixed(
        "archive.busytimeout",
        Kind::Duration,
        "50s",
        "How long the archive waits for a reader of its file.",
    ),
    fixed(
        "archive.dbpath",
        Kind::Text,
        "job-archive.sqlite",
        "File of the job archive, below the state directory or an absolute path. For an instance that keeps its state.",
    ),
    inert("archive.period", Kind::Duration, "1m", "jobs are archived when they end."),
    fixed(
        "bootstrap.curve_cert",
        Kind::Text,
        "",
        "Key file of the instance, the same on all hosts, readable by the owner only (flux-keygen).",
    ),
    fixed(
        "bootstrap.default_bind",
        Kind::Text,
        "",
        "Where a host with children listens: `tcp://ADDRESS:PORT`; `%p` is the port, `%h` the host; an interface name stands for its address.",
    ),
    fixed("bootstrap.default_connect", Kind::Text, "", "Where children of a host connect."),
    fixed("bootstrap.default_port", Kind::Integer, "", "Port that replaces `%p`."),
    fixed(
        "bootstrap.enable_ipv6",
        Kind::Flag,
        "false",
        "IPv6 addresses may be used: written out, or as what names and interfaces stand for; `*` listens for both kinds.",
    ),
    live(
        "bootstrap.hosts",
        Kind::Tables,
        "",
        "The hosts; the rank of a host is its place. While the instance runs hosts may be added at \
         the end, taken away at the end, and marked as removed.",
    ),
    fixed("bootstrap.hosts.bind", Kind::Text, "", "Overrides `default_bind`."),
    fixed("bootstrap.hosts.connect", Kind::Text, "", "Overrides `default_connect`."),
    live("bootstrap.hosts.host", Kind::Text, "", "Hostlist (RFC 29)."),
    live(
        "bootstrap.hosts.key",
        Kind::Text,
        "",
        "The public key of the host's own `curve_cert`. Where hosts have keys, a broker must have that of its rank; who is without one cannot join.",
    ),
    fixed(
        "bootstrap.hosts.parent",
        Kind::Text,
        "",
        "Name of the parent in the tree, for `tbon.topo = \"custom\"`.",
    ),
    live(
        "bootstrap.hosts.removed",
        Kind::Flag,
        "false",
        "The host is gone for good, and its rank stays empty. Its broker must be down.",
    ),
    inert("content-sqlite.journal_mode", Kind::Text, "WAL", "the store is a write-ahead log."),
    inert(
        "content-sqlite.max_checkpoints",
        Kind::Integer,
        "5",
        "every commit is a checkpoint, and the newest counts.",
    ),
    inert(
        "content-sqlite.synchronous",
        Kind::Text,
        "FULL",
        "what is acknowledged is always on disk.",
    ),
    live(
        "content.gc",
        Kind::Flag,
        "true",
        "The store is collected as it needs it; otherwise only by `flux gc`.",
    ),
    live(
        "content.gc-grace",
        Kind::Duration,
        "10s",
        "How long a blob is kept that was stored by itself, and that no commit refers to yet.",
    ),
    fixed("cron.directory", Kind::Text, "", "Directory of crontab files."),
    live("epilog.cancel-on-exception", Kind::Flag, "false", "An exception ends it."),
    live(
        "epilog.command",
        Kind::Texts,
        "",
        "What runs after a job; by default `exec.imp` run epilog.",
    ),
    live("epilog.kill-timeout", Kind::Number, "60", "Seconds from its signal to giving it up."),
    live("epilog.per-rank", Kind::Flag, "true", "On every node of the job."),
    live("epilog.timeout", Kind::Duration, "", "How long it may take."),
    live(
        "exec.barrier-timeout",
        Kind::Duration,
        "30m",
        "Shells of a job must reach their first barrier within.",
    ),
    live("exec.imp", Kind::Text, "", "The privileged launcher (flux-imp): runs jobs of guests."),
    live(
        "exec.job-shell",
        Kind::Text,
        "builtin",
        "The job shell, unless a job names one (`attributes.system.exec.job_shell`).",
    ),
    live(
        "exec.kill-signal",
        Kind::Signal,
        "SIGKILL",
        "The signal that ends a job that did not take the first.",
    ),
    live(
        "exec.kill-timeout",
        Kind::Duration,
        "5s",
        "Time between signals to a job that shall end.",
    ),
    live(
        "exec.lost-node-grace",
        Kind::Duration,
        "60s",
        "How long a running job waits for a node that was lost.",
    ),
    live(
        "exec.max-kill-count",
        Kind::Integer,
        "8",
        "Signals to shells before their nodes are drained.",
    ),
    live(
        "exec.max-kill-timeout",
        Kind::Duration,
        "",
        "Time before their nodes are drained, instead of a count.",
    ),
    live(
        "exec.max-start-delay-percent",
        Kind::Integer,
        "25",
        "Part of its duration that a job may lose while it starts before its time limit is moved.",
    ),
    fixed("exec.method", Kind::Text, "bulk-exec", "`bulk-exec`; other methods are refused."),
    live(
        "exec.on-shutdown",
        Kind::Text,
        "kill",
        "What a stop of the leader does with running jobs: \"kill\" ends them, \"leave\" leaves them for the next start. A restart of the unit always leaves them.",
    ),
    live(
        "exec.sdexec-properties.*",
        Kind::Any,
        "",
        "Limits of the units of \"sdexec\": MemoryMax, MemoryHigh, CPUQuota and the like, as systemd writes them.",
    ),
    live(
        "exec.service",
        Kind::Text,
        "rexec",
        "What starts job shells: \"rexec\", a supervisor on each node, or \"sdexec\", systemd, each in a unit of its own that is confined to the cores of the job.",
    ),
    fixed(
        "exec.service-override",
        Kind::Flag,
        "false",
        "Refused when true: what starts jobs is not for a job to say.",
    ),
    live(
        "exec.shell-exit-timeout",
        Kind::Duration,
        "30s",
        "Shells may outlive the first of them by this.",
    ),
    live("exec.term-signal", Kind::Signal, "SIGTERM", "The first signal to a job that shall end."),
    fixed("fake-resources.cores-per-node", Kind::Integer, "64", "Cores of each of them."),
    fixed("fake-resources.gpus-per-node", Kind::Integer, "0", "Gpus of each of them."),
    fixed("fake-resources.host-prefix", Kind::Text, "fake", "Their names begin so."),
    fixed(
        "fake-resources.nnodes",
        Kind::Integer,
        "",
        "Nodes that are not there, for trials: with this table they are the inventory.",
    ),
    live("heartbeat.period", Kind::Duration, "2s", "Time between heartbeats."),
    live(
        "heartbeat.timeout",
        Kind::Duration,
        "5m",
        "A broker without heartbeat leaves its parent after this; 0 never.",
    ),
    live(
        "heartbeat.warn_thresh",
        Kind::Integer,
        "3",
        "Missing heartbeats before a line in the log.",
    ),
    live(
        "ingest.batch-count",
        Kind::Integer,
        "0",
        "Most jobs that go to the job manager at once; 0: 512.",
    ),
    live(
        "ingest.buffer-size",
        Kind::Size,
        "10M",
        "Longest job request: the signed jobspec with files and environment.",
    ),
    live(
        "ingest.frobnicator.args",
        Kind::Texts,
        "[]",
        "None is known: refused when there are any.",
    ),
    live(
        "ingest.frobnicator.disable",
        Kind::Flag,
        "false",
        "Refused when true: defaults and constraints are applied where `[policy]` and `[queues]` have any.",
    ),
    live(
        "ingest.frobnicator.plugins",
        Kind::Texts,
        "[]",
        "`defaults` and `constraints`, which are always there; others are refused.",
    ),
    live(
        "ingest.validator.args",
        Kind::Texts,
        "[]",
        "`--require-version=any`, or a number: which versions of jobspec are taken. Other than \
         version 1 may ask for resources of any type that the graph of R has.",
    ),
    live(
        "ingest.validator.disable",
        Kind::Flag,
        "false",
        "Refused when true: every jobspec is validated.",
    ),
    live(
        "ingest.validator.plugins",
        Kind::Texts,
        "[]",
        "`jobspec` and `schema`, which are always there; others are refused.",
    ),
    live(
        "ingest.validator.require-instance",
        Kind::Any,
        "",
        "Refused: there is no such validator.",
    ),
    live("job-list.max_comparisons", Kind::Integer, "1000000", "Bound on the work of one listing."),
    live(
        "job-manager.epilog.cancel-on-exception",
        Kind::Flag,
        "false",
        "An exception ends the epilog.",
    ),
    live(
        "job-manager.epilog.command",
        Kind::Texts,
        "",
        "What runs after a job, before its resources are free.",
    ),
    live(
        "job-manager.epilog.exit-on-first-error",
        Kind::Flag,
        "false",
        "For the runner of system scripts.",
    ),
    live(
        "job-manager.epilog.kill-timeout",
        Kind::Number,
        "60",
        "Seconds between the signal to an epilog and giving it up.",
    ),
    live(
        "job-manager.epilog.per-rank",
        Kind::Flag,
        "false",
        "On every node of the job rather than on rank 0.",
    ),
    live("job-manager.epilog.timeout", Kind::Duration, "", "How long it may take."),
    live(
        "job-manager.guest-inactive-num-limit",
        Kind::Integer,
        "",
        "Only so many ended jobs of each guest are kept: those that ended first are purged. Looked at \
         when a job of that guest ends.",
    ),
    live(
        "job-manager.guest-max-active-bytes",
        Kind::Size,
        "2G",
        "Bytes that the requests of the active jobs of one guest may have together.",
    ),
    live(
        "job-manager.guest-max-active-jobs",
        Kind::Integer,
        "100000",
        "Jobs of one guest that may be active at the same time; -1: any number.",
    ),
    live(
        "job-manager.housekeeping.command",
        Kind::Texts,
        "",
        "What runs on the nodes of a job after its end.",
    ),
    live(
        "job-manager.housekeeping.exit-on-first-error",
        Kind::Flag,
        "false",
        "For the runner of system scripts.",
    ),
    live(
        "job-manager.housekeeping.release-after",
        Kind::Duration,
        "",
        "When nodes that are done are released although others are not.",
    ),
    inert(
        "job-manager.housekeeping.use-systemd-unit",
        Kind::Flag,
        "false",
        "the IMP runs housekeeping, or the command that is given.",
    ),
    live(
        "job-manager.inactive-age-limit",
        Kind::Duration,
        "",
        "Jobs that ended longer ago are purged.",
    ),
    live("job-manager.inactive-num-limit", Kind::Integer, "", "Only so many ended jobs are kept."),
    live(
        "job-manager.perilog.log-ignore",
        Kind::Texts,
        "[]",
        "Lines of prolog and epilog output that are not logged (regular expressions).",
    ),
    live(
        "job-manager.plugins",
        Kind::Tables,
        "[]",
        "Plugins to load. All policies are compiled in; `perilog.so` must be asked for here.",
    ),
    live("job-manager.plugins.conf", Kind::Any, "", "Configuration of the plugin."),
    live("job-manager.plugins.load", Kind::Text, "", "Name of a plugin."),
    live("job-manager.plugins.remove", Kind::Text, "", "Refused: nothing can be removed."),
    live(
        "job-manager.prolog.cancel-on-exception",
        Kind::Flag,
        "true",
        "An exception ends the prolog.",
    ),
    live("job-manager.prolog.command", Kind::Texts, "", "What runs before a job starts."),
    live(
        "job-manager.prolog.exit-on-first-error",
        Kind::Flag,
        "false",
        "For the runner of system scripts.",
    ),
    live(
        "job-manager.prolog.kill-timeout",
        Kind::Number,
        "60",
        "Seconds between the signal to a prolog and giving it up.",
    ),
    live(
        "job-manager.prolog.per-rank",
        Kind::Flag,
        "false",
        "On every node of the job rather than on rank 0.",
    ),
    live("job-manager.prolog.timeout", Kind::Duration, "30m", "How long it may take."),
    fixed(
        "job-manager.stop-queues-on-restart",
        Kind::Flag,
        "false",
        "Queues begin stopped after a restart.",
    ),
    inert("kvs.checkpoint-period", Kind::Duration, "", "every commit is durable."),
    fixed(
        "kvs.gc-threshold",
        Kind::Integer,
        "",
        "Commits after which the store is collected, whatever its growth.",
    ),
    live(
        "kvs.guest-namespace-max",
        Kind::Size,
        "2G",
        "Bytes that a guest may put into the namespace of a job: output, and keys of its own.",
    ),
    live(
        "kvs.transaction-merge",
        Kind::Flag,
        "true",
        "Commits that wait at the same time are made together.",
    ),
    live(
        "policy.access.allow-group",
        Kind::Texts,
        "",
        "Groups whose members may submit, whatever `allow-user` says.",
    ),
    live(
        "policy.access.allow-user",
        Kind::Texts,
        "",
        "Users who may submit. With neither key everybody may, with one of them only who is named, and the owner always.",
    ),
    live(
        "policy.jobspec.defaults.system.*",
        Kind::Any,
        "",
        "Any other attribute that a job may lack.",
    ),
    live(
        "policy.jobspec.defaults.system.duration",
        Kind::Duration,
        "",
        "Time limit of a job that names none.",
    ),
    live("policy.jobspec.defaults.system.queue", Kind::Text, "", "Queue of a job that names none."),
    live("policy.limits.duration", Kind::Duration, "", "Longest time limit."),
    live(
        "policy.limits.job-size.max.ncores",
        Kind::Integer,
        "-1",
        "Largest number of cores; -1: any.",
    ),
    live("policy.limits.job-size.max.ngpus", Kind::Integer, "-1", "Largest number of gpus."),
    live("policy.limits.job-size.max.nnodes", Kind::Integer, "-1", "Largest number of nodes."),
    live("policy.limits.job-size.min.ncores", Kind::Integer, "-1", "Smallest number of cores."),
    live("policy.limits.job-size.min.ngpus", Kind::Integer, "-1", "Smallest number of gpus."),
    live("policy.limits.job-size.min.nnodes", Kind::Integer, "-1", "Smallest number of nodes."),
    inert(
        "policy.scheduler",
        Kind::Any,
        "",
        "the scheduler reads `[sched]`, and has no rules for single queues.",
    ),
    live("prolog.cancel-on-exception", Kind::Flag, "true", "An exception ends it."),
    live(
        "prolog.command",
        Kind::Texts,
        "",
        "What runs before a job; by default `exec.imp` run prolog.",
    ),
    live("prolog.kill-timeout", Kind::Number, "60", "Seconds from its signal to giving it up."),
    live("prolog.per-rank", Kind::Flag, "true", "On every node of the job."),
    live("prolog.timeout", Kind::Duration, "30m", "How long it may take."),
    live("queues.*.hosts", Kind::Text, "", "Hostlist of the queue's nodes."),
    live("queues.*.parent", Kind::Text, "", "A virtual queue uses the nodes of this one."),
    live(
        "queues.*.policy.access.allow-group",
        Kind::Texts,
        "",
        "As in `policy`: a table here replaces that one for the queue.",
    ),
    live(
        "queues.*.policy.access.allow-user",
        Kind::Texts,
        "",
        "As in `policy`: a table here replaces that one for the queue.",
    ),
    live("queues.*.policy.jobspec.defaults.system.*", Kind::Any, "", "As in `policy`."),
    live("queues.*.policy.jobspec.defaults.system.duration", Kind::Duration, "", "As in `policy`."),
    live("queues.*.policy.limits.duration", Kind::Duration, "", "As in `policy`."),
    live("queues.*.policy.limits.job-size.max.ncores", Kind::Integer, "", "As in `policy`."),
    live("queues.*.policy.limits.job-size.max.ngpus", Kind::Integer, "", "As in `policy`."),
    live("queues.*.policy.limits.job-size.max.nnodes", Kind::Integer, "", "As in `policy`."),
    live("queues.*.policy.limits.job-size.min.ncores", Kind::Integer, "", "As in `policy`."),
    live("queues.*.policy.limits.job-size.min.ngpus", Kind::Integer, "", "As in `policy`."),
    live("queues.*.policy.limits.job-size.min.nnodes", Kind::Integer, "", "As in `policy`."),
    inert(
        "queues.*.policy.scheduler",
        Kind::Any,
        "",
        "the scheduler reads `[sched]`, and has no rules for single queues.",
    ),
    live("queues.*.requires", Kind::Texts, "", "Properties that the queue's nodes have."),
    fixed("resource.config", Kind::Tables, "", "The resources, in place of a file."),
    fixed("resource.config.cores", Kind::Text, "", "Idset of cores of these hosts."),
    fixed("resource.config.gpus", Kind::Text, "", "Idset of gpus."),
    fixed("resource.config.hosts", Kind::Text, "", "Hostlist."),
    fixed("resource.config.properties", Kind::Texts, "", "Properties of these hosts."),
    fixed(
        "resource.config.types.*",
        Kind::Text,
        "",
        "Idset of resources of another type, such as `ssd`, of these hosts; of `memory` each id \
         is a GiB.",
    ),
    live("resource.exclude", Kind::Text, "", "Hostlist, or idset of ranks, that is not scheduled."),
    inert(
        "resource.history",
        Kind::Duration,
        "90d",
        "the log keeps what still holds, and is written anew when it grows.",
    ),
    live(
        "resource.journal-max",
        Kind::Integer,
        "100000",
        "Entries kept for those who follow the journal.",
    ),
    fixed(
        "resource.no-update-watch",
        Kind::Flag,
        "false",
        "An instance that is a job keeps the end that it had at its start, though the job's is moved.",
    ),
    fixed(
        "resource.norestrict",
        Kind::Flag,
        "false",
        "All cpus of a node count, not only those that its broker may run on.",
    ),
    fixed("resource.noverify", Kind::Flag, "false", "R is not compared with the hardware."),
    fixed(
        "resource.path",
        Kind::Text,
        "",
        "File with R (RFC 20), made by `flux R encode`. Its ranks are replaced by those of `bootstrap.hosts`.",
    ),
    fixed("resource.rediscover", Kind::Flag, "false", "Ignore the R of the enclosing instance."),
    fixed(
        "resource.scheduling",
        Kind::Text,
        "",
        "JSON file that becomes the key `scheduling` of R.",
    ),
    fixed(
        "resource.verify",
        Kind::Switches,
        "false",
        "Compare R with the hardware; a node that lacks something is drained.",
    ),
    fixed(
        "resource.verify.core",
        Kind::Text,
        "",
        "`strict`, `allow-extra`, `allow-missing` or `ignore`.",
    ),
    fixed("resource.verify.default", Kind::Text, "", "The rule for what is not named."),
    fixed("resource.verify.gpu", Kind::Text, "", "As `core`."),
    fixed("resource.verify.hostname", Kind::Text, "", "As `core`."),
    live(
        "sched.policy",
        Kind::Text,
        "easy",
        "`fifo`, or `easy`: jobs may pass one that waits, if that delays it not.",
    ),
    live("sched.queue-depth", Kind::Any, "unlimited", "Requests that the scheduler looks at."),
    inert(
        "systemd.enable",
        Kind::Flag,
        "false",
        "units of systemd need no more than `exec.service`.",
    ),
    inert(
        "systemd.sdbus-debug",
        Kind::Flag,
        "false",
        "units of systemd need no more than `exec.service`.",
    ),
    inert(
        "systemd.sdexec-debug",
        Kind::Flag,
        "false",
        "units of systemd need no more than `exec.service`.",
    ),
    inert("tbon.child_rcvhwm", Kind::Integer, "0", "there is no ZeroMQ here."),
    fixed(
        "tbon.connect_timeout",
        Kind::Duration,
        "30s",
        "How long connecting to the parent may take.",
    ),
    fixed(
        "tbon.interface-hint",
        Kind::Text,
        "default-route",
        "Which address a broker without configuration tells its children.",
    ),
    fixed(
        "tbon.keepalive_count",
        Kind::Integer,
        "",
        "Keepalive probes without answer before a link is lost; without it as the kernel has it.",
    ),
    fixed(
        "tbon.keepalive_idle",
        Kind::Integer,
        "",
        "Seconds of silence before the first probe; without it as the kernel has it.",
    ),
    fixed(
        "tbon.keepalive_interval",
        Kind::Integer,
        "",
        "Seconds between probes; without it as the kernel has it.",
    ),
    fixed(
        "tbon.rejoin-timeout",
        Kind::Duration,
        "",
        "How long a broker waits for a parent that it has lost before it ends; without it for ever, \
         if rank 0 keeps its state (`statedir`) or the brokers are configured here, else not at all.",
    ),
    fixed(
        "tbon.reparent",
        Kind::Flag,
        "false",
        "A broker whose parent is lost goes to its grandparent, or the next above that is there, with \
         all that is below it. It stays there until that is lost, too. The same on all brokers.",
    ),
    fixed(
        "tbon.reparent-timeout",
        Kind::Duration,
        "5s",
        "How long a lost parent is waited for, and then each one above it, before the next is tried. \
         A broker that starts waits for 30 s at least.",
    ),
    fixed(
        "tbon.tcp_user_timeout",
        Kind::Duration,
        "20s",
        "Sent data may be unacknowledged for so long before a link is lost.",
    ),
    fixed(
        "tbon.topo",
        Kind::Text,
        "auto",
        "Shape of the tree: `custom`, by the parents of hosts, `kary:K`, `mincrit[:K]`, `binomial`; `auto` is `custom` where hosts have parents, else flat up to 1025 brokers and `mincrit` above.",
    ),
    live(
        "tbon.torpid_max",
        Kind::Duration,
        "30s",
        "A child that is silent for so long is torpid, and gets no jobs; 0: never.",
    ),
    live(
        "tbon.torpid_min",
        Kind::Duration,
        "5s",
        "A child says that it is there after so much silence.",
    ),
    inert("tbon.zmq_io_threads", Kind::Integer, "1", "there is no ZeroMQ here."),
    inert("tbon.zmqdebug", Kind::Integer, "0", "there is no ZeroMQ here."),
];
