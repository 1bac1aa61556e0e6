//! `flux queue`: whether jobs are taken and started.

use clap::{ArgMatches, Command};
use flux_api::RpcError;
use flux_api::body::AnyObject;
use flux_api::job::manager::{
    AllocQuery_, Drain, Idle, QueueEnable, QueueEnable_, QueueList_, QueueName, QueueStart,
    QueueStart_, QueueStatus, QueueStatus_,
};
use flux_client::{Client, To};

use super::program::{Program, counted, duration, flag, text, texts, value, words};
use crate::{dispatch::Invocation, failure::Failure, output};

mod table;

const PROGRAM: Program = Program::script("flux-queue");

/// The options of `flux queue`.
pub(crate) fn command() -> Command {
    let queues = || words("queues", "QUEUE", "Queues (default: the only one)");
    let change = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .arg(flag("all", 'a', "Every queue"))
            .arg(flag("quiet", None, "Print nothing"))
            .arg(counted("verbose", 'v', "Print the state of every queue"))
            .arg(queues())
    };
    let end = |name: &'static str, about: &'static str| {
        change(name, about)
            .arg(flag("nocheckpoint", None, "Forget it at restart"))
            .arg(value("message", 'm', "REASON", "Why"))
    };
    let wait = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .arg(value("timeout", 't', "FSD", "Give up after this time"))
            .arg(flag("quiet", None, "Print nothing"))
    };
    Command::new("queue")
        .about("Show and change whether jobs are taken and started")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(change("enable", "Enable job submission"))
        .subcommand(end("disable", "Disable job submission"))
        .subcommand(change("start", "Start scheduling"))
        .subcommand(end("stop", "Stop scheduling"))
        .subcommand(
            Command::new("status")
                .about("Get queue status")
                .arg(counted("verbose", 'v', "Show counts of requests and jobs too"))
                .arg(queues()),
        )
        .subcommand(table::command())
        .subcommand(wait("drain", "Wait for queue to become empty."))
        .subcommand(wait("idle", "Wait for queue to become idle."))
}

/// Runs `flux queue`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some((name, matches)) = invocation.matches.subcommand() else { return Ok(1) };
    let client = PROGRAM.open()?;
    match name {
        "status" => status(&client, matches),
        "enable" | "disable" => change(&client, matches, name, name == "enable", true),
        "start" | "stop" => change(&client, matches, name, name == "start", false),
        "list" => table::run(&client, matches),
        _ => wait(&client, matches, name),
    }?;
    Ok(0)
}

fn error(what: &str) -> impl Fn(RpcError) -> Failure {
    move |error| PROGRAM.about(what, &error)
}

/// Names of the queues; one without a name where none are configured.
fn names(client: &Client) -> Result<Vec<Option<String>>, Failure> {
    let list = client.call::<QueueList_>(To::Any, &AnyObject::default());
    let queues = list.map_err(error("list"))?.queues;
    Ok(if queues.is_empty() { vec![None] } else { queues.into_iter().map(Some).collect() })
}

fn lines(name: Option<&str>, status: &QueueStatus) -> [String; 2] {
    let prefix = name.map(|name| format!("{name}: ")).unwrap_or_default();
    let reason = |reason: &Option<String>| {
        reason.as_ref().filter(|r| !r.is_empty()).map(|r| format!(": {r}")).unwrap_or_default()
    };
    let submission = if status.enable {
        format!("{prefix}Job submission is enabled")
    } else {
        format!("{prefix}Job submission is disabled{}", reason(&status.disable_reason))
    };
    let scheduling = if status.start {
        let blocked = status.blocked.as_ref().map(|by| format!(" (blocked by {by})"));
        format!("{prefix}Scheduling is started{}", blocked.unwrap_or_default())
    } else {
        format!("{prefix}Scheduling is stopped{}", reason(&status.stop_reason))
    };
    [submission, scheduling]
}

fn states(
    client: &Client,
    names: Vec<Option<String>>,
) -> Result<Vec<(Option<String>, QueueStatus)>, Failure> {
    let asked: Vec<_> = names
        .into_iter()
        .map(|name| (client.send::<QueueStatus_>(To::Any, &QueueName { name: name.clone() }), name))
        .collect();
    let states = asked
        .into_iter()
        .map(|(status, name)| status.wait().map(|status| (name, status)).map_err(error("status")));
    states.collect()
}

fn status(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let chosen = texts(matches, "queues");
    let names = if chosen.is_empty() {
        names(client)?
    } else {
        chosen.into_iter().map(|name| Some(name.to_owned())).collect()
    };
    for (name, status) in states(client, names)? {
        lines(name.as_deref(), &status).iter().for_each(|line| output::line(line));
    }
    if let Some(line) = super::store_state::trouble(client) {
        output::line(&line);
    }
    if matches.get_count("verbose") > 0 {
        let query = client.call::<AllocQuery_>(To::Any, &AnyObject::default());
        let query = query.map_err(error("status"))?;
        output::line(&format!("{} alloc requests queued", query.queue_length));
        output::line(&format!("{} alloc requests pending to scheduler", query.alloc_pending));
        // Free requests are not answered, so that none ever waits.
        output::line("0 free requests pending to scheduler");
        output::line(&format!("{} running jobs", query.running));
    }
    Ok(())
}

/// Enables, disables, starts or stops queues.
fn change(
    client: &Client,
    matches: &ArgMatches,
    what: &str,
    on: bool,
    submission: bool,
) -> Result<(), Failure> {
    let chosen = texts(matches, "queues");
    let all = matches.get_flag("all");
    let known = names(client)?;
    let named = known.iter().any(Option::is_some);
    if chosen.is_empty() && named && !all {
        let text = format!("{what}: Use --all to apply this command to all queues");
        return Err(PROGRAM.fail(text));
    }
    let (reason, nocheckpoint) = if on {
        (None, false)
    } else {
        let reason = text(matches, "message").map(str::to_owned);
        let default = submission.then(|| "disabled by administrator".to_owned());
        (reason.or(default), matches.get_flag("nocheckpoint"))
    };
    let targets: Vec<Option<String>> = if chosen.is_empty() {
        vec![None]
    } else {
        chosen.into_iter().map(|name| Some(name.to_owned())).collect()
    };
    let all = targets == [None] && (all || named);
    let shown = if targets == [None] { known } else { targets.clone() };
    for name in targets {
        let reason = reason.clone();
        let done = if submission {
            client.call::<QueueEnable_>(To::Any, &QueueEnable { name, enable: on, reason, all })
        } else {
            let request = QueueStart { name, start: on, reason, all, nocheckpoint, ending: false };
            client.call::<QueueStart_>(To::Any, &request)
        };
        done.map_err(error(what))?;
    }
    if matches.get_flag("quiet") {
        return Ok(());
    }
    let verbose = matches.get_count("verbose") > 0;
    for (name, status) in states(client, if verbose { names(client)? } else { shown })? {
        let [first, second] = lines(name.as_deref(), &status);
        output::line(if submission { &first } else { &second });
    }
    Ok(())
}

fn wait(client: &Client, matches: &ArgMatches, what: &str) -> Result<(), Failure> {
    let timeout = duration(PROGRAM, matches, "timeout")?.unwrap_or(std::time::Duration::MAX);
    let request = AnyObject::default();
    if what == "drain" {
        client.call_within::<Drain>(To::Any, &request, timeout).map_err(error(what))?;
    } else {
        let idle = client.call_within::<Idle>(To::Any, &request, timeout).map_err(error(what))?;
        if !matches.get_flag("quiet") {
            output::line(&format!("{} jobs", idle.pending));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_in_two_lines() {
        let mut status = QueueStatus {
            enable: true,
            disable_reason: None,
            start: true,
            stop_reason: None,
            blocked: None,
            parent: None,
        };
        assert_eq!(lines(None, &status), ["Job submission is enabled", "Scheduling is started"]);
        status.enable = false;
        status.disable_reason = Some("gone".into());
        status.start = false;
        assert_eq!(
            lines(Some("batch"), &status),
            ["batch: Job submission is disabled: gone", "batch: Scheduling is stopped"]
        );
    }
}
