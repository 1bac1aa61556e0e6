//! `flux keygen`: make the key of an instance's overlay network.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use flux_wire::Cert;

use crate::{dispatch::Invocation, failure::Failure};

/// The options of `flux keygen`.
pub(crate) fn command() -> Command {
    Command::new("keygen")
        .about("Make a new certificate for the links between brokers")
        .arg(
            Arg::new("name")
                .short('n')
                .long("name")
                .value_name("NAME")
                .help("Name of the certificate (default: the host name)"),
        )
        .arg(
            Arg::new("meta")
                .long("meta")
                .value_name("KEY=VAL,..")
                .action(ArgAction::Append)
                .help("Notes to keep in the certificate"),
        )
        .arg(
            Arg::new("path")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("File to write; without it a key is made and thrown away"),
        )
}

/// Runs `flux keygen`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let cert =
        certificate(&invocation.matches).map_err(|text| Failure::binary("flux-keygen", text))?;
    if let Some(path) = invocation.matches.get_one::<PathBuf>("path") {
        cert.save(path).map_err(|error| Failure::binary("flux-keygen", error.to_string()))?;
    }
    Ok(0)
}

fn certificate(matches: &ArgMatches) -> Result<Cert, String> {
    let mut cert = Cert::generate().map_err(|error| error.to_string())?;
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    let name = matches.get_one::<String>("name").map_or(&*host, String::as_str);
    cert.set_metadata("name", name).map_err(|error| error.to_string())?;
    let notes = matches.get_many::<String>("meta").unwrap_or_default();
    for note in notes.flat_map(|list| list.split(',')).filter(|note| !note.is_empty()) {
        let (key, value) =
            note.split_once('=').ok_or_else(|| format!("--meta: '{note}' is not KEY=VAL"))?;
        cert.set_metadata(key, value).map_err(|error| error.to_string())?;
    }
    cert.set_origin(crate::release::RELEASE).map_err(|error| error.to_string())?;
    Ok(cert)
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, os::unix::fs::PermissionsExt};

    use super::*;

    fn keygen(words: &[&str]) -> Result<i32, Failure> {
        let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
        let matches = command().no_binary_name(true).try_get_matches_from(words).expect("valid");
        run(&Invocation { matches, arguments })
    }

    #[test]
    fn the_certificate_is_private_and_loads() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("curve.cert");
        let text = path.to_str().expect("UTF-8");
        assert_eq!(keygen(&["--name=mine", "--meta=a=b,c=d", text]), Ok(0));
        let mode = path.metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let cert = Cert::load(&path).expect("a certificate");
        assert_eq!((cert.name(), cert.metadata("c")), (Some("mine"), Some("d")));
        assert!(cert.metadata("keygen.hostname").is_some());
        assert!(keygen(&[text]).is_err(), "an existing key is kept");
        assert!(keygen(&["--meta=x"]).is_err());
    }
}
