//! `flux kvs get` and `readlink`.

use clap::ArgMatches;
use flux_api::kvs::{self, WatchLookup, WatchRequest};
use flux_client::To;
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use serde_json::Value;

use super::{PROGRAM, Store, about, bytes_of, decode};
use crate::{
    commands::program::{number, text, texts},
    failure::Failure,
    output,
};

/// Runs `flux kvs get`.
pub(super) fn run(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let at = text(matches, "at").map(at).transpose()?;
    let flags = flags(matches);
    let count: u64 = number(PROGRAM, matches, "count")?.unwrap_or(u64::MAX);
    let watching = flags & (kvs::WATCH | kvs::WAITCREATE | kvs::STREAM) != 0;
    for key in texts(matches, "keys") {
        if !watching || at.is_some() {
            let plain = flags & kvs::TREEOBJ;
            let value = store.lookup(key, plain, at.as_ref());
            show(matches, key, &value.map_err(|error| about(key, &error))?)?;
            continue;
        }
        let request =
            WatchRequest { namespace: store.namespace.clone(), key: key.to_owned(), flags };
        if flags & (kvs::WATCH | kvs::STREAM) == 0 {
            let found = store.client.call::<WatchLookup>(To::Any, &request);
            show(matches, key, &found.map_err(|error| about(key, &error))?.val)?;
            continue;
        }
        let mut seen = 0;
        for item in store.client.stream::<WatchLookup>(To::Any, &request) {
            let item = item.map_err(|error| about(key, &error))?;
            show(matches, key, &item.val)?;
            seen += 1;
            if flags & kvs::WATCH != 0 && seen >= count {
                break;
            }
        }
    }
    Ok(())
}

fn flags(matches: &ArgMatches) -> u32 {
    [
        ("treeobj", kvs::TREEOBJ),
        ("waitcreate", kvs::WAITCREATE),
        ("watch", kvs::WATCH),
        ("uniq", kvs::WATCH_UNIQ),
        ("append", kvs::WATCH_APPEND),
        ("full", kvs::WATCH_FULL),
        ("stream", kvs::STREAM),
    ]
    .iter()
    .filter(|(name, _)| matches.get_flag(name))
    .fold(0, |flags, (_, flag)| flags | flag)
}

/// The root of `--at`: a dirref, or its blobref.
pub(super) fn at(text: &str) -> Result<Value, Failure> {
    if !text.starts_with('{') {
        return Ok(super::dirref(text));
    }
    serde_json::from_str(text).map_err(|error| PROGRAM.fail(format!("--at: {error}")))
}

fn show(matches: &ArgMatches, key: &str, value: &Value) -> Result<(), Failure> {
    let label = if matches.get_flag("label") { format!("{key}=") } else { String::new() };
    if matches.get_flag("treeobj") {
        output::line(&format!("{label}{value}"));
        return Ok(());
    }
    let bytes = bytes_of(key, decode(key, value)?)?;
    let bare = matches.get_flag("raw") || matches.get_flag("stream");
    let mut text = label.into_bytes();
    text.extend_from_slice(&bytes);
    if !bare && !matches.get_flag("append") {
        text.push(b'\n');
    }
    output::bytes(&text);
    Ok(())
}

/// Runs `flux kvs readlink`.
pub(super) fn readlink(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    for key in texts(matches, "keys") {
        let found = store.lookup(key, kvs::READLINK, None);
        let found = found.map_err(|error| {
            let text = if error.errno == Errno::EINVAL {
                "Invalid argument".into()
            } else {
                error.message()
            };
            PROGRAM.fail(format!("{key}: {text}"))
        })?;
        let Treeobj::Symlink { namespace, target } = decode(key, &found)? else {
            return Err(PROGRAM.fail(format!("{key}: Invalid argument")));
        };
        output::line(&match namespace {
            _ if matches.get_flag("key-only") => target,
            Some(namespace) if matches.get_flag("namespace-only") => namespace,
            None if matches.get_flag("namespace-only") => continue,
            Some(namespace) => format!("{namespace}::{target}"),
            None => target,
        });
    }
    Ok(())
}
