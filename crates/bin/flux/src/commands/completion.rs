//! `flux completion`: completions for a shell, made from the options of all commands.

use clap::Command;
use clap_complete::Shell;

use super::program::{Program, text, word};
use crate::{
    dispatch::{self, Invocation},
    failure::Failure,
    output,
};

const PROGRAM: Program = Program::binary("flux-completion");

/// The options of `flux completion`.
pub(crate) fn command() -> Command {
    Command::new("completion").about("Print completions for a shell").arg(word(
        "shell",
        "SHELL",
        "bash, zsh or fish",
    ))
}

/// Runs `flux completion`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let name = text(&invocation.matches, "shell").unwrap_or_default();
    let shell = match name {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => return Err(PROGRAM.fail(format!("{name}: unknown shell: use bash, zsh or fish"))),
    };
    output::bytes(&script(shell));
    Ok(0)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut dispatch::tree(), "flux", &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = String::from_utf8(script(shell)).unwrap();
            assert!(text.contains("getattr") && text.contains("drain"), "{shell}");
        }
    }
}
