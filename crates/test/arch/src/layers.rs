//! Which folder may use which (design, section 2).

use crate::workspace::Package;

/// Folders that each folder may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &["base"]),
    ("api", &["base"]),
    ("core", &["base", "api"]),
    ("host", &["base", "api", "host"]),
    ("client", &["base", "api"]),
    ("bin", &["base", "api", "core", "host", "client"]),
    ("test", &["base", "api", "core", "host", "client", "test"]),
];

/// The frame that core and host share.
const FRAME: &str = "flux-svc";

/// Arrows that the law leaves open, each with its reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "flux-shell",
    "flux-client",
    "the shell is a client of its broker, in a process of its own",
)];

/// Crates that may use tokio, FFI and threads live in `host`, `client` and `bin` only.
const HOST_ONLY: &[&str] = &["tokio", "rustls", "rusqlite", "nix", "rustix", "tempfile"];

/// Every arrow that breaks the law, as a sentence.
#[must_use]
pub fn violations(packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    for package in packages {
        let Some((_, allowed)) = ARROWS.iter().find(|(layer, _)| *layer == package.layer) else {
            found.push(format!("{} lies in no known folder", package.name));
            continue;
        };
        for used in &package.uses {
            let Some(other) = packages.iter().find(|other| other.name == *used) else { continue };
            let excepted =
                EXCEPTIONS.iter().any(|(from, to, _)| *from == package.name && to == used);
            let frame = used == FRAME && matches!(package.layer.as_str(), "core" | "host");
            if !excepted && !frame && !allowed.contains(&other.layer.as_str()) {
                found.push(format!(
                    "{} ({}) uses {used} ({})",
                    package.name, package.layer, other.layer
                ));
            }
        }
        if matches!(package.layer.as_str(), "base" | "api" | "core") {
            for foreign in &package.foreign {
                if HOST_ONLY.contains(&foreign.as_str()) {
                    found.push(format!("{} ({}) uses {foreign}", package.name, package.layer));
                }
            }
        }
    }
    found
}
