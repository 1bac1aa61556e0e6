//! What is typed or piped into `attach`, on its way to the job.

use std::{collections::VecDeque, io::IsTerminal};

use flux_client::{Client, RawPending, To};
use flux_model::stdio::{Encoding, IoData};
use flux_proto::Message;
use serde_json::{Value, json};

use super::terminal::{Keys, Raw, in_foreground, window};

/// Most bytes read at once.
const CHUNK: usize = 64 << 10;
/// Writes that may wait for an answer; then reading stops, so that a slow job slows its source.
const IN_FLIGHT: usize = 16;

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
    /// A terminal of the job.
    Terminal { topic: String, rank: u32, stream: RawPending, raw: Option<Raw>, keys: Keys },
}

/// Standard input and where it goes.
pub(crate) struct Input {
    open: bool,
    ranks: String,
    target: Target,
    waiting: VecDeque<RawPending>,
}

impl Input {
    /// Input that goes to the tasks of `ranks`, or nowhere.
    pub(crate) fn new(read_only: bool, ranks: String) -> Self {
        Self { open: !read_only, ranks, target: Target::None, waiting: VecDeque::new() }
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
        let request = json!({"type": "attach", "mode": "rw", "winsize": window()});
        let message = Message::request(topic.as_str()).with_json(&request).with_streaming();
        let stream = client.start(To::Rank(rank), message);
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
        let (topic, rank, body, detach) = match &mut self.target {
            Target::None => return false,
            Target::Shell { topic, rank } => {
                let data = if got == 0 {
                    IoData::end("stdin", &self.ranks)
                } else {
                    IoData::new("stdin", &self.ranks, buffer)
                };
                (topic.clone(), *rank, Value::Object(data.encode(Encoding::Utf8)), false)
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
        self.waiting.push_back(client.start(To::Rank(rank), message));
        detach
    }

    /// The window has another size.
    pub(crate) fn resize(&mut self, client: &Client) {
        if let Target::Terminal { topic, rank, .. } = &self.target {
            let body = json!({"type": "resize", "winsize": window()});
            let message = Message::request(topic.as_str()).with_json(&body);
            self.waiting.push_back(client.start(To::Rank(*rank), message));
        }
    }

    /// Takes the answers to what was sent. A target that refuses input gets no more of it: the
    /// tasks are gone, or read a file.
    pub(crate) fn settle(&mut self) {
        while let Some(answer) = self.waiting.front_mut().and_then(RawPending::try_next) {
            self.waiting.pop_front();
            if answer.is_err() {
                self.open = false;
            }
        }
    }

    /// What the job's terminal shows.
    pub(crate) fn take_terminal_output(&mut self) -> Vec<Vec<u8>> {
        let mut shown = Vec::new();
        let mut over = false;
        if let Target::Terminal { stream, raw, .. } = &mut self.target {
            while let Some(answer) = stream.try_next() {
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
                if stream.is_done() {
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
        let input = Input::new(false, "all".into());
        assert_eq!(input.source(), Source::Closed);
    }
}
