//! What is said to systemd, to one that a test plays.

use flux_api::launch::LaunchUnit;
use flux_topo::{HostTopology, TopoError, Topology};
use tokio::net::UnixListener;
use tokio::task::LocalSet;
use zbus::conn::Builder;
use zbus::wire::OwnedVariant;
use zbus::{Connection, Guid, Message};

use super::*;

/// One core of two cpus, and one of one.
struct Host;

impl Topology for Host {
    fn discover(&self) -> Result<HostTopology, TopoError> {
        Ok(HostTopology {
            hostname: "a".to_string(),
            core_cpus: vec![[0, 9].into_iter().collect(), [1].into_iter().collect()],
            core_package: vec![0, 0],
            gpus: Vec::new(),
            numa: Vec::new(),
            memory: 0,
        })
    }
}

type Properties = BTreeMap<String, OwnedVariant>;

/// The unit that the manager was asked for.
type Asked = Rc<RefCell<Option<(String, Properties)>>>;

async fn answer(connection: &Connection, message: &Message, asked: &Asked) {
    let header = message.header();
    let member = header.member().map(|member| member.as_str().to_string()).unwrap_or_default();
    let done = match member.as_str() {
        "Get" => connection.reply(&header, &zbus::Variant::from("/jobs".to_string())).await,
        "GetAll" => connection.reply(&header, &Properties::new()).await,
        "ListUnitsByPatterns" => {
            let none: [(String, String); 0] = [];
            connection.reply(&header, &none.as_slice()).await
        }
        "StartTransientUnit" => {
            type Body = (
                String,
                String,
                Vec<(String, OwnedVariant)>,
                Vec<(String, Vec<(String, OwnedVariant)>)>,
            );
            let body = message.body();
            assert_eq!(body.signature().to_string_no_parens(), "ssa(sv)a(sa(sv))");
            let (name, mode, properties, others) = body.deserialize::<Body>().unwrap();
            assert_eq!((mode.as_str(), others.len()), ("fail", 0));
            *asked.borrow_mut() = Some((name, properties.into_iter().collect()));
            let job = OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/1").unwrap();
            connection.reply(&header, &job).await
        }
        _ => connection.reply(&header, &()).await,
    };
    done.unwrap();
}

async fn manage(listener: UnixListener, asked: Asked) {
    let (stream, _) = listener.accept().await.unwrap();
    let builder = Builder::unix_stream(stream.into_std().unwrap()).server(Guid::generate()).p2p();
    let mut messages = builder.build_message_stream().await.unwrap();
    let connection = Connection::from(&messages);
    loop {
        let next = std::future::poll_fn(|cx| Pin::new(&mut messages).poll_next(cx)).await;
        let Some(Ok(message)) = next else { return };
        if message.message_type() == Type::MethodCall {
            answer(&connection, &message, &asked).await;
        }
    }
}

fn request(unit: LaunchUnit) -> Order {
    Order::Start(Box::new(LaunchStart {
        id: 7,
        userid: 1000,
        cmdline: vec!["/bin/echo".to_string(), "$HOME".to_string()],
        env: serde_json::Map::from_iter([("A".to_string(), "b".into())]),
        cwd: None,
        input: None,
        signaller: Vec::new(),
        unit: Some(unit),
        since: None,
        age: None,
        stdout: 0,
        stderr: 0,
    }))
}

/// What a manager with these controllers is asked for, and what the driver is told of it.
fn start(controllers: &str, properties: &[(&str, &str)]) -> (Properties, Vec<Event>) {
    let dir = tempfile::tempdir().unwrap();
    let cgroups = dir.path().join("cgroup");
    std::fs::create_dir_all(cgroups.join("jobs")).unwrap();
    std::fs::write(cgroups.join("jobs/cgroup.controllers"), controllers).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let properties = properties.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let unit = LaunchUnit { cores: "0".to_string(), properties: properties.collect() };
    LocalSet::new().block_on(&runtime, async {
        let socket = dir.path().join("private");
        let asked = Asked::default();
        let listener = UnixListener::bind(&socket).unwrap();
        drop(tokio::task::spawn_local(manage(listener, Rc::clone(&asked))));
        let (told, mut events) = unbounded_channel();
        let (orders, to_do) = unbounded_channel();
        let own = Units {
            rank: 3,
            directory: dir.path().join("jobs"),
            sockets: vec![socket],
            topology: Rc::new(Host),
        };
        let mut task = Task::new(own, told, Rc::default());
        task.cgroups = Some(cgroups);
        task.reach(Duration::ZERO).await.unwrap();
        drop(tokio::task::spawn_local(task.run(to_do)));
        orders.send(Order::Hello { version: VERSION, grace: None, env: BTreeMap::new() }).unwrap();
        orders.send(request(unit)).unwrap();
        let mut seen = Vec::new();
        // What it is asked for, or why it is not.
        while asked.borrow().is_none()
            && !seen.iter().any(|event| matches!(event, Event::Failed { .. }))
        {
            let limit = tokio::time::timeout(Duration::from_millis(20), events.recv());
            seen.extend(limit.await.unwrap_or_default());
        }
        let unit = asked.take().map(|(name, properties)| {
            assert!(name.ends_with("-shell-3-f8.service"), "{name}");
            properties
        });
        (unit.unwrap_or_default(), seen)
    })
}

fn bytes(value: &OwnedVariant) -> Vec<u8> {
    Vec::<u8>::try_from(value.try_clone().unwrap()).unwrap()
}

#[test]
fn systemd_is_asked_for_the_cores_and_limits_of_a_job() {
    let (unit, told) =
        start("cpuset cpu memory pids", &[("MemoryMax", "64M"), ("CPUWeight", "50")]);
    assert_eq!(bytes(&unit["AllowedCPUs"]), [1, 2]);
    assert_eq!(u64::try_from(&unit["MemoryMax"]).unwrap(), 64 << 20);
    assert_eq!(u64::try_from(&unit["CPUWeight"]).unwrap(), 50);
    assert_eq!(u64::try_from(&unit["TasksMax"]).unwrap(), u64::MAX);
    assert!(!unit.contains_key("CPUAffinity"));
    for name in ["StandardInput", "StandardOutput", "StandardError"] {
        assert!(unit.contains_key(&format!("{name}FileDescriptor")), "{:?}", unit.keys());
    }
    type Commands = Vec<(String, Vec<String>, bool)>;
    let start = Commands::try_from(unit["ExecStart"].try_clone().unwrap()).unwrap();
    assert_eq!(start, [("/bin/echo".into(), vec!["/bin/echo".into(), "$$HOME".into()], false)]);
    let saving = Commands::try_from(unit["ExecStopPost"].try_clone().unwrap()).unwrap();
    assert!(saving[0].0.ends_with("/flock") && saving[0].2, "{saving:?}");
    assert!(saving[0].1.iter().any(|word| word.contains("$$1.$$s.kept")), "{saving:?}");
    assert!(!told.iter().any(|event| matches!(event, Event::Warning { .. })), "{told:?}");
}

#[test]
fn without_controllers_cores_are_an_affinity_with_a_warning_and_limits_are_refused() {
    let (unit, told) = start("", &[]);
    assert_eq!(bytes(&unit["CPUAffinity"]), [1, 2]);
    assert!(!unit.contains_key("AllowedCPUs") && !unit.contains_key("TasksMax"));
    let warned = |event: &&Event| matches!(event, Event::Warning { text } if text.contains("no cgroup controller 'cpuset'"));
    assert_eq!(told.iter().filter(warned).count(), 1, "{told:?}");
    let (unit, told) = start("cpuset", &[("MemoryMax", "64M")]);
    assert!(unit.is_empty());
    let refused = |event: &Event| matches!(event, Event::Failed { text, .. } if text.contains("no cgroup controller 'memory'"));
    assert!(told.iter().any(refused), "{told:?}");
}
