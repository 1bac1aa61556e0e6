//! The tour of README.md is run, and says what README.md says it says.
//!
//! `BLESS=1` writes the output that was seen into README.md.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "support/instance.rs"]
mod instance;

use std::fmt::Write as _;

use regex_lite::Regex;

/// A command of a `console` block and the output below it.
#[derive(Debug, Default)]
struct Step {
    /// As typed, with its continuation lines.
    command: String,
    output: String,
}

/// A piece of README.md: prose, or the steps of a `console` block.
enum Piece {
    Prose(String),
    Console(Vec<Step>),
}

fn read(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut prose = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        prose.push_str(line);
        prose.push('\n');
        if line != "```console" {
            continue;
        }
        let mut steps: Vec<Step> = Vec::new();
        for line in lines.by_ref().take_while(|line| *line != "```") {
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step { command: format!("{command}\n"), output: String::new() });
            } else if let Some(more) = line.strip_prefix("> ") {
                let step = steps.last_mut().expect("a command comes before its continuation");
                writeln!(step.command, "{more}").unwrap();
            } else {
                let step = steps.last_mut().expect("a command comes before its output");
                writeln!(step.output, "{line}").unwrap();
            }
        }
        pieces.push(Piece::Prose(std::mem::take(&mut prose)));
        pieces.push(Piece::Console(steps));
        prose.push_str("```\n");
    }
    pieces.push(Piece::Prose(prose));
    pieces
}

fn write(pieces: &[Piece]) -> String {
    let mut text = String::new();
    for piece in pieces {
        match piece {
            Piece::Prose(prose) => text.push_str(prose),
            Piece::Console(steps) => {
                for step in steps {
                    let command = step.command.trim_end().replace('\n', "\n> ");
                    write!(text, "$ {command}\n{}", step.output).unwrap();
                }
            }
        }
    }
    text
}

/// What differs from run to run: job ids, times, who runs it, and the widths of columns.
fn normal(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, word) in [
        ("ƒ[1-9A-HJ-NP-Za-km-z]+", "JOBID"),
        (r"\b\d{10}\.\d{6}\b", "TIME"),
        (r"\b[A-Z][a-z]{2}\d{2} \d{2}:\d{2}\b", "DATE"),
        (r"\b\d+(\.\d+)?m?s\b", "DURATION"),
        (r"\b(userid=)\d+\b", "userid=UID"),
        (r"[ \t]+", " "),
        (" \n", "\n"),
        ("\n ", "\n"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, word).into_owned();
    }
    text.trim().to_owned()
}

/// The output with the reader's name in the place of this user's.
fn anonymous(text: &str) -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap();
    let user = user.map_or_else(|| nix::unistd::getuid().to_string(), |user| user.name);
    let column = Regex::new(&format!(r"(ƒ\w+ )({user} *)")).unwrap();
    column
        .replace_all(text, |found: &regex_lite::Captures<'_>| {
            format!("{}{:<2$}", &found[1], "alice", found[2].len())
        })
        .into_owned()
}

/// Marks the begin of a step's output: no command of the tour prints it.
const MARK: char = '\u{1e}';

#[test]
fn the_tour_of_the_readme_is_true() {
    let path = instance::project().join("README.md");
    let mut pieces = read(&std::fs::read_to_string(&path).unwrap());
    let mut steps: Vec<&mut Step> = pieces
        .iter_mut()
        .filter_map(|piece| if let Piece::Console(steps) = piece { Some(steps) } else { None })
        .flatten()
        .collect();
    let start = steps.remove(0).command.trim().to_owned();
    assert!(start.starts_with("flux start "), "the tour begins with an instance: {start}");
    assert!(steps.len() > 40, "the tour has {} steps", steps.len());

    let mut script = "exec 2>&1\n".to_owned();
    for step in &steps {
        write!(script, "printf '\\036'\n{}", step.command).unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tour");
    std::fs::write(&file, script).unwrap();
    // The nodes of the README have four cores, however many this host has.
    let cores = r#"resource={noverify=true,config=[{hosts="node[0-3]",cores="0-3"}]}"#;
    let start = format!("exec {start} --conf='{cores}' sh {}", file.display());
    let output = std::process::Command::new("sh")
        .args(["-c", &start])
        .envs(instance::flux().get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env_remove("FLUX_URI")
        .env_remove("FLUX_KVS_NAMESPACE")
        .current_dir(directory.path())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = instance::stdout(&output);
    let seen: Vec<&str> = text.split(MARK).skip(1).collect();
    assert_eq!(seen.len(), steps.len(), "{text}\n{}", instance::stderr(&output));

    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = String::new();
    for (step, seen) in steps.iter_mut().zip(seen) {
        let seen = anonymous(seen);
        if normal(&seen) == normal(&step.output) {
            continue;
        }
        let Step { command, output } = &**step;
        writeln!(wrong, "$ {command}README.md:\n{output}seen:\n{seen}").unwrap();
        step.output = seen;
    }
    if bless {
        std::fs::write(&path, write(&pieces)).unwrap();
    } else {
        assert!(wrong.is_empty(), "BLESS=1 changes README.md.\n{wrong}");
    }
}

#[test]
fn what_is_read_is_written_again() {
    let text = std::fs::read_to_string(instance::project().join("README.md")).unwrap();
    assert_eq!(write(&read(&text)), text);
}
