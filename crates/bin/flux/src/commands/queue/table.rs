//! `flux queue list`: the queues with their limits.

use clap::{ArgMatches, Command};
use flux_api::body::AnyObject;
use flux_api::job::manager::QueueStatus;
use flux_api::lifecycle::ConfigGet;
use flux_client::{Client, To};
use flux_format::{Field, RenderOptions, Row};
use serde_json::Value;

use super::{PROGRAM, names, states};
use crate::{
    commands::{
        LocalZone,
        program::{color, flag, text, texts, value, wants_color},
        resource::inventory::Queues,
    },
    failure::Failure,
    listing, output,
    resources::Resources,
};

const FORMATS: &[(&str, &str, &str)] = &[
    (
        "default",
        "?:{queuem:<8.8} ?:{parent:<8.8} {color_enabled}{enabled:>2}{color_off} {color_started}{started:>2}{color_off} {defaults.timelimit!F:>8} {limits.timelimit!F:>8} {limits.range.effective.nnodes:>10} {limits.range.effective.ncores:>10} {limits.range.effective.ngpus:>10}",
        "Default flux-queue list format",
    ),
    (
        "policy",
        "?:{queuem:<8.8} ?:{parent:<8.8} {color_enabled}{enabled:>2}{color_off} {color_started}{started:>2}{color_off} {defaults.timelimit!F:>8} {limits.timelimit!F:>8} {limits.range.nnodes:>10} {limits.range.ncores:>10} {limits.range.ngpus:>10}",
        "Limits as configured",
    ),
    (
        "nodes",
        "?:{queuem:<8.8} ?:{parent:<8.8} {color_enabled}{enabled:>2}{color_off} {color_started}{started:>2}{color_off} {resources.all.nnodes:>6} {resources.up.nnodes:>6} {resources.down.nnodes:>6} {resources.allocated.nnodes:>6} {resources.free.nnodes:>6}",
        "Nodes of queues by state",
    ),
];

pub(super) fn command() -> Command {
    Command::new("list")
        .about("List queues")
        .arg(value("queue", 'q', "QUEUE,..", "Only these"))
        .arg(value("format", 'o', "FORMAT", "Output format, or the name of one, or help"))
        .arg(flag("no-header", 'n', "No line of headings"))
        .arg(color())
}

struct Queue {
    name: Option<String>,
    default: bool,
    status: QueueStatus,
    policy: Value,
    /// Where the scheduler could be asked.
    resources: Option<Resources>,
    color: bool,
}

pub(super) fn run(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let fail = |text: String| PROGRAM.fail(text);
    let formats = listing::formats("queue", FORMATS).map_err(fail)?;
    let default = listing::default_format("QUEUE_LIST", "default");
    let wanted = text(matches, "format").unwrap_or(&default);
    let format = match listing::choose("flux-queue", &formats, wanted) {
        Ok(listing::Choice::Use(format)) => format,
        Ok(listing::Choice::Printed) => return Ok(()),
        Err(error) => return Err(PROGRAM.fail(format!("Error in user format: {error}"))),
    };
    let config = client.call::<ConfigGet>(To::Any, &AnyObject::default());
    let config = Value::Object(config.map_err(|error| PROGRAM.error(&error))?);
    let only: Vec<&str> = texts(matches, "queue").iter().flat_map(|list| list.split(',')).collect();
    let known = names(client)?;
    if let Some(unknown) =
        only.iter().find(|name| !known.iter().any(|k| k.as_deref() == Some(**name)))
    {
        return Err(PROGRAM.fail(format!("No such queue: {unknown}")));
    }
    let chosen = known
        .into_iter()
        .filter(|name| only.is_empty() || name.as_deref().is_some_and(|n| only.contains(&n)))
        .collect();
    let default = &config["policy"]["jobspec"]["defaults"]["system"]["queue"];
    let color = wants_color(matches);
    let queues = Queues::of(&config);
    let asked = |field: &str| field.starts_with("resources.") || field.contains(".effective.");
    let all = if format.fields().any(asked) { Resources::ask(client).ok() } else { None };
    let rows: Vec<Queue> = states(client, chosen)?
        .into_iter()
        .map(|(name, status)| Queue {
            default: default.as_str().is_some() && default.as_str() == name.as_deref(),
            policy: policy(&config, name.as_deref()),
            resources: all.as_ref().map(|found| {
                // A virtual queue has the nodes of its parent.
                let real = status.parent.as_deref().or(name.as_deref());
                let ranks = real.and_then(|real| queues.ranks(real, &found.all).ok());
                ranks.map_or_else(|| found.clone(), |ranks| found.of_ranks(&ranks))
            }),
            name,
            status,
            color,
        })
        .collect();
    let options = RenderOptions { header: !matches.get_flag("no-header"), trim: true };
    let lines = format.render(&heading, &rows, &LocalZone::system(), options);
    let lines = lines.map_err(|error| PROGRAM.fail(format!("Error in user format: {error}")))?;
    lines.iter().for_each(|line| output::line(line));
    Ok(())
}

/// The policy of a queue: its own values over those of all.
fn policy(config: &Value, name: Option<&str>) -> Value {
    let mut merged = config["policy"].clone();
    if let Some(name) = name {
        merge(&mut merged, &config["queues"][name]["policy"]);
    }
    merged
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (_, Value::Null) => {}
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn heading(field: &str) -> Option<&'static str> {
    Some(match field {
        "queue" | "queuem" => "QUEUE",
        "parent" => "PARENT",
        "submission" => "SUBMIT",
        "scheduling" => "SCHED",
        "enabled" | "enabled.ascii" => "EN",
        "started" | "started.ascii" => "ST",
        "color_enabled" | "color_started" | "color_off" => "",
        "defaults.timelimit" => "TDEFAULT",
        "limits.timelimit" => "TLIMIT",
        "limits.range.nnodes" | "limits.range.effective.nnodes" => "NNODES",
        "limits.range.ncores" | "limits.range.effective.ncores" => "NCORES",
        "limits.range.ngpus" | "limits.range.effective.ngpus" => "NGPUS",
        "limits.min.nnodes" => "MIN.NNODES",
        "limits.min.ncores" => "MIN.NCORES",
        "limits.min.ngpus" => "MIN.NGPUS",
        "limits.max.nnodes" => "MAX.NNODES",
        "limits.max.ncores" => "MAX.NCORES",
        "limits.max.ngpus" => "MAX.NGPUS",
        _ if field.starts_with("resources.") => {
            let (state, what) = field.strip_prefix("resources.")?.split_once('.')?;
            match (state, what) {
                ("all", "nnodes") => "NODES",
                ("all", "ncores") => "CORES",
                ("all", "ngpus") => "GPUS",
                (_, "nnodes" | "ncores" | "ngpus") => match state {
                    "up" => "UP",
                    "down" => "DOWN",
                    "allocated" => "USED",
                    "free" => "FREE",
                    _ => return None,
                },
                _ => return None,
            }
        }
        _ => return None,
    })
}

impl Queue {
    fn seconds(value: &Value) -> Field<'static> {
        let seconds = match value {
            Value::String(text) => flux_id::fsd::parse(text).ok(),
            other => other.as_f64(),
        };
        Field::Duration(seconds.filter(|s| *s > 0.0).unwrap_or(f64::INFINITY))
    }

    fn limit(&self, end: &str, what: &str) -> Option<String> {
        let value = &self.policy["limits"]["job-size"][end][what];
        value.as_i64().filter(|limit| *limit >= 0).map(|limit| limit.to_string())
    }

    /// How much of something a queue has in a state.
    fn amount(&self, state: &str, what: &str) -> Option<u64> {
        let set = self.resources.as_ref()?.state(state)?;
        Some(match what {
            "ncores" => set.ncores(),
            "ngpus" => set.ngpus(),
            _ => set.nnodes() as u64,
        })
    }

    /// The most that can be had of something: what is allowed, and what there is.
    fn most(&self, what: &str) -> String {
        let limit = self.limit("max", what).and_then(|limit| limit.parse::<u64>().ok());
        let most = limit.into_iter().chain(self.amount("all", what)).min();
        most.map_or_else(|| "inf".into(), |most| most.to_string())
    }

    fn mark(&self, on: bool, ascii: bool) -> Field<'static> {
        Field::from(match (on, ascii) {
            (true, false) => "✔",
            (false, false) => "✗",
            (true, true) => "y",
            (false, true) => "n",
        })
    }

    fn paint(&self, on: bool) -> Field<'static> {
        Field::from(match (self.color, on) {
            (false, _) => "",
            (true, true) => "\x1b[01;32m",
            (true, false) => "\x1b[01;31m",
        })
    }
}

impl Row for Queue {
    fn field(&self, name: &str) -> Option<Field<'_>> {
        let status = &self.status;
        let queue = self.name.as_deref().unwrap_or("");
        Some(match name {
            "queue" => Field::from(queue),
            "queuem" => Field::from(format!("{queue}{}", if self.default { "*" } else { "" })),
            "parent" => Field::from(status.parent.as_deref().unwrap_or("")),
            "submission" => Field::from(if status.enable { "enabled" } else { "disabled" }),
            "scheduling" => Field::from(if status.start { "started" } else { "stopped" }),
            "enabled" => self.mark(status.enable, false),
            "enabled.ascii" => self.mark(status.enable, true),
            "started" => self.mark(status.start, false),
            "started.ascii" => self.mark(status.start, true),
            "color_enabled" => self.paint(status.enable),
            "color_started" => self.paint(status.start),
            "color_off" => Field::from(if self.color { "\x1b[0;0m" } else { "" }),
            "defaults.timelimit" => {
                Self::seconds(&self.policy["jobspec"]["defaults"]["system"]["duration"])
            }
            "limits.timelimit" => Self::seconds(&self.policy["limits"]["duration"]),
            _ => {
                let (place, what) = name.rsplit_once('.')?;
                if let Some(state) = place.strip_prefix("resources.") {
                    return Some(self.amount(state, what).map_or(Field::Empty, Field::Uint));
                }
                let least = || self.limit("min", what).unwrap_or_else(|| "0".into());
                let most = || self.limit("max", what).unwrap_or_else(|| "inf".into());
                Field::from(match place {
                    "limits.min" => least(),
                    "limits.max" => most(),
                    "limits.range.effective" => format!("{}-{}", least(), self.most(what)),
                    _ => format!("{}-{}", least(), most()),
                })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use flux_model::resource_set::ResourceSet;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_is_that_of_flux() {
        let status = json!({"enable": true, "start": true});
        let row = Queue {
            name: None,
            default: false,
            status: serde_json::from_value(status).unwrap(),
            policy: json!({"limits": {"job-size": {"max": {"nnodes": 4}}, "duration": "1h"}}),
            resources: None,
            color: false,
        };
        let format = flux_format::Format::parse(FORMATS[0].1).unwrap();
        let lines =
            format.render(&heading, &[row], &flux_format::Utc, RenderOptions::default()).unwrap();
        assert_eq!(lines[0], " EN ST TDEFAULT   TLIMIT     NNODES     NCORES      NGPUS");
        assert!(lines[1].ends_with("inf       1h        0-4      0-inf      0-inf"), "{lines:?}");
    }

    #[test]
    fn what_can_be_had_is_what_is_allowed_and_there() {
        let set = |text: &str| {
            ResourceSet::from_value(&json!({"version": 1, "execution": {
                "R_lite": [{"rank": text, "children": {"core": "0-3", "gpu": "0"}}],
                "nodelist": [format!("a[{text}]")]}}))
            .unwrap()
        };
        let row = Queue {
            name: Some("batch".into()),
            default: true,
            status: serde_json::from_value(json!({"enable": true, "start": false})).unwrap(),
            policy: json!({"limits": {"job-size": {"max": {"nnodes": 40, "ncores": 8}}}}),
            resources: Some(Resources { all: set("0-5"), down: set("5-5"), allocated: set("0-1") }),
            color: false,
        };
        let show = |format: &str| {
            let format = flux_format::Format::parse(format).unwrap();
            format
                .render(
                    &heading,
                    std::slice::from_ref(&row),
                    &flux_format::Utc,
                    RenderOptions::default(),
                )
                .unwrap()
        };
        let range = "{limits.range.effective.nnodes} {limits.range.effective.ncores} \
                     {limits.range.effective.ngpus} {limits.range.nnodes}";
        assert_eq!(show(range)[1], "0-6 0-8 0-6 0-40");
        let format = FORMATS[2].1.replace("{color_off}", "");
        assert_eq!(
            show(&format),
            [
                "QUEUE    EN ST  NODES     UP   DOWN   USED   FREE",
                "batch*    ✔  ✗      6      5      1      2      3"
            ]
        );
    }

    #[test]
    fn the_policy_of_a_queue_wins() {
        let config = json!({
            "policy": {"limits": {"duration": "1h", "job-size": {"max": {"nnodes": 4}}}},
            "queues": {"a": {"policy": {"limits": {"duration": "2h"}}}},
        });
        let merged = policy(&config, Some("a"));
        assert_eq!(merged["limits"]["duration"], "2h");
        assert_eq!(merged["limits"]["job-size"]["max"]["nnodes"], 4);
    }
}
