//! The workspace as it lies on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// One package of the workspace.
#[derive(Debug, Clone)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Folder below `crates`: `base`, `api`, `core`, `host`, `client`, `bin`, `test`.
    pub layer: String,
    /// Packages of the workspace that it depends on, development left out.
    pub uses: Vec<String>,
    /// Packages of others that it depends on, development left out.
    pub foreign: Vec<String>,
    /// Where its manifest is.
    pub root: PathBuf,
}

/// Root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(3).unwrap_or(here).to_path_buf()
}

/// Every package, from `cargo metadata`.
///
/// # Panics
/// When cargo cannot be run or says something else: there is nothing to test then.
#[must_use]
pub fn packages() -> Vec<Package> {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo can be run");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let list = metadata["packages"].as_array().expect("packages");
    let names: Vec<&str> = list.iter().filter_map(|package| package["name"].as_str()).collect();
    list.iter()
        .map(|package| {
            let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap_or_default());
            let root = manifest.parent().unwrap_or(&manifest).to_path_buf();
            let layer = layer_of(&root);
            let dependencies = package["dependencies"].as_array().cloned().unwrap_or_default();
            let used: Vec<String> = dependencies
                .iter()
                .filter(|dependency| dependency["kind"].is_null())
                .filter_map(|dependency| dependency["name"].as_str().map(str::to_string))
                .collect();
            let (uses, foreign) = used.into_iter().partition(|name| names.contains(&name.as_str()));
            let name = package["name"].as_str().unwrap_or_default().to_string();
            Package { name, layer, uses, foreign, root }
        })
        .collect()
}

fn layer_of(package: &Path) -> String {
    let crates = root().join("crates");
    let below = package.strip_prefix(&crates).unwrap_or(package);
    below.iter().next().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Every Rust file below `crates`, with its number of lines.
#[must_use]
pub fn sources() -> BTreeMap<PathBuf, usize> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root().join("crates")];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    waiting.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let lines = std::fs::read_to_string(&path).map_or(0, |text| text.lines().count());
                found.insert(path, lines);
            }
        }
    }
    found
}
