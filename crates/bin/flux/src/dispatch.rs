//! From the command line to a command.

use std::{
    ffi::{OsStr, OsString},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use flux_client::Client;
use flux_launch::supervisor::Inside;

use crate::{
    commands::{COMMANDS, Entry},
    failure::{Failure, Style},
    output,
};

/// Runs the command that `argv` (program name first) asks for and returns its exit status.
pub(crate) fn dispatch(argv: impl IntoIterator<Item = OsString>) -> Result<i32, Failure> {
    let mut argv: Vec<OsString> = argv.into_iter().collect();
    // Every job starts one, on every node: it is spared the definition of the other commands.
    if let Some(words) = shell_words(&argv) {
        return Ok(flux_shell::main(&words));
    }
    // Installed under the name `flux-NAME`, the program is that command.
    if let Some(name) = own_name(&argv)
        && COMMANDS.iter().any(|entry| entry.name == name)
    {
        argv.insert(1, name.into());
    }
    // The one that watches over shells is spared it, too; no command of anybody else's.
    if let [_, name, directory] = argv.as_slice()
        && name == "supervise"
    {
        let inside = Inside { words: shell_words::<String>, main: flux_shell::main };
        let ended = flux_launch::supervisor::run(Path::new(directory), inside);
        return ended.map(|()| 0).map_err(|error| {
            Failure::binary("flux-supervise", format!("{}: {error}", directory.display()))
        });
    }
    let matches = match root().allow_external_subcommands(true).try_get_matches_from(argv) {
        Ok(matches) => matches,
        Err(error) => return usage(&error, Style::Binary, "flux", "flux"),
    };
    if matches.get_flag("help") {
        output::raw(&tree().render_help().to_string());
        return Ok(0);
    }
    if matches.get_flag("version") {
        output::raw(&version());
        return Ok(0);
    }
    let Some((name, rest)) = matches.subcommand() else {
        output::error_line(&tree().render_help().to_string());
        return Ok(1);
    };
    let arguments: Vec<OsString> =
        rest.get_many::<OsString>("").unwrap_or_default().cloned().collect();
    let verbose = matches.get_count("verbose");
    let levels = u32::from(matches.get_count("parent"));
    if levels > 0 {
        return in_parent(levels, verbose, name, &arguments);
    }
    if verbose > 0 {
        say(name);
    }
    if name == "help" {
        return help(&arguments);
    }
    match COMMANDS.iter().find(|entry| entry.name == name) {
        Some(entry) => builtin(entry, arguments),
        None => external(name, &arguments),
    }
}

/// What follows `flux-` in the name of the program.
fn own_name<T: AsRef<OsStr>>(argv: &[T]) -> Option<String> {
    let name = Path::new(argv.first()?).file_name()?.to_str()?;
    name.strip_prefix("flux-").map(str::to_owned)
}

/// The words for the shell, if that is what is asked for.
fn shell_words<T: AsRef<OsStr>>(argv: &[T]) -> Option<Vec<String>> {
    let words = match argv {
        [_, words @ ..] if own_name(argv).as_deref() == Some("shell") => words,
        [_, name, words @ ..] if name.as_ref() == "shell" => words,
        _ => return None,
    };
    Some(words.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect())
}

/// Runs the command in an enclosing instance: in this program again, with the environment of there.
fn in_parent(levels: u32, verbose: u8, name: &str, arguments: &[OsString]) -> Result<i32, Failure> {
    let fail = |text: String| Failure::binary("flux", text);
    let mut parent = None;
    for _ in 0..levels {
        let at = parent.as_ref().map(|(uri, _): &(String, Option<String>)| uri.as_str());
        let client =
            Client::open(at).map_err(|error| fail(format!("--parent: {}", error.detail())))?;
        let attribute = |name| client.get_attr(name).ok().filter(|text| !text.is_empty());
        // Above the top instance there is nothing: it is the one that is used.
        let Some(uri) = attribute("parent-uri") else { break };
        parent = Some((uri, attribute("parent-kvs-namespace")));
    }
    let program = std::env::current_exe().map_err(|error| fail(error.to_string()))?;
    let mut again = std::process::Command::new(program);
    again.args(std::iter::repeat_n("-v", verbose.into())).arg(name).args(arguments);
    if let Some((uri, namespace)) = parent {
        again.env("FLUX_URI", uri);
        match namespace {
            Some(namespace) => again.env("FLUX_KVS_NAMESPACE", namespace),
            None => again.env_remove("FLUX_KVS_NAMESPACE"),
        };
    }
    let error = again.exec();
    Err(fail(format!("{}: {error}", again.get_program().display())))
}

/// What `-v` before the command shows: which instance, and what the command is.
fn say(name: &str) {
    let uri = std::env::var("FLUX_URI").unwrap_or_else(|_| "not set".to_owned());
    output::error_line(&format!("flux: FLUX_URI: {uri}"));
    let path = std::env::var_os("FLUX_EXEC_PATH").unwrap_or_default();
    let what = if name == "help" || COMMANDS.iter().any(|entry| entry.name == name) {
        "built in".to_owned()
    } else {
        match find_external(name, &path) {
            Some(program) => program.display().to_string(),
            None => format!("not found in FLUX_EXEC_PATH '{}'", path.display()),
        }
    };
    output::error_line(&format!("flux: {name}: {what}"));
}

/// `flux help [COMMAND [SUBCOMMAND]]`.
fn help(arguments: &[OsString]) -> Result<i32, Failure> {
    let mut tree = tree();
    tree.build();
    let mut command = &mut tree;
    for word in arguments.iter().map(|word| word.to_string_lossy()) {
        command = command.find_subcommand_mut(&*word).ok_or_else(|| {
            Failure::binary("flux", format!("`{word}' is not a flux command.  See 'flux --help'"))
        })?;
    }
    output::raw(&command.render_help().to_string());
    Ok(0)
}

/// The options before the command name.
fn root() -> Command {
    Command::new("flux")
        .about("Control a Flux instance and its jobs")
        .override_usage("flux [OPTIONS] COMMAND [ARGS...]")
        .infer_long_args(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .arg(
            Arg::new("parent")
                .short('p')
                .long("parent")
                .action(ArgAction::Count)
                .help("Use the enclosing instance; may be repeated"),
        )
        .arg(
            Arg::new("verbose")
                .short('v')
                .long("verbose")
                .action(ArgAction::Count)
                .help("Say which instance and which program are used"),
        )
        .arg(
            Arg::new("version")
                .short('V')
                .long("version")
                .action(ArgAction::SetTrue)
                .help("Show the versions of the components"),
        )
        .arg(
            Arg::new("help")
                .short('h')
                .long("help")
                .action(ArgAction::SetTrue)
                .help("Show this help"),
        )
}

/// The whole command tree, for help, completions and manual pages.
pub(crate) fn tree() -> Command {
    COMMANDS.iter().fold(root(), |tree, entry| tree.subcommand((entry.command)()))
}

/// What `flux version` prints outside of an instance.
pub(crate) fn version() -> String {
    format!("commands:    \t\t{}\n", crate::release::RELEASE)
}

fn builtin(entry: &Entry, arguments: Vec<OsString>) -> Result<i32, Failure> {
    let display = format!("flux {}", entry.name);
    let mut command = (entry.command)().bin_name(&display).no_binary_name(true);
    if entry.style == Style::Binary {
        command = command.infer_long_args(true);
    }
    let words = spelled_out(&command, &arguments);
    match command.try_get_matches_from_mut(words) {
        Ok(matches) => (entry.run)(&Invocation { matches, arguments }),
        Err(error) => {
            let failed = usage(&error, entry.style, &format!("flux-{}", entry.name), &display);
            // Clap tells the usage with some complaints only.
            failed.map_err(|mut failure| {
                if entry.style == Style::Script && !failure.message.starts_with("Usage: ") {
                    let usage = (entry.command)().bin_name(&display).render_usage();
                    failure.message = format!("{usage}\n{}", failure.message);
                }
                failure
            })
        }
    }
}

/// Most times that an option is repeated for its number.
const REPEATED: usize = 16;

/// Values that may be left out, as clap takes them: `-LWHEN`, which it would take for further
/// options, as `-L=WHEN`; `-vN` and `--verbose=N`, of an option that is counted, as so many of it.
fn spelled_out(command: &Command, arguments: &[OsString]) -> Vec<OsString> {
    let mut command = command;
    let mut words = Vec::with_capacity(arguments.len());
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let text = word.to_string_lossy();
        if text == "--" || (!text.starts_with('-') && !command.has_subcommands()) {
            words.push(word.clone());
            break;
        }
        if let Some(inner) = command.find_subcommand(&*text) {
            command = inner;
        }
        let (option, value) = taken_apart(&text);
        let known = command.get_arguments().find(|arg| is_called(arg, option));
        match known {
            Some(arg) if value.is_empty() => {
                words.push(word.clone());
                let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
                if takes && !arg.is_require_equals_set() {
                    words.extend(rest.next().cloned());
                }
            }
            Some(arg) if matches!(arg.get_action(), ArgAction::Count) => match value.parse() {
                Ok(times) => words.extend(vec![option.into(); REPEATED.min(times)]),
                Err(_) => words.push(word.clone()),
            },
            Some(arg) if arg.is_require_equals_set() => {
                words.push(format!("{option}={value}").into());
            }
            _ => words.push(word.clone()),
        }
    }
    words.extend(rest.cloned());
    words
}

/// `--OPTION=VALUE`, `-OVALUE` and `-O=VALUE`: the option with its hyphens, and the value.
fn taken_apart(text: &str) -> (&str, &str) {
    if text.starts_with("--") {
        return text.split_once('=').unwrap_or((text, ""));
    }
    let end = text.char_indices().nth(2).map_or(text.len(), |(at, _)| at);
    let (option, value) = text.split_at(end);
    (option, value.strip_prefix('=').unwrap_or(value))
}

fn is_called(arg: &Arg, option: &str) -> bool {
    match option.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => {
            let mut letters = option.strip_prefix('-').unwrap_or_default().chars();
            letters.next().is_some_and(|short| arg.get_short() == Some(short))
        }
    }
}

/// A parsed command line and the words it was parsed from.
pub(crate) struct Invocation {
    /// What clap made of it.
    pub(crate) matches: ArgMatches,
    /// The words after the command name.
    pub(crate) arguments: Vec<OsString>,
}

/// Turns clap's complaint into the text and exit status of the command's family.
fn usage(error: &clap::Error, style: Style, program: &str, display: &str) -> Result<i32, Failure> {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        output::raw(&error.render().to_string());
        return Ok(0);
    }
    let text = complaint(error, style);
    let (message, code) = match style {
        Style::Script => {
            let usage = error.get(ContextKind::Usage).map(|u| format!("{u}\n"));
            (format!("{}{display}: error: {text}", usage.unwrap_or_default()), 2)
        }
        Style::Binary | Style::Bare => {
            (format!("{program}: {text}\nTry `{program} --help' for more information."), 1)
        }
    };
    Err(Failure::bare(message, code))
}

/// What is wrong with a command line, in the words of the command's family.
pub(crate) fn complaint(error: &clap::Error, style: Style) -> String {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    match (error.kind(), style, word(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Style::Script, Some(arg)) => {
            format!("unrecognized arguments: {arg}")
        }
        (ErrorKind::UnknownArgument, _, Some(arg)) => format!("unrecognized option '{arg}'"),
        (ErrorKind::MissingRequiredArgument, _, Some(arg)) => {
            format!("the following arguments are required: {arg}")
        }
        (ErrorKind::ValueValidation | ErrorKind::InvalidValue, Style::Script, Some(arg)) => {
            let value = word(ContextKind::InvalidValue).unwrap_or_default();
            let option = arg.split_whitespace().next().unwrap_or(&arg);
            match value.as_str() {
                "" => format!("argument {option}: expected one argument"),
                value => format!("argument {option}: invalid value: '{value}'"),
            }
        }
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    }
}

/// Commands of Flux that there are not, and what to do instead.
const NOT_HERE: [(&str, &str); 5] = [
    ("archive", "files are sent to jobs with --add-file, or kept with flux kvs put --raw"),
    ("modprobe", "modules are built in and started in their order: see flux module list"),
    ("python", "Ferroflux brings no Python: that of flux-core works with it"),
    ("sproc", "processes are listed by flux exec -r RANK ps"),
    ("terminus", "terminals belong to jobs: flux run -o pty.interactive, flux alloc"),
];

/// Becomes `flux-NAME` of `FLUX_EXEC_PATH`; returns only when that fails.
fn external(name: &str, arguments: &[OsString]) -> Result<i32, Failure> {
    let path = std::env::var_os("FLUX_EXEC_PATH").unwrap_or_default();
    let Some(program) = find_external(name, &path) else {
        let mut failure =
            Failure::binary("flux", format!("`{name}' is not a flux command.  See 'flux --help'"));
        let absent = NOT_HERE.iter().find(|(absent, _)| *absent == name);
        failure.hints.extend(absent.map(|(_, hint)| (*hint).to_owned()));
        return Err(failure);
    };
    let error = std::process::Command::new(&program).args(arguments).exec();
    Err(Failure::binary("flux", format!("{}: {error}", program.display())))
}

fn find_external(name: &str, path: &OsStr) -> Option<PathBuf> {
    if name.contains('/') {
        return None;
    }
    let directories: Vec<PathBuf> =
        std::env::split_paths(path).filter(|d| !d.as_os_str().is_empty()).collect();
    let candidate = |file: &str| directories.iter().map(|d| d.join(file)).find(|p| executable(p));
    candidate(&format!("flux-{name}")).or_else(|| candidate(&format!("flux-{name}.py")))
}

fn executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(words: &[&str]) -> Failure {
        let argv = ["flux"].iter().chain(words).map(OsString::from);
        dispatch(argv).expect_err("the command line is wrong")
    }

    #[test]
    fn unknown_commands_are_named() {
        let failure = fail(&["nosuch", "-x"]);
        assert_eq!(failure.lines(), ["flux: `nosuch' is not a flux command.  See 'flux --help'"]);
        assert_eq!(failure.code, 1);
    }

    #[test]
    fn a_link_named_after_a_command_is_that_command() {
        let argv = ["/usr/libexec/flux/flux-keygen", "--nosuch"].map(OsString::from);
        let failure = dispatch(argv).expect_err("the option is wrong");
        assert!(failure.message.starts_with("flux-keygen: "), "{}", failure.message);
    }

    #[test]
    fn unknown_options_before_the_command_are_named() {
        let failure = fail(&["--nosuch"]);
        assert_eq!(
            failure.message,
            "flux: unrecognized option '--nosuch'\nTry `flux --help' for more information."
        );
    }

    #[test]
    fn unknown_options_of_script_commands_exit_2() {
        let failure = fail(&["run", "--foo", "true"]);
        assert!(failure.message.ends_with("flux run: error: unrecognized arguments: --foo"));
        assert!(failure.message.starts_with("Usage: flux run"), "{}", failure.message);
        assert_eq!(failure.code, 2);
    }

    #[test]
    fn a_value_that_may_be_left_out_can_follow_its_letter() {
        let words = |line: &str| -> Vec<OsString> {
            let all: Vec<&str> = line.split_whitespace().collect();
            let entry = COMMANDS.iter().find(|entry| entry.name == all[0]).expect("a command");
            let command = (entry.command)();
            let words: Vec<OsString> = all[1..].iter().map(OsString::from).collect();
            spelled_out(&command, &words)
        };
        for (line, expected) in [
            ("dmesg -Lalways -H", "-L=always -H"),
            ("dmesg -L -H", "-L -H"),
            ("dmesg -L=never", "-L=never"),
            ("job eventlog -Lnever f1", "eventlog -L=never f1"),
            ("jobs -w30 -- -w30", "-w=30 -- -w30"),
            ("jobs -o-w3", "-o-w3"),
            ("jobs -a -o long -c 3 --sort -w3 -w30", "-a -o long -c 3 --sort -w3 -w=30"),
            ("run cat -Lalways", "cat -Lalways"),
            ("start --verbose=2 true", "--verbose --verbose true"),
            ("overlay status -v2 -vv", "status -v -v -vv"),
            (
                "shutdown -v=1 --verbose=x --verbose=9999999999",
                "-v --verbose=x \
                 --verbose --verbose --verbose --verbose --verbose --verbose --verbose --verbose \
                 --verbose --verbose --verbose --verbose --verbose --verbose --verbose --verbose",
            ),
            ("run --setopt=verbose=2 -o pty true", "--setopt=verbose=2 -o pty true"),
        ] {
            let expected: Vec<OsString> = expected.split_whitespace().map(OsString::from).collect();
            assert_eq!(words(line), expected, "{line}");
        }
    }

    #[test]
    fn external_commands_are_found_on_the_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("flux-hello.py");
        std::fs::write(&file, "#!/bin/sh\n").expect("a file");
        assert_eq!(find_external("hello", dir.path().as_os_str()), None);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        assert_eq!(find_external("hello", dir.path().as_os_str()), Some(file));
        assert_eq!(find_external("../x", dir.path().as_os_str()), None);
    }

    #[test]
    fn the_command_tree_is_consistent() {
        tree().debug_assert();
        for entry in COMMANDS {
            assert_eq!((entry.command)().get_name(), entry.name);
        }
    }
}
