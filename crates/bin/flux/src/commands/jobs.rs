//! `flux jobs`: list jobs.

use clap::{ArgMatches, Command, value_parser};
use flux_api::{
    RpcError,
    body::AnyObject,
    job::list::{JobStats, ListId, ListId_},
};
use flux_client::{Client, To};
use flux_format::{Format, SortKey, sort_rows};
use flux_model::job_event::{JobResult, JobState};
use serde_json::{Map, Value, json};

use super::{
    human_time::LocalZone,
    program::{Program, color, flag, text, texts, value, wants_color, words},
};
use crate::{
    attach,
    dispatch::Invocation,
    failure::Failure,
    jobs::{
        JobRow, Query,
        headings::{FORMATS, JobHeadings},
        instance::{self, Instance},
        query::{self, Filter, Include},
        row::UserNames,
    },
    listing::{self, Choice},
    output, session,
};

const JOBS: Program = Program::script("flux-jobs");

/// The options of `flux jobs`.
pub(crate) fn command() -> Command {
    let number = |name, short, help| value(name, short, "N", help).value_parser(value_parser!(u64));
    Command::new("jobs")
        .about("List jobs")
        .arg(flag("all", 'a', "Jobs in all states"))
        .arg(flag("all-users", 'A', "Jobs of all users").long("all-users"))
        .arg(number("count", Some('c'), "At most so many jobs").default_value("1000"))
        .arg(value("filter", 'f', "STATE|RESULT", "Jobs with one of these states or results"))
        .arg(
            value("since", None, "WHEN", "Jobs that ended after this time (implies -a)")
                .allow_hyphen_values(true),
        )
        .arg(flag("no-header", 'n', "No line of headings").visible_alias("suppress-header"))
        .arg(value("user", 'u', "USER", "Jobs of this user, or all"))
        .arg(value("name", None, "NAME", "Jobs with this name"))
        .arg(
            value("queue", 'q', "QUEUE", "Jobs in these queues")
                .action(clap::ArgAction::Append)
                .value_delimiter(','),
        )
        .arg(value("include", 'i', "HOSTS|RANKS", "Jobs on these hosts or broker ranks"))
        .arg(value("format", 'o', "FORMAT", "A format, the name of one, or help"))
        .arg(
            value("sort", None, "KEY,..", "Sort by fields; -KEY descending")
                .allow_hyphen_values(true),
        )
        .arg(
            value("width", 'w', "N", "Cut lines to a width (default: the terminal's)")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("0")
                .value_parser(value_parser!(usize)),
        )
        .arg(flag("json", None, "Print JSON"))
        .arg(color().short(None::<char>))
        .arg(flag("recursive", 'R', "List the jobs of nested instances too"))
        .arg(number("level", Some('L'), "Go down at most so many levels").default_value("9999"))
        .arg(flag("recurse-all", None, "Go down into the instances of all users"))
        .arg(number("threads", None, "Ask so many nested instances at once").default_value("8"))
        .arg(flag("stats", None, "Print counts first"))
        .arg(flag("stats-only", None, "Print counts only; exit 0 while jobs are active"))
        .arg(words("ids", "JOBID", "Only these jobs"))
}

/// Runs `flux jobs`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let query = query_of(matches)?;
    let formats = listing::formats("jobs", FORMATS).map_err(|text| JOBS.fail(text))?;
    let default = listing::default_format("JOBS", "default");
    let wanted = text(matches, "format").unwrap_or(&default);
    let format = match listing::choose("flux-jobs", &formats, wanted) {
        Ok(Choice::Use(format)) => format,
        Ok(Choice::Printed) => return Ok(0),
        Err(error) => return Err(JOBS.fail(format!("Error in user format: {error}"))),
    };
    format
        .check(&JobHeadings)
        .map_err(|error| JOBS.fail(format!("Error in user format: {error}")))?;
    let keys = text(matches, "sort").map(SortKey::parse_list);
    let keys = keys.unwrap_or_else(|| format.sort_keys().to_vec());
    if let Some(key) =
        keys.iter().find(|key| flux_format::Headings::heading(&JobHeadings, &key.field).is_none())
    {
        return Err(JOBS.fail(format!("Invalid sort key: {}", key.field)));
    }
    let client = JOBS.open()?;
    let stats_only = matches.get_flag("stats-only");
    if stats_only || matches.get_flag("stats") {
        let active = print_stats(&client, &query.queues)?;
        if stats_only {
            return Ok(i32::from(!active));
        }
    }
    let listing = Listing {
        query,
        format,
        keys,
        header: !matches.get_flag("no-header"),
        width: matches.get_one::<usize>("width").map(|width| match width {
            0 => attach::terminal_width(),
            width => *width,
        }),
        color: wants_color(matches),
        stats: matches.get_flag("stats"),
        level: if matches.get_flag("recursive") {
            matches.get_one::<u64>("level").copied().unwrap_or(0)
        } else {
            0
        },
        all_instances: matches.get_flag("recurse-all"),
        threads: matches
            .get_one::<u64>("threads")
            .map_or(1, |threads| usize::try_from(*threads).unwrap_or(usize::MAX)),
        json: matches.get_flag("json"),
    };
    let ids = texts(matches, "ids");
    let (jobs, code) = if ids.is_empty() {
        (listing.query.run(&client).map_err(|error| JOBS.error(&error))?, 0)
    } else {
        by_id(&client, &ids)
    };
    let mut names = UserNames::default();
    let rows = listing.rows(jobs, &mut names);
    if listing.json {
        let mut values = listing.json_of(&rows, 0, &mut names);
        let one = (ids.len() == 1).then(|| values.pop()).flatten();
        let value = one.unwrap_or_else(|| json!({"jobs": values}));
        output::line(&output::spaced_json(&value));
        return Ok(code);
    }
    listing.print(&rows, listing.header)?;
    listing.descend(&rows, "", 0, &mut names)?;
    Ok(code)
}

fn query_of(matches: &ArgMatches) -> Result<Query, Failure> {
    let since = text(matches, "since")
        .map(|when| {
            query::since(when, &jiff::Zoned::now())
                .ok_or_else(|| JOBS.fail(format!("--since: \"{when}\" is no time in the past")))
        })
        .transpose()?;
    let filter = match text(matches, "filter") {
        Some(text) => Filter::parse(text)
            .map_err(|name| JOBS.fail(format!("Invalid filter specified: {name}")))?,
        None if matches.get_flag("all") || since.is_some() => Filter::ALL,
        None => Filter::ACTIVE,
    };
    let user = match text(matches, "user") {
        _ if matches.get_flag("all-users") => None,
        None => Some(session::uid()),
        Some(name) => {
            let uid = session::user(name)
                .ok_or_else(|| JOBS.fail(format!("Invalid user {name} specified")))?;
            u32::try_from(uid).ok()
        }
    };
    let include = text(matches, "include")
        .map(|text| {
            Include::parse(text)
                .ok_or_else(|| JOBS.fail(format!("-i/--include: invalid targets: {text}")))
        })
        .transpose()?;
    Ok(Query {
        count: matches.get_one::<u64>("count").copied().unwrap_or(1000),
        filter,
        user,
        name: text(matches, "name").map(str::to_owned),
        queues: texts(matches, "queue").into_iter().map(str::to_owned).collect(),
        include,
        since: since.unwrap_or(0.0),
    })
}

/// The jobs with these ids; says which are unknown.
fn by_id(client: &Client, ids: &[&str]) -> (Vec<Value>, i32) {
    let sent: Vec<_> = ids
        .iter()
        .map(|text| {
            let id = session::parse_id(text).map(|id| {
                let request = ListId { id: id.0, attrs: vec!["all".into()], state: None };
                client.send::<ListId_>(To::Any, &request)
            });
            (*text, id)
        })
        .collect();
    let mut jobs = Vec::new();
    let mut code = 0;
    for (text, pending) in sent {
        match pending.map(flux_client::Pending::wait) {
            Some(Ok(answer)) => jobs.push(answer.job),
            Some(Err(error)) if error.errno != flux_proto::Errno::ENOENT => {
                output::error_line(&format!("{text}: {error}"));
                code = 1;
            }
            _ => {
                output::error_line(&format!("JobID {text} unknown"));
                code = 1;
            }
        }
    }
    (jobs, code)
}

/// The line of `--stats`.
fn stats_line(stats: &Value) -> String {
    let state = |name: &str| stats["job_states"][name].as_u64().unwrap_or(0);
    let count = |name: &str| stats[name].as_u64().unwrap_or(0);
    let failed = count("failed") + count("canceled") + count("timeout");
    let pending = state("depend") + state("priority") + state("sched");
    format!(
        "{} running, {} completed, {failed} failed, {pending} pending, {} inactive purged",
        state("run") + state("cleanup"),
        count("successful"),
        count("inactive_purged"),
    )
}

/// The counts of an instance, or of some of its queues.
fn counts(client: &Client, queues: &[String]) -> Result<Value, RpcError> {
    let answer = client.call::<JobStats>(To::Any, &AnyObject::default())?;
    let stats = Value::Object(answer.0);
    Ok(if queues.is_empty() { stats } else { of_queues(&stats, queues) })
}

/// The sums of what is counted for these queues.
fn of_queues(stats: &Value, queues: &[String]) -> Value {
    fn add(sum: &mut Map<String, Value>, counts: &Map<String, Value>) {
        for (name, count) in counts {
            match count {
                Value::Object(counts) => {
                    let inner = sum.entry(name.as_str()).or_insert_with(|| Map::new().into());
                    if let Value::Object(inner) = inner {
                        add(inner, counts);
                    }
                }
                _ => {
                    let known = sum.get(name).and_then(Value::as_u64).unwrap_or(0);
                    let all = count.as_u64().map(|count| known.saturating_add(count));
                    sum.extend(all.map(|all| (name.clone(), all.into())));
                }
            }
        }
    }
    let mut sum = Map::new();
    for queue in stats["queues"].as_array().into_iter().flatten() {
        let meant = queues.iter().any(|name| queue["name"] == name.as_str());
        if let Some(counts) = queue.as_object().filter(|_| meant) {
            add(&mut sum, counts);
        }
    }
    Value::Object(sum)
}

/// Prints the counts; true while jobs are active.
fn print_stats(client: &Client, queues: &[String]) -> Result<bool, Failure> {
    let stats = counts(client, queues).map_err(|error| JOBS.error(&error))?;
    output::line(&stats_line(&stats));
    let states = &stats["job_states"];
    let count = |name: &str| states[name].as_u64().unwrap_or(0);
    Ok(count("total") > count("inactive"))
}

struct Listing {
    query: Query,
    format: Format,
    keys: Vec<SortKey>,
    header: bool,
    width: Option<usize>,
    color: bool,
    stats: bool,
    level: u64,
    all_instances: bool,
    threads: usize,
    json: bool,
}

/// What a nested instance says of itself.
struct Inner {
    stats: Option<Result<Value, RpcError>>,
    jobs: Result<Vec<Value>, RpcError>,
}

impl Listing {
    fn rows(&self, jobs: Vec<Value>, names: &mut UserNames) -> Vec<JobRow> {
        let now = session::now();
        let mut rows: Vec<JobRow> =
            jobs.into_iter().map(|job| JobRow::new(job, now, names)).collect();
        let asks = self.format.fields().chain(self.keys.iter().map(|key| key.field.as_str()));
        if asks.into_iter().any(|field| field.starts_with("instance.")) {
            let running: Vec<(usize, String)> = rows
                .iter()
                .enumerate()
                .filter(|(_, row)| row.state() == Some(JobState::Run))
                .filter_map(|(at, row)| Some((at, row.uri()?.to_owned())))
                .collect();
            let uris: Vec<&str> = running.iter().map(|(_, uri)| uri.as_str()).collect();
            let answers = instance::ask_each(&uris, self.threads, Instance::ask);
            for ((at, _), answer) in running.iter().zip(answers) {
                rows[*at].instance = answer;
            }
        }
        sort_rows(&mut rows, &self.keys);
        rows
    }

    fn print(&self, rows: &[JobRow], header: bool) -> Result<(), Failure> {
        let zone = LocalZone::system();
        let layout = self
            .format
            .layout(&JobHeadings, rows, &zone, true)
            .map_err(|error| JOBS.fail(format!("Error in user format: {error}")))?;
        let cut = |line: String| match self.width {
            Some(width) => line.chars().take(width).collect(),
            None => line,
        };
        let mut text = String::new();
        if header {
            text.push_str(&cut(layout.header()));
            text.push('\n');
        }
        for row in rows {
            let line = cut(layout.line(row));
            match color_of(row).filter(|_| self.color) {
                Some(color) => text.push_str(&format!("{color}{line}\x1b[0m\n")),
                None => {
                    text.push_str(&line);
                    text.push('\n');
                }
            }
        }
        output::raw(&text);
        Ok(())
    }

    /// The instances among the jobs that may be entered, and what they say.
    fn instances<'r>(&self, rows: &'r [JobRow]) -> Vec<(&'r JobRow, Inner)> {
        let uid = u64::from(session::uid());
        let all = self.all_instances || uid == 0;
        let (rows, uris): (Vec<&JobRow>, Vec<&str>) = rows
            .iter()
            .filter(|row| all || row.job["userid"].as_u64() == Some(uid))
            .filter(|row| row.state() == Some(JobState::Run))
            .filter_map(|row| Some((row, row.uri()?)))
            .unzip();
        // The jobs of an instance belong to whoever owns it.
        let query = Query { user: None, ..self.query.clone() };
        let (stats, json) = (self.stats, self.json);
        let answers = instance::ask_each(&uris, self.threads, |client| Inner {
            stats: (stats && !json).then(|| counts(client, &query.queues)),
            jobs: query.run(client),
        });
        rows.into_iter().zip(answers).filter_map(|(row, inner)| Some((row, inner?))).collect()
    }

    /// Lists the jobs of nested instances below their path.
    fn descend(
        &self,
        rows: &[JobRow],
        path: &str,
        depth: u64,
        names: &mut UserNames,
    ) -> Result<(), Failure> {
        if depth >= self.level {
            return Ok(());
        }
        for (row, inner) in self.instances(rows) {
            let path = match path {
                "" => row.id().to_string(),
                path => format!("{path}/{}", row.id()),
            };
            output::line(&format!("\n{path}:"));
            let failed = |error: &RpcError| JOBS.about(&path, error);
            if let Some(stats) = inner.stats {
                output::line(&stats_line(&stats.map_err(|error| failed(&error))?));
            }
            let rows = self.rows(inner.jobs.map_err(|error| failed(&error))?, names);
            self.print(&rows, false)?;
            self.descend(&rows, &path, depth + 1, names)?;
        }
        Ok(())
    }

    fn json_of(&self, rows: &[JobRow], depth: u64, names: &mut UserNames) -> Vec<Value> {
        let mut values: Vec<Value> = rows.iter().map(JobRow::to_json).collect();
        if depth >= self.level {
            return values;
        }
        for (row, inner) in self.instances(rows) {
            let inside = self.rows(inner.jobs.unwrap_or_default(), names);
            let at = rows.iter().position(|other| std::ptr::eq(other, row));
            if let Some(value) = at.and_then(|at| values.get_mut(at)) {
                value["jobs"] = self.json_of(&inside, depth + 1, names).into();
            }
        }
        values
    }
}

/// Colors tell at a glance what needs a look: red what failed, blue what is an instance.
fn color_of(row: &JobRow) -> Option<&'static str> {
    match (row.state()?, row.result()) {
        (JobState::Inactive, Some(JobResult::Failed | JobResult::Timeout)) => Some("\x1b[31m"),
        (JobState::Inactive, Some(JobResult::Canceled)) => Some("\x1b[35m"),
        (JobState::Run, _) if row.uri().is_some() => Some("\x1b[1;34m"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_counts_is_that_of_flux() {
        let stats = json!({"job_states": {"run": 1, "cleanup": 0, "sched": 2, "depend": 1},
            "successful": 1, "failed": 1, "canceled": 1, "timeout": 1, "inactive_purged": 0});
        assert_eq!(
            stats_line(&stats),
            "1 running, 1 completed, 3 failed, 3 pending, 0 inactive purged"
        );
    }

    #[test]
    fn the_counts_of_queues_are_summed() {
        let queue = |name: &str, run: u64| json!({"name": name, "job_states": {"run": run, "total": run}, "failed": 1});
        let stats = json!({"failed": 9, "queues": [queue("a", 1), queue("b", 2), queue("c", 4)]});
        let sum = |queues: &[&str]| {
            of_queues(&stats, &queues.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(sum(&["a"]), json!({"job_states": {"run": 1, "total": 1}, "failed": 1}));
        assert_eq!(
            sum(&["a", "c", "x"]),
            json!({"job_states": {"run": 5, "total": 5}, "failed": 2})
        );
        let none = "0 running, 0 completed, 0 failed, 0 pending, 0 inactive purged";
        assert_eq!(stats_line(&sum(&["x"])), none);
    }

    #[test]
    fn options_select_jobs() {
        let read = |words: &[&str]| {
            let matches = command().no_binary_name(true).try_get_matches_from(words);
            query_of(&matches.expect("a valid command line"))
        };
        let query = read(&["-A", "-c5", "-f", "run", "-q", "a,b"]).expect("valid");
        assert_eq!((query.user, query.count), (None, 5));
        assert_eq!(query.queues, ["a", "b"]);
        assert_eq!(read(&["-a"]).expect("valid").filter, Filter::ALL);
        let failure = read(&["-f", "foo"]).expect_err("no such filter");
        assert_eq!(failure.lines(), ["flux-jobs: ERROR: Invalid filter specified: foo"]);
    }
}
