//! Policy limits on duration and size of jobs (RFC 33).

use std::collections::BTreeMap;

use flux_id::fsd;
use flux_model::jobspec::Jobspec;
use serde_json::Value;

use crate::submit::system;

/// Names of the sizes that can be limited.
pub const SIZES: [&str; 3] = ["nnodes", "ncores", "ngpus"];

/// Limits of one policy table; `None` where it says nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Limits {
    /// Seconds; 0 for unlimited.
    pub duration: Option<f64>,
    /// In the order of [`SIZES`]; -1 for unlimited.
    pub max: [Option<i64>; 3],
    /// In the order of [`SIZES`]; -1 for unlimited.
    pub min: [Option<i64>; 3],
}

impl Limits {
    fn or(self, other: &Self) -> Self {
        let either = |a: [Option<i64>; 3], b: [Option<i64>; 3]| {
            let [a0, a1, a2] = a;
            let [b0, b1, b2] = b;
            [a0.or(b0), a1.or(b1), a2.or(b2)]
        };
        Self {
            duration: self.duration.or(other.duration),
            max: either(self.max, other.max),
            min: either(self.min, other.min),
        }
    }
}

/// The limits of all queues.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    /// For every queue.
    pub general: Limits,
    /// Of each queue; a virtual queue has those of its parent below its own.
    pub queues: BTreeMap<String, Limits>,
}

impl Policy {
    /// Adds the limits of a queue over those of its parent.
    pub fn add(&mut self, name: &str, own: Limits, parent: Option<&Limits>) {
        let limits = match parent {
            Some(parent) => own.or(parent),
            None => own,
        };
        self.queues.insert(name.to_string(), limits);
    }

    /// A limit and where it comes from, for people.
    fn pick<T: Copy>(
        &self,
        queue: Option<&str>,
        get: impl Fn(&Limits) -> Option<T>,
    ) -> Option<(T, String)> {
        let own = queue.and_then(|queue| Some((get(self.queues.get(queue)?)?, queue)));
        match own {
            Some((limit, queue)) => Some((limit, format!(" for queue {queue}"))),
            None => get(&self.general).map(|limit| (limit, String::new())),
        }
    }

    /// Checks a new or changed job.
    ///
    /// # Errors
    /// Which limit it breaks.
    pub fn check(&self, jobspec: &Value, queue: Option<&str>) -> Result<(), String> {
        let duration = system(jobspec, "duration").and_then(Value::as_f64).unwrap_or(0.0);
        self.check_duration(duration, queue)?;
        let any = |limits: &Limits| limits.max.iter().chain(&limits.min).any(Option::is_some);
        let sized =
            any(&self.general) || queue.and_then(|queue| self.queues.get(queue)).is_some_and(any);
        if !sized {
            return Ok(());
        }
        let request = Jobspec::from_value(jobspec.clone())
            .and_then(|jobspec| jobspec.request())
            .map_err(|error| error.to_string())?;
        let nodes = request.total_nodes().map_or(0, |(min, _)| min);
        let counts = [nodes, request.total_cores().0, request.total_gpus().0];
        for (at, (name, count)) in SIZES.iter().zip(counts).enumerate() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            if let Some((max, source)) = self.pick(queue, |limits| limits.max[at])
                && max >= 0
                && count > max
            {
                return Err(format!(
                    "requested {name} ({count}) exceeds policy limit of {max}{source}"
                ));
            }
            if let Some((min, source)) = self.pick(queue, |limits| limits.min[at])
                && min >= 0
                && count < min
            {
                return Err(format!(
                    "requested {name} ({count}) is under policy limit of {min}{source}"
                ));
            }
        }
        Ok(())
    }

    /// Checks a duration in seconds; 0 is unlimited.
    ///
    /// # Errors
    /// The limit that it breaks.
    pub fn check_duration(&self, duration: f64, queue: Option<&str>) -> Result<(), String> {
        let Some((limit, source)) = self.pick(queue, |limits| limits.duration) else {
            return Ok(());
        };
        if limit <= 0.0 || (duration > 0.0 && duration <= limit) {
            return Ok(());
        }
        let asked =
            if duration > 0.0 { fsd::format_short(duration) } else { "unlimited".to_string() };
        let limit = fsd::format_short(limit);
        Err(format!("requested duration ({asked}) exceeds policy limit of {limit}{source}"))
    }
}
