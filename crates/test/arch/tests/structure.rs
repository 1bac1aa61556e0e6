//! Folders are laws: who uses whom, how long a file may be, what it may be called.

use flux_arch::{layers, workspace};

#[test]
fn arrows_point_down_only() {
    let violations = layers::violations(&workspace::packages());
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn no_file_is_longer_than_900_lines() {
    let long: Vec<String> = workspace::sources()
        .into_iter()
        .filter(|(_, lines)| *lines > 900)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn names_say_what_is_inside() {
    const VAGUE: [&str; 6] = ["mod", "utils", "util", "common", "misc", "helpers"];
    let vague: Vec<String> = workspace::sources()
        .into_keys()
        .filter(|path| path.file_stem().is_some_and(|stem| VAGUE.iter().any(|name| stem == *name)))
        .map(|path| path.display().to_string())
        .collect();
    assert!(vague.is_empty(), "{}", vague.join("\n"));
}

#[test]
fn nothing_is_left_to_be_done_later() {
    // Spelled apart, so that this file does not hold them.
    let marks: Vec<String> =
        ["todo", "unimplemented", "dbg"].iter().map(|word| format!("{word}!(")).collect();
    let left: Vec<String> = workspace::sources()
        .into_keys()
        .filter(|path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            marks.iter().any(|mark| text.contains(mark.as_str()))
        })
        .map(|path| path.display().to_string())
        .collect();
    assert!(left.is_empty(), "{}", left.join("\n"));
}

#[test]
fn every_package_takes_the_lints_of_the_workspace() {
    let without: Vec<String> = workspace::packages()
        .into_iter()
        .filter(|package| {
            let manifest =
                std::fs::read_to_string(package.root.join("Cargo.toml")).unwrap_or_default();
            !manifest.contains("[lints]\nworkspace = true")
        })
        .map(|package| package.name)
        .collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn every_declared_service_is_in_the_catalogue() {
    let declared: usize = workspace::sources()
        .into_keys()
        .filter(|path| path.components().any(|part| part.as_os_str() == "api"))
        .map(|path| std::fs::read_to_string(path).unwrap_or_default())
        .map(|text| text.lines().filter(|line| *line == "api! {").count())
        .sum();
    assert_eq!(declared, flux_api::catalogue::SERVICES.len());
}
