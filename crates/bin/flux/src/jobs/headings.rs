//! The fields of a job and the formats built on them.

use flux_format::Headings;

/// Built-in formats of `flux jobs`: name, format, description.
pub(crate) const FORMATS: &[(&str, &str, &str)] = &[
    (
        "default",
        "{id.f58:>12} ?:{queue:<8.8} +:{username:<8} {name:<10.10+} {status_abbrev:>2.2} \
         {ntasks:>6} {nnodes:>6h} {contextual_time!F:>8h} {contextual_info}",
        "Default flux-jobs format string",
    ),
    (
        "cute",
        "{id.f58:>12} ?:{queue:<8.8} +:{username:<8} {name:<10.10+} {status_emoji:>5.5} \
         {ntasks:>6} {nnodes:>6h} {contextual_time!F:>8h} {contextual_info}",
        "Cute flux-jobs format string (default with emojis)",
    ),
    (
        "long",
        "{id.f58:>12} ?:{queue:<8.8} +:{username:<8} {name:<10.10+} {status:>9.9} \
         {ntasks:>6} {nnodes:>6h} {t_submit!d:%b%d %R::>12} {t_remaining!F:>12h} \
         {contextual_time!F:>8h} {contextual_info}",
        "Extended flux-jobs format string",
    ),
    (
        "deps",
        "{id.f58:>12} ?:{queue:<8.8} {name:<10.10+} {urgency:<3} {priority:<12} {state:<8.8} \
         {dependencies}",
        "Show job urgency, priority, and dependencies",
    ),
    (
        "endreason",
        "{id.f58:>12} ?:{queue:<8.8} +:{username:<8} {name:<10.10+} {status_abbrev:>2.2} \
         {t_inactive!d:%b%d %R::>12h} {inactive_reason}",
        "Show why each job ended",
    ),
];

/// The headings of the fields of a job.
pub(crate) struct JobHeadings;

const NAMES: &[(&str, &str)] = &[
    ("userid", "UID"),
    ("username", "USER"),
    ("urgency", "URG"),
    ("priority", "PRI"),
    ("state", "STATE"),
    ("state_single", "S"),
    ("state_emoji", "S"),
    ("name", "NAME"),
    ("cwd", "CWD"),
    ("queue", "QUEUE"),
    ("project", "PROJECT"),
    ("bank", "BANK"),
    ("ntasks", "NTASKS"),
    ("ncores", "NCORES"),
    ("duration", "DURATION"),
    ("nnodes", "NNODES"),
    ("expiration", "EXPIRATION"),
    ("t_remaining", "T_REMAINING"),
    ("ranks", "RANKS"),
    ("nodelist", "NODELIST"),
    ("success", "SUCCESS"),
    ("result", "RESULT"),
    ("result_abbrev", "RS"),
    ("result_emoji", "RS"),
    ("t_submit", "T_SUBMIT"),
    ("t_depend", "T_DEPEND"),
    ("t_priority", "T_PRIORITY"),
    ("t_sched", "T_SCHED"),
    ("t_run", "T_RUN"),
    ("t_cleanup", "T_CLEANUP"),
    ("t_inactive", "T_INACTIVE"),
    ("runtime", "RUNTIME"),
    ("status", "STATUS"),
    ("status_abbrev", "ST"),
    ("status_emoji", "ST"),
    ("waitstatus", "WSTATUS"),
    ("returncode", "RC"),
    ("exception.occurred", "EXCEPTION-OCCURRED"),
    ("exception.severity", "EXCEPTION-SEVERITY"),
    ("exception.type", "EXCEPTION-TYPE"),
    ("exception.note", "EXCEPTION-NOTE"),
    ("annotations", "ANNOTATIONS"),
    ("sched", "SCHED"),
    ("user", "USER"),
    ("sched.t_estimate", "T_ESTIMATE"),
    ("sched.reason_pending", "REASON"),
    ("sched.resource_summary", "RESOURCES"),
    ("dependencies", "DEPENDENCIES"),
    ("contextual_info", "INFO"),
    ("contextual_time", "TIME"),
    ("inactive_reason", "INACTIVE-REASON"),
    ("uri", "URI"),
    ("uri.local", "URI"),
    ("instance.stats.total", "NJOBS"),
    ("instance.utilization", "CORE%"),
    ("instance.gpu_utilization", "GPU%"),
    ("instance.progress", "PROG"),
];

const KINDS: [(&str, &str); 3] = [("ncores", "CORES"), ("ngpus", "GPUS"), ("nnodes", "NODES")];

impl Headings for JobHeadings {
    fn heading(&self, field: &str) -> Option<&str> {
        if matches!(
            field,
            "id" | "id.f58"
                | "id.f58plain"
                | "id.dec"
                | "id.hex"
                | "id.dothex"
                | "id.kvs"
                | "id.words"
                | "id.emoji"
        ) {
            return Some("JOBID");
        }
        if let Some((_, heading)) = NAMES.iter().find(|(name, _)| *name == field) {
            return Some(heading);
        }
        if let Some(rest) = field.strip_prefix("instance.resources.") {
            let (state, kind) = rest.split_once('.')?;
            let (_, plural) = KINDS.iter().find(|(name, _)| *name == kind)?;
            return match state {
                "all" => Some(plural),
                "up" => Some("UP"),
                "down" => Some("DOWN"),
                "allocated" => Some("USED"),
                "free" => Some("FREE"),
                _ => None,
            };
        }
        // Annotations can have any key; without a heading of its own it is the heading.
        let own = |prefix: &str| field.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty());
        (own("annotations.") || own("sched.") || own("user.")).then(|| upper(field)).flatten()
    }
}

/// Upper case of an annotation's name. Headings live as long as the program; formats name few.
fn upper(field: &str) -> Option<&'static str> {
    use std::sync::Mutex;
    static SEEN: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let text = field.to_uppercase();
    let mut seen = SEEN.lock().ok()?;
    if let Some(known) = seen.iter().find(|known| **known == text) {
        return Some(known);
    }
    let leaked: &'static str = String::leak(text);
    seen.push(leaked);
    Some(leaked)
}

#[cfg(test)]
mod tests {
    use flux_format::Format;

    use super::*;

    #[test]
    fn every_builtin_format_uses_known_fields() {
        for (name, format, _) in FORMATS {
            let format = Format::parse(format).expect(name);
            format.check(&JobHeadings).expect(name);
        }
    }

    #[test]
    fn headings_are_those_of_flux() {
        let heading = |field| JobHeadings.heading(field).map(str::to_owned);
        assert_eq!(heading("id.words").as_deref(), Some("JOBID"));
        assert_eq!(heading("instance.resources.allocated.ncores").as_deref(), Some("USED"));
        assert_eq!(heading("instance.resources.all.ngpus").as_deref(), Some("GPUS"));
        assert_eq!(heading("annotations.user.x").as_deref(), Some("ANNOTATIONS.USER.X"));
        assert_eq!(heading("nosuch"), None);
        assert_eq!(heading("instance.resources.all.x"), None);
    }
}
