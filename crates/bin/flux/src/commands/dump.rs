//! `flux dump`: the key-value store as a tar archive.

use std::path::Path;

use clap::{ArgMatches, Command};
use flux_api::body::AnyObject;
use flux_api::content::{CheckpointGet, Pin, PinRequest};
use flux_api::kvs::{Getroot, NamespaceRequest, PRIMARY};
use flux_client::{Client, To};
use flux_model::blobref::{Blobref, HashAlg};

use super::program::{Program, flag, number, text, value, word};
use crate::keytree::dump::{Dump, writer};
use crate::keytree::{Blobs, Running, Stopped};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-dump");

/// The options of `flux dump`.
pub(crate) fn command() -> Command {
    Command::new("dump")
        .about("Write the primary namespace of the key-value store to a tar archive")
        .long_about(
            "Write the primary namespace of the key-value store, as it is at one instant, to a \
             tar archive: each key is a path, with a slash for each dot, and each value a file. \
             Other namespaces, those of jobs that run now, are not in it: flux content backup has \
             them. A name that ends in .gz or .tgz is compressed, and - is standard output.",
        )
        .arg(flag("verbose", 'v', "Show each key"))
        .arg(flag("quiet", 'q', "Say nothing of keys that cannot be read"))
        .arg(flag("checkpoint", None, "Use the newest durable root, not the current one"))
        .arg(flag("no-cache", None, "Read from the store, past the cache"))
        .arg(flag("ignore-failed-read", None, "Leave out what cannot be read"))
        .arg(value("maxreqs", None, "N", "Requests on their way at a time (default: 64)"))
        .arg(value("statedir", None, "DIR", "Read the store of an instance that is stopped"))
        .arg(word("outfile", "OUTFILE", "Archive to write"))
}

/// Runs `flux dump`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let path = text(matches, "outfile").unwrap_or_default();
    if let Some(statedir) = text(matches, "statedir") {
        let stopped = Stopped::open(Path::new(statedir), None);
        let mut stopped = stopped.map_err(|text| PROGRAM.fail(text))?;
        let checkpoint = stopped.checkpoint().map_err(|text| PROGRAM.fail(text))?;
        let checkpoint = checkpoint
            .ok_or_else(|| PROGRAM.fail(format!("{statedir}: there is no checkpoint")))?;
        let root = parse(&checkpoint.rootref)?;
        return write(matches, path, &mut stopped, &root, checkpoint.timestamp);
    }
    let client = PROGRAM.open()?;
    online(&client, matches, path)
}

/// Dumps a running instance with the usual options.
///
/// # Errors
/// The failure to show.
pub(super) fn current(client: &Client, path: &str) -> Result<(), Failure> {
    let words = ["dump", "--quiet", "--", path];
    let matches = command().try_get_matches_from(words);
    let matches = matches.map_err(|error| PROGRAM.fail(error.to_string()))?;
    online(client, &matches, path).map(drop)
}

fn online(client: &Client, matches: &ArgMatches, path: &str) -> Result<i32, Failure> {
    let root = if matches.get_flag("checkpoint") {
        let list = client.call::<CheckpointGet>(To::Rank(0), &AnyObject::default());
        let list = list.map_err(|error| PROGRAM.about("checkpoint", &error))?;
        let newest = list.value.into_iter().next();
        newest.ok_or_else(|| PROGRAM.fail("there is no checkpoint"))?.rootref
    } else {
        let request = NamespaceRequest { namespace: PRIMARY.to_string(), flags: 0 };
        let root = client.call::<Getroot>(To::Rank(0), &request);
        root.map_err(|error| PROGRAM.about("root", &error))?.rootref
    };
    // It stays whole while it is read.
    let mut pin = client.stream::<Pin>(To::Rank(0), &PinRequest { rootref: root.clone() });
    let pinned = pin.next().transpose();
    pinned.map_err(|error| PROGRAM.about("root", &error))?;
    let hash = hash_of(client)?;
    let window = number(PROGRAM, matches, "maxreqs")?.unwrap_or(64);
    let bypass = matches.get_flag("no-cache");
    let mut running = Running { client, hash, bypass, window };
    let now = jiff::Timestamp::now().as_second() as f64;
    write(matches, path, &mut running, &parse(&root)?, now)
}

fn parse(rootref: &str) -> Result<Blobref, Failure> {
    rootref.parse().map_err(|error| PROGRAM.fail(format!("{rootref}: {error}")))
}

pub(super) fn hash_of(client: &Client) -> Result<HashAlg, Failure> {
    let name = client.get_attr("content.hash").unwrap_or_else(|_| "sha1".into());
    name.parse().map_err(|_| PROGRAM.fail(format!("unknown content.hash {name}")))
}

fn write(
    matches: &ArgMatches,
    path: &str,
    blobs: &mut dyn Blobs,
    root: &Blobref,
    time: f64,
) -> Result<i32, Failure> {
    let about = |error: &dyn std::fmt::Display| PROGRAM.fail(format!("{path}: {error}"));
    let out = writer(path).map_err(|text| PROGRAM.fail(text))?;
    let verbose = matches.get_flag("verbose");
    let mut seen = |key: &str| {
        if verbose {
            output::error_line(key);
        }
    };
    let (quiet, ignore) = (matches.get_flag("quiet"), matches.get_flag("ignore-failed-read"));
    let mut failed = 0;
    let mut unreadable = |key: &str, text: &str| {
        failed += 1;
        if ignore && !quiet {
            output::error_line(&format!("flux-dump: {key}: {text}"));
        }
        ignore
    };
    let mut dump = Dump {
        blobs,
        tar: tar::Builder::new(out),
        mtime: time.max(0.0) as u64,
        seen: &mut seen,
        unreadable: &mut unreadable,
        keys: 0,
    };
    let result = dump.root(root);
    let keys = dump.keys;
    let written = dump.tar.into_inner().and_then(|out| out.finish());
    result.map_err(|text| PROGRAM.fail(text))?;
    written.map_err(|error| about(&error))?;
    if path != "-" && !quiet {
        output::error_line(&format!("flux-dump: {keys} keys, {failed} left out"));
    }
    Ok(0)
}
