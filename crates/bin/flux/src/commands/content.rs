//! `flux content`: blobs by their hash, and the roots that were made durable.

use std::io::Read;

use clap::{Arg, ArgMatches, Command};
use flux_api::body::AnyObject;
use flux_api::content::{
    BackingBackup, BackingCheckpointGet, BackingLoad, BackingRelocate, BackingStore, Checkpoint,
    CheckpointGet, CheckpointPut, CheckpointPut_, CopyRequest, Dropcache, Flush, Load, Status,
    Store,
};
use flux_api::{Empty, Raw};
use flux_client::{Client, To};
use flux_model::blobref::{Blobref, HashAlg};

use super::program::{Program, flag, number, text, texts, value, word, words};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-content");

/// Largest blob.
const MAX_BLOB: u64 = 1 << 30;

/// The options of `flux content`.
pub(crate) fn command() -> Command {
    let bypass = || flag("bypass-cache", 'b', "Ask the store itself");
    Command::new("content")
        .about("Read and write blobs by their hash")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(
            Command::new("load")
                .about("Write blobs to standard output; names from standard input by default")
                .arg(bypass())
                .arg(words("blobrefs", "BLOBREF", "Names of blobs")),
        )
        .subcommand(
            Command::new("store")
                .about("Store standard input and show its name")
                .arg(bypass())
                .arg(value("chunksize", None, "BYTES", "Store pieces of at most this size")),
        )
        .subcommand(Command::new("flush").about("Wait until everything is stored"))
        .subcommand(Command::new("dropcache").about("Forget what can be read again"))
        .subcommand(
            Command::new("backup")
                .about("Copy the store, as it is at one instant, to a new file of rank 0")
                .arg(word("path", "PATH", "The new file")),
        )
        .subcommand(
            Command::new("relocate")
                .about("Move the store to a new file of rank 0 and leave a link to it")
                .arg(word("path", "PATH", "The new file")),
        )
        .subcommand(Command::new("status").about("Show whether the store takes writes"))
        .subcommand(
            Command::new("checkpoint")
                .about("Show or add durable roots")
                .subcommand_required(true)
                .disable_help_subcommand(true)
                .subcommand(
                    Command::new("list").about("Show durable roots, newest first").arg(bypass()),
                )
                .subcommand(
                    Command::new("put")
                        .about("Make a root the newest")
                        .arg(value("sequence", 's', "N", "Its sequence number (default: 0)"))
                        .arg(word("rootref", "BLOBREF", "Blobref of the root directory")),
                ),
        )
        .arg(Arg::new("rank").short('r').long("rank").value_name("RANK").help("Cache to use"))
}

/// Runs `flux content`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some((what, matches)) = invocation.matches.subcommand() else { return Ok(1) };
    let client = PROGRAM.open()?;
    let to = number(PROGRAM, &invocation.matches, "rank")?.map_or(To::Any, To::Rank);
    match what {
        "load" => load(&client, to, matches),
        "store" => store(&client, to, matches),
        "flush" => client
            .call::<Flush>(to, &Empty)
            .map(drop)
            .map_err(|error| PROGRAM.about("flush", &error)),
        "dropcache" => client
            .call::<Dropcache>(to, &Empty)
            .map(drop)
            .map_err(|error| PROGRAM.about("dropcache", &error)),
        "backup" | "relocate" => copy(&client, what, matches),
        "status" => {
            let status = client.call::<Status>(To::Rank(0), &AnyObject::default());
            let status = status.map_err(|error| PROGRAM.about("status", &error))?;
            output::line(format!("{}  {}", status.state, status.text).trim_end());
            Ok(())
        }
        _ => match matches.subcommand() {
            Some(("put", matches)) => put(&client, matches),
            Some((_, matches)) => list(&client, matches),
            None => Ok(()),
        },
    }?;
    Ok(0)
}

fn load(client: &Client, to: To, matches: &ArgMatches) -> Result<(), Failure> {
    let mut names: Vec<String> =
        texts(matches, "blobrefs").into_iter().map(str::to_owned).collect();
    if names.is_empty() {
        let mut text = String::new();
        let read = std::io::stdin().lock().take(MAX_BLOB).read_to_string(&mut text);
        read.map_err(|error| PROGRAM.fail(format!("stdin: {error}")))?;
        names = text.split_whitespace().map(str::to_owned).collect();
    }
    for name in names {
        let blobref: Blobref = name
            .parse()
            .map_err(|error| PROGRAM.fail(format!("invalid blobref '{name}': {error}")))?;
        let digest = Raw(blobref.digest().to_vec().into());
        let found = if matches.get_flag("bypass-cache") {
            client.call::<BackingLoad>(To::Rank(0), &digest)
        } else {
            client.call::<Load>(to, &digest)
        };
        let blob = found.map_err(|error| PROGRAM.about(&name, &error))?;
        output::bytes(&blob.0);
    }
    Ok(())
}

fn store(client: &Client, to: To, matches: &ArgMatches) -> Result<(), Failure> {
    let hash = client.get_attr("content.hash").unwrap_or_else(|_| "sha1".into());
    let hash: HashAlg =
        hash.parse().map_err(|_| PROGRAM.fail(format!("unknown content.hash {hash}")))?;
    let mut data = Vec::new();
    let read = std::io::stdin().lock().take(MAX_BLOB + 1).read_to_end(&mut data);
    read.map_err(|error| PROGRAM.fail(format!("stdin: {error}")))?;
    let size: usize = number(PROGRAM, matches, "chunksize")?.unwrap_or(usize::MAX);
    if size == 0 {
        return Err(PROGRAM.fail("--chunksize: must be at least 1"));
    }
    let pieces: Vec<&[u8]> =
        if data.is_empty() { vec![&[][..]] } else { data.chunks(size).collect() };
    for piece in pieces {
        let blob = Raw(piece.to_vec().into());
        let stored = if matches.get_flag("bypass-cache") {
            client.call::<BackingStore>(To::Rank(0), &blob)
        } else {
            client.call::<Store>(to, &blob)
        };
        let digest = stored.map_err(|error| PROGRAM.about("store", &error))?;
        let blobref = Blobref::from_digest(hash, &digest.0);
        let blobref = blobref.map_err(|error| PROGRAM.fail(error.to_string()))?;
        output::line(&blobref.to_string());
    }
    Ok(())
}

fn list(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let none = AnyObject::default();
    let list = if matches.get_flag("bypass-cache") {
        client.call::<BackingCheckpointGet>(To::Rank(0), &none)
    } else {
        client.call::<CheckpointGet>(To::Rank(0), &none)
    };
    for checkpoint in list.map_err(|error| PROGRAM.about("checkpoint", &error))?.value {
        let text = serde_json::to_string(&checkpoint);
        output::line(&text.map_err(|error| PROGRAM.fail(error.to_string()))?);
    }
    Ok(())
}

fn copy(client: &Client, what: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let path = text(matches, "path").unwrap_or_default();
    // The broker has another working directory.
    let absolute = std::path::absolute(path);
    let absolute = absolute.map_err(|error| PROGRAM.fail(format!("{path}: {error}")))?;
    let request = CopyRequest { path: absolute.display().to_string() };
    let copied = if what == "backup" {
        client.call::<BackingBackup>(To::Rank(0), &request)
    } else {
        client.call::<BackingRelocate>(To::Rank(0), &request)
    };
    let copied = copied.map_err(|error| PROGRAM.about(what, &error))?;
    output::line(&format!("{path}: {} blobs, {} bytes", copied.blobs, copied.bytes));
    Ok(())
}

fn put(client: &Client, matches: &ArgMatches) -> Result<(), Failure> {
    let rootref = text(matches, "rootref").unwrap_or_default();
    rootref
        .parse::<Blobref>()
        .map_err(|error| PROGRAM.fail(format!("invalid blobref '{rootref}': {error}")))?;
    let value = Checkpoint {
        version: 1,
        rootref: rootref.to_owned(),
        sequence: number(PROGRAM, matches, "sequence")?.unwrap_or(0),
        timestamp: jiff::Timestamp::now().as_microsecond() as f64 / 1e6,
        namespaces: None,
    };
    let done = client.call::<CheckpointPut_>(To::Rank(0), &CheckpointPut { value });
    done.map(drop).map_err(|error| PROGRAM.about("checkpoint", &error))
}
