//! The instance that a job is, as far as it can be asked.

use std::sync::atomic::{AtomicUsize, Ordering};

use flux_api::{
    body::AnyObject,
    job::list::JobStats,
    resource::{SchedStatus, SchedStatus_},
};
use flux_client::{Client, To};
use flux_format::Field;
use serde_json::{Map, Value};

use crate::resources::Resources;

/// What is known of a nested instance.
#[derive(Debug, Clone, Default)]
pub(crate) struct Instance {
    /// Counts of its jobs.
    pub(crate) stats: Map<String, Value>,
    /// Cores, GPUs and nodes of each of [`Resources::STATES`].
    counts: [[u64; 3]; 5],
}

/// The local form of a URI, when its socket is on this host.
pub(crate) fn local_uri(uri: &str) -> Option<String> {
    let path = if let Some(path) = uri.strip_prefix("local://") {
        path.to_owned()
    } else {
        let rest = uri.strip_prefix("ssh://")?;
        format!("/{}", rest.split_once('/')?.1)
    };
    Some(format!("local://{path}"))
}

/// Connects to an instance of this host.
pub(crate) fn connect(uri: &str) -> Option<Client> {
    let local = local_uri(uri)?;
    // Without the socket there is nothing to wait for.
    let path = local.strip_prefix("local://")?;
    std::fs::metadata(path).ok()?;
    Client::open(Some(&local)).ok()
}

/// Asks several instances at once, at most `threads` at a time; `None` for those that cannot be
/// reached. The answers are in the order of the URIs.
pub(crate) fn ask_each<T: Send>(
    uris: &[&str],
    threads: usize,
    ask: impl Fn(&Client) -> T + Sync,
) -> Vec<Option<T>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut answers = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(uri) = uris.get(at) else { return answers };
            answers.push((at, connect(uri).map(|client| ask(&client))));
        }
    };
    let mut answers: Vec<Option<T>> = uris.iter().map(|_| None).collect();
    let mut put = |found: Vec<(usize, Option<T>)>| {
        for (at, answer) in found {
            answers[at] = answer;
        }
    };
    match threads.min(uris.len()) {
        0 | 1 => put(work()),
        threads => std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            for worker in workers {
                match worker.join() {
                    Ok(found) => put(found),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        }),
    }
    answers
}

impl Instance {
    /// Asks an instance; what it does not answer stays unknown.
    pub(crate) fn ask(client: &Client) -> Instance {
        let stats = client.send::<JobStats>(To::Any, &AnyObject::default());
        let resources = client.send::<SchedStatus_>(To::Any, &AnyObject::default());
        Instance {
            stats: stats.wait().map(|answer| answer.0).unwrap_or_default(),
            counts: resources.wait().map(|answer| count(&answer)).unwrap_or_default(),
        }
    }

    fn state(&self, name: &str) -> u64 {
        self.stats.get("job_states").and_then(|states| states[name].as_u64()).unwrap_or(0)
    }

    fn count(&self, state: &str, kind: usize) -> Option<u64> {
        let at = Resources::STATES.iter().position(|known| *known == state)?;
        self.counts[at].get(kind).copied()
    }

    /// How much of a kind (0 cores, 1 gpus, 2 nodes) is in a state.
    pub(crate) fn amount(&self, state: &str, kind: usize) -> u64 {
        self.count(state, kind).unwrap_or(0)
    }

    fn share(&self, kind: usize) -> Field<'static> {
        match (self.amount("all", kind), self.amount("allocated", kind)) {
            (0, _) => Field::Empty,
            (all, allocated) => percent(allocated as f64 / all as f64),
        }
    }

    /// The value of `instance.NAME`.
    pub(crate) fn field(&self, name: &str) -> Option<Field<'static>> {
        let total = self.state("total");
        Some(match name {
            "stats.total" => Field::Int(i64::try_from(total).unwrap_or(i64::MAX)),
            "utilization" => self.share(0),
            "gpu_utilization" => self.share(1),
            "progress" if total == 0 => Field::Empty,
            "progress" => percent(self.state("inactive") as f64 / total as f64),
            _ => {
                let (state, kind) = name.strip_prefix("resources.")?.split_once('.')?;
                let kind = ["ncores", "ngpus", "nnodes"].iter().position(|k| *k == kind)?;
                Field::Int(i64::try_from(self.count(state, kind)?).unwrap_or(i64::MAX))
            }
        })
    }
}

/// A fraction as the commands show it unless the format converts it.
fn percent(fraction: f64) -> Field<'static> {
    Field::Float(fraction)
}

fn count(status: &SchedStatus) -> [[u64; 3]; 5] {
    let found = Resources::of(status).unwrap_or_default();
    Resources::STATES.map(|state| {
        let set = found.state(state);
        set.map_or([0; 3], |set| [set.ncores(), set.ngpus(), set.nnodes() as u64])
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn many_are_asked_at_once_and_answer_in_order() {
        for threads in [0, 1, 3, 100] {
            let uris = ["local:///nonexistent/a", "tcp://x", "local:///nonexistent/b"];
            let answers = ask_each(&uris, threads, |_| 1);
            assert_eq!(answers, [None, None, None], "{threads} threads");
            assert_eq!(ask_each(&[], threads, |_| 1), Vec::<Option<i32>>::new());
        }
    }

    #[test]
    fn uris_of_this_host_are_local() {
        assert_eq!(
            local_uri("ssh://vm/tmp/flux/local-0").as_deref(),
            Some("local:///tmp/flux/local-0")
        );
        assert_eq!(local_uri("local:///a").as_deref(), Some("local:///a"));
        assert_eq!(local_uri("tcp://x/y"), None);
    }

    #[test]
    fn counts_and_shares() {
        let stats = json!({"job_states": {"total": 4, "inactive": 1}});
        let instance = Instance {
            stats: stats.as_object().expect("object").clone(),
            counts: [[4, 0, 1], [4, 0, 1], [2, 0, 1], [2, 0, 1], [8, 0, 2]],
        };
        let number = |name: &str| instance.field(name).and_then(|field| field.number());
        assert_eq!(number("resources.free.ncores"), Some(2.0));
        assert_eq!(number("resources.up.nnodes"), Some(1.0));
        assert_eq!(number("utilization"), Some(0.25));
        assert_eq!(number("gpu_utilization"), None);
        assert_eq!(number("progress"), Some(0.25));
        assert_eq!(number("stats.total"), Some(4.0));
    }
}
