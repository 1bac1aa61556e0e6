//! `flux overlay`: the tree of brokers and its health.

use std::time::Duration;

use clap::{ArgMatches, Command};
use flux_api::Empty;
use flux_api::RpcError;
use flux_api::overlay::{
    DisconnectParent, DisconnectReason, DisconnectSubtree, Health_, OverlayTrace,
    OverlayTraceRequest, RankRequest, Subtree, Topology,
};
use flux_client::{Client, To};
use flux_id::Hostlist;
use flux_proto::Errno;

use super::program::{
    Program, color, counted, duration, flag, number, text, value, wants_color, word,
};
use super::trace_view;
use crate::{dispatch::Invocation, failure::Failure, output};

mod tree;

const PROGRAM: Program = Program::binary("flux-overlay");

/// Time for an answer of one broker.
const PATIENCE: Duration = Duration::from_millis(500);

/// The options of `flux overlay`.
pub(crate) fn command() -> Command {
    let timeout = || {
        value("timeout", 't', "FSD", "Time for each broker to answer (default: 0.5s; 0: no limit)")
    };
    let rank = |help: &'static str| value("rank", 'r', "RANK", help);
    let target = || word("target", "RANK|HOST", "Broker");
    Command::new("overlay")
        .about("Show and change the tree of brokers")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(
            Command::new("status")
                .about("Show the health of the tree")
                .arg(rank("Broker to ask first (default: 0)"))
                .arg(counted("verbose", 'v', "Show times; twice: times of answers too"))
                .arg(timeout())
                .arg(flag("summary", None, "Only the first broker"))
                .arg(flag("down", None, "Only what is not well"))
                .arg(flag("no-pretty", None, "Indent with blanks instead of drawing lines"))
                .arg(flag("no-ghost", None, "Leave out what is below a lost or offline broker"))
                .arg(color())
                .arg(value("highlight", 'H', "TARGETS", "Ranks or hosts to show in color"))
                .arg(value("wait", 'w', "STATE", "Wait until the broker is in this state")),
        )
        .subcommand(
            Command::new("lookup").about("Turn hosts into ranks, or ranks into hosts").arg(word(
                "target",
                "TARGETS",
                "Ranks or hosts",
            )),
        )
        .subcommand(Command::new("parentof").about("Show the parent of a broker").arg(target()))
        .subcommand(Command::new("errors").about("Show why brokers are not there").arg(timeout()))
        .subcommand(
            Command::new("trace")
                .about("Show messages over the links of this broker as they pass")
                .arg(rank("Only to and from this neighbour"))
                .args(trace_view::arguments()),
        )
        .subcommand(
            Command::new("home")
                .about("Send a broker that was taken in elsewhere back to its configured parent")
                .arg(target()),
        )
        .subcommand(
            Command::new("disconnect")
                .about("Take a broker that does not answer out of the tree")
                .arg(value("parent", 'r', "RANK", "Its parent (default: found from the tree)"))
                .arg(target()),
        )
}

/// Runs `flux overlay`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some((name, matches)) = invocation.matches.subcommand() else { return Ok(1) };
    let client = PROGRAM.open()?;
    let hosts = client.get_attr("hostlist").map_err(|error| PROGRAM.about("hostlist", &error))?;
    let hosts: Hostlist =
        hosts.parse().map_err(|_| PROGRAM.fail(format!("invalid hostlist '{hosts}'")))?;
    // Expanded once: a look into the compact form is a search.
    let hosts: Vec<String> = hosts.iter().collect();
    match name {
        "status" => status(&client, matches, &hosts)?,
        "lookup" => lookup(matches, &hosts)?,
        "parentof" => {
            let rank = target(matches, &hosts)?;
            let parent = parent(&topology(&client, 0)?, rank);
            let parent = parent.ok_or_else(|| PROGRAM.fail(format!("{rank} has no parent")))?;
            output::line(&parent.to_string());
        }
        "errors" => errors(&client, matches, &hosts)?,
        "trace" => trace(&client, matches)?,
        "home" => home(&client, matches, &hosts)?,
        _ => disconnect(&client, matches, &hosts)?,
    }
    Ok(0)
}

fn trace(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let request = OverlayTraceRequest {
        typemask: trace_view::types(PROGRAM, matches)?,
        topic_glob: text(matches, "topic").unwrap_or_default().to_string(),
        nodeid: number(PROGRAM, matches, "rank")?.map_or(-1, |rank: u32| rank.into()),
        full: matches.get_flag("full"),
    };
    trace_view::show(PROGRAM, matches, client.stream::<OverlayTrace>(To::Any, &request))
}

fn topology(client: &Client, rank: u32) -> Result<Subtree, Failure> {
    client
        .call::<Topology>(To::Rank(rank), &RankRequest { rank })
        .map_err(|error| PROGRAM.about("overlay.topology", &error))
}

/// The parent of a rank; none for the root and for unknown ranks.
fn parent(tree: &Subtree, rank: u32) -> Option<u32> {
    let mut stack = vec![tree];
    while let Some(node) = stack.pop() {
        if node.children.iter().any(|child| child.rank == rank) {
            return Some(node.rank);
        }
        stack.extend(&node.children);
    }
    None
}

/// Ranks that a text names: an idset, or hosts.
fn ranks(text: &str, hosts: &[String]) -> Result<Vec<u32>, Failure> {
    let bad = || PROGRAM.fail(format!("'{text}' is not a valid hostlist or idset"));
    if let Ok(set) = text.parse::<flux_id::Idset>() {
        let known = |rank: &u32| usize::try_from(*rank).is_ok_and(|rank| rank < hosts.len());
        return set
            .ids()
            .map(|rank| {
                if known(&rank) {
                    Ok(rank)
                } else {
                    Err(PROGRAM.fail(format!("rank {rank} is not in this instance")))
                }
            })
            .collect();
    }
    let wanted: Hostlist = text.parse().map_err(|_| bad())?;
    let mut found = Vec::new();
    for host in wanted.iter() {
        let before = found.len();
        let named = hosts.iter().enumerate().filter(|(_, name)| **name == host);
        found.extend(named.filter_map(|(rank, _)| u32::try_from(rank).ok()));
        if found.len() == before {
            return Err(PROGRAM.fail(format!("unknown host {host}")));
        }
    }
    Ok(found)
}

/// The one rank that an argument names.
fn target(matches: &ArgMatches, hosts: &[String]) -> Result<u32, Failure> {
    let name = text(matches, "target").unwrap_or_default();
    match ranks(name, hosts)?.as_slice() {
        [rank] => Ok(*rank),
        [] => Err(PROGRAM.fail("TARGET must be a single rank or host")),
        [first, ..] if name.parse::<u32>().is_err() && !name.contains([',', '[']) => Ok(*first),
        _ => Err(PROGRAM.fail("TARGET must be a single rank or host")),
    }
}

fn lookup(matches: &ArgMatches, hosts: &[String]) -> Result<(), Failure> {
    let name = text(matches, "target").unwrap_or_default();
    let found = ranks(name, hosts)?;
    if name.parse::<flux_id::Idset>().is_ok() {
        let names = found.iter().filter_map(|rank| hosts.get(*rank as usize));
        let list = Hostlist::from_hosts(names).map_err(|error| PROGRAM.fail(error.to_string()))?;
        output::line(&list.to_string());
    } else {
        output::line(&found.into_iter().collect::<flux_id::Idset>().to_string());
    }
    Ok(())
}

/// Time for each answer; none for no limit.
fn patience(matches: &ArgMatches, size: usize) -> Result<Option<Duration>, Failure> {
    match duration(PROGRAM, matches, "timeout")? {
        Some(time) => Ok((!time.is_zero()).then_some(time)),
        None if text(matches, "timeout").is_some() => Ok(None),
        // A large tree has more to do.
        None if size > 2048 => Ok(Some(PATIENCE.mul_f64(size as f64 / 2000.0))),
        None => Ok(Some(PATIENCE)),
    }
}

fn status(client: &Client, matches: &ArgMatches, hosts: &[String]) -> Result<(), Failure> {
    let rank: u32 = number(PROGRAM, matches, "rank")?.unwrap_or(0);
    if usize::try_from(rank).is_ok_and(|rank| rank >= hosts.len()) {
        return Err(PROGRAM.fail(format!("rank {rank} is not in this instance")));
    }
    if let Some(state) = text(matches, "wait") {
        await_state(client, rank, state, duration(PROGRAM, matches, "timeout")?)?;
    }
    let highlight = text(matches, "highlight").map(|text| ranks(text, hosts)).transpose()?;
    let verbose = matches.get_count("verbose");
    let shape = topology(client, rank)?;
    let look = tree::Look {
        hosts,
        pretty: !matches.get_flag("no-pretty"),
        ghosts: !matches.get_flag("no-ghost"),
        down: matches.get_flag("down"),
        times: verbose > 0,
        answers: verbose > 1,
        color: wants_color(matches),
        highlight: highlight.unwrap_or_default(),
    };
    let patience = patience(matches, hosts.len())?;
    let summary = matches.get_flag("summary");
    let found = tree::gather(client, &shape, patience, !summary);
    if summary {
        output::line(&look.line(&found));
    } else {
        look.draw(&found).iter().for_each(|line| output::line(line));
    }
    Ok(())
}

fn await_state(
    client: &Client,
    rank: u32,
    state: &str,
    time: Option<Duration>,
) -> Result<(), Failure> {
    if !["full", "partial", "degraded", "lost", "offline"].contains(&state) {
        return Err(PROGRAM.fail(format!("invalid --wait state '{state}'")));
    }
    let end = time.filter(|time| !time.is_zero()).map(|time| std::time::Instant::now() + time);
    let mut stream = client.stream::<Health_>(To::Rank(rank), &Empty);
    loop {
        let left = end.map_or(Duration::from_secs(3600), |end| {
            end.saturating_duration_since(std::time::Instant::now())
        });
        match stream.next_within(left) {
            Ok(Some(health)) if health.status == state => return Ok(()),
            Ok(Some(_)) => {}
            Ok(None) => return Err(PROGRAM.fail("overlay.health: the stream ended")),
            Err(error) if error.errno == Errno::ETIMEDOUT => {
                if end.is_some() {
                    let text = format!("timeout waiting for rank {rank} to be {state}");
                    return Err(PROGRAM.fail(text));
                }
            }
            Err(error) => return Err(PROGRAM.about("overlay.health", &error)),
        }
    }
}

fn errors(client: &Client, matches: &ArgMatches, hosts: &[String]) -> Result<(), Failure> {
    let shape = topology(client, 0)?;
    let found = tree::gather(client, &shape, patience(matches, hosts.len())?, true);
    for (ranks, text) in tree::errors(&found) {
        let names = ranks.ids().filter_map(|rank| hosts.get(rank as usize));
        let list = Hostlist::from_hosts(names).map_err(|error| PROGRAM.fail(error.to_string()))?;
        output::line(&format!("{list}: {text}"));
    }
    Ok(())
}

fn home(client: &Client, matches: &ArgMatches, hosts: &[String]) -> Result<(), Failure> {
    let rank = target(matches, hosts)?;
    if rank == 0 {
        return Err(PROGRAM.fail("rank 0 has no parent"));
    }
    // It looks for its configured parent first whenever it has none.
    let reason = "sent back to the configured parent".to_string();
    client
        .notify::<DisconnectParent>(To::Rank(rank), &DisconnectReason { reason })
        .and_then(|()| client.flush())
        .map_err(|error| PROGRAM.about("overlay.disconnect-parent", &error))
}

fn disconnect(client: &Client, matches: &ArgMatches, hosts: &[String]) -> Result<(), Failure> {
    let rank = target(matches, hosts)?;
    let above = match number(PROGRAM, matches, "parent")? {
        Some(parent) => parent,
        None => parent(&topology(client, 0)?, rank)
            .ok_or_else(|| PROGRAM.fail(format!("{rank} has no parent")))?,
    };
    let host = hosts.get(rank as usize).map_or("?", String::as_str);
    output::error_line(&format!(
        "flux-overlay: asking {} (rank {above}) to disconnect child {host} (rank {rank})",
        hosts.get(above as usize).map_or("?", String::as_str),
    ));
    let failed = |error: RpcError| PROGRAM.about("overlay.disconnect-subtree", &error);
    client.call::<DisconnectSubtree>(To::Rank(above), &RankRequest { rank }).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_found_in_the_shape() {
        let shape: Subtree = serde_json::from_str(
            r#"{"rank":0,"size":4,"children":[{"rank":1,"size":2,"children":
               [{"rank":3,"size":1,"children":[]}]},{"rank":2,"size":1,"children":[]}]}"#,
        )
        .unwrap();
        assert_eq!(parent(&shape, 3), Some(1));
        assert_eq!(parent(&shape, 2), Some(0));
        assert_eq!(parent(&shape, 0), None);
    }

    #[test]
    fn targets_are_ranks_or_hosts() {
        let hosts: Vec<String> = ["a0", "a1", "a1"].map(String::from).to_vec();
        assert_eq!(ranks("0-1", &hosts), Ok(vec![0, 1]));
        assert_eq!(ranks("a[0-1]", &hosts), Ok(vec![0, 1, 2]));
        assert!(ranks("7", &hosts).is_err());
        assert!(ranks("b", &hosts).is_err());
    }
}
