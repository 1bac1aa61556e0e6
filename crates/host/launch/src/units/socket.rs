//! The private socket of a systemd manager, as a transport of zbus.
//!
//! It differs from a bus in one thing: as the sender of its messages a manager gives the name that
//! it would own on a bus, where the D-Bus specification and zbus want a unique name, which begins
//! with a colon. Here the first letter of such a sender becomes a colon; nobody looks at it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown};
use tokio::io::Interest;
use tokio::net::UnixStream;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;

/// Descriptors that go with one message.
const FDS_MAX: usize = 8;
/// Longest message that is taken.
const MESSAGE_MAX: usize = 16 << 20;
/// Bytes before the header fields.
const FIXED: usize = 16;
/// The header field of the sender.
const SENDER: u8 = 7;

/// A connection to a manager.
#[derive(Debug)]
pub(super) struct Private(pub(super) UnixStream);

impl Socket for Private {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let stream = Arc::new(self.0);
        let reader =
            Reader { stream: Arc::clone(&stream), raw: Vec::new(), ready: VecDeque::new() };
        Split::new(reader, Writer(stream))
    }
}

/// What the manager says.
#[derive(Debug)]
pub(super) struct Reader {
    stream: Arc<UnixStream>,
    raw: Vec<u8>,
    ready: VecDeque<u8>,
}

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut chunk = vec![0; 16 << 10];
        while self.ready.is_empty() {
            self.stream.readable().await?;
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return Ok((0, Vec::new())),
                Ok(count) => {
                    self.raw.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    mend(&mut self.raw, &mut self.ready)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let count = io::Read::read(&mut self.ready, buffer)?;
        Ok((count, Vec::new()))
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

/// What is said to it.
#[derive(Debug)]
pub(super) struct Writer(Arc<UnixStream>);

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        if fds.len() > FDS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(fds));
            }
            let slices = [IoSlice::new(buffer)];
            let flags = SendFlags::NOSIGNAL;
            Ok(rustix::net::sendmsg(&*self.0, &slices, &mut control, flags)?)
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    async fn close(&mut self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&*self.0, Shutdown::Both)?)
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

/// Moves what is whole from `raw` to `ready`: lines of the greeting, then messages.
fn mend(raw: &mut Vec<u8>, ready: &mut VecDeque<u8>) -> io::Result<()> {
    loop {
        let length = match raw.first() {
            None => return Ok(()),
            // How messages begin, and no line of the greeting.
            Some(b'l' | b'B') => match length(raw)? {
                Some(length) if length <= raw.len() => length,
                _ => return Ok(()),
            },
            Some(_) => match raw.iter().position(|&byte| byte == b'\n') {
                Some(at) => at + 1,
                None if raw.len() > MESSAGE_MAX => return Err(io::ErrorKind::InvalidData.into()),
                None => return Ok(()),
            },
        };
        let mut whole: Vec<u8> = raw.drain(..length).collect();
        if matches!(whole.first(), Some(b'l' | b'B')) {
            mark_sender(&mut whole);
        }
        ready.extend(whole);
    }
}

/// A number in a message.
fn number(message: &[u8], at: usize) -> Option<usize> {
    let bytes: [u8; 4] = message.get(at..at.checked_add(4)?)?.try_into().ok()?;
    let number = if message.first() == Some(&b'l') {
        u32::from_le_bytes(bytes)
    } else {
        u32::from_be_bytes(bytes)
    };
    usize::try_from(number).ok()
}

/// Bytes of a message, once its fixed part is there.
fn length(raw: &[u8]) -> io::Result<Option<usize>> {
    let (Some(body), Some(fields)) = (number(raw, 4), number(raw, 12)) else { return Ok(None) };
    let length = fields.checked_add(FIXED).map(|end| end.next_multiple_of(8));
    match length.and_then(|length| length.checked_add(body)) {
        Some(length) if length <= MESSAGE_MAX => Ok(Some(length)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long")),
    }
}

/// Makes the sender of a whole message one that begins with a colon.
fn mark_sender(message: &mut [u8]) -> Option<()> {
    let end = FIXED.checked_add(number(message, 12)?)?;
    let mut at = FIXED;
    while at < end {
        // A structure of code and variant: code, length of the signature, its one type, 0.
        let code = *message.get(at)?;
        let value = at + 4;
        let next = match *message.get(at + 2)? {
            b's' | b'o' => {
                if code == SENDER {
                    let first = message.get_mut(value + 4)?;
                    *first = b':';
                    return Some(());
                }
                value.checked_add(4)?.checked_add(number(message, value)?)?.checked_add(1)?
            }
            b'g' => value + 2 + usize::from(*message.get(value)?),
            b'u' => value + 4,
            _ => return None,
        };
        at = next.next_multiple_of(8);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as a manager sends it: fields by code, and a body.
    fn message(sender: &str) -> Vec<u8> {
        let mut fields = Vec::new();
        let mut text = |code: u8, kind: u8, value: &str| {
            fields.resize(fields.len().next_multiple_of(8), 0);
            fields.extend([code, 1, kind, 0]);
            if kind == b'g' {
                fields.push(u8::try_from(value.len()).unwrap());
            } else {
                fields.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
            }
            fields.extend(value.bytes().chain([0]));
        };
        text(1, b'o', "/org/freedesktop/systemd1");
        text(8, b'g', "su");
        text(7, b's', sender);
        let mut bytes = vec![b'l', 4, 1, 1];
        for number in [3_u32, 7, u32::try_from(fields.len()).unwrap()] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(fields);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend([1, 2, 3]);
        bytes
    }

    #[test]
    fn senders_become_what_a_client_expects_however_the_bytes_come() {
        let greeting = b"OK 1234\r\nAGREE_UNIX_FD\r\n".to_vec();
        let sent =
            [greeting.clone(), message("org.freedesktop.systemd1"), message(":1.2")].concat();
        let expected = [greeting, message(":rg.freedesktop.systemd1"), message(":1.2")].concat();
        for size in 1..sent.len() {
            let (mut raw, mut ready) = (Vec::new(), VecDeque::new());
            for chunk in sent.chunks(size) {
                raw.extend_from_slice(chunk);
                mend(&mut raw, &mut ready).unwrap();
            }
            assert!(raw.is_empty());
            assert_eq!(Vec::from(ready), expected);
        }
    }

    #[test]
    fn no_bytes_make_it_fail_otherwise_than_with_an_error() {
        let whole = message("org.freedesktop.systemd1");
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                drop(mend(&mut bytes, &mut VecDeque::new()));
            }
        }
    }
}
