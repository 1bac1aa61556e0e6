//! What is typed or piped into `attach`, on its way to the job.

use std::{
    collections::VecDeque,
    io::IsTerminal,
    time::{Duration, Instant},
};

use flux_client::{Client, RawPending, To};
use flux_model::stdio::{Encoding, IoData};
use flux_proto::Message;
use serde_json::{Value, json};

use super::terminal::{Keys, Raw, in_foreground, window};
use crate::resume::may_pass;

/// Most bytes read at once.
const CHUNK: usize = 64 << 10;
/// Writes that may wait for an answer; then reading stops, so that a slow job slows its source.
const IN_FLIGHT: usize = 16;
/// Until what the shell could not be given is sent again.
const AGAIN: Duration = Duration::from_millis(500);

/// Whether standard input should be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Yes.
    Ready,
    /// It is a terminal that another job of the user's shell has now.
    Background,
    /// No.
    Closed,
}

enum Target {
    /// Nobody takes it yet.
    None,
    /// The `stdin` method of the leader shell.
    Shell { topic: String, rank: u32 },
    /// A terminal of the job; without a stream while its shell is away.
    Terminal { topic: String, rank: u32, stream: Option<RawPending>, raw: Option<Raw>, keys: Keys },
}

/// Something that was sent.
struct Sent {
    /// The shell takes pieces of input with these numbers once and in order, so that they can be
    /// sent again. Keys for a terminal have none.
    body: Option<Value>,
    answer: Option<RawPending>,
}

/// Standard input and where it goes.
pub(crate) struct Input {
    open: bool,
    ranks: String,
    /// Tasks whose input ends with this one.
    ending: String,
    target: Target,
    waiting: VecDeque<Sent>,
    /// Names this client to the shell.
    client: String,
    /// Pieces sent so far.
    pieces: u64,
    again: Option<Instant>,
}

impl Input {
    /// Input that goes to the tasks of `ranks`, or nowhere. With `only` there is no other: tasks
    /// that get none of it would wait for ever, so that its end is theirs, too.
    pub(crate) fn new(read_only: bool, ranks: String, only: bool) -> Self {
        let ending = if only { "all".to_owned() } else { ranks.clone() };
        let client = format!("{}.{:.6}", std::process::id(), crate::session::now());
        Self {
            open: !read_only,
            ranks,
            ending,
            target: Target::None,
            waiting: VecDeque::new(),
            client,
            pieces: 0,
            again: None,
        }
    }

    /// The leader shell is there: input can go to it, or to the interactive terminal it keeps.
    pub(crate) fn open(&mut self, client: &Client, service: &str, rank: u32, pty: Option<&str>) {
        if !self.open {
            return;
        }
        let Some(pty) = pty else {
            self.target = Target::Shell { topic: format!("{service}.stdin"), rank };
            return;
        };
        let topic = format!("{service}.{pty}");
        let stream = Some(attach(client, &topic, rank));
        let raw = Some(Raw::enter());
        self.target = Target::Terminal { topic, rank, stream, raw, keys: Keys::default() };
    }

    /// Whether to wait for standard input now.
    pub(crate) fn source(&self) -> Source {
        if !self.open || matches!(self.target, Target::None) || self.waiting.len() >= IN_FLIGHT {
            Source::Closed
        } else if std::io::stdin().is_terminal() && !in_foreground() {
            Source::Background
        } else {
            Source::Ready
        }
    }

    /// Reads what is there and sends it on. True when the user wants to detach.
    pub(crate) fn read(&mut self, client: &Client) -> bool {
        let mut buffer = vec![0; CHUNK];
        let got = match rustix::io::read(std::io::stdin(), &mut buffer) {
            Ok(got) => got,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return false,
            Err(_) => 0,
        };
        buffer.truncate(got);
        let mut piece = false;
        let (topic, rank, body, detach) = match &mut self.target {
            Target::None => return false,
            Target::Shell { topic, rank } => {
                let data = if got == 0 {
                    IoData::end("stdin", &self.ending)
                } else {
                    IoData::new("stdin", &self.ranks, buffer)
                };
                let mut body = data.encode(Encoding::Utf8);
                self.pieces += 1;
                body.insert("client".into(), self.client.as_str().into());
                body.insert("seq".into(), self.pieces.into());
                piece = true;
                (topic.clone(), *rank, Value::Object(body), false)
            }
            Target::Terminal { topic, rank, keys, .. } => {
                let (text, detach) = keys.filter(&buffer);
                if detach {
                    (topic.clone(), *rank, json!({"type": "detach"}), true)
                } else if text.is_empty() {
                    self.open = got != 0;
                    return false;
                } else {
                    (topic.clone(), *rank, terminal_data(text), false)
                }
            }
        };
        self.open = got != 0;
        let message = Message::request(topic.as_str()).with_json(&body);
        let answer = Some(client.start(To::Rank(rank), message));
        self.waiting.push_back(Sent { body: piece.then_some(body), answer });
        detach
    }

    /// The window has another size.
    pub(crate) fn resize(&mut self, client: &Client) {
        if let Target::Terminal { topic, rank, .. } = &self.target {
            let body = json!({"type": "resize", "winsize": window()});
            let message = Message::request(topic.as_str()).with_json(&body);
            let answer = Some(client.start(To::Rank(*rank), message));
            self.waiting.push_back(Sent { body: None, answer });
        }
    }

    /// There is a new connection: what has no answer is sent again, a terminal attached again.
    pub(crate) fn reconnected(&mut self, client: &Client) {
        self.again = None;
        match &mut self.target {
            Target::None => {}
            Target::Shell { topic, rank } => {
                self.waiting.retain(|sent| sent.body.is_some());
                for sent in &mut self.waiting {
                    if let Some(body) = &sent.body {
                        let message = Message::request(topic.as_str()).with_json(body);
                        sent.answer = Some(client.start(To::Rank(*rank), message));
                    }
                }
            }
            Target::Terminal { topic, rank, stream, .. } => {
                self.waiting.clear();
                *stream = Some(attach(client, topic, *rank));
            }
        }
    }

    /// When [`Input::settle`] has something to send again.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.again
    }

    /// Takes the answers to what was sent. What a shell could not be given since somebody on the
    /// way is away is sent again, from the first that has no answer on. A target that refuses input
    /// gets no more of it: the tasks are gone, or read a file.
    pub(crate) fn settle(&mut self, client: &Client, now: Instant) {
        if self.again.is_some_and(|at| at <= now) {
            self.reconnected(client);
        }
        while let Some(first) = self.waiting.front_mut() {
            let Some(answer) = first.answer.as_mut().and_then(RawPending::try_answer) else {
                return;
            };
            match answer {
                Ok(_) => {}
                Err(error) if may_pass(&error) && first.body.is_some() => {
                    first.answer = None;
                    self.again = Some(now + AGAIN);
                    return;
                }
                Err(error) if may_pass(&error) => {}
                Err(_) => self.open = false,
            }
            self.waiting.pop_front();
        }
    }

    /// What the job's terminal shows.
    pub(crate) fn take_terminal_output(&mut self) -> Vec<Vec<u8>> {
        let mut shown = Vec::new();
        let mut over = false;
        if let Target::Terminal { stream: attached, raw, .. } = &mut self.target {
            while let Some(stream) = attached.as_mut()
                && let Some(answer) = stream.try_answer()
            {
                if let Err(error) = &answer
                    && may_pass(error)
                {
                    // The broker of the shell is away; the shell is not.
                    *attached = None;
                    self.again = Some(Instant::now() + AGAIN);
                    break;
                }
                let done = stream.is_done();
                let body = answer.ok().and_then(|message| message.json::<Value>().ok());
                match body.as_ref().and_then(|body| body["type"].as_str()) {
                    Some("data") => {
                        // The stream and rank are not part of these messages.
                        let mut object =
                            body.and_then(|b| b.as_object().cloned()).unwrap_or_default();
                        object.insert("stream".into(), "stdout".into());
                        object.insert("rank".into(), "0".into());
                        let data = IoData::decode(&object, Encoding::Utf8);
                        shown.extend(data.ok().and_then(|data| data.data));
                    }
                    Some("exit") => over = true,
                    _ => {}
                }
                if done {
                    over = true;
                    break;
                }
            }
            if over {
                drop(raw.take());
            }
        }
        if over {
            self.open = false;
        }
        shown
    }

    /// What ends a line on the terminal besides a newline.
    pub(crate) fn newline(&self) -> &'static str {
        match &self.target {
            Target::Terminal { raw: Some(_), .. } => "\r",
            _ => "",
        }
    }

    /// Gives the terminal back.
    pub(crate) fn close(&mut self) {
        self.open = false;
        if let Target::Terminal { raw, .. } = &mut self.target {
            drop(raw.take());
        }
    }
}

/// Attaches to a terminal of the job.
fn attach(client: &Client, topic: &str, rank: u32) -> RawPending {
    let request = json!({"type": "attach", "mode": "rw", "winsize": window()});
    let message = Message::request(topic).with_json(&request).with_streaming();
    client.start(To::Rank(rank), message)
}

fn terminal_data(text: Vec<u8>) -> Value {
    let mut object = IoData::new("stdin", "0", text).encode(Encoding::Utf8);
    object.remove("stream");
    object.remove("rank");
    object.insert("type".into(), "data".into());
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_data_is_text_where_it_can_be() {
        assert_eq!(terminal_data(b"ls\n".to_vec()), json!({"data": "ls\n", "type": "data"}));
        assert_eq!(
            terminal_data(vec![0xff]),
            json!({"data": "/w==", "encoding": "base64", "type": "data"})
        );
    }

    #[test]
    fn nothing_is_read_before_the_shell_takes_it() {
        let input = Input::new(false, "all".into(), false);
        assert_eq!(input.source(), Source::Closed);
    }
}
