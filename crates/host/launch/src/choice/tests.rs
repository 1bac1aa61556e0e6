//! Keepers that are told by a test what to say.

use flux_api::launch::{LaunchStart, LaunchUnit};

use super::*;

/// The far end of a connection.
struct Far {
    orders: UnboundedReceiver<Order>,
    events: UnboundedSender<Event>,
}

struct Fake {
    knows: bool,
    far: UnboundedSender<Far>,
}

impl Keeper for Fake {
    fn may_know(&self) -> bool {
        self.knows
    }

    fn connect(&self) -> Local<'_, io::Result<Channel>> {
        Box::pin(async {
            let (orders, to_do) = unbounded_channel();
            let (told, events) = unbounded_channel();
            self.far
                .send(Far { orders: to_do, events: told })
                .map_err(|_| io::Error::other("no keeper is there"))?;
            Ok(Channel { orders, events, farewell: Box::new(|| {}) })
        })
    }
}

fn start(id: u64, unit: bool) -> Order {
    let unit = unit.then(|| LaunchUnit { cores: String::new(), properties: BTreeMap::new() });
    Order::Start(Box::new(LaunchStart {
        id,
        userid: 0,
        cmdline: vec!["true".to_string()],
        env: serde_json::Map::new(),
        cwd: None,
        input: None,
        signaller: Vec::new(),
        unit,
        since: None,
        age: None,
        stdout: 0,
        stderr: 0,
    }))
}

fn hello() -> Order {
    Order::Hello { version: VERSION, grace: None, env: BTreeMap::new() }
}

fn ready() -> Event {
    Event::Ready { version: VERSION }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn each_shell_is_kept_by_whom_its_request_names() {
    run(async {
        let (far, mut supervisors) = unbounded_channel();
        let (far_units, mut units) = unbounded_channel();
        let choice = Choice::new(
            Rc::new(Fake { knows: false, far }),
            Rc::new(Fake { knows: true, far: far_units }),
        );
        assert!(choice.may_know());
        let mut channel = choice.connect().await.unwrap();
        let mut unit = units.try_recv().unwrap();
        let mut supervisor = supervisors.try_recv().unwrap();
        channel.orders.send(hello()).unwrap();
        assert_eq!(supervisor.orders.recv().await, Some(hello()));
        supervisor.events.send(ready()).unwrap();
        assert_eq!(unit.orders.recv().await, Some(hello()));
        unit.events.send(Event::Started { id: 1, pid: 5 }).unwrap();
        unit.events.send(ready()).unwrap();
        assert_eq!(channel.events.recv().await, Some(Event::Started { id: 1, pid: 5 }));
        assert_eq!(channel.events.recv().await, Some(ready()));
        channel.orders.send(start(2, false)).unwrap();
        assert_eq!(supervisor.orders.recv().await, Some(start(2, false)));
        channel.orders.send(start(3, true)).unwrap();
        assert_eq!(unit.orders.recv().await, Some(start(3, true)));
        // What is on record stays where it is.
        channel.orders.send(start(1, false)).unwrap();
        assert_eq!(unit.orders.recv().await, Some(start(1, false)));
        channel.orders.send(Order::Forget(vec![1, 2, 9])).unwrap();
        assert_eq!(unit.orders.recv().await, Some(Order::Forget(vec![1])));
        assert_eq!(supervisor.orders.recv().await, Some(Order::Forget(vec![2])));
        // One of them is lost: everything is asked for anew.
        drop(supervisor);
        assert_eq!(channel.events.recv().await, None);
    });
}

#[test]
fn without_systemd_a_unit_is_refused_and_other_shells_start() {
    run(async {
        let (far, mut supervisors) = unbounded_channel();
        let (far_units, units) = unbounded_channel();
        drop(units);
        let choice = Choice::new(
            Rc::new(Fake { knows: false, far }),
            Rc::new(Fake { knows: false, far: far_units }),
        );
        assert!(!choice.may_know());
        let mut channel = choice.connect().await.unwrap();
        let mut supervisor = supervisors.recv().await.unwrap();
        channel.orders.send(hello()).unwrap();
        assert_eq!(supervisor.orders.recv().await, Some(hello()));
        supervisor.events.send(ready()).unwrap();
        assert_eq!(channel.events.recv().await, Some(ready()));
        channel.orders.send(start(1, true)).unwrap();
        let Some(Event::Failed { id: 1, text, .. }) = channel.events.recv().await else { panic!() };
        assert_eq!(text, "no keeper is there");
        channel.orders.send(Order::Kill { seq: 4, id: 1, signum: 9, all: false }).unwrap();
        let killed = Event::Killed { seq: 4, errno: flux_proto::Errno::ESRCH.0 };
        assert_eq!(channel.events.recv().await, Some(killed));
        channel.orders.send(start(2, false)).unwrap();
        assert_eq!(supervisor.orders.recv().await, Some(start(2, false)));
    });
}
