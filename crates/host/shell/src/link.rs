//! The connection to the broker: requests on their way, and connecting again when it is lost.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use flux_api::RpcError;
use flux_client::{Client, OpenError, RawPending, To};
use flux_proto::{Errno, Message};

use crate::patience::URI_FILE_VARIABLE;

/// How long an attempt may take: a broker that was stopped accepts and says nothing.
const ATTEMPT: Duration = Duration::from_secs(1);

/// A connection; `T` says what the shell does with an answer.
#[derive(Debug)]
pub struct Link<T> {
    uri: String,
    /// Names the URI, where another broker may follow this one at another place.
    uri_file: Option<PathBuf>,
    client: Option<Client>,
    pending: Vec<(T, RawPending)>,
    retry: Option<Instant>,
}

impl<T> Link<T> {
    /// A connection that is yet to be made.
    #[must_use]
    pub fn new(uri: String) -> Self {
        let uri_file = std::env::var_os(URI_FILE_VARIABLE).map(PathBuf::from);
        Self { uri, uri_file, client: None, pending: Vec::new(), retry: None }
    }

    /// Connects.
    ///
    /// # Errors
    /// When no broker answers there.
    pub fn open(&mut self) -> Result<&Client, OpenError> {
        if let Some(uri) =
            self.uri_file.as_ref().and_then(|path| std::fs::read_to_string(path).ok())
            && !uri.trim().is_empty()
        {
            self.uri = uri.trim().to_string();
        }
        let client = Client::open_once(&self.uri, ATTEMPT)?;
        self.retry = None;
        Ok(self.client.insert(client))
    }

    /// Gives the connection up, to make a new one.
    pub fn close(&mut self) {
        self.client = None;
        self.pending.clear();
    }

    /// The URI of the broker.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Sends a request. Without a connection its answer is ECONNRESET, from the next
    /// [`Link::answers`].
    pub fn ask(&mut self, what: T, to: To, message: Message) -> Result<(), T> {
        match &self.client {
            Some(client) => {
                let pending = client.start(to, message);
                self.pending.push((what, pending));
                Ok(())
            }
            None => Err(what),
        }
    }

    /// Sends a message that is not answered; without a connection it is dropped.
    pub fn post(&self, message: Message) {
        if let Some(client) = &self.client {
            // A loss is noticed by the next wait.
            drop(client.post(message));
        }
    }

    /// Whether requests are on their way.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.client.is_some()
    }

    /// The answers that are there.
    pub fn answers(&mut self) -> Vec<(T, Result<Message, RpcError>)> {
        let mut answers = Vec::new();
        let mut index = 0;
        while index < self.pending.len() {
            match self.pending[index].1.try_answer() {
                Some(result) => {
                    let (what, _) = self.pending.remove(index);
                    answers.push((what, result));
                }
                None => index += 1,
            }
        }
        answers
    }

    /// The next event, if one is there.
    #[must_use]
    pub fn event(&self) -> Option<Message> {
        self.client.as_ref()?.try_event()
    }

    /// The next request to a service of this shell, if one is there.
    #[must_use]
    pub fn request(&self) -> Option<Message> {
        self.client.as_ref()?.next_request(Some(Duration::ZERO)).ok()
    }

    /// When [`Link::open`] is to be tried again.
    #[must_use]
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry
    }

    /// Sets that time.
    pub fn retry_after(&mut self, now: Instant, pause: Duration) {
        self.retry = Some(now + pause);
    }

    /// Waits for messages or `fd`, up to `time`. `Err`: the connection has just been lost; the
    /// requests whose answers are lost are handed back.
    pub fn wait(&mut self, fd: BorrowedFd<'_>, time: Option<Duration>) -> Result<(), Vec<T>> {
        let Some(client) = &self.client else {
            let limit = time.and_then(|time| rustix::event::Timespec::try_from(time).ok());
            let mut fds =
                [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN)];
            // A failure is an interruption; the loop goes round.
            let _ = rustix::event::poll(&mut fds, limit.as_ref());
            return Ok(());
        };
        match client.wait(&[fd], time) {
            Ok(_) => Ok(()),
            Err(error) if error.errno == Errno::ETIMEDOUT => Ok(()),
            Err(_) => {
                self.client = None;
                Err(self.pending.drain(..).map(|(what, _)| what).collect())
            }
        }
    }

    /// The client, while there is a connection.
    #[must_use]
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }
}
