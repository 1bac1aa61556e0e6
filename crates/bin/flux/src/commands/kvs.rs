//! `flux kvs`: the key-value store (RFC 11, RFC 16).

use clap::{Arg, ArgMatches, Command};
use flux_api::kvs::{
    CommitRequest, Getroot, LookupRequest, NamespaceRequest, Operation, PRIMARY, Root,
    RootResponse, WaitVersion, WaitVersion_,
};
use flux_api::{RpcError, kvs::Commit, kvs::Lookup};
use flux_client::{Client, To};
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use serde_json::Value;

use super::event_view::EventView;
use super::program::{Program, flag, text, value, word, words};
use crate::{dispatch::Invocation, failure::Failure, output};

mod directory;
mod events;
mod get;
mod namespace;
mod write;

const PROGRAM: Program = Program::binary("flux-kvs");

fn in_namespace(command: Command) -> Command {
    command.arg(value("namespace", 'N', "NAME", "Namespace (default: primary)"))
}

/// Options of what makes a new root.
fn rooted(command: Command) -> Command {
    in_namespace(command)
        .arg(flag("treeobj-root", 'O', "Show the new root as a tree object"))
        .arg(flag("blobref", 'b', "Show the blobref of the new root"))
        .arg(flag("sequence", 's', "Show the sequence number of the new root"))
}

/// The options of `flux kvs`.
pub(crate) fn command() -> Command {
    let keys = || words("keys", "KEY", "Keys").required(true);
    let treeobj = || flag("treeobj", 't', "The tree object as it is stored");
    let sync = || flag("sync", 'S', "Write a checkpoint too");
    let width = || value("width", 'w', "N", "Columns (0: no limit)");
    let (from, to) = (
        || value("src-namespace", 'S', "NAME", "Namespace of the source"),
        || value("dst-namespace", 'D', "NAME", "Namespace of the destination"),
    );
    Command::new("kvs")
        .about("Read and change the key-value store")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(
            in_namespace(Command::new("get").about("Show values"))
                .arg(flag("raw", 'r', "The bytes, without a newline"))
                .arg(treeobj())
                .arg(value("at", 'a', "TREEOBJ", "Read below this root"))
                .arg(flag("label", 'l', "Begin with KEY="))
                .arg(flag("waitcreate", 'W', "Wait until the key exists"))
                .arg(flag("watch", 'w', "Show every change"))
                .arg(flag("uniq", 'u', "With --watch: only values that differ"))
                .arg(flag("append", 'A', "With --watch: only what is appended"))
                .arg(flag("full", 'f', "With --watch: see changes by other keys too"))
                .arg(value("count", 'c', "N", "With --watch: end after N values"))
                .arg(flag("stream", 'S', "Read a large value piece by piece"))
                .arg(keys()),
        )
        .subcommand(
            rooted(Command::new("put").about("Set values"))
                .arg(flag("raw", 'r', "KEY=- reads standard input"))
                .arg(flag("treeobj", 't', "The value is a tree object"))
                .arg(flag("no-merge", 'n', "Share no commit with others"))
                .arg(flag("append", 'A', "Append to the value"))
                .arg(sync())
                .arg(words("pairs", "KEY=VALUE", "Keys with their values").required(true)),
        )
        .subcommand(
            in_namespace(Command::new("dir").about("Show all keys and values below a key"))
                .arg(flag("recursive", 'R', "Directories below too"))
                .arg(flag("directory", 'd', "No values"))
                .arg(width())
                .arg(value("at", 'a', "TREEOBJ", "Read below this root"))
                .arg(Arg::new("key").value_name("KEY").help("Directory (default: the root)")),
        )
        .subcommand(
            in_namespace(Command::new("ls").about("List keys"))
                .arg(flag("recursive", 'R', "Directories below too"))
                .arg(flag("directory", 'd', "Directories themselves"))
                .arg(width())
                .arg(flag("1", '1', "One key in each line"))
                .arg(flag("classify", 'F', "A dot after directories, @ after links"))
                .arg(words("keys", "KEY", "Keys (default: the root)")),
        )
        .subcommand(
            rooted(Command::new("unlink").about("Remove keys"))
                .arg(flag("recursive", 'R', "With all that is below"))
                .arg(flag("force", 'f', "A missing key is no error"))
                .arg(keys()),
        )
        .subcommand(
            rooted(Command::new("link").about("Make a key that stands for another"))
                .arg(value("target-namespace", 'T', "NAME", "Namespace of the target"))
                .arg(word("target", "TARGET", "What it stands for"))
                .arg(word("name", "LINKNAME", "The new key")),
        )
        .subcommand(
            in_namespace(Command::new("readlink").about("Show what links stand for"))
                .arg(flag("namespace-only", 'o', "Only the namespace"))
                .arg(flag("key-only", 'k', "Only the key"))
                .arg(keys()),
        )
        .subcommand(rooted(Command::new("mkdir").about("Make empty directories")).arg(keys()))
        .subcommand(
            Command::new("copy")
                .about("Copy a key with all that is below")
                .args([from(), to()])
                .arg(word("source", "SOURCE", "From"))
                .arg(word("destination", "DESTINATION", "To")),
        )
        .subcommand(
            Command::new("move")
                .about("Rename a key")
                .args([from(), to()])
                .arg(word("source", "SOURCE", "From"))
                .arg(word("destination", "DESTINATION", "To")),
        )
        .subcommand(namespace::command())
        .subcommand(in_namespace(
            Command::new("version").about("Show the sequence number of the root"),
        ))
        .subcommand(
            in_namespace(Command::new("wait").about("Wait for a sequence number of the root"))
                .arg(word("version", "VERSION", "Sequence number")),
        )
        .subcommand(
            in_namespace(Command::new("getroot").about("Show the root"))
                .arg(flag("sequence", 's', "Its sequence number"))
                .arg(flag("owner", 'o', "The owner of the namespace"))
                .arg(flag("blobref", 'b', "Its blobref")),
        )
        .subcommand(in_namespace(Command::new("sync").about("Write a checkpoint")))
        .subcommand(events::command(EventView::arguments()))
}

/// Runs `flux kvs`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let Some((name, matches)) = invocation.matches.subcommand() else { return Ok(1) };
    let store = Store { client: PROGRAM.open()?, namespace: namespace_of(matches) };
    match name {
        "get" => get::run(&store, matches),
        "put" => write::put(&store, matches),
        "dir" => directory::dir(&store, matches),
        "ls" => directory::ls(&store, matches),
        "unlink" => write::unlink(&store, matches),
        "link" => write::link(&store, matches),
        "readlink" => get::readlink(&store, matches),
        "mkdir" => write::mkdir(&store, matches),
        "copy" => write::copy(&store, matches, false),
        "move" => write::copy(&store, matches, true),
        "namespace" => namespace::run(&store, matches),
        "version" => {
            output::line(&store.root()?.rootseq.to_string());
            Ok(())
        }
        "wait" => wait(&store, matches),
        "getroot" => getroot(&store, matches),
        "sync" => store.commit(flux_api::kvs::SYNC, Vec::new()).map(drop),
        _ => events::run(&store, matches),
    }?;
    Ok(0)
}

/// The namespace that is asked for; `FLUX_KVS_NAMESPACE` is the default.
fn namespace_of(matches: &ArgMatches) -> String {
    let chosen = matches.try_get_one::<String>("namespace").ok().flatten().cloned();
    chosen
        .or_else(|| std::env::var("FLUX_KVS_NAMESPACE").ok().filter(|name| !name.is_empty()))
        .unwrap_or_else(|| PRIMARY.to_owned())
}

/// A namespace of the store.
struct Store {
    client: Client,
    namespace: String,
}

impl Store {
    fn in_namespace(&self, name: Option<&str>) -> Store {
        let namespace = name.map_or_else(|| self.namespace.clone(), str::to_owned);
        Store { client: self.client.clone(), namespace }
    }

    fn request(&self, key: &str, flags: u32, at: Option<&Value>) -> LookupRequest {
        LookupRequest {
            key: key.to_owned(),
            flags,
            namespace: at.is_none().then(|| self.namespace.clone()),
            rootdir: at.cloned(),
            rootseq: None,
            userid: None,
        }
    }

    fn lookup(&self, key: &str, flags: u32, at: Option<&Value>) -> Result<Value, RpcError> {
        self.client.call::<Lookup>(To::Any, &self.request(key, flags, at)).map(|found| found.val)
    }

    /// Reads a key as a tree object; failures name the key.
    fn object(&self, key: &str, flags: u32, at: Option<&Value>) -> Result<Treeobj, Failure> {
        let value = self.lookup(key, flags, at).map_err(|error| about(key, &error))?;
        decode(key, &value)
    }

    fn commit(&self, flags: u32, ops: Vec<Operation>) -> Result<RootResponse, Failure> {
        let request = CommitRequest { namespace: self.namespace.clone(), flags, ops };
        self.client
            .call::<Commit>(To::Any, &request)
            .map_err(|error| PROGRAM.about("flux_kvs_commit", &error))
    }

    fn root(&self) -> Result<Root, Failure> {
        let request = NamespaceRequest { namespace: self.namespace.clone(), flags: 0 };
        self.client
            .call::<Getroot>(To::Any, &request)
            .map_err(|error| PROGRAM.about("flux_kvs_getroot", &error))
    }
}

/// A failed request about a key. What every program knows is told in the standard words.
fn about(key: &str, error: &RpcError) -> Failure {
    match error.errno {
        Errno::EOPNOTSUPP if error.message().contains("namespace") => PROGRAM.about(key, error),
        Errno::ENOENT | Errno::EISDIR | Errno::ENOTDIR | Errno::EOPNOTSUPP | Errno::EPERM => {
            PROGRAM.fail(format!("{key}: {}", error.errno.text()))
        }
        _ => PROGRAM.about(key, error),
    }
}

fn decode(key: &str, value: &Value) -> Result<Treeobj, Failure> {
    Treeobj::from_value(value).map_err(|error| PROGRAM.fail(format!("{key}: {error}")))
}

/// The bytes of a value object.
fn bytes_of(key: &str, object: Treeobj) -> Result<Vec<u8>, Failure> {
    match object {
        Treeobj::Val(bytes) => Ok(bytes),
        other => Err(PROGRAM.fail(format!("{key}: unexpected {}", other.type_name()))),
    }
}

fn operation(key: &str, flags: u32, object: Option<&Treeobj>) -> Operation {
    let dirent = object.map_or(flux_api::kvs::Dirent::Nothing, |object| object.clone().into());
    Operation { key: key.to_owned(), flags, dirent }
}

fn wait(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let rootseq = text(matches, "version").and_then(|version| version.parse().ok());
    let rootseq = rootseq.ok_or_else(|| PROGRAM.fail("invalid version"))?;
    let request = WaitVersion { rootseq, namespace: store.namespace.clone() };
    let done = store.client.call::<WaitVersion_>(To::Any, &request);
    done.map(drop).map_err(|error| PROGRAM.about("flux_kvs_wait_version", &error))
}

/// The tree object of a root.
fn dirref(rootref: &str) -> Value {
    serde_json::json!({ "data": [rootref], "type": "dirref", "ver": 1 })
}

fn getroot(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let root = store.root()?;
    output::line(&if matches.get_flag("sequence") {
        root.rootseq.to_string()
    } else if matches.get_flag("owner") {
        root.owner.to_string()
    } else if matches.get_flag("blobref") {
        root.rootref
    } else {
        dirref(&root.rootref).to_string()
    });
    Ok(())
}

/// Whether a failed lookup only says that there is no such key.
fn is_missing(error: &RpcError) -> bool {
    error.errno == Errno::ENOENT
}
