//! What the commands of an instance share: the name in front of their errors, the connection, and
//! short ways to declare and read options.

use clap::{Arg, ArgAction, ArgMatches};
use flux_api::RpcError;
use flux_client::{Client, OpenError};

use crate::failure::{Failure, Style};

/// A command as its errors name it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    /// Name, such as `flux-kvs`.
    pub(crate) name: &'static str,
    /// How its errors look.
    pub(crate) style: Style,
}

impl Program {
    /// A command whose errors are `name: text`.
    pub(crate) const fn binary(name: &'static str) -> Program {
        Program { name, style: Style::Binary }
    }

    /// A command whose errors are `name: ERROR: text`.
    pub(crate) const fn script(name: &'static str) -> Program {
        Program { name, style: Style::Script }
    }

    /// A failure with exit status 1.
    pub(crate) fn fail(self, text: impl Into<String>) -> Failure {
        Failure::new(self.style, self.name, text)
    }

    /// A failed request, with the text that was answered.
    pub(crate) fn error(self, error: &RpcError) -> Failure {
        self.fail(error.message())
    }

    /// A failed request about an object: `OBJECT: text`.
    pub(crate) fn about(self, object: &str, error: &RpcError) -> Failure {
        self.fail(format!("{object}: {}", error.message()))
    }

    /// Connects to the current instance.
    pub(crate) fn open(self) -> Result<Client, Failure> {
        Client::open(None).map_err(|error| {
            let mut failure = match self.style {
                Style::Binary => self.fail(error.to_string()),
                Style::Script | Style::Bare => {
                    self.fail(format!("Unable to connect to Flux: {}", error.detail()))
                }
            };
            if matches!(error, OpenError::NotFound { .. }) {
                let hint = match std::env::var("FLUX_URI").ok().filter(|uri| !uri.is_empty()) {
                    Some(uri) => {
                        format!("FLUX_URI={uri}: that instance has ended, or is elsewhere")
                    }
                    None => "there is no instance here: flux start makes one".to_owned(),
                };
                failure.hints.push(hint);
            }
            failure
        })
    }
}

/// An option without a value.
pub(crate) fn flag(name: &'static str, short: impl Into<Option<char>>, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    short.into().map_or_else(|| arg.clone(), |short| arg.clone().short(short))
}

/// An option that may be repeated, which is counted.
pub(crate) fn counted(
    name: &'static str,
    short: impl Into<Option<char>>,
    help: &'static str,
) -> Arg {
    flag(name, short, help).action(ArgAction::Count)
}

/// An option with a value; the last one counts.
pub(crate) fn value(
    name: &'static str,
    short: impl Into<Option<char>>,
    placeholder: &'static str,
    help: &'static str,
) -> Arg {
    let arg = Arg::new(name).long(name).value_name(placeholder).help(help);
    let arg = arg.action(ArgAction::Set).overrides_with(name);
    short.into().map_or_else(|| arg.clone(), |short| arg.clone().short(short))
}

/// `--color[=WHEN]`.
pub(crate) fn color() -> Arg {
    value("color", 'L', "WHEN", "Use colors: auto, always or never")
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("always")
        .value_parser(["auto", "always", "never"])
}

/// A word that must be there.
pub(crate) fn word(name: &'static str, placeholder: &'static str, help: &'static str) -> Arg {
    Arg::new(name).value_name(placeholder).required(true).help(help)
}

/// Any number of words.
pub(crate) fn words(name: &'static str, placeholder: &'static str, help: &'static str) -> Arg {
    Arg::new(name).value_name(placeholder).num_args(0..).help(help)
}

/// All words from the first one that is no option on.
pub(crate) fn rest(name: &'static str, placeholder: &'static str, help: &'static str) -> Arg {
    words(name, placeholder, help).trailing_var_arg(true)
}

/// The value of an option or word.
pub(crate) fn text<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches.get_one::<String>(name).map(String::as_str)
}

/// All values of an option or of words.
pub(crate) fn texts<'a>(matches: &'a ArgMatches, name: &str) -> Vec<&'a str> {
    matches.get_many::<String>(name).unwrap_or_default().map(String::as_str).collect()
}

/// Whether to color the output to standard output.
pub(crate) fn wants_color(matches: &ArgMatches) -> bool {
    match text(matches, "color") {
        Some("always") => true,
        Some("never") => false,
        _ => {
            std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && std::io::IsTerminal::is_terminal(&std::io::stdout())
        }
    }
}

/// Reads a number of an option, with a failure that names the option.
pub(crate) fn number<T: std::str::FromStr>(
    program: Program,
    matches: &ArgMatches,
    name: &str,
) -> Result<Option<T>, Failure> {
    text(matches, name)
        .map(|text| {
            text.parse().map_err(|_| program.fail(format!("--{name}: '{text}' is not a number")))
        })
        .transpose()
}

/// Reads a duration (RFC 23) of an option; `None` also stands for an endless one.
pub(crate) fn duration(
    program: Program,
    matches: &ArgMatches,
    name: &str,
) -> Result<Option<std::time::Duration>, Failure> {
    let Some(text) = text(matches, name) else { return Ok(None) };
    let seconds = flux_id::fsd::parse(text)
        .map_err(|_| program.fail(format!("--{name}: invalid duration '{text}'")))?;
    Ok(std::time::Duration::try_from_secs_f64(seconds).ok())
}
