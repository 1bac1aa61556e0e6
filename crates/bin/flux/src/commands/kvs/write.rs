//! Commands that change the store.

use std::io::Read;

use clap::ArgMatches;
use flux_api::kvs::{self, Operation, RootResponse};
use flux_model::treeobj::Treeobj;

use super::{PROGRAM, Store, about, dirref, is_missing, operation};
use crate::{
    commands::program::{text, texts},
    failure::Failure,
    output,
};

/// Most bytes of a value read from standard input.
const MAX_VALUE: u64 = 1 << 30;

/// Shows the new root as it is asked for.
fn show(matches: &ArgMatches, root: &RootResponse) {
    if matches.get_flag("treeobj-root") {
        output::line(&dirref(&root.rootref).to_string());
    } else if matches.get_flag("blobref") {
        output::line(&root.rootref);
    } else if matches.get_flag("sequence") {
        output::line(&root.rootseq.to_string());
    }
}

/// Runs `flux kvs put`.
pub(super) fn put(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let op_flags = if matches.get_flag("append") { kvs::APPEND } else { 0 };
    let mut ops = Vec::new();
    for pair in texts(matches, "pairs") {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(PROGRAM.fail("put: you must specify a value as key=value"));
        };
        if matches.get_flag("treeobj") {
            let text = if value == "-" { stdin()? } else { value.as_bytes().to_vec() };
            let object = Treeobj::decode(&text);
            let object = object.map_err(|error| PROGRAM.fail(format!("{key}: {error}")))?;
            ops.push(operation(key, op_flags, Some(&object)));
            continue;
        }
        let bytes = if matches.get_flag("raw") && value == "-" {
            stdin()?
        } else {
            value.as_bytes().to_vec()
        };
        ops.push(operation(key, op_flags, Some(&Treeobj::val(bytes))));
    }
    let mut flags = 0;
    if matches.get_flag("no-merge") {
        flags |= kvs::NO_MERGE;
    }
    if matches.get_flag("sync") {
        flags |= kvs::SYNC;
    }
    show(matches, &store.commit(flags, ops)?);
    Ok(())
}

fn stdin() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(MAX_VALUE).read_to_end(&mut bytes);
    read.map_err(|error| PROGRAM.fail(format!("stdin: {error}")))?;
    Ok(bytes)
}

/// Runs `flux kvs unlink`.
pub(super) fn unlink(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let (recursive, force) = (matches.get_flag("recursive"), matches.get_flag("force"));
    let mut ops = Vec::new();
    for key in texts(matches, "keys") {
        if removable(store, key, recursive, force)? {
            ops.push(operation(key, 0, None));
        }
    }
    show(matches, &store.commit(0, ops)?);
    Ok(())
}

/// Whether the key is there to be removed.
fn removable(store: &Store, key: &str, recursive: bool, force: bool) -> Result<bool, Failure> {
    let object = match store.lookup(key, kvs::TREEOBJ, None) {
        Ok(object) => super::decode(key, &object)?,
        Err(error) if is_missing(&error) && force => return Ok(false),
        Err(error) => return Err(about(key, &error)),
    };
    if object.is_dir() && !recursive {
        let full = match store.object(key, kvs::READDIR, None)? {
            Treeobj::Dir(entries) => !entries.is_empty(),
            _ => true,
        };
        if full {
            return Err(PROGRAM.fail(format!("cannot unlink '{key}': Directory not empty")));
        }
    }
    Ok(true)
}

/// Runs `flux kvs link`.
pub(super) fn link(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let target = text(matches, "target").unwrap_or_default();
    let link = Treeobj::symlink(text(matches, "target-namespace"), target);
    let name = text(matches, "name").unwrap_or_default();
    show(matches, &store.commit(0, vec![operation(name, 0, Some(&link))])?);
    Ok(())
}

/// Runs `flux kvs mkdir`.
pub(super) fn mkdir(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let make = |key: &str| operation(key, 0, Some(&Treeobj::empty_dir()));
    let ops = texts(matches, "keys").into_iter().map(make).collect();
    show(matches, &store.commit(0, ops)?);
    Ok(())
}

/// Runs `flux kvs copy` and `move`.
pub(super) fn copy(store: &Store, matches: &ArgMatches, and_remove: bool) -> Result<(), Failure> {
    let from = store.in_namespace(text(matches, "src-namespace"));
    let to = store.in_namespace(text(matches, "dst-namespace"));
    let source = text(matches, "source").unwrap_or_default();
    let destination = text(matches, "destination").unwrap_or_default();
    let found = from.lookup(source, kvs::TREEOBJ, None);
    let object = found.map_err(|error| about(source, &error))?;
    let put = Operation { key: destination.to_owned(), flags: 0, dirent: object.into() };
    let remove = Operation { key: source.to_owned(), flags: 0, dirent: kvs::Dirent::Nothing };
    if and_remove && from.namespace == to.namespace {
        // In one transaction the key is never in both places, nor in none. What is put last wins,
        // so that a key moved to itself stays.
        return to.commit(0, vec![remove, put]).map(drop);
    }
    to.commit(0, vec![put])?;
    if and_remove {
        from.commit(0, vec![remove])?;
    }
    Ok(())
}
