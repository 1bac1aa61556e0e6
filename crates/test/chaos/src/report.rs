//! The figures, as a table.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use crate::Plan;
use crate::admin::Orders;
use crate::board::{Disturbance, Kill, Record};
use crate::cluster::{Cluster, Role};
use crate::follow::Followed;
use crate::load::{Tries, gaps};
use crate::verdict::Verdict;

/// A time without a submit that is worth a story, in seconds.
const LONG: f64 = 1.0;
/// So many of them are told.
const STORIES: usize = 8;

/// Seconds, for people.
pub(crate) fn secs(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Median and longest.
fn middle_and_longest(mut times: Vec<Duration>) -> Option<String> {
    times.sort();
    let longest = *times.last()?;
    Some(format!("{} / {} ({})", secs(times[times.len() / 2]), secs(longest), times.len()))
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) text: String,
}

impl Table {
    pub(crate) fn row(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.text, "{name:<52} {value}");
    }

    pub(crate) fn plan(&mut self, plan: &Plan) {
        self.row("brokers", plan.brokers);
        self.row("levels of the tree below the leader", plan.tree.depth(plan.brokers));
        for setting in &plan.settings {
            self.row("configuration", setting);
        }
        let names = crate::plan::Extra::ALL.iter().filter(|(_, extra)| plan.mix.contains(extra));
        let names: Vec<&str> = names.map(|(name, _)| *name).collect();
        self.row("mix", if names.is_empty() { "none".to_string() } else { names.join(",") });
        self.row("seed", plan.seed);
    }

    pub(crate) fn brokers(&mut self, record: &Record, cluster: &Cluster) {
        let calm = |kill: &&Kill| {
            let ready = kill.started.unwrap_or(kill.at);
            let ready = ready + kill.recovered.unwrap_or_default().as_secs_f64();
            !record.disturbed(kill.at, ready)
        };
        for role in [Role::Leader, Role::Router, Role::Leaf] {
            let of: Vec<_> = record.kills.iter().filter(|kill| kill.role == role).collect();
            self.row(&format!("kills, {role}"), of.len());
            let ready = |calm_only: bool| {
                let those = of.iter().copied().filter(|kill| !calm_only || calm(kill));
                middle_and_longest(those.filter_map(|kill| kill.recovered).collect())
            };
            if let Some(times) = ready(false) {
                self.row(&format!("until ready again, {role}: median / longest"), times);
            }
            if let Some(times) = ready(true).filter(|_| !record.disturbances.is_empty()) {
                self.row("  nobody suspended or shut down meanwhile", times);
            }
        }
        let back = |calm_only: bool| {
            let those = record.kills.iter().filter(|kill| {
                let ready = kill.started.unwrap_or(kill.at);
                let ready = ready + kill.nodes_back.unwrap_or_default().as_secs_f64();
                !calm_only || !record.disturbed(kill.at, ready)
            });
            middle_and_longest(those.filter_map(|kill| kill.nodes_back).collect())
        };
        if let Some(times) = back(false) {
            self.row("leader's start to all nodes back: median / longest", times);
        }
        if let Some(times) = back(true).filter(|_| !record.disturbances.is_empty()) {
            self.row("  nobody suspended or shut down meanwhile", times);
        }
        let cut = record.kills.iter().filter_map(|kill| kill.cut_short).collect();
        if let Some(times) = middle_and_longest(cut) {
            self.row("  leader killed again before that, after", times);
        }
        self.row("restarts that brokers asked for", cluster.restarts());
        self.row("brokers suspended", record.count(Disturbance::Suspended));
        self.row("shutdowns", record.count(Disturbance::Shutdown));
        self.row("brokers that ended in a shutdown", cluster.shutdowns());
    }

    pub(crate) fn clients(&mut self, tries: &Tries, record: &Record) {
        self.row("submits refused or lost, and tried again", tries.failed);
        for (reason, count) in &tries.reasons {
            self.row(&format!("  {reason}"), count);
        }
        self.row("longest wait for the answer of a submit", secs(tries.slowest));
        let gaps = gaps(&tries.times);
        let longest = |calm_only: bool| {
            let mut those = gaps
                .iter()
                .filter(|(time, from)| !calm_only || !record.disturbed(*from, from + time));
            those.next().map_or("-".to_string(), |(time, _)| format!("{time:.2} s"))
        };
        self.row("longest time without a successful submit", longest(false));
        if !record.disturbances.is_empty() {
            self.row("  nobody suspended or shut down meanwhile", longest(true));
        }
        for (time, from) in gaps.iter().take(STORIES).filter(|(time, _)| *time >= LONG) {
            let _ = writeln!(self.text, "  {time:.2} s: {}", record.away(*from, from + time));
        }
        if let Some(times) = middle_and_longest(tries.took.clone()) {
            self.row("median and longest time of a submit", times);
        }
    }

    pub(crate) fn others(&mut self, followed: &Followed, orders: &Orders) {
        self.row("outputs followed live", followed.outputs);
        self.row("events that were waited for", followed.events);
        self.row("followers that found no broker", followed.unopened);
        self.row("orders acknowledged", orders.acknowledged);
        self.row("orders refused or lost, and repeated", orders.repeated);
        self.row("times without starts that were looked at", orders.windows.len());
    }

    pub(crate) fn jobs(&mut self, verdict: &Verdict) {
        self.row("jobs that ended as they should", verdict.good);
        let [canceled, signaled, limited] = verdict.fates;
        self.row(
            "  of these canceled, signaled, out of time",
            format_args!("{canceled}, {signaled}, {limited}"),
        );
        self.row("  longest beyond a time limit", format_args!("{:.2} s", verdict.longest_over));
        self.row("jobs purged meanwhile, and gone", verdict.purged);
        self.row("lines of output compared", verdict.lines);
        self.row("attempts without acknowledgement that ran", verdict.unacknowledged);
    }
}
