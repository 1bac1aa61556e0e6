//! Drivers: the parts of the host that do things for services (store, spawn, read files), each
//! behind a service name.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flux_api::{Outbox, RpcError, rpc};
use flux_proto::{Errno, Message};
use tokio::sync::Notify;

/// Does things for services. Owned by the loop and called by it, so it must not block: long work
/// belongs to a thread or a task that answers through the [`DriverHandle`].
pub trait Driver {
    /// The service name in front of its topics.
    fn name(&self) -> &'static str;
    /// Takes a message for it (a request; also cancel and disconnect). Every request without
    /// NORESPONSE must be answered once through `back`, now or later, from any thread.
    fn deliver(&mut self, message: Message, back: &DriverHandle);
}

/// Messages from drivers that the loop has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    queue: Mutex<VecDeque<(&'static str, Message)>>,
    /// The loop is running and will look into the queue before it sleeps.
    awake: AtomicBool,
    /// Wakes the loop.
    pub(crate) arrived: Notify,
    /// Tells drivers that the loop has taken everything.
    taken: Notify,
}

impl Inbox {
    /// The loop runs: messages need not wake it.
    pub(crate) fn wake_up(&self) {
        self.awake.store(true, Ordering::SeqCst);
    }

    /// The loop is about to sleep; true when it may not, because something is there.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.awake.store(false, Ordering::SeqCst);
        // A sender that found the loop awake has pushed before: it is seen here.
        !self.lock().is_empty()
    }

    pub(crate) fn take(&self) -> VecDeque<(&'static str, Message)> {
        let queue = std::mem::take(&mut *self.lock());
        self.taken.notify_waiters();
        queue
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(&'static str, Message)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, name: &'static str, message: Message) {
        self.lock().push_back((name, message));
        if !self.awake.load(Ordering::SeqCst) {
            self.arrived.notify_one();
        }
    }
}

/// Posts messages of one driver into the loop, from any thread or task.
///
/// The queue behind it has no bound of its own: a driver sends one answer per request, and one
/// that streams must bound itself (as process output does by its credits).
#[derive(Clone)]
pub struct DriverHandle {
    name: &'static str,
    inbox: Arc<Inbox>,
}

impl fmt::Debug for DriverHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DriverHandle({})", self.name)
    }
}

impl DriverHandle {
    pub(crate) fn new(name: &'static str, inbox: Arc<Inbox>) -> Self {
        Self { name, inbox }
    }

    /// A handle of no loop and the means to take what is sent through it, to test a driver.
    pub fn detached(name: &'static str) -> (Self, impl FnMut() -> Vec<Message>) {
        let inbox = Arc::new(Inbox::default());
        let taken = Arc::clone(&inbox);
        let take = move || taken.take().into_iter().map(|(_, message)| message).collect();
        (Self::new(name, inbox), take)
    }

    /// Posts a message: a response, an event, or a request to a service.
    pub fn post(&self, message: Message) {
        self.inbox.push(self.name, message);
    }

    /// Waits until fewer than `limit` messages, of all drivers, wait for the loop. A driver that
    /// streams calls it before it makes more.
    pub async fn room(&self, limit: usize) {
        loop {
            // Made before the look, so that a take after it is not missed.
            let taken = self.inbox.taken.notified();
            if self.inbox.lock().len() < limit {
                return;
            }
            taken.await;
        }
    }

    /// Answers a request with an error, if it wants an answer.
    pub fn refuse(&self, request: &Message, error: &RpcError) {
        if !request.no_response() {
            self.post(rpc::refusal(request, error));
        }
    }

    /// Answers a request that the driver does not know (ENOSYS).
    pub fn refuse_unknown(&self, request: &Message) {
        let text = format!("Unknown service method '{}'", request.topic());
        self.refuse(request, &RpcError::new(Errno::ENOSYS, text));
    }

    /// Runs a task on the loop's thread. Only to be called on that thread: within
    /// [`Driver::deliver`] or from another such task.
    pub fn spawn_local(&self, task: impl Future<Output = ()> + 'static) {
        drop(tokio::task::spawn_local(task));
    }
}

impl Outbox for DriverHandle {
    fn send(&mut self, message: Message) {
        self.post(message);
    }
}
