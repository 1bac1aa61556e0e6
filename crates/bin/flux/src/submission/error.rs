//! Why a job cannot be submitted as asked.

/// The texts follow `flux-NAME: ERROR: `; scripts match some of them.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum SubmitError {
    #[error("job command and arguments are missing")]
    NoCommand,
    #[error("Per-resource options can't be used with per-task options. (See --help for details)")]
    MixedResources,
    #[error("node count must be an integer >= 1 (if set)")]
    NodeCount,
    #[error("task count must be a integer >= 1")]
    TaskCount,
    #[error("{0} must be an integer >= 1")]
    Count(&'static str),
    #[error("--exclusive requires a node count (--nodes)")]
    ExclusiveWithoutNodes,
    #[error("--resources-shape and --resources-json exclude each other and node or core counts")]
    MixedShape,
    #[error("--{option}={value}: {problem}")]
    Option { option: &'static str, value: String, problem: String },
    #[error("invalid Flux standard duration")]
    Duration,
    #[error("Invalid datetime: \"{0}\"")]
    Datetime(String),
    #[error("--{option}: [Errno {errno}] {text}: '{path}'")]
    File { option: &'static str, errno: i32, text: String, path: String },
    #[error("{text}: '{path}'")]
    Script { text: String, path: String },
    #[error("{0} does not appear to be a script")]
    NotScript(String),
    #[error("{0}: {1}")]
    Directives(String, String),
    #[error("--env: variable ${0} is not set")]
    Unset(String),
    #[error("--env: {0}: invalid placeholder in value")]
    Placeholder(String),
    #[error("--env: {0}: rule files nest too deeply")]
    RuleDepth(String),
    #[error("--{option}: invalid pattern '{pattern}': {problem}")]
    Pattern { option: &'static str, pattern: String, problem: String },
    #[error("No corresponding rlimit matching \"{0}\"")]
    Rlimit(String),
    #[error("Invalid value in --rlimit={0}")]
    RlimitValue(String),
    #[error("--signal={0}: signal '{1}' is invalid")]
    Signal(String, String),
    #[error("--signal={0}: invalid time: '{1}'")]
    SignalTime(String, String),
    #[error("--flags: Unknown flag {0}")]
    Flag(String),
    #[error("invalid urgency '{0}': expected 0 to 31, hold, default or expedite")]
    Urgency(String),
    #[error("--{0} takes the form NAME=VALUE")]
    NoName(&'static str),
    #[error("{0} is not a key of a jobspec")]
    Key(String),
    #[error("--dependency={0}: expected SCHEME:VALUE")]
    Dependency(String),
    #[error("--cc and --bcc exclude each other")]
    BothCopies,
    #[error("--{0}={1}: invalid idset")]
    Idset(&'static str, String),
    #[error(
        "--define={0}: Python expressions are not supported; use {{.%}}, {{./}}, {{.//}}, {{./%}}, {{.n}} or {{seq}}"
    )]
    Define(String),
    #[error("unknown replacement {0}")]
    Replacement(String),
    /// What a template came to is no command line.
    #[error("{0}")]
    Words(String),
    #[error(":::+ must follow another list of inputs")]
    NothingToLink,
    #[error("more than {0} jobs")]
    TooMany(u64),
    #[error(transparent)]
    Build(#[from] flux_model::jobspec::BuildError),
    #[error("jobspec: {0}")]
    Jobspec(#[from] flux_model::jobspec::JobspecError),
    #[error("working directory: {0}")]
    Cwd(String),
}

impl SubmitError {
    /// A file named by an option could not be read.
    pub(crate) fn file(option: &'static str, path: &str, error: &std::io::Error) -> SubmitError {
        let (errno, text) = strerror(error);
        SubmitError::File { option, errno, text, path: path.to_owned() }
    }

    /// An option's value is wrong.
    pub(crate) fn option(option: &'static str, value: &str, problem: impl ToString) -> SubmitError {
        SubmitError::Option { option, value: value.to_owned(), problem: problem.to_string() }
    }
}

/// The number and the plain text of an operating system error.
pub(crate) fn strerror(error: &std::io::Error) -> (i32, String) {
    let text = error.to_string();
    let plain = text.split(" (os error").next().unwrap_or(&text).to_owned();
    // Text that is not UTF-8 has no number of its own; EILSEQ says what it is.
    (error.raw_os_error().unwrap_or(84), plain)
}
