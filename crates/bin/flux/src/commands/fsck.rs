//! `flux fsck`: whether everything in the key-value store can be read, and repair.

use std::path::Path;

use clap::{ArgMatches, Command};
use flux_api::content::{Pin, PinRequest};
use flux_api::kvs::{Getroot, NamespaceRequest, PRIMARY};
use flux_client::{Client, To};
use flux_model::blobref::Blobref;

use super::dump::hash_of;
use super::program::{Program, flag, text, value};
use crate::keytree::Running;
use crate::keytree::dump::Dump;
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-fsck");

/// The options of `flux fsck`.
pub(crate) fn command() -> Command {
    Command::new("fsck")
        .about("Check that everything in the key-value store can be read, and repair it")
        .long_about(
            "Check that everything in the key-value store can be read: in a running instance \
             each value of the primary namespace; with --statedir, for an instance that is \
             stopped, each page and blob of the file, and each value of every namespace. Exits \
             with 0 when all is well or was repaired, with 1 otherwise.",
        )
        .arg(flag("verbose", 'v', "Show each key"))
        .arg(flag("quiet", 'q', "Show nothing: the exit status says it"))
        .arg(flag("repair", None, "Mend what can be mended (with --statedir)"))
        .arg(value("rootref", None, "BLOBREF", "Check this root instead of the current one"))
        .arg(value("statedir", None, "DIR", "Check the store of an instance that is stopped"))
}

/// Runs `flux fsck`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    if let Some(statedir) = text(matches, "statedir") {
        return stopped(matches, Path::new(statedir));
    }
    let client = PROGRAM.open()?;
    if matches.get_flag("repair") {
        let statedir = client.get_attr("statedir").unwrap_or_else(|_| "DIR".to_string());
        return Err(PROGRAM.fail(format!(
            "--repair: stop the instance, then run flux fsck --repair --statedir={statedir}"
        )));
    }
    running(matches, &client)
}

fn stopped(matches: &ArgMatches, statedir: &Path) -> Result<i32, Failure> {
    let file = statedir.join("content.sqlite");
    let repair = matches.get_flag("repair");
    let quiet = matches.get_flag("quiet");
    let check = |repair| {
        flux_store::fsck::fsck(&file, repair).map_err(|error| PROGRAM.fail(error.to_string()))
    };
    let say = |text: &str| {
        if !quiet {
            output::line(text);
        }
    };
    let report = check(repair)?;
    for problem in &report.problems {
        say(problem);
    }
    for repair in &report.repairs {
        say(&format!("repaired: {repair}"));
    }
    let left = if report.repairs.is_empty() { report } else { check(false)? };
    say(&format!("{} blobs, {} keys, {} problems", left.blobs, left.keys, left.problems.len()));
    Ok(i32::from(!left.problems.is_empty()))
}

fn running(matches: &ArgMatches, client: &Client) -> Result<i32, Failure> {
    let rootref = match text(matches, "rootref") {
        Some(rootref) => rootref.to_string(),
        None => {
            let request = NamespaceRequest { namespace: PRIMARY.to_string(), flags: 0 };
            let root = client.call::<Getroot>(To::Rank(0), &request);
            root.map_err(|error| PROGRAM.about("root", &error))?.rootref
        }
    };
    let root: Blobref =
        rootref.parse().map_err(|error| PROGRAM.fail(format!("{rootref}: {error}")))?;
    // It stays whole while it is read.
    let mut pin = client.stream::<Pin>(To::Rank(0), &PinRequest { rootref });
    let pinned = pin.next().transpose();
    pinned.map_err(|error| PROGRAM.about("root", &error))?;
    let hash = hash_of(client)?;
    let (verbose, quiet) = (matches.get_flag("verbose"), matches.get_flag("quiet"));
    let mut seen = |key: &str| {
        if verbose && !quiet {
            output::line(&key.replace('/', "."));
        }
    };
    let mut problems = 0_u64;
    let mut unreadable = |key: &str, text: &str| {
        problems += 1;
        if !quiet {
            output::line(&format!("{}: {text}", key.replace('/', ".")));
        }
        true
    };
    let mut blobs = Running { client, hash, bypass: true, window: 64 };
    let mut walk = Dump {
        blobs: &mut blobs,
        tar: tar::Builder::new(std::io::sink()),
        mtime: 0,
        seen: &mut seen,
        unreadable: &mut unreadable,
        keys: 0,
    };
    let result = walk.root(&root);
    let keys = walk.keys;
    drop(walk);
    result.map_err(|text| PROGRAM.fail(text))?;
    if !quiet {
        output::line(&format!("{keys} keys, {problems} problems"));
    }
    Ok(i32::from(problems > 0))
}
