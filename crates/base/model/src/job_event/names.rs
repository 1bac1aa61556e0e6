//! Numbers and names of job states and results.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

use serde::{Deserialize, Serialize};

/// The name of no state or result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' is not a valid job {what}")]
pub struct NameError {
    what: &'static str,
    name: String,
}

impl NameError {
    fn new(what: &'static str, name: &str) -> Self {
        NameError { what, name: name.chars().take(80).collect() }
    }
}

/// Which of the four spellings of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StringForm {
    /// `DEPEND`
    LongUpper,
    /// `depend`
    LongLower,
    /// `D`
    ShortUpper,
    /// `d`
    ShortLower,
}

type Names = [&'static str; 4];

fn spell(names: &Names, form: StringForm) -> &'static str {
    match form {
        StringForm::LongUpper => names[0],
        StringForm::LongLower => names[1],
        StringForm::ShortUpper => names[2],
        StringForm::ShortLower => names[3],
    }
}

/// Upper and lower case may mix.
fn find<T: Copy>(table: &[(T, Names)], name: &str) -> Option<T> {
    let is =
        |names: &Names| name.eq_ignore_ascii_case(names[0]) || name.eq_ignore_ascii_case(names[2]);
    table.iter().find(|(_, names)| is(names)).map(|&(value, _)| value)
}

/// State of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum JobState {
    /// Submitted, not yet validated.
    New = 1,
    /// Waits for dependencies.
    Depend = 2,
    /// Waits for a priority.
    Priority = 4,
    /// Waits for resources.
    Sched = 8,
    /// Has resources; can run or runs.
    Run = 16,
    /// Ended; gives back what it holds.
    Cleanup = 32,
    /// Over.
    Inactive = 64,
}

const STATES: [(JobState, Names); 7] = [
    (JobState::New, ["NEW", "new", "N", "n"]),
    (JobState::Depend, ["DEPEND", "depend", "D", "d"]),
    (JobState::Priority, ["PRIORITY", "priority", "P", "p"]),
    (JobState::Sched, ["SCHED", "sched", "S", "s"]),
    (JobState::Run, ["RUN", "run", "R", "r"]),
    (JobState::Cleanup, ["CLEANUP", "cleanup", "C", "c"]),
    (JobState::Inactive, ["INACTIVE", "inactive", "I", "i"]),
];

const VIRTUAL_STATES: [(StateMask, Names); 3] = [
    (StateMask::PENDING, ["PENDING", "pending", "PD", "pd"]),
    (StateMask::RUNNING, ["RUNNING", "running", "RU", "ru"]),
    (StateMask::ACTIVE, ["ACTIVE", "active", "A", "a"]),
];

impl JobState {
    /// All states, from NEW to INACTIVE.
    pub const ALL: [JobState; 7] = [
        JobState::New,
        JobState::Depend,
        JobState::Priority,
        JobState::Sched,
        JobState::Run,
        JobState::Cleanup,
        JobState::Inactive,
    ];

    /// The number of the state: one bit.
    pub fn bit(self) -> u32 {
        self as u32
    }

    /// The state with this number.
    pub fn from_bit(bit: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.bit() == bit)
    }

    /// A spelling of its name.
    pub fn name(self, form: StringForm) -> &'static str {
        spell(&STATES[self.bit().trailing_zeros() as usize].1, form)
    }

    /// The state with this long or short name, in any case.
    ///
    /// # Errors
    /// [`NameError`] if there is none; virtual states are masks.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        find(&STATES, name).ok_or_else(|| NameError::new("state", name))
    }
}

/// The long upper-case name.
impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name(StringForm::LongUpper))
    }
}

/// A set of job states.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StateMask(pub u32);

impl StateMask {
    /// DEPEND, PRIORITY, SCHED.
    pub const PENDING: StateMask = StateMask(14);
    /// RUN, CLEANUP.
    pub const RUNNING: StateMask = StateMask(48);
    /// PENDING and RUNNING.
    pub const ACTIVE: StateMask = StateMask(62);
    /// All states.
    pub const ALL: StateMask = StateMask(127);

    /// Whether the set holds a state.
    pub fn contains(self, state: JobState) -> bool {
        self.0 & state.bit() != 0
    }

    /// The set with this name: a state or a virtual state, long or short, in any case.
    ///
    /// # Errors
    /// [`NameError`] if there is none.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        JobState::parse(name)
            .map(StateMask::from)
            .or_else(|err| find(&VIRTUAL_STATES, name).ok_or(err))
    }

    /// The name of the set, if it is one state or a virtual state.
    pub fn name(self, form: StringForm) -> Option<&'static str> {
        let virtual_name = || {
            let (_, names) = VIRTUAL_STATES.iter().find(|(mask, _)| *mask == self)?;
            Some(spell(names, form))
        };
        JobState::from_bit(self.0).map(|state| state.name(form)).or_else(virtual_name)
    }
}

impl From<JobState> for StateMask {
    fn from(state: JobState) -> Self {
        StateMask(state.bit())
    }
}

impl BitOr for StateMask {
    type Output = StateMask;

    fn bitor(self, other: StateMask) -> StateMask {
        StateMask(self.0 | other.0)
    }
}

impl BitOrAssign for StateMask {
    fn bitor_assign(&mut self, other: StateMask) {
        self.0 |= other.0;
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum JobResult {
    /// Ran and ended with status 0.
    Completed = 1,
    /// Any other end.
    Failed = 2,
    /// Ended by an exception of type `cancel`.
    Canceled = 4,
    /// Ended by an exception of type `timeout`.
    Timeout = 8,
}

const RESULTS: [(JobResult, Names); 4] = [
    (JobResult::Completed, ["COMPLETED", "completed", "CD", "cd"]),
    (JobResult::Failed, ["FAILED", "failed", "F", "f"]),
    (JobResult::Canceled, ["CANCELED", "canceled", "CA", "ca"]),
    (JobResult::Timeout, ["TIMEOUT", "timeout", "TO", "to"]),
];

impl JobResult {
    /// All results.
    pub const ALL: [JobResult; 4] =
        [JobResult::Completed, JobResult::Failed, JobResult::Canceled, JobResult::Timeout];

    /// The number of the result: one bit.
    pub fn bit(self) -> u32 {
        self as u32
    }

    /// The result with this number.
    pub fn from_bit(bit: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|result| result.bit() == bit)
    }

    /// A spelling of its name.
    pub fn name(self, form: StringForm) -> &'static str {
        spell(&RESULTS[self.bit().trailing_zeros() as usize].1, form)
    }

    /// The result with this long or short name, in any case.
    ///
    /// # Errors
    /// [`NameError`] if there is none.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        find(&RESULTS, name).ok_or_else(|| NameError::new("result", name))
    }
}

/// The long upper-case name.
impl fmt::Display for JobResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name(StringForm::LongUpper))
    }
}

/// A set of job results.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ResultMask(pub u32);

impl ResultMask {
    /// All results.
    pub const ALL: ResultMask = ResultMask(15);

    /// Whether the set holds a result.
    pub fn contains(self, result: JobResult) -> bool {
        self.0 & result.bit() != 0
    }
}

impl From<JobResult> for ResultMask {
    fn from(result: JobResult) -> Self {
        ResultMask(result.bit())
    }
}

impl BitOr for ResultMask {
    type Output = ResultMask;

    fn bitor(self, other: ResultMask) -> ResultMask {
        ResultMask(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_documented_numbers_and_names() {
        let forms = [
            StringForm::LongUpper,
            StringForm::LongLower,
            StringForm::ShortUpper,
            StringForm::ShortLower,
        ];
        let mut table = String::new();
        for mask in [1, 2, 4, 8, 16, 32, 64, 14, 48, 62] {
            let names = forms.map(|form| StateMask(mask).name(form).unwrap());
            for name in names {
                assert_eq!(StateMask::parse(name).unwrap(), StateMask(mask));
            }
            table += &format!("{mask} {}\n", names.join(" "));
        }
        assert_eq!(
            table,
            "1 NEW new N n\n2 DEPEND depend D d\n4 PRIORITY priority P p\n8 SCHED sched S s\n\
             16 RUN run R r\n32 CLEANUP cleanup C c\n64 INACTIVE inactive I i\n\
             14 PENDING pending PD pd\n48 RUNNING running RU ru\n62 ACTIVE active A a\n"
        );
        assert_eq!(StateMask(3).name(StringForm::LongUpper), None);
        assert_eq!(
            StateMask::parse("zzz").unwrap_err().to_string(),
            "'zzz' is not a valid job state"
        );
        assert!(JobState::parse("pending").is_err());
        for state in JobState::ALL {
            assert_eq!(JobState::from_bit(state.bit()), Some(state));
        }
    }

    #[test]
    fn results_have_the_documented_numbers_and_names() {
        for (bit, upper, short) in [
            (1, "COMPLETED", "cd"),
            (2, "FAILED", "f"),
            (4, "CANCELED", "ca"),
            (8, "TIMEOUT", "to"),
        ] {
            let result = JobResult::from_bit(bit).unwrap();
            assert_eq!(result.to_string(), upper);
            assert_eq!(result.name(StringForm::ShortLower), short);
            assert_eq!(JobResult::parse(upper).unwrap(), result);
            assert_eq!(JobResult::parse(short).unwrap(), result);
            assert!(ResultMask::ALL.contains(result));
        }
        assert!(JobResult::parse("c").is_err());
    }
}
