//! The pages in `docs/reference` are those that the code makes, and what others say of tests is true.

use std::collections::BTreeSet;
use std::path::Path;

use flux_arch::{reference, workspace};

fn golden(name: &str, page: &str) {
    let path = workspace::root().join("docs/reference").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, page).expect("docs/reference is there to be written");
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "{} is not what the code says: see CONTRIBUTING.md", path.display());
}

#[test]
fn the_rpc_page_is_fresh() {
    golden("rpc.md", &reference::rpc_page());
}

#[test]
fn the_attribute_page_is_fresh() {
    golden("attributes.md", &reference::attribute_page());
}

#[test]
fn the_configuration_page_is_fresh() {
    golden("config.md", &reference::config_page());
}

/// Names of functions in the sources, and in the scripts of the cluster.
fn functions() -> BTreeSet<String> {
    let scripts = std::fs::read_dir(workspace::root().join("tests/cluster"));
    let scripts = scripts.into_iter().flatten().flatten().map(|entry| entry.path());
    let mut names = BTreeSet::new();
    for path in workspace::sources().into_keys().chain(scripts) {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for line in text.lines() {
            let rest = line.trim_start().strip_prefix("fn ").or_else(|| line.strip_prefix("def "));
            if let Some((name, _)) = rest.and_then(|rest| rest.split_once('(')) {
                names.insert(name.to_string());
            }
        }
    }
    names
}

/// Words of a page that look like names of tests; one that ends with `…` is the beginning of one.
fn tests_named_in(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap_or_default();
    text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '…'))
        .filter(|word| word.matches('_').count() >= 3)
        .map(str::to_string)
        .collect()
}

#[test]
fn every_test_that_a_page_names_is_there() {
    let there = functions();
    let mut missing = Vec::new();
    for page in [
        "acceptance.md",
        "failures.md",
        "from-slurm.md",
        "brokers.md",
        "shells.md",
        "stability.md",
        "store.md",
    ] {
        let path = workspace::root().join("docs").join(page);
        let named = tests_named_in(&path);
        assert!(!named.is_empty(), "{page} names no test");
        for name in named {
            let found = match name.strip_suffix('…') {
                Some(start) => there.iter().any(|name| name.starts_with(start)),
                None => there.contains(&name),
            };
            if !found {
                missing.push(format!("docs/{page}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "no such tests:\n{}", missing.join("\n"));
}
