//! Ed25519 keys as the overlay uses them.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

use crate::z85;

/// What comes before the 32 key bytes in the DER of an Ed25519 SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What comes before the 32 seed bytes in the PKCS#8 DER of an Ed25519 key (RFC 8410).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Why something is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not 40 characters of Z85.
    #[error("key is not 40 characters of Z85 text")]
    Text,
    /// Not an Ed25519 SubjectPublicKeyInfo.
    #[error("key is not an Ed25519 public key in DER")]
    Der,
    /// The public key does not follow from the secret one.
    #[error("public key does not belong to the secret key")]
    Mismatch,
    /// The system gives no random bytes.
    #[error("no random bytes for a new key")]
    Random,
}

/// An Ed25519 public key. Its text form is Z85, 40 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key with these bytes. Whether they are a point of the curve shows when it is used.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> PublicKey {
        PublicKey(bytes)
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The SubjectPublicKeyInfo in DER, which is what TLS sends (RFC 7250).
    #[must_use]
    pub fn to_spki_der(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.0].concat()
    }

    /// The key in a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`KeyError::Der`] for anything but exactly one Ed25519 key.
    pub fn from_spki_der(der: &[u8]) -> Result<PublicKey, KeyError> {
        let key = der.strip_prefix(&SPKI_PREFIX[..]).ok_or(KeyError::Der)?;
        Ok(PublicKey(key.try_into().map_err(|_| KeyError::Der)?))
    }

    /// The identity of the key holder.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        let hash = digest(&SHA256, &self.to_spki_der());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.as_ref());
        KeyDigest(bytes)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&z85::encode_key(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PublicKey, KeyError> {
        z85::decode_key(text).map(PublicKey).ok_or(KeyError::Text)
    }
}

/// SHA-256 of the SubjectPublicKeyInfo: who a peer is. Shown as `sha256:` and hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The 32 bytes of the digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A secret key with its public key. Never shown by `Debug`.
#[derive(Clone)]
pub struct KeyPair {
    seed: [u8; 32],
    public: PublicKey,
}

impl KeyPair {
    /// A new random key.
    ///
    /// # Errors
    /// [`KeyError::Random`] when the system has no randomness.
    pub fn generate() -> Result<KeyPair, KeyError> {
        let mut seed = [0; 32];
        rand::fill(&mut seed).map_err(|_| KeyError::Random)?;
        KeyPair::from_seed(seed)
    }

    /// The key of a 32 byte seed (RFC 8032, section 5.1.5).
    ///
    /// # Errors
    /// [`KeyError::Mismatch`] when no key can be made of it.
    pub fn from_seed(seed: [u8; 32]) -> Result<KeyPair, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Mismatch)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Mismatch)?;
        Ok(KeyPair { seed, public: PublicKey(public) })
    }

    /// The key of the Z85 text of a seed.
    pub(crate) fn from_secret_text(text: &str) -> Result<KeyPair, KeyError> {
        KeyPair::from_seed(z85::decode_key(text).ok_or(KeyError::Text)?)
    }

    /// The Z85 text of the seed.
    pub(crate) fn secret_text(&self) -> String {
        z85::encode_key(&self.seed)
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// The secret half in PKCS#8 DER, for the TLS library.
    pub(crate) fn to_pkcs8_der(&self) -> Vec<u8> {
        [&PKCS8_PREFIX[..], &self.seed].concat()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, test 1.
    const SEED: [u8; 32] = [
        0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c,
        0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae,
        0x7f, 0x60,
    ];
    const PUBLIC: [u8; 32] = [
        0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07,
        0x3a, 0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07,
        0x51, 0x1a,
    ];

    #[test]
    fn the_public_key_is_that_of_rfc_8032() {
        let pair = KeyPair::from_seed(SEED).unwrap();
        assert_eq!(pair.public().as_bytes(), &PUBLIC);
        assert_eq!(KeyPair::from_secret_text(&pair.secret_text()).unwrap().public(), pair.public());
    }

    #[test]
    fn der_and_text_bring_the_key_back() {
        let key = PublicKey::from_bytes(PUBLIC);
        assert_eq!(PublicKey::from_spki_der(&key.to_spki_der()), Ok(key));
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(key.to_string().len(), 40);
        assert_eq!(PublicKey::from_spki_der(&PUBLIC), Err(KeyError::Der));
        let mut long = key.to_spki_der();
        long.push(0);
        assert_eq!(PublicKey::from_spki_der(&long), Err(KeyError::Der));
    }

    #[test]
    fn digest_names_its_algorithm() {
        let text = PublicKey::from_bytes(PUBLIC).digest().to_string();
        assert!(text.starts_with("sha256:") && text.len() == 7 + 64, "{text}");
    }

    #[test]
    fn debug_keeps_the_secret() {
        let pair = KeyPair::from_seed(SEED).unwrap();
        let shown = format!("{pair:?}");
        assert!(!shown.contains(&pair.secret_text()) && !shown.contains("157"), "{shown}");
    }
}
