//! `flux resource`: what there is, what of it may be used, and drain.

use clap::{ArgMatches, Command};
use flux_api::Empty;
use flux_api::resource::{AcquireMute, Drain, DrainRequest, Reload, ReloadRequest, Undrain};
use flux_client::To;
use flux_format::{NamedFormats, RenderOptions, Row};
use flux_proto::Errno;

use super::program::{Program, color, counted, flag, text, texts, value, word, words};
use super::{LocalZone, event_view::EventView};
use crate::{
    dispatch::Invocation,
    failure::Failure,
    listing::{self, Choice},
    output,
    session::raw_error,
};

mod eventlog;
pub(crate) mod inventory;
mod list;
mod status;

const PROGRAM: Program = Program::script("flux-resource");

/// The options of `flux resource`.
pub(crate) fn command() -> Command {
    let filtered = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .arg(value("include", 'i', "TARGETS", "Only these ranks or hosts"))
            .arg(value("queue", 'q', "QUEUE,..", "Only the nodes of these queues"))
    };
    let table = |name: &'static str, about: &'static str| {
        filtered(name, about)
            .arg(value("format", 'o', "FORMAT", "Output format, or the name of one, or help"))
            .arg(flag("no-header", 'n', "No line of headings"))
            .arg(color())
    };
    let states = || value("states", 's', "STATE,..", "Only these states, or help");
    let skip = || flag("skip-empty", None, "Leave out lines without nodes");
    let mode = |command: Command| {
        command
            .arg(counted("force", 'f', "Whatever the nodes are now; twice: with a new time"))
            .arg(flag("update", 'u', "Leave nodes alone that are so already"))
    };
    Command::new("resource")
        .about("List and change the state of resources")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(mode(table("drain", "Keep nodes from new jobs, or list those that are")).arg(
            words(
                "targets",
                "TARGETS [REASON...]",
                "Ranks or hosts, or cores and gpus of them (node3:core[0-3],gpu0), and why",
            ),
        ))
        .subcommand(
            mode(Command::new("undrain").about("Give nodes new jobs again"))
                .arg(word("target", "TARGETS", "Ranks or hosts, or cores and gpus of them"))
                .arg(words("reason", "REASON", "Why")),
        )
        .subcommand(table("status", "Show the state of nodes").arg(states()).arg(skip()))
        .subcommand(
            table("list", "Show resources as the scheduler sees them")
                .arg(states())
                .arg(skip())
                .arg(flag("no-skip-empty", None, "Show lines without nodes"))
                .arg(counted("verbose", 'v', "Show cores and gpus of ranks instead of hosts")),
        )
        .subcommand(filtered("info", "Show how much there is").arg(states()))
        .subcommand(filtered("R", "Show the resource set as JSON").arg(states()))
        .subcommand(
            Command::new("reload")
                .about("Replace the inventory")
                .arg(flag("xml", 'x', "PATH is a directory of hwloc XML files"))
                .arg(flag("force", 'f', "Take more ranks than there are brokers"))
                .arg(word("path", "PATH", "File with R")),
        )
        .subcommand(
            Command::new("eventlog")
                .about("Show the events of resources")
                .args(EventView::arguments())
                .arg(flag("follow", 'F', "Go on with new events"))
                .arg(value("timeout", 't', "FSD", "With --wait: give up after this time"))
                .arg(value("wait", 'w', "EVENT", "Wait for this event and show only it"))
                .arg(value(
                    "match-context",
                    'm',
                    "KEY=VALUE",
                    "With --wait: and this in its context",
                ))
                .arg(flag("quiet", 'q', "With --wait: print nothing"))
                .arg(value("include", 'i', "TARGETS", "Only events of these ranks or hosts")),
        )
        .subcommand(
            Command::new("acquire-mute").about("Ranks that leave are not gone for good").hide(true),
        )
}

/// Runs `flux resource`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some((name, matches)) = invocation.matches.subcommand() else { return Ok(1) };
    match name {
        "status" => status::run(matches)?,
        "drain" if texts(matches, "targets").is_empty() => status::run_drained(matches)?,
        "drain" => drain(matches)?,
        "undrain" => undrain(matches)?,
        "list" => list::run(matches)?,
        "info" => list::info(matches)?,
        "R" => list::r(matches)?,
        "eventlog" => eventlog::run(matches)?,
        "reload" => reload(matches)?,
        _ => {
            let client = PROGRAM.open()?;
            client.call::<AcquireMute>(To::Rank(0), &Empty).map_err(|e| PROGRAM.error(&e))?;
        }
    }
    Ok(0)
}

/// Targets, reason and mode of a drain or undrain.
fn request(matches: &ArgMatches, targets: &str, reason: &[&str]) -> DrainRequest {
    let mode = match (matches.get_flag("update"), matches.get_count("force")) {
        (true, _) => Some("update"),
        (false, 0) => None,
        (false, 1) => Some("overwrite"),
        _ => Some("force-overwrite"),
    };
    DrainRequest {
        targets: targets.to_owned(),
        reason: (!reason.is_empty()).then(|| reason.join(" ")),
        mode: mode.map(str::to_owned),
    }
}

fn drain(matches: &ArgMatches) -> Result<(), Failure> {
    let words = texts(matches, "targets");
    let (targets, reason) = words.split_first().map_or(("", &[][..]), |(t, r)| (*t, r));
    let client = PROGRAM.open()?;
    let done = client.call::<Drain>(To::Rank(0), &request(matches, targets, reason));
    done.map(drop).map_err(|error| {
        let mut failure = PROGRAM.fail(raw_error(&error));
        if error.errno == Errno::EEXIST {
            failure.hints.push("Use --force to overwrite existing drain reason".to_owned());
        }
        failure
    })
}

fn undrain(matches: &ArgMatches) -> Result<(), Failure> {
    let targets = text(matches, "target").unwrap_or_default();
    let client = PROGRAM.open()?;
    let request = request(matches, targets, &texts(matches, "reason"));
    client.call::<Undrain>(To::Rank(0), &request).map(drop).map_err(|error| PROGRAM.error(&error))
}

fn reload(matches: &ArgMatches) -> Result<(), Failure> {
    let path = std::path::absolute(text(matches, "path").unwrap_or_default());
    let path = path.map_err(|error| PROGRAM.fail(error.to_string()))?;
    let request = ReloadRequest {
        path: path.to_string_lossy().into_owned(),
        xml: matches.get_flag("xml"),
        force: matches.get_flag("force"),
    };
    let client = PROGRAM.open()?;
    client.call::<Reload>(To::Rank(0), &request).map(drop).map_err(|error| PROGRAM.error(&error))
}

/// The name of the formats in which tables look as they did in 2022 (0.35.0).
const CLASSIC: &str = "classic";

/// A format, and what was asked for: a name, or itself.
struct Chosen {
    wanted: String,
    format: flux_format::Format,
}

impl Chosen {
    /// Whether the table is to look as in 2022.
    fn is_classic(&self) -> bool {
        self.wanted == CLASSIC
    }
}

/// The format to use; `None` when formats were listed instead. `what` is as in
/// [`listing::default_format`].
fn format(
    matches: &ArgMatches,
    builtin: &[(&str, &str, &str)],
    what: &str,
    default: &str,
) -> Result<Option<Chosen>, Failure> {
    let formats: NamedFormats =
        listing::formats("resource", builtin).map_err(|error| PROGRAM.fail(error))?;
    let wanted = match text(matches, "format") {
        Some(wanted) => wanted.to_owned(),
        None => listing::default_format(what, default),
    };
    match listing::choose("flux-resource", &formats, &wanted) {
        Ok(Choice::Use(format)) => Ok(Some(Chosen { wanted, format })),
        Ok(Choice::Printed) => Ok(None),
        Err(error) => Err(wrong_format(&error)),
    }
}

fn wrong_format(error: &flux_format::FormatError) -> Failure {
    PROGRAM.fail(format!("Error in user format: {error}"))
}

/// Prints rows.
fn print<R: Row>(
    matches: &ArgMatches,
    format: &flux_format::Format,
    headings: &dyn flux_format::Headings,
    rows: &[R],
    trim: bool,
) -> Result<(), Failure> {
    let options = RenderOptions { header: !matches.get_flag("no-header"), trim };
    let lines = format.render(headings, rows, &LocalZone::system(), options);
    lines.map_err(|e| wrong_format(&e))?.iter().for_each(|line| output::line(line));
    Ok(())
}

/// The states that `--states` names; `None` when it asked for help, which is printed.
fn states<'a>(
    matches: &'a ArgMatches,
    valid: &[&str],
    default: &'a str,
) -> Result<Option<Vec<&'a str>>, Failure> {
    let wanted = text(matches, "states").unwrap_or(default);
    if wanted == "help" {
        output::error_line(&format!("flux-resource: INFO: valid states: {}", valid.join(",")));
        return Ok(None);
    }
    let states: Vec<&str> = wanted.split(',').collect();
    if let Some(unknown) = states.iter().find(|state| !valid.contains(state)) {
        let mut failure = PROGRAM.fail(format!("Invalid resource state {unknown} specified"));
        failure.hints.push(format!("valid states: {}", valid.join(",")));
        return Err(failure);
    }
    Ok(Some(states))
}
