//! `flux man`: manual pages, made from the options of all commands.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, value_parser};

use super::program::Program;
use crate::{
    dispatch::{self, Invocation},
    failure::Failure,
};

mod config_pages;

const PROGRAM: Program = Program::binary("flux-man");

/// The options of `flux man`.
pub(crate) fn command() -> Command {
    Command::new("man")
        .about("Write the manual pages into a directory")
        .arg(
            clap::Arg::new("section")
                .short('s')
                .long("section")
                .value_name("SECTION")
                .value_parser(["1", "5"])
                .default_value("1")
                .help("1: the commands, 5: the configuration"),
        )
        .arg(
            clap::Arg::new("directory")
                .value_name("DIRECTORY")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Where to; made when it is not there"),
        )
}

/// Runs `flux man`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some(directory) = invocation.matches.get_one::<PathBuf>("directory") else { return Ok(1) };
    let configuration = invocation.matches.get_one::<String>("section").is_some_and(|s| s == "5");
    let written = if configuration { config_pages::write(directory) } else { write(directory) };
    written.map_err(|error| PROGRAM.fail(format!("{}: {error}", directory.display())))?;
    Ok(0)
}

/// A page for the program and one for each command, which holds its subcommands.
fn write(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let tree = dispatch::tree();
    for command in tree.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("flux-{}", command.get_name());
        let command = command
            .clone()
            .display_name(name.clone())
            .bin_name(format!("flux {}", command.get_name()));
        let mut page = Vec::new();
        let man = clap_mangen::Man::new(command.clone()).title(name.to_uppercase()).section("1");
        man.render(&mut page)?;
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            subcommand(command.get_name(), below, &mut page)?;
        }
        std::fs::write(directory.join(format!("{name}.1")), page)?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(tree).title("FLUX").section("1").render(&mut page)?;
    std::fs::write(directory.join("flux.1"), page)
}

/// A subcommand as a section of its command's page.
fn subcommand(parent: &str, command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    use std::io::Write;
    writeln!(page, ".SH \"flux {parent} {}\"", command.get_name())?;
    let name = format!("flux {parent} {}", command.get_name());
    let man = clap_mangen::Man::new(command.clone().bin_name(name));
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(read("flux.1").contains(".TH"));
        let page = read("flux-resource.1");
        assert!(page.contains("flux resource drain") && page.contains("undrain"), "{page}");
        for command in dispatch::tree().get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(read(&format!("flux-{}.1", command.get_name())).contains(".SH NAME"));
        }
    }

    #[test]
    fn every_definition_is_sound() {
        dispatch::tree().debug_assert();
    }
}
