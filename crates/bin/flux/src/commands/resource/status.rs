//! `flux resource status`, and the list of drained nodes.

use clap::ArgMatches;
use flux_api::body::AnyObject;
use flux_api::job::manager::ResourceStatus as Allocated;
use flux_api::resource::{DrainedPart, ResourceStatus, Status};
use flux_client::{Client, To};
use flux_format::{Field, Headings, Row};
use flux_id::Idset;
use flux_model::resource_set::{Children, ResourceSet};

use super::{CLASSIC, Chosen, PROGRAM, format, inventory, inventory::Queues, print, states};
use crate::{commands::program::wants_color, failure::Failure};

const STATUS: &[(&str, &str, &str)] = &[
    (
        "default",
        "{state:>12} {color_up}{up:>2}{color_off} {nnodes:>6} {nodelist}",
        "Default flux-resource status format",
    ),
    (
        "long",
        "{state:>12} {color_up}{up:>2}{color_off} {nnodes:>6} +:{reason:<30.30} {nodelist}",
        "As default, with reasons",
    ),
    (
        CLASSIC,
        "{state:>10} {nnodes:>6} {ranks:<15} {nodelist}",
        "As flux-core 0.35.0: ranks, and nodes that are offline on a line of their own",
    ),
];

const DRAINED: &[(&str, &str, &str)] = &[
    (
        "default",
        "{timestamp!d:%b%d %R::<12} {state:<8.8} {reason:<30.30+} {nodelist}",
        "Default flux-resource drain format",
    ),
    (
        "long",
        "{timestamp!d:%b%d %R::<12} {state:<8.8} {ranks:<8.8+} +:{reason:<30.30} {nodelist}",
        "As default, with ranks and whole reasons",
    ),
    (
        CLASSIC,
        "{timestamp!D:<20} {ranks:<8} {reason:<30} {nodelist}",
        "As flux-core 0.35.0: times to the second, and ranks",
    ),
];

const STATES: &[&str] = &[
    "all",
    "online",
    "avail",
    "offline",
    "exclude",
    "drain",
    "draining",
    "drained",
    "partial",
    "torpid",
    "allocated",
    "housekeeping",
];

const DEFAULT: &str = "avail,exclude,draining,drained,partial,torpid,housekeeping";

/// What [`CLASSIC`] shows by default, in that order.
const CLASSIC_DEFAULT: &str = "avail,offline,exclude,drain,partial";

/// Who drained it, when, why.
#[derive(Debug, Clone)]
struct Drained {
    ranks: Idset,
    timestamp: f64,
    reason: String,
}

/// Cores and gpus that are drained, the same of each rank.
#[derive(Debug, Clone)]
struct Part {
    what: Children,
    info: Drained,
}

/// The instance by state.
#[derive(Debug, Default)]
struct Instance {
    all: ResourceSet,
    offline: Idset,
    exclude: Idset,
    torpid: Idset,
    allocated: ResourceSet,
    housekeeping: Idset,
    drained: Vec<Drained>,
    parts: Vec<Part>,
}

/// A line.
#[derive(Debug)]
struct Line {
    state: &'static str,
    ranks: Idset,
    nodelist: String,
    up: bool,
    timestamp: f64,
    reason: String,
    color: bool,
}

fn parse(text: &str) -> Result<Idset, Failure> {
    text.parse().map_err(|_| PROGRAM.fail(format!("resource.status: bad idset '{text}'")))
}

impl Instance {
    fn ask(client: &Client) -> Result<Instance, Failure> {
        let none = AnyObject::default();
        let status = client.send::<Status>(To::Rank(0), &none);
        let allocated = client.send::<Allocated>(To::Rank(0), &none);
        let status = status.wait().map_err(|error| PROGRAM.error(&error))?;
        // Guests may not ask for it, and without a job manager nothing is allocated.
        let allocated = allocated.wait().ok();
        let allocated =
            allocated.and_then(|answer| ResourceSet::from_value(&answer.allocated).ok());
        let mut instance = Instance::of(&status, allocated.unwrap_or_default())?;
        if instance.allocated.is_empty() {
            return Ok(instance);
        }
        let stats = client.rpc("job-manager.stats-get", To::Rank(0), None).unwrap_or_default();
        for held in stats["housekeeping"]["running"].as_object().into_iter().flatten() {
            // Ranks that are done may be held for the others.
            let ranks = held.1["allocated"].as_str().and_then(|text| text.parse().ok());
            instance.housekeeping.insert_all(&ranks.unwrap_or_default());
        }
        Ok(instance)
    }

    fn of(status: &ResourceStatus, allocated: ResourceSet) -> Result<Instance, Failure> {
        let mut drained = Vec::new();
        for (ranks, info) in &status.drain {
            drained.push(Drained {
                ranks: parse(ranks)?,
                timestamp: info["timestamp"].as_f64().unwrap_or(0.0),
                reason: info["reason"].as_str().unwrap_or_default().to_owned(),
            });
        }
        drained.sort_by(|a, b| {
            a.timestamp.total_cmp(&b.timestamp).then(a.ranks.first().cmp(&b.ranks.first()))
        });
        let part = |part: &DrainedPart| {
            let (cores, gpus) = (parse(&part.cores)?, parse(&part.gpus)?);
            let what = Children { cores, gpus, ..Children::default() };
            let (ranks, reason) = (parse(&part.ranks)?, part.reason.clone());
            Ok(Part { what, info: Drained { ranks, timestamp: part.timestamp, reason } })
        };
        let parts = status.drain_parts.iter().map(part).collect::<Result<_, Failure>>()?;
        Ok(Instance {
            all: inventory::resource_set(&status.r)?,
            offline: parse(&status.offline)?,
            exclude: parse(&status.exclude)?,
            torpid: parse(&status.torpid)?,
            allocated,
            housekeeping: Idset::new(),
            drained,
            parts,
        })
    }

    /// Ranks of a part on which a job has some of it.
    fn busy(&self, part: &Part) -> Idset {
        let uses = |all: &Children| {
            all.cores.intersects(&part.what.cores) || all.gpus.intersects(&part.what.gpus)
        };
        let busy = self.allocated.iter().filter(|(_, _, all)| uses(all)).map(|(rank, _, _)| rank);
        busy.collect::<Idset>().intersection(&part.info.ranks)
    }

    /// Lines for cores and gpus in a state; `partial` is any of them.
    fn parts(&self, state: &'static str, included: &Idset, lines: &mut Vec<Line>) {
        for part in &self.parts {
            let ranks = match state {
                "draining" => self.busy(part),
                "drained" => part.info.ranks.difference(&self.busy(part)),
                _ => part.info.ranks.clone(),
            };
            let before = lines.len();
            self.split(state, &ranks.intersection(included), Some(&part.info), false, lines);
            for line in &mut lines[before..] {
                line.nodelist = format!("{}:{}", line.nodelist, part.what);
            }
        }
    }

    fn drained_ranks(&self) -> Idset {
        let mut ranks = Idset::new();
        self.drained.iter().for_each(|drained| ranks.insert_all(&drained.ranks));
        ranks
    }

    /// Lines for some states of the ranks `included`; drained nodes with `reasons` a line for
    /// each reason and time.
    fn lines(&self, states: &[&str], included: &Idset, reasons: bool, empty: bool) -> Vec<Line> {
        let all = self.all.ranks();
        let allocated = self.allocated.ranks();
        let drained = self.drained_ranks();
        // Where they have no line of their own.
        let parts = !states.contains(&"partial");
        let mut lines = Vec::new();
        for name in STATES.iter().filter(|name| states.contains(name)) {
            let set = match *name {
                "all" => all.clone(),
                "online" => all.difference(&self.offline),
                "offline" => self.offline.clone(),
                "avail" => all.difference(&self.exclude).difference(&drained),
                "exclude" => self.exclude.clone(),
                "torpid" => self.torpid.clone(),
                "allocated" => allocated.difference(&self.housekeeping),
                "housekeeping" => self.housekeeping.clone(),
                "draining" | "drained" | "drain" => {
                    let busy = |ranks: &Idset| match *name {
                        "draining" => ranks.intersection(&allocated),
                        "drained" => ranks.difference(&allocated),
                        _ => ranks.clone(),
                    };
                    if reasons {
                        let before = lines.len();
                        for info in &self.drained {
                            let ranks = busy(&info.ranks).intersection(included);
                            self.split(name, &ranks, Some(info), false, &mut lines);
                        }
                        if parts {
                            self.parts(name, included, &mut lines);
                        }
                        if lines.len() == before {
                            self.split(name, &Idset::new(), None, empty, &mut lines);
                        }
                        continue;
                    }
                    self.split(
                        name,
                        &busy(&drained).intersection(included),
                        None,
                        empty,
                        &mut lines,
                    );
                    if parts {
                        self.parts(name, included, &mut lines);
                    }
                    continue;
                }
                "partial" => {
                    let before = lines.len();
                    self.parts(name, included, &mut lines);
                    if lines.len() == before {
                        self.split(name, &Idset::new(), None, empty, &mut lines);
                    }
                    continue;
                }
                _ => Idset::new(),
            };
            self.split(name, &set.intersection(included), None, empty, &mut lines);
        }
        lines
    }

    /// A line for the ranks that are online, and one for those that are not.
    fn split(
        &self,
        state: &'static str,
        ranks: &Idset,
        info: Option<&Drained>,
        empty: bool,
        lines: &mut Vec<Line>,
    ) {
        let line = |ranks: Idset, up: bool| Line {
            state,
            nodelist: inventory::hosts(&self.all, &ranks),
            ranks,
            up,
            timestamp: info.map_or(0.0, |info| info.timestamp),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            color: false,
        };
        let online = ranks.difference(&self.offline);
        let offline = ranks.intersection(&self.offline);
        let show_empty = empty && offline.is_empty();
        if !online.is_empty() || (show_empty && state != "offline") {
            lines.push(line(online, true));
        }
        if !offline.is_empty() || (show_empty && state == "offline") {
            lines.push(line(offline, false));
        }
    }
}

/// Lines of those that are online and those that are not become one, where nothing else tells them
/// apart.
fn joined(lines: Vec<Line>, all: &ResourceSet) -> Vec<Line> {
    let mut joined: Vec<Line> = Vec::with_capacity(lines.len());
    for line in lines {
        match joined.last_mut() {
            Some(last)
                if (last.state, last.up, line.up) == (line.state, true, false)
                    && last.timestamp == line.timestamp
                    && last.reason == line.reason
                    // Cores and gpus of nodes have lines of their own.
                    && last.nodelist == inventory::hosts(all, &last.ranks) =>
            {
                last.ranks.insert_all(&line.ranks);
                last.nodelist = inventory::hosts(all, &last.ranks);
            }
            _ => joined.push(line),
        }
    }
    joined
}

fn heading(field: &str) -> Option<&'static str> {
    Some(match field {
        "state" | "statex" => "STATE",
        "nnodes" => "NNODES",
        "ranks" => "RANKS",
        "nodelist" => "NODELIST",
        "reason" => "REASON",
        "timestamp" => "TIME",
        "status" => "STATUS",
        "up" | "up.ascii" => "UP",
        "color_up" | "color_off" => "",
        _ => return None,
    })
}

/// Headings as they were in 2022, where they were others.
fn classic_heading(field: &str) -> Option<&'static str> {
    Some(match field {
        "state" => "STATUS",
        _ => return heading(field),
    })
}

/// The same of the list of drained nodes.
fn classic_drained_heading(field: &str) -> Option<&'static str> {
    Some(match field {
        "timestamp" => "TIMESTAMP",
        "ranks" => "RANK",
        _ => return heading(field),
    })
}

impl Row for Line {
    fn field(&self, name: &str) -> Option<Field<'_>> {
        let paint = |code: &'static str| Field::from(if self.color { code } else { "" });
        Some(match (name, self.up) {
            ("state", _) => Field::from(self.state),
            ("statex", true) => Field::from(self.state),
            ("statex", false) => Field::from(format!("{}*", self.state)),
            ("nnodes", _) => Field::Uint(self.ranks.len()),
            ("ranks", _) => Field::from(self.ranks.to_string()),
            ("nodelist", _) => Field::from(self.nodelist.as_str()),
            ("reason", _) => Field::from(self.reason.as_str()),
            ("timestamp", _) => Field::Time(self.timestamp),
            ("status", up) => Field::from(if up { "online" } else { "offline" }),
            ("up", up) => Field::from(if up { "✔" } else { "✗" }),
            ("up.ascii", up) => Field::from(if up { "y" } else { "n" }),
            ("color_up", up) => paint(if up { "\x1b[01;32m" } else { "\x1b[01;31m" }),
            ("color_off", _) => paint("\x1b[0;0m"),
            _ => return None,
        })
    }
}

/// Runs `flux resource status`.
pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some(format) = format(matches, STATUS, "RESOURCE_STATUS", "default")? else {
        return Ok(());
    };
    let default = if format.is_classic() { CLASSIC_DEFAULT } else { DEFAULT };
    let Some(states) = states(matches, STATES, default)? else { return Ok(()) };
    let chosen = crate::commands::program::text(matches, "states").is_some();
    let empty = chosen && !matches.get_flag("skip-empty");
    show(matches, &format, &classic_heading, &states, empty)?;
    // Beside the table, which may be for a program.
    if let Ok(client) = super::PROGRAM.open()
        && let Some(line) = crate::commands::store_state::trouble(&client)
    {
        crate::output::error_line(&line);
    }
    Ok(())
}

/// Lists drained nodes.
pub(super) fn run_drained(matches: &ArgMatches) -> Result<(), Failure> {
    let Some(format) = format(matches, DRAINED, "RESOURCE_DRAIN", "default")? else {
        return Ok(());
    };
    show(matches, &format, &classic_drained_heading, &["draining", "drained"], false)
}

fn show(
    matches: &ArgMatches,
    chosen: &Chosen,
    classic: &dyn Headings,
    states: &[&str],
    empty: bool,
) -> Result<(), Failure> {
    let format = &chosen.format;
    let heading: &dyn Headings = if chosen.is_classic() { classic } else { &heading };
    format.check(heading).map_err(|error| super::wrong_format(&error))?;
    let client = PROGRAM.open()?;
    let instance = Instance::ask(&client)?;
    let included = inventory::included(matches, &instance.all, || Queues::ask(&client))?;
    let reasons = format.fields().any(|field| matches!(field, "reason" | "timestamp"));
    let mut lines = instance.lines(states, &included, reasons, empty);
    if chosen.is_classic() {
        // Nodes that are offline have a line of their own, and were not available.
        lines.retain(|line| line.up || line.state != "avail");
    }
    if states == ["draining", "drained"] {
        lines.sort_by(|a, b| a.timestamp.total_cmp(&b.timestamp));
    }
    let tells = |field: &str| ["up", "up.ascii", "status", "statex", "color_up"].contains(&field);
    if !format.fields().any(tells) {
        lines = joined(lines, &instance.all);
    }
    let color = wants_color(matches);
    lines.iter_mut().for_each(|line| line.color = color);
    if color {
        return print(matches, format, heading, &lines, true);
    }
    print(matches, &format.clone().without(&["color_up", "color_off"]), heading, &lines, true)
}

#[cfg(test)]
mod tests {
    use flux_format::{Format, RenderOptions, Utc};
    use serde_json::json;

    use super::*;

    fn instance() -> Instance {
        let status = json!({
            "R": {"version": 1, "execution": {
                "R_lite": [{"rank": "0-3", "children": {"core": "0-3"}}],
                "nodelist": ["vm,vm,vm,vm"], "starttime": 0.0, "expiration": 0.0}},
            "drain": {"2": {"timestamp": 1_795_216_920.0, "reason": "some reason"}},
            "online": "0-3", "offline": "", "exclude": "", "torpid": "",
        });
        Instance::of(&serde_json::from_value(status).unwrap(), ResourceSet::new()).unwrap()
    }

    fn show(format: &str, instance: &Instance, states: &str, reasons: bool, empty: bool) -> String {
        let states: Vec<&str> = states.split(',').collect();
        let lines = instance.lines(&states, &instance.all.ranks(), reasons, empty);
        let format = Format::parse(format).unwrap().without(&["color_up", "color_off"]);
        format.render(&heading, &lines, &Utc, RenderOptions::default()).unwrap().join("\n")
    }

    #[test]
    fn status_looks_as_observed() {
        let expected = "       STATEUP NNODES NODELIST\n       avail ✔      3 vm,vm,vm\n     drained ✔      1 vm";
        assert_eq!(show(STATUS[0].1, &instance(), DEFAULT, false, false), expected);
    }

    #[test]
    fn classic_tables_have_the_columns_of_2022() {
        let lines = |states: &str, empty| {
            let states: Vec<&str> = states.split(',').collect();
            let instance = instance();
            instance.lines(&states, &instance.all.ranks(), false, empty)
        };
        let render = |format: &str, headings: &dyn Headings, lines: &[Line]| {
            let format = Format::parse(format).unwrap();
            format.render(headings, lines, &Utc, RenderOptions::default()).unwrap().join("\n")
        };
        assert_eq!(
            render(STATUS[2].1, &classic_heading, &lines(CLASSIC_DEFAULT, false)),
            "    STATUS NNODES RANKS           NODELIST\n     avail      3 0-1,3           \
             vm,vm,vm\n     drain      1 2               vm"
        );
        assert_eq!(
            render(STATUS[2].1, &classic_heading, &lines("offline,exclude", true)),
            "    STATUS NNODES RANKS           NODELIST\n   offline      0\n   exclude      0"
        );
        let instance = instance();
        let drained = instance.lines(&["drained"], &instance.all.ranks(), true, false);
        assert_eq!(
            render(DRAINED[2].1, &classic_drained_heading, &drained),
            "TIMESTAMP            RANK     REASON                         NODELIST\n\
             2026-11-20T23:22:00  2        some reason                    vm"
        );
    }

    #[test]
    fn drained_nodes_look_as_observed() {
        let expected = "TIME         STATE    REASON                         NODELIST\n\
                        Nov20 23:22  drained  some reason                    vm";
        assert_eq!(show(DRAINED[0].1, &instance(), "draining,drained", true, false), expected);
        let mut nothing = instance();
        nothing.drained.clear();
        let header = "TIME         STATE    REASON                         NODELIST";
        assert_eq!(show(DRAINED[0].1, &nothing, "draining,drained", true, false), header);
    }

    #[test]
    fn asked_for_states_are_shown_even_when_empty() {
        let text = show("{state} {nnodes}", &instance(), "offline,exclude", false, true);
        assert_eq!(text, "STATE NNODES\noffline 0\nexclude 0");
        let mut instance = instance();
        instance.offline.insert(1);
        instance.allocated = instance.all.copy_ranks(&"2".parse().unwrap());
        let text = show("{statex} {ranks}", &instance, "avail,drain,draining", false, false);
        assert_eq!(text, "STATE RANKS\navail 0,3\navail* 1\ndrain 2\ndraining 2");
    }

    #[test]
    fn nodes_that_are_offline_have_a_line_only_where_it_says_so() {
        let mut instance = instance();
        instance.offline.insert(1);
        let lines = instance.lines(&["all", "drain"], &instance.all.ranks(), false, false);
        assert_eq!(lines.len(), 3);
        let lines = joined(lines, &instance.all);
        let ranks: Vec<String> = lines.iter().map(|line| line.ranks.to_string()).collect();
        assert_eq!(ranks, ["0-3", "2"]);
        assert_eq!(lines[0].nodelist, "vm,vm,vm,vm");
    }

    #[test]
    fn drained_cores_have_lines_of_their_own() {
        let mut instance = instance();
        let info = Drained { ranks: "1-2".parse().unwrap(), timestamp: 5.0, reason: "hot".into() };
        let what = Children { cores: "0-1".parse().unwrap(), ..Children::default() };
        instance.parts.push(Part { what, info });
        instance.drained.clear();
        instance.allocated = ResourceSet::parse(
            r#"{"version":1,"execution":{"R_lite":[{"rank":"1","children":{"core":"1"}},
                {"rank":"2","children":{"core":"3"}}],
                "nodelist":["vm,vm"],"starttime":0,"expiration":0}}"#,
        )
        .unwrap();
        let text = show("{state} {ranks} {nodelist}", &instance, DEFAULT, false, false);
        assert_eq!(
            text,
            "STATE RANKS NODELIST\navail 0-3 vm,vm,vm,vm\npartial 1-2 vm,vm:core[0-1]"
        );
        let text = show("{state} {ranks} {reason}", &instance, "draining,drained", true, false);
        assert_eq!(text, "STATE RANKS REASON\ndraining 1 hot\ndrained 2 hot");
    }

    #[test]
    fn the_guides_hostlist_of_everything() {
        assert_eq!(show("{nodelist}", &instance(), "all", false, true), "NODELIST\nvm,vm,vm,vm");
    }
}
