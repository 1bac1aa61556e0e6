//! From a job id to running tasks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flux_api::RpcError;
use flux_api::job::exec::{ShellBarrier, ShellBarrier_};
use flux_api::job::manager::{Raise, RaiseRequest};
use flux_api::rpc;
use flux_client::{Client, RawPending, To};
use flux_id::{Idset, JobId};
use flux_model::stdio::{Header, Redirect, StdioEvent};
use flux_pmi::{Server, ServerConfig};
use flux_proto::{Errno, Message};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::json;

use super::answers::may_pass;
use super::{Again, Failure, Shell, Waiting};
use crate::affinity::{self, Plan};
use crate::environment::{self, Common};
use crate::exit::Policy;
use crate::hardware;
use crate::job;
use crate::jobdir::JobDir;
use crate::layout::Layout;
use crate::leftovers;
use crate::link::Link;
use crate::log::Level;
use crate::mustache::Tags;
use crate::options::Options;
use crate::outbox::Taken;
use crate::output::{self, Files, Meter, Stream};
use crate::patience::Patience;
use crate::pmi::Fence;
use crate::poller::{Poller, Source};
use crate::recorder::{Log, Recorder};
use crate::rlimit::Limits;

/// How long the execution service may not know the job after a restart of rank 0.
const UNKNOWN: Duration = Duration::from_secs(600);

impl Failure {
    fn new(text: impl ToString) -> Self {
        Failure { code: 1, text: Some(text.to_string()) }
    }
}

/// Ends the job before the shell is up.
fn give_up(client: &Client, id: JobId, error: impl ToString) -> Failure {
    let note = error.to_string();
    let request = RaiseRequest {
        id: id.0,
        severity: 0,
        kind: "exec".to_string(),
        note: Some(note.clone()),
        wait_status: None,
    };
    // The exit code says it too.
    drop(client.call::<Raise>(To::Any, &request));
    Failure::new(note)
}

/// Waits a moment before the next attempt. A signal ends the shell: nothing runs yet.
fn pause(
    patience: &mut Patience,
    signals: &SignalFd,
    error: &dyn std::fmt::Display,
) -> Result<(), Failure> {
    if patience.is_over(Instant::now()) {
        return Err(Failure::new(error));
    }
    let time = rustix::event::Timespec::try_from(patience.pause()).ok();
    let mut fds =
        [rustix::event::PollFd::from_borrowed_fd(signals.as_fd(), rustix::event::PollFlags::IN)];
    // An interruption only makes the pause shorter.
    let _ = rustix::event::poll(&mut fds, time.as_ref());
    ended_by_signal(signals)
}

fn ended_by_signal(signals: &SignalFd) -> Result<(), Failure> {
    match signals.read_signal() {
        // Nothing was started yet that could mean something.
        Ok(Some(info)) if info.ssi_signo == Signal::SIGCHLD as u32 => Ok(()),
        Ok(Some(info)) => {
            let signum = i32::try_from(info.ssi_signo).unwrap_or(15);
            Err(Failure { code: 128 + signum, text: None })
        }
        _ => Ok(()),
    }
}

/// Connects, however long that takes.
fn reach(
    link: &mut Link<Waiting>,
    patience: &mut Patience,
    signals: &SignalFd,
) -> Result<(), Failure> {
    loop {
        let Err(error) = link.open() else {
            patience.found();
            return Ok(());
        };
        patience.lost(Instant::now());
        pause(patience, signals, &error)?;
    }
}

/// Whether the instance is somebody else's: the socket belongs to its owner.
fn is_guest(link: &Link<Waiting>, uid: u32) -> bool {
    let socket = link.uri().strip_prefix("local://").and_then(|p| std::fs::metadata(p).ok());
    socket.is_some_and(|socket| socket.uid() != uid)
}

/// The job, and the rank of this shell's broker where several run the job.
fn ask_for(
    client: &Client,
    id: JobId,
    uid: u32,
    guest: bool,
) -> Result<(job::Job, Option<u32>), RpcError> {
    let job = job::fetch(client, id, uid, guest)?;
    let several = job.r.ranks().len() > 1;
    let rank = several.then(|| client.rank()).transpose()?;
    Ok((job, rank))
}

/// Connects and fetches what [`ask_for`] says. The broker may go away at any moment.
fn fetch(
    link: &mut Link<Waiting>,
    patience: &mut Patience,
    signals: &SignalFd,
    id: JobId,
    uid: u32,
) -> Result<(job::Job, Option<u32>), Failure> {
    loop {
        reach(link, patience, signals)?;
        let Some(client) = link.client() else { continue };
        match ask_for(client, id, uid, is_guest(link, uid)) {
            Ok(found) => {
                patience.found();
                return Ok(found);
            }
            // A signature that does not count is said where the user sees it.
            Err(error) if error.errno == Errno::EPERM => return Err(give_up(client, id, error)),
            Err(error) if may_pass(error.errno) || error.errno == Errno::EEXIST => {
                // The connection before may not be forgotten yet.
                patience.lost(Instant::now());
                link.close();
                pause(patience, signals, &error)?;
            }
            Err(error) => return Err(Failure::new(error)),
        }
    }
}

/// Waits for an answer or a signal.
fn wait_for(
    pending: &mut RawPending,
    signals: &SignalFd,
) -> Result<Result<Message, RpcError>, Failure> {
    loop {
        ended_by_signal(signals)?;
        if let Some(answer) = pending.next_or(&[signals.as_fd()]) {
            return Ok(answer);
        }
    }
}

/// Signals that the tasks get when the shell does.
const PASSED_ON: [Signal; 8] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGALRM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGXCPU,
];

impl Shell {
    /// Fetches the job and gets everything ready but the tasks.
    ///
    /// # Errors
    /// What to say, and the exit code.
    pub fn start(id: JobId) -> Result<Self, Failure> {
        let mut mask = SigSet::empty();
        // All that `exec.term-signal` may name, too: the shell outlives what it passes on.
        for signal in PASSED_ON {
            mask.add(signal);
        }
        // Not passed on: something of the job has ended.
        mask.add(Signal::SIGCHLD);
        mask.thread_block().map_err(Failure::new)?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(Failure::new)?;
        leftovers::adopt();
        let poller = Poller::new().map_err(Failure::new)?;
        poller.add(&signals, Source::Signals).map_err(Failure::new)?;
        let uid = rustix::process::getuid().as_raw();
        let mut link: Link<Waiting> = Link::new(flux_client::own_uri());
        let mut patience = Patience::of_environment();
        let (job, broker) = fetch(&mut link, &mut patience, &signals, id, uid)?;
        let Some(client) = link.client().cloned() else {
            return Err(Failure::new("no connection"));
        };
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
        let patience =
            patience.with_limit(Instant::now(), wall, (job.r.starttime, job.r.expiration));
        let guest = is_guest(&link, uid);
        let fail = |error: &dyn std::fmt::Display| give_up(&client, id, error);
        let options =
            Options::read(job.jobspec.shell_options(), guest).map_err(|error| fail(&error))?;
        let (scheme, value) = options.taskmap.clone();
        let layout = Layout::new(&job.jobspec, &job.r, &scheme, &value, |path| {
            std::fs::read_to_string(path)
        })
        .map_err(|error| fail(&error))?;
        let rank = match broker {
            Some(broker) => layout.shell_rank(broker).map_err(|error| fail(&error))?,
            None => 0,
        };
        let nnodes = u32::try_from(layout.nodes.len()).unwrap_or(u32::MAX);
        let node = &layout.nodes[rank as usize];
        let slot = node.cores.first().map(|core| (node.broker_rank, core));
        let tmpdir = JobDir::make(link.uri(), rank, id, slot)
            .map_err(|error| fail(&format!("job directory: {}", output::reason(&error))))?;
        let tags = Tags {
            id,
            name: job.jobspec.name().to_string(),
            nnodes,
            ntasks: layout.ntasks,
            tmpdir: tmpdir.path().display().to_string(),
            node_id: rank,
            host: node.host.clone(),
            cores: node.cores.clone(),
            gpus: node.gpus.clone(),
        };
        if let Some(files) = job.jobspec.files() {
            crate::files::extract(files, tmpdir.path()).map_err(|error| fail(&error))?;
        }
        let command = job.jobspec.command().first().map_or("", String::as_str);
        let policy = Policy::new(command, options.exit_timeout, options.exit_on_error);
        let fence = Fence::new(rank, nnodes, options.pmi_fanout);
        let recorder = Recorder::new(format!("job-{}", id.dec()), tmpdir.path().to_path_buf());
        let others = if rank == 0 { (1..nnodes).collect() } else { BTreeSet::new() };
        let mut shell = Shell {
            rank,
            uid,
            link,
            poller,
            signals,
            limits: Limits::default(),
            tags,
            env: BTreeMap::new(),
            affinity: Plan::default(),
            files: Files::default(),
            meters: [Meter::default(), Meter::default()],
            recorder,
            quota_told: false,
            last_commit: None,
            policy,
            began: Instant::now(),
            all_started: None,
            asked: BTreeMap::new(),
            look_at: None,
            tasks: Vec::new(),
            pmi: None,
            pmi_aborted: false,
            fence,
            fence_waiting: BTreeMap::new(),
            outboxes: BTreeMap::new(),
            unraised: Vec::new(),
            others,
            heard: VecDeque::new(),
            subscribed: true,
            orphaned: false,
            taken: Taken::default(),
            input_taken: BTreeMap::new(),
            input_bytes: 0,
            input_closed: false,
            paused: false,
            code: 0,
            ended: false,
            warning: None,
            again: Again::default(),
            patience,
            summed: false,
            dir: Some(tmpdir),
            job,
            options,
            layout,
        };
        shell.enter_barrier()?;
        Ok(shell)
    }

    /// The first barrier: all shells of the job are there.
    fn enter_barrier(&mut self) -> Result<(), Failure> {
        if self.size() == 1 {
            return Ok(());
        }
        let node = &self.layout.nodes[self.rank as usize];
        let request = ShellBarrier { id: self.job.id.0, rank: node.broker_rank, passed: Some(0) };
        let begun = Instant::now();
        loop {
            let Some(client) = self.link.client().cloned() else {
                // Whoever asks again takes the place it had.
                reach(&mut self.link, &mut self.patience, &self.signals)?;
                self.subscribed = false;
                let registration = job::registration(self.job.id, &self.job.service);
                for (which, message) in registration.into_iter().enumerate() {
                    drop(self.link.ask(Waiting::Register(which), To::Any, message));
                }
                continue;
            };
            let mut pending = client.start(To::Any, rpc::request::<ShellBarrier_>(&request));
            match wait_for(&mut pending, &self.signals)? {
                Ok(_) => return Ok(()),
                Err(error) if error.errno == Errno::EIO => {
                    return Err(Failure { code: 1, text: None });
                }
                Err(_) if client.is_lost() => {
                    self.patience.lost(Instant::now());
                    self.link.close();
                }
                Err(error) if may_pass(error.errno) => {
                    self.patience.lost(Instant::now());
                    pause(&mut self.patience, &self.signals, &error)?;
                }
                // Restarted, the execution service may not know the job again yet.
                Err(error) if error.errno == Errno::ENOENT && begun.elapsed() < UNKNOWN => {
                    pause(&mut self.patience, &self.signals, &error)?;
                }
                Err(error) => return Err(Failure::new(format!("shell_barrier: {error}"))),
            }
        }
    }

    /// Starts the tasks and records how it all begins.
    pub(super) fn begin(&mut self) {
        if let Err((code, component, text)) = self.prepare() {
            self.announce();
            self.fatal(code, component, &text);
            return;
        }
        self.announce();
        self.began = Instant::now();
        if let Err((code, text)) = self.start_tasks() {
            self.fatal(code, "", &text);
            return;
        }
        if self.size() == 1 {
            self.announce_start();
            return;
        }
        self.ask_barrier();
    }

    /// The first events.
    fn announce(&mut self) {
        if !self.is_leader() {
            return;
        }
        let mut init = json!({
            "service": self.job.service,
            "leader-rank": self.layout.nodes[0].broker_rank,
            "size": self.size(),
        });
        if let Some(pty) = &self.options.pty
            && pty.interactive
        {
            init["pty"] = "terminus.0".into();
            if pty.capture {
                init["capture"] = 1.into();
            }
        }
        self.event("shell.init", init);
        let header = Header::new(&["stdout", "stderr"], self.layout.ntasks);
        self.stdio(Log::Output, &StdioEvent::Header(header));
        let all = match self.layout.ntasks {
            1 => "0".to_string(),
            n => format!("[0-{}]", n - 1),
        };
        for stream in [Stream::Out, Stream::Err] {
            if let Some(path) = output::redirect_path(&self.options.output, stream, &self.tags) {
                let redirect = Redirect {
                    stream: stream.name().to_string(),
                    rank: Some(all.clone()),
                    path: Some(path),
                };
                self.stdio(Log::Output, &StdioEvent::Redirect(redirect));
            }
        }
        self.stdio(Log::Input, &StdioEvent::Header(Header::new(&["stdin"], 1)));
        if let Some(path) = self.options.stdin_path.clone() {
            let path = Some(self.tags.render(&path, None).into_owned());
            let redirect =
                Redirect { stream: "stdin".to_string(), rank: Some("all".to_string()), path };
            self.stdio(Log::Input, &StdioEvent::Redirect(redirect));
        }
    }

    pub(super) fn announce_start(&mut self) {
        self.all_started.get_or_insert_with(Instant::now);
        if self.is_leader() {
            let map = self.layout.map.to_value();
            self.event("shell.start", json!({ "taskmap": map }));
        }
    }

    fn prepare(&mut self) -> Result<(), (i32, &'static str, String)> {
        let warn = |shell: &mut Self, component: &str, text: String| {
            shell.log(Level::Warn, component, &text);
        };
        let node = self.layout.nodes[self.rank as usize].clone();
        let ids: Vec<(u32, u32)> = node.tasks.ids().zip(0..).collect();
        if let Some(cwd) = self.job.jobspec.cwd().map(str::to_string)
            && let Err(error) = std::env::set_current_dir(&cwd)
        {
            let reason = output::reason(&error);
            let text = format!(
                "host {}: Could not change dir to {cwd}: {reason}. Going to /tmp instead",
                node.host
            );
            self.log(Level::Error, "", &text);
            std::env::set_current_dir("/tmp").map_err(|e| (1, "", e.to_string()))?;
        }
        self.files = Files::open(&self.options.output, &self.tags, self.is_leader(), &ids)
            .map_err(|error| (1, "output", error.to_string()))?;
        let (limits, warnings) =
            Limits::plan(&self.options.rlimit).map_err(|error| (1, "rlimit", error.to_string()))?;
        self.limits = limits;
        for text in warnings {
            warn(self, "rlimit", text);
        }
        for (name, needed) in self.options.unserved.clone() {
            let text = format!("option {name} is not served by this shell");
            if needed {
                return Err((1, "", text));
            }
            warn(self, "", text);
        }
        self.plan_affinity(&node.cores, ids.len());
        let gpus = self.options.gpu_affinity != "off";
        let job = self.job.env.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        let common = Common {
            id: self.job.id,
            parent_path: &self.job.parent_path,
            uri: self.link.uri(),
            ntasks: self.layout.ntasks,
            nnodes: self.tags.nnodes,
            tmpdir: &self.tags.tmpdir,
            host: &node.host,
            gpus: gpus.then_some(&node.gpus),
            mpi: self.options.mpi.as_deref() != Some("none"),
        };
        self.env = environment::common(job, &common);
        for (name, template) in &self.options.env_expand {
            let value = self.tags.render(template, None).into_owned();
            self.env.insert(name.clone(), value);
        }
        if let Some(dir) = self.env.get("TMPDIR").cloned()
            && let Err(error) = std::fs::create_dir_all(&dir)
        {
            let reason = output::reason(&error);
            warn(self, "tmpdir", format!("TMPDIR {dir}: {reason}, using /tmp"));
            self.env.insert("TMPDIR".to_string(), "/tmp".to_string());
        }
        if let Some(score) = self.options.oom_adjust
            && let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string())
        {
            warn(self, "oom", format!("oom.adjust={score}: {}", output::reason(&error)));
        }
        if self.options.pmi {
            self.pmi = Some(self.pmi_server(&node.tasks));
        }
        self.arm_warning();
        Ok(())
    }

    fn plan_affinity(&mut self, cores: &Idset, ntasks: usize) {
        let option = self.options.cpu_affinity.clone();
        let needed = affinity::needs_topology(&option) && !affinity::is_everything(&option, cores);
        if !needed && !self.options.hwloc_xmlfile {
            return;
        }
        let topology = match hardware::of_host(self.link.uri()) {
            Ok(topology) => topology,
            Err(error) => {
                self.log(Level::Warn, "cpu-affinity", &error.to_string());
                return;
            }
        };
        if self.options.hwloc_xmlfile {
            let path = format!("{}/hwloc.xml", self.tags.tmpdir);
            let shown = if self.options.hwloc_restrict {
                topology.restrict(&topology.cpus_of(cores.ids())).to_xml()
            } else {
                topology.to_xml()
            };
            match std::fs::write(&path, shown) {
                Ok(()) => {
                    self.job.env.retain(|(name, _)| name != "HWLOC_COMPONENTS");
                    self.job.env.push(("HWLOC_XMLFILE".to_string(), Some(path)));
                }
                Err(error) => self.log(Level::Error, "hwloc", &output::reason(&error)),
            }
        }
        match affinity::cpus(&option, &topology, cores, ntasks) {
            Ok(plan) => {
                if plan.verbose {
                    for (task, cpus) in plan.tasks.iter().enumerate() {
                        self.log(
                            Level::Notice,
                            "cpu-affinity",
                            &format!("task {task}: cpus: {cpus}"),
                        );
                    }
                }
                if !plan.dry_run {
                    self.affinity = plan;
                }
            }
            Err(error) => self.log(Level::Warn, "cpu-affinity", &error.to_string()),
        }
    }

    fn pmi_server(&mut self, tasks: &Idset) -> Server {
        let mut preload = BTreeMap::new();
        let level = self.job.parent_path.split('/').filter(|part| !part.is_empty()).count() + 1;
        preload.insert("flux.instance-level".to_string(), level.to_string());
        if !self.options.pmi_nomap {
            let map = self.layout.map.to_value().to_string();
            if map.len() <= flux_pmi::VALLEN_MAX {
                preload.insert("flux.taskmap".to_string(), map);
            }
            match self.layout.map.to_pmi() {
                Ok(map) if map.len() <= flux_pmi::VALLEN_MAX => {
                    preload.insert("PMI_process_mapping".to_string(), map);
                }
                _ => {
                    let text = "PMI_process_mapping is too long and left out";
                    self.log(Level::Warn, "pmi-simple", text);
                }
            }
        }
        // Only brokers look for it, so that other jobs are spared the request.
        let command = self.job.jobspec.command().first().map_or("", String::as_str);
        if command.rsplit('/').next() == Some("flux")
            && let Some(client) = self.link.client()
            && let Ok(hint) = client.get_attr("tbon.interface-hint")
        {
            preload.insert("flux.tbon-interface-hint".to_string(), hint);
        }
        Server::new(ServerConfig {
            kvsname: self.job.id.f58(),
            universe_size: self.layout.ntasks,
            appnum: 0,
            ranks: tasks.ids().collect(),
            preload,
        })
    }

    /// Sets the timer of the signal before the time limit.
    fn arm_warning(&mut self) {
        let Some(warning) = self.options.signal.filter(|_| self.is_leader()) else {
            return;
        };
        let expiration = self.job.r.expiration;
        if expiration <= 0.0 {
            let name = signal_name(warning.signum);
            let text = format!("job has no expiration, {name} will not be sent");
            self.log(Level::Warn, "signal", &text);
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
        let left = (expiration - warning.timeleft - now).max(0.0);
        let left = Duration::try_from_secs_f64(left).ok();
        self.warning = left.and_then(|left| Instant::now().checked_add(left));
    }
}

/// `SIGUSR1`, or the number of a signal without a name.
pub(super) fn signal_name(signum: i32) -> String {
    Signal::try_from(signum).map_or_else(|_| signum.to_string(), |signal| signal.to_string())
}
