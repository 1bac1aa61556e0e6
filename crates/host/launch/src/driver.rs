//! The driver: answers `launch.*` from what the keeper tells.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::rc::Rc;

use flux_api::launch::{
    Attach_, Forget_, Kill_, LaunchEvent, LaunchList, LaunchRecord, LaunchStart, List_, Start_,
};
use flux_api::lifecycle::Append;
use flux_api::{Answer, Call, Empty, Raw, Rpc, RpcError, rpc};
use flux_format::LocalTime;
use flux_host::driver::{Driver, DriverHandle};
use flux_proto::{Errno, Message, MsgType, Rolemask};
use tokio::sync::mpsc::UnboundedSender;

use crate::keeper::{Channel, Keeper};
use crate::output::Stream;
use crate::proc;
use crate::protocol::{Event, Order, VERSION};

/// Attempts to find or start the keeper, one after the other, before requests are refused.
const ATTEMPTS: u32 = 3;

/// What a [`LaunchDriver`] begins with.
#[derive(Debug, Clone, Default)]
pub struct LaunchOptions {
    /// Rank of the broker.
    pub rank: u32,
    /// Environment of shells.
    pub env: BTreeMap<String, String>,
    /// Seconds that shells may live without a broker; `None`: for ever, since the instance can
    /// come back.
    pub grace: Option<f64>,
}

/// Serves `launch.*`. Needs a tokio [`LocalSet`](tokio::task::LocalSet) with I/O, time, processes.
///
/// Dropped, it leaves the shells of an instance that can come back, and ends all others.
pub struct LaunchDriver {
    server: Rc<Server>,
}

impl fmt::Debug for LaunchDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaunchDriver")
            .field("rank", &self.server.options.rank)
            .finish_non_exhaustive()
    }
}

struct Server {
    options: LaunchOptions,
    keeper: Box<dyn Keeper>,
    state: RefCell<State>,
}

/// How the keeper is known.
#[derive(Default)]
enum Contact {
    /// Not asked for.
    #[default]
    None,
    /// Being connected to, or telling what is on record.
    Asked,
    /// Everything on record is known.
    Up(UnboundedSender<Order>),
}

#[derive(Default)]
struct State {
    contact: Contact,
    /// Requests that wait for the contact.
    waiting: VecDeque<Message>,
    farewell: Option<Box<dyn FnOnce()>>,
    records: BTreeMap<u64, Record>,
    signals: BTreeMap<u64, Answer<Kill_>>,
    last_signal: u64,
}

/// How far a shell is.
#[derive(Debug, Clone, PartialEq)]
enum Stage {
    Starting,
    Running,
    Exited(i32, u32),
    Lost(String),
}

struct Record {
    pid: i32,
    stage: Stage,
    streams: [Stream; 2],
    followers: Vec<Follower>,
}

/// Somebody who follows a shell, and what of its output is known there.
struct Follower {
    answer: Answer<Attach_>,
    known: [u64; 2],
    /// It was told that the shell runs.
    greeted: bool,
}

impl Record {
    fn new(pid: i32, stage: Stage) -> Self {
        Self { pid, stage, streams: Default::default(), followers: Vec::new() }
    }

    /// Tells one follower what it does not know yet; true when that was the end.
    fn tell(&self, follower: &mut Follower, back: &DriverHandle) -> bool {
        let mut out = back.clone();
        if self.stage == Stage::Starting {
            return false;
        }
        if !std::mem::replace(&mut follower.greeted, true) {
            let (pid, age) = (Some(self.pid), crate::proc::age(self.pid));
            follower
                .answer
                .item(&mut out, &LaunchEvent { pid, age, ..LaunchEvent::new("started") });
        }
        for ((stream, known), name) in
            self.streams.iter().zip(&mut follower.known).zip(["stdout", "stderr"])
        {
            let data = stream.after(*known);
            if !data.is_empty() {
                *known = stream.offset();
                let item = LaunchEvent {
                    stream: Some(name.to_string()),
                    data: Some(data.to_string()),
                    offset: Some(*known),
                    ..LaunchEvent::new("output")
                };
                follower.answer.item(&mut out, &item);
            }
        }
        match &self.stage {
            Stage::Starting | Stage::Running => return false,
            Stage::Exited(status, left) => {
                let left = Some(*left).filter(|left| *left > 0);
                let item =
                    LaunchEvent { status: Some(*status), left, ..LaunchEvent::new("finished") };
                follower.answer.item(&mut out, &item);
            }
            Stage::Lost(note) => {
                let item = LaunchEvent { note: Some(note.clone()), ..LaunchEvent::new("lost") };
                follower.answer.item(&mut out, &item);
            }
        }
        true
    }

    /// Tells every follower; those who know the end are let go.
    fn tell_all(&mut self, back: &DriverHandle) {
        for mut follower in std::mem::take(&mut self.followers) {
            if self.tell(&mut follower, back) {
                follower.answer.end(&mut back.clone());
            } else {
                self.followers.push(follower);
            }
        }
    }

    fn follow<R: Rpc>(&mut self, answer: Answer<R>, known: [u64; 2], back: &DriverHandle) {
        // Both requests have the same responses.
        let head = answer.head().clone();
        answer.forget();
        let mut follower = Follower { answer: Answer::new(head), known, greeted: false };
        if self.tell(&mut follower, back) {
            follower.answer.end(&mut back.clone());
        } else {
            self.followers.push(follower);
        }
    }

    fn fail(self, error: &RpcError, back: &DriverHandle) {
        for follower in self.followers {
            follower.answer.err(&mut back.clone(), error.clone());
        }
    }
}

fn unknown(id: u64) -> RpcError {
    RpcError::new(
        Errno::ENOENT,
        format!("no shell of job {} is on record here", flux_id::JobId(id).f58()),
    )
}

/// Decodes a request, or refuses it.
fn with<R: Rpc>(message: Message, back: &DriverHandle, serve: impl FnOnce(Call<R>)) {
    match Call::decode(message) {
        Ok(call) => serve(call),
        Err((message, error)) => back.refuse(&message, &error),
    }
}

impl LaunchDriver {
    /// A driver whose shells are kept by `keeper`.
    #[must_use]
    pub fn new(options: LaunchOptions, keeper: Box<dyn Keeper>) -> Self {
        Self { server: Rc::new(Server { options, keeper, state: RefCell::default() }) }
    }
}

impl Drop for LaunchDriver {
    fn drop(&mut self) {
        let mut state = self.server.state.borrow_mut();
        for (_, record) in std::mem::take(&mut state.records) {
            record.followers.into_iter().for_each(|follower| follower.answer.forget());
        }
        for (_, answer) in std::mem::take(&mut state.signals) {
            answer.forget();
        }
        state.contact = Contact::None;
        if let Some(farewell) = state.farewell.take()
            && self.server.options.grace.is_some()
        {
            farewell();
        }
    }
}

impl Driver for LaunchDriver {
    fn name(&self) -> &'static str {
        "launch"
    }

    fn deliver(&mut self, message: Message, back: &DriverHandle) {
        if message.kind != MsgType::Request {
            return;
        }
        if message.method() == "disconnect" {
            return self.server.disconnect(&message);
        }
        if !message.cred.rolemask.allows(Rolemask::OWNER) {
            let error = RpcError::new(Errno::EPERM, "Request requires owner credentials");
            return back.refuse(&message, &error);
        }
        self.server.serve(message, back);
    }
}

impl Server {
    fn serve(self: &Rc<Self>, message: Message, back: &DriverHandle) {
        let mut state = self.state.borrow_mut();
        match state.contact {
            Contact::Up(_) => {}
            // A supervisor that begins ends what runs without a record, before it says that it knows
            // nothing.
            Contact::None
                if !matches!(message.topic(), Start_::TOPIC | Attach_::TOPIC)
                    && !self.keeper.may_know() => {}
            Contact::None => {
                state.contact = Contact::Asked;
                state.waiting.push_back(message);
                return back.spawn_local(Rc::clone(self).keep_contact(back.clone()));
            }
            Contact::Asked => return state.waiting.push_back(message),
        }
        match message.topic() {
            Start_::TOPIC => with(message, back, |call| state.start(call, back)),
            Attach_::TOPIC => with(message, back, |call: Call<Attach_>| {
                let known = [call.request.stdout, call.request.stderr];
                match state.records.get_mut(&call.request.id) {
                    Some(record) => record.follow(call.answer, known, back),
                    None => call.answer.err(&mut back.clone(), unknown(call.request.id)),
                }
            }),
            Kill_::TOPIC => with(message, back, |call| state.kill(call, back)),
            List_::TOPIC => with(message, back, |call: Call<List_>| {
                let jobs = state.records.iter().map(|(id, record)| record.describe(*id)).collect();
                let list = LaunchList { rank: self.options.rank, jobs };
                call.answer.ok(&mut back.clone(), &list);
            }),
            Forget_::TOPIC => with(message, back, |call: Call<Forget_>| {
                state.forget(call.request.ids);
                call.answer.ok(&mut back.clone(), &Empty);
            }),
            _ => back.refuse_unknown(&message),
        }
    }

    /// Finds the keeper, and follows it until it is gone. While somebody waits for a shell its
    /// successor is found, which knows what became of the shells.
    async fn keep_contact(self: Rc<Self>, back: DriverHandle) {
        let mut text = "the supervisor of job shells has ended".to_string();
        let mut failures = 0;
        while failures < ATTEMPTS {
            match self.keeper.connect().await {
                Ok(channel) => {
                    failures = if self.follow(channel, &back).await { 0 } else { failures + 1 };
                }
                Err(error) => {
                    text = format!("the supervisor of job shells cannot be reached: {error}");
                    break;
                }
            }
            if !self.is_wanted(&back) {
                return;
            }
        }
        self.lost(&RpcError::new(Errno::EIO, text), &back);
    }

    /// Serves a connection to its end; false when it ended before it told what is on record.
    async fn follow(self: &Rc<Self>, channel: Channel, back: &DriverHandle) -> bool {
        let Channel { orders, mut events, farewell } = channel;
        let LaunchOptions { env, grace, .. } = self.options.clone();
        // Nobody listens: the end of the events says so.
        drop(orders.send(Order::Hello { version: VERSION, grace, env }));
        self.state.borrow_mut().farewell = Some(farewell);
        let mut ready = false;
        let mut told = BTreeSet::new();
        while let Some(event) = events.recv().await {
            if let Event::Started { id, .. } | Event::Lost { id, .. } = &event
                && !ready
            {
                told.insert(*id);
            }
            if let Event::Warning { text } = &event {
                self.warn(text, back);
            }
            if matches!(event, Event::Ready { .. }) {
                ready = true;
                let mut state = self.state.borrow_mut();
                state.contact = Contact::Up(orders.clone());
                state.compare(&told, back);
                drop(state);
                loop {
                    let next = self.state.borrow_mut().waiting.pop_front();
                    let Some(message) = next else { break };
                    self.serve(message, back);
                }
            } else {
                self.state.borrow_mut().event(event, back);
            }
        }
        self.state.borrow_mut().farewell = None;
        ready
    }

    /// A line of the broker's log.
    fn warn(&self, text: &str, back: &DriverHandle) {
        let now = LocalTime::at_offset(proc::wall(), 0, "UTC");
        let time = now.map_or("-".to_string(), |now| {
            let LocalTime { year, month, day, hour, minute, second, microsecond, .. } = now;
            format!(
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{microsecond:06}Z"
            )
        });
        // Severity 4 is a warning.
        let line = format!("<{}>1 {time} {} launch - - - {text}", 4 * 8, self.options.rank);
        let mut message = rpc::request::<Append>(&Raw(line.into_bytes().into()));
        message.set_no_response();
        back.post(message);
    }

    /// The keeper is gone: whether anybody waits for its successor. If not, the next request
    /// finds that.
    fn is_wanted(&self, back: &DriverHandle) -> bool {
        let mut state = self.state.borrow_mut();
        for (_, answer) in std::mem::take(&mut state.signals) {
            answer.err(&mut back.clone(), Errno::EIO);
        }
        let wanted = !state.waiting.is_empty()
            || state.records.values().any(|record| !record.followers.is_empty());
        state.contact = if wanted { Contact::Asked } else { Contact::None };
        if !wanted {
            state.records.clear();
        }
        wanted
    }

    /// No keeper can be found.
    fn lost(&self, error: &RpcError, back: &DriverHandle) {
        let mut state = self.state.borrow_mut();
        state.contact = Contact::None;
        let (records, waiting) =
            (std::mem::take(&mut state.records), std::mem::take(&mut state.waiting));
        drop(state);
        for (_, record) in records {
            record.fail(error, back);
        }
        for message in waiting {
            back.refuse(&message, error);
        }
    }

    /// A client is gone; the shells that it followed are not.
    fn disconnect(&self, message: &Message) {
        let mut state = self.state.borrow_mut();
        for record in state.records.values_mut() {
            let followers = std::mem::take(&mut record.followers);
            for follower in followers {
                if follower.answer.same_sender(message) {
                    follower.answer.forget();
                } else {
                    record.followers.push(follower);
                }
            }
        }
        state.waiting.retain(|waiting| {
            waiting.first_route() != message.first_route() || waiting.topic() == Forget_::TOPIC
        });
    }
}

impl Record {
    fn describe(&self, id: u64) -> LaunchRecord {
        let (state, status) = match &self.stage {
            Stage::Starting | Stage::Running => ("running", None),
            Stage::Exited(status, _) => ("exited", Some(*status)),
            Stage::Lost(_) => ("lost", None),
        };
        LaunchRecord { id, pid: self.pid, state: state.to_string(), status }
    }
}

impl State {
    fn order(&self, order: Order) {
        if let Contact::Up(orders) = &self.contact {
            // Its end is seen where its events are read.
            drop(orders.send(order));
        }
    }

    fn start(&mut self, call: Call<Start_>, back: &DriverHandle) {
        let Call { request, answer } = call;
        let LaunchStart { id, since, age, stdout, stderr, .. } = request;
        let known = [stdout, stderr];
        if let Some(record) = self.records.get_mut(&id) {
            return record.follow(answer, known, back);
        }
        if request.cmdline.is_empty() {
            return answer.err(&mut back.clone(), RpcError::new(Errno::EINVAL, "no program"));
        }
        if proc::was_booted(since, age) {
            let note = Some("the node was restarted".to_string());
            answer.item(&mut back.clone(), &LaunchEvent { note, ..LaunchEvent::new("lost") });
            return answer.end(&mut back.clone());
        }
        let mut record = Record::new(0, Stage::Starting);
        record.follow(answer, known, back);
        self.records.insert(id, record);
        self.order(Order::Start(Box::new(request)));
    }

    fn kill(&mut self, call: Call<Kill_>, back: &DriverHandle) {
        let request = call.request;
        let id = request.id;
        let refuse = match self.records.get(&id).map(|record| &record.stage) {
            None => Some(unknown(id)),
            Some(Stage::Exited(..) | Stage::Lost(_)) => {
                let text = format!("the shell of job {} has ended", flux_id::JobId(id).f58());
                Some(RpcError::new(Errno::ESRCH, text))
            }
            Some(Stage::Starting | Stage::Running) => None,
        };
        match refuse {
            Some(error) => call.answer.err(&mut back.clone(), error),
            None => {
                self.last_signal += 1;
                let seq = self.last_signal;
                self.signals.insert(seq, call.answer);
                self.order(Order::Kill { seq, id, signum: request.signum, all: request.all });
            }
        }
    }

    fn forget(&mut self, mut ids: Vec<u64>) {
        ids.retain(|id| {
            let ended =
                |record: &Record| matches!(record.stage, Stage::Exited(..) | Stage::Lost(_));
            self.records.get(id).is_some_and(ended)
        });
        for id in &ids {
            self.records.remove(id);
        }
        if !ids.is_empty() {
            self.order(Order::Forget(ids));
        }
    }

    /// A keeper has told all that is on record: what else was thought to be there is not.
    fn compare(&mut self, told: &BTreeSet<u64>, back: &DriverHandle) {
        let gone: Vec<u64> = self.records.keys().filter(|id| !told.contains(id)).copied().collect();
        for id in gone {
            let Some(mut record) = self.records.remove(&id) else { continue };
            if record.stage == Stage::Starting {
                let text = "the supervisor of job shells ended before it started the shell";
                record.fail(&RpcError::new(Errno::EIO, text), back);
            } else if matches!(record.stage, Stage::Running) {
                record.stage = Stage::Lost("the record of the job shell is gone".to_string());
                record.tell_all(back);
            }
        }
    }

    fn event(&mut self, event: Event, back: &DriverHandle) {
        match event {
            Event::Ready { .. } | Event::Warning { .. } => {}
            Event::Started { id, pid } => {
                let record =
                    self.records.entry(id).or_insert_with(|| Record::new(pid, Stage::Starting));
                record.pid = pid;
                record.stage = Stage::Running;
                record.tell_all(back);
            }
            Event::Failed { id, errno, text } => {
                if let Some(record) = self.records.remove(&id) {
                    let errno = if errno == 0 { Errno::EIO } else { Errno(errno) };
                    record.fail(&RpcError::new(errno, text), back);
                }
            }
            Event::Output { id, fd, offset, data } => {
                if let Some(record) = self.records.get_mut(&id) {
                    let at = usize::from(fd == 2);
                    let stream = &mut record.streams[at];
                    if offset > stream.offset() {
                        stream.text.push_str(&data);
                    }
                    record.tell_all(back);
                }
            }
            Event::Finished { id, status, left } => {
                self.ended(id, Stage::Exited(status, left), back);
            }
            Event::Lost { id, note } => self.ended(id, Stage::Lost(note), back),
            Event::Killed { seq, errno } => {
                if let Some(answer) = self.signals.remove(&seq) {
                    let mut out = back.clone();
                    match errno {
                        0 => answer.ok(&mut out, &Empty),
                        errno => answer.err(&mut out, Errno(errno)),
                    }
                }
            }
        }
    }

    fn ended(&mut self, id: u64, stage: Stage, back: &DriverHandle) {
        if let Some(record) = self.records.get_mut(&id) {
            record.stage = stage;
            record.tell_all(back);
        }
    }
}
