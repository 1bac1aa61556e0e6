//! Flux locally unique ids, RFC 19: job ids and their spellings.
//!
//! A [`JobId`] has 40 bits of milliseconds, 14 of the generator (a broker rank) and 10 of a
//! sequence number, and is spelled in seven ways that a string tells apart: `.` dothex (also with
//! `job.` before it, as in the KVS), `-` words, `ƒ` or `f` F58, emoji, `0x` hex, else decimal.
//!
//! The words are those of mnemonicode by Oren Tirosh, which RFC 19 names, in the table of the
//! `mnemonic` crate (MIT); the emoji table is that of RFC 19.

mod generator;
mod spelling;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use generator::{Generator, GeneratorError, Wait};

/// Bits of the generator id.
pub const GENERATOR_BITS: u32 = 14;
/// Bits of the sequence number.
pub const SEQUENCE_BITS: u32 = 10;
/// Bits of the timestamp.
pub const TIMESTAMP_BITS: u32 = 40;

/// Why a string is no job id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JobIdError {
    /// Nothing but blanks.
    #[error("invalid job id: empty")]
    Empty,
    /// A decimal number was expected.
    #[error("invalid job id: not a decimal number")]
    Decimal,
    /// `0x` and up to 16 hexadecimal digits were expected.
    #[error("invalid job id: not a hexadecimal number")]
    Hex,
    /// Four groups of four hexadecimal digits were expected.
    #[error("invalid job id: not in dotted hexadecimal form")]
    DotHex,
    /// A character outside the base58 alphabet, or nothing after the prefix.
    #[error("invalid job id: not in F58 form")]
    F58,
    /// Not six words of the list.
    #[error("invalid job id: not in words form")]
    Words,
    /// A character outside the emoji table.
    #[error("invalid job id: not in emoji form")]
    Emoji,
    /// More than 64 bits.
    #[error("invalid job id: out of range")]
    Range,
}

/// A job id: a FLUID. An integer in JSON; `Display` and [`JobId::f58`] are the F58 form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct JobId(pub u64);

/// The spellings of a job id, by the names that `flux job id --to` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobIdForm {
    /// `6731191091817518`
    Dec,
    /// `0x17e9fb8df16c2e`
    Hex,
    /// `0017.e9fb.8df1.6c2e`
    DotHex,
    /// `job.0017.e9fb.8df1.6c2e`
    Kvs,
    /// `ƒuZZybuNNy`
    F58,
    /// `fuZZybuNNy`
    F58Plain,
    /// `reform-remote-galileo--heart-package-academy`
    Words,
    /// `🚹💂🙌😳💱🏃` and the like
    Emoji,
}

impl JobIdForm {
    /// Every form with its name.
    pub const ALL: [(&'static str, Self); 8] = [
        ("dec", Self::Dec),
        ("kvs", Self::Kvs),
        ("hex", Self::Hex),
        ("dothex", Self::DotHex),
        ("words", Self::Words),
        ("f58", Self::F58),
        ("f58plain", Self::F58Plain),
        ("emoji", Self::Emoji),
    ];

    /// The form of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|&(_, form)| form)
    }
}

impl JobId {
    /// The wildcard of RPCs that may mean any job: all bits set, -1 on the wire.
    pub const ANY: Self = Self(u64::MAX);

    /// The id of these parts; bits beyond the width of a part are dropped.
    pub const fn from_parts(timestamp: u64, generator: u32, sequence: u32) -> Self {
        let generator = generator as u64 & ((1 << GENERATOR_BITS) - 1);
        let sequence = sequence as u64 & ((1 << SEQUENCE_BITS) - 1);
        Self(
            (timestamp << (GENERATOR_BITS + SEQUENCE_BITS))
                | (generator << SEQUENCE_BITS)
                | sequence,
        )
    }

    /// Milliseconds since the epoch of the instance that made it.
    pub const fn timestamp(self) -> u64 {
        self.0 >> (GENERATOR_BITS + SEQUENCE_BITS)
    }

    /// The generator: the rank that made it.
    pub const fn generator(self) -> u32 {
        (self.0 >> SEQUENCE_BITS) as u32 & ((1 << GENERATOR_BITS) - 1)
    }

    /// The number within its millisecond.
    pub const fn sequence(self) -> u32 {
        self.0 as u32 & ((1 << SEQUENCE_BITS) - 1)
    }

    /// The spelling of that form.
    pub fn format(self, form: JobIdForm) -> String {
        match form {
            JobIdForm::Dec => self.dec(),
            JobIdForm::Hex => self.hex(),
            JobIdForm::DotHex => self.dothex(),
            JobIdForm::Kvs => self.kvs(),
            JobIdForm::F58 => self.f58(),
            JobIdForm::F58Plain => self.f58plain(),
            JobIdForm::Words => self.words(),
            JobIdForm::Emoji => self.emoji(),
        }
    }

    /// Decimal.
    pub fn dec(self) -> String {
        self.0.to_string()
    }

    /// Hexadecimal with `0x`, without leading zeros.
    pub fn hex(self) -> String {
        format!("{:#x}", self.0)
    }

    /// Four groups of four hexadecimal digits.
    pub fn dothex(self) -> String {
        let id = self.0;
        let group = |shift: u32| (id >> shift) & 0xffff;
        format!("{:04x}.{:04x}.{:04x}.{:04x}", group(48), group(32), group(16), group(0))
    }

    /// The key of the job's KVS directory: `job.` and dothex.
    pub fn kvs(self) -> String {
        format!("job.{}", self.dothex())
    }

    /// Base58 after `ƒ`.
    pub fn f58(self) -> String {
        format!("ƒ{}", spelling::base58(self.0))
    }

    /// Base58 after an ASCII `f`.
    pub fn f58plain(self) -> String {
        format!("f{}", spelling::base58(self.0))
    }

    /// Six words, to be read over the phone.
    pub fn words(self) -> String {
        spelling::words(self.0)
    }

    /// Base 576 in emoji.
    pub fn emoji(self) -> String {
        spelling::emoji(self.0)
    }
}

impl FromStr for JobId {
    type Err = JobIdError;

    /// Any form, recognised as RFC 19 says; blanks around it are ignored.
    fn from_str(s: &str) -> Result<Self, JobIdError> {
        let s = s.trim_ascii();
        let value = if s.is_empty() {
            return Err(JobIdError::Empty);
        } else if s.contains('.') {
            spelling::parse_dothex(s.strip_prefix("job.").unwrap_or(s))?
        } else if s.contains('-') {
            spelling::parse_words(s)?
        } else if let Some(digits) = s.strip_prefix('ƒ').or_else(|| s.strip_prefix('f')) {
            spelling::parse_base58(digits)?
        } else if s.as_bytes().starts_with(&[0xf0, 0x9f]) {
            spelling::parse_emoji(s)?
        } else if let Some(digits) = s.strip_prefix("0x") {
            spelling::parse_hex(digits)?
        } else {
            spelling::parse_decimal(s)?
        };
        Ok(Self(value))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.f58())
    }
}

impl From<u64> for JobId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl From<JobId> for u64 {
    fn from(id: JobId) -> Self {
        id.0
    }
}

impl Serialize for JobId {
    /// An integer. Peers keep JSON integers in 64 signed bits, so an id above those is written as
    /// the negative number of the same bits ([`JobId::ANY`] is -1).
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match i64::try_from(self.0) {
            Ok(_) => serializer.serialize_u64(self.0),
            Err(_) => serializer.serialize_i64(self.0.cast_signed()),
        }
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Integer;

        impl de::Visitor<'_> for Integer {
            type Value = JobId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a job id as an integer")
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<JobId, E> {
                Ok(JobId(id))
            }

            fn visit_i64<E: de::Error>(self, id: i64) -> Result<JobId, E> {
                Ok(JobId(id.cast_unsigned()))
            }
        }

        deserializer.deserialize_u64(Integer)
    }
}

#[cfg(test)]
mod tests;
