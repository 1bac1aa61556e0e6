//! `flux restore`: a tar archive into the key-value store.

use std::path::Path;

use clap::{ArgMatches, Command};
use flux_api::content::{Pin, PinRequest};
use flux_api::kvs::{Commit, CommitRequest, Operation, PRIMARY};
use flux_client::To;
use flux_model::blobref::{Blobref, HashAlg};
use flux_model::treeobj::Treeobj;

use super::dump::hash_of;
use super::program::{Program, flag, number, text, value, word};
use crate::keytree::restore::{Restore, adopt, reader};
use crate::keytree::{Blobs, Running, Stopped};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-restore");

/// The options of `flux restore`.
pub(crate) fn command() -> Command {
    Command::new("restore")
        .about("Read a tar archive, as flux dump writes it, into the key-value store")
        .long_about(
            "Read a tar archive, as flux dump writes it, into the key-value store: below a key of \
             a running instance, or as the whole primary namespace of one that is stopped.",
        )
        .arg(flag("verbose", 'v', "Show each key"))
        .arg(flag("quiet", 'q', "Say nothing of what is left out"))
        .arg(flag("checkpoint", None, "Make it the root (with --statedir, where it is implied)"))
        .arg(value("key", None, "KEY", "Put it below this key"))
        .arg(flag("no-cache", None, "Write to the store, past the cache"))
        .arg(value("size-limit", None, "BYTES", "Leave larger values out"))
        .arg(value("statedir", None, "DIR", "Write the store of an instance that is stopped"))
        .arg(word("infile", "INFILE", "Archive to read; - is standard input"))
}

/// Runs `flux restore`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let path = text(matches, "infile").unwrap_or_default();
    let key = text(matches, "key");
    if let Some(statedir) = text(matches, "statedir") {
        if key.is_some() {
            return Err(PROGRAM.fail("--key needs a running instance, --statedir a stopped one"));
        }
        return stopped(matches, path, Path::new(statedir));
    }
    if matches.get_flag("checkpoint") {
        return Err(PROGRAM.fail(
            "--checkpoint would be overwritten by the running instance: stop it, then use \
             --statedir=DIR",
        ));
    }
    let client = PROGRAM.open()?;
    let hash = hash_of(&client)?;
    // What is stored is not collected before the commit at the end refers to it.
    let request = PinRequest { rootref: String::new() };
    let mut hold = client.stream::<Pin>(To::Rank(0), &request);
    hold.next().transpose().map_err(|error| PROGRAM.about("store", &error))?;
    let bypass = matches.get_flag("no-cache");
    let root = read(matches, path, &mut Running { client: &client, hash, bypass, window: 1 })?;
    let Some(key) = key else {
        output::line(&root.to_string());
        return Ok(0);
    };
    let dirent = Treeobj::Dirref(root).into();
    let ops = vec![Operation { key: key.to_string(), flags: 0, dirent }];
    let request = CommitRequest { namespace: PRIMARY.to_string(), flags: 0, ops };
    client.call::<Commit>(To::Any, &request).map_err(|error| PROGRAM.about(key, &error))?;
    Ok(0)
}

fn stopped(matches: &ArgMatches, path: &str, statedir: &Path) -> Result<i32, Failure> {
    let store = Stopped::open(statedir, Some(HashAlg::default()));
    let mut store = store.map_err(|text| PROGRAM.fail(text))?;
    let root = read(matches, path, &mut store)?;
    adopt(&mut store, root).map_err(|text| PROGRAM.fail(text))?;
    Ok(0)
}

fn read(matches: &ArgMatches, path: &str, blobs: &mut dyn Blobs) -> Result<Blobref, Failure> {
    let about = |error: &dyn std::fmt::Display| PROGRAM.fail(format!("{path}: {error}"));
    let file = reader(path).map_err(|text| PROGRAM.fail(text))?;
    let (verbose, quiet) = (matches.get_flag("verbose"), matches.get_flag("quiet"));
    let mut seen = |key: &str| {
        if verbose {
            output::error_line(key);
        }
    };
    let mut left_out = |name: &str, text: &str| {
        if !quiet {
            output::error_line(&format!("flux-restore: {name}: {text}: left out"));
        }
    };
    let limit = number(PROGRAM, matches, "size-limit")?;
    let mut restore = Restore { blobs, limit, seen: &mut seen, left_out: &mut left_out, keys: 0 };
    let root = restore.archive(file).map_err(|text| about(&text))?;
    if !quiet {
        output::error_line(&format!("flux-restore: {} keys", restore.keys));
    }
    Ok(root)
}
