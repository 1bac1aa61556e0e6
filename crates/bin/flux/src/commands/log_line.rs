//! Lines of the broker's log: their form on the wire and for people.

/// Names of the severities, by number.
pub(crate) const SEVERITIES: [&str; 8] =
    ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// A parsed line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogLine<'a> {
    /// 0..=7.
    pub(crate) severity: usize,
    /// UTC, `2026-11-20T23:38:27.785629Z`.
    pub(crate) timestamp: &'a str,
    /// Rank of the broker that logged it.
    pub(crate) rank: &'a str,
    /// Who logged it.
    pub(crate) appname: &'a str,
    /// What was logged.
    pub(crate) text: &'a str,
}

impl<'a> LogLine<'a> {
    /// Reads `<PRI>1 TIMESTAMP RANK APPNAME PROCID - - TEXT`, PRI being 8 times the severity plus
    /// the facility.
    pub(crate) fn parse(line: &'a str) -> Option<LogLine<'a>> {
        let (pri, rest) = line.strip_prefix('<')?.split_once('>')?;
        let severity = pri.parse::<usize>().ok()? >> 3;
        let mut words = rest.splitn(8, ' ');
        let mut next = || words.next();
        let (_version, timestamp, rank, appname) = (next()?, next()?, next()?, next()?);
        let (_process, _message, _data) = (next()?, next()?, next()?);
        let text = next().unwrap_or("").trim_end_matches(['\n', '\0']);
        (severity < SEVERITIES.len()).then_some(LogLine {
            severity,
            timestamp,
            rank,
            appname,
            text,
        })
    }

    /// `APP.SEVERITY[RANK]: TEXT`.
    pub(crate) fn message(&self) -> String {
        let LogLine { severity, rank, appname, text, .. } = self;
        format!("{appname}.{}[{rank}]: {text}", SEVERITIES[*severity])
    }

    /// `TIMESTAMP APP.SEVERITY[RANK]: TEXT`.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.timestamp, self.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_as_dmesg_shows_them() {
        let line = LogLine::parse("<48>1 2026-11-20T23:35:10.592748Z 0 logger - - - hello\n\0");
        assert_eq!(
            line.map(|line| line.line()).as_deref(),
            Some("2026-11-20T23:35:10.592748Z logger.info[0]: hello")
        );
        let line = LogLine::parse("<24>1 2026-11-20T23:35:10.592748Z 3 broker - - - a  b").unwrap();
        assert_eq!(line.message(), "broker.err[3]: a  b");
        for bad in ["", "<48>1 x", "hello", "<99999>1 t 0 a - - - x", "<-1>1 t 0 a - - - x"] {
            assert_eq!(LogLine::parse(bad), None, "{bad}");
        }
    }
}
