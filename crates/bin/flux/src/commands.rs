//! The builtin commands: a file each under `commands/`, and a line each in [`COMMANDS`].

use clap::Command;

use crate::{
    dispatch::Invocation,
    failure::{Failure, Style},
};

mod admin;
mod alloc;
mod batch;
mod broker;
mod bulksubmit;
mod cancel;
mod completion;
mod config;
mod content;
mod cron;
mod dmesg;
mod doctor;
mod dump;
mod env;
mod event;
mod event_view;
mod exec;
mod fsck;
mod gc;
mod getattr;
mod hostlist;
mod housekeeping;
mod human_time;
mod imp_exec_helper;
mod ion_r;
mod job;
mod jobs;
mod jobtap;
mod keygen;
mod kvs;
mod log_line;
mod logger;
mod lsattr;
mod man;
mod module;
mod overlay;
mod perilog_run;
mod pgrep;
mod ping;
mod pmi;
mod program;
mod proxy;
mod pstree;
mod queue;
mod relay;
mod resource;
mod resource_set;
mod restore;
mod run;
mod setattr;
mod shell;
mod shutdown;
mod start;
mod startlog;
mod store_state;
mod submit;
mod system_scripts;
mod top;
mod trace_view;
mod update;
mod uptime;
mod uri;
mod version;
mod watch;

pub(crate) use human_time::LocalZone;

/// The executables of a directory by name; none where there is no such directory.
pub(crate) fn scripts_of(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    system_scripts::of_directory(directory).unwrap_or_default()
}

/// A builtin command.
pub(crate) struct Entry {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// How its errors look; long options of binary commands may be abbreviated.
    pub(crate) style: Style,
    /// Its options.
    pub(crate) command: fn() -> Command,
    /// Runs it and returns the exit status.
    pub(crate) run: fn(&Invocation) -> Result<i32, Failure>,
}

/// All builtin commands, by name.
pub(crate) const COMMANDS: &[Entry] = &[
    Entry { name: "start", style: Style::Binary, command: start::command, run: start::run },
    Entry { name: "shell", style: Style::Binary, command: shell::command, run: shell::run },
    Entry { name: "broker", style: Style::Binary, command: broker::command, run: broker::run },
    Entry {
        name: "R",
        style: Style::Binary,
        command: resource_set::command,
        run: resource_set::run,
    },
    Entry { name: "admin", style: Style::Binary, command: admin::command, run: admin::run },
    Entry {
        name: "run-prolog",
        style: Style::Binary,
        command: admin::prolog_command,
        run: admin::prolog,
    },
    Entry {
        name: "run-epilog",
        style: Style::Binary,
        command: admin::epilog_command,
        run: admin::epilog,
    },
    Entry {
        name: "run-housekeeping",
        style: Style::Binary,
        command: admin::housekeeping_command,
        run: admin::housekeeping,
    },
    Entry { name: "ion-R", style: Style::Script, command: ion_r::command, run: ion_r::run },
    Entry { name: "alloc", style: Style::Script, command: alloc::command, run: alloc::run },
    Entry { name: "batch", style: Style::Script, command: batch::command, run: batch::run },
    Entry {
        name: "bulksubmit",
        style: Style::Script,
        command: bulksubmit::command,
        run: bulksubmit::run,
    },
    Entry {
        name: "hostlist",
        style: Style::Script,
        command: hostlist::command,
        run: hostlist::run,
    },
    Entry {
        name: "imp_exec_helper",
        style: Style::Binary,
        command: imp_exec_helper::command,
        run: imp_exec_helper::run,
    },
    Entry { name: "job", style: Style::Binary, command: job::command, run: job::run },
    Entry { name: "keygen", style: Style::Binary, command: keygen::command, run: keygen::run },
    Entry { name: "run", style: Style::Script, command: run::command, run: run::run },
    Entry { name: "submit", style: Style::Script, command: submit::command, run: submit::run },
    Entry { name: "getattr", style: Style::Binary, command: getattr::command, run: getattr::run },
    Entry { name: "setattr", style: Style::Binary, command: setattr::command, run: setattr::run },
    Entry { name: "lsattr", style: Style::Binary, command: lsattr::command, run: lsattr::run },
    Entry { name: "doctor", style: Style::Binary, command: doctor::command, run: doctor::run },
    Entry { name: "dmesg", style: Style::Binary, command: dmesg::command, run: dmesg::run },
    Entry { name: "logger", style: Style::Binary, command: logger::command, run: logger::run },
    Entry { name: "ping", style: Style::Binary, command: ping::command, run: ping::run },
    Entry { name: "exec", style: Style::Binary, command: exec::command, run: exec::run },
    Entry { name: "cancel", style: Style::Script, command: cancel::command, run: cancel::run },
    Entry { name: "jobs", style: Style::Script, command: jobs::command, run: jobs::run },
    Entry { name: "pgrep", style: Style::Script, command: pgrep::command, run: pgrep::run },
    Entry { name: "pkill", style: Style::Script, command: pgrep::pkill_command, run: pgrep::pkill },
    Entry { name: "pstree", style: Style::Script, command: pstree::command, run: pstree::run },
    Entry { name: "top", style: Style::Binary, command: top::command, run: top::run },
    Entry { name: "update", style: Style::Script, command: update::command, run: update::run },
    Entry { name: "watch", style: Style::Script, command: watch::command, run: watch::run },
    Entry { name: "queue", style: Style::Script, command: queue::command, run: queue::run },
    Entry { name: "overlay", style: Style::Binary, command: overlay::command, run: overlay::run },
    Entry {
        name: "resource",
        style: Style::Script,
        command: resource::command,
        run: resource::run,
    },
    Entry {
        name: "housekeeping",
        style: Style::Script,
        command: housekeeping::command,
        run: housekeeping::run,
    },
    Entry { name: "jobtap", style: Style::Binary, command: jobtap::command, run: jobtap::run },
    Entry {
        name: "perilog-run",
        style: Style::Script,
        command: perilog_run::command,
        run: perilog_run::run,
    },
    Entry { name: "kvs", style: Style::Binary, command: kvs::command, run: kvs::run },
    Entry { name: "event", style: Style::Binary, command: event::command, run: event::run },
    Entry { name: "module", style: Style::Binary, command: module::command, run: module::run },
    Entry { name: "config", style: Style::Binary, command: config::command, run: config::run },
    Entry { name: "uptime", style: Style::Binary, command: uptime::command, run: uptime::run },
    Entry {
        name: "startlog",
        style: Style::Binary,
        command: startlog::command,
        run: startlog::run,
    },
    Entry {
        name: "shutdown",
        style: Style::Binary,
        command: shutdown::command,
        run: shutdown::run,
    },
    Entry { name: "uri", style: Style::Script, command: uri::command, run: uri::run },
    Entry { name: "relay", style: Style::Binary, command: relay::command, run: relay::run },
    Entry { name: "proxy", style: Style::Binary, command: proxy::command, run: proxy::run },
    Entry { name: "content", style: Style::Binary, command: content::command, run: content::run },
    Entry { name: "dump", style: Style::Binary, command: dump::command, run: dump::run },
    Entry { name: "restore", style: Style::Binary, command: restore::command, run: restore::run },
    Entry { name: "fsck", style: Style::Binary, command: fsck::command, run: fsck::run },
    Entry { name: "gc", style: Style::Binary, command: gc::command, run: gc::run },
    Entry { name: "cron", style: Style::Binary, command: cron::command, run: cron::run },
    Entry { name: "env", style: Style::Binary, command: env::command, run: env::run },
    Entry { name: "version", style: Style::Binary, command: version::command, run: version::run },
    Entry { name: "pmi", style: Style::Binary, command: pmi::command, run: pmi::run },
    Entry {
        name: "completion",
        style: Style::Binary,
        command: completion::command,
        run: completion::run,
    },
    Entry { name: "man", style: Style::Binary, command: man::command, run: man::run },
];
