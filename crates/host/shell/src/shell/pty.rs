//! Terminals of tasks, and who looks at them.

use flux_model::stdio::{Encoding, IoData};
use flux_proto::{Errno, Message};
use serde_json::{Map, Value, json};

use super::Shell;
use crate::output::Stream;
use crate::poller::Source;
use crate::task;

/// Most bytes that wait to be typed in.
const INPUT_MAX: usize = 1 << 20;

/// A client that has attached: its streaming request.
#[derive(Debug)]
struct Viewer {
    request: Message,
    reads: bool,
    writes: bool,
}

/// A terminal beside its process.
#[derive(Debug)]
pub(super) struct Terminal {
    capture: bool,
    /// Nothing is read before the first client has come.
    waiting: bool,
    /// Nobody has it open at the moment; the process may still open it again.
    hung_up: bool,
    viewers: Vec<Viewer>,
    held: crate::stream::Pieces,
}

impl Terminal {
    pub(super) fn new(capture: bool, interactive: bool) -> Self {
        let held = crate::stream::Pieces::new(false);
        Self { capture, waiting: interactive, hung_up: false, viewers: Vec::new(), held }
    }

    pub(super) fn waits(&self) -> bool {
        self.waiting
    }
}

/// The `data` object of a message: text, or base64 where it is none.
fn data_message(data: &[u8]) -> Value {
    let piece = IoData::new("stdout", "0", data).encode(Encoding::Utf8);
    let mut body = Map::new();
    body.insert("type".to_string(), "data".into());
    for key in ["data", "encoding"] {
        if let Some(value) = piece.get(key) {
            body.insert(key.to_string(), value.clone());
        }
    }
    Value::Object(body)
}

fn data_of(body: &Value) -> Option<Vec<u8>> {
    let mut object = body.as_object()?.clone();
    object.insert("stream".to_string(), "stdin".into());
    object.insert("rank".to_string(), "0".into());
    IoData::decode(&object, Encoding::Utf8).ok()?.data
}

fn same_client(a: &Message, b: &Message) -> bool {
    a.first_route() == b.first_route()
}

impl Shell {
    fn send_exit(&self, viewer: &Viewer, text: &str, status: i32) {
        let body = json!({"type": "exit", "message": text, "status": status});
        self.link.post(Message::response_to(&viewer.request).with_json(&body));
        self.link.post(Message::error_to(&viewer.request, Errno::ENODATA, None));
    }

    /// A terminal has output.
    pub(super) fn on_terminal(&mut self, at: usize) {
        let Some(task) = self.tasks.get_mut(at) else { return };
        let (Some(fd), Some(terminal)) = (&task.process.terminal, &mut task.terminal) else {
            return;
        };
        let Some(data) = task::read(fd) else { return };
        let rank = task.rank;
        let ended = data.is_empty();
        if ended && task.status.is_none() {
            // Closing it now would send SIGHUP to a process that has only closed its streams.
            self.poller.remove(fd);
            terminal.hung_up = true;
            return;
        }
        let data = if ended { terminal.held.finish() } else { terminal.held.feed(&data) };
        if ended {
            self.poller.remove(fd);
            task.process.terminal = None;
        }
        let capture = terminal.capture;
        if !data.is_empty() {
            let body = data_message(&data);
            for viewer in terminal.viewers.iter().filter(|viewer| viewer.reads) {
                self.link.post(Message::response_to(&viewer.request).with_json(&body));
            }
        }
        if capture && (ended || !data.is_empty()) {
            self.output(Stream::Out, rank, data, ended);
        } else if ended {
            self.output(Stream::Out, rank, Vec::new(), true);
        }
        if ended {
            // A terminal has no stderr of its own.
            self.output(Stream::Err, rank, Vec::new(), true);
        }
        self.report_end(at);
    }

    /// The process of a terminal has ended: what is left of its output.
    pub(super) fn drain_terminal(&mut self, at: usize) {
        let Some(task) = self.tasks.get_mut(at) else { return };
        let (Some(fd), Some(terminal)) = (&task.process.terminal, &mut task.terminal) else {
            return;
        };
        if std::mem::take(&mut terminal.hung_up)
            && self.poller.add(fd, Source::Terminal(at)).is_err()
        {
            task.process.terminal = None;
        }
    }

    /// Keys for a terminal.
    pub(super) fn type_in(&mut self, at: usize, data: &[u8]) {
        let Some(task) = self.tasks.get_mut(at) else { return };
        let Some(fd) = &task.process.terminal else { return };
        if task.feed.queue.len() + data.len() > INPUT_MAX {
            return;
        }
        task.feed.queue.extend(data);
        while !task.feed.queue.is_empty() {
            match rustix::io::write(fd, task.feed.queue.as_slices().0) {
                Ok(count) => drop(task.feed.queue.drain(..count)),
                Err(rustix::io::Errno::INTR) => {}
                // Full or gone: the rest goes with the next keys.
                Err(_) => return,
            }
        }
    }

    /// The process and its terminal have ended.
    pub(super) fn close_terminal(&mut self, at: usize, status: i32) {
        let viewers = match &mut self.tasks[at].terminal {
            Some(terminal) => std::mem::take(&mut terminal.viewers),
            None => return,
        };
        for viewer in &viewers {
            self.send_exit(viewer, "session exiting", status);
        }
    }

    /// A request to `<service>.terminus.<session>`.
    pub(super) fn on_terminal_request(&mut self, session: &str, request: &Message) {
        let result = self.terminal_request(session, request);
        match result {
            Ok(true) => self.accept(request),
            Ok(false) => {}
            Err((errno, text)) => {
                if !request.no_response() {
                    self.link.post(Message::error_to(request, errno, Some(text)));
                }
            }
        }
    }

    fn terminal_request(
        &mut self,
        session: &str,
        request: &Message,
    ) -> Result<bool, (Errno, &'static str)> {
        let rank = session.parse::<u32>().ok();
        let at = self
            .tasks
            .iter()
            .position(|task| Some(task.rank) == rank && task.terminal.is_some())
            .ok_or((Errno::ENOENT, "no such terminal session"))?;
        let body: Value =
            request.json().map_err(|_| (Errno::EPROTO, "the request is no JSON object"))?;
        let kind = body["type"].as_str().unwrap_or_default().to_string();
        if kind == "attach" {
            return self.attach(at, request, &body).map(|()| false);
        }
        let Some(terminal) = &mut self.tasks[at].terminal else {
            return Err((Errno::ENOENT, "no such terminal session"));
        };
        let viewer = terminal
            .viewers
            .iter()
            .position(|viewer| same_client(&viewer.request, request))
            .ok_or((Errno::ENOENT, "client is not attached"))?;
        match kind.as_str() {
            "data" => {
                let writes = terminal.viewers[viewer].writes;
                let data = data_of(&body).ok_or((Errno::EPROTO, "invalid data"))?;
                if writes {
                    self.type_in(at, &data);
                }
            }
            "resize" => self.resize(at, &body["winsize"]),
            "detach" => {
                let viewer = terminal.viewers.remove(viewer);
                self.accept(request);
                self.send_exit(&viewer, "Client requested detach", 0);
                return Ok(false);
            }
            _ => return Err((Errno::ENOSYS, "unknown type of terminal message")),
        }
        Ok(true)
    }

    fn resize(&self, at: usize, winsize: &Value) {
        let side = |key: &str| winsize[key].as_u64().and_then(|n| u16::try_from(n).ok());
        if let (Some(fd), Some(rows), Some(cols)) =
            (&self.tasks[at].process.terminal, side("rows"), side("cols"))
        {
            // A terminal that has just gone needs no size.
            drop(task::set_size(fd, rows, cols));
        }
    }

    fn attach(
        &mut self,
        at: usize,
        request: &Message,
        body: &Value,
    ) -> Result<(), (Errno, &'static str)> {
        let (reads, writes) = match body["mode"].as_str() {
            Some("rw") => (true, true),
            Some("ro") => (true, false),
            Some("wo") => (false, true),
            _ => return Err((Errno::EPROTO, "invalid mode")),
        };
        if !request.is_streaming() {
            return Err((Errno::EPROTO, "attach needs a streaming request"));
        }
        if reads && writes {
            self.resize(at, &body["winsize"]);
        }
        let task = &mut self.tasks[at];
        let Some(terminal) = &mut task.terminal else {
            return Err((Errno::ENOENT, "no such terminal session"));
        };
        if terminal.viewers.iter().any(|viewer| same_client(&viewer.request, request)) {
            return Err((Errno::EEXIST, "client is attached already"));
        }
        terminal.viewers.push(Viewer { request: request.clone(), reads, writes });
        let started = reads && std::mem::take(&mut terminal.waiting);
        self.link.post(Message::response_to(request).with_json(&json!({"type": "attach"})));
        if started && let Some(fd) = &self.tasks[at].process.terminal {
            self.poller
                .add(fd, Source::Terminal(at))
                .map_err(|_| (Errno::EIO, "the terminal cannot be watched"))?;
        }
        if self.tasks[at].reported {
            let status = self.tasks[at].status.unwrap_or_default();
            self.close_terminal(at, status);
        }
        Ok(())
    }

    /// The connection is lost: clients attach again.
    pub(super) fn terminals_unseen(&mut self) {
        for terminal in self.tasks.iter_mut().filter_map(|task| task.terminal.as_mut()) {
            terminal.viewers.clear();
        }
    }

    /// A client has gone without a word.
    pub(super) fn terminal_client_gone(&mut self, request: &Message) {
        for task in &mut self.tasks {
            if let Some(terminal) = &mut task.terminal {
                terminal.viewers.retain(|viewer| !same_client(&viewer.request, request));
            }
        }
    }
}
