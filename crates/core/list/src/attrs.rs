//! The attributes of a job, by name (RFC 43), and how a request picks them.

use flux_api::RpcError;
use flux_proto::Errno;

/// One attribute. The order is that of `list-attrs` and of `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attr {
    /// Who submitted it.
    Userid,
    /// 0 to 31.
    Urgency,
    /// Once assigned.
    Priority,
    /// Times in seconds since the epoch: submission.
    TSubmit,
    /// Entered DEPEND.
    TDepend,
    /// First entered PRIORITY.
    TPriority,
    /// First entered SCHED.
    TSched,
    /// Entered RUN.
    TRun,
    /// Entered CLEANUP.
    TCleanup,
    /// Entered INACTIVE.
    TInactive,
    /// Number of the state.
    State,
    /// Name of the job.
    Name,
    /// Working directory.
    Cwd,
    /// Queue.
    Queue,
    /// Project.
    Project,
    /// Bank.
    Bank,
    /// Number of tasks.
    Ntasks,
    /// Number of cores.
    Ncores,
    /// Time limit in seconds.
    Duration,
    /// Number of nodes.
    Nnodes,
    /// Idset of ranks.
    Ranks,
    /// Hostlist of nodes.
    Nodelist,
    /// It ended with result COMPLETED.
    Success,
    /// It had an exception.
    ExceptionOccurred,
    /// Type of the worst.
    ExceptionType,
    /// Severity of the worst.
    ExceptionSeverity,
    /// Note of the worst.
    ExceptionNote,
    /// Number of the result.
    Result,
    /// When its resources expire, in seconds since the epoch; 0 is never.
    Expiration,
    /// Notes of scheduler and user.
    Annotations,
    /// wait(2) status.
    Waitstatus,
    /// Dependencies that are left.
    Dependencies,
}

/// Every attribute with its name, in order.
pub const ALL: [(Attr, &str); 32] = [
    (Attr::Userid, "userid"),
    (Attr::Urgency, "urgency"),
    (Attr::Priority, "priority"),
    (Attr::TSubmit, "t_submit"),
    (Attr::TDepend, "t_depend"),
    (Attr::TPriority, "t_priority"),
    (Attr::TSched, "t_sched"),
    (Attr::TRun, "t_run"),
    (Attr::TCleanup, "t_cleanup"),
    (Attr::TInactive, "t_inactive"),
    (Attr::State, "state"),
    (Attr::Name, "name"),
    (Attr::Cwd, "cwd"),
    (Attr::Queue, "queue"),
    (Attr::Project, "project"),
    (Attr::Bank, "bank"),
    (Attr::Ntasks, "ntasks"),
    (Attr::Ncores, "ncores"),
    (Attr::Duration, "duration"),
    (Attr::Nnodes, "nnodes"),
    (Attr::Ranks, "ranks"),
    (Attr::Nodelist, "nodelist"),
    (Attr::Success, "success"),
    (Attr::ExceptionOccurred, "exception_occurred"),
    (Attr::ExceptionType, "exception_type"),
    (Attr::ExceptionSeverity, "exception_severity"),
    (Attr::ExceptionNote, "exception_note"),
    (Attr::Result, "result"),
    (Attr::Expiration, "expiration"),
    (Attr::Annotations, "annotations"),
    (Attr::Waitstatus, "waitstatus"),
    (Attr::Dependencies, "dependencies"),
];

impl Attr {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        ALL[self as usize].1
    }
}

/// Names for `list-attrs`: every attribute, then `all`.
#[must_use]
pub fn names() -> Vec<String> {
    ALL.iter().map(|(_, name)| *name).chain(["all"]).map(str::to_string).collect()
}

/// The attributes of a request, each once, in the order asked. `id` is accepted, and always given.
///
/// # Errors
/// EINVAL names the first that does not exist.
pub fn parse(wanted: &[String]) -> Result<Vec<Attr>, RpcError> {
    let mut attrs = Vec::new();
    let mut seen = [false; ALL.len()];
    let mut add = |attr: Attr| {
        if !std::mem::replace(&mut seen[attr as usize], true) {
            attrs.push(attr);
        }
    };
    for name in wanted {
        match name.as_str() {
            "id" => {}
            "all" => ALL.iter().for_each(|(attr, _)| add(*attr)),
            name => match ALL.iter().find(|(_, known)| *known == name) {
                Some((attr, _)) => add(*attr),
                None => {
                    let shown: String = name.chars().take(80).collect();
                    let text = format!("{shown} is not a valid attribute");
                    return Err(RpcError::new(Errno::EINVAL, text));
                }
            },
        }
    }
    Ok(attrs)
}
