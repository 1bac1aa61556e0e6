//! The launcher's side: serves the tasks of one node.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::line::{Line, LineError, OneLine};
use crate::{KEYLEN_MAX, KVSNAME_MAX, VALLEN_MAX, rc};

/// Keys with this prefix stay on the node that put them.
pub const LOCAL_PREFIX: &str = "local::";

/// Most keys that a task may put.
const MAX_KEYS_PER_TASK: usize = 4096;

/// What a server tells its tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Name of the key value space: by convention the job id in F58. At most 64 bytes.
    pub kvsname: String,
    /// Number of tasks in the whole job.
    pub universe_size: u32,
    /// Application number.
    pub appnum: u32,
    /// Task ranks that this server serves.
    pub ranks: Vec<u32>,
    /// Keys that exist from the start on this node and are not exchanged.
    pub preload: BTreeMap<String, String>,
}

/// What the owner of a server has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a line, which ends with its newline, to a task.
    Reply {
        /// The task.
        rank: u32,
        /// The bytes to send.
        line: String,
    },
    /// All local tasks are in the barrier. Exchange the keys with the other servers of the job,
    /// then call [`Server::barrier_done`] or [`Server::barrier_failed`]. Keys with
    /// [`LOCAL_PREFIX`] are not among them.
    BarrierEnter {
        /// Keys put here since the last barrier.
        keys: BTreeMap<String, String>,
    },
    /// A task aborts the job.
    Abort {
        /// The task.
        rank: u32,
        /// Its words; may be empty.
        msg: String,
        /// The exit code that it asks for; 1 when it gives none.
        code: i32,
    },
    /// A task does not speak the protocol. Close its connection and end the job.
    ProtocolError {
        /// The task.
        rank: u32,
        /// What is wrong.
        msg: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Connected, no init so far.
    New,
    Ready,
    InBarrier,
    /// Between `mcmd=spawn` and `endcmd`.
    Spawning {
        total: Option<u32>,
        so_far: Option<u32>,
    },
    Finalized,
    /// Aborted or out of the protocol: nothing it sends counts.
    Dead,
}

#[derive(Debug, Clone)]
struct Task {
    state: State,
    /// Keys that it has put.
    keys: usize,
}

/// The PMI-1 service of one node's tasks.
///
/// Tasks work in lock-step: each has at most one request open. Nothing happens without a call.
#[derive(Debug, Clone)]
pub struct Server {
    config: ServerConfig,
    tasks: BTreeMap<u32, Task>,
    in_barrier: usize,
    /// Put here since the last barrier.
    pending: BTreeMap<String, String>,
    /// Put here and never exchanged.
    local: BTreeMap<String, String>,
    /// What the exchanges gave.
    global: BTreeMap<String, String>,
}

/// MPICH's client takes a blank in a message for the end of it, and then refuses the rest: the
/// messages of this server are single words.
fn reply(rank: u32, line: impl Into<String>) -> Vec<Action> {
    let mut line = line.into();
    line.push('\n');
    vec![Action::Reply { rank, line }]
}

fn one_word(msg: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() && c != '=' { c } else { '_' };
    msg.chars().map(plain).take(VALLEN_MAX).collect()
}

fn printable(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '=')
}

/// One word without `=`; job ids in F58 begin with a letter that is not ASCII.
fn is_word(text: &str) -> bool {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '=';
    !text.is_empty() && text.chars().all(plain)
}

impl Server {
    /// A server for the ranks of `config`. A name of the key value space that is too long, or
    /// not one printable word, is refused by saying so to every task that asks for it.
    #[must_use]
    pub fn new(mut config: ServerConfig) -> Server {
        let local = std::mem::take(&mut config.preload);
        let task = Task { state: State::New, keys: 0 };
        let tasks = config.ranks.iter().map(|rank| (*rank, task.clone())).collect();
        Server {
            config,
            tasks,
            in_barrier: 0,
            pending: BTreeMap::new(),
            local,
            global: BTreeMap::new(),
        }
    }

    /// Handles one line of a task, given without or with its newline.
    pub fn on_line(&mut self, rank: u32, text: &str) -> Vec<Action> {
        let Some(task) = self.tasks.get(&rank) else {
            return vec![Action::ProtocolError { rank, msg: "unknown rank".to_owned() }];
        };
        match task.state {
            State::Dead => Vec::new(),
            State::Finalized => self.protocol_error(rank, "request after finalize"),
            State::InBarrier => self.protocol_error(rank, "request during barrier"),
            State::Spawning { total, so_far } => self.on_spawn_line(rank, text, total, so_far),
            State::New | State::Ready => match Line::parse(text) {
                Ok(line) => self.on_request(rank, &line),
                Err(error) => self.on_bad_line(rank, error),
            },
        }
    }

    /// A task sent bytes that are no line.
    pub fn on_bad_line(&mut self, rank: u32, error: LineError) -> Vec<Action> {
        self.protocol_error(rank, &error.to_string())
    }

    /// The exchange is done: `merged` holds the keys of all servers. Lets the tasks go on.
    /// Without all local tasks in the barrier this does nothing.
    pub fn barrier_done(&mut self, merged: BTreeMap<String, String>) -> Vec<Action> {
        if !self.barrier_complete() {
            return Vec::new();
        }
        if self.global.is_empty() {
            self.global = merged;
        } else {
            self.global.extend(merged);
        }
        self.leave_barrier("cmd=barrier_out rc=0\n")
    }

    /// The exchange failed. Tells the tasks so.
    pub fn barrier_failed(&mut self, msg: &str) -> Vec<Action> {
        if !self.barrier_complete() {
            return Vec::new();
        }
        self.leave_barrier(&format!("cmd=barrier_out rc=-1 msg={}\n", one_word(msg)))
    }

    /// Whether the task has said goodbye, or never said hello: its end is then no surprise.
    #[must_use]
    pub fn may_exit(&self, rank: u32) -> bool {
        let state = self.tasks.get(&rank).map(|t| t.state);
        matches!(state, None | Some(State::New | State::Finalized | State::Dead))
    }

    fn barrier_complete(&self) -> bool {
        self.in_barrier > 0 && self.in_barrier == self.tasks.len()
    }

    fn leave_barrier(&mut self, line: &str) -> Vec<Action> {
        let mut actions = Vec::with_capacity(self.tasks.len());
        for (rank, task) in &mut self.tasks {
            if task.state == State::InBarrier {
                task.state = State::Ready;
                actions.push(Action::Reply { rank: *rank, line: line.to_owned() });
            }
        }
        self.in_barrier = 0;
        actions
    }

    fn set_state(&mut self, rank: u32, state: State) {
        if let Some(task) = self.tasks.get_mut(&rank) {
            if task.state == State::InBarrier && state != State::InBarrier {
                self.in_barrier -= 1;
            }
            task.state = state;
        }
    }

    fn protocol_error(&mut self, rank: u32, msg: &str) -> Vec<Action> {
        self.set_state(rank, State::Dead);
        vec![Action::ProtocolError { rank, msg: OneLine(msg).to_string() }]
    }

    fn on_request(&mut self, rank: u32, line: &Line<'_>) -> Vec<Action> {
        let is_new = self.tasks.get(&rank).is_none_or(|t| t.state == State::New);
        if line.get("mcmd") == Some("spawn") && !is_new {
            self.set_state(rank, State::Spawning { total: None, so_far: None });
            return Vec::new();
        }
        match line.cmd() {
            "init" => return self.init(rank, line),
            // A program may fail before it gets to init.
            "abort" => return self.abort(rank, line),
            cmd if is_new => {
                return self.protocol_error(rank, &format!("request before init: {cmd}"));
            }
            _ => {}
        }
        match line.cmd() {
            "get_maxes" => reply(
                rank,
                format!(
                    "cmd=maxes rc=0 kvsname_max={KVSNAME_MAX} keylen_max={KEYLEN_MAX} \
                     vallen_max={VALLEN_MAX}"
                ),
            ),
            "get_appnum" => reply(rank, format!("cmd=appnum rc=0 appnum={}", self.config.appnum)),
            "get_universe_size" => {
                reply(rank, format!("cmd=universe_size rc=0 size={}", self.config.universe_size))
            }
            "get_my_kvsname" => {
                let name = &self.config.kvsname;
                if name.len() <= KVSNAME_MAX && is_word(name) {
                    reply(rank, format!("cmd=my_kvsname rc=0 kvsname={name}"))
                } else {
                    reply(rank, "cmd=my_kvsname rc=-1 msg=no_valid_kvsname")
                }
            }
            "put" => self.put(rank, line),
            "get" => self.get(rank, line),
            "barrier_in" => self.barrier_in(rank),
            "publish_name" => reply(rank, "cmd=publish_result rc=-1 msg=not_supported"),
            "unpublish_name" => reply(rank, "cmd=unpublish_result rc=-1 msg=not_supported"),
            "lookup_name" => reply(rank, "cmd=lookup_result rc=-1 msg=not_supported"),
            "spawn" => reply(rank, "cmd=spawn_result rc=-1"),
            "finalize" => {
                self.set_state(rank, State::Finalized);
                reply(rank, "cmd=finalize_ack rc=0")
            }
            "" => self.protocol_error(rank, "line without cmd"),
            cmd => self.protocol_error(rank, &format!("unknown command: {cmd}")),
        }
    }

    fn init(&mut self, rank: u32, line: &Line<'_>) -> Vec<Action> {
        let (Some(version), Some(subversion)) =
            (line.number("pmi_version"), line.number("pmi_subversion"))
        else {
            return self.protocol_error(rank, "init without version");
        };
        match version {
            0 => reply(rank, "cmd=response_to_init rc=-1 pmi_version=1 pmi_subversion=1"),
            _ => {
                // The highest that both know: there is nothing after 1.1 in version 1.
                let sub = if version == 1 { subversion.min(1) } else { 1 };
                self.set_state(rank, State::Ready);
                let text = format!("cmd=response_to_init rc=0 pmi_version=1 pmi_subversion={sub}");
                reply(rank, text)
            }
        }
    }

    fn abort(&mut self, rank: u32, line: &Line<'_>) -> Vec<Action> {
        self.set_state(rank, State::Dead);
        let words = ["error_msg", "msg", "message"].iter().find_map(|key| line.get(key));
        let msg = words.unwrap_or_default().to_owned();
        let code = line.get("exitcode").and_then(|c| c.parse().ok()).unwrap_or(1);
        // RFC 13 answers an abort with an empty line.
        let mut actions = reply(rank, "");
        actions.push(Action::Abort { rank, msg, code });
        actions
    }

    fn barrier_in(&mut self, rank: u32) -> Vec<Action> {
        self.set_state(rank, State::InBarrier);
        self.in_barrier += 1;
        if !self.barrier_complete() {
            return Vec::new();
        }
        let keys = std::mem::take(&mut self.pending);
        for (key, value) in &keys {
            self.global.insert(key.clone(), value.clone());
        }
        vec![Action::BarrierEnter { keys }]
    }

    fn put(&mut self, rank: u32, line: &Line<'_>) -> Vec<Action> {
        let (Some(kvsname), Some(key), Some(value)) =
            (line.get("kvsname"), line.get("key"), line.get("value"))
        else {
            return self.protocol_error(rank, "put without kvsname, key or value");
        };
        let keys = self.tasks.get(&rank).map_or(0, |t| t.keys);
        let (code, msg) = if kvsname != self.config.kvsname {
            (rc::INVALID_KVS, "unknown_kvsname")
        } else if key.len() > KEYLEN_MAX {
            (rc::INVALID_KEY_LENGTH, "key_too_long")
        } else if !printable(key) {
            (rc::INVALID_KEY, "invalid_key")
        } else if value.len() > VALLEN_MAX {
            (rc::INVALID_VAL_LENGTH, "value_too_long")
        } else if keys >= MAX_KEYS_PER_TASK {
            (rc::NOMEM, "too_many_keys")
        } else {
            let local = key.starts_with(LOCAL_PREFIX);
            let map = if local { &mut self.local } else { &mut self.pending };
            map.insert(key.to_owned(), value.to_owned());
            if let Some(task) = self.tasks.get_mut(&rank) {
                task.keys += 1;
            }
            return reply(rank, "cmd=put_result rc=0");
        };
        reply(rank, format!("cmd=put_result rc={code} msg={msg}"))
    }

    fn get(&mut self, rank: u32, line: &Line<'_>) -> Vec<Action> {
        let (Some(kvsname), Some(key)) = (line.get("kvsname"), line.get("key")) else {
            return self.protocol_error(rank, "get without kvsname or key");
        };
        if kvsname != self.config.kvsname {
            let code = rc::INVALID_KVS;
            return reply(rank, format!("cmd=get_result rc={code} msg=unknown_kvsname"));
        }
        let found = [&self.local, &self.pending, &self.global].iter().find_map(|m| m.get(key));
        match found {
            Some(value) => {
                let mut text = String::with_capacity(value.len() + 32);
                text.push_str("cmd=get_result rc=0 value=");
                // A preloaded or exchanged value must not be able to end the line.
                match value.contains(char::is_control) {
                    false => text.push_str(value),
                    true => drop(write!(text, "{}", OneLine(value))),
                }
                reply(rank, text)
            }
            None => {
                let code = rc::INVALID_KEY;
                reply(rank, format!("cmd=get_result rc={code} msg=unknown_key"))
            }
        }
    }

    /// A spawn has many lines, may have many parts, and gets one answer, after the last part.
    fn on_spawn_line(
        &mut self,
        rank: u32,
        text: &str,
        mut total: Option<u32>,
        mut so_far: Option<u32>,
    ) -> Vec<Action> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        if let Some(number) = text.strip_prefix("totspawns=") {
            total = number.trim().parse().ok();
        } else if let Some(number) = text.strip_prefix("spawnssofar=") {
            so_far = number.trim().parse().ok();
        } else if text.trim_end() == "endcmd" {
            self.set_state(rank, State::Ready);
            let more = matches!((total, so_far), (Some(total), Some(so_far)) if so_far < total);
            return if more { Vec::new() } else { reply(rank, "cmd=spawn_result rc=-1") };
        } else if !text.contains('=') {
            return self.protocol_error(rank, "broken spawn request");
        }
        self.set_state(rank, State::Spawning { total, so_far });
        Vec::new()
    }
}
