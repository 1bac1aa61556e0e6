//! What the guests of an instance may hold of a broker: connections and memory, counted by user.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use flux_proto::Errno;

use crate::hub::write_stderr;
use crate::options::GuestLimits;

/// A client that holds less than this is not what makes its user exceed the limit.
const SMALL: usize = 64 << 10;
/// Not more than one line about a user in this time.
const QUIET: Duration = Duration::from_secs(10);
/// Beyond so many users those without a connection are forgotten.
const ACCOUNTS: usize = 64;

/// The connections of one user.
#[derive(Debug, Default)]
struct Account {
    connections: Cell<usize>,
    held: Cell<usize>,
    told: Cell<Option<Instant>>,
}

/// All guests of this broker.
#[derive(Debug)]
pub(crate) struct Quota {
    limits: GuestLimits,
    accounts: RefCell<BTreeMap<u32, Rc<Account>>>,
    connections: Rc<Cell<usize>>,
}

impl Quota {
    pub(crate) fn new(limits: GuestLimits) -> Self {
        Self { limits, accounts: RefCell::default(), connections: Rc::default() }
    }

    /// Room for one more connection of a guest. EAGAIN when there is none.
    pub(crate) fn lease(&self, userid: u32) -> Result<Lease, Errno> {
        let account = self.account(userid);
        let (mine, all) = (account.connections.get(), self.connections.get());
        if mine >= self.limits.connections || all >= self.limits.connections_of_all {
            if account.may_tell() {
                write_stderr(&format!(
                    "local socket: user {userid} is refused: {mine} connections, {all} of guests"
                ));
            }
            return Err(Errno::EAGAIN);
        }
        account.connections.set(mine + 1);
        self.connections.set(all + 1);
        let (limit, all) = (self.limits.held, Rc::clone(&self.connections));
        Ok(Lease { userid, account, all, limit, out: 0, partial: 0 })
    }

    fn account(&self, userid: u32) -> Rc<Account> {
        let mut accounts = self.accounts.borrow_mut();
        if accounts.len() > ACCOUNTS {
            accounts.retain(|id, account| *id == userid || account.connections.get() > 0);
        }
        Rc::clone(accounts.entry(userid).or_default())
    }
}

impl Account {
    fn may_tell(&self) -> bool {
        let now = Instant::now();
        let quiet = self.told.get().is_some_and(|told| now.duration_since(told) < QUIET);
        if !quiet {
            self.told.set(Some(now));
        }
        !quiet
    }
}

/// One connection of a guest, and what it holds, in bytes.
#[derive(Debug)]
pub(crate) struct Lease {
    userid: u32,
    account: Rc<Account>,
    all: Rc<Cell<usize>>,
    limit: usize,
    out: usize,
    partial: usize,
}

impl Lease {
    /// Notes how much waits to be sent.
    pub(crate) fn set_out(&mut self, bytes: usize) {
        self.account.held.set(self.account.held.get() - self.out + bytes);
        self.out = bytes;
    }

    /// Notes how much of an unfinished message has arrived.
    pub(crate) fn set_partial(&mut self, bytes: usize) {
        self.account.held.set(self.account.held.get() - self.partial + bytes);
        self.partial = bytes;
    }

    /// Whether the user holds too much and this connection has a part in it.
    pub(crate) fn is_exceeded(&self) -> bool {
        let exceeded = self.account.held.get() > self.limit && self.out + self.partial > SMALL;
        if exceeded && self.account.may_tell() {
            write_stderr(&format!(
                "local socket: user {} is disconnected: {} bytes unread or unfinished",
                self.userid,
                self.account.held.get()
            ));
        }
        exceeded
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.set_out(0);
        self.set_partial(0);
        self.account.connections.set(self.account.connections.get().saturating_sub(1));
        self.all.set(self.all.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota() -> Quota {
        let held = 4 * SMALL;
        Quota::new(GuestLimits { connections: 2, connections_of_all: 3, held, message: 1 << 20 })
    }

    #[test]
    fn connections_are_counted_by_user_and_together() {
        let quota = quota();
        let first = quota.lease(1).unwrap();
        let second = quota.lease(1).unwrap();
        assert_eq!(quota.lease(1).unwrap_err(), Errno::EAGAIN);
        let third = quota.lease(2).unwrap();
        assert_eq!(quota.lease(3).unwrap_err(), Errno::EAGAIN);
        drop(first);
        let fourth = quota.lease(3).unwrap();
        drop((second, third, fourth));
        assert_eq!(quota.connections.get(), 0);
    }

    #[test]
    fn memory_is_counted_by_user_and_given_back() {
        let quota = quota();
        let (mut big, mut other) = (quota.lease(1).unwrap(), quota.lease(1).unwrap());
        big.set_out(3 * SMALL);
        other.set_partial(SMALL + 1);
        assert!(big.is_exceeded() && other.is_exceeded());
        assert!(!quota.lease(2).unwrap().is_exceeded());
        other.set_partial(SMALL);
        assert!(!big.is_exceeded());
        // Who holds little is not punished for what others of the same user hold.
        big.set_out(100 * SMALL);
        assert!(big.is_exceeded() && !other.is_exceeded());
        drop(big);
        assert_eq!(other.account.held.get(), SMALL);
    }
}
