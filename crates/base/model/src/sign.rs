//! Signatures (RFC 39): `HEADER.PAYLOAD.SIGNATURE`.
//!
//! Header and payload are base64 and readable whatever the mechanism. Unwrapping does not verify;
//! whoever switches to the signer's user id must also verify. Only `none` can be verified here;
//! `munge` and `curve` need a service or keys and are verified where those are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};

use crate::kv::{Kv, KvError, KvValue};

/// Why a signed string is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SignError {
    /// There are not three parts.
    #[error("signature must be HEADER.PAYLOAD.SIGNATURE")]
    Parts,
    /// Header or payload is not base64.
    #[error("signature {0} is not valid base64")]
    Base64(&'static str),
    /// The header is not a valid key-value object.
    #[error("signature header: {0}")]
    Header(#[from] KvError),
    /// The header's version is not 1.
    #[error("signature header: version {0} is not supported")]
    Version(i64),
    /// The header's userid is no user id.
    #[error("signature header: userid {0} is out of range")]
    Userid(i64),
    /// The mechanism is not one the RFC names.
    #[error("signature header: unknown mechanism '{0}'")]
    Mechanism(String),
    /// The header of mechanism `none` has a key that it must not have.
    #[error("signature header: unknown key '{0}'")]
    UnknownKey(String),
    /// Asked to verify with the wrong mechanism.
    #[error("signature mechanism is {0}, not none")]
    NotNone(&'static str),
    /// The signature of mechanism `none` is not the word `none`.
    #[error("signature of mechanism none must be 'none'")]
    BadNone,
    /// Mechanism `none` was used for another user.
    #[error("signature header userid {claimed} is not the real userid {real}")]
    WrongUser {
        /// User id in the header.
        claimed: u32,
        /// User id of who verifies or sends.
        real: u32,
    },
}

/// How a signature was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// No signature; the signer is believed where the userid is known by other means.
    None,
    /// A MUNGE credential over the digest of header and payload.
    Munge,
    /// A CURVE signature.
    Curve,
}

impl Mechanism {
    /// Name as in the header.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::None => "none",
            Mechanism::Munge => "munge",
            Mechanism::Curve => "curve",
        }
    }

    fn from_name(name: &str) -> Result<Self, SignError> {
        match name {
            "none" => Ok(Mechanism::None),
            "munge" => Ok(Mechanism::Munge),
            "curve" => Ok(Mechanism::Curve),
            _ => Err(SignError::Mechanism(name.chars().take(80).collect())),
        }
    }
}

/// What a signed string says. It says so truly only after verification.
#[derive(Debug, Clone, PartialEq)]
pub struct Unwrapped<'a> {
    /// The claimed user id of the signer.
    pub userid: u32,
    /// How it was signed.
    pub mechanism: Mechanism,
    /// The whole header, with keys of the mechanism.
    pub header: Kv,
    /// What was signed.
    pub payload: Vec<u8>,
    /// `HEADER.PAYLOAD`: the text that the signature is over.
    pub signed: &'a str,
    /// The signature part.
    pub signature: &'a str,
}

/// `HEADER.PAYLOAD`, to which a mechanism's signature is appended after another `.`.
pub fn unsigned(payload: &[u8], userid: u32, mechanism: Mechanism) -> String {
    let mut header = Kv::new();
    header.put("version", KvValue::Int(1));
    header.put("userid", KvValue::Int(i64::from(userid)));
    header.put("mechanism", KvValue::Str(mechanism.name().to_owned()));
    let header = header.encode().expect("three short keys without nul can be encoded");
    let mut text = BASE64.encode(header);
    text.push('.');
    BASE64.encode_string(payload, &mut text);
    text
}

/// Wraps a payload with mechanism `none`.
pub fn wrap_none(payload: &[u8], userid: u32) -> String {
    let mut text = unsigned(payload, userid, Mechanism::None);
    text.push_str(".none");
    text
}

/// Takes a signed string apart without verifying it.
///
/// # Errors
/// When it is malformed, of another version, or names an unknown mechanism.
pub fn unwrap(text: &str) -> Result<Unwrapped<'_>, SignError> {
    let (signed, signature) = text.rsplit_once('.').ok_or(SignError::Parts)?;
    let (header, payload) = signed.split_once('.').ok_or(SignError::Parts)?;
    if payload.contains('.') || signature.is_empty() || signature.contains('\0') {
        return Err(SignError::Parts);
    }
    let header = BASE64.decode(header).map_err(|_| SignError::Base64("header"))?;
    let header = Kv::decode(&header)?;
    let version = header.get_int("version")?;
    if version != 1 {
        return Err(SignError::Version(version));
    }
    let mechanism = Mechanism::from_name(header.get_str("mechanism")?)?;
    let userid = header.get_int("userid")?;
    let userid = u32::try_from(userid).map_err(|_| SignError::Userid(userid))?;
    if mechanism == Mechanism::None {
        for (key, _) in header.pairs() {
            if !matches!(key, "version" | "mechanism" | "userid") {
                return Err(SignError::UnknownKey(key.chars().take(80).collect()));
            }
        }
    }
    let payload = BASE64.decode(payload).map_err(|_| SignError::Base64("payload"))?;
    Ok(Unwrapped { userid, mechanism, header, payload, signed, signature })
}

impl Unwrapped<'_> {
    /// Verifies mechanism `none`: the signature is the word `none`, and the signer is `real_userid`.
    ///
    /// # Errors
    /// What does not hold, or [`SignError::NotNone`] for another mechanism.
    pub fn verify_none(&self, real_userid: u32) -> Result<(), SignError> {
        if self.mechanism != Mechanism::None {
            return Err(SignError::NotNone(self.mechanism.name()));
        }
        if self.signature != "none" {
            return Err(SignError::BadNone);
        }
        if self.userid != real_userid {
            return Err(SignError::WrongUser { claimed: self.userid, real: real_userid });
        }
        Ok(())
    }
}

/// The 33 bytes that a MUNGE credential carries for `HEADER.PAYLOAD`: hash type 1, then its SHA-256.
pub fn munge_payload(signed: &str) -> [u8; 33] {
    let mut bytes = [1; 33];
    bytes[1..].copy_from_slice(&Sha256::digest(signed.as_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_header(header: &[u8]) -> String {
        format!("{}.{}.none", BASE64.encode(header), BASE64.encode("x"))
    }

    #[test]
    fn wrapping_has_the_documented_header() {
        let text = wrap_none(b"hello", 1000);
        let header = text.split('.').next().unwrap();
        assert_eq!(
            BASE64.decode(header).unwrap(),
            b"version\0i1\0userid\0i1000\0mechanism\0snone\0"
        );
        assert!(text.ends_with(".aGVsbG8=.none"));
    }

    #[test]
    fn none_is_verified_against_the_real_user() {
        let text = wrap_none(b"hello", 1000);
        let unwrapped = unwrap(&text).unwrap();
        assert_eq!(unwrapped.payload, b"hello");
        assert_eq!(unwrapped.verify_none(1000), Ok(()));
        assert_eq!(unwrapped.verify_none(0), Err(SignError::WrongUser { claimed: 1000, real: 0 }));
        let forged = text.replace(".none", ".some");
        assert_eq!(unwrap(&forged).unwrap().verify_none(1000), Err(SignError::BadNone));
    }

    #[test]
    fn other_mechanisms_unwrap_but_do_not_verify_here() {
        for mechanism in [Mechanism::Munge, Mechanism::Curve] {
            let text = format!("{}.MUNGE:abc:", unsigned(b"p", 7, mechanism));
            let unwrapped = unwrap(&text).unwrap();
            assert_eq!((unwrapped.userid, unwrapped.mechanism), (7, mechanism));
            assert_eq!(unwrapped.signature, "MUNGE:abc:");
            assert_eq!(unwrapped.verify_none(7), Err(SignError::NotNone(mechanism.name())));
            assert_eq!(munge_payload(unwrapped.signed)[0], 1);
        }
    }

    #[test]
    fn malformed_strings_are_refused_with_their_reason() {
        assert_eq!(unwrap(""), Err(SignError::Parts));
        assert_eq!(unwrap("a.b"), Err(SignError::Parts));
        assert_eq!(unwrap("a.b.c.d"), Err(SignError::Parts));
        assert_eq!(unwrap("YQ==.YQ==."), Err(SignError::Parts));
        assert_eq!(unwrap("*.YQ==.none"), Err(SignError::Base64("header")));
        let refused = |header: &[u8]| unwrap(&with_header(header)).unwrap_err();
        assert_eq!(refused(b"version"), SignError::Header(KvError::Truncated));
        assert_eq!(
            refused(b"userid\0i1\0mechanism\0snone\0"),
            SignError::Header(KvError::Missing("version"))
        );
        assert_eq!(refused(b"version\0i2\0userid\0i1\0mechanism\0snone\0"), SignError::Version(2));
        assert_eq!(refused(b"version\0i1\0userid\0i-1\0mechanism\0snone\0"), SignError::Userid(-1));
        assert_eq!(
            refused(b"version\0i1\0userid\0i1\0mechanism\0sfoo\0"),
            SignError::Mechanism("foo".to_owned())
        );
        assert_eq!(
            refused(b"version\0i1\0userid\0i1\0mechanism\0snone\0x\0i1\0"),
            SignError::UnknownKey("x".to_owned())
        );
    }

    #[test]
    fn header_keys_may_come_in_any_order() {
        let text = with_header(b"mechanism\0snone\0version\0i1\0userid\0i5\0");
        assert_eq!(unwrap(&text).unwrap().userid, 5);
    }

    proptest! {
        #[test]
        fn payloads_round_trip(payload: Vec<u8>, userid: u32) {
            let text = wrap_none(&payload, userid);
            let unwrapped = unwrap(&text).unwrap();
            prop_assert_eq!(&unwrapped.payload, &payload);
            prop_assert_eq!(unwrapped.verify_none(userid), Ok(()));
        }

        #[test]
        fn unwrapping_never_panics(text: String, header: Vec<u8>) {
            drop(unwrap(&text));
            drop(unwrap(&with_header(&header)));
        }
    }
}
