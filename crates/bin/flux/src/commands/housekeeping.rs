//! `flux housekeeping`: what still runs on the nodes of jobs that are over.

use clap::{ArgMatches, Command};
use flux_api::job::manager::{HousekeepingKill, HousekeepingKill_};
use flux_client::{Client, To};
use flux_format::{Field, RenderOptions, Row};
use flux_id::{Hostlist, Idset, JobId};

use super::{
    LocalZone,
    program::{Program, flag, text, texts, value},
};
use crate::{dispatch::Invocation, failure::Failure, listing, output};

const PROGRAM: Program = Program::script("flux-housekeeping");
const FORMATS: &[(&str, &str, &str)] = &[(
    "default",
    "{id.f58:>12} {nnodes:>6} {pending.nnodes:>7} {runtime!F:>8} {nodelist}",
    "Default flux-housekeeping list format",
)];

/// The options of `flux housekeeping`.
pub(crate) fn command() -> Command {
    let jobs = || value("jobid", 'j', "ID", "This job");
    Command::new("housekeeping")
        .about("List and signal what runs on nodes after their job")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(
            Command::new("list")
                .about("List jobs whose nodes are in housekeeping")
                .arg(value("format", 'o', "FORMAT", "Output format, or the name of one, or help"))
                .arg(flag("no-header", 'n', "No line of headings")),
        )
        .subcommand(
            Command::new("kill")
                .about("Send a signal to housekeeping")
                .arg(value("signal", 's', "SIGNUM", "Signal (default: SIGTERM)"))
                .arg(value("targets", 't', "TARGETS", "Only these ranks or hosts"))
                .arg(jobs().action(clap::ArgAction::Append))
                .arg(flag("all", None, "Every job")),
        )
}

/// Runs `flux housekeeping`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some((name, matches)) = invocation.matches.subcommand() else { return Ok(1) };
    let client = PROGRAM.open()?;
    match name {
        "list" => list(&client, matches),
        _ => kill(&client, matches),
    }?;
    Ok(0)
}

struct Held {
    id: JobId,
    runtime: f64,
    pending: Idset,
    allocated: Idset,
    hosts: Hostlist,
}

fn hosts(client: &Client) -> Result<Hostlist, Failure> {
    let all = client.get_attr("hostlist").map_err(|error| PROGRAM.about("hostlist", &error))?;
    all.parse().map_err(|error| PROGRAM.fail(format!("hostlist: {error}")))
}

fn named(all: &Hostlist, ranks: &Idset) -> Result<Hostlist, Failure> {
    let names: Vec<String> = ranks.ids().filter_map(|rank| all.nth(rank as usize)).collect();
    Hostlist::from_hosts(&names).map_err(|error| PROGRAM.fail(error.to_string()))
}

fn list(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let formats = listing::formats("housekeeping", FORMATS).map_err(|text| PROGRAM.fail(text))?;
    let wanted = text(matches, "format").unwrap_or("default");
    let format = match listing::choose("flux-housekeeping", &formats, wanted) {
        Ok(listing::Choice::Use(format)) => format,
        Ok(listing::Choice::Printed) => return Ok(()),
        Err(error) => return Err(PROGRAM.fail(format!("Error in user format: {error}"))),
    };
    let stats = client
        .rpc("job-manager.stats-get", To::Rank(0), None)
        .map_err(|error| PROGRAM.error(&error))?;
    let now = jiff::Timestamp::now().as_microsecond() as f64 / 1e6;
    let all = hosts(client)?;
    let mut rows = Vec::new();
    for (id, held) in stats["housekeeping"]["running"].as_object().into_iter().flatten() {
        let Ok(id) = id.parse() else { continue };
        let ranks = |key: &str| -> Idset {
            held[key].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
        };
        let allocated = ranks("allocated");
        rows.push(Held {
            id,
            runtime: now - held["t_start"].as_f64().unwrap_or(now),
            pending: ranks("pending"),
            hosts: named(&all, &allocated)?,
            allocated,
        });
    }
    rows.sort_by_key(|held| std::cmp::Reverse(held.id.0));
    let options = RenderOptions { header: !matches.get_flag("no-header"), trim: true };
    let lines = format.render(&heading, &rows, &LocalZone::system(), options);
    let lines = lines.map_err(|error| PROGRAM.fail(format!("Error in user format: {error}")))?;
    lines.iter().for_each(|line| output::line(line));
    Ok(())
}

fn heading(field: &str) -> Option<&'static str> {
    Some(match field {
        "id" | "id.f58" | "id.dec" => "JOBID",
        "nnodes" => "NNODES",
        "ranks" => "RANKS",
        "nodelist" => "NODELIST",
        "runtime" => "RUNTIME",
        "pending.nnodes" => "#ACTIVE",
        "pending.ranks" => "ACTIVE_RANKS",
        _ => return None,
    })
}

impl Row for Held {
    fn field(&self, name: &str) -> Option<Field<'_>> {
        Some(match name {
            "id" | "id.f58" => Field::from(self.id.f58()),
            "id.dec" => Field::from(self.id.dec()),
            "nnodes" => Field::from(self.allocated.len().to_string()),
            "ranks" => Field::from(self.allocated.to_string()),
            "nodelist" => Field::from(self.hosts.to_string()),
            "runtime" => Field::Duration(self.runtime),
            "pending.nnodes" => Field::from(self.pending.len().to_string()),
            "pending.ranks" => Field::from(self.pending.to_string()),
            _ => return None,
        })
    }
}

fn kill(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let name = text(matches, "signal").unwrap_or("SIGTERM");
    let signum = flux_model::signal::number(name)
        .ok_or_else(|| PROGRAM.fail(format!("invalid signal {name}")))?;
    let ranks = match text(matches, "targets") {
        None => None,
        Some(list) => Some(match list.parse::<Idset>() {
            Ok(ranks) => ranks.to_string(),
            Err(_) => {
                let wanted: Hostlist =
                    list.parse().map_err(|_| PROGRAM.fail(format!("invalid targets '{list}'")))?;
                let all = hosts(client)?;
                if let Some(host) =
                    wanted.iter().find(|host| !all.iter().any(|known| known == *host))
                {
                    return Err(PROGRAM.fail(format!("{host} is not in this instance")));
                }
                let ranks: Idset = (0..)
                    .zip(all.iter())
                    .filter(|(_, host)| wanted.contains(host.as_str()))
                    .map(|(rank, _)| rank)
                    .collect();
                ranks.to_string()
            }
        }),
    };
    let mut ids = Vec::new();
    for id in texts(matches, "jobid") {
        let id: JobId = id.parse().map_err(|_| PROGRAM.fail(format!("invalid job id '{id}'")))?;
        ids.push(Some(id.0));
    }
    if ids.is_empty() {
        if !matches.get_flag("all") && ranks.is_none() {
            return Err(PROGRAM.fail("specify --jobid, --targets or --all"));
        }
        ids.push(None);
    }
    for jobid in ids {
        let request = HousekeepingKill { signum, jobid, ranks: ranks.clone() };
        client
            .call::<HousekeepingKill_>(To::Rank(0), &request)
            .map_err(|error| PROGRAM.error(&error))?;
    }
    Ok(())
}
