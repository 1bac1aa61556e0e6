//! Shell processes against a broker of a few lines.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod fake;
mod losing;
mod running;

/// Becomes a shell when the test runs itself again.
#[test]
fn shell_process() {
    if std::env::var_os("FLUX_TEST_SHELL").is_some() {
        std::process::exit(flux_shell::main(&[fake::ID.to_string()]));
    }
}
