//! `flux pstree`: jobs and the instances among them as a tree.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use clap::{ArgMatches, Command, value_parser};
use flux_client::Client;
use flux_format::{Format, FormatError, RenderOptions};
use flux_model::job_event::{JobState, StringForm};

use super::{
    human_time::LocalZone,
    program::{Program, flag, text, texts, value, words},
};
use crate::{
    dispatch::Invocation,
    failure::Failure,
    jobs::{
        JobRow, Query,
        headings::JobHeadings,
        instance,
        query::Filter,
        row::{UserNames, harmless},
    },
    output, session,
};

const PSTREE: Program = Program::script("flux-pstree");
/// Deepest nesting of instances that is followed.
const DEEPEST: u64 = 64;

/// The options of `flux pstree`.
pub(crate) fn command() -> Command {
    let number = |name, short, help| value(name, short, "N", help).value_parser(value_parser!(u64));
    Command::new("pstree")
        .about("Show jobs and nested instances as a tree")
        .arg(flag("all", 'a', "Jobs in all states"))
        .arg(number("count", Some('c'), "At most so many jobs per instance").default_value("1000"))
        .arg(value("filter", 'f', "STATE|RESULT", "Jobs with one of these states or results"))
        .arg(flag("extended", 'x', "Details before the tree"))
        .arg(flag("long", 'l', "Do not cut lines at the width of the terminal"))
        .arg(number("level", Some('L'), "Go down at most so many levels"))
        .arg(flag("parent-ids", 'p', "Show the ids of instances"))
        .arg(flag("no-header", 'n', "With details: no line of headings"))
        .arg(flag("no-combine", 'C', "Do not combine equal jobs"))
        .arg(flag("hide-details", 'X', "Only the tree"))
        .arg(value("label", 'o', "FORMAT", "Format of the labels of jobs"))
        .arg(value("parent-label", None, "FORMAT", "Format of the labels of instances"))
        .arg(value("detail-format", None, "FORMAT", "Format of the details"))
        .arg(value(
            "details",
            'd',
            "NAME",
            "Details of a kind: default, resources, progress, stats",
        ))
        .arg(flag("ascii", None, "Draw with ASCII characters"))
        .arg(flag("skip-root", None, "Do not show the instance itself"))
        .arg(words("ids", "JOBID", "Only these jobs"))
}

/// A job with the jobs of the instance that it is.
#[derive(Debug, Default)]
struct Node {
    label: String,
    detail: String,
    children: Vec<Node>,
}

struct Tree<'a> {
    query: Query,
    label: Option<Format>,
    parent: Option<Format>,
    detail: Format,
    ids: bool,
    level: u64,
    names: UserNames,
    /// Those of the wanted jobs that there are.
    found: BTreeSet<u64>,
    matches: &'a ArgMatches,
}

fn wrong(error: FormatError) -> Failure {
    PSTREE.fail(format!("Error in user format: {error}"))
}

fn one_line(format: &Format, row: &JobRow) -> String {
    let options = RenderOptions { header: false, ..RenderOptions::default() };
    let rows = std::slice::from_ref(row);
    format.render(&JobHeadings, rows, &LocalZone::system(), options).unwrap_or_default().concat()
}

impl Tree<'_> {
    fn grow(&mut self, client: &Client, top: bool, depth: u64) -> Result<Vec<Node>, Failure> {
        let user = if top { self.query.user } else { None };
        let query = Query { user, ..self.query.clone() };
        let jobs = query.run(client).map_err(|error| PSTREE.error(&error))?;
        let ids: Vec<u64> = texts(self.matches, "ids")
            .into_iter()
            .filter_map(session::parse_id)
            .map(|id| id.0)
            .collect();
        let now = session::now();
        let mut nodes = Vec::new();
        for job in jobs {
            let row = JobRow::new(job, now, &mut self.names);
            if top && !ids.is_empty() {
                if !ids.contains(&row.id().0) {
                    continue;
                }
                self.found.insert(row.id().0);
            }
            let inner = (row.state() == Some(JobState::Run) && depth < self.level)
                .then(|| row.uri().and_then(instance::connect))
                .flatten();
            let is_instance = row.uri().is_some();
            let mut node = Node {
                label: self.label_of(&row, is_instance),
                detail: one_line(&self.detail, &row),
                children: Vec::new(),
            };
            if let Some(client) = inner {
                node.children = self.grow(&client, false, depth + 1)?;
            }
            nodes.push(node);
        }
        Ok(nodes)
    }

    fn label_of(&self, row: &JobRow, is_instance: bool) -> String {
        let own = if is_instance {
            self.parent.as_ref().or(self.label.as_ref())
        } else {
            self.label.as_ref()
        };
        if let Some(format) = own {
            return one_line(format, row);
        }
        let name = row.job["name"].as_str().unwrap_or_default();
        let mut label = harmless(name).into_owned();
        if self.ids && is_instance {
            label = format!("{label}:{}", row.id());
        }
        // Running is what one expects of a job in a tree.
        if row.state() != Some(JobState::Run) {
            label.push(':');
            label.push_str(row.status(StringForm::ShortUpper));
        }
        label
    }
}

/// Equal leaves next to or apart from each other become one, at the place of the first.
fn combine(nodes: Vec<Node>) -> Vec<(usize, Node)> {
    let mut combined: Vec<(usize, Node)> = Vec::new();
    let mut places = std::collections::BTreeMap::new();
    for node in nodes {
        if node.children.is_empty() {
            if let Some(place) = places.get(&node.label) {
                let (count, _): &mut (usize, Node) = &mut combined[*place];
                *count += 1;
                continue;
            }
            places.insert(node.label.clone(), combined.len());
        }
        combined.push((1, node));
    }
    combined
}

struct Pen {
    tee: &'static str,
    corner: &'static str,
    bar: &'static str,
    combine: bool,
    details: bool,
}

impl Pen {
    fn draw(&self, nodes: Vec<Node>, prefix: &str, root: bool, lines: &mut Vec<(String, String)>) {
        let nodes: Vec<(usize, Node)> = if self.combine && !self.details {
            combine(nodes)
        } else {
            nodes.into_iter().map(|node| (1, node)).collect()
        };
        let last = nodes.len().saturating_sub(1);
        for (at, (count, node)) in nodes.into_iter().enumerate() {
            let (branch, below) = match (root, at == last) {
                (true, _) => ("", ""),
                (false, true) => (self.corner, "    "),
                (false, false) => (self.tee, self.bar),
            };
            let label = match count {
                1 => node.label,
                count => format!("{count}*[{}]", node.label),
            };
            lines.push((node.detail, format!("{prefix}{branch}{label}")));
            self.draw(node.children, &format!("{prefix}{below}"), false, lines);
        }
    }
}

/// The number of a job whose id was found to be one.
fn parse(id: &str) -> u64 {
    session::parse_id(id).map_or(0, |id| id.0)
}

/// A line that fits into so many columns; `+` at its end says that there is more.
fn cut(line: String, columns: Option<usize>) -> String {
    match columns {
        Some(columns) if line.chars().count() > columns => {
            line.chars().take(columns.saturating_sub(1)).chain(['+']).collect()
        }
        _ => line,
    }
}

/// Runs `flux pstree`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let format = |name: &str| {
        let parsed = text(matches, name).map(Format::parse).transpose().map_err(wrong)?;
        if let Some(format) = &parsed {
            format.check(&JobHeadings).map_err(wrong)?;
        }
        Ok::<_, Failure>(parsed)
    };
    let ids = texts(matches, "ids");
    if let Some(bad) = ids.iter().find(|id| session::parse_id(id).is_none()) {
        return Err(PSTREE.fail(format!("invalid JobID value: '{bad}'")));
    }
    let filter = match text(matches, "filter") {
        Some(text) => Filter::parse(text)
            .map_err(|name| PSTREE.fail(format!("Invalid filter specified: {name}")))?,
        None if matches.get_flag("all") || !ids.is_empty() => Filter::ALL,
        None => Filter { states: 48, results: 0 },
    };
    let detail = match text(matches, "details") {
        None | Some("default") => {
            "{id.f58:>12} {username:<8.8} {ntasks:>6h} {nnodes:>6h} {runtime!F:>8h}"
        }
        Some("resources") => "{id.f58:>12} {nnodes:>6h} {ncores:>6h} {nodelist}",
        Some("progress" | "stats") => "{id.f58:>12} {status_abbrev:>2.2} {runtime!F:>8h}",
        Some(other) => return Err(PSTREE.fail(format!("Unknown details format '{other}'"))),
    };
    let detail = match format("detail-format")? {
        Some(format) => format,
        None => Format::parse(detail).map_err(wrong)?,
    };
    let details = (matches.get_flag("extended")
        || text(matches, "details").is_some()
        || text(matches, "detail-format").is_some())
        && !matches.get_flag("hide-details");
    let client = PSTREE.open()?;
    let mut tree = Tree {
        query: Query {
            count: matches.get_one::<u64>("count").copied().unwrap_or(1000),
            filter,
            user: ids.is_empty().then(session::uid),
            name: None,
            queues: Vec::new(),
            include: None,
            since: 0.0,
        },
        label: format("label")?,
        parent: format("parent-label")?,
        detail,
        ids: matches.get_flag("parent-ids"),
        level: matches.get_one::<u64>("level").copied().unwrap_or(DEEPEST).min(DEEPEST),
        names: UserNames::default(),
        found: BTreeSet::new(),
        matches,
    };
    let children = tree.grow(&client, true, 0)?;
    if let Some(id) = ids.iter().find(|id| !tree.found.contains(&parse(id))) {
        return Err(PSTREE.fail(format!("JobID {id} unknown")));
    }
    let skip_root = matches.get_flag("skip-root") || !ids.is_empty();
    let (nodes, root) = if skip_root {
        (children, true)
    } else {
        (vec![Node { label: ".".into(), detail: String::new(), children }], true)
    };
    let pen = if matches.get_flag("ascii") {
        Pen {
            tee: "|-- ",
            corner: "`-- ",
            bar: "|   ",
            combine: !matches.get_flag("no-combine"),
            details,
        }
    } else {
        Pen {
            tee: "\u{251c}\u{2500}\u{2500} ",
            corner: "\u{2514}\u{2500}\u{2500} ",
            bar: "\u{2502}   ",
            combine: !matches.get_flag("no-combine"),
            details,
        }
    };
    let mut lines = Vec::new();
    pen.draw(nodes, "", root, &mut lines);
    let options = RenderOptions::default();
    if details && !matches.get_flag("no-header") {
        let rows: [JobRow; 0] = [];
        let header = tree.detail.render(&JobHeadings, &rows, &LocalZone::system(), options);
        output::line(&format!("{} JOB", header.map_err(wrong)?.concat()));
    }
    let columns = (!matches.get_flag("long") && std::io::stdout().is_terminal())
        .then(crate::attach::terminal_width);
    let width = lines.iter().map(|(detail, _)| detail.chars().count()).max().unwrap_or(0);
    for (detail, line) in lines {
        let line = if details { format!("{detail:<width$} {line}") } else { line };
        output::line(&cut(line, columns));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_with_a_sign() {
        assert_eq!(cut("├── abc".into(), Some(6)), "├── a+");
        assert_eq!(cut("├── abc".into(), Some(7)), "├── abc");
        assert_eq!(cut("├── abc".into(), None), "├── abc");
    }

    fn leaf(label: &str) -> Node {
        Node { label: label.into(), ..Node::default() }
    }

    #[test]
    fn equal_jobs_are_combined() {
        let inner =
            Node { label: "batch".into(), detail: String::new(), children: vec![leaf("a")] };
        let root = Node {
            label: ".".into(),
            detail: String::new(),
            children: vec![leaf("sleep"), inner, leaf("sleep"), leaf("x:PD")],
        };
        let pen = Pen { tee: "|-- ", corner: "`-- ", bar: "|   ", combine: true, details: false };
        let mut lines = Vec::new();
        pen.draw(vec![root], "", true, &mut lines);
        let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
        assert_eq!(lines, [".", "|-- 2*[sleep]", "|-- batch", "|   `-- a", "`-- x:PD"]);
    }
}
