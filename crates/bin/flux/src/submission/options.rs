//! The options of the submission commands: declared for clap, and read back into structs.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::{SubmitError, duration, resources::Counts};

/// Redirection of the standard streams.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Streams {
    pub(crate) input: Option<String>,
    pub(crate) output: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) unbuffered: bool,
    pub(crate) label: bool,
}

/// Options that all submission commands have.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Common {
    pub(crate) queue: Option<String>,
    pub(crate) bank: Option<String>,
    /// Seconds.
    pub(crate) time_limit: Option<f64>,
    pub(crate) urgency: u8,
    pub(crate) job_name: Option<String>,
    pub(crate) setopt: Vec<String>,
    pub(crate) setattr: Vec<String>,
    pub(crate) add_file: Vec<String>,
    pub(crate) dependency: Vec<String>,
    pub(crate) requires: Option<String>,
    pub(crate) begin_time: Option<String>,
    /// Rules of `--env`, `--env-remove` and `--env-file` in command line order.
    pub(crate) env: Vec<String>,
    pub(crate) rlimit: Vec<String>,
    pub(crate) streams: Streams,
    pub(crate) cwd: Option<String>,
    /// Bits of the `flags` of a submission.
    pub(crate) flags: u32,
    pub(crate) signal: Option<String>,
    pub(crate) taskmap: Option<String>,
    pub(crate) counts: Counts,
}

impl Common {
    /// Changes every text a carbon copy may carry its id in.
    pub(crate) fn each_text(&mut self, change: impl Fn(&mut String)) {
        let streams = &mut self.streams;
        let single = [
            &mut self.queue,
            &mut self.bank,
            &mut self.job_name,
            &mut self.requires,
            &mut self.begin_time,
            &mut self.cwd,
            &mut self.signal,
            &mut self.taskmap,
            &mut streams.input,
            &mut streams.output,
            &mut streams.error,
        ];
        single.into_iter().flatten().for_each(&change);
        let lists = [
            &mut self.setopt,
            &mut self.setattr,
            &mut self.add_file,
            &mut self.dependency,
            &mut self.env,
        ];
        lists.into_iter().flatten().for_each(&change);
    }
}

/// Urgency of a job when none is asked for.
const DEFAULT_URGENCY: u8 = 16;
/// Urgency of a job that is not to be started.
const HOLD_URGENCY: u8 = 0;
/// Urgency of a job that goes before all others.
const EXPEDITE_URGENCY: u8 = 31;

fn text(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help).allow_hyphen_values(true)
}

fn list(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    text(name, value, help).action(ArgAction::Append)
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn count(name: &'static str, help: &'static str) -> Arg {
    text(name, "N", help).value_parser(value_parser!(i64))
}

/// A command with the options that all submission commands have.
pub(crate) fn common(command: Command) -> Command {
    command
        .args_override_self(true)
        .arg(text("queue", "NAME", "Submit to this queue").short('q'))
        .arg(text("bank", "NAME", "Charge this bank").short('B'))
        .arg(text("time-limit", "MIN|FSD", "Limit the run time (bare number: minutes)").short('t'))
        .arg(text("urgency", "N", "Urgency 0-31, hold, default or expedite"))
        .arg(text("job-name", "NAME", "Name the job"))
        .arg(list("setopt", "OPT[=VAL]", "Set a job shell option (dots nest)").short('o'))
        .arg(
            list("setattr", "KEY[=VAL]", "Set a jobspec attribute; ^KEY=FILE reads JSON")
                .short('S'),
        )
        .arg(list(
            "add-file",
            "[NAME[:PERMS]=]ARG",
            "Put a file into the job's temporary directory",
        ))
        .arg(list("dependency", "URI", "Start only when this dependency is satisfied"))
        .arg(text("requires", "EXPR", "Use only resources that match this constraint"))
        .arg(text("begin-time", "+FSD|TIME", "Do not start before this time"))
        .arg(list("env", "RULE", "Change the job's environment by a rule"))
        .arg(list("env-remove", "PATTERN", "Remove matching environment variables"))
        .arg(list("env-file", "FILE", "Read environment rules from a file"))
        .arg(list("rlimit", "RULE", "Change the resource limits passed to the job"))
        .arg(text(
            "input",
            "FILE|RANKS",
            "Read standard input from a file, or give it to these tasks only",
        ))
        .arg(text("output", "FILE", "Write standard output to a file"))
        .arg(text("error", "FILE", "Write standard error to a file"))
        .arg(flag("unbuffered", "Do not buffer standard input and output").short('u'))
        .arg(flag("label-io", "Put the task rank before each line of output").short('l'))
        .arg(text("cwd", "DIR", "Working directory of the job"))
        .arg(list("flags", "FLAGS", "Submission flags: debug, waitable, novalidate"))
        .arg(
            text("signal", "[SIG][@TIME]", "Send a signal before the time limit (SIGUSR1@60s)")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value(""),
        )
        .arg(text("taskmap", "SCHEME[:VAL]", "How tasks are laid out on nodes"))
        .arg(
            flag("list-plugins", "List the plugins of this command (there are none) and exit")
                .exclusive(true),
        )
        .arg(flag("dry-run", "Print the jobspec and submit nothing"))
        .arg(flag("quiet", "Print less"))
        .arg(
            Arg::new("verbose")
                .short('v')
                .long("verbose")
                .action(ArgAction::Count)
                .help("Print more"),
        )
        .arg(text("nodes", "N[-M]", "Number of nodes").short('N'))
        .arg(flag("exclusive", "Allocate whole nodes").short('x'))
        .arg(text(
            "resources-shape",
            "SHAPE",
            "Request resources by a shape such as node=2/slot/core=4",
        ))
        .arg(text("resources-json", "FILE", "Take the jobspec resources from a file of JSON"))
}

/// Options of `run`, `submit` and `bulksubmit` for tasks.
pub(crate) fn tasks(command: Command) -> Command {
    command
        .arg(count("ntasks", "Number of tasks").short('n'))
        .arg(count("cores-per-task", "Cores for each task").short('c'))
        .arg(count("gpus-per-task", "GPUs for each task").short('g'))
        .arg(count("cores", "Number of cores in all"))
        .arg(count("tasks-per-node", "Tasks on each node"))
        .arg(count("tasks-per-core", "Tasks on each core"))
        .arg(count("gpus-per-node", "GPUs on each node"))
        .arg(trailing("command", "COMMAND"))
}

/// Options of `batch` and `alloc` for slots and the new instance.
pub(crate) fn slots(command: Command) -> Command {
    command
        .arg(count("nslots", "Number of slots").short('n'))
        .arg(count("cores-per-slot", "Cores in each slot").short('c'))
        .arg(count("gpus-per-slot", "GPUs in each slot").short('g'))
        .arg(list("conf", "KEY=VAL|FILE", "Configure the new instance"))
        .arg(list("broker-opts", "OPTS", "Pass options to the brokers (comma separated)"))
        .arg(
            text("dump", "FILE", "Dump the new instance's data when it ends")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value(super::broker::DEFAULT_DUMP),
        )
        .arg(trailing("command", "COMMAND"))
}

/// Options of `submit` and `bulksubmit`.
pub(crate) fn copies(command: Command) -> Command {
    command
        .arg(text("cc", "IDSET", "Submit a copy for each id, which replaces {cc}"))
        .arg(text("bcc", "IDSET", "As --cc, without setting FLUX_JOB_CC"))
        .arg(flag("wait", "Wait for the jobs to end"))
        .arg(text("wait-event", "NAME", "Wait for this event of each job"))
        .arg(flag("watch", "Watch the output of the jobs"))
        .arg(text("log", "FILE", "Write output of this command to a file"))
        .arg(text("log-stderr", "FILE", "Write errors of this command to a file"))
        .arg(flag("progress", "Show a progress bar"))
        .arg(flag("jps", "Show jobs per second"))
}

fn trailing(name: &'static str, value: &'static str) -> Arg {
    Arg::new(name).value_name(value).num_args(0..).trailing_var_arg(true)
}

/// The words of the command to run.
pub(crate) fn words(matches: &ArgMatches) -> Vec<String> {
    strings(matches, "command")
}

/// An option that may be given once.
pub(crate) fn one(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

/// All values of an option, in order.
pub(crate) fn strings(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches.get_many::<String>(name).unwrap_or_default().cloned().collect()
}

/// Answers `--list-plugins`: nothing changes what these commands do.
pub(crate) fn plugins_listed(matches: &ArgMatches) -> bool {
    let asked = matches.get_flag("list-plugins");
    if asked {
        crate::output::error_line("no plugins: the submission commands take none");
    }
    asked
}

/// Reads the common options back.
///
/// # Errors
/// A time limit, urgency or flag that cannot be read, or an unreadable `--resources-json`.
pub(crate) fn read(matches: &ArgMatches) -> Result<Common, SubmitError> {
    let number = |name: &str| matches.try_get_one::<i64>(name).ok().flatten().copied();
    let either = |a: &str, b: &str| number(a).or_else(|| number(b));
    let time_limit = one(matches, "time-limit")
        .map(|t| {
            let seconds = duration::seconds(&t, 60.0).ok_or(SubmitError::Duration)?;
            // An infinite time is what no limit means.
            Ok::<f64, SubmitError>(if seconds.is_finite() { seconds } else { 0.0 })
        })
        .transpose()?;
    Ok(Common {
        queue: one(matches, "queue"),
        bank: one(matches, "bank"),
        time_limit,
        urgency: one(matches, "urgency").map_or(Ok(DEFAULT_URGENCY), |u| urgency(&u))?,
        job_name: one(matches, "job-name"),
        setopt: strings(matches, "setopt"),
        setattr: strings(matches, "setattr"),
        add_file: strings(matches, "add-file"),
        dependency: strings(matches, "dependency"),
        requires: one(matches, "requires"),
        begin_time: one(matches, "begin-time"),
        env: env_rules(matches),
        rlimit: strings(matches, "rlimit"),
        streams: Streams {
            input: one(matches, "input"),
            output: one(matches, "output"),
            error: one(matches, "error"),
            unbuffered: matches.get_flag("unbuffered"),
            label: matches.get_flag("label-io"),
        },
        cwd: one(matches, "cwd"),
        flags: flags(&strings(matches, "flags"))?,
        signal: one(matches, "signal"),
        taskmap: one(matches, "taskmap"),
        counts: Counts {
            nodes: one(matches, "nodes"),
            exclusive: matches.get_flag("exclusive"),
            slots: either("ntasks", "nslots"),
            cores_per_slot: either("cores-per-task", "cores-per-slot"),
            gpus_per_slot: either("gpus-per-task", "gpus-per-slot"),
            cores: number("cores"),
            tasks_per_node: number("tasks-per-node"),
            tasks_per_core: number("tasks-per-core"),
            gpus_per_node: number("gpus-per-node"),
            list: resource_list(matches)?,
        },
    })
}

/// Options that take a number.
const COUNTS: [&str; 7] = [
    "ntasks",
    "cores-per-task",
    "gpus-per-task",
    "cores",
    "tasks-per-node",
    "tasks-per-core",
    "gpus-per-node",
];

/// Lets the numeric options of a command hold any text, for a command line that is a template.
pub(crate) fn as_template(command: Command) -> Command {
    COUNTS.iter().fold(command, |command, name| {
        command.mut_arg(name, |arg| arg.value_parser(value_parser!(String)))
    })
}

fn resource_list(matches: &ArgMatches) -> Result<Option<serde_json::Value>, SubmitError> {
    match (one(matches, "resources-shape"), one(matches, "resources-json")) {
        (Some(_), Some(_)) => Err(SubmitError::MixedShape),
        (Some(shape), None) => flux_model::shape::parse(&shape)
            .map(|list| Some(list.into()))
            .map_err(|error| SubmitError::option("resources-shape", &shape, error)),
        (None, Some(file)) => resources_json(&file).map(Some),
        (None, None) => Ok(None),
    }
}

fn resources_json(file: &str) -> Result<serde_json::Value, SubmitError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| SubmitError::file("resources-json", file, &error))?;
    let value: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| SubmitError::option("resources-json", file, error))?;
    if value.as_array().is_none_or(Vec::is_empty) {
        return Err(SubmitError::option("resources-json", file, "expected a list of resources"));
    }
    Ok(value)
}

/// The three environment options as rules, in the order they were given.
fn env_rules(matches: &ArgMatches) -> Vec<String> {
    let mut rules: Vec<(usize, String)> = Vec::new();
    for (name, mark) in [("env", ""), ("env-remove", "-"), ("env-file", "^")] {
        let at = matches.indices_of(name).into_iter().flatten();
        let values = matches.get_many::<String>(name).into_iter().flatten();
        rules.extend(at.zip(values).map(|(at, value)| (at, format!("{mark}{value}"))));
    }
    rules.sort_by_key(|(at, _)| *at);
    rules.into_iter().map(|(_, rule)| rule).collect()
}

/// Reads an urgency: 0 to 31, or a word.
pub(crate) fn urgency(text: &str) -> Result<u8, SubmitError> {
    match text.to_ascii_lowercase().as_str() {
        "hold" => Ok(HOLD_URGENCY),
        "default" => Ok(DEFAULT_URGENCY),
        "expedite" => Ok(EXPEDITE_URGENCY),
        number => number
            .parse()
            .ok()
            .filter(|n| *n <= EXPEDITE_URGENCY)
            .ok_or_else(|| SubmitError::Urgency(text.to_owned())),
    }
}

fn flags(lists: &[String]) -> Result<u32, SubmitError> {
    let mut bits = 0;
    for flag in lists.iter().flat_map(|l| l.split(',')).filter(|f| !f.is_empty()) {
        bits |= match flag {
            "debug" => 2,
            "waitable" => 4,
            "novalidate" => 8,
            other => return Err(SubmitError::Flag(other.to_owned())),
        };
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Common, SubmitError> {
        let command = tasks(common(Command::new("run").no_binary_name(true)));
        read(&command.try_get_matches_from(words).expect("a valid command line"))
    }

    #[test]
    fn environment_rules_keep_their_order() {
        let options = parse(&[
            "--dry-run",
            "--env=-*",
            "--env-file=f",
            "--env=A=1",
            "--env-remove",
            "B*",
            "--env",
            "-C",
        ]);
        assert_eq!(options.expect("valid").env, ["-*", "^f", "A=1", "-B*", "-C"]);
    }

    #[test]
    fn bare_time_limits_are_minutes_and_the_last_one_counts() {
        let limit = |words: &[&str]| parse(words).map(|o| o.time_limit);
        assert_eq!(limit(&["--dry-run", "-t5"]), Ok(Some(300.0)));
        assert_eq!(limit(&["--dry-run", "-t5s", "-t", "1h"]), Ok(Some(3600.0)));
        assert_eq!(limit(&["--dry-run", "-tinf"]), Ok(Some(0.0)));
        assert_eq!(
            limit(&["--dry-run", "-tfoo"]).expect_err("no time").to_string(),
            "invalid Flux standard duration"
        );
    }

    #[test]
    fn flags_and_urgencies_are_words() {
        let options =
            parse(&["--dry-run", "--flags=debug,waitable", "--urgency=Hold"]).expect("ok");
        assert_eq!((options.flags, options.urgency), (6, 0));
        assert_eq!(
            parse(&["--dry-run", "--flags=foo"]).expect_err("no flag").to_string(),
            "--flags: Unknown flag foo"
        );
        assert!(parse(&["--dry-run", "--urgency=32"]).is_err());
    }

    #[test]
    fn options_end_at_the_command() {
        let command = tasks(common(Command::new("run").no_binary_name(true)));
        let matches = command
            .try_get_matches_from(["--dry-run", "-n2", "ls", "-l", "--nosuch", "--", "-n3"])
            .expect("valid");
        assert_eq!(words(&matches), ["ls", "-l", "--nosuch", "--", "-n3"]);
        assert_eq!(read(&matches).expect("valid").counts.slots, Some(2));
    }
}
