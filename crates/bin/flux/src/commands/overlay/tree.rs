//! The tree of brokers with the health of each, gathered level by level, and its drawing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flux_api::overlay::{ChildHealth, Health, Health_, Subtree};
use flux_api::{Empty, RpcError};
use flux_client::{Client, To};
use flux_id::Idset;

/// Most requests on their way at once.
const AT_ONCE: usize = 512;

/// A broker as it was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) rank: u32,
    pub(super) status: String,
    pub(super) duration: Option<f64>,
    pub(super) error: Option<String>,
    /// Below a broker that is not there: known from the shape only.
    pub(super) ghost: bool,
    pub(super) answered: Option<Duration>,
    pub(super) children: Vec<Node>,
}

fn gone(status: &str) -> bool {
    matches!(status, "lost" | "offline")
}

/// Asks the brokers of `shape`; with `deep` all that are there, else only the first.
pub(super) fn gather(
    client: &Client,
    shape: &Subtree,
    patience: Option<Duration>,
    deep: bool,
) -> Node {
    let mut answers: BTreeMap<u32, (Result<Health, RpcError>, Duration)> = BTreeMap::new();
    let mut level = vec![shape];
    while !level.is_empty() {
        let mut below = Vec::new();
        for some in level.chunks(AT_ONCE) {
            let start = Instant::now();
            let asked: Vec<_> = some
                .iter()
                .map(|node| (*node, client.send::<Health_>(To::Rank(node.rank), &Empty)))
                .collect();
            for (node, pending) in asked {
                let answer = match patience {
                    Some(time) => pending.wait_within(time.saturating_sub(start.elapsed())),
                    None => pending.wait(),
                };
                if let Ok(health) = &answer {
                    let there = |rank: u32| {
                        health.children.iter().any(|c| c.rank == rank && !gone(&c.status))
                    };
                    below.extend(node.children.iter().filter(|child| there(child.rank)));
                }
                answers.insert(node.rank, (answer, start.elapsed()));
            }
        }
        level = if deep { below } else { Vec::new() };
    }
    build(shape, None, false, &answers)
}

fn build(
    shape: &Subtree,
    seen: Option<&ChildHealth>,
    ghost: bool,
    answers: &BTreeMap<u32, (Result<Health, RpcError>, Duration)>,
) -> Node {
    let answer = answers.get(&shape.rank);
    let health = answer.and_then(|(answer, _)| answer.as_ref().ok());
    let failure = answer.and_then(|(answer, _)| answer.as_ref().err());
    let status = match (health, failure, seen) {
        (Some(health), ..) => health.status.clone(),
        (None, Some(error), _) => error.errno.text().to_owned(),
        (None, None, Some(seen)) => seen.status.clone(),
        (None, None, None) => "unknown".to_owned(),
    };
    let lost = gone(&status);
    let below_ghost = ghost || health.is_none();
    let children = shape.children.iter().map(|child| {
        let seen = health.and_then(|h| h.children.iter().find(|c| c.rank == child.rank));
        let mut node = build(child, seen, below_ghost, answers);
        if seen.is_none() && health.is_none() {
            // What is below a broker that is gone shares its fate.
            node.status = if lost || ghost { status.clone() } else { "unknown".to_owned() };
        }
        node
    });
    let children = children.collect();
    Node {
        rank: shape.rank,
        duration: health.map(|h| h.duration).or(seen.map(|s| s.duration)),
        error: failure
            .map(|error| error.errno.text().to_owned())
            .or(seen.and_then(|seen| seen.error.clone())),
        ghost,
        answered: answer.map(|(_, time)| *time),
        status,
        children,
    }
}

/// Why brokers are not there: ranks by text, by lowest rank.
pub(super) fn errors(root: &Node) -> Vec<(Idset, String)> {
    let mut found: Vec<(Idset, String)> = Vec::new();
    let mut stack = vec![root];
    while let Some(node) = stack.pop() {
        let text = if node.ghost {
            (node.status == "lost").then(|| "lost parent".to_owned())
        } else {
            let text = node.error.clone().filter(|text| !text.is_empty());
            text.or_else(|| (node.status == "lost").then(|| "unknown error".to_owned()))
        };
        if let Some(text) = text {
            match found.iter_mut().find(|(_, known)| *known == text) {
                Some((ranks, _)) => {
                    ranks.insert(node.rank);
                }
                None => found.push((std::iter::once(node.rank).collect(), text)),
            }
        }
        stack.extend(&node.children);
    }
    found.sort_by_key(|(ranks, _)| ranks.first());
    found
}

/// How the tree is shown.
#[derive(Debug, Default)]
pub(super) struct Look<'a> {
    pub(super) hosts: &'a [String],
    pub(super) pretty: bool,
    pub(super) ghosts: bool,
    pub(super) down: bool,
    pub(super) times: bool,
    pub(super) answers: bool,
    pub(super) color: bool,
    pub(super) highlight: Vec<u32>,
}

impl Look<'_> {
    /// `RANK HOST: STATUS`.
    pub(super) fn line(&self, node: &Node) -> String {
        let host = self.hosts.get(node.rank as usize).map_or("?", String::as_str);
        let name = format!("{} {host}", node.rank);
        let mut text = if self.highlight.contains(&node.rank) && self.color {
            format!("\x1b[1;34m{name}\x1b[0m")
        } else if self.highlight.contains(&node.rank) {
            format!("<<{name}>>")
        } else {
            name
        };
        text.push_str(": ");
        let code = match node.status.as_str() {
            _ if !self.color => "",
            "full" => "",
            "partial" | "degraded" => "\x1b[33m",
            "offline" => "\x1b[2m",
            _ => "\x1b[31m",
        };
        let end = if code.is_empty() { "" } else { "\x1b[0m" };
        text.push_str(&format!("{code}{}{end}", node.status));
        if let Some(seconds) = node.duration.filter(|_| self.times) {
            text.push_str(&format!(" for {}", flux_id::fsd::format_short(seconds)));
        }
        if let Some(time) = node.answered.filter(|_| self.answers) {
            text.push_str(&format!(" ({:.3} ms)", time.as_secs_f64() * 1e3));
        }
        text
    }

    /// All lines.
    pub(super) fn draw(&self, root: &Node) -> Vec<String> {
        let mut lines = vec![self.line(root)];
        self.below(root, "", &mut lines);
        lines
    }

    fn below(&self, node: &Node, indent: &str, lines: &mut Vec<String>) {
        let shown =
            |child: &&Node| (self.ghosts || !child.ghost) && (!self.down || child.status != "full");
        let children: Vec<&Node> = node.children.iter().filter(shown).collect();
        for (at, child) in children.iter().enumerate() {
            let last = at + 1 == children.len();
            let (branch, deeper) = match (self.pretty, last) {
                (false, _) => ("   ", "   "),
                (true, true) => ("└─ ", "   "),
                (true, false) => ("├─ ", "│  "),
            };
            lines.push(format!("{indent}{branch}{}", self.line(child)));
            self.below(child, &format!("{indent}{deeper}"), lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(rank: u32, status: &str, children: Vec<Node>) -> Node {
        let status = status.to_owned();
        Node { rank, status, duration: None, error: None, ghost: false, answered: None, children }
    }

    /// The tree of the 0.35 guide: 15 brokers, two children each.
    fn fluke() -> (Node, Vec<String>) {
        let leaf = |rank, status| node(rank, status, Vec::new());
        let two = |rank, status, left: Node, right: Node| node(rank, status, vec![left, right]);
        let root = two(
            0,
            "degraded",
            two(
                1,
                "full",
                two(3, "full", leaf(7, "full"), leaf(8, "full")),
                two(4, "full", leaf(9, "full"), leaf(10, "full")),
            ),
            two(
                2,
                "degraded",
                two(5, "full", leaf(11, "full"), leaf(12, "full")),
                two(6, "degraded", leaf(13, "full"), leaf(14, "lost")),
            ),
        );
        let numbers = [62, 63, 64, 65, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77];
        (root, numbers.iter().map(|n| format!("fluke{n}")).collect())
    }

    #[test]
    fn the_tree_is_drawn_as_the_guide_draws_it() {
        let (root, hosts) = fluke();
        let look = Look { hosts: &hosts, pretty: true, ghosts: true, ..Look::default() };
        let expected = "\
0 fluke62: degraded
├─ 1 fluke63: full
│  ├─ 3 fluke65: full
│  │  ├─ 7 fluke70: full
│  │  └─ 8 fluke71: full
│  └─ 4 fluke67: full
│     ├─ 9 fluke72: full
│     └─ 10 fluke73: full
└─ 2 fluke64: degraded
   ├─ 5 fluke68: full
   │  ├─ 11 fluke74: full
   │  └─ 12 fluke75: full
   └─ 6 fluke69: degraded
      ├─ 13 fluke76: full
      └─ 14 fluke77: lost";
        assert_eq!(look.draw(&root).join("\n"), expected);
        let look = Look { hosts: &hosts, pretty: true, down: true, ..Look::default() };
        assert_eq!(look.draw(&root).len(), 4);
    }

    #[test]
    fn what_is_below_a_lost_broker_is_lost() {
        let shape: Subtree = serde_json::from_str(
            r#"{"rank":0,"size":3,"children":[{"rank":1,"size":2,"children":
               [{"rank":2,"size":1,"children":[]}]}]}"#,
        )
        .unwrap();
        let health: Health = serde_json::from_str(
            r#"{"rank":0,"status":"degraded","duration":1.0,"children":
               [{"rank":1,"status":"lost","duration":2.0,"error":"disconnected"}]}"#,
        )
        .unwrap();
        let answers = BTreeMap::from([(0, (Ok(health), Duration::ZERO))]);
        let root = build(&shape, None, false, &answers);
        assert_eq!(root.children[0].status, "lost");
        assert_eq!(root.children[0].children[0].status, "lost");
        let texts: Vec<String> =
            errors(&root).iter().map(|(ranks, text)| format!("{ranks}: {text}")).collect();
        assert_eq!(texts, ["1: disconnected", "2: lost parent"]);
    }
}
