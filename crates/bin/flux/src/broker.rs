//! A broker, put together: bootstrap, attributes, services, drivers, and the loop that runs them.
//!
//! Nothing is decided here. [`options`] reads the command line, [`place`] finds rank and
//! neighbours, [`services`] lists what runs on which rank, [`surroundings`] makes directories and
//! cleans the environment, [`mod@enclosing`] speaks with the instance around this one.

mod enclosing;
mod fake;
mod installed;
mod links;
pub(crate) mod options;
mod place;
mod services;
pub(crate) mod surroundings;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flux_bootstrap::Boot;
use flux_broker::{Node, NodeConfig, Topology};
use flux_host::{Calendar, Console, Driver, HostOptions, Topo, Users};
use flux_id::fsd;
use flux_launch::{Choice, LaunchDriver, LaunchOptions, Supervised, Units};
use flux_lifecycle::{Attributes, Settings};
use flux_model::blobref::HashAlg;
use flux_proc::{RexecDriver, RexecOptions};
use flux_proto::RouteId;
use flux_resource::ResourceSettings;
use flux_shell::patience;
use flux_store::{ArchiveDriver, Durability, StoreDriver};
use flux_topo::Sysfs;
use flux_wire::ConnectOptions;
use serde_json::{Map, Value};

use crate::keytree::attributes;

use self::enclosing::Enclosing;
use self::installed::Installed;
use self::options::BrokerOptions;
use self::services::Plan;

/// Version that brokers and clients see: the interfaces are those of this release.
pub(crate) const VERSION: (u32, u32, u32) = (0, 88, 0);

/// Seconds that job shells outlive the broker of an instance that cannot come back.
const SHELL_GRACE: f64 = 10.0;

/// Seconds that they wait for one that can.
const SHELL_PATIENCE: f64 = 7.0 * 86400.0;

/// Runs a broker to its end; the exit code.
///
/// # Errors
/// The sentence to show when it cannot start.
pub(crate) fn run(mut options: BrokerOptions) -> Result<i32, String> {
    let hostname = place::hostname(&options)?;
    surroundings::earlier_names(&mut options.attributes)?;
    let rundir = surroundings::rundir(&mut options.attributes)?;
    let result = start(&mut options, &hostname, &rundir);
    surroundings::clean_up(&options.attributes);
    result
}

fn start(options: &mut BrokerOptions, hostname: &str, rundir: &Path) -> Result<i32, String> {
    if options.attributes.is_on("broker.sd-notify") {
        // A service takes what its unit allows at most; jobs get what it gives at first. The program
        // of an instance of a user is started by its broker, and so the limit stays as it is.
        flux_proc::descriptors::raise(flux_proc::descriptors::MOST);
    }
    let (mut boot, topology, topo_uri) = place::find(options, hostname, rundir)?;
    let removed = boot.removed.clone();
    let (own_key, listed) = (boot.own_key.take(), std::mem::take(&mut boot.listed));
    let recovery = options.attributes.is_on("broker.recovery-mode");
    if recovery {
        seclude(&mut boot, &mut options.attributes, rundir)?;
    }
    let connect = links::connections(&options.attributes, &options.config)?;
    let reparent = links::reparent(&options.attributes, &options.config)?;
    links::show(&mut options.attributes, &options.config);
    let rank = boot.rank;
    let uuid = surroundings::uuid().map_err(|error| error.to_string())?;
    identify(&mut options.attributes, rank, rundir, &uuid);
    let enclosing = enclosing(&mut options.attributes);
    let local_uri = options.attributes.get("local-uri").unwrap_or_default().to_string();
    let Some(socket) = local_uri.strip_prefix("local://").map(str::to_string) else {
        return Err(format!("local-uri: '{local_uri}' does not begin with local://"));
    };
    let hash = hash(&options.attributes)?;
    let mut drivers: Vec<Box<dyn Driver>> = vec![
        Box::new(Console::new(options.config_path.clone())),
        Box::new(Calendar::default()),
        Box::new(Users::default()),
        Box::new(
            Topo::new(topology_source(&options.config)).named(options.attributes.given("hostname")),
        ),
    ];
    let statedir = match rank {
        0 => Some(surroundings::statedir(&mut options.attributes, rundir)?),
        _ => None,
    };
    // What does not outlive the leader need not wait for it.
    let instance = match &statedir {
        Some(statedir) => open_store(options, statedir, hash, &mut drivers)?,
        None => None,
    };
    let env = surroundings::environment(&local_uri, options.attributes.get("jobid"));
    drivers.push(Box::new(launcher(options, rank, rundir, &env)?));
    let rexec =
        RexecDriver::new(RexecOptions { rank, local_uri: local_uri.clone(), env: env.clone() });
    drivers.push(Box::new(rexec));
    let installed = Installed::find()?;
    let hosts: Vec<String> = boot.hostlist.iter().collect();
    let plan = Plan {
        rank,
        hash,
        attributes: options.attributes.clone(),
        config: options.config.clone(),
        life: Settings {
            can_return: instance.is_some(),
            ..life(options, &hosts, brokers(&boot), installed.site().as_deref())?
        },
        resources: ResourceSettings {
            ranks_return: instance.is_some() || reparent.is_some(),
            reparent: reparent.is_some(),
            ..resources(options, &hosts, &topology, rank, enclosing.as_ref())?
        },
        shell: installed.shell(),
        crontabs: if rank == 0 {
            surroundings::crontabs(&options.attributes, &options.config)?
        } else {
            Vec::new()
        },
        imp_helper: installed.imp_helper(),
        archive: instance.is_some(),
        recovery,
    };
    let mut config = NodeConfig::new(rank, topology, RouteId::from(uuid.as_str()), owner());
    config.version = VERSION;
    config.release = crate::release::numbers();
    config.hostlist = hosts.into();
    config.config.clone_from(&options.config);
    if rank == 0 {
        // The others follow the leader's files.
        config.places.clone_from(&options.places);
    }
    config.drivers = drivers.iter().map(|driver| driver.name()).collect();
    config.seed = surroundings::seed().map_err(|error| error.to_string())?;
    config.env = env;
    config.builtin_paths = installed.paths();
    config.instance = instance;
    config.fixed_parent = boot.method == "config";
    config.tbon = links::settings(&options.attributes);
    config.reparent = reparent;
    config.removed = removed;
    config.own_key = own_key;
    config.keys = listed;
    if config.fixed_parent {
        config.topo_uri = Some(topo_uri);
    }
    let node = Node::new(config, services::builtins(&plan)?, services::modules(&plan))
        .with_loader(Box::new(move |name, _| services::module_named(&plan, name)));
    if let Some(enclosing) = enclosing.as_ref().filter(|_| rank == 0) {
        enclosing.announce(&local_uri, hostname);
        if !resource_flag(&options.config, "no-update-watch") {
            enclosing.follow(&local_uri);
        }
    }
    let host = host_options(&socket, boot, connect);
    let code = flux_host::run(Box::new(node), host, drivers).map_err(|error| error.to_string())?;
    if let Some(statedir) = statedir {
        attributes::after(&statedir, options.attributes.get("content.dump"))?;
    }
    Ok(code)
}

/// A broker that only looks at what is stored: nobody joins, and job shells that run on somewhere do
/// not find it.
fn seclude(boot: &mut Boot, attributes: &mut Attributes, rundir: &Path) -> Result<(), String> {
    if boot.rank > 0 {
        let rank = boot.rank;
        return Err(format!("recovery mode is for the leader, and this would be rank {rank}"));
    }
    boot.bind.clear();
    attributes.set("job-rundir", rundir.join("jobs").display().to_string());
    Ok(())
}

fn hash(attributes: &Attributes) -> Result<HashAlg, String> {
    match attributes.get("content.hash") {
        None | Some("sha1") => Ok(HashAlg::Sha1),
        Some("sha256") => Ok(HashAlg::Sha256),
        Some(other) => Err(format!("content.hash: '{other}' is neither sha1 nor sha256")),
    }
}

/// Opens what the leader keeps on disk. The name of the instance, if it outlives its brokers.
fn open_store(
    options: &BrokerOptions,
    statedir: &Path,
    hash: HashAlg,
    drivers: &mut Vec<Box<dyn Driver>>,
) -> Result<Option<String>, String> {
    attributes::before(statedir, hash, options.attributes.get("content.restore"))?;
    // A directory that goes with the instance need not survive a power cut.
    let lasts = !options.attributes.is_on("statedir-cleanup");
    let durability = if lasts { Durability::Synced } else { Durability::Process };
    let store = StoreDriver::open(statedir, hash, durability).map_err(|error| error.to_string())?;
    let instance = store.instance().to_string();
    drivers.push(Box::new(store));
    if !lasts {
        // It needs no archive: nothing is read back from it.
        return Ok(None);
    }
    let (file, busy) = archive_file(&options.config, statedir)?;
    let (archive, note) =
        ArchiveDriver::open_file(&file, busy).map_err(|error| error.to_string())?;
    if let Some(note) = note {
        crate::output::error_line(&format!("flux-broker: warning: {note}"));
    }
    drivers.push(Box::new(archive));
    Ok(Some(instance))
}

/// Whether a key of `[resource]` is set.
fn resource_flag(config: &Map<String, Value>, key: &str) -> bool {
    let flag = config.get("resource").and_then(|table| table.get(key));
    flag.and_then(Value::as_bool).unwrap_or(false)
}

/// What starts job shells, which outlive this broker where the instance can come back.
fn launcher(
    options: &mut BrokerOptions,
    rank: u32,
    rundir: &Path,
    env: &BTreeMap<String, String>,
) -> Result<LaunchDriver, String> {
    let (directory, durable) = surroundings::job_rundir(&mut options.attributes, rundir)?;
    let directory = directory.join(rank.to_string());
    let durable = durable && !options.attributes.is_on("broker.recovery-mode");
    let grace = if durable { None } else { Some(SHELL_GRACE) };
    let mut env = env.clone();
    env.remove("INVOCATION_ID");
    let limit = fsd::format(grace.unwrap_or(SHELL_PATIENCE));
    env.entry(patience::LIMIT_VARIABLE.to_string()).or_insert(limit);
    if durable && let Some(uri) = env.get("FLUX_URI") {
        // Shells of the broker before this one look here.
        let file = surroundings::announce(&directory, uri)?;
        env.insert(patience::URI_FILE_VARIABLE.to_string(), file);
    }
    let units = Units::new(rank, directory.clone(), topology_source(&options.config).into());
    let supervisor =
        Supervised { program: vec![own_program()?, "supervise".to_string()], directory };
    let keeper = Choice::new(Rc::new(supervisor), Rc::new(units));
    Ok(LaunchDriver::new(LaunchOptions { rank, env, grace }, Box::new(keeper)))
}

fn host_options(socket: &str, boot: Boot, connect: ConnectOptions) -> HostOptions {
    let mut host = HostOptions::new(socket);
    host.link = connect;
    host.bind = boot.bind;
    host.bind_later = boot.later;
    host.parents = boot.uplinks;
    host.keys = boot.keys;
    host
}

fn owner() -> u32 {
    nix::unistd::getuid().as_raw()
}

/// Attributes that say who and where this broker is.
fn identify(attributes: &mut Attributes, rank: u32, rundir: &Path, uuid: &str) {
    let (major, minor, patch) = VERSION;
    attributes.set("version", format!("{major}.{minor}.{patch}"));
    attributes.set("security.owner", owner().to_string());
    attributes.set("broker.pid", std::process::id().to_string());
    attributes.set("broker.uuid", uuid);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    attributes.set("broker.starttime", format!("{now:.2}"));
    if attributes.get("local-uri").is_none() {
        attributes.set("local-uri", format!("local://{}/local-{rank}", rundir.display()));
    }
    if let Ok(namespace) = std::env::var("FLUX_KVS_NAMESPACE") {
        attributes.set("parent-kvs-namespace", namespace);
    }
}

/// The file of the job archive, and how long it waits for others who have that open.
fn archive_file(
    config: &Map<String, Value>,
    statedir: &Path,
) -> Result<(PathBuf, Duration), String> {
    let get = |key: &str| config.get("archive").and_then(|table| table.get(key));
    let file = get("dbpath").and_then(Value::as_str).unwrap_or("job-archive.sqlite");
    let busy = match get("busytimeout") {
        None => flux_store::BUSY.as_secs_f64(),
        Some(Value::String(text)) => {
            fsd::parse(text).map_err(|error| format!("archive.busytimeout: {error}"))?
        }
        Some(other) => other.as_f64().unwrap_or_default(),
    };
    // SQLite counts milliseconds in 31 bits.
    let busy = Duration::from_secs_f64(busy.clamp(0.0, 2e6));
    Ok((statedir.join(file), busy))
}

/// The enclosing job, when a shell of another instance has launched this broker.
fn enclosing(attributes: &mut Attributes) -> Option<Enclosing> {
    let level: u32 = attributes.get("instance-level")?.parse().ok()?;
    let id: JobIdText = attributes.get("jobid")?.to_string();
    if level == 0 {
        return None;
    }
    let uri = std::env::var("FLUX_URI").ok()?;
    let parsed = id.parse().ok()?;
    attributes.set("parent-uri", uri.clone());
    let path = std::env::var("FLUX_JOB_ID_PATH").unwrap_or_else(|_| format!("/{id}"));
    attributes.set("jobid-path", path);
    Some(Enclosing { uri, id: parsed })
}

/// A job id as an attribute holds it.
type JobIdText = String;

/// Hardware as this process may use it, or as a file describes it.
fn topology_source(config: &Map<String, Value>) -> Box<dyn flux_topo::Topology> {
    let all = resource_flag(config, "norestrict");
    let allowed = |all| if all { flux_topo::Allowed::All } else { flux_topo::Allowed::Process };
    match std::env::var_os("FLUX_HWLOC_XMLFILE") {
        Some(path) => {
            let elsewhere = std::env::var_os("FLUX_HWLOC_XMLFILE_NOT_THISSYSTEM").is_some();
            Box::new(flux_topo::XmlFile::new(Path::new(&path), allowed(all || elsewhere)))
        }
        None => Box::new(Sysfs::default().allowed(allowed(all))),
    }
}

fn own_program() -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| format!("own program: {error}"))?;
    Ok(program.display().to_string())
}

fn resources(
    options: &BrokerOptions,
    hosts: &[String],
    topology: &Topology,
    rank: u32,
    enclosing: Option<&Enclosing>,
) -> Result<ResourceSettings, String> {
    let config = &options.config;
    let settings = ResourceSettings {
        hosts: hosts.to_vec(),
        descendants: topology.descendants(rank),
        noverify: options.attributes.is_on("broker.recovery-mode"),
        has_bootstrap: config.contains_key("bootstrap"),
        ..ResourceSettings::default()
    };
    if rank > 0 {
        return Ok(settings);
    }
    if let Some(settings) = fake::resources(config)? {
        return Ok(settings);
    }
    let read = |key: &str| -> Result<Option<Value>, String> {
        let path = config.get("resource").and_then(|table| table.get(key)?.as_str());
        let Some(path) = path else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        serde_json::from_str(&text).map(Some).map_err(|error| format!("{path}: {error}"))
    };
    let inherited = match enclosing {
        // What was rediscovered ends with the enclosing job all the same.
        Some(enclosing) if resource_flag(config, "rediscover") => enclosing.resources().ok(),
        Some(enclosing) => Some(enclosing.resources()?),
        None => None,
    };
    Ok(ResourceSettings {
        inherited,
        config_r: read("path")?,
        scheduling: read("scheduling")?,
        ..settings
    })
}

/// Brokers that may be there.
fn brokers(boot: &Boot) -> u32 {
    boot.size.saturating_sub(u32::try_from(boot.removed.len()).unwrap_or(u32::MAX)).max(1)
}

fn life(
    options: &BrokerOptions,
    hosts: &[String],
    size: u32,
    sysconf: Option<&Path>,
) -> Result<Settings, String> {
    let attributes = &options.attributes;
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_string());
    let program = match options.program.as_slice() {
        _ if attributes.is_on("broker.rc2_none") || attributes.get("rank") != Some("0") => None,
        [] => {
            if !std::io::stdin().is_terminal() {
                return Err("stdin is not a tty - can't run interactive shell".to_string());
            }
            Some(vec![shell.clone()])
        }
        // One argument that is no plain program word is for the shell.
        [line] if line.contains(|c: char| c.is_whitespace() || "|&;<>()$`\\\"'*?".contains(c)) => {
            Some(vec![shell.clone(), "-c".to_string(), line.clone()])
        }
        words => Some(words.to_vec()),
    };
    let quorum = match attributes.get("broker.quorum") {
        None => size,
        Some("0") => 1,
        Some(text) if text.starts_with("0-") => size,
        Some(text) => text
            .parse()
            .ok()
            .filter(|quorum| (1..=size).contains(quorum))
            .ok_or_else(|| format!("broker.quorum: '{text}' is no number from 0 to {size}"))?,
    };
    let seconds = |name: &str| -> Result<Option<f64>, String> {
        match attributes.get(name) {
            None | Some("none") => Ok(None),
            Some(text) => fsd::parse(text)
                .map(Some)
                .map_err(|_| format!("{name}: '{text}' is not a duration")),
        }
    };
    let recovery = attributes.is_on("broker.recovery-mode");
    let commands = |name: &str| -> Vec<Vec<String>> {
        let line = attributes.get(name).filter(|line| !line.is_empty());
        line.map(|line| vec![shell.clone(), "-c".to_string(), line.to_string()])
            .into_iter()
            .collect()
    };
    // What a site drops there runs on every node, but never for a recovery.
    let scripts = |name: &str| -> Vec<Vec<String>> {
        let directory = sysconf.filter(|_| !recovery).map(|path| path.join("flux").join(name));
        let found = directory.map(|path| crate::commands::scripts_of(&path)).unwrap_or_default();
        found.into_iter().map(|path| vec![path.display().to_string()]).collect()
    };
    Ok(Settings {
        rc1: commands("broker.rc1_path").into_iter().chain(scripts("rc1.d")).collect(),
        program_in_group: !attributes.is_on("broker.rc2_pgrp"),
        program,
        rc3: commands("broker.rc3_path").into_iter().chain(scripts("rc3.d")).collect(),
        quorum,
        quorum_warn: seconds("broker.quorum-warn")?,
        shutdown_warn: seconds("broker.shutdown-warn")?,
        shutdown_timeout: seconds("broker.shutdown-timeout")?,
        cleanup_timeout: seconds("broker.cleanup-timeout")?,
        exit_norestart: attributes.get("broker.exit-norestart").and_then(|code| code.parse().ok()),
        keep_jobs: recovery || std::env::var_os("FLUX_DISABLE_JOB_CLEANUP").is_some(),
        recovery,
        shell,
        hosts: hosts.to_vec(),
        // The one who has put the instance together knows.
        can_return: false,
        // A recovery is no run of the instance.
        startlog: (!recovery).then(|| attributes.get("version").unwrap_or_default().to_string()),
    })
}
