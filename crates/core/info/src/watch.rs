//! Following eventlogs, and R or jobspec through updates.

use flux_api::job::info::{
    EventlogEntry, EventlogWatch, EventlogWatch_, UpdateWatch_, WATCH_INITIAL_SENTINEL,
    WATCH_WAITCREATE,
};
use flux_api::kvs::{self, TREEOBJ, WAITCREATE, WATCH, WATCH_APPEND, WatchLookup, WatchRequest};
use flux_api::{Answer, RpcError};
use flux_id::JobId;
use flux_model::eventlog::Event;
use flux_proto::{Cred, Errno, Message};
use flux_svc::{Cx, Reply, Tag, To};
use serde_json::{Map, Value};

use crate::{InfoService, Missing, Wait, no_job, primary, text_of, updates};

/// Who asked, and for what.
#[derive(Debug)]
enum Target {
    Eventlog(Answer<EventlogWatch_>),
    Update(Answer<UpdateWatch_>, String),
}

/// One watch.
#[derive(Debug)]
pub struct Watch {
    id: u64,
    path: String,
    flags: u32,
    target: Target,
    main: Option<Tag>,
    space: Option<Tag>,
    /// Bytes of the guest eventlog that were sent.
    sent: usize,
    sentinel_owed: bool,
    /// The guest directory was there when the watch began: the job had started.
    existed: bool,
    /// The rest is being read; nothing else matters any more.
    resting: bool,
    /// Update watches: the object, once read, and events that came before it.
    object: Option<Value>,
    before: Vec<Event>,
    /// What was looked for a second time.
    pub(crate) looked: Vec<Missing>,
}

impl Watch {
    fn new(id: u64, path: String, flags: u32, target: Target) -> Self {
        Self {
            id,
            path,
            flags,
            target,
            main: None,
            space: None,
            sent: 0,
            sentinel_owed: flags & WATCH_INITIAL_SENTINEL != 0,
            existed: false,
            resting: false,
            object: None,
            before: Vec::new(),
            looked: Vec::new(),
        }
    }

    /// A watch of an eventlog.
    pub(crate) fn eventlog(request: &EventlogWatch, answer: Answer<EventlogWatch_>) -> Self {
        Self::new(request.id, request.path.clone(), request.flags, Target::Eventlog(answer))
    }

    /// A watch of R or jobspec.
    pub(crate) fn update(id: u64, key: &str, answer: Answer<UpdateWatch_>) -> Self {
        Self::new(id, "eventlog".to_string(), 0, Target::Update(answer, key.to_string()))
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn cred(&self) -> Cred {
        match &self.target {
            Target::Eventlog(answer) => answer.cred(),
            Target::Update(answer, _) => answer.cred(),
        }
    }

    pub(crate) fn is_guest(&self) -> bool {
        self.path.starts_with("guest.")
    }

    pub(crate) fn is_update(&self) -> bool {
        matches!(self.target, Target::Update(..))
    }

    pub(crate) fn sent_by(&self, message: &Message) -> bool {
        match &self.target {
            Target::Eventlog(answer) => answer.same_sender(message),
            Target::Update(answer, _) => answer.same_sender(message),
        }
    }

    pub(crate) fn is_of(&self, matchtag: u32, head: &Message) -> bool {
        let tag = match &self.target {
            Target::Eventlog(answer) => answer.matchtag(),
            Target::Update(answer, _) => answer.matchtag(),
        };
        tag == matchtag && self.sent_by(head)
    }

    /// Path below the guest directory.
    fn guest_path(&self) -> &str {
        self.path.strip_prefix("guest.").unwrap_or(&self.path)
    }

    fn send_lines(&self, cx: &mut Cx<'_, Wait>, text: &str) {
        if let Target::Eventlog(answer) = &self.target {
            for line in text.split_inclusive('\n') {
                answer.item(cx, &EventlogEntry { event: Some(line.to_string()) });
            }
        }
    }

    fn send_sentinel(&mut self, cx: &mut Cx<'_, Wait>) {
        if std::mem::take(&mut self.sentinel_owed)
            && let Target::Eventlog(answer) = &self.target
        {
            answer.item(cx, &EventlogEntry { event: None });
        }
    }

    /// Takes new events of the main eventlog for an update watch; true when it is over.
    fn take_updates(&mut self, cx: &mut Cx<'_, Wait>, text: &str) -> bool {
        let Target::Update(answer, key) = &self.target else { return false };
        let mut over = false;
        for event in text.lines().filter_map(|line| Event::decode(line).ok()) {
            over |= event.name == "clean";
            match &mut self.object {
                None => self.before.push(event),
                Some(object) => {
                    if updates::apply(key, object, &event) {
                        let mut body = Map::new();
                        body.insert(key.clone(), object.clone());
                        answer.item(cx, &body);
                    }
                }
            }
        }
        over && self.object.is_some()
    }
}

/// Whether an eventlog's text holds its last event.
fn has_clean(text: &str) -> bool {
    text.lines()
        .filter(|line| line.contains("clean"))
        .any(|line| Event::decode(line).is_ok_and(|event| event.name == "clean"))
}

impl InfoService {
    pub(crate) fn begin_watch(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64) {
        let Some(watch) = self.watches.get_mut(&ticket) else { return };
        if watch.is_guest() {
            let here = To::Rank(cx.rank());
            cx.call::<kvs::Lookup>(here, &primary(watch.id, "guest", TREEOBJ), Wait::Guest(ticket));
            return;
        }
        let main = Self::watch_main(cx, watch.id, &watch.path, watch.flags, ticket);
        watch.main = Some(main);
        self.read_base(cx, ticket);
    }

    /// Reads the object of an update watch.
    pub(crate) fn read_base(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64) {
        let here = To::Rank(cx.rank());
        let Some(watch) = self.watches.get(&ticket) else { return };
        if let Target::Update(_, key) = &watch.target {
            let request = primary(watch.id, key, 0);
            cx.call::<kvs::Lookup>(here, &request, Wait::Base(ticket));
        }
    }

    /// Watches the main eventlog, which was not there, again.
    pub(crate) fn watch_again(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64) {
        let Some(watch) = self.watches.get_mut(&ticket).filter(|watch| !watch.resting) else {
            return;
        };
        let (path, flags) = match watch.is_guest() {
            true => ("eventlog", watch.flags & !WATCH_WAITCREATE),
            false => (watch.path.as_str(), watch.flags),
        };
        watch.main = Some(Self::watch_main(cx, watch.id, path, flags, ticket));
    }

    fn watch_main(cx: &mut Cx<'_, Wait>, id: u64, path: &str, flags: u32, ticket: u64) -> Tag {
        let waitcreate = if flags & WATCH_WAITCREATE != 0 { WAITCREATE } else { 0 };
        let request = WatchRequest {
            namespace: kvs::PRIMARY.to_string(),
            key: crate::key(id, path),
            flags: WATCH | WATCH_APPEND | waitcreate,
        };
        let here = To::Rank(cx.rank());
        cx.stream::<WatchLookup>(here, &request, Wait::Main(ticket))
    }

    /// What `guest` is: a link to the namespace while the job runs, then a directory.
    pub(crate) fn guest_known(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, reply: &Reply) {
        let here = To::Rank(cx.rank());
        let Some(watch) = self.watches.get_mut(&ticket) else { return };
        let kind = match reply.decode::<kvs::Lookup>() {
            Ok(response) => {
                watch.existed = true;
                response.val.get("type").and_then(Value::as_str).unwrap_or("").to_string()
            }
            Err(error) if error.errno == Errno::ENOENT => "symlink".to_string(),
            Err(error) => return self.end_watch(cx, ticket, Err(error)),
        };
        if kind != "symlink" {
            return self.read_rest(cx, ticket);
        }
        let request = WatchRequest {
            namespace: format!("job-{}", JobId(watch.id).dec()),
            key: watch.guest_path().to_string(),
            flags: WATCH | WATCH_APPEND | WAITCREATE,
        };
        watch.space = Some(cx.stream::<WatchLookup>(here, &request, Wait::Space(ticket)));
        // The main eventlog tells when the job is over, should the namespace never come. It is there
        // from the beginning: without it there is no such job, and nothing to wait for.
        let flags = watch.flags & !WATCH_WAITCREATE;
        watch.main = Some(Self::watch_main(cx, watch.id, "eventlog", flags, ticket));
    }

    pub(crate) fn main_log(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, reply: &Reply) {
        let Some(watch) = self.watches.get_mut(&ticket) else { return };
        let text = reply.decode::<WatchLookup>().and_then(|response| text_of(&response.val));
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                watch.main = None;
                if self.look_again(cx, ticket, Missing::Main, &error) {
                    return;
                }
                let error = if error.errno == Errno::ENOENT { no_job() } else { error };
                let result = if reply.is_end() { Ok(()) } else { Err(error) };
                return self.end_watch(cx, ticket, result);
            }
        };
        let over = has_clean(&text);
        if watch.is_guest() {
            if over && !watch.resting {
                self.read_rest(cx, ticket);
            }
            return;
        }
        if watch.is_update() {
            if watch.take_updates(cx, &text) {
                self.end_watch(cx, ticket, Ok(()));
            }
            return;
        }
        watch.send_lines(cx, &text);
        watch.send_sentinel(cx);
        if over {
            self.end_watch(cx, ticket, Ok(()));
        }
    }

    pub(crate) fn guest_log(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, reply: &Reply) {
        let Some(watch) = self.watches.get_mut(&ticket) else { return };
        if watch.resting {
            return;
        }
        match reply.decode::<WatchLookup>().and_then(|response| text_of(&response.val)) {
            Ok(text) => {
                watch.sent += text.len();
                watch.send_lines(cx, &text);
                watch.send_sentinel(cx);
            }
            // The namespace is gone: what it became has the rest.
            Err(_) => {
                watch.space = None;
                self.read_rest(cx, ticket);
            }
        }
    }

    /// Reads the eventlog from the job's directory, to send what was not sent yet.
    fn read_rest(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64) {
        let Some(watch) = self.watches.get_mut(&ticket) else { return };
        if std::mem::replace(&mut watch.resting, true) {
            return;
        }
        self.ask_rest(cx, ticket);
    }

    pub(crate) fn ask_rest(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64) {
        let here = To::Rank(cx.rank());
        let Some(watch) = self.watches.get(&ticket) else { return };
        let request = primary(watch.id, &watch.path, 0);
        cx.call::<kvs::Lookup>(here, &request, Wait::Rest(ticket));
    }

    pub(crate) fn rest_read(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, reply: &Reply) {
        if let Some(error) = reply.error()
            && self.look_again(cx, ticket, Missing::Rest, error)
        {
            return;
        }
        let Some(watch) = self.watches.get_mut(&ticket) else { return };
        match reply.decode::<kvs::Lookup>().and_then(|response| text_of(&response.val)) {
            Ok(text) => {
                let rest = text.get(watch.sent..).unwrap_or("");
                watch.send_lines(cx, rest);
                watch.send_sentinel(cx);
                self.end_watch(cx, ticket, Ok(()));
            }
            Err(_) if watch.sent > 0 => self.end_watch(cx, ticket, Ok(())),
            // The job was waited for until its end and never ran: its log is empty.
            Err(error) if error.errno == Errno::ENOENT && !watch.existed => {
                self.end_watch(cx, ticket, Ok(()));
            }
            Err(error) => {
                let error = if error.errno == Errno::ENOENT {
                    RpcError::new(Errno::ENOENT, format!("{}: key not found", watch.path))
                } else {
                    error
                };
                self.end_watch(cx, ticket, Err(error));
            }
        }
    }

    pub(crate) fn base_read(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, reply: &Reply) {
        if let Some(error) = reply.error()
            && self.look_again(cx, ticket, Missing::Base, error)
        {
            return;
        }
        let Some(watch) = self.watches.get_mut(&ticket) else { return };
        let Target::Update(answer, key) = &watch.target else { return };
        let object = reply
            .decode::<kvs::Lookup>()
            .and_then(|response| text_of(&response.val))
            .and_then(|text| {
                serde_json::from_str::<Value>(&text)
                    .map_err(|error| RpcError::new(Errno::EPROTO, format!("{key}: {error}")))
            });
        let mut object = match object {
            Ok(object) => object,
            Err(error) => {
                let error = if error.errno == Errno::ENOENT {
                    RpcError::new(Errno::ENOENT, format!("{key}: key not found"))
                } else {
                    error
                };
                return self.end_watch(cx, ticket, Err(error));
            }
        };
        let mut over = false;
        for event in watch.before.drain(..) {
            updates::apply(key, &mut object, &event);
            over |= event.name == "clean";
        }
        let mut body = Map::new();
        body.insert(key.clone(), object.clone());
        answer.item(cx, &body);
        watch.object = Some(object);
        if over {
            self.end_watch(cx, ticket, Ok(()));
        }
    }

    /// Ends a watch: with ENODATA, or an error.
    pub(crate) fn end_watch(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        ticket: u64,
        result: Result<(), RpcError>,
    ) {
        let Some(watch) = self.watches.remove(&ticket) else { return };
        for tag in [watch.main, watch.space].into_iter().flatten() {
            Self::end_stream(cx, tag);
        }
        let error = result.err().unwrap_or_else(|| RpcError::bare(Errno::ENODATA));
        match watch.target {
            Target::Eventlog(answer) => answer.err(cx, error),
            Target::Update(answer, _) => answer.err(cx, error),
        }
    }

    /// Drops a watch whose client is gone.
    pub(crate) fn drop_watch(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64) {
        let Some(watch) = self.watches.remove(&ticket) else { return };
        for tag in [watch.main, watch.space].into_iter().flatten() {
            Self::end_stream(cx, tag);
        }
        match watch.target {
            Target::Eventlog(answer) => answer.forget(),
            Target::Update(answer, _) => answer.forget(),
        }
    }
}
