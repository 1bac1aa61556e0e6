//! Starting processes without holding up the loop: a thread that launches, and what has to wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use flux_proto::{Errno, Message, RouteId};
use tokio::sync::oneshot;

use crate::launch::{Launch, Launcher};

/// A launch, and where its result goes.
type Job = (Launch, oneshot::Sender<Result<i32, Errno>>);

/// A launcher behind a thread, which is made for the first launch.
///
/// A new process holds up the one that makes it until it executes its program: a good part of a
/// millisecond, which the loop does not have.
pub(crate) struct Threaded {
    launcher: Arc<dyn Launcher>,
    thread: OnceLock<Option<Sender<Job>>>,
}

impl Threaded {
    pub(crate) fn new(launcher: Arc<dyn Launcher>) -> Self {
        Self { launcher, thread: OnceLock::new() }
    }

    /// Launches in the order of the calls.
    pub(crate) fn launch(
        &self,
        launch: Launch,
    ) -> impl Future<Output = Result<i32, Errno>> + 'static {
        let (result, answer) = oneshot::channel();
        let thread = self.thread.get_or_init(|| start(Arc::clone(&self.launcher)));
        let refused = match thread {
            Some(thread) => thread.send((launch, result)).err().map(|refused| refused.0),
            None => Some((launch, result)),
        };
        // Without a thread it is done here.
        if let Some((launch, result)) = refused {
            // Nobody waits any more only when the loop ends.
            let _ = result.send(self.launcher.launch(&launch));
        }
        async { answer.await.unwrap_or(Err(Errno::EIO)) }
    }

    /// The wait status of a process, if it has ended.
    pub(crate) fn collect(&self, pid: i32) -> Result<Option<i32>, Errno> {
        self.launcher.collect(pid)
    }
}

fn start(launcher: Arc<dyn Launcher>) -> Option<Sender<Job>> {
    let (jobs, queue) = channel::<Job>();
    let serve = move || {
        while let Ok((launch, result)) = queue.recv() {
            let outcome = launcher.launch(&launch);
            // Its descriptors are the process's alone before anybody hears of it.
            drop(launch);
            let _ = result.send(outcome);
        }
    };
    thread::Builder::new().name("launch".to_string()).spawn(serve).ok().map(|_| jobs)
}

/// Which client a message or a process is of.
type Client = Option<RouteId>;

/// Processes that are being started, and the messages that came after their requests: a client
/// may write to a process, or leave it, before it knows that it runs.
#[derive(Debug, Default)]
pub(crate) struct Launching {
    last: u64,
    begun: BTreeMap<Client, BTreeSet<u64>>,
    labels: BTreeSet<String>,
    held: BTreeMap<Client, VecDeque<(u64, Message)>>,
}

impl Launching {
    /// A launch begins; the result names it.
    pub(crate) fn begin(&mut self, client: Client, label: Option<String>) -> u64 {
        self.last += 1;
        self.begun.entry(client).or_default().insert(self.last);
        self.labels.extend(label);
        self.last
    }

    /// A launch has ended: gives back the messages that waited for it alone.
    pub(crate) fn end(
        &mut self,
        client: &Client,
        label: Option<&str>,
        ticket: u64,
    ) -> Vec<Message> {
        if let Some(label) = label {
            self.labels.remove(label);
        }
        let first = self.begun.get_mut(client).and_then(|begun| {
            begun.remove(&ticket);
            begun.first().copied()
        });
        if first.is_none() {
            self.begun.remove(client);
        }
        let Some(held) = self.held.get_mut(client) else { return Vec::new() };
        let free = held.iter().take_while(|(after, _)| first.is_none_or(|first| *after < first));
        let free = free.count();
        let messages = held.drain(..free).map(|(_, message)| message).collect();
        if held.is_empty() {
            self.held.remove(client);
        }
        messages
    }

    /// Gives a message back, unless it has to wait for launches of its sender.
    pub(crate) fn pass(&mut self, message: Message) -> Option<Message> {
        if self.begun.is_empty() {
            return Some(message);
        }
        let client = message.first_route().cloned();
        let Some(last) = self.begun.get(&client).and_then(|begun| begun.last().copied()) else {
            return Some(message);
        };
        self.held.entry(client).or_default().push_back((last, message));
        None
    }

    /// Whether a process of this label is being started.
    pub(crate) fn has_label(&self, label: &str) -> bool {
        self.labels.contains(label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(client: &str, topic: &str) -> Message {
        let mut message = Message::request(topic);
        message.push_route(RouteId::from(client));
        message
    }

    #[test]
    fn messages_wait_for_the_launches_before_them() {
        let mut launching = Launching::default();
        let me = Some(RouteId::from("me"));
        let first = launching.begin(me.clone(), Some("x".to_owned()));
        assert!(launching.pass(from("me", "rexec.write")).is_none());
        let second = launching.begin(me.clone(), None);
        assert!(launching.pass(from("me", "rexec.kill")).is_none());
        assert!(launching.pass(from("other", "rexec.kill")).is_some());
        assert!(launching.has_label("x"));
        let free = launching.end(&me, Some("x"), first);
        assert_eq!(free.iter().map(Message::topic).collect::<Vec<_>>(), ["rexec.write"]);
        assert!(!launching.has_label("x"));
        let free = launching.end(&me, None, second);
        assert_eq!(free.iter().map(Message::topic).collect::<Vec<_>>(), ["rexec.kill"]);
        assert!(launching.pass(from("me", "rexec.kill")).is_some());
    }
}
