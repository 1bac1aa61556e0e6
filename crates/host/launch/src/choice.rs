//! Two keepers as one: each request says which is to start its shell, and what either of them has
//! on record goes on, whatever is configured now.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::rc::Rc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::keeper::{Channel, Keeper, Local};
use crate::protocol::{Event, Order, VERSION};

/// The supervisor and systemd.
pub struct Choice {
    keepers: [Rc<dyn Keeper>; 2],
}

/// Places in [`Choice::keepers`].
const SUPERVISOR: usize = 0;
const UNITS: usize = 1;

type Farewells = Rc<RefCell<Vec<Box<dyn FnOnce()>>>>;

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Choice")
    }
}

impl Choice {
    /// Shells with a `unit` are kept by `units`, all others by `supervisor`.
    #[must_use]
    pub fn new(supervisor: Rc<dyn Keeper>, units: Rc<dyn Keeper>) -> Self {
        Self { keepers: [supervisor, units] }
    }
}

impl Keeper for Choice {
    fn may_know(&self) -> bool {
        self.keepers.iter().any(|keeper| keeper.may_know())
    }

    fn connect(&self) -> Local<'_, io::Result<Channel>> {
        Box::pin(async {
            let (orders, to_do) = unbounded_channel();
            let (told, events) = unbounded_channel();
            let farewells = Farewells::default();
            let mut both = Both {
                keepers: self.keepers.clone(),
                links: [None, None],
                hello: None,
                owners: BTreeMap::new(),
                told,
                farewells: Rc::clone(&farewells),
            };
            // A supervisor that begins ends what runs without a record.
            both.connect(SUPERVISOR).await?;
            if self.keepers.get(UNITS).is_some_and(|keeper| keeper.may_know()) {
                // One that has something on record tells that, reached or not; another one is asked
                // again when a shell is to be started.
                drop(both.connect(UNITS).await);
            }
            drop(tokio::task::spawn_local(both.run(to_do)));
            let farewell = move || farewells.take().into_iter().for_each(|part| part());
            Ok(Channel { orders, events, farewell: Box::new(farewell) })
        })
    }
}

/// A connection to one of them.
struct Link {
    orders: UnboundedSender<Order>,
    events: UnboundedReceiver<Event>,
}

struct Both {
    keepers: [Rc<dyn Keeper>; 2],
    links: [Option<Link>; 2],
    hello: Option<Order>,
    /// Who keeps which shell.
    owners: BTreeMap<u64, usize>,
    told: UnboundedSender<Event>,
    farewells: Farewells,
}

/// The next event of a connection that is there.
async fn next(link: &mut Option<Link>) -> Option<Event> {
    match link {
        Some(link) => link.events.recv().await,
        None => std::future::pending().await,
    }
}

impl Both {
    async fn connect(&mut self, at: usize) -> io::Result<()> {
        let Some(keeper) = self.keepers.get(at) else { return Ok(()) };
        let Channel { orders, events, farewell } = keeper.connect().await?;
        self.farewells.borrow_mut().push(farewell);
        if let Some(link) = self.links.get_mut(at) {
            *link = Some(Link { orders, events });
        }
        Ok(())
    }

    fn send(&self, at: usize, order: Order) {
        if let Some(Some(link)) = self.links.get(at) {
            // Its end is seen where its events are read.
            drop(link.orders.send(order));
        }
    }

    fn tell(&self, event: Event) {
        // The driver's end is seen where its orders are read.
        drop(self.told.send(event));
    }

    /// Serves until the driver, or one of the keepers, is gone: then the driver asks anew.
    async fn run(mut self, mut orders: UnboundedReceiver<Order>) {
        loop {
            let [supervisor, units] = &mut self.links;
            let (at, event) = tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => {
                        if !self.order(order).await {
                            return;
                        }
                        continue;
                    }
                    None => return,
                },
                event = next(supervisor) => (SUPERVISOR, event),
                event = next(units) => (UNITS, event),
            };
            match event {
                Some(event) => self.event(at, event),
                None => return,
            }
        }
    }

    fn event(&mut self, at: usize, event: Event) {
        match &event {
            Event::Started { id, .. } => {
                self.owners.insert(*id, at);
            }
            Event::Failed { id, .. } => {
                self.owners.remove(id);
            }
            _ => {}
        }
        self.tell(event);
    }

    /// Takes an order; false when a keeper was lost meanwhile.
    async fn order(&mut self, order: Order) -> bool {
        match order {
            Order::Hello { .. } => {
                self.hello = Some(order);
                for at in [SUPERVISOR, UNITS] {
                    if self.links.get(at).is_some_and(Option::is_some) && !self.greet(at).await {
                        return false;
                    }
                }
                self.tell(Event::Ready { version: VERSION });
            }
            Order::Start(request) => {
                let id = request.id;
                let at = if request.unit.is_some() { UNITS } else { SUPERVISOR };
                if let Some(owner) = self.owners.get(&id) {
                    // It is on record there, and is left alone.
                    self.send(*owner, Order::Start(request));
                    return true;
                }
                if self.links.get(at).is_some_and(Option::is_none) {
                    if let Err(error) = self.connect(at).await {
                        let text = error.to_string();
                        let errno = flux_proto::Errno::ENOTSUP.0;
                        self.tell(Event::Failed { id, errno, text });
                        return true;
                    }
                    if !self.greet(at).await {
                        return false;
                    }
                }
                self.owners.insert(id, at);
                self.send(at, Order::Start(request));
            }
            Order::Kill { id, seq, .. } => match self.owners.get(&id) {
                Some(owner) => self.send(*owner, order),
                None => self.tell(Event::Killed { seq, errno: flux_proto::Errno::ESRCH.0 }),
            },
            Order::Forget(ids) => {
                for at in [SUPERVISOR, UNITS] {
                    let theirs: BTreeSet<u64> =
                        ids.iter().filter(|id| self.owners.get(id) == Some(&at)).copied().collect();
                    if !theirs.is_empty() {
                        self.send(at, Order::Forget(theirs.into_iter().collect()));
                    }
                }
                for id in ids {
                    self.owners.remove(&id);
                }
            }
            Order::Bye => {}
        }
        true
    }

    /// Says hello, and passes on what is on record; false when that did not come to its end.
    async fn greet(&mut self, at: usize) -> bool {
        let Some(hello) = self.hello.clone() else { return false };
        self.send(at, hello);
        loop {
            let Some(link) = self.links.get_mut(at) else { return false };
            match next(link).await {
                Some(Event::Ready { .. }) => return true,
                Some(event) => self.event(at, event),
                None => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests;
