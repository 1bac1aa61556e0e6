//! `flux resource list`, `info` and `R`: resources as the scheduler sees them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use clap::ArgMatches;
use flux_client::Client;
use flux_format::{Field, Format, Headings, Row};
use flux_id::Idset;
use flux_model::resource_set::ResourceSet;

use super::{PROGRAM, format, inventory, inventory::Queues, print, states};
use crate::{failure::Failure, output, resources::Resources};

const FORMATS: &[(&str, &str, &str)] = &[
    (
        "default",
        "{state:>10} ?+:{queue:<5} ?:{propertiesx:<10.10+} {nnodes:>6} +:{ncores:>6} ?+:{ngpus:>5} {nodelist}",
        "Default flux-resource list format",
    ),
    (
        "rlist",
        "{state:>10} ?+:{queue:<5} ?:{propertiesx:<10.10+} {nnodes:>6} +:{ncores:>6} ?+:{ngpus:>5} {rlist}",
        "As default, with cores and gpus of ranks",
    ),
];

/// What the scheduler sees of the part that is asked for.
fn view(client: &Client, matches: &ArgMatches, queues: &Queues) -> Result<Resources, Failure> {
    let found = Resources::ask(client).map_err(|error| PROGRAM.error(&error))?;
    let included = inventory::included(matches, &found.all, || Ok(queues.clone()))?;
    Ok(found.of_ranks(&included))
}

/// Lines of some states; a line for each combination of queues and properties.
fn lines(
    found: &Resources,
    states: &[&str],
    queues: &Queues,
    fields: &[&str],
    empty: bool,
) -> Vec<Line> {
    let by_queue = fields.contains(&"queue");
    let by_property = fields.iter().any(|field| field.starts_with("properties"));
    let mut lines = Vec::new();
    for state in states {
        let set = found.state(state).unwrap_or_default();
        let mut groups: BTreeMap<(String, String, String), Idset> = BTreeMap::new();
        if !by_queue && !by_property && !set.is_empty() {
            groups.insert(Default::default(), set.ranks());
        } else {
            for rank in set.ranks().ids() {
                // Properties are those of the inventory; allocations need not have them.
                let names: Vec<&str> = found.all.properties_of(rank).collect();
                let others: Vec<&str> =
                    names.iter().copied().filter(|name| !queues.is_queue(name)).collect();
                let queue = if by_queue { queues.with(&names).join(",") } else { String::new() };
                let (names, others) = if by_property {
                    (names.join(","), others.join(","))
                } else {
                    Default::default()
                };
                groups.entry((queue, names, others)).or_default().insert(rank);
            }
        }
        if groups.is_empty() && empty {
            groups.insert(Default::default(), Idset::new());
        }
        for ((queue, properties, propertiesx), ranks) in groups {
            let set = set.copy_ranks(&ranks);
            let state = (*state).to_owned();
            lines.push(Line { state, queue, properties, propertiesx, set });
        }
    }
    lines
}

/// A line.
struct Line {
    state: String,
    queue: String,
    properties: String,
    propertiesx: String,
    set: ResourceSet,
}

/// The headings, among them those of the fields `types.TYPE` of a format.
struct Columns(BTreeMap<String, String>);

impl Columns {
    fn of(format: &Format) -> Columns {
        let types = format.fields().filter_map(|field| {
            let kind = field.strip_prefix("types.").filter(|kind| !kind.is_empty())?;
            Some((field.to_owned(), kind.to_uppercase()))
        });
        Columns(types.collect())
    }
}

impl Headings for Columns {
    fn heading(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str).or_else(|| heading(field))
    }
}

/// A built-in format with a column for each type of resource beside cores and gpus.
fn with_types(format: &str, all: &ResourceSet) -> Option<Format> {
    let columns: String =
        all.types().keys().map(|kind| format!("+:{{types.{kind}:>5}}") + " ").collect();
    let (before, last) = format.split_at(format.rfind('{')?);
    Format::parse(&format!("{before}{columns}{last}")).ok()
}

fn heading(field: &str) -> Option<&'static str> {
    Some(match field {
        "state" => "STATE",
        "queue" => "QUEUE",
        "properties" | "propertiesx" => "PROPERTIES",
        "nnodes" => "NNODES",
        "ncores" => "NCORES",
        "ngpus" => "NGPUS",
        "types" => "TYPES",
        "ranks" => "RANKS",
        "nodelist" => "NODELIST",
        "rlist" => "LIST",
        _ => return None,
    })
}

impl Row for Line {
    fn field(&self, name: &str) -> Option<Field<'_>> {
        Some(match name {
            "state" => Field::from(self.state.as_str()),
            "queue" => Field::from(self.queue.as_str()),
            "properties" => Field::from(self.properties.as_str()),
            "propertiesx" => Field::from(self.propertiesx.as_str()),
            "nnodes" => Field::Uint(self.set.nnodes() as u64),
            "ncores" => Field::Uint(self.set.ncores()),
            "ngpus" => Field::Uint(self.set.ngpus()),
            "types" => {
                let types = self.set.types();
                let texts = types.iter().map(|(kind, count)| format!("{kind}:{count}"));
                Field::from(texts.collect::<Vec<_>>().join(","))
            }
            "ranks" => Field::from(self.set.ranks().to_string()),
            "nodelist" => Field::from(self.set.nodelist().to_string()),
            "rlist" => Field::from(self.set.summary()),
            _ => {
                let kind = name.strip_prefix("types.")?;
                Field::Uint(self.set.types().get(kind).copied().unwrap_or(0))
            }
        })
    }
}

/// Runs `flux resource list`.
pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some(states) = states(matches, &Resources::STATES, "free,allocated,down")? else {
        return Ok(());
    };
    let default = if matches.get_count("verbose") > 0 { "rlist" } else { "default" };
    let Some(chosen) = format(matches, FORMATS, "RESOURCE_LIST", default)? else { return Ok(()) };
    let mut format = chosen.format;
    format.check(&Columns::of(&format)).map_err(|error| super::wrong_format(&error))?;
    let client = PROGRAM.open()?;
    let queues = Queues::ask(&client)?;
    let view = view(&client, matches, &queues)?;
    let builtin = FORMATS.iter().find(|(name, ..)| *name == chosen.wanted);
    if let Some(own) = builtin.and_then(|(_, text, _)| with_types(text, &view.all)) {
        format = own;
    }
    let fields: Vec<&str> = format.fields().collect();
    let empty = !matches.get_flag("skip-empty") || matches.get_flag("no-skip-empty");
    let lines = lines(&view, &states, &queues, &fields, empty);
    print(matches, &format, &Columns::of(&format), &lines, false)
}

/// The resources of the states that are asked for, all by default.
fn chosen(matches: &ArgMatches) -> Result<Option<ResourceSet>, Failure> {
    let Some(states) = states(matches, &Resources::STATES, "all")? else { return Ok(None) };
    let client = PROGRAM.open()?;
    let queues = Queues::ask(&client)?;
    let view = view(&client, matches, &queues)?;
    let sets = ResourceSet::union_all(
        states.iter().filter_map(|state| view.state(state)).map(Cow::into_owned),
    );
    sets.map(Some).map_err(|error| PROGRAM.fail(error.to_string()))
}

/// Runs `flux resource info`.
pub(super) fn info(matches: &ArgMatches) -> Result<(), Failure> {
    if let Some(set) = chosen(matches)? {
        let (nodes, cores, gpus) = (set.nnodes(), set.ncores(), set.ngpus());
        let types = set.types();
        let types: String = types.iter().map(|(kind, count)| format!(", {count} {kind}")).collect();
        output::line(&format!("{nodes} Nodes, {cores} Cores, {gpus} GPUs{types}"));
    }
    Ok(())
}

/// Runs `flux resource R`.
pub(super) fn r(matches: &ArgMatches) -> Result<(), Failure> {
    if let Some(set) = chosen(matches)? {
        output::line(&output::spaced_json(&set.to_value()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flux_format::{RenderOptions, Utc};
    use serde_json::json;

    use super::*;

    fn view(hosts: &str, down: &str) -> Resources {
        let all = json!({"version": 1, "execution": {
            "R_lite": [{"rank": "0-3", "children": {"core": "0-3"}}],
            "nodelist": [hosts], "starttime": 0.0, "expiration": 0.0,
            "properties": {"batch": "0-1", "big": "1"}}});
        let all = ResourceSet::from_value(&all).unwrap();
        let down = all.copy_ranks(&down.parse().unwrap());
        Resources { all, down, allocated: ResourceSet::new() }
    }

    fn show(view: &Resources, queues: &Queues, format: &str) -> String {
        let format = Format::parse(format).unwrap();
        let fields: Vec<&str> = format.fields().collect();
        let lines = lines(view, &["free", "allocated", "down"], queues, &fields, true);
        let options = RenderOptions { header: true, trim: false };
        format.render(&heading, &lines, &Utc, options).unwrap().join("\n")
    }

    #[test]
    fn the_list_looks_as_observed() {
        let mut view = view("vm,vm,vm,vm", "2");
        view.all.set_property("batch", &Idset::new()).ok();
        let plain = ResourceSet::parse(
            &view
                .all
                .to_value()
                .to_string()
                .replace(r#","properties":{"batch":"0-1","big":"1"}"#, ""),
        )
        .unwrap();
        view.down = plain.copy_ranks(&"2".parse().unwrap());
        view.all = plain;
        let format = FORMATS[0].1.replace("?+:{ngpus", "+:{ngpus");
        let expected = "     STATE NNODES NCORES NGPUS NODELIST\n      free      3     12     0 vm,vm,vm\n allocated      0      0     0 \n      down      1      4     0 vm";
        assert_eq!(show(&view, &Queues::default(), &format), expected);
    }

    #[test]
    fn lists_of_cores_are_those_of_the_guide() {
        let view = view("fluke[25-28]", "0");
        let text = show(&view, &Queues::default(), "{state:>10} {nnodes} {ncores} {ngpus} {rlist}");
        let expected = "     STATE NNODES NCORES NGPUS LIST\n      free 3 12 0 rank[1-3]/core[0-3]\n allocated 0 0 0 \n      down 1 4 0 rank0/core[0-3]";
        assert_eq!(text, expected);
    }

    #[test]
    fn other_types_have_columns_of_their_own() {
        let mut view = view("a[0-3]", "3");
        let ids = |text: &str| text.parse::<Idset>().unwrap();
        view.all.set_type("ssd", &ids("0-1"), &ids("0-1")).unwrap();
        view.all.set_type("memory", &ids("0-63"), &ids("0-3")).unwrap();
        view.down = view.all.copy_ranks(&ids("3"));
        let format = with_types("{state} {nnodes} {nodelist}", &view.all).unwrap();
        let lines = lines(&view, &["free", "allocated", "down"], &Queues::default(), &[], true);
        let text =
            format.render(&Columns::of(&format), &lines, &Utc, RenderOptions::default()).unwrap();
        assert_eq!(
            text,
            [
                "STATE NNODES MEMORY   SSD NODELIST",
                "free 3   192     4 a[0-2]",
                "allocated 0     0     0",
                "down 1    64     0 a3"
            ]
        );
        let format = Format::parse("{types} {types.ssd}").unwrap();
        let text = format.render(&Columns::of(&format), &lines, &Utc, RenderOptions::default());
        assert_eq!(text.unwrap()[1], "memory:192,ssd:4 4");
    }

    #[test]
    fn nodes_are_told_apart_by_queue_and_property() {
        let config = json!({"queues": {"batch": {"requires": ["batch"]}}});
        let view = view("a[0-3]", "3");
        let text = show(&view, &Queues::of(&config), "{state} {queue} {propertiesx} {nodelist}");
        assert!(text.contains("free batch big a1") && text.contains("free batch  a0"), "{text}");
    }
}
