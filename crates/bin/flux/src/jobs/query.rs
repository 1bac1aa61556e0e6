//! Which jobs to list.

use flux_api::{
    RpcError,
    job::list::{List, ListRequest},
};
use flux_client::{Client, To};
use flux_id::{Hostlist, Idset};
use flux_model::job_event::{JobResult, StateMask};
use serde_json::{Value, json};

use crate::submission::when;

/// A selection of jobs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Query {
    /// Most jobs; 0 for all.
    pub(crate) count: u64,
    /// States and results; a job needs one of either.
    pub(crate) filter: Filter,
    /// User id; `None` for all users.
    pub(crate) user: Option<u32>,
    /// Name.
    pub(crate) name: Option<String>,
    /// Queues; empty for all.
    pub(crate) queues: Vec<String>,
    /// Hosts or ranks.
    pub(crate) include: Option<Include>,
    /// Finished after this time, in seconds since the epoch; 0 for ever.
    pub(crate) since: f64,
}

/// States and results, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Job states.
    pub(crate) states: u32,
    /// Job results.
    pub(crate) results: u32,
}

impl Filter {
    /// Jobs that are not over.
    pub(crate) const ACTIVE: Filter = Filter { states: 62, results: 0 };
    /// All jobs.
    pub(crate) const ALL: Filter = Filter { states: 127, results: 0 };

    /// Reads names of states and results, separated by commas; the error is the name that is none.
    pub(crate) fn parse(text: &str) -> Result<Filter, String> {
        let mut filter = Filter { states: 0, results: 0 };
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if let Ok(states) = StateMask::parse(name) {
                filter.states |= states.0;
            } else if let Ok(result) = JobResult::parse(name) {
                filter.results |= result.bit();
            } else {
                return Err(name.to_owned());
            }
        }
        Ok(filter)
    }
}

/// A part of the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Include {
    /// An idset of broker ranks.
    Ranks(String),
    /// A hostlist.
    Hosts(String),
}

impl Include {
    /// Reads an idset, else a hostlist.
    pub(crate) fn parse(text: &str) -> Option<Include> {
        if text.parse::<Idset>().is_ok() {
            return Some(Include::Ranks(text.to_owned()));
        }
        text.parse::<Hostlist>().ok().map(|_| Include::Hosts(text.to_owned()))
    }
}

/// Reads a time in the past: `-1h` or `1h` (ago), or a point in time, of a time of the day the last.
pub(crate) fn since(text: &str, now: &jiff::Zoned) -> Option<f64> {
    if text.starts_with('+') {
        return None;
    }
    let current = now.timestamp().as_microsecond() as f64 / 1e6;
    let ago = text.strip_prefix('-').unwrap_or(text);
    let bare = ago.starts_with(|c: char| c.is_ascii_digit()) && ago.parse::<f64>().is_ok();
    // A bare number is a time since the epoch.
    if !bare && let Ok(seconds) = flux_id::fsd::parse(ago) {
        return Some((current - seconds).max(0.0));
    }
    let time = when::epoch(text, now, when::Toward::Past).ok()?;
    (time <= current).then_some(time)
}

impl Query {
    /// The constraint (RFC 31, RFC 43).
    pub(crate) fn constraint(&self) -> Value {
        let Filter { states, results } = self.filter;
        let mut terms = Vec::new();
        match (states, results) {
            (states, 0) => terms.push(json!({"states": [states]})),
            (0, results) => terms.push(json!({"results": [results]})),
            (states, results) => {
                terms.push(json!({"or": [{"states": [states]}, {"results": [results]}]}));
            }
        }
        if let Some(user) = self.user {
            terms.push(json!({"userid": [user]}));
        }
        if let Some(name) = &self.name {
            terms.push(json!({"name": [name]}));
        }
        if !self.queues.is_empty() {
            terms.push(json!({"queue": self.queues}));
        }
        match &self.include {
            Some(Include::Ranks(ranks)) => terms.push(json!({"ranks": [ranks]})),
            Some(Include::Hosts(hosts)) => terms.push(json!({"hostlist": [hosts]})),
            None => {}
        }
        json!({"and": terms})
    }

    /// Asks an instance for the jobs.
    ///
    /// # Errors
    /// What the instance answers.
    pub(crate) fn run(&self, client: &Client) -> Result<Vec<Value>, RpcError> {
        let request = ListRequest {
            max_entries: self.count,
            attrs: vec!["all".into()],
            constraint: Some(self.constraint()),
            since: self.since,
            userid: None,
            states: None,
            results: None,
            name: None,
            queue: None,
        };
        let mut answer = client.call::<List>(To::Any, &request)?;
        Ok(match answer.0.remove("jobs") {
            Some(Value::Array(jobs)) => jobs,
            _ => Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(filter: &str) -> Query {
        Query {
            count: 0,
            filter: Filter::parse(filter).expect("known names"),
            user: Some(7),
            name: None,
            queues: vec![],
            include: None,
            since: 0.0,
        }
    }

    #[test]
    fn filters_name_states_and_results() {
        assert_eq!(Filter::parse("pending,failed"), Ok(Filter { states: 14, results: 2 }));
        assert_eq!(Filter::parse("foo"), Err("foo".into()));
        assert_eq!(
            query("running").constraint(),
            json!({"and": [{"states": [48]}, {"userid": [7]}]})
        );
        assert_eq!(
            query("run,failed").constraint()["and"][0],
            json!({"or": [{"states": [16]}, {"results": [2]}]})
        );
    }

    #[test]
    fn parts_of_the_instance_are_ranks_or_hosts() {
        assert_eq!(Include::parse("0-1"), Some(Include::Ranks("0-1".into())));
        assert_eq!(Include::parse("n[0-1]"), Some(Include::Hosts("n[0-1]".into())));
        assert_eq!(Include::parse("n[0-"), None);
    }

    #[test]
    fn past_times() {
        let now = crate::submission::Context::fixed().now;
        let midnight = 1_795_219_200.0;
        assert_eq!(since("-1h", &now), Some(midnight - 3600.0));
        assert_eq!(since("1h", &now), Some(midnight - 3600.0));
        assert_eq!(since("23:00", &now), Some(midnight - 3600.0));
        assert_eq!(since("tomorrow", &now), None);
        assert_eq!(since("2026-11-20", &now), Some(midnight - 86400.0));
        assert_eq!(since("2026-11-22", &now), None);
        assert_eq!(since("1 hour ago", &now), Some(midnight - 3600.0));
        assert_eq!(since("yesterday noon", &now), Some(midnight - 43200.0));
        assert_eq!(since("x", &now), None);
    }
}
