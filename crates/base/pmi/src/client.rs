//! The task's side: makes request lines and reads their replies.

use crate::line::{Line, LineError, OneLine};
use crate::{KEYLEN_MAX, KVSNAME_MAX, VALLEN_MAX};

/// What a client may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Agrees on the protocol version. Always the first.
    Init,
    /// Asks for the limits, which the client keeps.
    GetMaxes,
    /// Asks for the application number.
    GetAppnum,
    /// Asks for the name of the key value space, which the client keeps.
    GetKvsname,
    /// Asks how many tasks can be run.
    GetUniverseSize,
    /// Sets a key. Others see it after a barrier.
    Put {
        /// One printable word without `=`.
        key: String,
        /// One line of text.
        value: String,
    },
    /// Asks for the value of a key.
    Get {
        /// One printable word without `=`.
        key: String,
    },
    /// Waits for all tasks of the job.
    Barrier,
    /// Says goodbye.
    Finalize,
    /// Ends the job. No reply needs to be waited for.
    Abort {
        /// Exit code of the job.
        code: i32,
        /// Why, in one line.
        msg: String,
    },
}

/// What a server may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// The version that is spoken from now on.
    Init {
        /// Always 1.
        version: u32,
        /// 0 or 1.
        subversion: u32,
    },
    /// The limits.
    Maxes(Maxes),
    /// The application number.
    Appnum(u32),
    /// The name of the key value space.
    Kvsname(String),
    /// The number of tasks that can be run; nothing when the server does not know (it says −1).
    UniverseSize(Option<u32>),
    /// The key is set.
    Put,
    /// The value of the key.
    Value(String),
    /// All tasks have been in the barrier.
    Barrier,
    /// Goodbye.
    Finalized,
    /// The server knows of the abort.
    Aborted,
}

/// Limits in bytes; servers may count a final NUL in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maxes {
    /// Name of the key value space.
    pub kvsname: usize,
    /// Key.
    pub key: usize,
    /// Value.
    pub value: usize,
}

/// Why a client cannot go on, or a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The reply is not a line of the protocol.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The reply belongs to another request, or lacks a key.
    #[error("pmi server sent an unexpected reply to {request}: {line}")]
    UnexpectedReply {
        /// The command that was sent.
        request: &'static str,
        /// What came back.
        line: String,
    },
    /// A line came without a request.
    #[error("pmi server sent a line without being asked")]
    NotAsked,
    /// A request while another one is open.
    #[error("pmi request {0} while another one is open")]
    Busy(&'static str),
    /// A request before init or after finalize.
    #[error("pmi request {0} outside of init and finalize")]
    NotInitialized(&'static str),
    /// A request that needs the name of the key value space before that is known.
    #[error("pmi kvsname is not known yet")]
    NoKvsname,
    /// The server said no.
    #[error("pmi request {request} failed: {msg}")]
    Failed {
        /// The command that was sent.
        request: &'static str,
        /// The result code.
        rc: i32,
        /// The words of the server.
        msg: String,
    },
    /// The server speaks another version.
    #[error("pmi server speaks version {0}.{1}")]
    Version(u32, u32),
    /// The key is not one printable word without `=`, or too long.
    #[error("invalid pmi key: {0}")]
    Key(String),
    /// The value is not one line, or too long.
    #[error("invalid pmi value of key {0}")]
    Value(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Init,
    GetMaxes,
    GetAppnum,
    GetKvsname,
    GetUniverseSize,
    Put,
    Get,
    Barrier,
    Finalize,
    Abort,
}

impl Kind {
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Kind::Init => ("init", "response_to_init"),
            Kind::GetMaxes => ("get_maxes", "maxes"),
            Kind::GetAppnum => ("get_appnum", "appnum"),
            Kind::GetKvsname => ("get_my_kvsname", "my_kvsname"),
            Kind::GetUniverseSize => ("get_universe_size", "universe_size"),
            Kind::Put => ("put", "put_result"),
            Kind::Get => ("get", "get_result"),
            Kind::Barrier => ("barrier_in", "barrier_out"),
            Kind::Finalize => ("finalize", "finalize_ack"),
            Kind::Abort => ("abort", ""),
        }
    }
}

/// The client's side of one connection.
#[derive(Debug, Clone)]
pub struct Client {
    open: Option<Kind>,
    active: bool,
    kvsname: Option<String>,
    maxes: Maxes,
}

impl Default for Client {
    fn default() -> Self {
        Client::new()
    }
}

impl Client {
    /// A client that has not said anything.
    #[must_use]
    pub fn new() -> Client {
        let maxes = Maxes { kvsname: KVSNAME_MAX, key: KEYLEN_MAX, value: VALLEN_MAX };
        Client { open: None, active: false, kvsname: None, maxes }
    }

    /// The limits: those of the server once they are known.
    #[must_use]
    pub const fn maxes(&self) -> Maxes {
        self.maxes
    }

    /// The name of the key value space, once it is known.
    #[must_use]
    pub fn kvsname(&self) -> Option<&str> {
        self.kvsname.as_deref()
    }

    /// Whether a reply is due.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.open.is_some()
    }

    /// Makes the line of a request, with its newline. Its reply goes to [`Client::on_line`].
    ///
    /// # Errors
    /// When another request is open, the request is not due in this state, or a key or value
    /// cannot be expressed.
    pub fn request(&mut self, request: &Request) -> Result<String, ClientError> {
        let (kind, line) = self.compose(request)?;
        let name = kind.names().0;
        if kind != Kind::Abort {
            if self.open.is_some() {
                return Err(ClientError::Busy(name));
            }
            if self.active == (kind == Kind::Init) {
                return Err(ClientError::NotInitialized(name));
            }
        }
        self.open = Some(kind);
        Ok(line)
    }

    fn compose(&self, request: &Request) -> Result<(Kind, String), ClientError> {
        let plain = |kind: Kind| (kind, format!("cmd={}\n", kind.names().0));
        Ok(match request {
            Request::Init => (Kind::Init, "cmd=init pmi_version=1 pmi_subversion=1\n".to_owned()),
            Request::GetMaxes => plain(Kind::GetMaxes),
            Request::GetAppnum => plain(Kind::GetAppnum),
            Request::GetKvsname => plain(Kind::GetKvsname),
            Request::GetUniverseSize => plain(Kind::GetUniverseSize),
            Request::Barrier => plain(Kind::Barrier),
            Request::Finalize => plain(Kind::Finalize),
            Request::Put { key, value } => {
                let (name, key) = self.space_and_key(key)?;
                let breaks = |c: char| c.is_control() && c != '\t';
                if value.len() > self.maxes.value || value.contains(breaks) {
                    return Err(ClientError::Value(key.to_owned()));
                }
                (Kind::Put, format!("cmd=put kvsname={name} key={key} value={value}\n"))
            }
            Request::Get { key } => {
                let (name, key) = self.space_and_key(key)?;
                (Kind::Get, format!("cmd=get kvsname={name} key={key}\n"))
            }
            Request::Abort { code, msg } => {
                let msg: String = OneLine(msg).to_string().chars().take(VALLEN_MAX).collect();
                let words = if msg.is_empty() { msg } else { format!(" error_msg={msg}") };
                (Kind::Abort, format!("cmd=abort exitcode={code}{words}\n"))
            }
        })
    }

    fn space_and_key<'a>(&'a self, key: &'a str) -> Result<(&'a str, &'a str), ClientError> {
        let name = self.kvsname.as_deref().ok_or(ClientError::NoKvsname)?;
        let plain = key.chars().all(|c| c.is_ascii_graphic() && c != '=');
        if key.is_empty() || key.len() > self.maxes.key || !plain {
            return Err(ClientError::Key(key.to_owned()));
        }
        Ok((name, key))
    }

    /// Reads the reply to the open request.
    ///
    /// # Errors
    /// When the server refuses the request, or does not speak the protocol.
    pub fn on_line(&mut self, text: &str) -> Result<Reply, ClientError> {
        let kind = self.open.take().ok_or(ClientError::NotAsked)?;
        if kind == Kind::Abort {
            self.active = false;
            return Ok(Reply::Aborted);
        }
        let (request, expected) = kind.names();
        let line = Line::parse(text)?;
        let unexpected =
            || ClientError::UnexpectedReply { request, line: OneLine(text).to_string() };
        if line.cmd() != expected {
            return Err(unexpected());
        }
        let number = |key| line.number(key).ok_or_else(unexpected);
        let rc = line.rc();
        if rc != 0 {
            let msg = match (line.get("msg"), kind) {
                (Some(msg), _) => OneLine(msg).to_string(),
                (None, Kind::Get) => "invalid key argument".to_owned(),
                (None, _) => format!("result code {rc}"),
            };
            return Err(ClientError::Failed { request, rc, msg });
        }
        Ok(match kind {
            Kind::Init => {
                let (version, subversion) = (number("pmi_version")?, number("pmi_subversion")?);
                if version != 1 {
                    return Err(ClientError::Version(version, subversion));
                }
                self.active = true;
                Reply::Init { version, subversion }
            }
            Kind::GetMaxes => {
                let max = |key| number(key).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
                self.maxes = Maxes {
                    kvsname: max("kvsname_max")?,
                    key: max("keylen_max")?,
                    value: max("vallen_max")?,
                };
                Reply::Maxes(self.maxes)
            }
            Kind::GetAppnum => Reply::Appnum(number("appnum")?),
            Kind::GetUniverseSize => {
                let size: i64 =
                    line.get("size").and_then(|n| n.parse().ok()).ok_or_else(unexpected)?;
                Reply::UniverseSize(u32::try_from(size).ok())
            }
            Kind::GetKvsname => {
                let name = line.get("kvsname").filter(|n| !n.is_empty()).ok_or_else(unexpected)?;
                self.kvsname = Some(name.to_owned());
                Reply::Kvsname(name.to_owned())
            }
            Kind::Get => Reply::Value(line.get("value").ok_or_else(unexpected)?.to_owned()),
            Kind::Put => Reply::Put,
            Kind::Barrier => Reply::Barrier,
            Kind::Finalize => {
                self.active = false;
                Reply::Finalized
            }
            Kind::Abort => Reply::Aborted,
        })
    }
}
