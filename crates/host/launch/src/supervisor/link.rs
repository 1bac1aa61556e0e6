//! The connection to the broker.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::epoll;

use super::{LINK, Supervisor};
use crate::protocol::{Event, Lines, Order, line};

/// Bytes that may wait for a broker that does not read. It learns everything again when it
/// connects again.
const UNSENT_MAX: usize = 64 << 20;

/// A connection.
pub(super) struct Link {
    stream: UnixStream,
    lines: Lines,
    unsent: Vec<u8>,
    /// The epoll tells of room.
    watches_room: bool,
}

impl Supervisor {
    /// A broker connects: it takes the place of the one before.
    pub(super) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            self.drop_link();
            let data = epoll::EventData::new_u64(LINK);
            if stream.set_nonblocking(true).is_ok()
                && epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN).is_ok()
            {
                let lines = Lines::default();
                self.link = Some(Link { stream, lines, unsent: Vec::new(), watches_room: false });
                self.met = true;
                self.parting = false;
            }
        }
    }

    pub(super) fn drop_link(&mut self) {
        if let Some(link) = self.link.take() {
            let _ = epoll::delete(&self.epoll, &link.stream);
            self.alone = Instant::now();
        }
    }

    pub(super) fn link_ready(&mut self, flags: epoll::EventFlags) {
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
        {
            self.read_orders();
        }
    }

    fn read_orders(&mut self) {
        let mut ended = false;
        loop {
            let Some(link) = &mut self.link else { return };
            match link.stream.read(&mut self.buffer) {
                Ok(0) => ended = true,
                Ok(count) => {
                    ended |= !link.lines.push(self.buffer.get(..count).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => ended = true,
            }
            if ended {
                break;
            }
        }
        let mut orders = Vec::new();
        if let Some(link) = &mut self.link {
            while let Some(text) = link.lines.take() {
                match serde_json::from_slice::<Order>(text) {
                    Ok(order) => orders.push(order),
                    // No broker of ours.
                    Err(_) => ended = true,
                }
            }
        }
        for order in orders {
            self.order(order);
        }
        if ended {
            self.drop_link();
        }
    }

    /// Tells the broker, if there is one.
    pub(super) fn tell(&mut self, event: &Event) {
        if let Some(link) = &mut self.link {
            link.unsent.extend(line(event));
        }
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self) {
        let Some(link) = &mut self.link else { return };
        let mut sent = 0;
        let mut broken = link.unsent.len() > UNSENT_MAX;
        while let Some(rest) = link.unsent.get(sent..).filter(|rest| !rest.is_empty()) {
            match link.stream.write(rest) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        link.unsent.drain(..sent);
        let wants_room = !link.unsent.is_empty();
        if wants_room != link.watches_room {
            let flags = if wants_room {
                epoll::EventFlags::IN | epoll::EventFlags::OUT
            } else {
                epoll::EventFlags::IN
            };
            let data = epoll::EventData::new_u64(LINK);
            broken |= epoll::modify(&self.epoll, &link.stream, data, flags).is_err();
            link.watches_room = wants_room;
        }
        if broken {
            self.drop_link();
        }
    }
}
