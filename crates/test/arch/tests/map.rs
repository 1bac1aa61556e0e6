//! ARCHITECTURE.md is the map: it names what is there, and all of it.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::fs::read_to_string;

use flux_arch::workspace;

fn map() -> String {
    read_to_string(workspace::root().join("ARCHITECTURE.md")).unwrap()
}

/// The first column of the table below a heading, taken apart at commas.
fn named(map: &str, heading: &str) -> BTreeSet<String> {
    let (_, section) = map.split_once(heading).unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with("|--")).skip(1);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|line| line.split('|').nth(1));
    let names = cells.flat_map(|cell| cell.split(','));
    // What stands in brackets is a feature.
    let names = names.filter_map(|name| name.split_whitespace().next());
    names.map(|name| name.trim_matches('`').to_string()).collect()
}

#[test]
fn every_dependency_is_listed_with_its_reason_and_used() {
    let manifest = read_to_string(workspace::root().join("Cargo.toml")).unwrap();
    let (_, section) = manifest.split_once("[workspace.dependencies]").unwrap();
    let foreign: BTreeSet<String> = section
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.contains("path = "))
        .filter_map(|line| Some(line.split_once(" = ")?.0.to_string()))
        .collect();
    assert_eq!(named(&map(), "## Dependencies"), foreign);
    let manifests: Vec<String> = workspace::packages()
        .iter()
        .map(|package| read_to_string(package.root.join("Cargo.toml")).unwrap())
        .collect();
    let unused: Vec<&String> = foreign
        .iter()
        .filter(|name| {
            let used = |text: &String| {
                text.lines().any(|line| {
                    let rest = line.strip_prefix(name.as_str()).unwrap_or_default();
                    rest.starts_with(".workspace") || rest.starts_with(" = { workspace")
                })
            };
            !manifests.iter().any(used)
        })
        .collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn every_crate_below_the_program_is_told() {
    let told = named(&map(), "What each crate is for:");
    let crates = workspace::root().join("crates");
    let there: BTreeSet<String> = workspace::packages()
        .iter()
        .filter(|package| !matches!(package.layer.as_str(), "test" | "client"))
        .map(|package| package.root.strip_prefix(&crates).unwrap().display().to_string())
        .collect();
    assert_eq!(told, there);
}

#[test]
fn every_file_that_is_named_is_there() {
    let root = workspace::root();
    // Files are named without the `src` on the way to them.
    let plain = |path: &str| format!("/{}", path.replace("src/", ""));
    let sources: Vec<String> = workspace::sources()
        .into_keys()
        .map(|path| plain(&path.strip_prefix(&root).unwrap().display().to_string()))
        .collect();
    let pages = ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"];
    let missing: Vec<String> = pages
        .iter()
        .flat_map(|page| {
            let text = read_to_string(root.join(page)).unwrap();
            let words = text.split('`').skip(1).step_by(2).map(str::to_string);
            words.map(|word| (*page, word)).collect::<Vec<_>>()
        })
        .filter(|(_, word)| {
            let (stem, ending) = word.rsplit_once('.').unwrap_or_default();
            let name = |c: char| c.is_ascii_alphanumeric() || "_/-.".contains(c);
            ending == "rs" && stem.chars().all(name)
        })
        .filter(|(_, word)| !sources.iter().any(|path| path.ends_with(&plain(word))))
        .map(|(page, word)| format!("{page}: {word}"))
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
