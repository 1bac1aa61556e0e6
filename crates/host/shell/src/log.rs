//! Messages of the shell itself.

/// How important a message is, as in eventlogs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The job ends for it.
    Fatal = 2,
    /// Something failed.
    Error = 3,
    /// Something is not as it should be.
    Warn = 4,
    /// Worth knowing.
    Notice = 5,
    /// With `verbose=1`.
    Debug = 6,
    /// With `verbose=2`.
    Trace = 7,
}

impl Level {
    /// Name before a message; notices have none.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Level::Fatal => "FATAL",
            Level::Error => "ERROR",
            Level::Warn => "WARN",
            Level::Notice => "",
            Level::Debug => "DEBUG",
            Level::Trace => "TRACE",
        }
    }

    /// Whether it is said at this verbosity.
    #[must_use]
    pub fn is_shown(self, verbose: i64) -> bool {
        i64::from(self as u8) <= 5 + verbose
    }
}

/// The line in a file: `flux-shell[0]: WARN: component: text`.
#[must_use]
pub fn line(rank: Option<u32>, level: Level, component: &str, text: &str) -> String {
    let mut line = "flux-shell".to_string();
    if let Some(rank) = rank {
        line.push_str(&format!("[{rank}]"));
    }
    for part in [level.name(), component, text] {
        if !part.is_empty() {
            line.push_str(": ");
            line.push_str(part);
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_rank_level_and_component() {
        assert_eq!(line(Some(1), Level::Warn, "vm", "x"), "flux-shell[1]: WARN: vm: x\n");
        assert_eq!(line(None, Level::Fatal, "", "x"), "flux-shell: FATAL: x\n");
        assert_eq!(line(Some(0), Level::Notice, "signal", "x"), "flux-shell[0]: signal: x\n");
        assert!(Level::Notice.is_shown(0) && !Level::Debug.is_shown(0) && Level::Trace.is_shown(2));
    }
}
