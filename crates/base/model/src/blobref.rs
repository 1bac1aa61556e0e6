//! Message digests that address blobs of the content store (RFC 10).
//!
//! A [`Blobref`] is a digest together with the algorithm that made it. On the wire of the content
//! service it is the bare digest bytes; in tree objects and events it is text, `sha1-<hex>`.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha1::Sha1;
use sha2::{Digest, Sha256};

const MAX_DIGEST: usize = 32;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Why bytes or text are no blobref.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobrefError {
    /// The algorithm is neither `sha1` nor `sha256`.
    #[error("unknown hash algorithm in blobref '{0}'")]
    UnknownAlgorithm(String),
    /// The digest has the wrong number of bytes for its algorithm.
    #[error("{alg} digest must be {expected} bytes long, not {got}")]
    WrongSize {
        /// Name of the algorithm.
        alg: &'static str,
        /// Bytes a digest of this algorithm has.
        expected: usize,
        /// Bytes found.
        got: usize,
    },
    /// The digest of a text form is not lower-case hexadecimal.
    #[error("blobref '{0}' has a digit that is not lower-case hexadecimal")]
    BadHex(String),
}

/// Hash algorithm of an instance (attribute `content.hash`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum HashAlg {
    /// SHA-1, 20 byte digests, name `sha1`.
    #[default]
    Sha1,
    /// SHA-256, 32 byte digests, name `sha256`.
    Sha256,
}

impl HashAlg {
    /// Name as in the text form of a blobref.
    pub fn name(self) -> &'static str {
        match self {
            HashAlg::Sha1 => "sha1",
            HashAlg::Sha256 => "sha256",
        }
    }

    /// Bytes in a digest.
    pub fn digest_len(self) -> usize {
        match self {
            HashAlg::Sha1 => 20,
            HashAlg::Sha256 => 32,
        }
    }

    /// Digest of `data`.
    pub fn hash(self, data: &[u8]) -> Blobref {
        let mut digest = [0; MAX_DIGEST];
        match self {
            HashAlg::Sha1 => digest[..20].copy_from_slice(&Sha1::digest(data)),
            HashAlg::Sha256 => digest.copy_from_slice(&Sha256::digest(data)),
        }
        Blobref { alg: self, digest }
    }
}

impl fmt::Display for HashAlg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HashAlg {
    type Err = BlobrefError;

    fn from_str(name: &str) -> Result<Self, BlobrefError> {
        match name {
            "sha1" => Ok(HashAlg::Sha1),
            "sha256" => Ok(HashAlg::Sha256),
            _ => Err(BlobrefError::UnknownAlgorithm(shorten(name))),
        }
    }
}

/// A digest and its algorithm: the address of a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blobref {
    alg: HashAlg,
    // Bytes past the algorithm's length stay zero, so that the derived comparisons hold.
    digest: [u8; MAX_DIGEST],
}

impl Blobref {
    /// The blobref with this bare digest, as carried by `content.load` and `content.store`.
    ///
    /// # Errors
    /// [`BlobrefError::WrongSize`] unless `digest` has the length of the algorithm.
    pub fn from_digest(alg: HashAlg, digest: &[u8]) -> Result<Self, BlobrefError> {
        if digest.len() != alg.digest_len() {
            return Err(BlobrefError::WrongSize {
                alg: alg.name(),
                expected: alg.digest_len(),
                got: digest.len(),
            });
        }
        let mut full = [0; MAX_DIGEST];
        full[..digest.len()].copy_from_slice(digest);
        Ok(Blobref { alg, digest: full })
    }

    /// The algorithm.
    pub fn alg(&self) -> HashAlg {
        self.alg
    }

    /// The bare digest.
    pub fn digest(&self) -> &[u8] {
        &self.digest[..self.alg.digest_len()]
    }

    /// Whether this is the address of `data`.
    pub fn addresses(&self, data: &[u8]) -> bool {
        self.alg.hash(data) == *self
    }
}

impl fmt::Display for Blobref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hex = [0; 2 * MAX_DIGEST];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.digest()) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        let hex = std::str::from_utf8(&hex[..2 * self.alg.digest_len()]).map_err(|_| fmt::Error)?;
        write!(f, "{}-{hex}", self.alg.name())
    }
}

impl fmt::Debug for Blobref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Blobref {
    type Err = BlobrefError;

    fn from_str(text: &str) -> Result<Self, BlobrefError> {
        let Some((name, hex)) = text.split_once('-') else {
            return Err(BlobrefError::UnknownAlgorithm(shorten(text)));
        };
        let alg: HashAlg =
            name.parse().map_err(|_| BlobrefError::UnknownAlgorithm(shorten(text)))?;
        if hex.len() != 2 * alg.digest_len() {
            return Err(BlobrefError::WrongSize {
                alg: alg.name(),
                expected: alg.digest_len(),
                got: hex.len() / 2,
            });
        }
        let mut digest = [0; MAX_DIGEST];
        for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            match (nibble(pair[0]), nibble(pair[1])) {
                (Some(high), Some(low)) => *byte = high << 4 | low,
                _ => return Err(BlobrefError::BadHex(shorten(text))),
            }
        }
        Ok(Blobref { alg, digest })
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The start of untrusted text, so that an error message stays short.
fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

impl Serialize for Blobref {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Blobref {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Blobref;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a blobref string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Blobref, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_digests_have_the_documented_text_form() {
        // The RFC 10 example is the digest of "foo\n".
        assert_eq!(
            HashAlg::Sha1.hash(b"foo\n").to_string(),
            "sha1-f1d2d2f924e986ac86fdf7b36c94bcdf32beec15"
        );
        assert_eq!(
            HashAlg::Sha256.hash(b"").to_string(),
            "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn malformed_text_is_refused_with_its_reason() {
        let good = HashAlg::Sha1.hash(b"x").to_string();
        assert!(matches!(
            good.to_uppercase().parse::<Blobref>(),
            Err(BlobrefError::UnknownAlgorithm(_))
        ));
        let upper = format!("sha1-{}", "A".repeat(40));
        assert!(matches!(upper.parse::<Blobref>(), Err(BlobrefError::BadHex(_))));
        assert!(matches!(good[..40].parse::<Blobref>(), Err(BlobrefError::WrongSize { .. })));
        assert!(matches!("sha1".parse::<Blobref>(), Err(BlobrefError::UnknownAlgorithm(_))));
        assert!(matches!("md5-00".parse::<Blobref>(), Err(BlobrefError::UnknownAlgorithm(_))));
        assert!(Blobref::from_digest(HashAlg::Sha256, &[0; 20]).is_err());
    }

    proptest! {
        #[test]
        fn text_and_raw_forms_round_trip(data: Vec<u8>, sha256: bool) {
            let alg = if sha256 { HashAlg::Sha256 } else { HashAlg::Sha1 };
            let blobref = alg.hash(&data);
            prop_assert!(blobref.addresses(&data));
            prop_assert_eq!(blobref.to_string().parse::<Blobref>().unwrap(), blobref);
            prop_assert_eq!(Blobref::from_digest(alg, blobref.digest()).unwrap(), blobref);
            let json = serde_json::to_string(&blobref).unwrap();
            prop_assert_eq!(serde_json::from_str::<Blobref>(&json).unwrap(), blobref);
        }

        #[test]
        fn parsing_never_panics(text: String) {
            drop(text.parse::<Blobref>());
            drop(format!("sha1-{text}").parse::<Blobref>());
        }
    }
}
