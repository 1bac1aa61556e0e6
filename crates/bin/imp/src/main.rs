//! `flux-imp`: the program with set-user-id root that starts processes as other users (RFC 15).
//! All of it is in `flux_privilege`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(flux_privilege::main(std::env::args_os()))
}
