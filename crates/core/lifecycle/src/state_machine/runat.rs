//! `runat`: groups of commands that run on the way, one at a time, the last pushed first.

use std::collections::BTreeMap;

use flux_api::RpcError;
use flux_api::Text;
use flux_api::driver::Notify;
use flux_api::lifecycle::RunatPush;
use flux_api::rexec::{self, Command, Exec, ExecRequest, Kill, KillRequest};
use flux_id::fsd;
use flux_model::wait_status;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};
use serde_json::Map;

use super::{Settings, StateMachineService, Wait};

/// A group of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// After the modules are up.
    Rc1,
    /// The initial program.
    Program,
    /// When work ends.
    Cleanup,
    /// Before the modules settle.
    Rc3,
}

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::Rc1 => "rc1",
            Self::Program => "rc2",
            Self::Cleanup => "cleanup",
            Self::Rc3 => "rc3",
        }
    }
}

#[derive(Debug, Default)]
struct Commands {
    /// The last is next.
    waiting: Vec<Vec<String>>,
    index: u32,
    line: String,
    pid: Option<i32>,
    started_us: u64,
    /// First failure, 0 without one.
    code: i32,
    aborted: bool,
}

/// Commands that a group may hold.
const COMMANDS_MAX: usize = 1024;

/// Signal that ends a group early.
const SIGHUP: i32 = 1;

#[derive(Debug)]
pub(super) struct Runat {
    groups: BTreeMap<Group, Commands>,
}

impl Runat {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut groups = BTreeMap::new();
        let mut fill = |group, commands: &[Vec<String>]| {
            let waiting = commands.iter().rev().cloned().collect();
            groups.insert(group, Commands { waiting, ..Commands::default() });
        };
        fill(Group::Rc1, &settings.rc1);
        fill(Group::Program, settings.program.as_slice());
        fill(Group::Cleanup, &[]);
        fill(Group::Rc3, &settings.rc3);
        Self { groups }
    }

    pub(super) fn push(&mut self, request: &RunatPush, shell: &str) -> Result<(), RpcError> {
        let proto = |text: &str| RpcError::new(Errno::EPROTO, text);
        if request.commands.is_empty() {
            return Err(proto("commands array is empty"));
        }
        if request.commands.iter().any(String::is_empty) {
            return Err(proto("cannot push an empty command line"));
        }
        let group = match request.name.as_str() {
            "rc1" => Group::Rc1,
            "cleanup" => Group::Cleanup,
            "rc3" => Group::Rc3,
            name => {
                return Err(RpcError::new(Errno::EINVAL, format!("{name}: no such command group")));
            }
        };
        let commands = self.groups.entry(group).or_default();
        if commands.waiting.len() + request.commands.len() > COMMANDS_MAX {
            return Err(RpcError::new(Errno::ENOMEM, "too many commands"));
        }
        for command in &request.commands {
            commands.waiting.push(vec![shell.to_string(), "-c".to_string(), command.clone()]);
        }
        Ok(())
    }

    pub(super) fn failed(&self, group: Group) -> bool {
        self.groups.get(&group).is_some_and(|commands| commands.code != 0)
    }
}

impl StateMachineService {
    pub(super) fn run_group(&mut self, cx: &mut Cx<'_, Wait>, group: Group) {
        let Some(commands) = self.runat.groups.get_mut(&group) else { return };
        let Some(command) = commands.waiting.pop() else {
            return self.group_done(cx, group);
        };
        commands.line = match command.as_slice() {
            [shell, flag, line] if *shell == self.settings.shell && flag == "-c" => line.clone(),
            words => words.join(" "),
        };
        commands.pid = None;
        commands.started_us = cx.now_us();
        let line = commands.line.clone();
        let program = group == Group::Program;
        let request = ExecRequest {
            cmd: Command {
                cmdline: command,
                env: Map::new(),
                opts: Map::new(),
                channels: Vec::new(),
                cwd: None,
                label: None,
            },
            flags: if program { 0 } else { rexec::STDOUT | rexec::STDERR },
            local_flags: match (program, self.settings.program_in_group) {
                (false, _) => 0,
                (true, false) => rexec::STDIO_FALLTHROUGH,
                (true, true) => rexec::STDIO_FALLTHROUGH | rexec::NO_SETPGRP,
            },
        };
        let here = To::Rank(cx.rank());
        cx.notify::<Notify>(here, &Text(format!("STATUS=Running {line}")));
        if matches!(group, Group::Rc1 | Group::Rc3)
            && let Some(script) = request.cmd.cmdline.first().filter(|word| word.contains(".d/"))
        {
            cx.log(Level::Info, format!("{}.{}: running {script}", group.name(), commands.index));
        }
        cx.stream::<Exec>(here, &request, Wait::Command(group));
    }

    pub(super) fn command_reply(&mut self, cx: &mut Cx<'_, Wait>, group: Group, reply: &Reply) {
        let Some(commands) = self.runat.groups.get_mut(&group) else { return };
        match reply.decode::<Exec>() {
            Ok(response) => match response.kind.as_str() {
                "started" => {
                    commands.pid = response.pid;
                    if commands.aborted {
                        self.abort_group(cx, group);
                    }
                }
                "output" => {
                    if let Some(io) = response.io
                        && let Some(data) = io.data
                    {
                        let level = if io.stream == "stderr" { Level::Err } else { Level::Info };
                        for text in data.lines() {
                            cx.log(level, format!("{}.{}: {text}", group.name(), commands.index));
                        }
                    }
                }
                "finished" => {
                    let status = response.status.unwrap_or(0);
                    let code = wait_status::exit_code(status);
                    let what = match wait_status::signal(status) {
                        None => format!("Exited (rc={code})"),
                        Some(signum) => format!("Killed by signal {signum} (rc={code})"),
                    };
                    self.command_ended(cx, group, code, &what);
                }
                _ => {}
            },
            Err(_) if reply.is_end() => {}
            Err(error) => {
                let code = match error.errno {
                    Errno::EACCES | Errno::EPERM => 126,
                    Errno::ENOENT => 127,
                    _ => 1,
                };
                let what = error.message();
                if group == Group::Program {
                    cx.log(Level::Err, format!("{}: {what}", commands.line));
                }
                self.command_ended(cx, group, code, &what);
            }
        }
    }

    fn command_ended(&mut self, cx: &mut Cx<'_, Wait>, group: Group, code: i32, what: &str) {
        let Some(commands) = self.runat.groups.get_mut(&group) else { return };
        let spent = fsd::format(cx.now_us().saturating_sub(commands.started_us) as f64 / 1e6);
        let text = format!("{}.{}: {} {what} {spent}", group.name(), commands.index, commands.line);
        cx.log(if code == 0 { Level::Info } else { Level::Err }, text);
        commands.pid = None;
        commands.index += 1;
        let code = if code == 0 && commands.aborted { 1 } else { code };
        if commands.code == 0 {
            commands.code = code;
        }
        self.run_group(cx, group);
    }

    /// Ends a group early: SIGHUP to what runs, nothing more is started.
    pub(super) fn abort_group(&mut self, cx: &mut Cx<'_, Wait>, group: Group) {
        let Some(commands) = self.runat.groups.get_mut(&group) else { return };
        commands.waiting.clear();
        commands.aborted = true;
        if let Some(pid) = commands.pid {
            let here = To::Rank(cx.rank());
            cx.call::<Kill>(here, &KillRequest { pid, signum: SIGHUP, label: None }, Wait::Kill);
        }
    }

    fn group_done(&mut self, cx: &mut Cx<'_, Wait>, group: Group) {
        // Whoever ends rc1 before it begins ends the start all the same.
        let code = self.runat.groups.get(&group).map_or(0, |commands| match commands.code {
            0 if commands.aborted && group == Group::Rc1 => 1,
            code => code,
        });
        if group == Group::Rc1 && code != 0 && self.settings.recovery {
            return self.post(cx, "rc1-ignorefail", false);
        }
        if code != 0 && self.code == 0 {
            self.code = match (group, self.settings.exit_norestart) {
                (Group::Rc1, Some(norestart)) => norestart,
                _ => code,
            };
        }
        let event = match (group, code) {
            (Group::Rc1, 0) => "rc1-success",
            (Group::Rc1, _) => "rc1-fail",
            (Group::Program, 0) => "rc2-success",
            (Group::Program, _) => "rc2-fail",
            (Group::Cleanup, 0) => "cleanup-success",
            (Group::Cleanup, _) => "cleanup-fail",
            (Group::Rc3, _) => return self.settle(cx),
        };
        self.post(cx, event, false);
    }
}
