//! `flux start`: start an instance: one broker, several on this host, or this rank of a launcher.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use flux_bootstrap::instance::{ExitMode, StartMode, TestInstance, test_instance};
use flux_client::Client;
use flux_id::{Hostlist, fsd};
use flux_model::taskmap::Taskmap;
use rustix::fs::Access;

use crate::{
    broker::{options, surroundings},
    dispatch::Invocation,
    failure::Failure,
    output,
};

/// The options of `flux start`.
pub(crate) fn command() -> Command {
    let command = Command::new("start").about("Start a Flux instance").arg(
        Arg::new("test-size")
            .short('s')
            .long("test-size")
            .value_name("N")
            .value_parser(value_parser!(u32).range(1..=65536))
            .help("Start N brokers on this host"),
    );
    let command = command
        .arg(
            Arg::new("test-hosts")
                .long("test-hosts")
                .value_name("HOSTLIST")
                .help("Host names of the brokers"),
        )
        .arg(
            Arg::new("test-exit-timeout")
                .long("test-exit-timeout")
                .value_name("FSD")
                .help("Patience after the first broker has exited (default: 20s)"),
        )
        .arg(
            Arg::new("test-exit-mode")
                .long("test-exit-mode")
                .value_name("any|leader")
                .value_parser(["any", "leader"])
                .help("Whose exit code counts (default: any)"),
        )
        .arg(
            Arg::new("test-start-mode")
                .long("test-start-mode")
                .value_name("all|leader")
                .value_parser(["all", "leader"])
                .help("Which brokers to start at once (default: all)"),
        )
        .arg(
            Arg::new("test-rundir")
                .long("test-rundir")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .help("Use this directory for sockets"),
        )
        .arg(
            Arg::new("test-rundir-cleanup")
                .long("test-rundir-cleanup")
                .action(ArgAction::SetTrue)
                .help("Remove that directory at the end"),
        )
        .arg(
            Arg::new("test-pmi-clique")
                .long("test-pmi-clique")
                .value_name("single|per-broker|none|TASKMAP")
                .help("On how many nodes the brokers think they are (default: single)"),
        )
        .arg(
            Arg::new("broker-opts")
                .short('o')
                .long("broker-opts")
                .value_name("OPTS")
                .action(ArgAction::Append)
                .help("Options for the brokers, separated by commas"),
        )
        .arg(
            Arg::new("wrap")
                .long("wrap")
                .value_name("WORDS")
                .action(ArgAction::Append)
                .help("Words in front of the broker's command line, separated by commas"),
        )
        .arg(
            Arg::new("recovery")
                .short('r')
                .long("recovery")
                .value_name("DIR")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("")
                .help("Look into a state directory (default: that of the system instance); no job is run"),
        )
        .arg(
            Arg::new("sysconfig")
                .long("sysconfig")
                .action(ArgAction::SetTrue)
                .help("Use the configuration of the system instance"),
        )
        .arg(
            Arg::new("noexec")
                .short('X')
                .long("noexec")
                .action(ArgAction::SetTrue)
                .help("Print the command lines and start nothing"),
        );
    options::arguments(command)
}

fn split(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches
        .get_many::<String>(name)
        .into_iter()
        .flatten()
        .flat_map(|text| text.split(','))
        .filter(|word| !word.is_empty())
        .map(str::to_string)
        .collect()
}

/// Options that every broker gets.
fn common(matches: &ArgMatches) -> Vec<String> {
    let mut words = split(matches, "broker-opts");
    for (name, flag) in [("setattr", "-S"), ("conf", "--conf")] {
        for value in matches.get_many::<String>(name).into_iter().flatten() {
            words.push(flag.to_string());
            words.push(value.clone());
        }
    }
    if let Some(path) = matches.get_one::<PathBuf>("config-path") {
        words.push("-c".to_string());
        words.push(path.display().to_string());
    }
    let system = matches.get_one::<String>("recovery").is_some_and(String::is_empty);
    if matches.get_flag("sysconfig") || (system && !matches.contains_id("config-path")) {
        words.push("-c".to_string());
        words.push(SYSTEM_CONFIG.to_string());
    }
    for _ in 0..matches.get_count("verbose") {
        words.push("-v".to_string());
    }
    words
}

/// Runs `flux start`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let fail = |text: String| Failure::binary("flux-start", text);
    let program = std::env::current_exe().map_err(|error| fail(error.to_string()))?;
    let program = program.display().to_string();
    let command: Vec<String> = matches.get_many("command").into_iter().flatten().cloned().collect();
    let mut broker = split(matches, "wrap");
    broker.extend([program, "broker".to_string()]);
    broker.extend(common(matches));
    if let Some(target) = matches.get_one::<String>("recovery") {
        if matches.contains_id("test-size") {
            return Err(fail("--recovery and --test-size exclude each other".to_string()));
        }
        broker.extend(recovery(target).map_err(fail)?);
    }
    let Some(size) = matches.get_one::<u32>("test-size").copied() else {
        return one(matches, broker, &command).map_err(fail);
    };
    many(matches, &broker, &command, size).map_err(fail)
}

/// Configuration of the system instance.
const SYSTEM_CONFIG: &str = "/etc/flux/system/conf.d";
/// State of the system instance.
const SYSTEM_STATE: &str = "/var/lib/flux";

/// Options of a broker that looks into a state directory, after a look whether it can.
fn recovery(target: &str) -> Result<Vec<String>, String> {
    let directory = if target.is_empty() {
        if Client::open(Some(flux_client::DEFAULT_URI)).is_ok() {
            return Err("system instance is already running".to_string());
        }
        SYSTEM_STATE
    } else {
        target
    };
    let wrong = |text: String| format!("--recovery: {directory}: {text}");
    let path = std::path::absolute(directory).map_err(|error| wrong(error.to_string()))?;
    let found = std::fs::metadata(&path).map_err(|error| wrong(error.to_string()))?;
    if !found.is_dir() {
        return Err(wrong(
            "is not a directory: a dump is restored into a state directory first".to_string(),
        ));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(wrong(format!("belongs to user {}: be that user", found.uid())));
    }
    let usable = Access::READ_OK | Access::WRITE_OK;
    rustix::fs::access(&path, usable | Access::EXEC_OK)
        .map_err(|error| wrong(error.to_string()))?;
    rustix::fs::access(path.join("content.sqlite"), usable)
        .map_err(|error| wrong(format!("content.sqlite: {error}")))?;
    let settings = [
        "broker.recovery-mode=1",
        "broker.quorum=1",
        "broker.module-nopanic=1",
        "log-stderr-level=5",
        &format!("statedir={}", path.display()),
    ];
    Ok(settings.iter().flat_map(|setting| ["-S".to_string(), (*setting).to_string()]).collect())
}

/// One broker, as this process.
fn one(matches: &ArgMatches, mut broker: Vec<String>, command: &[String]) -> Result<i32, String> {
    const TEST_ONLY: [&str; 6] = [
        "test-hosts",
        "test-exit-timeout",
        "test-exit-mode",
        "test-start-mode",
        "test-rundir",
        "test-pmi-clique",
    ];
    let cleanup = matches.get_flag("test-rundir-cleanup").then_some(&"test-rundir-cleanup");
    if let Some(name) = TEST_ONLY.iter().find(|name| matches.contains_id(name)).or(cleanup) {
        return Err(format!("--{name} only works with --test-size=N"));
    }
    if !command.is_empty() {
        broker.push("--".to_string());
    }
    broker.extend(command.iter().cloned());
    if matches.get_flag("noexec") {
        output::line(&broker.join(" "));
        return Ok(0);
    }
    use std::os::unix::process::CommandExt;
    let (program, words) = broker.split_first().ok_or("no program")?;
    let error = std::process::Command::new(program).args(words).exec();
    Err(format!("{program}: {error}"))
}

/// Several brokers on this host.
fn many(
    matches: &ArgMatches,
    broker: &[String],
    command: &[String],
    size: u32,
) -> Result<i32, String> {
    let (rundir, temporary) = match matches.get_one::<PathBuf>("test-rundir") {
        Some(path) => (path.clone(), matches.get_flag("test-rundir-cleanup")),
        None if matches.get_flag("noexec") => {
            (surroundings::temporary().join("flux-XXXXXX"), false)
        }
        None => (surroundings::unique_directory().map_err(|error| error.to_string())?, true),
    };
    let hosts: Option<Vec<String>> = match matches.get_one::<String>("test-hosts") {
        None => None,
        Some(text) => {
            let list: Hostlist = text.parse().map_err(|error| format!("--test-hosts: {error}"))?;
            if list.len() as u64 != u64::from(size) {
                return Err(format!("--test-hosts: {} hosts for {size} brokers", list.len()));
            }
            Some(list.iter().collect())
        }
    };
    let mut commands = Vec::new();
    for rank in 0..size {
        let mut words = broker.to_vec();
        words.extend(["-S".to_string(), format!("rundir={}", rundir.display())]);
        if let Some(hosts) = &hosts {
            words.extend(["-S".to_string(), format!("hostname={}", hosts[rank as usize])]);
        }
        if rank == 0 && !command.is_empty() {
            words.push("--".to_string());
            words.extend(command.iter().cloned());
        }
        commands.push(words);
    }
    if matches.get_flag("noexec") {
        for words in commands {
            output::line(&words.join(" "));
        }
        return Ok(0);
    }
    let mut instance = TestInstance::new(commands, rundir.clone());
    instance.mapping = mapping(matches, size)?;
    if matches.get_one::<String>("test-exit-mode").is_some_and(|mode| mode == "leader") {
        instance.exit_mode = ExitMode::Leader;
    }
    if matches.get_one::<String>("test-start-mode").is_some_and(|mode| mode == "leader") {
        instance.start_mode = StartMode::Leader;
    }
    if let Some(text) = matches.get_one::<String>("test-exit-timeout") {
        let seconds = fsd::parse(text)
            .map_err(|_| format!("--test-exit-timeout: '{text}' is not a duration"))?;
        instance.exit_timeout = seconds.is_finite().then(|| Duration::from_secs_f64(seconds));
    }
    let result = test_instance(instance).map_err(|error| error.to_string());
    if temporary {
        std::fs::remove_dir_all(&rundir).ok();
    }
    result
}

fn mapping(matches: &ArgMatches, size: u32) -> Result<Option<String>, String> {
    let count = size as usize;
    match matches.get_one::<String>("test-pmi-clique").map(String::as_str) {
        None | Some("single") => Ok(TestInstance::on_one_node(count)),
        Some("per-broker") => Ok(TestInstance::on_separate_nodes(count)),
        Some("none") => Ok(None),
        Some(text) => {
            let map: Taskmap =
                text.parse().map_err(|error| format!("--test-pmi-clique: {error}"))?;
            map.to_pmi().map(Some).map_err(|error| format!("--test-pmi-clique: {error}"))
        }
    }
}
