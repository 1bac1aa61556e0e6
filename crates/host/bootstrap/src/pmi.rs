//! Bootstrap under a launcher that speaks PMI-1 (RFC 13).

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use flux_host::{Bind, LinkKeys};
use flux_id::Hostlist;
use flux_model::taskmap::Taskmap;
use flux_pmi::{Session, VALLEN_MAX};
use flux_wire::{Endpoint, KeyPair, TlsClient, TlsServer, TrustedKeys};

use crate::boot::{Boot, BootError, Place, Tree, TreeOf};
use crate::card::Card;
use crate::interface;

/// What this broker says of itself.
#[derive(Debug, Clone)]
pub struct PmiOptions {
    /// Host name (attribute `hostname`).
    pub hostname: String,
    /// Directory for the unix socket of the overlay.
    pub rundir: PathBuf,
    /// `tbon.prefertcp`.
    pub prefer_tcp: bool,
    /// `tbon.interface-hint`, where set.
    pub interface_hint: Option<String>,
}

/// What the environment says of a PMI server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PmiEnv {
    /// `PMI_FD`, `PMI_RANK`, `PMI_SIZE`.
    Fd {
        /// Descriptor of the connection.
        fd: i32,
        /// Own rank.
        rank: u32,
        /// Number of processes.
        size: u32,
    },
    /// `PMI_PORT` and `PMI_ID`: the rank and size are told by the server (Hydra).
    Port {
        /// `host:port`.
        address: String,
        /// Number of this process for the server.
        id: u32,
    },
}

/// A stream to the server, of either kind.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl PmiEnv {
    /// Reads the environment through `get`; nothing when there is no PMI server.
    ///
    /// # Errors
    /// When a variable is there and makes no sense.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, BootError> {
        let number = |name: &str| {
            let text =
                get(name).ok_or_else(|| BootError::Environment(format!("{name} is not set")))?;
            text.parse::<u32>()
                .map_err(|_| BootError::Environment(format!("{name}={text} is not a number")))
        };
        if get("PMI_FD").is_some() {
            let fd = i32::try_from(number("PMI_FD")?)
                .map_err(|_| BootError::Environment("PMI_FD is not a descriptor".into()))?;
            let (rank, size) = (number("PMI_RANK")?, number("PMI_SIZE")?);
            if rank >= size {
                let text = format!("PMI_RANK={rank} is not below PMI_SIZE={size}");
                return Err(BootError::Environment(text));
            }
            return Ok(Some(Self::Fd { fd, rank, size }));
        }
        match get("PMI_PORT") {
            Some(address) => Ok(Some(Self::Port { address, id: number("PMI_ID")? })),
            None => Ok(None),
        }
    }

    /// Connects, and runs the exchange. A descriptor is closed after it: to be called once.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn boot(&self, options: &PmiOptions, tree_of: &TreeOf<'_>) -> Result<Boot, BootError> {
        let (rank, size, stream): (u32, u32, Box<dyn Stream>) = match self {
            PmiEnv::Fd { fd, rank, size } => (*rank, *size, Box::new(inherit(*fd)?)),
            PmiEnv::Port { address, id } => {
                let (stream, rank, size) = hydra(address, *id)?;
                (rank, size, Box::new(stream))
            }
        };
        exchange(stream, rank, size, options, tree_of)
    }
}

/// Takes the descriptor that the launcher has left open, so that it ends with the exchange and
/// no process started later inherits it.
fn inherit(fd: i32) -> Result<UnixStream, BootError> {
    let failed = |text: String| BootError::Environment(format!("PMI_FD={fd}: {text}"));
    if fd <= 2 {
        return Err(failed("standard streams are not for PMI".into()));
    }
    #[allow(unsafe_code, reason = "a descriptor number from outside can be had in no other way")]
    // SAFETY: only borrowed for the check, which fails on a number that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    nix::fcntl::fcntl(borrowed, nix::fcntl::FcntlArg::F_GETFD)
        .map_err(|errno| failed(errno.to_string()))?;
    #[allow(unsafe_code, reason = "a descriptor number from outside can be had in no other way")]
    // SAFETY: it is open, and the environment gives it to this process for this purpose alone.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(UnixStream::from(owned))
}

/// Connects to a server by address, which then tells rank and size.
fn hydra(address: &str, id: u32) -> Result<(TcpStream, u32, u32), BootError> {
    let failed = |error: std::io::Error| BootError::Environment(format!("{address}: {error}"));
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.write_all(format!("cmd=initack pmiid={id}\n").as_bytes()).map_err(failed)?;
    let (mut rank, mut size) = (None, None);
    // Debug is told last. The lines are few and short: one byte at a time takes none too many.
    for _ in 0..8 {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() < flux_pmi::MAX_LINE {
            stream.read_exact(&mut byte).map_err(failed)?;
            if byte == *b"\n" {
                break;
            }
            line.push(byte[0]);
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        let value = |key: &str| {
            let mut words = line.split_ascii_whitespace();
            words.find_map(|word| word.strip_prefix(key)?.parse::<u32>().ok())
        };
        rank = rank.or(value("rank="));
        size = size.or(value("size="));
        if line.contains("debug=") {
            break;
        }
    }
    match (rank, size) {
        (Some(rank), Some(size)) if rank < size => Ok((stream, rank, size)),
        _ => Err(BootError::Environment(format!("{address} does not tell rank and size"))),
    }
}

/// Runs the exchange of business cards on a connection to a PMI server.
///
/// # Errors
/// When the server fails, a card is wrong, or children cannot be given an endpoint.
pub fn exchange<S: Read + Write>(
    stream: S,
    rank: u32,
    size: u32,
    options: &PmiOptions,
    tree_of: &TreeOf<'_>,
) -> Result<Boot, BootError> {
    let mut pmi = Session::start(stream)?;
    let mut boot = Boot { method: "simple", ..Boot::single(&options.hostname)? };
    (boot.rank, boot.size) = (rank, size);
    // By convention the name is the id of the job that the broker is a part of. A test instance
    // has none (`-`), and other launchers have names of their own (`kvs_...`).
    let name = pmi.kvsname();
    if name.starts_with(['ƒ', 'f'])
        && let Ok(id) = name.parse::<flux_id::JobId>()
    {
        boot.set("jobid", id.f58());
    }
    let mapping = mapping(&mut pmi);
    if let Some(mapping) = &mapping {
        boot.set("broker.mapping", mapping.to_array().to_string());
    } else {
        boot.attributes.remove("broker.mapping");
    }
    for (key, name) in [
        ("flux.instance-level", "instance-level"),
        ("flux.tbon-interface-hint", "tbon.interface-hint"),
    ] {
        if let Ok(value) = pmi.get(key) {
            boot.set(name, value);
        }
    }
    if size > 1 {
        let place = Place { rank, size, parents: None };
        let tree = tree_of(&place).map_err(BootError::Topology)?;
        meet(&mut pmi, &mut boot, &tree, mapping.as_ref(), options)?;
    }
    // Whether the server hears the goodbye changes nothing here.
    drop(pmi.finalize());
    Ok(boot)
}

/// Where each rank runs, if the server knows.
fn mapping<S: Read + Write>(pmi: &mut Session<S>) -> Option<Taskmap> {
    if let Ok(text) = pmi.get("flux.taskmap")
        && let Ok(value) = serde_json::from_str(&text)
        && let Ok(map) = Taskmap::from_value(&value)
    {
        return Some(map).filter(|map| !map.is_unknown());
    }
    let text = pmi.get("PMI_process_mapping").ok()?;
    Taskmap::from_pmi(&text).ok().filter(|map| !map.is_unknown())
}

fn meet<S: Read + Write>(
    pmi: &mut Session<S>,
    boot: &mut Boot,
    tree: &Tree,
    mapping: Option<&Taskmap>,
    options: &PmiOptions,
) -> Result<(), BootError> {
    let rank = boot.rank;
    let node = |rank| mapping.and_then(|map| map.node_of(rank));
    let near = |other: u32| node(rank).is_some() && node(rank) == node(other);
    let own = KeyPair::generate()?;
    let mut card = Card {
        host: options.hostname.clone(),
        pubkey: Some(own.public().to_string()),
        uri: Vec::new(),
    };
    if !tree.children.is_empty() {
        let mut callers = tree.children.iter().chain(&tree.visitors);
        let all_near = callers.all(|child| near(*child));
        let (bind, uri) = if all_near && !options.prefer_tcp {
            bind_unix(&options.rundir.join(format!("tbon-{rank}")))?
        } else {
            let learned = boot.attributes.get("tbon.interface-hint");
            let hint = options.interface_hint.as_ref().or(learned);
            bind_tcp(hint.map_or("default-route", String::as_str), &options.hostname)?
        };
        card.uri.push(uri.clone());
        boot.bind.push(bind);
        boot.endpoint = Some(uri);
    }
    let text = serde_json::to_string(&card)
        .map_err(|error| BootError::Card { rank, text: error.to_string() })?;
    pmi.put(&rank.to_string(), &text)?;
    pmi.barrier()?;
    let mut trusted = Vec::new();
    if let Some(parent) = tree.parent {
        let card = fetch(pmi, parent)?;
        let wrong = |text| BootError::Card { rank: parent, text };
        trusted.push(card.key().map_err(wrong)?);
        let endpoint = card.endpoint(near(parent)).map_err(wrong)?;
        boot.uplinks.insert(parent, endpoint.clone());
        boot.parent = Some(endpoint);
    }
    for rank in &tree.ancestors {
        let card = fetch(pmi, *rank)?;
        let wrong = |text| BootError::Card { rank: *rank, text };
        trusted.push(card.key().map_err(wrong)?);
        boot.uplinks.insert(*rank, card.endpoint(near(*rank)).map_err(wrong)?);
    }
    for child in tree.children.iter().chain(&tree.visitors) {
        let key = fetch(pmi, *child)?.key();
        trusted.push(key.map_err(|text| BootError::Card { rank: *child, text })?);
    }
    let trusted = TrustedKeys::new(trusted);
    boot.keys = Some(LinkKeys {
        trusted: trusted.clone(),
        client: TlsClient::new(&own, &trusted)?,
        server: TlsServer::new(&own, &trusted)?,
    });
    boot.hostlist = share_hostlist(pmi, boot)?;
    boot.set_endpoints();
    Ok(())
}

fn fetch<S: Read + Write>(pmi: &mut Session<S>, rank: u32) -> Result<Card, BootError> {
    let text = pmi.get(&rank.to_string())?;
    serde_json::from_str(&text).map_err(|error| BootError::Card { rank, text: error.to_string() })
}

/// Rank 0 reads all cards and tells the others the hosts in short, in pieces that fit a value:
/// each rank reading all cards would cost the square of their number.
fn share_hostlist<S: Read + Write>(
    pmi: &mut Session<S>,
    boot: &Boot,
) -> Result<Hostlist, BootError> {
    let piece_len = VALLEN_MAX / 2;
    let key = |piece: usize| format!("hostlist.{piece}");
    if boot.rank == 0 {
        let mut hosts = Hostlist::default();
        for rank in 0..boot.size {
            hosts.push(&fetch(pmi, rank)?.host)?;
        }
        let text = hosts.to_string();
        // Host lists are ASCII; a name that is not would be cut apart and refused below.
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(piece_len).collect();
        for (index, piece) in pieces.iter().enumerate() {
            pmi.put(&key(index), &String::from_utf8_lossy(piece))?;
        }
        pmi.put("hostlist", &pieces.len().to_string())?;
        pmi.barrier()?;
        return Ok(hosts);
    }
    pmi.barrier()?;
    let wrong = |text: String| BootError::Card { rank: 0, text };
    let count = pmi.get("hostlist")?;
    let count: usize = count.parse().map_err(|_| wrong(format!("hostlist={count}")))?;
    let mut text = String::new();
    for index in 0..count {
        text.push_str(&pmi.get(&key(index))?);
    }
    let hosts: Hostlist = text.parse()?;
    if hosts.len() as u64 != u64::from(boot.size) {
        return Err(wrong(format!("{} hosts for {} brokers", hosts.len(), boot.size)));
    }
    Ok(hosts)
}

fn bind_unix(path: &Path) -> Result<(Bind, String), BootError> {
    let failed = |source| BootError::Bind { what: path.display().to_string(), source };
    let endpoint = Endpoint::ipc(path).map_err(|error| {
        failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, error.to_string()))
    })?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok((Bind::Unix(listener, path.to_path_buf()), endpoint.to_string()))
}

fn bind_tcp(hint: &str, hostname: &str) -> Result<(Bind, String), BootError> {
    let failed = |source| BootError::Bind { what: format!("tcp ({hint})"), source };
    let address = interface::address(hint, hostname).map_err(failed)?;
    let listener = TcpListener::bind((address, 0)).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let endpoint = Endpoint::Tcp { host: address.to_string(), port };
    Ok((Bind::Tcp(listener), endpoint.to_string()))
}
