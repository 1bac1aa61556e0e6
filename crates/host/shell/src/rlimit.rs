//! Soft limits of tasks.

use flux_proc::descriptors;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

/// A limit that cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid shell option rlimit.{name}={value}")]
pub struct RlimitError {
    name: String,
    value: String,
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "cpu" => Resource::Cpu,
        "fsize" => Resource::Fsize,
        "data" => Resource::Data,
        "stack" => Resource::Stack,
        "core" => Resource::Core,
        "nofile" | "ofile" => Resource::Nofile,
        "as" => Resource::As,
        "rss" => Resource::Rss,
        "nproc" => Resource::Nproc,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        _ => return None,
    })
}

/// The limits of tasks that differ from the shell's own.
#[derive(Debug, Default)]
pub struct Limits {
    changes: Vec<(Resource, Rlimit, Rlimit)>,
}

impl Limits {
    /// Compares with the present limits; the texts are warnings about limits that had to be
    /// lowered to the hard limit.
    ///
    /// # Errors
    /// The first name or value that is none.
    pub fn plan(wanted: &[(String, Value)]) -> Result<(Self, Vec<String>), RlimitError> {
        let mut limits = Self::default();
        let mut warnings = Vec::new();
        for (name, value) in wanted {
            let bad = || RlimitError { name: name.clone(), value: value.to_string() };
            let resource = resource(name).ok_or_else(bad)?;
            let soft = match value.as_i64() {
                Some(-1) => None,
                Some(number) => Some(u64::try_from(number).map_err(|_| bad())?),
                // RLIM_INFINITY as an unsigned number.
                None => match value.as_u64().ok_or_else(bad)? {
                    u64::MAX => None,
                    number => Some(number),
                },
            };
            let now = getrlimit(resource);
            let mut wanted = Rlimit { current: soft, maximum: now.maximum };
            if let Some(maximum) = now.maximum
                && soft.is_none_or(|soft| soft > maximum)
            {
                if soft.is_some() {
                    warnings
                        .push(format!("{name} exceeds current max, raising value to hard limit"));
                }
                wanted.current = Some(maximum);
            }
            if wanted.current != now.current {
                limits.changes.push((resource, wanted, now));
            }
        }
        if !wanted.iter().any(|(name, _)| resource(name) == Some(Resource::Nofile))
            && let Some(soft) = descriptors::given()
        {
            let now = getrlimit(Resource::Nofile);
            limits.changes.push((Resource::Nofile, Rlimit { current: Some(soft), ..now }, now));
        }
        Ok((limits, warnings))
    }

    /// The limits of a task that are not those of the shell.
    #[must_use]
    pub fn wanted(&self) -> Vec<(Resource, Rlimit)> {
        self.changes.iter().map(|(resource, wanted, _)| (*resource, *wanted)).collect()
    }

    /// Runs `f`, which starts a process and opens nothing, under the limits. The shell itself goes on under its own.
    pub fn around<T>(&self, f: impl FnOnce() -> T) -> T {
        for (resource, wanted, _) in &self.changes {
            // Within the hard limit this cannot be refused.
            let _ = setrlimit(*resource, *wanted);
        }
        let result = f();
        for (resource, _, before) in &self.changes {
            let _ = setrlimit(*resource, *before);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_hold_for_what_is_started_only() {
        let before = getrlimit(Resource::Core).current;
        let (limits, warnings) =
            Limits::plan(&[("core".into(), json!(0)), ("stack".into(), json!(1 << 20))]).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        let out = limits.around(|| {
            std::process::Command::new("/bin/sh").args(["-c", "ulimit -s; ulimit -c"]).output()
        });
        assert_eq!(String::from_utf8(out.unwrap().stdout).unwrap(), "1024\n0\n");
        assert_eq!(getrlimit(Resource::Core).current, before);
    }

    #[test]
    fn nonsense_is_refused() {
        let error = Limits::plan(&[("nope".into(), json!(1))]).unwrap_err();
        assert_eq!(error.to_string(), "invalid shell option rlimit.nope=1");
        assert!(Limits::plan(&[("core".into(), json!("x"))]).is_err());
        assert!(Limits::plan(&[("core".into(), json!(-2))]).is_err());
    }
}
