//! What was found, and the account of it.

use crate::output;

/// Prints findings as they come, and counts them.
#[derive(Debug)]
pub(crate) struct Report {
    quiet: bool,
    fine: u32,
    warned: u32,
    failed: u32,
}

impl Report {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet, fine: 0, warned: 0, failed: 0 }
    }

    /// All is well.
    pub(crate) fn ok(&mut self, name: &str, text: impl AsRef<str>) {
        self.fine += 1;
        if !self.quiet {
            output::line(&format!("ok    {name}: {}", text.as_ref()));
        }
    }

    /// It works, but not as well as it could.
    pub(crate) fn warn(&mut self, name: &str, text: impl AsRef<str>, advice: &str) {
        self.warned += 1;
        output::line(&format!("warn  {name}: {}\n      do: {advice}", text.as_ref()));
    }

    /// The instance cannot work so.
    pub(crate) fn fail(&mut self, name: &str, text: impl AsRef<str>, advice: &str) {
        self.failed += 1;
        output::line(&format!("FAIL  {name}: {}\n      do: {advice}", text.as_ref()));
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed > 0
    }

    pub(crate) fn summary(&self) -> String {
        format!("{} checks are fine, {} warnings, {} failures", self.fine, self.warned, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_fail() {
        let mut report = Report::new(true);
        report.ok("a", "fine");
        report.warn("b", "odd", "look");
        assert!(!report.has_failed());
        report.fail("c", "broken", "mend");
        assert!(report.has_failed());
        assert_eq!(report.summary(), "1 checks are fine, 1 warnings, 1 failures");
    }
}
