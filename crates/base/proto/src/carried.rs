//! A body that goes along with its message as it is, and becomes bytes when somebody wants them.
//!
//! What one service of a broker tells another need not become JSON on the way: the receiver takes
//! the very value. Whoever reads the payload of such a message (a link, a client, a trace) finds
//! the bytes all the same; they are made once, when they are asked for first.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// What can go along with a message.
pub trait Carry: Any + Send + Sync + fmt::Debug {
    /// The payload that stands for it.
    fn payload(&self) -> Bytes;
}

/// A body on its way. Two are equal when their bytes are.
#[derive(Clone, Debug)]
pub struct Carried {
    body: Arc<dyn Carry>,
    bytes: Arc<OnceLock<Bytes>>,
}

impl Carried {
    /// A body that goes along.
    pub fn new(body: impl Carry) -> Self {
        Self { body: Arc::new(body), bytes: Arc::default() }
    }

    /// The payload that stands for it.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        self.bytes.get_or_init(|| self.body.payload())
    }

    /// The body itself, if it is of this type.
    #[must_use]
    pub fn get<T: Carry>(&self) -> Option<&T> {
        let body: &dyn Any = &*self.body;
        body.downcast_ref()
    }

    /// The body itself, if it is of this type; a copy where another message has it, too.
    ///
    /// # Errors
    /// It is of another type, and given back.
    pub fn take<T: Carry + Clone>(self) -> Result<T, Self> {
        if self.get::<T>().is_none() {
            return Err(self);
        }
        let body: Arc<dyn Any + Send + Sync> = self.body;
        match body.downcast::<T>() {
            Ok(body) => Ok(Arc::unwrap_or_clone(body)),
            Err(_) => unreachable!("its type was looked at just before"),
        }
    }
}

impl PartialEq for Carried {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::message::Message;

    static MADE: AtomicUsize = AtomicUsize::new(0);

    #[derive(Debug, Clone, PartialEq)]
    struct Number(u8);

    impl Carry for Number {
        fn payload(&self) -> Bytes {
            MADE.fetch_add(1, Ordering::Relaxed);
            vec![b'0' + self.0, 0].into()
        }
    }

    #[derive(Debug, Clone)]
    struct Other;

    impl Carry for Other {
        fn payload(&self) -> Bytes {
            Bytes::new()
        }
    }

    #[test]
    fn bytes_are_made_once_and_only_when_somebody_reads_them() {
        let mut message = Message::request("a.b");
        message.set_body(Carried::new(Number(7)));
        let copy = message.clone();
        let taken = message.body.take().unwrap().take::<Number>();
        assert_eq!((taken.unwrap(), MADE.load(Ordering::Relaxed)), (Number(7), 0));
        for _ in 0..2 {
            assert_eq!((copy.text(), copy.raw()), (Ok("7"), &b"7\0"[..]));
        }
        assert_eq!(MADE.load(Ordering::Relaxed), 1);
        let sent = crate::decode_body(crate::encode_body(&copy)).unwrap();
        assert_eq!(sent.payload.as_deref(), Some(&b"7\0"[..]));
        let other = copy.body.unwrap().take::<Other>();
        assert!(other.unwrap_err().get::<Number>().is_some());
    }

    #[test]
    fn a_payload_takes_the_place_of_a_body() {
        let mut message = Message::request("a.b");
        message.set_body(Carried::new(Number(7)));
        message.set_payload(None);
        assert_eq!((message.raw(), message.has_payload()), (&b""[..], false));
    }
}
