//! `flux kvs ls` and `dir`.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use clap::ArgMatches;
use flux_api::kvs;
use flux_model::treeobj::Treeobj;
use serde_json::Value;

use super::{PROGRAM, Store, get::at};
use crate::{
    commands::program::{number, text, texts},
    failure::Failure,
    output,
};

/// Deepest directory that is shown.
const MAX_DEPTH: usize = 1024;

fn join(directory: &str, name: &str) -> String {
    if directory == "." { name.to_owned() } else { format!("{directory}.{name}") }
}

fn entries(
    store: &Store,
    key: &str,
    at: Option<&Value>,
) -> Result<BTreeMap<String, Treeobj>, Failure> {
    match store.object(key, kvs::READDIR, at)? {
        Treeobj::Dir(entries) => Ok(entries),
        other => Err(PROGRAM.fail(format!("{key}: unexpected {}", other.type_name()))),
    }
}

/// Runs `flux kvs dir`.
pub(super) fn dir(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let key = text(matches, "key").unwrap_or(".");
    let at = text(matches, "at").map(at).transpose()?;
    let width = number(PROGRAM, matches, "width")?.unwrap_or_else(default_width);
    let show = Show {
        store,
        at: at.as_ref(),
        recursive: matches.get_flag("recursive"),
        values: !matches.get_flag("directory"),
        width,
    };
    show.directory(key, 0)
}

struct Show<'a> {
    store: &'a Store,
    at: Option<&'a Value>,
    recursive: bool,
    values: bool,
    width: usize,
}

impl Show<'_> {
    fn directory(&self, key: &str, depth: usize) -> Result<(), Failure> {
        if depth > MAX_DEPTH {
            return Err(PROGRAM.fail(format!("{key}: too deep")));
        }
        for (name, object) in entries(self.store, key, self.at)? {
            let full = join(key, &name);
            match object {
                Treeobj::Dir(_) | Treeobj::Dirref(_) if self.recursive => {
                    self.directory(&full, depth + 1)?;
                }
                Treeobj::Dir(_) | Treeobj::Dirref(_) => output::line(&format!("{full}.")),
                Treeobj::Symlink { namespace, target } => {
                    let namespace = namespace.map(|name| format!("{name}::")).unwrap_or_default();
                    output::line(&format!("{full} -> {namespace}{target}"));
                }
                _ if !self.values => output::line(&full),
                Treeobj::Val(bytes) => output::line(&pair(&full, &bytes, self.width)),
                Treeobj::Valref(_) => {
                    let value = self.store.object(&full, 0, self.at)?;
                    let bytes = super::bytes_of(&full, value)?;
                    output::line(&pair(&full, &bytes, self.width));
                }
            }
        }
        Ok(())
    }
}

/// `KEY = VALUE` in one line, cut to the width (0: not cut).
fn pair(key: &str, value: &[u8], width: usize) -> String {
    let text = String::from_utf8_lossy(value);
    let text = text.trim_end_matches('\n').replace('\n', "\\n");
    let line = format!("{key} = {text}");
    if width == 0 || line.chars().count() <= width {
        return line;
    }
    let kept: String = line.chars().take(width.saturating_sub(3)).collect();
    format!("{kept}...")
}

/// Columns of the terminal; 0 where there is none.
fn default_width() -> usize {
    if !std::io::stdout().is_terminal() {
        return 0;
    }
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    columns
        .or_else(|| {
            rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| size.ws_col.into())
        })
        .unwrap_or(80)
}

/// Runs `flux kvs ls`.
pub(super) fn ls(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let mut keys = texts(matches, "keys");
    if keys.is_empty() {
        keys.push(".");
    }
    let single = matches.get_flag("1");
    let width = match number(PROGRAM, matches, "width")? {
        _ if single => 1,
        Some(width) => width,
        None if std::io::stdout().is_terminal() => default_width(),
        None => 1,
    };
    let classify = matches.get_flag("classify");
    let (mut files, mut directories) = (Vec::new(), Vec::new());
    for key in keys.iter().copied() {
        let object = if key == "." {
            Treeobj::empty_dir()
        } else {
            store.object(key, kvs::TREEOBJ, None)?
        };
        if object.is_dir() && !matches.get_flag("directory") {
            directories.push(key.to_owned());
        } else {
            files.push(named(key, &object, classify));
        }
    }
    columns(&files, width).iter().for_each(|line| output::line(line));
    let titled = keys.len() > 1 || matches.get_flag("recursive");
    let mut first = files.is_empty();
    // The next directory is last, so that those below come right after it.
    directories.reverse();
    while let Some(key) = directories.pop() {
        let entries = entries(store, &key, None)?;
        if !std::mem::take(&mut first) {
            output::line("");
        }
        if titled {
            output::line(&format!("{key}:"));
        }
        let names: Vec<String> =
            entries.iter().map(|(name, object)| named(name, object, classify)).collect();
        columns(&names, width).iter().for_each(|line| output::line(line));
        if matches.get_flag("recursive") {
            let below = entries.iter().filter(|(_, object)| object.is_dir());
            directories.extend(below.rev().map(|(name, _)| join(&key, name)));
        }
    }
    Ok(())
}

fn named(name: &str, object: &Treeobj, classify: bool) -> String {
    let mark = match object {
        _ if !classify => "",
        Treeobj::Dir(_) | Treeobj::Dirref(_) => ".",
        Treeobj::Symlink { .. } => "@",
        _ => "",
    };
    format!("{name}{mark}")
}

/// Names side by side, down each column first; a width of 0 puts all in one line.
fn columns(names: &[String], width: usize) -> Vec<String> {
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0) + 2;
    if names.is_empty() {
        return Vec::new();
    }
    let across = if width == 0 { names.len() } else { (width / longest).clamp(1, names.len()) };
    let down = names.len().div_ceil(across);
    (0..down)
        .map(|row| {
            let cells = names.iter().skip(row).step_by(down);
            let line: String = cells.map(|name| format!("{name:<longest$}")).collect();
            line.trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fill_columns() {
        let names: Vec<String> = ["a", "bb", "c", "d", "e"].map(String::from).to_vec();
        assert_eq!(columns(&names, 8), ["a   d", "bb  e", "c"]);
        assert_eq!(columns(&names, 1).len(), 5);
        assert_eq!(columns(&names, 0), ["a   bb  c   d   e"]);
        assert!(columns(&[], 80).is_empty());
        assert_eq!(named("x", &Treeobj::empty_dir(), true), "x.");
        assert_eq!(named("x", &Treeobj::symlink(None, "y"), true), "x@");
        assert_eq!(named("x", &Treeobj::empty_dir(), false), "x");
    }

    #[test]
    fn values_stay_in_their_line() {
        assert_eq!(pair("a.b", b"x\ny\n", 0), "a.b = x\\ny");
        assert_eq!(pair("a", b"0123456789", 10), "a = 012...");
        assert_eq!(join(".", "a"), "a");
        assert_eq!(join("a", "b"), "a.b");
    }
}
