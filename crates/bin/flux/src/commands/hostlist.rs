//! `flux hostlist`: combine and take apart lists of hosts (RFC 29).

use std::io::Read;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use flux_id::{Hostlist, Idset, JobId};

use super::program::Program;
use crate::{dispatch::Invocation, failure::Failure, output, resources::Resources, session};

const PROGRAM: Program = Program::script("flux-hostlist");
/// Most bytes read from standard input.
const MAX_INPUT: u64 = 64 << 20;

/// Hosts that only an instance can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    /// All of them.
    All,
    /// Those of the job that this is part of, else all.
    Local,
    /// Those that are up, and not drained.
    Available,
    /// Those of a job.
    Job(JobId),
}

impl Named {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "instance" | "inst" => Self::All,
            "local" => Self::Local,
            "avail" | "available" => Self::Available,
            _ => Self::Job(word.parse().ok()?),
        })
    }

    /// Asks the instance.
    fn ask(self) -> Result<Hostlist, String> {
        let client = PROGRAM.open().map_err(|failure| failure.message)?;
        let hosts = match self {
            Self::Local => {
                let job = std::env::var("FLUX_JOB_ID").ok();
                return job.and_then(|id| id.parse().ok()).map_or(Self::All, Self::Job).ask();
            }
            Self::All => {
                let list = client.get_attr("hostlist").map_err(|error| error.message())?;
                return list.parse().map_err(|error| format!("hostlist: {error}"));
            }
            Self::Available => {
                let found = Resources::ask(&client).map_err(|error| error.message())?;
                found.all.diff(&found.down)
            }
            Self::Job(id) => session::resources(&client, id).map_err(|error| error.message())?,
        };
        Ok(hosts.nodelist())
    }
}

/// The options of `flux hostlist`.
pub(crate) fn command() -> Command {
    let flag = |name: &'static str, short: char, help: &'static str| {
        Arg::new(name).long(name).short(short).action(ArgAction::SetTrue).help(help)
    };
    let text = |name: &'static str, short: char, value: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .short(short)
            .value_name(value)
            .help(help)
            .allow_hyphen_values(true)
    };
    Command::new("hostlist")
        .about("Combine lists of hosts")
        .arg(flag("expand", 'e', "Print the hosts one by one"))
        .arg(text("delimiter", 'd', "STRING", "What stands between expanded hosts (blank)"))
        .arg(flag("count", 'c', "Print the number of hosts"))
        .arg(text("nth", 'n', "IDS", "Print hosts by index; -N counts from the end"))
        .arg(
            text("limit", 'L', "N", "Print at most N hosts; -N the last ones")
                .value_parser(value_parser!(i64)),
        )
        .arg(flag("sort", 'S', "Sort the hosts"))
        .arg(flag("unique", 'u', "Remove duplicates"))
        .arg(text("exclude", 'x', "HOSTS|IDS", "Remove hosts or indices"))
        .arg(
            flag("intersect", 'i', "Only hosts of every list").conflicts_with_all(["minus", "xor"]),
        )
        .arg(flag("minus", 'm', "The first list without the others").conflicts_with("xor"))
        .arg(flag("xor", 'X', "Hosts in exactly one list"))
        .arg(flag("fallback", 'f', "Take what could be a job id for a host"))
        .arg(flag("quiet", 'q', "Print nothing; exit 1 when no host is left"))
        .arg(Arg::new("sources").value_name("HOSTS").num_args(0..).help(
            "Host lists, job ids, instance, local (hosts of this job), avail (up and not drained), \
             or - (standard input, the default)",
        ))
}

/// Runs `flux hostlist`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let mut input = String::new();
    let given: Vec<&String> = matches.get_many("sources").unwrap_or_default().collect();
    if given.is_empty() || given.iter().any(|s| matches!(s.as_str(), "-" | "stdin")) {
        std::io::stdin()
            .lock()
            .take(MAX_INPUT)
            .read_to_string(&mut input)
            .map_err(|error| fail(format!("stdin: {error}")))?;
    }
    let hosts = combine(matches, &input, Named::ask).map_err(fail)?;
    if matches.get_flag("quiet") {
        return Ok(i32::from(hosts.is_empty()));
    }
    if matches.get_flag("count") {
        output::line(&hosts.len().to_string());
    } else if !hosts.is_empty() {
        output::line(&shown(matches, &hosts));
    }
    Ok(0)
}

fn fail(text: String) -> Failure {
    PROGRAM.fail(text)
}

fn shown(matches: &ArgMatches, hosts: &Hostlist) -> String {
    let delimiter = matches.get_one::<String>("delimiter");
    if !matches.get_flag("expand") && delimiter.is_none() {
        return hosts.to_string();
    }
    let delimiter = delimiter.map_or_else(|| " ".to_owned(), |d| d.replace("\\n", "\n"));
    hosts.iter().collect::<Vec<_>>().join(&delimiter)
}

/// The list that the sources and options come to.
fn combine(
    matches: &ArgMatches,
    input: &str,
    ask: fn(Named) -> Result<Hostlist, String>,
) -> Result<Hostlist, String> {
    let fallback = matches.get_flag("fallback");
    let read = |word: &str| match Named::of(word).filter(|_| !fallback) {
        Some(named) => {
            ask(named).map_err(|text| format!("{word}: {text} (--fallback takes it for a host)"))
        }
        None => word.parse::<Hostlist>().map_err(|error| error.to_string()),
    };
    let given = matches.get_many::<String>("sources").unwrap_or_default();
    let mut sources: Vec<&str> = given.map(String::as_str).collect();
    if sources.is_empty() {
        sources.push("-");
    }
    let mut lists = Vec::new();
    for source in sources {
        if matches!(source, "-" | "stdin") {
            for word in input.split_whitespace() {
                lists.push(read(word)?);
            }
        } else {
            lists.push(read(source)?);
        }
    }
    let mut lists = lists.into_iter();
    let mut hosts = lists.next().unwrap_or_default();
    for list in lists {
        if matches.get_flag("intersect") {
            hosts = hosts.intersect(&list);
        } else if matches.get_flag("minus") {
            hosts = hosts.subtract(&list);
        } else if matches.get_flag("xor") {
            let mut both = hosts.subtract(&list);
            both.append(&list.subtract(&hosts)).map_err(|e| e.to_string())?;
            hosts = both;
        } else {
            hosts.append(&list).map_err(|e| e.to_string())?;
        }
    }
    if let Some(exclude) = matches.get_one::<String>("exclude") {
        hosts = excluded(&hosts, exclude)?;
    }
    if matches.get_flag("sort") {
        hosts.sort();
    }
    if matches.get_flag("unique") || matches.get_flag("intersect") || matches.get_flag("xor") {
        hosts = unique(&hosts)?;
    }
    if let Some(nth) = matches.get_one::<String>("nth") {
        hosts = picked(&hosts, nth)?;
    }
    if let Some(limit) = matches.get_one::<i64>("limit") {
        let count = usize::try_from(limit.unsigned_abs()).unwrap_or(usize::MAX);
        let skip = if *limit < 0 { hosts.len().saturating_sub(count) } else { 0 };
        hosts = list(hosts.iter().skip(skip).take(count))?;
    }
    Ok(hosts)
}

fn list(hosts: impl Iterator<Item = String>) -> Result<Hostlist, String> {
    Hostlist::from_hosts(hosts).map_err(|e| e.to_string())
}

/// Removes duplicates and keeps the order of first occurrences.
fn unique(hosts: &Hostlist) -> Result<Hostlist, String> {
    let mut seen = std::collections::BTreeSet::new();
    list(hosts.iter().filter(|host| seen.insert(host.clone())))
}

fn excluded(hosts: &Hostlist, exclude: &str) -> Result<Hostlist, String> {
    if let Ok(ids) = exclude.parse::<Idset>() {
        let keep = |at: usize| u32::try_from(at).is_ok_and(|at| !ids.contains(at));
        return list(hosts.iter().enumerate().filter(|(at, _)| keep(*at)).map(|(_, h)| h));
    }
    let exclude: Hostlist = exclude.parse().map_err(|error| format!("--exclude: {error}"))?;
    let exclude = exclude.index();
    list(hosts.iter().filter(|host| !exclude.contains(host)))
}

fn picked(hosts: &Hostlist, nth: &str) -> Result<Hostlist, String> {
    let wrong = || format!("--nth: invalid index '{nth}'");
    let (back, ids) = match nth.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, nth),
    };
    let ids: Idset = ids.parse().map_err(|_| wrong())?;
    let at = |id: u32| {
        let id = id as usize;
        let at = if back { hosts.len().checked_sub(id) } else { Some(id) };
        at.and_then(|at| hosts.nth(at)).ok_or_else(wrong)
    };
    let picked = ids.ids().map(at).collect::<Result<Vec<_>, _>>()?;
    list(picked.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hostlist(words: &[&str], input: &str) -> Result<String, String> {
        let matches = command().no_binary_name(true).try_get_matches_from(words).expect("valid");
        let ask = |named| match named {
            Named::Job(JobId(9)) => "j[0-1]".parse().map_err(|_| String::new()),
            Named::All => "i[0-3]".parse().map_err(|_| String::new()),
            _ => Err("nothing".into()),
        };
        combine(&matches, input, ask).map(|hosts| shown(&matches, &hosts))
    }

    #[test]
    fn lists_are_combined() {
        let ok = |words: &[&str]| hostlist(words, "").expect("valid");
        assert_eq!(ok(&["h[0-1]", "h2"]), "h[0-2]");
        assert_eq!(ok(&["-e", "h[0-2]"]), "h0 h1 h2");
        assert_eq!(ok(&["-e", "-d", ",", "h[0-2]"]), "h0,h1,h2");
        assert_eq!(ok(&["-i", "h[0-5]", "h[2-9]"]), "h[2-5]");
        assert_eq!(ok(&["-m", "h[0-5]", "h[2-9]"]), "h[0-1]");
        assert_eq!(ok(&["-X", "h[0-2]", "h[2-3]"]), "h[0-1,3]");
        assert_eq!(ok(&["-u", "h2,h1,h2"]), "h[2,1]");
        assert_eq!(ok(&["-S", "-u", "h2,h1,h2"]), "h[1-2]");
        assert_eq!(ok(&["-n", "1", "h[0-3]"]), "h1");
        assert_eq!(ok(&["-n", "-1", "h[0-3]"]), "h3");
        assert_eq!(ok(&["-L", "2", "h[0-3]"]), "h[0-1]");
        assert_eq!(ok(&["-L", "-1", "h[0-3]"]), "h3");
        assert_eq!(ok(&["-x", "h1", "h[0-3]"]), "h[0,2-3]");
        assert_eq!(ok(&["-x", "0-1", "h[0-3]"]), "h[2-3]");
        assert_eq!(hostlist(&[], "h1\nh2\n").as_deref(), Ok("h[1-2]"));
    }

    #[test]
    fn job_ids_are_no_hosts_unless_asked() {
        assert_eq!(hostlist(&["9", "h1"], "").as_deref(), Ok("j[0-1],h1"));
        assert_eq!(hostlist(&[], "inst\n").as_deref(), Ok("i[0-3]"));
        assert_eq!(
            hostlist(&["fuzzy"], ""),
            Err("fuzzy: nothing (--fallback takes it for a host)".into())
        );
        assert_eq!(hostlist(&["-f", "fuzzy"], "").as_deref(), Ok("fuzzy"));
        assert!(hostlist(&["h["], "").is_err());
        assert!(hostlist(&["-n", "9", "h1"], "").is_err());
    }
}
