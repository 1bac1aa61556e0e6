//! The builtin commands: a file each under `commands/`, and a line each in [`COMMANDS`].

use clap::Command;

use crate::{
    dispatch::Invocation,
    failure::{Failure, Style},
};

mod alloc;
mod start;
mod shell;
mod broker;
mod batch;
mod bulksubmit;
mod hostlist;
mod job;
mod keygen;
mod resource_set;
mod run;
mod submit;

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
    Entry { name: "job", style: Style::Binary, command: job::command, run: job::run },
    Entry { name: "keygen", style: Style::Binary, command: keygen::command, run: keygen::run },
    Entry { name: "run", style: Style::Script, command: run::command, run: run::run },
    Entry { name: "submit", style: Style::Script, command: submit::command, run: submit::run },
];
