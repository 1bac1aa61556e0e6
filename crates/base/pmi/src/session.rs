//! A client that waits for its replies, over any stream.

use std::io::{self, Read, Write};

use crate::client::{Client, ClientError, Maxes, Reply, Request};
use crate::line::LineBuffer;

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The stream failed.
    #[error("pmi connection failed: {0}")]
    Io(#[from] io::Error),
    /// The server closed the stream.
    #[error("pmi server closed the connection")]
    Closed,
    /// The request failed.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// A client on a blocking stream, such as the socket that `PMI_FD` names.
#[derive(Debug)]
pub struct Session<S> {
    stream: S,
    client: Client,
    lines: LineBuffer,
}

impl<S: Read + Write> Session<S> {
    /// Says hello on `stream`, then asks for the limits and for the name of the key value space.
    ///
    /// # Errors
    /// When the stream fails or the server does not agree.
    pub fn start(stream: S) -> Result<Session<S>, SessionError> {
        let mut session = Session { stream, client: Client::new(), lines: LineBuffer::new() };
        session.call(&Request::Init)?;
        session.call(&Request::GetMaxes)?;
        session.call(&Request::GetKvsname)?;
        Ok(session)
    }

    fn call(&mut self, request: &Request) -> Result<Reply, SessionError> {
        let line = self.client.request(request)?;
        self.stream.write_all(line.as_bytes())?;
        self.stream.flush()?;
        loop {
            if let Some(line) = self.lines.next_line().map_err(ClientError::from)? {
                return Ok(self.client.on_line(&line)?);
            }
            let mut piece = [0; 1024];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(SessionError::Closed),
                Ok(n) => self.lines.feed(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// A reply that [`Client::on_line`] never gives to this request.
    fn mismatch(request: &'static str) -> SessionError {
        ClientError::UnexpectedReply { request, line: String::new() }.into()
    }

    /// The limits of the server.
    #[must_use]
    pub const fn maxes(&self) -> Maxes {
        self.client.maxes()
    }

    /// The name of the key value space; the job id under Flux.
    #[must_use]
    pub fn kvsname(&self) -> &str {
        self.client.kvsname().unwrap_or_default()
    }

    /// The application number.
    ///
    /// # Errors
    /// When the stream fails or the server refuses.
    pub fn appnum(&mut self) -> Result<u32, SessionError> {
        match self.call(&Request::GetAppnum)? {
            Reply::Appnum(number) => Ok(number),
            _ => Err(Self::mismatch("get_appnum")),
        }
    }

    /// How many tasks can be run, if the server knows.
    ///
    /// # Errors
    /// When the stream fails or the server refuses.
    pub fn universe_size(&mut self) -> Result<Option<u32>, SessionError> {
        match self.call(&Request::GetUniverseSize)? {
            Reply::UniverseSize(size) => Ok(size),
            _ => Err(Self::mismatch("get_universe_size")),
        }
    }

    /// Sets a key; others see it after the next barrier.
    ///
    /// Some servers (Hydra) cut a value at its first blank: use values without blanks where any
    /// launcher may be at the other end.
    ///
    /// # Errors
    /// When the stream fails, the server refuses, or key or value cannot be sent.
    pub fn put(&mut self, key: &str, value: &str) -> Result<(), SessionError> {
        let request = Request::Put { key: key.to_owned(), value: value.to_owned() };
        self.call(&request).map(drop)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When the stream fails or there is no such key.
    pub fn get(&mut self, key: &str) -> Result<String, SessionError> {
        match self.call(&Request::Get { key: key.to_owned() })? {
            Reply::Value(value) => Ok(value),
            _ => Err(Self::mismatch("get")),
        }
    }

    /// Waits for all tasks of the job.
    ///
    /// # Errors
    /// When the stream fails or the exchange between the servers does.
    pub fn barrier(&mut self) -> Result<(), SessionError> {
        self.call(&Request::Barrier).map(drop)
    }

    /// Says goodbye and gives the stream back.
    ///
    /// # Errors
    /// When the stream fails or the server refuses.
    pub fn finalize(mut self) -> Result<S, SessionError> {
        self.call(&Request::Finalize)?;
        Ok(self.stream)
    }

    /// Ends the job. Does not wait for an answer.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn abort(mut self, code: i32, msg: &str) -> Result<(), SessionError> {
        let line = self.client.request(&Request::Abort { code, msg: msg.to_owned() })?;
        self.stream.write_all(line.as_bytes())?;
        self.stream.flush()?;
        Ok(())
    }
}
