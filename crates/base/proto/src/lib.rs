//! Messages of RFC 3 and their encoding on a stream.
//!
//! Everything here works on bytes in memory: no descriptors, clocks or threads. The framing and
//! the numbers are those of the local socket protocol as it is spoken in practice: the length
//! after the magic does not count the header, and error numbers are the Linux ones.

pub mod carried;
pub mod codec;
pub mod cred;
pub mod errno;
pub mod flags;
pub mod message;
pub mod payload;
pub mod route;
pub mod topic;

pub use carried::{Carried, Carry};
pub use codec::{
    CodecError, DEFAULT_MAX_BODY, Decoder, decode_body, encode, encode_body, encode_into,
};
pub use cred::{Cred, Rolemask, USERID_UNKNOWN};
pub use errno::Errno;
pub use flags::Flags;
pub use message::{Message, MsgType, NODEID_ANY};
pub use payload::PayloadError;
pub use route::RouteId;
pub use topic::{glob_matches, subscription_matches};
