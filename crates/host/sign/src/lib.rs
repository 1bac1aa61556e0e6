//! Signatures that somebody must be trusted for (RFC 39): made by who submits, verified by who
//! starts processes.
//!
//! [`Signer`] is the configuration `[sign]` of `/etc/flux/security/conf.d` together with MUNGE,
//! whose library is loaded at the first use: a program runs where MUNGE is absent, and says what to
//! do when it is needed. [`trust`] tells whether a file can only be changed by who may.
//!
//! This crate is part of the privileged launcher, so it is small and has few dependencies.

pub mod config;
pub mod munge;
pub mod trust;

mod library;

use flux_model::sign::{self, Mechanism, SignError, Unwrapped};

pub use crate::config::{DEFAULT_PATTERN, PATTERN_VARIABLE, SignConfig};
use crate::munge::{Munge, MungeError};

/// Why nothing was signed, or a signature does not count.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The text is malformed, or mechanism `none` does not hold.
    #[error("{0}")]
    Text(#[from] SignError),
    /// The configuration does not allow the mechanism.
    #[error("signature mechanism '{0}' is not in sign.allowed-types")]
    NotAllowed(&'static str),
    /// The mechanism is one that RFC 39 has dropped.
    #[error("signature mechanism '{0}' is not supported")]
    Unsupported(&'static str),
    /// MUNGE refused, or could not be asked.
    #[error("{0}")]
    Munge(#[from] MungeError),
    /// The credential holds another digest: header or payload were changed.
    #[error("signature does not match its content: header or payload were changed after signing")]
    Digest,
    /// The credential is another user's.
    #[error("signature was made by userid {signer}, the header claims {claimed}")]
    Signer {
        /// Who MUNGE says has signed.
        signer: u32,
        /// Who the header says has signed.
        claimed: u32,
    },
    /// It was signed too long ago.
    #[error(
        "signature is {age}s old, sign.max-ttl allows {max}s: submit the job again, or raise max-ttl"
    )]
    Expired {
        /// Seconds since it was made.
        age: i64,
        /// Most seconds.
        max: i64,
    },
}

/// Signs and verifies as the site has configured it.
#[derive(Debug)]
pub struct Signer {
    config: SignConfig,
    munge: Option<Munge>,
}

impl Signer {
    /// A signer for a configuration.
    #[must_use]
    pub fn new(config: SignConfig) -> Self {
        Self { config, munge: None }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &SignConfig {
        &self.config
    }

    fn munge(&mut self) -> Result<&Munge, MungeError> {
        if self.munge.is_none() {
            self.munge = Some(Munge::open(self.config.munge_socket.as_deref())?);
        }
        Ok(self.munge.as_ref().expect("it was put there"))
    }

    /// Signs as the calling user `userid`, with the configured mechanism unless another is wanted.
    ///
    /// # Errors
    /// The mechanism is not allowed, or MUNGE does not answer.
    pub fn sign(
        &mut self,
        payload: &[u8],
        userid: u32,
        mechanism: Option<Mechanism>,
    ) -> Result<String, VerifyError> {
        let mechanism = mechanism.unwrap_or(self.config.default_type);
        if !self.config.allowed_types.contains(&mechanism) {
            return Err(VerifyError::NotAllowed(mechanism.name()));
        }
        match mechanism {
            Mechanism::None => Ok(sign::wrap_none(payload, userid)),
            Mechanism::Munge => {
                let mut text = sign::unsigned(payload, userid, mechanism);
                let credential = self.munge()?.encode(&sign::munge_payload(&text))?;
                text.push('.');
                text.push_str(&credential);
                Ok(text)
            }
            Mechanism::Curve => Err(VerifyError::Unsupported(mechanism.name())),
        }
    }

    /// Takes a signed text apart and verifies it. `now` is the wall clock in seconds since the
    /// epoch, `real_userid` the one user for whom mechanism `none` counts.
    ///
    /// # Errors
    /// Why the signature does not count.
    pub fn verify<'a>(
        &mut self,
        text: &'a str,
        now: i64,
        real_userid: u32,
    ) -> Result<Unwrapped<'a>, VerifyError> {
        let unwrapped = sign::unwrap(text)?;
        let mechanism = unwrapped.mechanism;
        if !self.config.allowed_types.contains(&mechanism) {
            return Err(VerifyError::NotAllowed(mechanism.name()));
        }
        match mechanism {
            Mechanism::None => unwrapped.verify_none(real_userid)?,
            Mechanism::Munge => {
                let max = self.config.max_ttl;
                let credential = self.munge()?.decode(unwrapped.signature)?;
                if credential.payload != sign::munge_payload(unwrapped.signed) {
                    return Err(VerifyError::Digest);
                }
                if credential.uid != unwrapped.userid {
                    let (signer, claimed) = (credential.uid, unwrapped.userid);
                    return Err(VerifyError::Signer { signer, claimed });
                }
                let age = now.saturating_sub(credential.encoded);
                if age > max {
                    return Err(VerifyError::Expired { age, max });
                }
            }
            Mechanism::Curve => return Err(VerifyError::Unsupported(mechanism.name())),
        }
        Ok(unwrapped)
    }
}

/// The wall clock in seconds since the epoch.
#[must_use]
pub fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(types: &[Mechanism]) -> Signer {
        Signer::new(SignConfig {
            max_ttl: 60,
            default_type: types[0],
            allowed_types: types.to_vec(),
            munge_socket: Some("/nonexistent/munge.socket".into()),
        })
    }

    #[test]
    fn mechanism_none_counts_for_the_real_user_only() {
        let mut signer = signer(&[Mechanism::None]);
        let text = signer.sign(b"{}", 1000, None).unwrap();
        assert_eq!(signer.verify(&text, 0, 1000).unwrap().payload, b"{}");
        let error = signer.verify(&text, 0, 0).unwrap_err();
        assert!(matches!(error, VerifyError::Text(SignError::WrongUser { .. })), "{error}");
    }

    #[test]
    fn what_is_not_allowed_is_neither_signed_nor_verified() {
        let none = sign::wrap_none(b"{}", 7);
        let mut signer = signer(&[Mechanism::Munge]);
        assert!(matches!(signer.verify(&none, 0, 7), Err(VerifyError::NotAllowed("none"))));
        let asked = signer.sign(b"{}", 7, Some(Mechanism::None));
        assert!(matches!(asked, Err(VerifyError::NotAllowed("none"))));
    }

    #[test]
    fn curve_is_refused_by_name() {
        let mut signer = signer(&[Mechanism::Curve]);
        let text = format!("{}.xyz", sign::unsigned(b"{}", 7, Mechanism::Curve));
        assert!(matches!(signer.verify(&text, 0, 7), Err(VerifyError::Unsupported("curve"))));
    }

    #[test]
    fn without_munged_the_error_says_what_to_do() {
        let mut signer = signer(&[Mechanism::Munge]);
        let text = signer.sign(b"{}", 7, None).unwrap_err().to_string();
        assert!(text.contains("munged") || text.contains("libmunge"), "{text}");
    }
}
