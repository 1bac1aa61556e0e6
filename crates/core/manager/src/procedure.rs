//! A command that runs on nodes of a job beside its tasks: prolog, epilog, housekeeping.
//!
//! One command, on rank 0 or on every rank of the job's R, through the `rexec` service of each
//! rank, with a time limit and a way to stop it. What its end means is decided by the file of each
//! [`Stage`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use flux_api::RpcError;
use flux_api::rexec::{
    self, Command, Exec as Rexec, ExecRequest, ExecResponse, Io, Kill, KillRequest,
};
use flux_id::{Idset, JobId};
use flux_model::resource_set::ResourceSet;
use flux_model::stdio::{Encoding, IoData};
use flux_model::wait_status;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, TimerId, To};
use serde_json::{Map, Value};

use crate::service::{JobManager, Wait};

const SIGTERM: i32 = 15;
/// Bytes of an unfinished line of output that are kept; a longer line is logged in pieces.
const LINE_MAX: usize = 4096;
/// Status of a rank where the command could not be run or followed (as an exit code of 1).
const NOT_RUN: i32 = 1 << 8;
/// How long to wait before a rank that is away is asked again, in microseconds.
const AGAIN_US: u64 = 1_000_000;
/// How long it is waited for: where a job waits, and where only resources do.
const AWAY_US: (u64, u64) = (60_000_000, 3_600_000_000);

/// What happened where the node was lost.
const LOST: &str = "ended with the loss of the node";

/// When a procedure runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Before the start of the job.
    Prolog,
    /// After its end, before its resources are free.
    Epilog,
    /// After the job, which no longer waits for it; its resources do.
    Housekeeping,
}

impl Stage {
    /// Name, as in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prolog => "prolog",
            Self::Epilog => "epilog",
            Self::Housekeeping => "housekeeping",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What runs, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Procedure {
    /// Program and arguments.
    pub command: Vec<String>,
    /// On every rank of the job, or on rank 0 only.
    pub per_rank: bool,
    /// Seconds until it is stopped.
    pub timeout: Option<f64>,
    /// Seconds from SIGTERM until it is given up.
    pub kill_timeout: f64,
    /// An exception of the job stops it.
    pub cancel_on_exception: bool,
}

/// Why a procedure was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    Late,
    Canceled,
}

#[derive(Debug, Default)]
struct Place {
    tag: u32,
    pid: Option<i32>,
    /// Its node could not be reached, since then: it is asked again.
    away: Option<u64>,
    /// Unfinished lines by stream.
    lines: BTreeMap<String, Vec<u8>>,
}

/// A procedure that runs for one job.
#[derive(Debug)]
pub(crate) struct Run {
    request: ExecRequest,
    places: BTreeMap<u32, Place>,
    /// Every rank where it was started.
    pub(crate) ranks: Idset,
    /// Ranks where it failed, by what happened.
    pub(crate) failed: BTreeMap<String, Idset>,
    /// Ranks that are lost.
    pub(crate) lost: Idset,
    /// The worst wait status.
    pub(crate) status: i32,
    pub(crate) halt: Option<Halt>,
    pub(crate) per_rank: bool,
    kill_timeout: f64,
    timer: Option<TimerId>,
    pub(crate) r: ResourceSet,
}

impl Run {
    /// Ranks where it still runs.
    pub(crate) fn active(&self) -> Idset {
        self.places.keys().copied().collect()
    }

    /// Ranks whose nodes cannot be trusted with another job: it failed there, and not because the
    /// node or the job is gone.
    pub(crate) fn to_drain(&self) -> Idset {
        let mut bad = Idset::new();
        if self.per_rank {
            self.failed.values().for_each(|ranks| bad.insert_all(ranks));
            bad.remove_all(&self.lost);
        }
        bad
    }

    /// The sentence for people: what happened where.
    pub(crate) fn sentence(&self, stage: Stage) -> String {
        let mut parts = Vec::new();
        for (what, ranks) in &self.failed {
            parts.push(format!("{what} on {} (rank {ranks})", self.r.hosts_of(ranks)));
        }
        format!("{stage} {}", parts.join(", "))
    }

    /// A node cannot be reached: whether it is asked again. What ran there before a job or after
    /// it, and whose end is not known, is not run twice.
    fn comes_back(&mut self, rank: u32, stage: Stage, now_us: u64) -> bool {
        let halted = self.halt.is_some();
        let Some(place) = self.places.get_mut(&rank) else { return false };
        let patience = if stage == Stage::Housekeeping { AWAY_US.1 } else { AWAY_US.0 };
        let ran = place.pid.take().is_some() && stage != Stage::Housekeeping;
        let since = *place.away.get_or_insert(now_us);
        !halted && !ran && now_us.saturating_sub(since) < patience
    }

    fn fail(&mut self, rank: u32, status: i32, what: String) {
        self.status = self.status.max(status);
        self.failed.entry(what).or_default().insert(rank);
    }
}

fn micros(seconds: f64) -> u64 {
    // Saturates, and is 0 for what is negative.
    (seconds * 1e6) as u64
}

/// How a wait status reads.
fn ending(status: i32) -> String {
    match wait_status::signal(status) {
        None => format!("exited with code={}", wait_status::code(status)),
        Some(signum) => format!("killed by signal {signum}"),
    }
}

/// All procedures that run.
pub(crate) type Runs = BTreeMap<(u64, Stage), Run>;

impl JobManager {
    /// Starts a procedure for a job with this R.
    pub(crate) fn begin_procedure(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        (id, stage): (u64, Stage),
        userid: u32,
        procedure: &Procedure,
        r: ResourceSet,
    ) {
        let ranks = if procedure.per_rank { r.ranks() } else { Idset::first_n(1) };
        // The broker's environment, and these.
        let mut cmdline = vec![
            "env".to_string(),
            format!("FLUX_JOB_ID={}", JobId(id).f58()),
            format!("FLUX_JOB_USERID={userid}"),
            format!("FLUX_JOB_RANKS={}", r.ranks()),
        ];
        cmdline.extend(procedure.command.iter().cloned());
        let request = ExecRequest {
            cmd: Command {
                cmdline,
                env: Map::new(),
                opts: Map::new(),
                channels: Vec::new(),
                cwd: Some("/".to_string()),
                label: None,
            },
            flags: rexec::STDOUT | rexec::STDERR,
            local_flags: 0,
        };
        let mut places = BTreeMap::new();
        for rank in ranks.ids() {
            let wait = Wait::Procedure(id, stage, rank);
            let tag = cx.stream::<Rexec>(To::Rank(rank), &request, wait);
            places.insert(rank, Place { tag, ..Place::default() });
        }
        let timer = procedure
            .timeout
            .map(|seconds| cx.timer(micros(seconds), Wait::ProcedureLate(id, stage)));
        let run = Run {
            request,
            places,
            ranks,
            failed: BTreeMap::new(),
            lost: Idset::new(),
            status: 0,
            halt: None,
            per_rank: procedure.per_rank,
            kill_timeout: procedure.kill_timeout,
            timer,
            r,
        };
        self.procedures.insert((id, stage), run);
    }

    /// A response of `rexec` on one rank.
    pub(crate) fn procedure_reply(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        (id, stage): (u64, Stage),
        rank: u32,
        reply: &Reply,
    ) {
        let Some(run) = self.procedures.get_mut(&(id, stage)) else { return };
        let Some(place) = run.places.get_mut(&rank) else { return };
        match reply.decode::<Rexec>() {
            Ok(ExecResponse { kind, pid, .. }) if kind == "started" => {
                place.pid = pid;
                place.away = None;
                if run.halt.is_some() {
                    self.signal_procedure(cx, id, stage, SIGTERM, &BTreeSet::from([rank]));
                }
            }
            Ok(ExecResponse { kind, io: Some(io), .. }) if kind == "output" => {
                self.procedure_output(cx, (id, stage), rank, io);
            }
            Ok(ExecResponse { kind, status, .. }) if kind == "finished" => {
                let status = status.unwrap_or(NOT_RUN);
                // What was stopped for its time is told as that.
                if status != 0 && run.halt != Some(Halt::Late) {
                    run.fail(rank, status, ending(status));
                }
            }
            Ok(_) => {}
            Err(error) => {
                if !reply.is_end() {
                    if error.errno == Errno::EHOSTUNREACH {
                        if run.comes_back(rank, stage, cx.now_us()) {
                            cx.timer(AGAIN_US, Wait::ProcedureAgain(id, stage, rank));
                            return;
                        }
                        run.lost.insert(rank);
                        run.fail(rank, NOT_RUN, LOST.to_string());
                    } else {
                        run.fail(rank, NOT_RUN, format!("could not be run: {error}"));
                    }
                }
                self.procedure_left(cx, (id, stage), rank);
            }
        }
    }

    /// A rank that was away is asked again.
    pub(crate) fn procedure_again(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        stage: Stage,
        rank: u32,
    ) {
        let Some(run) = self.procedures.get_mut(&(id, stage)) else { return };
        let Some(place) = run.places.get_mut(&rank) else { return };
        let wait = Wait::Procedure(id, stage, rank);
        place.tag = cx.stream::<Rexec>(To::Rank(rank), &run.request, wait);
    }

    /// Gives up those of some ranks that are away.
    pub(crate) fn abandon_away(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        stage: Stage,
        ranks: &BTreeSet<u32>,
    ) {
        let Some(run) = self.procedures.get_mut(&(id, stage)) else { return };
        let away: Vec<(u32, u32)> = run
            .places
            .iter()
            .filter(|(rank, place)| place.away.is_some() && ranks.contains(rank))
            .map(|(rank, place)| (*rank, place.tag))
            .collect();
        for (rank, tag) in away {
            cx.forget(tag);
            if let Some(run) = self.procedures.get_mut(&(id, stage)) {
                run.lost.insert(rank);
                run.fail(rank, NOT_RUN, LOST.to_string());
            }
            self.procedure_left(cx, (id, stage), rank);
        }
    }

    /// The stream of a rank has ended.
    fn procedure_left(&mut self, cx: &mut Cx<'_, Wait>, (id, stage): (u64, Stage), rank: u32) {
        self.log_lines(cx, (id, stage), rank, true);
        let Some(run) = self.procedures.get_mut(&(id, stage)) else { return };
        run.places.remove(&rank);
        if run.places.is_empty() {
            self.procedure_ended(cx, id, stage);
        } else if stage == Stage::Housekeeping {
            self.housekeeping_left(cx, id);
        }
    }

    fn procedure_ended(&mut self, cx: &mut Cx<'_, Wait>, id: u64, stage: Stage) {
        let Some(run) = self.procedures.remove(&(id, stage)) else { return };
        if let Some(timer) = run.timer {
            cx.cancel_timer(timer);
        }
        match stage {
            Stage::Prolog | Stage::Epilog => self.perilog_ended(cx, id, stage, run),
            Stage::Housekeeping => self.housekeeping_ended(cx, id, &run),
        }
    }

    /// Tells a procedure to stop: SIGTERM now; what is left after its kill timeout is given up.
    pub(crate) fn halt_procedure(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        stage: Stage,
        why: Halt,
    ) {
        let Some(run) = self.procedures.get_mut(&(id, stage)) else { return };
        if run.halt.is_some() {
            return;
        }
        run.halt = Some(why);
        if let Some(timer) = run.timer.take() {
            cx.cancel_timer(timer);
        }
        run.timer = Some(cx.timer(micros(run.kill_timeout), Wait::ProcedureKill(id, stage)));
        let all = run.places.keys().copied().collect();
        self.signal_procedure(cx, id, stage, SIGTERM, &all);
        self.abandon_away(cx, id, stage, &all);
    }

    /// Sends a signal to the processes on these ranks.
    pub(crate) fn signal_procedure(
        &self,
        cx: &mut Cx<'_, Wait>,
        id: u64,
        stage: Stage,
        signum: i32,
        ranks: &BTreeSet<u32>,
    ) {
        let Some(run) = self.procedures.get(&(id, stage)) else { return };
        for (rank, place) in run.places.iter().filter(|(rank, _)| ranks.contains(rank)) {
            if let Some(pid) = place.pid {
                cx.notify::<Kill>(To::Rank(*rank), &KillRequest { pid, signum, label: None });
            }
        }
    }

    /// The time limit is over.
    pub(crate) fn procedure_late(&mut self, cx: &mut Cx<'_, Wait>, id: u64, stage: Stage) {
        if let Some(run) = self.procedures.get_mut(&(id, stage)) {
            run.timer = None;
            for rank in run.active().ids() {
                run.fail(rank, NOT_RUN, "timed out".to_string());
            }
            self.halt_procedure(cx, id, stage, Halt::Late);
        }
    }

    /// What SIGTERM did not end is given up.
    pub(crate) fn procedure_given_up(&mut self, cx: &mut Cx<'_, Wait>, id: u64, stage: Stage) {
        let Some(run) = self.procedures.get_mut(&(id, stage)) else { return };
        run.timer = None;
        let canceled = run.halt == Some(Halt::Canceled);
        let left = std::mem::take(&mut run.places);
        for (rank, place) in left {
            cx.forget(place.tag);
            if canceled {
                run.fail(rank, NOT_RUN, "canceled then timed out".to_string());
            }
        }
        self.procedure_ended(cx, id, stage);
    }

    fn procedure_output(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        (id, stage): (u64, Stage),
        rank: u32,
        io: Io,
    ) {
        let mut object = Map::new();
        object.insert("stream".into(), io.stream.into());
        object.insert("rank".into(), io.rank.into());
        if let Some(data) = io.data {
            object.insert("data".into(), data.into());
        }
        if let Some(encoding) = io.encoding {
            object.insert("encoding".into(), encoding.into());
        }
        object.insert("eof".into(), io.eof.unwrap_or(false).into());
        let Ok(IoData { stream, data: Some(data), .. }) = IoData::decode(&object, Encoding::Utf8)
        else {
            return;
        };
        if let Some(run) = self.procedures.get_mut(&(id, stage))
            && let Some(place) = run.places.get_mut(&rank)
        {
            place.lines.entry(stream).or_default().extend(data);
            self.log_lines(cx, (id, stage), rank, false);
        }
    }

    /// Logs the complete lines of a rank; with `all`, what is left too.
    fn log_lines(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        (id, stage): (u64, Stage),
        rank: u32,
        all: bool,
    ) {
        let Some(run) = self.procedures.get_mut(&(id, stage)) else { return };
        let Some(place) = run.places.get_mut(&rank) else { return };
        let host = run.r.host(rank).unwrap_or("rank 0");
        for (stream, text) in &mut place.lines {
            let level = if stream == "stderr" { Level::Err } else { Level::Info };
            loop {
                let end = text.iter().position(|&byte| byte == b'\n');
                let take = match end {
                    Some(end) => end + 1,
                    None if all || text.len() > LINE_MAX => text.len(),
                    None => break,
                };
                let line: Vec<u8> = text.drain(..take).collect();
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end();
                if !line.is_empty() && !self.settings.perilog.is_ignored(line) {
                    let f58 = JobId(id).f58();
                    let text = match stage {
                        Stage::Housekeeping => {
                            format!("{stage}: {host} (rank {rank}) {f58}: {line}")
                        }
                        _ => format!("{f58}: {stage}: {host} (rank {rank}): {stream}: {line}"),
                    };
                    cx.log(level, text);
                }
                if text.is_empty() {
                    break;
                }
            }
        }
    }
}

impl Procedure {
    /// For `flux jobtap query` and `flux module stats`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::json!({
            "command": self.command,
            "per_rank": self.per_rank,
            "cancel_on_exception": self.cancel_on_exception,
            "timeout": self.timeout.unwrap_or(0.0),
            "kill-timeout": self.kill_timeout,
        })
    }
}

/// The error of a R that cannot be read.
pub(crate) fn bad_r(id: u64, error: impl fmt::Display) -> RpcError {
    RpcError::new(Errno::EINVAL, format!("R of {}: {error}", JobId(id).f58()))
}
