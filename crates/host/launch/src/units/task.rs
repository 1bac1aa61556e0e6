//! What happens to units, one thing after the other.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use flux_api::launch::LaunchStart;
use flux_id::JobId;
use flux_proto::Errno;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use zbus::export::futures_core::Stream as _;
use zbus::message::Type;
use zbus::{Fd, MessageStream, OwnedObjectPath, Variant};

use super::limits::{self, Controllers};
use super::manager::{Manager, Property, UnitState, object};
use super::records::{Record, Records};
use super::{Alive, RETURN, Units, is_populated, kill, pids};
use crate::output::Stream;
use crate::protocol::{Event, Order, VERSION};
use crate::supervisor::shell_input;

/// Between looks at cgroups that are to be empty.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Processes that do not end within this time are given up and counted.
const GIVE_UP: Duration = Duration::from_secs(10);

/// What a shell is given to end when its manager stops, in microseconds.
const STOP: u64 = 10_000_000;

/// Variables that the manager adds, and that mean nothing to a job.
const FOREIGN: [&str; 8] = [
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MANAGERPID",
    "MANAGERPIDFDID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "SYSTEMD_EXEC_PID",
    "XDG_RUNTIME_DIR",
];

/// What arrives from elsewhere than the driver.
enum Input {
    /// The properties of this object have changed.
    Changed(String),
    /// A start has ended: its job, and how.
    Started(String, String),
    /// A shell has written something.
    Output(u64, usize, Vec<u8>),
    /// It had written this before.
    Kept(u64, usize, Vec<u8>),
    /// The manager is gone.
    Gone,
}

#[derive(Debug)]
enum Stage {
    /// The manager has been told to start it: that job of its. `None`: by a broker before this one.
    Starting(Option<String>),
    Running,
    /// The shell has ended with this status; what it left behind is being killed, since then.
    Leaving(i32, Instant),
    Ended,
}

struct Unit {
    record: Record,
    object: String,
    stage: Stage,
    pid: i32,
    cgroup: Option<PathBuf>,
    streams: [Stream; 2],
    pipes: [Option<Rc<Receiver>>; 2],
}

/// Everything a connection to a manager knows.
pub(super) struct Task {
    own: Units,
    manager: Option<Manager>,
    records: Records,
    prefix: String,
    cgroups: Option<PathBuf>,
    controllers: Controllers,
    told: UnboundedSender<Event>,
    alive: Rc<RefCell<Alive>>,
    /// Pipes are read by this broker.
    lock: Option<std::fs::File>,
    /// It was said that cores are not confined here.
    warned: bool,
    units: BTreeMap<u64, Unit>,
    env: BTreeMap<String, String>,
    inputs: UnboundedSender<Input>,
    arrived: UnboundedReceiver<Input>,
}

struct Refused(Errno, String);

fn refused(error: &io::Error) -> Refused {
    let errno = error.raw_os_error().map_or(Errno::EIO, |errno| Errno(errno.unsigned_abs()));
    Refused(errno, format!("error launching process: {error}"))
}

/// Where a program is, as systemd has to be told: by its whole path.
fn find(program: &str, path: Option<&str>) -> Result<String, Refused> {
    if program.starts_with('/') {
        return Ok(program.to_string());
    }
    let there = |directory: &str| {
        let file = std::path::Path::new(directory).join(program);
        file.is_file().then(|| file.display().to_string())
    };
    let path = path.unwrap_or("/usr/local/bin:/usr/bin:/bin");
    path.split(':').filter(|directory| directory.starts_with('/')).find_map(there).ok_or_else(
        || Refused(Errno::ENOENT, format!("error launching process: {program}: not found")),
    )
}

/// Passes on what the manager says.
async fn listen(mut messages: MessageStream, inputs: UnboundedSender<Input>) {
    loop {
        let next = std::future::poll_fn(|cx| Pin::new(&mut messages).poll_next(cx)).await;
        let Some(Ok(message)) = next else {
            drop(inputs.send(Input::Gone));
            return;
        };
        if message.message_type() != Type::Signal {
            continue;
        }
        let header = message.header();
        let member = header.member().map(|member| member.as_str().to_string());
        let input = match member.as_deref() {
            Some("PropertiesChanged") => {
                header.path().map(|path| Input::Changed(path.as_str().to_string()))
            }
            Some("JobRemoved") => {
                let body = message.body();
                let told = body.deserialize::<(u32, OwnedObjectPath, String, String)>();
                told.ok().map(|(_, job, _, how)| Input::Started(job.as_str().to_string(), how))
            }
            _ => None,
        };
        if let Some(input) = input
            && inputs.send(input).is_err()
        {
            return;
        }
    }
}

/// Passes on what a shell writes, until nobody listens.
async fn read(pipe: std::rc::Weak<Receiver>, id: u64, at: usize, inputs: UnboundedSender<Input>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Some(open) = pipe.upgrade() else { return };
        // The pipe is let go of from time to time: it never ends by itself.
        let ready = tokio::time::timeout(Duration::from_secs(1), open.readable()).await;
        if ready.is_err() {
            continue;
        }
        match open.try_read(&mut buffer) {
            Ok(count) if count > 0 => {
                let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                if inputs.send(Input::Output(id, at, bytes)).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

impl Task {
    pub(super) fn new(own: Units, told: UnboundedSender<Event>, alive: Rc<RefCell<Alive>>) -> Self {
        let (inputs, arrived) = unbounded_channel();
        Self {
            records: Records::below(&own.directory),
            own,
            manager: None,
            prefix: String::new(),
            cgroups: limits::cgroup_root(),
            controllers: Controllers::default(),
            told,
            alive,
            lock: None,
            warned: false,
            units: BTreeMap::new(),
            env: BTreeMap::new(),
            inputs,
            arrived,
        }
    }

    /// Connects to the manager, and asks again for so long.
    pub(super) async fn reach(&mut self, patience: Duration) -> io::Result<()> {
        let began = Instant::now();
        let (manager, socket) = loop {
            match Manager::connect(&self.own.sockets).await {
                Ok(found) => break found,
                Err(error) if began.elapsed() >= patience => return Err(error),
                Err(_) => tokio::time::sleep(LOOK_AGAIN * 5).await,
            }
        };
        drop(tokio::task::spawn_local(listen(manager.messages(), self.inputs.clone())));
        manager.subscribe().await;
        let cgroup = manager.cgroup().await.unwrap_or_default();
        self.controllers = Controllers::of(self.cgroups.as_deref(), &cgroup);
        self.prefix = self.own.prefix(&socket);
        self.alive.borrow_mut().runtime =
            socket.ancestors().nth(2).map(std::path::Path::to_path_buf);
        self.manager = Some(manager);
        Ok(())
    }

    /// The manager is gone, or has started itself anew.
    async fn manager_gone(&mut self) {
        self.manager = None;
        // Without one, its units are gone.
        drop(self.reach(RETURN).await);
        let open = self.units.iter().filter(|(_, unit)| !matches!(unit.stage, Stage::Ended));
        for id in open.map(|(id, _)| *id).collect::<Vec<u64>>() {
            self.look_at(id).await;
        }
    }

    /// Finds out how a unit is.
    async fn look_at(&mut self, id: u64) {
        let Some(unit) = self.units.get(&id) else { return };
        let state = match &self.manager {
            Some(manager) => manager.state(&unit.object).await.unwrap_or_default(),
            None => UnitState::default(),
        };
        if state.is_known() {
            return self.apply(id, &state);
        }
        if let Some(unit) = self.units.get(&id)
            && matches!(unit.stage, Stage::Starting(_))
        {
            self.tell(Event::Started { id, pid: 0 });
        }
        self.lost(id, "its unit is gone: systemd was started anew, or somebody stopped it");
    }

    /// Serves until the driver is gone.
    pub(super) async fn run(mut self, mut orders: UnboundedReceiver<Order>) {
        let mut waiting: VecDeque<Input> = VecDeque::new();
        loop {
            let leaving = self.units.values().any(|unit| matches!(unit.stage, Stage::Leaving(..)));
            let looks = async {
                if leaving {
                    tokio::time::sleep(LOOK_AGAIN).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                input = self.arrived.recv() => waiting.extend(input),
                order = orders.recv() => match order {
                    Some(order) => self.order(order).await,
                    None => return,
                },
                () = looks => self.look_at_leaving(),
            }
            while let Some(input) = waiting.pop_front() {
                match input {
                    Input::Changed(object) => self.changed(&object).await,
                    Input::Started(job, how) => self.start_ended(&job, &how).await,
                    Input::Output(id, at, bytes) => self.output(id, at, &bytes),
                    Input::Kept(id, at, bytes) => self.kept(id, at, &bytes),
                    Input::Gone => self.manager_gone().await,
                }
            }
        }
    }

    fn tell(&self, event: Event) {
        // Its end is seen where orders are read.
        drop(self.told.send(event));
    }

    async fn order(&mut self, order: Order) {
        match order {
            Order::Hello { env, .. } => {
                self.env = env;
                self.recall().await;
                self.tell(Event::Ready { version: VERSION });
            }
            Order::Start(request) => {
                let id = request.id;
                if self.units.contains_key(&id) {
                    // The driver knows what is on record.
                    return;
                }
                if let Err(Refused(errno, text)) = self.start(&request).await {
                    self.tell(Event::Failed { id, errno: errno.0, text });
                }
            }
            Order::Kill { seq, id, signum, all } => {
                let errno = self.signal(id, signum, all).await;
                self.tell(Event::Killed { seq, errno });
            }
            Order::Forget(ids) => {
                for id in ids {
                    if self.units.get(&id).is_some_and(|unit| matches!(unit.stage, Stage::Ended)) {
                        self.forget(id).await;
                    }
                }
            }
            Order::Bye => {}
        }
    }

    async fn forget(&mut self, id: u64) {
        if let Some(unit) = self.units.remove(&id)
            && let Some(manager) = &self.manager
        {
            manager.forget(&unit.record.name).await;
        }
        self.records.remove(id);
        self.alive.borrow_mut().units.remove(&id);
    }

    /// Reads pipes from here on. A unit that is just ending saves what is in its own: that takes a
    /// moment.
    async fn take_pipes(&mut self) {
        let began = Instant::now();
        while self.lock.is_none() && began.elapsed() < RETURN {
            match self.records.lock() {
                Ok(None) => tokio::time::sleep(LOOK_AGAIN).await,
                Ok(lock) => self.lock = lock,
                // Then two may read; each byte is read once all the same.
                Err(_) => return,
            }
        }
    }

    /// What is there from before.
    async fn recall(&mut self) {
        if self.records.are_there() {
            self.take_pipes().await;
        }
        for (id, record) in self.records.all() {
            let state = match &self.manager {
                Some(manager) if !record.name.is_empty() => {
                    manager.state(&object(&record.name)).await.unwrap_or_default()
                }
                _ => UnitState::default(),
            };
            if !state.is_known() && !record.taken {
                self.records.remove(id);
                continue;
            }
            self.insert(id, record);
            self.look_at(id).await;
        }
        self.end_strays().await;
    }

    /// Ends units that are on record nowhere: nobody knows of them, and their cores are free.
    async fn end_strays(&mut self) {
        let Some(manager) = self.manager.clone() else { return };
        let known: Vec<&str> = self.units.values().map(|unit| unit.record.name.as_str()).collect();
        let strays = manager.list(&self.prefix).await.unwrap_or_default();
        for name in strays.iter().filter(|name| !known.contains(&name.as_str())) {
            let state = manager.state(&object(name)).await.unwrap_or_default();
            if let Some(root) = self.cgroups.as_deref().filter(|_| !state.cgroup.is_empty()) {
                kill(&limits::inside(root, &state.cgroup));
            }
            drop(manager.kill(name, true, rustix::process::Signal::KILL.as_raw()).await);
            manager.forget(name).await;
        }
    }

    fn insert(&mut self, id: u64, record: Record) {
        let pipes = [0, 1].map(|at| self.records.read_end(id, at).ok().map(Rc::new));
        for (at, pipe) in pipes.iter().enumerate() {
            let kept = self.records.kept(id, at);
            if !kept.is_empty() {
                drop(self.inputs.send(Input::Kept(id, at, kept)));
            }
            if let Some(pipe) = pipe {
                let reader = read(Rc::downgrade(pipe), id, at, self.inputs.clone());
                drop(tokio::task::spawn_local(reader));
            }
        }
        self.alive.borrow_mut().units.insert(id, (record.name.clone(), None));
        let unit = Unit {
            object: object(&record.name),
            record,
            stage: Stage::Starting(None),
            pid: 0,
            cgroup: None,
            streams: Default::default(),
            pipes,
        };
        self.units.insert(id, unit);
    }

    /// The properties of a unit that has no limits.
    fn properties(&self, request: &LaunchStart) -> Result<Vec<Property>, Refused> {
        let own: BTreeMap<&str, &str> = request
            .env
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
            .collect();
        let id = request.id.to_string();
        let env: Vec<String> = self
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !own.contains_key(name))
            .chain(own.iter().map(|(name, value)| (*name, *value)))
            // A name of its own: the supervisor ends what it does not know.
            .chain([("FLUX_LAUNCH_UNIT", id.as_str())])
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let Some((program, words)) = request.cmdline.split_first() else {
            return Err(Refused(Errno::EINVAL, "no program".to_string()));
        };
        let program = find(program, self.env.get("PATH").map(String::as_str))?;
        // A dollar would begin the name of a variable.
        let words = words.iter().map(|word| word.replace('$', "$$"));
        let argv: Vec<String> = std::iter::once(program.clone()).chain(words).collect();
        let foreign: Vec<String> = FOREIGN
            .iter()
            .filter(|name| !self.env.contains_key(**name))
            .map(ToString::to_string)
            .collect();
        let text = |text: &str| Variant::from(text.to_string());
        let described = format!("Flux job shell of {}", JobId(request.id).f58());
        let cwd = request.cwd.clone().unwrap_or_else(|| "/".to_string());
        Ok([
            ("Description", Variant::from(described)),
            ("Type", text("exec")),
            ("RemainAfterExit", Variant::from(true)),
            ("ExecStart", Variant::from(vec![(program, argv, false)])),
            ("Environment", Variant::from(env)),
            ("UnsetEnvironment", Variant::from(foreign)),
            ("WorkingDirectory", Variant::from(cwd)),
            ("Slice", text("jobs.slice")),
            // One task that takes too much memory is the job's affair.
            ("OOMPolicy", text("continue")),
            ("TimeoutStopUSec", Variant::from(STOP)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_string(), value))
        .collect())
    }

    async fn start(&mut self, request: &LaunchStart) -> Result<(), Refused> {
        let id = request.id;
        if self.manager.is_none() {
            let reached = self.reach(Duration::ZERO).await;
            reached.map_err(|error| Refused(Errno::ENOTSUP, error.to_string()))?;
        }
        if let Some(text) = self.controllers.warning()
            && !self.warned
        {
            self.warned = true;
            self.tell(Event::Warning { text });
        }
        let limits = request.unit.as_ref().map_or(Ok(Vec::new()), |unit| {
            limits::properties(unit, &self.controllers, &*self.own.topology)
                .map_err(|text| Refused(Errno::ENOTSUP, text))
        })?;
        let mut properties = self.properties(request)?;
        properties.extend(limits);
        let stdin = shell_input(request).map_err(|(errno, text)| Refused(errno, text))?;
        let name = format!("{}-{}.service", self.prefix, JobId(id).f58plain());
        let record =
            Record { name: name.clone(), signaller: request.signaller.clone(), taken: false };
        self.take_pipes().await;
        self.records.add(id, &record).map_err(|error| {
            self.records.remove(id);
            Refused(Errno::EIO, format!("the shell cannot be put on record: {error}"))
        })?;
        let result = self.start_unit(id, &name, properties, stdin).await;
        let job = match result {
            Ok(job) => Some(job),
            // Started by a broker that had no time to put it on record.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            Err(error) => {
                self.records.remove(id);
                return Err(refused(&error));
            }
        };
        let record = Record { taken: true, ..record };
        // At worst a successor takes it for one that never ran, when systemd is gone too.
        drop(self.records.write(id, &record));
        self.insert(id, record);
        if let Some(unit) = self.units.get_mut(&id) {
            unit.stage = Stage::Starting(job);
            if matches!(unit.stage, Stage::Starting(None)) {
                let object = unit.object.clone();
                self.changed(&object).await;
            }
        }
        Ok(())
    }

    /// What a unit does last: it saves what is still in its pipes. Nothing where there is no flock(1).
    fn saving(&self, id: u64) -> Option<Variant<'static>> {
        let mut words = self.records.saving(id);
        let program = find(words.first()?, None).ok()?;
        words.iter_mut().for_each(|word| *word = word.replace('$', "$$"));
        // Its failure is nobody's.
        Some(Variant::from(vec![(program, words, true)]))
    }

    async fn start_unit(
        &self,
        id: u64,
        name: &str,
        mut properties: Vec<Property>,
        stdin: OwnedFd,
    ) -> io::Result<String> {
        let ends = [stdin, self.records.write_end(id, 0)?, self.records.write_end(id, 1)?];
        for (fd, stream) in ends.into_iter().zip(["Input", "Output", "Error"]) {
            let name = format!("Standard{stream}FileDescriptor");
            properties.push((name, Variant::from(Fd::from(fd))));
        }
        if let Some(saving) = self.saving(id) {
            properties.push(("ExecStopPost".to_string(), saving));
        }
        let Some(manager) = &self.manager else { return Err(io::ErrorKind::NotConnected.into()) };
        let job = manager.start(name, &properties).await?;
        Ok(job.as_str().to_string())
    }

    /// A start that was asked for has succeeded, or has not.
    async fn start_ended(&mut self, job: &str, how: &str) {
        let theirs = |unit: &Unit| matches!(&unit.stage, Stage::Starting(Some(own)) if own == job);
        let Some((id, object)) = self
            .units
            .iter()
            .find(|(_, unit)| theirs(unit))
            .map(|(id, unit)| (*id, unit.object.clone()))
        else {
            return;
        };
        let state = match &self.manager {
            Some(manager) => manager.state(&object).await.unwrap_or_default(),
            None => return,
        };
        if how == "done" {
            return self.apply(id, &state);
        }
        let text = format!("error launching process: systemd: {how} ({})", state.result);
        self.tell(Event::Failed { id, errno: Errno::EIO.0, text });
        self.forget(id).await;
    }

    async fn changed(&mut self, object: &str) {
        let Some((&id, unit)) = self.units.iter().find(|(_, unit)| unit.object == object) else {
            return;
        };
        if matches!(unit.stage, Stage::Starting(Some(_)) | Stage::Leaving(..) | Stage::Ended) {
            // What matters comes by another way.
            return;
        }
        let state = match &self.manager {
            Some(manager) => manager.state(object).await,
            None => return,
        };
        // What cannot be asked is asked when the manager is back.
        if let Ok(state) = state {
            self.apply(id, &state);
        }
    }

    /// A unit as it is now.
    fn apply(&mut self, id: u64, state: &UnitState) {
        let Some(unit) = self.units.get_mut(&id) else { return };
        if !state.cgroup.is_empty()
            && let Some(root) = &self.cgroups
        {
            let cgroup = limits::inside(root, &state.cgroup);
            unit.cgroup = Some(cgroup.clone());
            self.alive.borrow_mut().units.insert(id, (unit.record.name.clone(), Some(cgroup)));
        }
        if matches!(unit.stage, Stage::Starting(_)) && state.first > 0 {
            unit.pid = state.first;
            unit.stage = Stage::Running;
            let event = Event::Started { id, pid: unit.pid };
            drop(self.told.send(event));
        }
        if !matches!(unit.stage, Stage::Running) {
            return;
        }
        if let Some(status) = state.status {
            unit.stage = Stage::Leaving(status, Instant::now());
            self.look_at_leaving();
        } else if matches!(state.active.as_str(), "" | "inactive" | "failed") {
            self.lost(id, "its unit was stopped");
        }
    }

    /// Kills what shells have left behind; ends those that left nothing.
    fn look_at_leaving(&mut self) {
        let mut ended = Vec::new();
        for (&id, unit) in &self.units {
            let Stage::Leaving(status, since) = unit.stage else { continue };
            let left = unit.cgroup.as_deref().filter(|cgroup| is_populated(cgroup));
            match left {
                None => ended.push((id, status, 0)),
                Some(cgroup) if since.elapsed() > GIVE_UP => {
                    ended.push((id, status, pids(cgroup).len()));
                }
                Some(cgroup) => kill(cgroup),
            }
        }
        for (id, status, left) in ended {
            self.finish_output(id);
            if let Some(unit) = self.units.get_mut(&id) {
                unit.stage = Stage::Ended;
            }
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            self.tell(Event::Finished { id, status, left });
        }
    }

    fn lost(&mut self, id: u64, note: &str) {
        self.finish_output(id);
        if let Some(unit) = self.units.get_mut(&id) {
            unit.stage = Stage::Ended;
            self.tell(Event::Lost { id, note: note.to_string() });
        }
    }

    fn output(&mut self, id: u64, at: usize, bytes: &[u8]) {
        if self.units.contains_key(&id) {
            // Where it cannot be kept it is told all the same.
            drop(self.records.keep(id, at, bytes));
        }
        self.kept(id, at, bytes);
    }

    /// What is in the file already.
    fn kept(&mut self, id: u64, at: usize, bytes: &[u8]) {
        let Some(unit) = self.units.get_mut(&id) else { return };
        let Some(stream) = unit.streams.get_mut(at) else { return };
        let before = stream.text.len();
        stream.push(bytes);
        self.told_since(id, at, before);
    }

    fn told_since(&self, id: u64, at: usize, before: usize) {
        let Some(stream) = self.units.get(&id).and_then(|unit| unit.streams.get(at)) else {
            return;
        };
        if let Some(data) = stream.text.get(before..).filter(|data| !data.is_empty()) {
            let fd = if at == 0 { 1 } else { 2 };
            self.tell(Event::Output { id, fd, offset: stream.offset(), data: data.to_string() });
        }
    }

    /// Takes what is left in the pipes of a shell that has ended.
    fn finish_output(&mut self, id: u64) {
        // What its readers have taken already comes first.
        let mut later = Vec::new();
        while let Ok(input) = self.arrived.try_recv() {
            match input {
                Input::Output(id, at, bytes) => self.output(id, at, &bytes),
                Input::Kept(id, at, bytes) => self.kept(id, at, &bytes),
                input => later.push(input),
            }
        }
        for input in later {
            drop(self.inputs.send(input));
        }
        let mut buffer = vec![0; 16 << 10];
        for at in 0..2 {
            let pipe = self.units.get_mut(&id).and_then(|unit| unit.pipes.get_mut(at)?.take());
            while let Some(pipe) = &pipe
                && let Ok(count @ 1..) = pipe.try_read(&mut buffer)
            {
                let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                self.output(id, at, &bytes);
            }
            let Some(unit) = self.units.get_mut(&id) else { return };
            let Some(stream) = unit.streams.get_mut(at) else { return };
            let before = stream.text.len();
            stream.end();
            self.told_since(id, at, before);
        }
    }

    /// Sends a signal; an errno or 0.
    async fn signal(&mut self, id: u64, signum: i32, all: bool) -> u32 {
        let Some(unit) = self.units.get(&id) else { return Errno::ENOENT.0 };
        if matches!(unit.stage, Stage::Ended) {
            return Errno::ESRCH.0;
        }
        if all
            && signum == rustix::process::Signal::KILL.as_raw()
            && let Some(cgroup) = &unit.cgroup
        {
            kill(cgroup);
            return 0;
        }
        let (name, pid) = (unit.record.name.clone(), unit.pid);
        let signaller = unit.record.signaller.clone();
        let targets = match &unit.cgroup {
            Some(cgroup) if all => pids(cgroup),
            _ => vec![pid],
        };
        let sent = match &self.manager {
            Some(manager) => manager.kill(&name, all, signum).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        match sent {
            Ok(()) => 0,
            // Somebody else's process.
            Err(_) if !signaller.is_empty() && pid > 0 => {
                for pid in targets {
                    self.ask_signaller(&signaller, pid, signum);
                }
                0
            }
            Err(_) => Errno::ESRCH.0,
        }
    }

    fn ask_signaller(&self, signaller: &[String], pid: i32, signum: i32) {
        let Some((program, words)) = signaller.split_first() else { return };
        let mut command = tokio::process::Command::new(program);
        command.args(words).arg(signum.to_string()).arg(pid.to_string());
        command.env_clear().envs(&self.env).current_dir("/");
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        if let Ok(mut child) = command.spawn() {
            drop(tokio::task::spawn_local(async move { child.wait().await.ok() }));
        }
    }
}

#[cfg(test)]
mod tests;
