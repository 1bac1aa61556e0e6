//! Which jobs a request means: constraints over jobs (RFC 31, RFC 43).

use std::collections::{BTreeMap, BTreeSet};

use flux_api::RpcError;
use flux_api::job::list::ListRequest;
use flux_id::hostlist::HostIndex;
use flux_id::{Hostlist, Idset};
use flux_model::constraint::{Constraint, ConstraintError, strings};
use flux_model::job_event::{JobResult, JobState, ResultMask, StateMask};
use flux_proto::Errno;
use serde_json::Value;

use crate::view::JobView;

/// Hosts or ranks that a constraint may name, unless the instance is larger.
pub const TARGETS_MAX: usize = 1024;

/// A time that a job has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the attributes of RFC 43")]
pub enum Time {
    Submit,
    Depend,
    Priority,
    Sched,
    Run,
    Cleanup,
    Inactive,
}

/// How a time compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// One check of a job.
#[derive(Debug, Clone)]
pub enum Check {
    /// Submitted by one of these; `None`: by anybody.
    User(Option<BTreeSet<u32>>),
    /// Has one of these names.
    Name(BTreeSet<String>),
    /// Is in one of these queues; virtual queues of them are among them.
    Queue(BTreeSet<String>),
    /// Is in one of these states.
    State(StateMask),
    /// Has one of these results.
    Result(ResultMask),
    /// Has or had one of these hosts.
    Hosts(HostIndex),
    /// Has or had one of these ranks.
    Ranks(Idset),
    /// Has a time that compares so.
    Time(Time, Comparison, f64),
}

/// What the meaning of a constraint depends on.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// Most hosts or ranks in one operator.
    pub targets_max: usize,
    /// Queues with their parents.
    pub parents: &'a BTreeMap<String, String>,
}

fn bad(text: impl Into<String>) -> ConstraintError {
    ConstraintError::value(text)
}

/// Bits given as numbers, or as names that `parse` knows.
fn mask(
    operator: &str,
    values: &[Value],
    all: u32,
    parse: impl Fn(&str) -> Option<u32>,
) -> Result<u32, ConstraintError> {
    let mut mask = 0;
    for value in values {
        let bits = match value {
            Value::String(name) => parse(name),
            Value::Number(number) => number
                .as_u64()
                .and_then(|bits| u32::try_from(bits).ok())
                .filter(|bits| bits & !all == 0),
            _ => return Err(bad(format!("{operator} value must be a string or integer"))),
        };
        let shown: String = value.to_string().chars().take(80).collect();
        mask |= bits.ok_or_else(|| bad(format!("invalid {operator} value {shown} specified")))?;
    }
    Ok(mask)
}

fn names(operator: &str, values: &[Value]) -> Result<BTreeSet<String>, ConstraintError> {
    Ok(strings(operator, values)?.into_iter().map(str::to_string).collect())
}

fn users(values: &[Value]) -> Result<Check, ConstraintError> {
    let mut users = BTreeSet::new();
    for value in values {
        match value.as_i64() {
            Some(-1 | 0xffff_ffff) => return Ok(Check::User(None)),
            Some(user) => {
                let user = u32::try_from(user).map_err(|_| bad("userid value is out of range"))?;
                users.insert(user);
            }
            None => return Err(bad("userid value must be an integer")),
        }
    }
    Ok(Check::User(Some(users)))
}

fn hosts(values: &[Value], max: usize) -> Result<Check, ConstraintError> {
    let mut all = Hostlist::new();
    for value in strings("hostlist", values)? {
        let hosts: Hostlist =
            value.parse().map_err(|error| bad(format!("invalid hostlist specified: {error}")))?;
        all.append(&hosts).map_err(|_| bad("too many hosts specified"))?;
        if all.len() > max {
            return Err(bad("too many hosts specified"));
        }
    }
    Ok(Check::Hosts(all.index()))
}

fn ranks(values: &[Value], max: usize) -> Result<Check, ConstraintError> {
    let mut all = Idset::new();
    for value in strings("ranks", values)? {
        let ranks: Idset =
            value.parse().map_err(|error| bad(format!("invalid ranks specified: {error}")))?;
        all.insert_all(&ranks);
    }
    if all.len() > max as u64 {
        return Err(bad("too many ranks specified"));
    }
    Ok(Check::Ranks(all))
}

fn time(operator: &str, values: &[Value]) -> Result<Option<Check>, ConstraintError> {
    let time = match operator {
        "t_submit" => Time::Submit,
        "t_depend" => Time::Depend,
        "t_priority" => Time::Priority,
        "t_sched" => Time::Sched,
        "t_run" => Time::Run,
        "t_cleanup" => Time::Cleanup,
        "t_inactive" => Time::Inactive,
        _ => return Ok(None),
    };
    let values = strings(operator, values)?;
    let [value] = values.as_slice() else {
        return Err(bad(format!("{operator} requires one timestamp")));
    };
    let operators = [
        (">=", Comparison::GreaterOrEqual),
        ("<=", Comparison::LessOrEqual),
        (">", Comparison::Greater),
        ("<", Comparison::Less),
    ];
    let found =
        operators.into_iter().find_map(|(sign, how)| Some((how, value.strip_prefix(sign)?)));
    let Some((how, number)) = found else {
        return Err(bad("timestamp comparison operator not specified"));
    };
    let limit = number.trim().parse::<f64>().ok().filter(|limit| *limit >= 0.0);
    let limit = limit.ok_or_else(|| bad("invalid timestamp value specified"))?;
    Ok(Some(Check::Time(time, how, limit)))
}

fn queues(wanted: BTreeSet<String>, parents: &BTreeMap<String, String>) -> Check {
    let children: Vec<String> = parents
        .iter()
        .filter(|(_, parent)| wanted.contains(*parent))
        .map(|(name, _)| name.clone())
        .collect();
    Check::Queue(wanted.into_iter().chain(children).collect())
}

impl Check {
    fn of(
        operator: &str,
        values: &[Value],
        setting: Setting<'_>,
    ) -> Result<Option<Self>, ConstraintError> {
        Ok(Some(match operator {
            "userid" => users(values)?,
            "name" => Self::Name(names(operator, values)?),
            "queue" => queues(names(operator, values)?, setting.parents),
            "states" => {
                let parse = |name: &str| StateMask::parse(name).ok().map(|mask| mask.0);
                Self::State(StateMask(mask(operator, values, StateMask::ALL.0, parse)?))
            }
            "results" => {
                let parse = |name: &str| JobResult::parse(name).ok().map(JobResult::bit);
                Self::Result(ResultMask(mask(operator, values, ResultMask::ALL.0, parse)?))
            }
            "hostlist" => hosts(values, setting.targets_max)?,
            "ranks" => ranks(values, setting.targets_max)?,
            operator => return time(operator, values),
        }))
    }

    fn matches(&self, job: &JobView<'_>) -> bool {
        match self {
            Self::User(users) => users.as_ref().is_none_or(|users| users.contains(&job.userid)),
            Self::Name(names) => job.name.is_some_and(|name| names.contains(name)),
            Self::Queue(queues) => job.queue.is_some_and(|queue| queues.contains(queue)),
            Self::State(states) => states.contains(job.state),
            Self::Result(results) => job.result.is_some_and(|result| results.contains(result)),
            Self::Hosts(hosts) => job
                .nodelist
                .and_then(|nodes| nodes.parse::<Hostlist>().ok())
                .is_some_and(|nodes| nodes.iter().any(|node| hosts.contains(&node))),
            Self::Ranks(ranks) => job
                .ranks
                .and_then(|text| text.parse::<Idset>().ok())
                .is_some_and(|of_job| of_job.intersects(ranks)),
            Self::Time(which, how, limit) => {
                let time = match which {
                    Time::Submit => Some(job.t_submit),
                    Time::Depend => job.t_depend,
                    Time::Priority => job.t_priority,
                    Time::Sched => job.t_sched,
                    Time::Run => job.t_run,
                    Time::Cleanup => job.t_cleanup,
                    Time::Inactive => job.t_inactive,
                };
                time.is_some_and(|time| match how {
                    Comparison::Less => time < *limit,
                    Comparison::LessOrEqual => time <= *limit,
                    Comparison::Greater => time > *limit,
                    Comparison::GreaterOrEqual => time >= *limit,
                })
            }
        }
    }

    /// States in which it may match, and states in which it always does.
    fn states(&self) -> (u32, u32) {
        let ran = StateMask::RUNNING.0 | JobState::Inactive.bit();
        match self {
            Self::State(mask) => (mask.0, mask.0),
            Self::User(None) => (StateMask::ALL.0, StateMask::ALL.0),
            Self::Result(_) | Self::Time(Time::Inactive, ..) => (JobState::Inactive.bit(), 0),
            Self::Time(Time::Cleanup, ..) => {
                (JobState::Cleanup.bit() | JobState::Inactive.bit(), 0)
            }
            Self::Hosts(_) | Self::Ranks(_) | Self::Time(Time::Run, ..) => (ran, 0),
            _ => (StateMask::ALL.0, 0),
        }
    }
}

fn states(constraint: &Constraint<Check>) -> (u32, u32) {
    const ALL: u32 = StateMask::ALL.0;
    let every = |parts: &[Constraint<Check>]| {
        parts.iter().map(states).fold((ALL, ALL), |a, b| (a.0 & b.0, a.1 & b.1))
    };
    match constraint {
        Constraint::And(parts) => every(parts),
        Constraint::Or(parts) if parts.is_empty() => (ALL, ALL),
        Constraint::Or(parts) => {
            parts.iter().map(states).fold((0, 0), |a, b| (a.0 | b.0, a.1 | b.1))
        }
        Constraint::Not(parts) => {
            let (may, must) = every(parts);
            (ALL & !must, ALL & !may)
        }
        Constraint::Leaf(check) => check.states(),
    }
}

/// A constraint ready to judge jobs, with a limit on how often it checks.
#[derive(Debug)]
pub struct Query {
    constraint: Constraint<Check>,
    states: StateMask,
    left: Option<u64>,
}

impl Query {
    /// Reads the constraint of a request, or the keys that came before constraints.
    ///
    /// # Errors
    /// EPROTO says what is wrong with the constraint.
    pub fn of(
        request: &ListRequest,
        setting: Setting<'_>,
        max_comparisons: u64,
    ) -> Result<Self, RpcError> {
        let constraint = match &request.constraint {
            Some(constraint) => {
                Constraint::decode(constraint, |name, values| Check::of(name, values, setting))
            }
            None => former(request, setting),
        };
        let constraint = constraint.map_err(|error| {
            let text = format!("invalid payload: constraint object invalid: {error}");
            RpcError::new(Errno::EPROTO, text)
        })?;
        let states = StateMask(states(&constraint).0);
        let left = (max_comparisons > 0).then_some(max_comparisons);
        Ok(Self { constraint, states, left })
    }

    /// States in which a job may match.
    #[must_use]
    pub fn states(&self) -> StateMask {
        self.states
    }

    /// Whether a job is meant.
    ///
    /// # Errors
    /// EINVAL when it has checked too often.
    pub fn matches(&mut self, job: &JobView<'_>) -> Result<bool, RpcError> {
        let left = &mut self.left;
        self.constraint.try_matches(&mut |check: &Check| {
            if let Some(left) = left {
                *left = left.checked_sub(1).ok_or_else(|| {
                    let text = "Excessive comparisons made, limit search via states or since";
                    RpcError::new(Errno::EINVAL, text)
                })?;
            }
            Ok(check.matches(job))
        })
    }
}

/// The keys that came before constraints: all given must match; 0 and -1 stand for any.
fn former(
    request: &ListRequest,
    setting: Setting<'_>,
) -> Result<Constraint<Check>, ConstraintError> {
    let mut given: Vec<(&str, Value)> = Vec::new();
    if let Some(user) = request.userid {
        given.push(("userid", user.into()));
    }
    if let Some(states) = request.states.filter(|states| *states != 0) {
        given.push(("states", states.into()));
    }
    if let Some(results) = request.results.filter(|results| *results != 0) {
        given.push(("results", results.into()));
    }
    if let Some(name) = &request.name {
        given.push(("name", name.as_str().into()));
    }
    if let Some(queue) = &request.queue {
        given.push(("queue", queue.as_str().into()));
    }
    let mut parts = Vec::new();
    for (operator, value) in given {
        parts.extend(Check::of(operator, &[value], setting)?.map(Constraint::Leaf));
    }
    Ok(Constraint::And(parts))
}
