//! `flux kvs namespace`.

use clap::{ArgMatches, Command};
use flux_api::body::AnyObject;
use flux_api::kvs::{
    NamespaceCreate, NamespaceCreate_, NamespaceList_, NamespaceRemove, NamespaceRequest,
};
use flux_client::To;
use flux_model::{blobref::HashAlg, treeobj::Treeobj};

use super::{PROGRAM, Store};
use crate::{
    commands::program::{text, texts, value, words},
    failure::Failure,
    output, session,
};

pub(super) fn command() -> Command {
    let names = || words("names", "NAME", "Namespaces").required(true);
    Command::new("namespace")
        .about("List, make and remove namespaces")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(
            Command::new("create")
                .about("Make namespaces")
                .arg(value("owner", 'o', "USER", "Owner (default: the owner of the instance)"))
                .arg(value("rootref", 'r', "BLOBREF", "First root (default: an empty directory)"))
                .arg(names()),
        )
        .subcommand(Command::new("list").about("List namespaces"))
        .subcommand(Command::new("remove").about("Remove namespaces").arg(names()))
}

pub(super) fn run(store: &Store, matches: &ArgMatches) -> Result<(), Failure> {
    let client = &store.client;
    let Some((name, matches)) = matches.subcommand() else { return Ok(()) };
    match name {
        "create" => {
            let owner = match text(matches, "owner") {
                None => -1,
                Some(name) => session::user(name)
                    .ok_or_else(|| PROGRAM.fail(format!("{name}: no such user")))?,
            };
            let rootref = match text(matches, "rootref") {
                Some(rootref) => rootref.to_owned(),
                None => empty_root(client.get_attr("content.hash").ok().as_deref())?,
            };
            for namespace in texts(matches, "names") {
                let request = NamespaceCreate {
                    namespace: namespace.to_owned(),
                    rootref: rootref.clone(),
                    owner,
                    flags: 0,
                    ops: Vec::new(),
                };
                let done = client.call::<NamespaceCreate_>(To::Rank(0), &request);
                done.map_err(|error| PROGRAM.about(namespace, &error))?;
            }
        }
        "remove" => {
            for namespace in texts(matches, "names") {
                let request = NamespaceRequest { namespace: namespace.to_owned(), flags: 0 };
                let done = client.call::<NamespaceRemove>(To::Rank(0), &request);
                done.map_err(|error| PROGRAM.about(namespace, &error))?;
            }
        }
        _ => {
            let list = client.call::<NamespaceList_>(To::Rank(0), &AnyObject::default());
            let mut list = list.map_err(|error| PROGRAM.error(&error))?.namespaces;
            list.sort_by(|a, b| a.namespace.cmp(&b.namespace));
            output::line(&row("NAMESPACE", "OWNER", "FLAGS"));
            for entry in list {
                let flags = format!("0x{:08X}", entry.flags);
                output::line(&row(&entry.namespace, &entry.owner.to_string(), &flags));
            }
        }
    }
    Ok(())
}

fn row(namespace: &str, owner: &str, flags: &str) -> String {
    format!("{namespace:<36} {owner:>10} {flags:>10}")
}

/// The blobref of an empty directory.
fn empty_root(hash: Option<&str>) -> Result<String, Failure> {
    let hash = hash.unwrap_or("sha1");
    let algorithm: HashAlg =
        hash.parse().map_err(|_| PROGRAM.fail(format!("content.hash: unknown hash {hash}")))?;
    Ok(Treeobj::empty_dir().hash(algorithm).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_root_is_an_empty_directory() {
        let root = empty_root(None).unwrap();
        assert!(root.starts_with("sha1-") && root.len() == 45);
        assert!(empty_root(Some("sha256")).unwrap().starts_with("sha256-"));
        assert!(empty_root(Some("md5")).is_err());
    }
}
