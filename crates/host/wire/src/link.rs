//! One link as a machine: bytes and messages in, messages and bytes out.
//!
//! ```text
//!  messages --queue--> pending --[TLS]--> output  --> socket
//!  messages <--next--- input   <-[TLS]--- receive <-- socket
//! ```
//!
//! Each side begins what it sends with the preface `flux/1\r\n`. It carries the version where
//! there is no TLS, and its arrival tells the client that the server has accepted its key, which
//! TLS 1.3 alone does not.

use std::io::{self, BufRead, Write};

use bytes::{Buf, BufMut, BytesMut};
use flux_proto::codec::{HEADER_LEN, body_len};
use flux_proto::{CodecError, DEFAULT_MAX_BODY, Decoder, Message, encode_into};
use rustls::{AlertDescription, CertificateError, Connection, PeerIncompatible};

use crate::key::{KeyDigest, PublicKey};
use crate::tls::{ALPN, TlsClient, TlsServer, Untrusted};

/// What each side says first.
const PREFACE: &[u8; 8] = b"flux/1\r\n";

/// Bytes that are made ready for the socket ahead of time.
const OUTPUT_TARGET: usize = 256 * 1024;

/// Plain text that is sealed in one go: four full records.
const SEAL_STEP: usize = 64 * 1024;

/// A buffer that a large message has blown up beyond this many bytes is given back.
const BUFFER_KEEP: usize = 1024 * 1024;

/// Why a link has failed. It cannot be used any longer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The peer's key is not among the trusted ones.
    #[error("peer key {0} is not trusted")]
    Untrusted(KeyDigest),
    /// The peer has no key.
    #[error("peer has no key")]
    NoKey,
    /// The peer does not trust our key.
    #[error("peer refused the key of this broker")]
    Refused,
    /// The peer speaks another protocol, or another version of this one.
    #[error("peer does not speak flux/1")]
    Protocol,
    /// The peer breaks TLS.
    #[error("tls: {0}")]
    Tls(rustls::Error),
    /// The peer sends something that is no message.
    #[error("received a broken message: {0}")]
    Message(#[from] CodecError),
    /// The connection ended before both sides had accepted each other.
    #[error("connection ended during the handshake")]
    Handshake,
    /// The connection ended in the middle, without a farewell.
    #[error("connection ended unexpectedly")]
    Truncated,
}

impl LinkError {
    /// Sorts an error of the TLS library by who refused whom.
    fn from_tls(error: rustls::Error) -> LinkError {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(ref other)) => {
                match other.0.downcast_ref::<Untrusted>() {
                    Some(untrusted) => LinkError::Untrusted(untrusted.0),
                    None => LinkError::Tls(error),
                }
            }
            rustls::Error::NoCertificatesPresented
            | rustls::Error::PeerIncompatible(
                PeerIncompatible::IncorrectCertificateTypeExtension
                | PeerIncompatible::UnsolicitedCertificateTypeExtension,
            ) => LinkError::NoKey,
            rustls::Error::AlertReceived(
                AlertDescription::CertificateUnknown
                | AlertDescription::AccessDenied
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateRequired
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::DecryptError,
            ) => LinkError::Refused,
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                LinkError::Protocol
            }
            other => LinkError::Tls(other),
        }
    }
}

/// The send queue has no room; the message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("send queue is full: {queued} bytes wait, limit is {max}")]
pub struct QueueFull {
    /// Bytes that wait.
    pub queued: usize,
    /// The limit in bytes.
    pub max: usize,
}

/// The bounds of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkLimits {
    /// Bytes that may wait to be sent. One message is always taken when nothing waits.
    pub max_queued: usize,
    /// The largest message body in bytes that is accepted.
    pub max_body: usize,
}

impl Default for LinkLimits {
    /// 64 MiB waiting, and messages as large as the protocol allows.
    fn default() -> LinkLimits {
        LinkLimits { max_queued: 64 << 20, max_body: DEFAULT_MAX_BODY }
    }
}

/// One end of a link, without a socket.
#[derive(Debug)]
pub struct Link {
    tls: Option<Box<Connection>>,
    peer: Option<PublicKey>,
    decoder: Decoder,
    max_queued: usize,
    /// Plain text from the peer that is not decoded yet.
    input: BytesMut,
    /// Plain text for the peer that is not sealed yet.
    pending: BytesMut,
    /// Bytes ready for the socket.
    output: BytesMut,
    secured: bool,
    preface_seen: bool,
    peer_closed: bool,
    closing: bool,
    farewell_sent: bool,
    failed: Option<LinkError>,
}

impl Link {
    /// A link in the clear, for a socket that vouches for its peer.
    #[must_use]
    pub fn plain(limits: LinkLimits) -> Link {
        let mut link = Link::new(None, limits);
        link.secured = true;
        link.pending.put_slice(PREFACE);
        link.pump();
        link
    }

    /// The connecting end of a link over TLS.
    ///
    /// # Errors
    /// When the TLS library cannot start, as without randomness.
    pub fn tls_client(tls: &TlsClient, limits: LinkLimits) -> Result<Link, LinkError> {
        let connection = tls.connection().map_err(LinkError::Tls)?;
        let mut link = Link::new(Some(connection.into()), limits);
        link.pump();
        Ok(link)
    }

    /// The accepting end of a link over TLS.
    ///
    /// # Errors
    /// As [`Link::tls_client`].
    pub fn tls_server(tls: &TlsServer, limits: LinkLimits) -> Result<Link, LinkError> {
        let connection = tls.connection().map_err(LinkError::Tls)?;
        Ok(Link::new(Some(connection.into()), limits))
    }

    fn new(tls: Option<Connection>, limits: LinkLimits) -> Link {
        let tls = tls.map(|mut connection| {
            // What may wait is decided here, by the steps in which it is handed over.
            connection.set_buffer_limit(None);
            Box::new(connection)
        });
        Link {
            tls,
            peer: None,
            decoder: Decoder::with_max_body(limits.max_body),
            max_queued: limits.max_queued,
            input: BytesMut::new(),
            pending: BytesMut::new(),
            output: BytesMut::new(),
            secured: false,
            preface_seen: false,
            peer_closed: false,
            closing: false,
            farewell_sent: false,
            failed: None,
        }
    }

    /// Whether both sides have accepted each other. Messages may be queued before.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.secured && self.preface_seen && self.failed.is_none()
    }

    /// The key the peer has proved to hold; nothing during the handshake and without TLS.
    #[must_use]
    pub fn peer_key(&self) -> Option<PublicKey> {
        self.peer
    }

    /// The identity of the peer: the digest of its key.
    #[must_use]
    pub fn peer_digest(&self) -> Option<KeyDigest> {
        self.peer.map(|key| key.digest())
    }

    /// Takes bytes from the socket, in pieces of any size. Call [`Link::next_message`] until it
    /// gives nothing before feeding more: what is kept is what was fed.
    ///
    /// # Errors
    /// When the peer is refused, refuses us, or breaks the protocol. The error stays. There may
    /// be [`Link::output`] to send even so: the alert that tells the peer why.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.open(bytes).and_then(|()| self.check_preface());
        self.pump();
        result.map_err(|error| self.fail(error))
    }

    fn fail(&mut self, error: LinkError) -> LinkError {
        self.pending.clear();
        self.failed = Some(error.clone());
        error
    }

    /// Moves bytes from the socket through TLS into `input`.
    fn open(&mut self, mut bytes: &[u8]) -> Result<(), LinkError> {
        let Some(tls) = &mut self.tls else {
            self.input.put_slice(bytes);
            return Ok(());
        };
        while !bytes.is_empty() && !self.peer_closed {
            // Only a full buffer of plain text is an error, and it is emptied below.
            tls.read_tls(&mut bytes).map_err(|_| LinkError::Truncated)?;
            let state = tls.process_new_packets().map_err(LinkError::from_tls)?;
            if state.plaintext_bytes_to_read() > 0 {
                let mut reader = tls.reader();
                while let Ok(plain) = reader.fill_buf() {
                    if plain.is_empty() {
                        break;
                    }
                    let taken = plain.len();
                    self.input.put_slice(plain);
                    reader.consume(taken);
                }
            }
            self.peer_closed = state.peer_has_closed();
            if !self.secured && !tls.is_handshaking() {
                if tls.alpn_protocol() != Some(ALPN) {
                    return Err(LinkError::Protocol);
                }
                let key = tls.peer_certificates().and_then(|certs| certs.first());
                let key = key.and_then(|der| PublicKey::from_spki_der(der.as_ref()).ok());
                self.peer = Some(key.ok_or(LinkError::NoKey)?);
                self.secured = true;
                // Messages may have been queued already; the preface comes first.
                let queued = self.pending.split();
                self.pending.reserve(PREFACE.len() + queued.len());
                self.pending.put_slice(PREFACE);
                self.pending.unsplit(queued);
            }
        }
        Ok(())
    }

    fn check_preface(&mut self) -> Result<(), LinkError> {
        if self.preface_seen {
            return Ok(());
        }
        let seen = self.input.len().min(PREFACE.len());
        if self.input[..seen] != PREFACE[..seen] {
            return Err(LinkError::Protocol);
        }
        if seen == PREFACE.len() {
            self.input.advance(seen);
            self.preface_seen = true;
        }
        Ok(())
    }

    /// The next message that has arrived; nothing when more bytes are needed.
    ///
    /// # Errors
    /// When the peer sends something that is no message. The error stays.
    pub fn next_message(&mut self) -> Result<Option<Message>, LinkError> {
        if !self.preface_seen {
            return self.failed.clone().map_or(Ok(None), Err);
        }
        match self.decoder.next(&mut self.input) {
            Ok(None) => {
                if self.input.is_empty() && self.input.capacity() > BUFFER_KEEP {
                    self.input = BytesMut::new();
                }
                // What came whole before the failure is delivered first.
                self.failed.clone().map_or(Ok(None), Err)
            }
            Ok(message) => Ok(message),
            Err(error) => Err(self.fail(error.into())),
        }
    }

    /// Takes note that the socket will give no more bytes.
    ///
    /// # Errors
    /// When the peer did not end the link in order.
    pub fn end_of_input(&mut self) -> Result<(), LinkError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if !self.is_established() {
            return Err(self.fail(LinkError::Handshake));
        }
        // In the clear there is no farewell: an end between two messages is one.
        let ended = self.peer_closed || self.tls.is_none();
        if ended && self.input.is_empty() {
            self.peer_closed = true;
            return Ok(());
        }
        Err(self.fail(LinkError::Truncated))
    }

    /// Whether the peer has ended the link in order: no message will follow.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Takes a message to be sent. Nothing is sealed yet: small messages that are queued one
    /// after the other share records.
    ///
    /// # Errors
    /// [`QueueFull`] when it would go beyond [`LinkLimits::max_queued`] and something waits.
    pub fn queue(&mut self, message: &Message) -> Result<(), QueueFull> {
        let queued = self.queued_bytes();
        let len = HEADER_LEN.saturating_add(body_len(message));
        if queued > 0 && queued.saturating_add(len) > self.max_queued {
            return Err(QueueFull { queued, max: self.max_queued });
        }
        if self.failed.is_none() && !self.closing {
            encode_into(message, &mut self.pending);
        }
        Ok(())
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.pending.len() + self.output.len()
    }

    /// Says farewell after what is queued; messages queued later are dropped.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// The bytes to write to the socket now; empty when there is nothing to send. Follow with
    /// [`Link::advance`].
    pub fn output(&mut self) -> &[u8] {
        self.pump();
        &self.output
    }

    /// Takes note that the first `len` bytes of [`Link::output`] are written.
    ///
    /// # Panics
    /// When `len` is larger than the output.
    pub fn advance(&mut self, len: usize) {
        self.output.advance(len);
        if self.output.is_empty() && self.output.capacity() > BUFFER_KEEP {
            self.output = BytesMut::new();
        }
    }

    /// Seals what is pending, as far as it is wanted soon.
    fn pump(&mut self) {
        let Some(tls) = &mut self.tls else {
            if self.output.is_empty() {
                std::mem::swap(&mut self.output, &mut self.pending);
            }
            return;
        };
        loop {
            while tls.wants_write() {
                // Writing to memory does not fail.
                if tls.write_tls(&mut (&mut self.output).writer()).is_err() {
                    break;
                }
            }
            if !self.secured || self.output.len() >= OUTPUT_TARGET {
                return;
            }
            if self.pending.is_empty() {
                if self.pending.capacity() > BUFFER_KEEP {
                    self.pending = BytesMut::new();
                }
                if !self.closing || self.farewell_sent {
                    return;
                }
                self.farewell_sent = true;
                tls.send_close_notify();
                continue;
            }
            let step = self.pending.len().min(SEAL_STEP);
            match tls.writer().write(&self.pending[..step]) {
                Ok(taken) if taken > 0 => self.pending.advance(taken),
                _ => return,
            }
        }
    }
}

/// How the two kinds of failure look to callers that speak in system errors.
impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> io::Error {
        let kind = match error {
            LinkError::Untrusted(_) | LinkError::NoKey | LinkError::Refused => {
                io::ErrorKind::PermissionDenied
            }
            LinkError::Handshake | LinkError::Truncated => io::ErrorKind::UnexpectedEof,
            LinkError::Protocol | LinkError::Tls(_) | LinkError::Message(_) => {
                io::ErrorKind::InvalidData
            }
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests;
