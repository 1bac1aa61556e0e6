//! The `flux` program.

fn main() {}
